//! The smallest autoencoder that works: strided convolutions down, transposed ones up.

use std::path::Path;

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use latent_formats::Dtype;
use latent_nn::layers::Conv2d;
use latent_nn::ops::{ConvArguments, ConvOptions};
use latent_nn::{Compute, Init, Precision, ops};

use super::config::SimpleAutoencoderConfig;
use super::kl::Moments;
use crate::config::{self, ModelConfig};
use crate::error::Result;
use crate::files::FileSource;
use crate::weights::{self, Layout};

/// Pictures to normally distributed latents and back, in as few lines as it takes.
///
/// Each level halves the picture with a 4x4 convolution and SiLU; a 3x3 head gives mean and log-variance; the decoder
/// is the mirror image and ends in `tanh`, so that its pictures lie in `[-1, 1]`.
#[derive(Module, Debug)]
pub struct SimpleAutoencoder {
    down: Vec<Conv2d>,
    /// Mean and log-variance.
    head: Conv2d,
    conv_in: Conv2d,
    up: Vec<TransposedConv>,
    #[module(skip)]
    config: SimpleAutoencoderConfig,
}

impl SimpleAutoencoder {
    /// An autoencoder with new weights.
    ///
    /// # Errors
    /// [`crate::ModelError::Config`] if the sizes do not fit together.
    pub fn new(config: &SimpleAutoencoderConfig, init: &mut Init) -> Result<Self> {
        config.checked()?;
        let mut widths = vec![config.in_channels];
        widths.extend(&config.channels);
        let (last, latents) = (widths[widths.len() - 1], config.latent_channels);
        let halving = |pair: &[usize]| {
            Conv2d::new([pair[0], pair[1]], 4, init)
                .with_stride(2)
                .with_padding([1; 4])
        };
        Ok(Self {
            down: widths.windows(2).map(halving).collect(),
            head: Conv2d::new([last, 2 * latents], 3, init),
            conv_in: Conv2d::new([latents, last], 3, init),
            up: widths
                .windows(2)
                .rev()
                .map(|pair| TransposedConv::new([pair[1], pair[0]], init))
                .collect(),
            config: config.clone(),
        })
    }

    /// The autoencoder in a `vae/` folder.
    ///
    /// # Errors
    /// [`crate::ModelError`]: a file or tensor is missing or does not fit.
    pub fn load(folder: &Path, compute: &Compute) -> Result<Self> {
        Self::open(&FileSource::folder(folder), compute)
    }

    /// [`SimpleAutoencoder::load`] from files anywhere.
    ///
    /// # Errors
    /// As [`SimpleAutoencoder::load`].
    pub fn open(files: &FileSource, compute: &Compute) -> Result<Self> {
        let config: SimpleAutoencoderConfig = config::read(files)?;
        let model = Self::new(&config, &mut Init::empty(compute))?;
        weights::load(model, files, weights::DIFFUSERS)
    }

    /// Writes `config.json` and the weights in f32.
    ///
    /// # Errors
    /// [`crate::ModelError::Format`] if the folder cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        self.save_as(folder, Dtype::F32)
    }

    /// [`SimpleAutoencoder::save`] with weights rounded to `dtype`: f32, bf16 or f16.
    ///
    /// # Errors
    /// As [`SimpleAutoencoder::save`].
    pub fn save_as(&self, folder: &Path, dtype: Dtype) -> Result<()> {
        weights::save(
            self,
            &self.config,
            folder,
            (weights::DIFFUSERS, Layout::default()),
            dtype,
        )
    }

    /// Its sizes.
    pub fn config(&self) -> &SimpleAutoencoderConfig {
        &self.config
    }

    /// The same autoencoder with a measured `scaling_factor` in its config.
    #[must_use]
    pub fn with_scaling_factor(&self, factor: f64) -> Self {
        let mut model = self.clone();
        model.config.scaling_factor = Some(factor);
        model
    }

    /// Pixels per latent, in each direction.
    pub fn downsampling(&self) -> usize {
        self.config.downsampling()
    }

    /// Pictures `[n, 3, h, w]` in `[-1, 1]` to their latents' distribution, `[n, c, h/f, w/f]`.
    ///
    /// # Panics
    /// If the pictures have other channels, or are smaller than one latent.
    pub fn encode(&self, pictures: Tensor<4>) -> Moments {
        let mut x = ops::to_nhwc(pictures);
        for conv in &self.down {
            x = ops::silu(conv.forward(x));
        }
        Moments::from_halves(self.head.forward(x))
    }

    /// Latents `[n, c, h, w]` to pictures `[n, 3, h*f, w*f]` in `[-1, 1]`.
    ///
    /// # Panics
    /// If the latents have other channels.
    pub fn decode(&self, latents: Tensor<4>) -> Tensor<4> {
        let mut x = self.conv_in.forward(ops::to_nhwc(latents));
        for conv in &self.up {
            x = conv.forward(ops::silu(x));
        }
        ops::to_nchw(x.tanh())
    }
}

/// A transposed convolution that doubles the picture: kernel 4, stride 2, padding 1.
#[derive(Module, Debug)]
pub(super) struct TransposedConv {
    /// `[ci, co, 4, 4]`, as torch stores it.
    weight: Param<Tensor<4>>,
    bias: Param<Tensor<1>>,
    #[module(skip)]
    precision: Precision,
}

impl TransposedConv {
    pub(super) fn new([ci, co]: [usize; 2], init: &mut Init) -> Self {
        // torch takes the fan from the second axis.
        let bound = ((co * 16) as f32).sqrt().recip();
        Self {
            weight: init.uniform([ci, co, 4, 4], bound),
            bias: init.uniform([co], bound),
            precision: init.precision(),
        }
    }

    /// `x [n, h, w, ci]` to `[n, 2h, 2w, co]`.
    ///
    /// Output row `2i - 1 + k` gets input row `i` times kernel row `k`, so an even row sees kernel rows 3 and 1, an
    /// odd one 2 and 0: four 2x2 convolutions, one for each parity of row and column, whose results interleave.
    pub(super) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let rows = [0, 1].map(|row| {
            let columns = [0, 1].map(|column| self.parity(x.clone(), [row, column]));
            interleave(columns, 2)
        });
        interleave(rows, 1)
    }

    /// The output's rows and columns of one parity each, `[n, h, w, co]`.
    fn parity(&self, x: Tensor<4>, [row, column]: [usize; 2]) -> Tensor<4> {
        let taps = |parity: usize| if parity == 0 { [3, 1] } else { [2, 0] };
        let device = self.weight.val().device();
        let pick =
            |parity| burn::tensor::Tensor::<1, burn::tensor::Int>::from_ints(taps(parity), &device);
        let weight = self
            .weight
            .val()
            .select(2, pick(row))
            .select(3, pick(column))
            .swap_dims(0, 1);
        let added = ConvArguments {
            bias: Some(self.bias.val()),
            ..ConvArguments::default()
        };
        let options = ConvOptions {
            padding: [1 - row, 1 - column, row, column],
            ..ConvOptions::new(self.precision)
        };
        ops::conv2d(x, weight, added, options)
    }
}

/// Puts the slices of `pair` in turns along `axis`.
fn interleave(pair: [Tensor<4>; 2], axis: usize) -> Tensor<4> {
    let mut shape = pair[0].dims();
    shape[axis] *= 2;
    Tensor::stack::<5>(pair.to_vec(), axis + 1).reshape(shape)
}
