//! Tables that every stage's config has.

use std::path::PathBuf;

use latent_nn::training::{AdamW, Muon};
use latent_nn::{Precision, Selected};
use serde::{Deserialize, Serialize};

use super::{Fault, need};
use crate::schedule::{Ema, LearningRate};

/// `[run]`: where results go, how long, how often.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Folder of this run: checkpoints, `metrics.jsonl`, `loss.png`, sample sheets, and at the end `model/`.
    pub folder: PathBuf,
    /// Updates of the weights.
    pub steps: u64,
    /// Pictures (text encoder: picture-caption pairs) in one pass through the model.
    pub batch: usize,
    /// Passes whose gradients are averaged into one update. On a CPU they run side by side, which is faster than one
    /// pass of all pictures: two of 2 pictures, say, in place of one of 4.
    #[serde(default = "one")]
    pub accumulation: usize,
    /// What every random number of the run follows from, with the step.
    #[serde(default)]
    pub seed: u64,
    /// How products are computed: `auto` is bf16 where the device has it.
    #[serde(default)]
    pub precision: PrecisionChoice,
    /// Updates between checkpoints; the last two are kept.
    #[serde(default = "five_hundred")]
    pub checkpoint_every: u64,
    /// Updates between sample sheets and loss plots; 0 for none before the end.
    #[serde(default = "five_hundred")]
    pub sample_every: u64,
    /// Updates averaged into one line of `metrics.jsonl`.
    #[serde(default = "ten")]
    pub log_every: u64,
    /// A model folder (or a run's `model/`) whose weights this run starts from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<PathBuf>,
}

impl Run {
    pub(super) fn check(&self) -> std::result::Result<(), Fault> {
        need(self.steps > 0, "run.steps", || "must be at least 1".into())?;
        need(self.batch > 0, "run.batch", || "must be at least 1".into())?;
        need(self.accumulation > 0, "run.accumulation", || {
            "must be at least 1".into()
        })?;
        need(self.checkpoint_every > 0, "run.checkpoint_every", || {
            "must be at least 1".into()
        })?;
        need(self.log_every > 0, "run.log_every", || {
            "must be at least 1".into()
        })
    }
}

/// How products are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PrecisionChoice {
    /// bf16 where the device multiplies it, else f32.
    #[default]
    Auto,
    /// f32.
    F32,
    /// bf16 operands, f32 sums.
    Bf16,
}

impl PrecisionChoice {
    /// The precision on this device.
    pub fn resolve(self, selected: &Selected) -> Precision {
        match self {
            Self::Auto => selected.best_precision(),
            Self::F32 => Precision::F32,
            Self::Bf16 => Precision::Bf16,
        }
    }
}

/// `[data]`: the training pictures.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// A folder of pictures with `.txt` captions or a `metadata.jsonl`, or tar shards.
    pub path: PathBuf,
    /// Side of the square pictures, in pixels; others are scaled to cover it and cut at the centre.
    pub size: usize,
    /// Odds of a caption's language, for examples that have captions in both.
    #[serde(default)]
    pub languages: Languages,
    /// Decoded pictures kept in memory, in MiB; beyond it they are read again.
    #[serde(default = "picture_memory")]
    pub memory: usize,
}

impl Data {
    pub(super) fn check(&self) -> std::result::Result<(), Fault> {
        need((8..=4096).contains(&self.size), "data.size", || {
            format!("is {}; it must be between 8 and 4096", self.size)
        })?;
        let Languages { en, ko } = self.languages;
        need(
            en >= 0.0 && ko >= 0.0 && en + ko > 0.0,
            "data.languages",
            || "must have odds of at least 0, not both 0".into(),
        )
    }
}

/// Odds of the captions' languages; they need not sum to 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Languages {
    /// English, and captions of no stated language.
    pub en: f64,
    /// Korean.
    pub ko: f64,
}

impl Default for Languages {
    fn default() -> Self {
        Self { en: 60.0, ko: 40.0 }
    }
}

