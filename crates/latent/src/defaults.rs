//! How a model likes to be drawn with: the file `latent.json` beside its `model_index.json`.
//!
//! Other programs do not read the file; without it the values are those of diffusers' pipeline.

use std::ffi::OsStr;
use std::path::Path;

use latent_formats::{Weights, parse_json};
use latent_models::{Lora, ModelFolder};
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
    /// The schedule by name, for that sampler; absent for its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// Names of the classes, where the model is told a class and not words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<String>,
    /// How the model draws in few steps, if it can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub few_steps: Option<FewSteps>,
}

/// A LoRA in the model's folder with which few steps without guidance do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FewSteps {
    /// Its file, in the folder.
    pub lora: String,
    /// The steps.
    pub steps: usize,
    /// Whether `latent generate` draws so where nothing says how to draw.
    #[serde(default)]
    pub default: bool,
}

impl Default for Defaults {
    /// The defaults of diffusers' `StableDiffusionPipeline`.
    fn default() -> Self {
        Self {
            steps: 50,
            guidance: 7.5,
            sampler: None,
            schedule: None,
            classes: Vec::new(),
            few_steps: None,
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

    /// Whether the model is drawn with in few steps where nothing says how to draw.
    pub fn likes_few_steps(&self) -> bool {
        self.few_steps.as_ref().is_some_and(|few| few.default)
    }

    /// Those of a model that draws in few steps: as it was taught to, by `latent train lora`.
    pub(crate) fn in_few_steps(self) -> Self {
        match &self.few_steps {
            Some(few) => Self {
                steps: few.steps,
                guidance: 1.0,
                sampler: Some("ddim".to_owned()),
                schedule: Some("trailing".to_owned()),
                ..self
            },
            None => self,
        }
    }
}

impl FewSteps {
    /// The LoRA that the folder's `defaults` name.
    ///
    /// # Errors
    /// [`Error::Request`] if it names none, or a file that is not there; [`Error::Model`] if the file is no LoRA.
    pub(crate) fn lora_of(folder: &ModelFolder, defaults: &Defaults) -> Result<Lora, Error> {
        let files = folder.files();
        let Some(few) = &defaults.few_steps else {
            return Err(Error::Request(format!(
                "`{}` has no LoRA for few steps; lay one over it (`--lora FILE --steps 4 --guidance 1`), or train one with a table \
                 `[distillation]` (`latent train lora`), put its file into the folder and name it in {FILE}: \
                 \"few_steps\": {{\"lora\": \"FILE\", \"steps\": 4}}",
                files.path().display()
            )));
        };
        let is_inside = Path::new(&few.lora).file_name() == Some(OsStr::new(&few.lora));
        let bytes = if is_inside {
            files.read(&few.lora)?
        } else {
            None
        };
        let Some(bytes) = bytes else {
            return Err(Error::Request(format!(
                "{FILE} in `{}` names `{}` for few steps, and the folder has no such file",
                files.path().display(),
                few.lora
            )));
        };
        Ok(Lora::of(Weights::from_bytes(&few.lora, bytes)?)?)
    }
}
