//! Trains the autoencoder, the text encoder and the U-Net, and LoRAs on finished models, and measures them.
//!
//! Each stage is a TOML config and a function; [`run`] picks by name. A run lives in a folder: checkpoints that
//! resume to the bit, `metrics.jsonl`, `loss.png`, sample sheets, and at the end `model/`, which other programs open.
//!
//! ```no_run
//! use latent_train::{Options, StageKind, run};
//!
//! # fn main() -> Result<(), latent_train::TrainError> {
//! let config = "configs/autoencoder.toml".as_ref();
//! let finished = run(StageKind::Autoencoder, config, &Options::default(), &mut |event| println!("{event:?}"))?;
//! # Ok(())
//! # }
//! ```

mod autoencoder;
mod cache;
mod checkpoint;
pub mod config;
mod diffusion;
mod error;
pub mod eval;
mod events;
#[cfg(test)]
mod fixture;
mod lora;
mod metrics;
mod pictures;
mod random;
mod run;
mod schedule;
mod text_encoder;
mod trainee;
mod words;

use std::path::Path;

pub use autoencoder::{LatentStatistics, measure_scaling_factor, train_autoencoder};
pub use config::{AutoencoderConfig, DiffusionConfig, LoraConfig, StageConfig, TextEncoderConfig};
pub use diffusion::train_diffusion;
pub use error::{Result, TrainError};
pub use events::{Event, Finished, Options, Resume};
pub use lora::train_lora;
pub use metrics::{Metrics, read as read_metrics};
pub use schedule::{Decay, Ema, LearningRate};
pub use text_encoder::train_text_encoder;
pub use words::vocabulary;

/// The three stages, in the order in which they build on each other, and what is trained on a finished model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StageKind {
    /// Words to text states.
    TextEncoder,
    /// Pictures to latents and back.
    Autoencoder,
    /// Noise to latents.
    Diffusion,
    /// Factors that change a model.
    Lora,
}

impl StageKind {
    /// Every stage with its name in commands.
    pub const ALL: [(&'static str, Self); 4] = [
        ("text-encoder", Self::TextEncoder),
        ("autoencoder", Self::Autoencoder),
        ("diffusion", Self::Diffusion),
        ("lora", Self::Lora),
    ];
}

/// Trains a stage as the config file says, from the newest checkpoint in the run's folder on.
///
/// # Errors
/// [`TrainError`], its sentence complete: the config with its line, the data, a checkpoint of another run, a loss that
/// is not finite, a full disk.
pub fn run(
    stage: StageKind,
    config: &Path,
    options: &Options,
    progress: &mut dyn FnMut(&Event),
) -> Result<Finished> {
    match stage {
        StageKind::TextEncoder => {
            train_text_encoder(&TextEncoderConfig::read(config)?, options, progress)
        }
        StageKind::Autoencoder => {
            train_autoencoder(&AutoencoderConfig::read(config)?, options, progress)
        }
        StageKind::Diffusion => train_diffusion(&DiffusionConfig::read(config)?, options, progress),
        StageKind::Lora => train_lora(&LoraConfig::read(config)?, options, progress),
    }
}
