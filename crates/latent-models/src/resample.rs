//! Halving and doubling of pictures between levels.

use std::io;

use burn::module::Module;
use burn::tensor::Tensor;
use latent_nn::layers::Conv2d;
use latent_nn::{Canvas, Init, Scale, ops};

use crate::adapters::layers::layers;

/// A convolution that halves the picture.
#[derive(Module, Debug)]
pub(crate) struct Downsample {
    conv: Conv2d,
}

layers!(Downsample { conv });

impl Downsample {
    /// U-Nets pad on every side.
    pub(crate) fn new(channels: usize, init: &mut Init) -> Self {
        Self {
            conv: Conv2d::new([channels, channels], 3, init).with_stride(2),
        }
    }

    /// Autoencoders pad at the bottom and the right only; on every side, pictures would move by half a pixel.
    pub(crate) fn asymmetric(channels: usize, init: &mut Init) -> Self {
        let conv = Conv2d::new([channels, channels], 3, init);
        Self {
            conv: conv.with_stride(2).with_padding([0, 0, 1, 1]),
        }
    }

    /// `x [n, h, w, c]` to half its height and width.
    pub(crate) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.conv.forward(x)
    }

    /// [`Downsample::forward`] of an autoencoder, a band of lines at a time.
    pub(crate) fn forward_bands(&self, x: &Canvas) -> io::Result<Canvas> {
        x.through(Scale::Halved, |lines, _| Ok(self.forward(lines)))
    }
}

/// Nearest-neighbour doubling and a convolution.
#[derive(Module, Debug)]
pub(crate) struct Upsample {
    conv: Conv2d,
}

layers!(Upsample { conv });

impl Upsample {
    pub(crate) fn new(channels: usize, init: &mut Init) -> Self {
        Self {
            conv: Conv2d::new([channels, channels], 3, init),
        }
    }

    /// `x [n, h, w, c]` to `[n, 2h, 2w, c]`.
    pub(crate) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        // The clone shares the weight; the doubled picture is never written.
        self.conv.clone().with_upsample().forward(x)
    }

    /// [`Upsample::forward`], a band of lines at a time.
    pub(crate) fn forward_bands(&self, x: &Canvas) -> io::Result<Canvas> {
        x.through(Scale::Doubled, |lines, _| Ok(self.forward(lines)))
    }

    /// `x [n, h, w, c]` to `[n, size[0], size[1], c]`: on the way up, to the size that was halved, which may be odd.
    pub(crate) fn forward_to(&self, x: Tensor<4>, size: [usize; 2]) -> Tensor<4> {
        let [_, h, w, _] = x.dims();
        if size == [2 * h, 2 * w] {
            return self.forward(x);
        }
        self.conv.forward(ops::upsample_nearest(x, size))
    }
}
