//! Config of the diffusion stage.

use std::path::PathBuf;

use latent_models::UNet2dConditionConfig;
use serde::{Deserialize, Serialize};

use super::{Augment, Data, Fault, Optimization, Run, StageConfig, need};

/// `latent train diffusion`: a U-Net that removes noise from the latents of a frozen autoencoder.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiffusionConfig {
    /// Where, how long, how often.
    pub run: Run,
    /// Training pictures.
    pub data: Data,
    /// Optimiser of the U-Net.
    pub optimizer: Optimization,
    /// Flips and shifts of `augmented_copies`.
    #[serde(default)]
    pub augment: Augment,
    /// Copies of each picture in the cache beside the unchanged one, each flipped and shifted at random, once.
    #[serde(default)]
    pub augmented_copies: usize,
    /// The frozen autoencoder: a run's `model/`, a pipeline's folder, or its `vae/`.
    pub autoencoder: PathBuf,
    /// The frozen text encoder: a folder with `text_encoder/` and `tokenizer/`; needed where `condition` is `text`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_encoder: Option<PathBuf>,
    /// What the U-Net is told of the picture.
    #[serde(default)]
    pub condition: Condition,
    /// Odds that the caption (or class) is left out, which is what guidance subtracts.
    #[serde(default = "caption_dropout")]
    pub caption_dropout: f64,
    /// Odds that a caption's last part, which names the style, is left out.
    #[serde(default)]
    pub style_dropout: f64,
    /// Folder of the cached latents and text states; by default `cache/` in the run's folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<PathBuf>,
    /// How noise grows with the timestep.
    #[serde(default)]
    pub noise: NoiseSchedule,
    /// What the U-Net predicts and how errors are weighted.
    #[serde(default)]
    pub loss: DiffusionLoss,
    /// The pictures of the sample sheets.
    #[serde(default)]
    pub samples: Sampling,
    /// The U-Net, in diffusers' keys.
    pub unet: UNet2dConditionConfig,
}

/// What the U-Net is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// The caption's text states, by cross-attention.
    #[default]
    Text,
    /// The class, by an embedding added to the timestep's; the last embedding is "no class".
    Class,
    /// Nothing.
    None,
}

/// `[noise]`: betas of the forward process, in diffusers' names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NoiseSchedule {
    /// The betas' shape.
    pub beta_schedule: BetaSchedule,
    /// First beta.
    pub beta_start: f64,
    /// Last beta.
    pub beta_end: f64,
    /// Timesteps.
    pub steps: usize,
    /// Rescales the betas so that the last timestep is pure noise (arXiv:2305.08891).
    pub zero_terminal_snr: bool,
}

impl Default for NoiseSchedule {
    fn default() -> Self {
        Self {
            beta_schedule: BetaSchedule::ScaledLinear,
            beta_start: 0.00085,
            beta_end: 0.012,
            steps: 1000,
            zero_terminal_snr: false,
        }
    }
}

/// Shape of the betas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BetaSchedule {
    /// The betas grow on a line.
    Linear,
    /// Their square roots grow on a line: Stable Diffusion's.
    ScaledLinear,
    /// diffusers' `squaredcos_cap_v2` (arXiv:2102.09672).
    Cosine,
}

impl BetaSchedule {
    /// diffusers' name.
    pub fn diffusers_name(self) -> &'static str {
        match self {
            Self::Linear => "linear",
            Self::ScaledLinear => "scaled_linear",
            Self::Cosine => "squaredcos_cap_v2",
        }
    }
}

/// `[loss]` of diffusion.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DiffusionLoss {
    /// What the U-Net predicts.
    pub prediction: Prediction,
    /// Caps the weight of easy timesteps at this signal-to-noise ratio (arXiv:2303.09556; its authors took 5);
    /// absent for the plain mean square.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_snr_gamma: Option<f64>,
}

/// What the U-Net predicts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Prediction {
    /// The noise.
    #[default]
    #[serde(rename = "epsilon")]
    Epsilon,
    /// `alpha * noise - sigma * latents` (arXiv:2202.00512).
    #[serde(rename = "v_prediction")]
    V,
}

impl Prediction {
    /// diffusers' name.
    pub fn diffusers_name(self) -> &'static str {
        match self {
            Self::Epsilon => "epsilon",
            Self::V => "v_prediction",
        }
    }
}

/// `[samples]`: what is drawn every `run.sample_every` updates, and the exported scheduler's defaults.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sampling {
    /// One picture each; for `class` the classes' names, for `none` their number counts.
    pub prompts: Vec<String>,
    /// Sampler by name.
    pub sampler: String,
    /// Its steps.
    pub steps: usize,
    /// Guidance strength; 1 for none.
    pub guidance: f32,
    /// Seed of the first picture; the others follow.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            prompts: Vec::new(),
            sampler: "ddim".into(),
            steps: 20,
            guidance: 4.0,
            seed: 1,
        }
    }
}

impl DiffusionConfig {
    /// Refuses a U-Net that is told what a data set does not hold.
    fn check_told(&self) -> Result<(), Fault> {
        need(
            self.unet.addition_embed_type.is_none(),
            "unet.addition_embed_type",
            || "cannot be trained here; leave it out".into(),
        )?;
        need(
            self.unet.time_cond_proj_dim.is_none(),
            "unet.time_cond_proj_dim",
            || "is for distillation over guidance, which is not trained here; leave it out".into(),
        )
    }

    /// Where latents and text states are kept.
    pub fn cache_folder(&self) -> PathBuf {
        match &self.cache {
            Some(folder) => folder.clone(),
            None => self.run.folder.join("cache"),
        }
    }
}

impl StageConfig for DiffusionConfig {
    fn run(&self) -> &Run {
        &self.run
    }

    fn check(&self) -> Result<(), Fault> {
        self.run.check()?;
        self.data.check()?;
        self.optimizer.check()?;
        self.augment.check(self.data.size)?;
        self.check_told()?;
        let odds = 0.0..=1.0;
        need(
            odds.contains(&self.caption_dropout),
            "caption_dropout",
            || "must lie between 0 and 1".into(),
        )?;
        need(odds.contains(&self.style_dropout), "style_dropout", || {
            "must lie between 0 and 1".into()
        })?;
        need(
            self.condition != Condition::Text || self.text_encoder.is_some(),
            "text_encoder",
            || {
                "is missing: with `condition = \"text\"` it names a folder with `text_encoder/` and `tokenizer/`".into()
            },
        )?;
        let noise = &self.noise;
        need(noise.steps >= 2, "noise.steps", || {
            "must be at least 2".into()
        })?;
        need(
            0.0 < noise.beta_start && noise.beta_start <= noise.beta_end && noise.beta_end < 1.0,
            "noise.beta_start",
            || "and `beta_end` must satisfy 0 < beta_start <= beta_end < 1".into(),
        )?;
        need(
            !(noise.zero_terminal_snr && self.loss.prediction == Prediction::Epsilon),
            "noise.zero_terminal_snr",
            || {
                "needs `loss.prediction = \"v_prediction\"`: pure noise says nothing of the picture"
                    .into()
            },
        )?;
        need(
            self.loss.min_snr_gamma.is_none_or(|gamma| gamma > 0.0),
            "loss.min_snr_gamma",
            || "must be above 0; leave it out for the plain mean".into(),
        )?;
        need(self.samples.steps > 0, "samples.steps", || {
            "must be at least 1".into()
        })
    }
}

fn caption_dropout() -> f64 {
    0.1
}
