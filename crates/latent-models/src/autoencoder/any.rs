//! The kinds of autoencoder as one.

use std::path::Path;
use std::{env, io};

use burn::tensor::Tensor;
use latent_formats::{FormatError, Weights, parse_json};
use latent_nn::ops::{Part, evaluation, forget_packed};
use latent_nn::{Bands, Compute, is_cpu};
use serde_json::Value;

use super::{
    AutoencoderKl, AutoencoderKlConfig, AutoencoderTiny, AutoencoderTinyConfig, Moments,
    SimpleAutoencoder, SimpleAutoencoderConfig, VqModel, VqModelConfig,
};
use crate::config::{self, ModelConfig};
use crate::error::{ModelError, Result};
use crate::files::FileSource;
use crate::weights;

/// What diffusers takes for `scaling_factor` where a config has none: that of Stable Diffusion 1 and 2.
const ASSUMED_SCALING_FACTOR: f64 = 0.18215;

/// An autoencoder of any kind.
#[derive(Clone, Debug)]
pub enum Autoencoder {
    /// `AutoencoderKL`.
    Kl(AutoencoderKl),
    /// `VQModel`.
    Vq(VqModel),
    /// Strided convolutions only.
    Simple(SimpleAutoencoder),
    /// `AutoencoderTiny`.
    Tiny(AutoencoderTiny),
}

/// The config of an autoencoder of any kind.
#[derive(Clone, Debug)]
pub(crate) enum AutoencoderConfig {
    Kl(AutoencoderKlConfig),
    Vq(VqModelConfig),
    Simple(SimpleAutoencoderConfig),
    Tiny(AutoencoderTinyConfig),
}

impl AutoencoderConfig {
    /// The config in a `vae/` folder; its `_class_name` says which kind.
    pub(crate) fn read(files: &FileSource) -> Result<Self> {
        let bytes = files.need("config.json", "config")?;
        let path = files.path().join("config.json");
        let config: Value = parse_json(&bytes, &path)?;
        let class = &config["_class_name"];
        match class.as_str() {
            Some(AutoencoderKlConfig::CLASS) => Ok(Self::Kl(config::parse(&bytes, &path)?)),
            Some(VqModelConfig::CLASS) => Ok(Self::Vq(config::parse(&bytes, &path)?)),
            Some(SimpleAutoencoderConfig::CLASS) => Ok(Self::Simple(config::parse(&bytes, &path)?)),
            Some(AutoencoderTinyConfig::CLASS) => Ok(Self::Tiny(config::parse(&bytes, &path)?)),
            _ => Err(ModelError::Config {
                place: format!("`{}`", path.display()),
                key: "_class_name".into(),
                reason: format!(
                    "is {class}; Latent knows the autoencoders `AutoencoderKL`, `AutoencoderTiny`, `VQModel` and `SimpleAutoencoder`"
                ),
            }),
        }
    }

    /// Pixels per latent, in each direction.
    pub(crate) fn downsampling(&self) -> usize {
        match self {
            Self::Kl(config) => config.trunk().downsampling(),
            Self::Vq(config) => config.trunk().downsampling(),
            Self::Simple(config) => config.downsampling(),
            Self::Tiny(config) => config.downsampling(),
        }
    }

    /// Channels of the latents.
    pub(crate) fn latent_channels(&self) -> usize {
        match self {
            Self::Kl(config) => config.latent_channels,
            Self::Vq(config) => config.embed_dim(),
            Self::Simple(config) => config.latent_channels,
            Self::Tiny(config) => config.latent_channels,
        }
    }
}

/// How an autoencoder's latents become those that diffusion works on: `(z - shift) * factor`, where `mean` and `std`
/// are given `(z - mean) * factor / std` channel by channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Scaling {
    /// One over the latents' standard deviation.
    pub factor: f64,
    /// Subtracted first.
    pub shift: f64,
    /// Mean and standard deviation of each channel.
    pub channels: Option<(Vec<f64>, Vec<f64>)>,
    /// The config has no `scaling_factor`: [`Scaling::factor`] is a guess, of which the user should be told.
    pub assumed: bool,
}

/// Runs `$body` on whichever model there is.
macro_rules! of_any {
    ($self:expr, $model:ident => $body:expr) => {
        match $self {
            Autoencoder::Kl($model) => $body,
            Autoencoder::Vq($model) => $body,
            Autoencoder::Simple($model) => $body,
            Autoencoder::Tiny($model) => $body,
        }
    };
}

