//! Autoencoders: pictures to latents and back.

mod any;
mod config;
mod kl;
mod simple;
mod tiny;
mod trunk;
mod vq;

pub(crate) use any::AutoencoderConfig;
pub use any::{Autoencoder, Scaling, autoencoder_weights};
pub use config::{
    AutoencoderKlConfig, DownEncoderBlockType, SimpleAutoencoderConfig, UpDecoderBlockType,
    VqModelConfig,
};
pub use kl::{AutoencoderKl, Moments};
pub use simple::SimpleAutoencoder;
pub(crate) use tiny::is_tiny;
pub use tiny::{AutoencoderTiny, AutoencoderTinyConfig, TinyDecoder};
pub use vq::{Quantized, VqModel};