/// `[augment]`: changes that keep the caption true.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Augment {
    /// Odds of a left-right flip, for examples that may be flipped (`flip` in their metadata).
    pub flip: f64,
    /// Largest shift in pixels each way; the edge is repeated.
    pub shift: usize,
}

impl Augment {
    pub(super) fn check(&self, size: usize) -> std::result::Result<(), Fault> {
        need((0.0..=1.0).contains(&self.flip), "augment.flip", || {
            format!("is {}; odds lie between 0 and 1", self.flip)
        })?;
        need(self.shift < size / 2, "augment.shift", || {
            format!(
                "is {}; it must be below half the picture's side, {}",
                self.shift,
                size / 2
            )
        })
    }
}

/// `[optimizer]`: AdamW or Muon, gradients, learning rate, moving average.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Optimization {
    /// What moves the weights.
    #[serde(default, skip_serializing_if = "Method::is_adamw")]
    pub method: Method,
    /// Rise, peak and decay of the learning rate.
    pub learning_rate: LearningRate,
    /// Memory of the gradient's mean.
    #[serde(default = "beta1")]
    pub beta1: f32,
    /// Memory of the gradient's square.
    #[serde(default = "beta2")]
    pub beta2: f32,
    /// Added to the root of the squares.
    #[serde(default = "eps")]
    pub eps: f32,
    /// Decoupled weight decay.
    #[serde(default)]
    pub weight_decay: f32,
    /// Gradients are scaled down to this global norm; absent for no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip: Option<f32>,
    /// The weights' moving average.
    #[serde(default)]
    pub ema: Ema,
}

/// What moves the weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// AdamW.
    #[default]
    Adamw,
    /// Muon for the matrices between first and last layers, AdamW for the rest; needs fewer updates.
    Muon,
}

impl Method {
    fn is_adamw(&self) -> bool {
        *self == Self::Adamw
    }
}

impl Optimization {
    pub(super) fn check(&self) -> std::result::Result<(), Fault> {
        let unit = 0.0..1.0;
        need(
            self.learning_rate.peak > 0.0,
            "optimizer.learning_rate",
            || "must have a `peak` above 0".into(),
        )?;
        need(unit.contains(&self.beta1), "optimizer.beta1", || {
            "must lie in [0, 1)".into()
        })?;
        need(unit.contains(&self.beta2), "optimizer.beta2", || {
            "must lie in [0, 1)".into()
        })?;
        need(self.eps > 0.0, "optimizer.eps", || "must be above 0".into())?;
        need(self.weight_decay >= 0.0, "optimizer.weight_decay", || {
            "must not be negative".into()
        })?;
        need(
            self.clip.is_none_or(|clip| clip > 0.0),
            "optimizer.clip",
            || "must be above 0; leave it out for no limit".into(),
        )?;
        let ema = &self.ema;
        need(
            (0.0..1.0).contains(&ema.decay) && ema.power > 0.0 && ema.inv_gamma > 0.0,
            "optimizer.ema",
            || "needs `decay` in [0, 1), `power` and `inv_gamma` above 0".into(),
        )
    }

    /// Muon, where it is asked for, with the memory that its authors use.
    pub(crate) fn muon(&self) -> Option<Muon> {
        (self.method == Method::Muon).then(|| Muon {
            momentum: 0.95,
            precision: Precision::best(),
        })
    }

    pub(crate) fn adamw(&self) -> AdamW {
        AdamW {
            beta1: self.beta1,
            beta2: self.beta2,
            eps: self.eps,
            weight_decay: self.weight_decay,
        }
    }
}

fn one() -> usize {
    1
}

fn ten() -> u64 {
    10
}

fn five_hundred() -> u64 {
    500
}

fn picture_memory() -> usize {
    2048
}

fn beta1() -> f32 {
    0.9
}

fn beta2() -> f32 {
    0.99
}

fn eps() -> f32 {
    1e-8
}
