//! The one error of this crate.

use std::path::PathBuf;

/// Why a picture could not be made. Each sentence says where, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A request that cannot be met by any model, or not by this one.
    #[error("{0}")]
    Request(String),
    /// The caller's progress function said stop.
    #[error("stopped")]
    Stopped,
    /// A model folder is missing, broken or of a kind that is not built here.
    #[error(transparent)]
    Model(#[from] latent_models::ModelError),
    /// A file is broken, or cannot be read or written.
    #[error(transparent)]
    Format(#[from] latent_formats::FormatError),
    /// A model of the hub cannot be had.
    #[cfg(feature = "hub")]
    #[error(transparent)]
    Hub(latent_hub::HubError),
    /// A sampler or scheduler does not fit the model or the request.
    #[error(transparent)]
    Sampling(latent_sampling::SamplingError),
    /// A device cannot be had.
    #[error(transparent)]
    Device(#[from] latent_nn::DeviceError),
    /// This build carries no model.
    #[error(
        "this build carries no model of its own; name a model folder, or build with the feature `builtin`"
    )]
    NoBuiltin,
    /// The number of threads cannot be set any more.
    #[error("cannot set the number of threads: {0}")]
    Threads(String),
    /// The network or the decoder gave infinite or undefined numbers.
    #[error(
        "{what} gave numbers that are not finite, so there is no picture; compute in full precision with `--precision f32`"
    )]
    NotFinite {
        /// Which part.
        what: &'static str,
    },
    /// A latents file is not what it should be.
    #[error("`{}`: {reason}", path.display())]
    Latents {
        /// The file.
        path: PathBuf,
        /// What was found and what is needed.
        reason: String,
    },
}

impl From<latent_sampling::SamplingError> for Error {
    fn from(error: latent_sampling::SamplingError) -> Self {
        match error {
            latent_sampling::SamplingError::Stopped => Self::Stopped,
            other => Self::Sampling(other),
        }
    }
}

#[cfg(feature = "hub")]
impl From<latent_hub::HubError> for Error {
    fn from(error: latent_hub::HubError) -> Self {
        match error {
            latent_hub::HubError::Stopped => Self::Stopped,
            other => Self::Hub(other),
        }
    }
}
