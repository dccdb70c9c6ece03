//! Training configs: TOML files with one table per subject; an unknown or wrong key is refused with its line.

mod autoencoder;
mod diffusion;
mod lora;
mod shared;
mod text_encoder;

pub use autoencoder::{
    AutoencoderConfig, AutoencoderKind, DiscriminatorConfig, ReconstructionLoss,
};
pub use diffusion::{
    BetaSchedule, Condition, DiffusionConfig, DiffusionLoss, NoiseSchedule, Prediction, Sampling,
};
pub use lora::{
    Buckets, Distillation, Factors, LayerChoice, LoraConfig, LoraLoss, Prior, SavedType,
    TextTraining,
};
pub use shared::{Augment, Data, Languages, Method, Optimization, PrecisionChoice, Run};
pub use text_encoder::{TextEncoderConfig, TokenizerConfig};

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Result, TrainError};

/// What the configs have in common.
pub trait StageConfig: Serialize + DeserializeOwned {
    /// `[run]`.
    fn run(&self) -> &Run;

    /// What is wrong with the values: the key's path and a sentence.
    ///
    /// # Errors
    /// The first value that cannot work.
    fn check(&self) -> std::result::Result<(), Fault>;

    /// Reads and checks a config.
    ///
    /// # Errors
    /// The file cannot be read, is not TOML, has unknown, missing or wrong keys: with the line.
    fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(TrainError::io(path))?;
        Self::parse(&text, path)
    }

    /// [`StageConfig::read`] of a text; `path` is for messages.
    ///
    /// # Errors
    /// As [`StageConfig::read`].
    fn parse(text: &str, path: &Path) -> Result<Self> {
        let config: Self = toml::from_str(text).map_err(|error| TrainError::Config {
            path: path.to_path_buf(),
            line: error.span().map(|span| line_at(text, span.start)),
            message: error.message().trim_end().to_string(),
        })?;
        config.check().map_err(|fault| TrainError::Config {
            path: path.to_path_buf(),
            line: line_of_key(text, fault.key),
            message: fault.to_string(),
        })?;
        Ok(config)
    }
}

/// A value that cannot work.
#[derive(Debug, thiserror::Error)]
#[error("`{key}` {message}")]
pub struct Fault {
    key: &'static str,
    message: String,
}

impl Fault {
    pub(crate) fn new(key: &'static str, message: impl Into<String>) -> Self {
        Self {
            key,
            message: message.into(),
        }
    }
}

/// An error at `key` unless `holds`.
fn need(
    holds: bool,
    key: &'static str,
    message: impl FnOnce() -> String,
) -> std::result::Result<(), Fault> {
    if holds {
        Ok(())
    } else {
        Err(Fault::new(key, message()))
    }
}

fn line_at(text: &str, offset: usize) -> usize {
    text.as_bytes()[..offset.min(text.len())]
        .iter()
        .filter(|&&byte| byte == b'\n')
        .count()
        + 1
}

/// The line of `table.key`, where the file has it as people write it; `None` where it was left to its default.
fn line_of_key(text: &str, path: &str) -> Option<usize> {
    let (table, key) = path.rsplit_once('.').unwrap_or(("", path));
    let mut current = String::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(header) = line
            .strip_prefix('[')
            .and_then(|rest| rest.split(']').next())
        {
            current = header.trim().to_string();
            if current == path {
                return Some(index + 1);
            }
        } else if current == table
            && line
                .split('=')
                .next()
                .is_some_and(|name| name.trim() == key)
        {
            return Some(index + 1);
        }
    }
    None
}

#[cfg(test)]
mod tests;
