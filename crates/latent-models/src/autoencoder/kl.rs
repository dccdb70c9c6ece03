//! Stable Diffusion's autoencoder: `AutoencoderKL`.

use std::io;
use std::path::Path;

use burn::module::Module;
use burn::tensor::Tensor;
use latent_formats::Dtype;
use latent_nn::layers::Conv2d;
use latent_nn::{Bands, Compute, Init, ops};

use super::config::AutoencoderKlConfig;
use super::trunk::{Decoder, Encoder};
use crate::config::{self, ModelConfig};
use crate::error::Result;
use crate::files::FileSource;
use crate::weights::{self, Layout};

/// Pictures to normally distributed latents, and back.
///
/// Source: Rombach et al. 2022 (arXiv:2112.10752), appendix G; fields are named as in diffusers' checkpoints.
#[derive(Module, Debug)]
pub struct AutoencoderKl {
    encoder: Encoder,
    decoder: Decoder,
    quant_conv: Option<Conv2d>,
    post_quant_conv: Option<Conv2d>,
    #[module(skip)]
    config: AutoencoderKlConfig,
}

/// The normal distribution of a picture's latents, `[n, c, h, w]`.
#[derive(Clone, Debug)]
pub struct Moments {
    /// Its mean.
    pub mean: Tensor<4>,
    /// Logarithm of its variance, between -30 and 20.
    pub logvar: Tensor<4>,
}

impl Moments {
    /// From the encoder's two halves `[n, h, w, 2c]`.
    pub(super) fn from_halves(halves: Tensor<4>) -> Self {
        let halves = ops::to_nchw(halves);
        let channels = halves.dims()[1] / 2;
        let [mean, logvar] = [0, channels].map(|first| halves.clone().narrow(1, first, channels));
        Self {
            mean,
            // Beyond these, `exp` of half of it leaves f32's range of use.
            logvar: logvar.clamp(-30.0, 20.0),
        }
    }

    /// Standard deviation `[n, c, h, w]`.
    pub fn std(&self) -> Tensor<4> {
        self.logvar.clone().mul_scalar(0.5).exp()
    }

    /// Latents drawn with `noise [n, c, h, w]` of N(0, 1).
    ///
    /// # Panics
    /// If `noise` has another shape.
    ///
    /// Source: Kingma & Welling 2014 (arXiv:1312.6114), section 2.4.
    pub fn sample(&self, noise: Tensor<4>) -> Tensor<4> {
        self.mean.clone() + self.std() * noise
    }
}

impl AutoencoderKl {
    /// An autoencoder with new weights.
    ///
    /// # Errors
    /// [`crate::ModelError::Config`] if the sizes do not fit together.
    pub fn new(config: &AutoencoderKlConfig, init: &mut Init) -> Result<Self> {
        config.checked()?;
        let latents = config.latent_channels;
        Ok(Self {
            encoder: Encoder::new([config.in_channels, 2 * latents], config.trunk(), init),
            decoder: Decoder::new([latents, config.out_channels], config.trunk(), init),
            quant_conv: config
                .use_quant_conv
                .then(|| Conv2d::new([2 * latents; 2], 1, init)),
            post_quant_conv: config
                .use_post_quant_conv
                .then(|| Conv2d::new([latents; 2], 1, init)),
            config: config.clone(),
        })
    }

    /// The autoencoder in a `vae/` folder.
    ///
    /// # Errors
    /// [`crate::ModelError`]: a file or tensor is missing or does not fit, the config asks for what is not built here.
    pub fn load(folder: &Path, compute: &Compute) -> Result<Self> {
        Self::open(&FileSource::folder(folder), compute)
    }

    /// [`AutoencoderKl::load`] from files anywhere.
    ///
    /// # Errors
    /// As [`AutoencoderKl::load`].
    pub fn open(files: &FileSource, compute: &Compute) -> Result<Self> {
        let config: AutoencoderKlConfig = config::read(files)?;
        let model = Self::new(&config, &mut Init::empty(compute))?;
        weights::load(model, files, weights::DIFFUSERS)
    }

    /// Writes `config.json` and the weights in f32, as diffusers reads them.
    ///
    /// # Errors
    /// [`crate::ModelError::Format`] if the folder cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        self.save_as(folder, Dtype::F32)
    }

    /// [`AutoencoderKl::save`] with weights rounded to `dtype`: f32, bf16 or f16.
    ///
    /// # Errors
    /// As [`AutoencoderKl::save`].
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
    pub fn config(&self) -> &AutoencoderKlConfig {
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
        self.config.trunk().downsampling()
    }

    /// Pictures `[n, 3, h, w]` in `[-1, 1]` to their latents' distribution, `[n, c, h/f, w/f]`, unscaled.
    ///
    /// # Panics
    /// If the pictures have other channels, or are smaller than one latent.
    pub fn encode(&self, pictures: Tensor<4>) -> Moments {
        self.moments(self.encoder.forward(ops::to_nhwc(pictures)))
    }

    /// [`AutoencoderKl::encode`] of one picture, to the same bits, with a band of lines at a time in memory.
    pub(super) fn encode_bands(&self, picture: Tensor<4>, bands: Bands) -> io::Result<Moments> {
        let x = self.encoder.forward_bands(ops::to_nhwc(picture), bands)?;
        Ok(self.moments(x))
    }

    fn moments(&self, x: Tensor<4>) -> Moments {
        Moments::from_halves(match &self.quant_conv {
            Some(conv) => conv.forward(x),
            None => x,
        })
    }

    /// Unscaled latents `[n, c, h, w]` to pictures `[n, 3, h*f, w*f]`, mostly in `[-1, 1]`.
    ///
    /// # Panics
    /// If the latents have other channels.
    pub fn decode(&self, latents: Tensor<4>) -> Tensor<4> {
        ops::to_nchw(self.decoder.forward(self.post_quant(latents)))
    }

    /// [`AutoencoderKl::decode`] of one picture, to the same bits, with a band of lines at a time in memory.
    pub(super) fn decode_bands(&self, latents: Tensor<4>, bands: Bands) -> io::Result<Tensor<4>> {
        let picture = self
            .decoder
            .forward_bands(self.post_quant(latents), bands)?;
        Ok(ops::to_nchw(picture))
    }

    fn post_quant(&self, latents: Tensor<4>) -> Tensor<4> {
        let z = ops::to_nhwc(latents);
        match &self.post_quant_conv {
            Some(conv) => conv.forward(z),
            None => z,
        }
    }
}