impl Autoencoder {
    /// The autoencoder in a `vae/` folder; its config says which kind.
    ///
    /// # Errors
    /// [`ModelError`]: a file or tensor is missing or does not fit, the config asks for what is not built here.
    pub fn load(folder: &Path, compute: &Compute) -> Result<Self> {
        Self::open(&FileSource::folder(folder), compute)
    }

    /// [`Autoencoder::load`] from files anywhere.
    ///
    /// # Errors
    /// As [`Autoencoder::load`].
    pub fn open(files: &FileSource, compute: &Compute) -> Result<Self> {
        Ok(match AutoencoderConfig::read(files)? {
            AutoencoderConfig::Kl(_) => Self::Kl(AutoencoderKl::open(files, compute)?),
            AutoencoderConfig::Vq(_) => Self::Vq(VqModel::open(files, compute)?),
            AutoencoderConfig::Simple(_) => Self::Simple(SimpleAutoencoder::open(files, compute)?),
            AutoencoderConfig::Tiny(_) => Self::Tiny(AutoencoderTiny::open(files, compute)?),
        })
    }

    /// Writes it as a `vae/` folder, weights in f32.
    ///
    /// # Errors
    /// [`ModelError::Format`] if the folder cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        of_any!(self, model => model.save(folder))
    }

    /// Its class in `model_index.json`.
    pub fn class_name(&self) -> &'static str {
        match self {
            Self::Kl(_) => AutoencoderKlConfig::CLASS,
            Self::Vq(_) => VqModelConfig::CLASS,
            Self::Simple(_) => SimpleAutoencoderConfig::CLASS,
            Self::Tiny(_) => AutoencoderTinyConfig::CLASS,
        }
    }

    /// Pixels per latent, in each direction.
    pub fn downsampling(&self) -> usize {
        of_any!(self, model => model.downsampling())
    }

    /// Channels of the latents.
    pub fn latent_channels(&self) -> usize {
        match self {
            Self::Kl(model) => model.config().latent_channels,
            Self::Vq(model) => model.config().embed_dim(),
            Self::Simple(model) => model.config().latent_channels,
            Self::Tiny(model) => model.config().latent_channels,
        }
    }

    /// One over the latents' standard deviation, if the config has it.
    pub fn scaling_factor(&self) -> Option<f64> {
        of_any!(self, model => model.config().scaling_factor)
    }

    /// The same autoencoder with another `scaling_factor` in its config.
    #[must_use]
    pub fn with_scaling_factor(&self, factor: f64) -> Self {
        match self {
            Self::Kl(model) => Self::Kl(model.with_scaling_factor(factor)),
            Self::Vq(model) => Self::Vq(model.with_scaling_factor(factor)),
            Self::Simple(model) => Self::Simple(model.with_scaling_factor(factor)),
            Self::Tiny(model) => Self::Tiny(model.with_scaling_factor(factor)),
        }
    }

    /// How latents are scaled for diffusion.
    pub fn scaling(&self) -> Scaling {
        let config = match self {
            Self::Kl(model) => Some(model.config()),
            Self::Vq(_) | Self::Simple(_) | Self::Tiny(_) => None,
        };
        let means = config.and_then(|config| config.latents_mean.clone());
        let stds = config.and_then(|config| config.latents_std.clone());
        let factor = self.scaling_factor();
        Scaling {
            factor: factor.unwrap_or(ASSUMED_SCALING_FACTOR),
            shift: config.and_then(|config| config.shift_factor).unwrap_or(0.0),
            channels: means.zip(stds),
            assumed: factor.is_none(),
        }
    }

    /// Pictures `[n, 3, h, w]` in `[-1, 1]` to mean and, where there is one, standard deviation of their latents
    /// `[n, c, h/f, w/f]`, unscaled.
    ///
    /// # Panics
    /// If the pictures have other channels, or are smaller than one latent.
    pub fn latents(&self, pictures: Tensor<4>) -> (Tensor<4>, Option<Tensor<4>>) {
        evaluation(Part::Encoder, || match self {
            Self::Kl(model) => halves(model.encode(pictures)),
            Self::Simple(model) => halves(model.encode(pictures)),
            Self::Vq(model) => (model.encode(pictures), None),
            Self::Tiny(model) => (model.encode(pictures), None),
        })
    }

    /// [`Autoencoder::latents`] of one picture, to the same bits, in less memory: a band of lines at a time, the rest in
    /// a temporary file. Kinds of few and narrow layers, and other devices than the CPU, work on the whole picture.
    ///
    /// # Errors
    /// [`ModelError::Format`] if there is no room for temporary files.
    ///
    /// # Panics
    /// As [`Autoencoder::latents`].
    pub fn latents_by_bands(
        &self,
        picture: Tensor<4>,
        bands: Bands,
    ) -> Result<(Tensor<4>, Option<Tensor<4>>)> {
        if !is_one_on_the_cpu(&picture) {
            return Ok(self.latents(picture));
        }
        evaluation(Part::Encoder, || match self {
            Self::Kl(model) => model.encode_bands(picture, bands).map(halves).map_err(disk),
            Self::Vq(model) => Ok((model.encode_bands(picture, bands).map_err(disk)?, None)),
            Self::Simple(_) | Self::Tiny(_) => Ok(self.latents(picture)),
        })
    }

    /// Unscaled latents `[n, c, h, w]` to pictures `[n, 3, h*f, w*f]`, mostly in `[-1, 1]`.
    ///
    /// # Panics
    /// If the latents have other channels.
    pub fn decode(&self, latents: Tensor<4>) -> Tensor<4> {
        evaluation(
            Part::Decoder,
            || of_any!(self, model => model.decode(latents)),
        )
    }

    /// [`Autoencoder::decode`] of one picture, to the same bits, in less memory: a band of lines at a time, the rest in a
    /// temporary file. Kinds of few and narrow layers, and other devices than the CPU, work on the whole picture.
    ///
    /// # Errors
    /// [`ModelError::Format`] if there is no room for temporary files.
    ///
    /// # Panics
    /// As [`Autoencoder::decode`].
    pub fn decode_by_bands(&self, latents: Tensor<4>, bands: Bands) -> Result<Tensor<4>> {
        if !is_one_on_the_cpu(&latents) {
            return Ok(self.decode(latents));
        }
        evaluation(Part::Decoder, || match self {
            Self::Kl(model) => model.decode_bands(latents, bands).map_err(disk),
            Self::Vq(model) => model.decode_bands(latents, bands).map_err(disk),
            Self::Simple(_) | Self::Tiny(_) => Ok(self.decode(latents)),
        })
    }

    /// Drops the packed copies of its weights; the next use packs them again.
    pub fn forget_packed(&self) {
        of_any!(self, model => forget_packed(model));
    }

    /// Unscaled latents `[n, c, h, w]` to those that diffusion works on.
    pub fn to_diffusion(&self, latents: Tensor<4>) -> Tensor<4> {
        let scaling = self.scaling();
        let (shift, factor) = scaling.affine(&latents);
        (latents - shift) * factor
    }

    /// The inverse of [`Autoencoder::to_diffusion`]: what [`Autoencoder::decode`] takes.
    pub fn from_diffusion(&self, latents: Tensor<4>) -> Tensor<4> {
        let scaling = self.scaling();
        let (shift, factor) = scaling.affine(&latents);
        latents / factor + shift
    }
}

