//! A network that tells patches of pictures from patches of reconstructions.

use burn::module::Module;
use burn::tensor::{Tensor, activation::relu};
use latent_nn::layers::{Conv2d, GroupNorm};
use latent_nn::{Init, ops};

/// Groups of every norm; batch norm, which the paper has, would let pictures of a batch see each other.
const GROUPS: usize = 8;

/// Three halvings and a score for every patch of 70 pixels.
///
/// SiLU stands for the paper's leaky ReLU, since our kernels fuse it with the norm.
/// Source: Isola et al. 2017 (arXiv:1611.07004), section 3.2.2; Esser et al. 2021 (arXiv:2012.09841).
#[derive(Module, Debug)]
pub(crate) struct PatchDiscriminator {
    first: Conv2d,
    halvings: Vec<Conv2d>,
    norms: Vec<GroupNorm>,
    score: Conv2d,
}

impl PatchDiscriminator {
    pub(crate) fn new(channels: usize, init: &mut Init) -> Self {
        let strided = |from, to, stride, init: &mut Init| {
            Conv2d::new([from, to], 4, init)
                .with_stride(stride)
                .with_padding([1; 4])
        };
        let widths = [channels, 2 * channels, 4 * channels, 8 * channels];
        let strides = [2, 2, 1];
        Self {
            first: strided(3, channels, 2, init),
            halvings: (0..3)
                .map(|i| strided(widths[i], widths[i + 1], strides[i], init))
                .collect(),
            norms: widths[1..]
                .iter()
                .map(|&width| GroupNorm::new(GROUPS, width, 1e-5, init))
                .collect(),
            score: strided(8 * channels, 1, 1, init),
        }
    }

    /// Pictures `[n, 3, h, w]` to scores `[n, h/8 - 2, w/8 - 2, 1]`; higher is more like a picture.
    pub(crate) fn forward(&self, pictures: Tensor<4>) -> Tensor<4> {
        let mut x = ops::silu(self.first.forward(ops::to_nhwc(pictures)));
        for (halving, norm) in self.halvings.iter().zip(&self.norms) {
            x = norm.forward_silu(halving.forward(x));
        }
        self.score.forward(x)
    }

    /// What this network minimises: scores of pictures above 1, of reconstructions below -1 (hinge).
    pub(crate) fn loss(&self, pictures: Tensor<4>, reconstructions: Tensor<4>) -> Tensor<1> {
        let real = relu(-self.forward(pictures) + 1.0).mean();
        let made = relu(self.forward(reconstructions) + 1.0).mean();
        (real + made) * 0.5
    }
}
