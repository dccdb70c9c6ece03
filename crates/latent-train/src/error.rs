//! What can go wrong while training or measuring.

use std::path::{Path, PathBuf};

/// An error of this crate. Messages say where, what was found against what was needed, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A config file that cannot be used.
    #[error("{}{}: {message}", path.display(), line.map_or(String::new(), |line| format!(":{line}")))]
    Config {
        /// The file.
        path: PathBuf,
        /// 1-based line, where one line is to blame.
        line: Option<usize>,
        /// What is wrong with it.
        message: String,
    },
    /// A checkpoint that does not belong to this run.
    #[error("{}: {message}", path.display())]
    Checkpoint {
        /// The checkpoint's folder.
        path: PathBuf,
        /// What does not fit.
        message: String,
    },
    /// The loss or a gradient became infinite or not a number.
    #[error(
        "step {step}: {what} is not finite; the weights were left as they were before this step; \
             lower the learning rate or set `clip`, then resume from {last_checkpoint}"
    )]
    NotFinite {
        /// The step that failed, counted from 1.
        step: u64,
        /// Which number.
        what: String,
        /// The newest checkpoint, or that there is none.
        last_checkpoint: String,
    },
    /// Reading or writing failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Anything that fits no other variant; the sentence is complete.
    #[error("{0}")]
    Other(String),
    /// From the data set.
    #[error(transparent)]
    Data(#[from] latent_data::DataError),
    /// From files.
    #[error(transparent)]
    Format(#[from] latent_formats::FormatError),
    /// From a model.
    #[error(transparent)]
    Model(#[from] latent_models::ModelError),
    /// From the pipeline, when sample pictures are drawn.
    #[error(transparent)]
    Pipeline(#[from] latent::Error),
    /// From the samplers and noise schedules.
    #[error(transparent)]
    Sampling(#[from] latent_sampling::SamplingError),
    /// From choosing a device.
    #[error(transparent)]
    Device(#[from] latent_nn::DeviceError),
}

/// The crate's result.
pub type Result<T, E = TrainError> = std::result::Result<T, E>;

impl TrainError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::Io {
            path: path.to_path_buf(),
            source,
        }
    }

    pub(crate) fn checkpoint(path: &Path, message: impl Into<String>) -> Self {
        Self::Checkpoint {
            path: path.to_path_buf(),
            message: message.into(),
        }
    }
}