/// Mean and standard deviation.
fn halves(moments: Moments) -> (Tensor<4>, Option<Tensor<4>>) {
    let std = moments.std();
    (moments.mean, Some(std))
}

fn is_one_on_the_cpu(x: &Tensor<4>) -> bool {
    x.dims()[0] == 1 && is_cpu(&x.device())
}

fn disk(source: io::Error) -> ModelError {
    ModelError::Format(FormatError::Io {
        action: "keep the bands of a picture in",
        path: env::temp_dir(),
        source,
    })
}

impl Scaling {
    /// What is subtracted from latents like `like`, and what they are multiplied by, `[1, c or 1, 1, 1]`.
    fn affine(&self, like: &Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        let device = like.device();
        let tensor = |values: Vec<f32>| {
            let count = values.len();
            Tensor::<1>::from_floats(values.as_slice(), &device).reshape([1, count, 1, 1])
        };
        match &self.channels {
            Some((means, stds)) => (
                tensor(means.iter().map(|&mean| mean as f32).collect()),
                tensor(stds.iter().map(|&std| (self.factor / std) as f32).collect()),
            ),
            None => (
                tensor(vec![self.shift as f32]),
                tensor(vec![self.factor as f32]),
            ),
        }
    }
}

/// The weights file of a `vae/` folder, or of the folder that holds one.
///
/// # Errors
/// [`ModelError`] if there is none or it is broken.
pub fn autoencoder_weights(folder: &Path) -> Result<Weights> {
    let below = folder.join("vae");
    let folder = if below.is_dir() { &below } else { folder };
    weights::open(&FileSource::folder(folder), weights::DIFFUSERS)
}
