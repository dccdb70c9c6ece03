//! Config of the autoencoder stage.

use std::path::PathBuf;

use latent_models::{AutoencoderKlConfig, SimpleAutoencoderConfig, VqModelConfig};
use serde::{Deserialize, Serialize};

use super::{Augment, Data, Fault, Optimization, Run, StageConfig, need};

/// `latent train autoencoder`: exactly one of the three model tables says which kind.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AutoencoderConfig {
    /// Where, how long, how often.
    pub run: Run,
    /// Training pictures; captions are not needed.
    pub data: Data,
    /// Optimiser of the autoencoder (and, with the same settings, of the discriminator).
    pub optimizer: Optimization,
    /// Flips and shifts.
    #[serde(default)]
    pub augment: Augment,
    /// Trains the decoder only, so that latents stay what a trained U-Net knows; needs `run.init`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub freeze_encoder: bool,
    /// What the reconstruction is judged by.
    #[serde(default)]
    pub loss: ReconstructionLoss,
    /// The patch discriminator; absent for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discriminator: Option<DiscriminatorConfig>,
    /// Stable Diffusion's autoencoder, in diffusers' keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoencoder_kl: Option<AutoencoderKlConfig>,
    /// The same trunk with a codebook, in diffusers' keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vq_model: Option<VqModelConfig>,
    /// Three strided convolutions down and three up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub simple: Option<SimpleAutoencoderConfig>,
}

/// The model table of an autoencoder's config.
#[derive(Clone, Debug)]
pub enum AutoencoderKind {
    /// `[autoencoder_kl]`.
    Kl(AutoencoderKlConfig),
    /// `[vq_model]`.
    Vq(VqModelConfig),
    /// `[simple]`.
    Simple(SimpleAutoencoderConfig),
}

impl AutoencoderConfig {
    /// The one model table.
    ///
    /// # Errors
    /// None or several are given.
    pub fn kind(&self) -> Result<AutoencoderKind, Fault> {
        match (&self.autoencoder_kl, &self.vq_model, &self.simple) {
            (Some(kl), None, None) => Ok(AutoencoderKind::Kl(kl.clone())),
            (None, Some(vq), None) => Ok(AutoencoderKind::Vq(vq.clone())),
            (None, None, Some(simple)) => Ok(AutoencoderKind::Simple(simple.clone())),
            _ => Err(Fault::new(
                "autoencoder_kl",
                "or `vq_model` or `simple`: exactly one of these tables must be there",
            )),
        }
    }
}

/// `[loss]`: weights of the parts, each a mean over all pictures, pixels and channels in `[-1, 1]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReconstructionLoss {
    /// Weight of |x - reconstruction|.
    pub l1: f32,
    /// Weight of (x - reconstruction)².
    pub l2: f32,
    /// Weight of the distance between the image tower's features.
    pub perceptual: f32,
    /// An `image_tower` folder of the text-encoder stage; needed where `perceptual` is not 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_tower: Option<PathBuf>,
    /// Weight of the KL divergence **as latent diffusion's papers count it**: a sum over latents against a sum over
    /// pixels. Here both are means, so it is multiplied by (latents per picture) / (numbers per picture).
    pub kl: f32,
    /// Weight of the codebook's loss.
    pub codebook: f32,
    /// Weight of the loss that keeps the encoder near its codes.
    pub commitment: f32,
}

impl Default for ReconstructionLoss {
    fn default() -> Self {
        Self {
            l1: 1.0,
            l2: 0.0,
            perceptual: 0.0,
            image_tower: None,
            kl: 1e-6,
            codebook: 1.0,
            commitment: 0.25,
        }
    }
}

/// `[discriminator]`: a network that tells patches of pictures from patches of reconstructions.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiscriminatorConfig {
    /// Channels of its first layer; they double three times.
    #[serde(default = "channels")]
    pub channels: usize,
    /// The update at which it begins to count.
    pub start: u64,
    /// Its share, on top of the weight that makes its gradient as long as the reconstruction's.
    #[serde(default = "half")]
    pub weight: f32,
}

impl StageConfig for AutoencoderConfig {
    fn run(&self) -> &Run {
        &self.run
    }

    fn check(&self) -> Result<(), Fault> {
        self.run.check()?;
        self.data.check()?;
        self.optimizer.check()?;
        self.augment.check(self.data.size)?;
        let loss = &self.loss;
        need(loss.l1 + loss.l2 > 0.0, "loss.l1", || {
            "and `l2` are both 0; one must count".into()
        })?;
        need(
            loss.perceptual == 0.0 || loss.image_tower.is_some(),
            "loss.perceptual",
            || "needs `image_tower`, a folder that the text-encoder stage wrote".into(),
        )?;
        need(
            !self.freeze_encoder || self.run.init.is_some(),
            "freeze_encoder",
            || "needs `run.init`: an encoder that was never trained gives nothing to decode".into(),
        )?;
        need(
            !self.freeze_encoder || self.vq_model.is_none(),
            "freeze_encoder",
            || "is for `autoencoder_kl` and `simple`; a codebook learns with its encoder".into(),
        )?;
        if let Some(discriminator) = &self.discriminator {
            need(
                discriminator.channels >= 8 && discriminator.channels % 8 == 0,
                "discriminator.channels",
                || "must be a multiple of 8".into(),
            )?;
        }
        self.kind().map(|_| ())
    }
}

fn channels() -> usize {
    32
}

fn half() -> f32 {
    0.5
}
