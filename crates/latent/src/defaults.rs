//! How a model likes to be drawn with: the file `latent.json` beside its `model_index.json`.
//!
//! Other programs do not read the file; without it the values are those of diffusers' pipeline.

use latent_formats::parse_json;
use latent_models::ModelFolder;
use serde::{Deserialize, Serialize};

use crate::Error;

/// Name of the file in a model's folder.
pub const FILE: &str = "latent.json";

/// What a request that leaves something open gets from the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Defaults {
    /// Steps of the sampler.
    pub steps: usize,
    /// Strength of classifier-free guidance.
    pub guidance: f32,
    /// The sampler by name; absent for the scheduler of the folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampler: Option<String>,
    /// Names of the classes, where the model is told a class and not words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<String>,
}

impl Default for Defaults {
    /// The defaults of diffusers' `StableDiffusionPipeline`.
    fn default() -> Self {
        Self {
            steps: 50,
            guidance: 7.5,
            sampler: None,
            classes: Vec::new(),
        }
    }
}

impl Defaults {
    /// What the folder's file says, else the values of its family's pipeline.
    ///
    /// # Errors
    /// [`Error::Format`] if the file is broken.
    pub fn read(folder: &ModelFolder) -> Result<Self, Error> {
        let (files, family) = (folder.files(), folder.family());
        match files.read(FILE)? {
            Some(bytes) => Ok(parse_json(&bytes, &files.path().join(FILE))?),
            None => Ok(Self {
                steps: family.steps,
                guidance: family.guidance,
                ..Self::default()
            }),
        }
    }
}
