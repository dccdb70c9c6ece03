//! diffusers' `scheduler_config.json`, read strictly and written back.
//!
//! A config holds its class and the keys that were *stated*; [`Settings`] are all values in effect: the class's own
//! defaults overlaid with what is stated. Keeping the two apart is what diffusers' `from_config` needs when the
//! sampler of a loaded model is changed: stated keys carry over, absent ones take the new class's default.

mod classes;
mod keys;
mod settings;

pub use classes::Class;
pub(crate) use classes::Kind;
pub use settings::{
    AlgorithmType, BetaSchedule, FinalSigmas, InterpolationType, Prediction, Settings,
    SigmaSchedule, SigmaSpacing, SolverType, TimeShift, TimestepSpacing, TimestepType,
    VarianceType,
};

use serde_json::{Map, Value};

use crate::SamplingError;

/// Keys about the file itself, or of classes whose meaning is fixed; they change nothing and are kept as they stand.
const HARMLESS: &[&str] = &[
    "_diffusers_version",
    "_name_or_path",
    "_use_default_values",
    "_library_name",
];

/// One scheduler of diffusers with its stated keys.
///
/// ```
/// use latent_sampling::{Class, Prediction, SchedulerConfig};
/// let config = SchedulerConfig::from_text(r#"{"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"}"#)?;
/// assert_eq!(config.class(), Class::Ddim);
/// assert_eq!(config.settings().prediction_type, Prediction::V);
/// # Ok::<(), latent_sampling::SamplingError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct SchedulerConfig {
    class: Class,
    stated: Map<String, Value>,
}

impl SchedulerConfig {
    /// The class with nothing stated: its own defaults.
    pub fn new(class: Class) -> Self {
        Self {
            class,
            stated: Map::new(),
        }
    }

    /// Reads the text of a `scheduler_config.json`, in which Python may have written a bare `-Infinity`.
    ///
    /// # Errors
    /// If it is not JSON, or as [`from_json`](Self::from_json).
    pub fn from_text(text: &str) -> Result<Self, SamplingError> {
        let value = serde_json::from_str(&quote_infinities(text))
            .map_err(|error| SamplingError::NotJson(error.to_string()))?;
        Self::from_json(&value)
    }

    /// Reads a parsed `scheduler_config.json`.
    ///
    /// # Errors
    /// If `_class_name` is missing or unknown, a key is one no scheduler has, or a value is not among its choices; the
    /// sentence names it.
    pub fn from_json(value: &Value) -> Result<Self, SamplingError> {
        let object = value.as_object().ok_or(SamplingError::NoClass)?;
        let name = object
            .get("_class_name")
            .and_then(Value::as_str)
            .ok_or(SamplingError::NoClass)?;
        let mut config = Self::new(Class::from_name(name)?);
        for (key, value) in object {
            if key != "_class_name" {
                config.state(key, value.clone())?;
            }
        }
        config.class.check(&config.settings())?;
        Ok(config)
    }

    /// The same config with one key stated.
    ///
    /// # Errors
    /// If the key or its value is unknown.
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Result<Self, SamplingError> {
        self.state(key, value.into())?;
        self.class.check(&self.settings())?;
        Ok(self)
    }

    /// Several keys stated at once, checked together.
    pub(crate) fn with_all<const N: usize>(
        mut self,
        keys: [(&str, Value); N],
    ) -> Result<Self, SamplingError> {
        for (key, value) in keys {
            self.state(key, value)?;
        }
        self.class.check(&self.settings())?;
        Ok(self)
    }

    /// Checks a key against the table and keeps it, whether or not this class reads it: a later change of class may.
    fn state(&mut self, key: &str, value: Value) -> Result<(), SamplingError> {
        if !HARMLESS.contains(&key) {
            keys::find(key)?.set(&mut self.class.defaults(), &value)?;
        }
        self.stated.insert(key.to_owned(), value);
        Ok(())
    }

    /// The diffusers class.
    pub fn class(&self) -> Class {
        self.class
    }

    /// The value that the config itself states for a key.
    pub fn stated(&self, key: &str) -> Option<&Value> {
        self.stated.get(key)
    }

    /// Every value in effect: the class's defaults, overlaid with the stated keys that the class reads.
    pub fn settings(&self) -> Settings {
        let mut settings = self.class.defaults();
        for (key, value) in &self.stated {
            if self.class.reads(key)
                && let Ok(row) = keys::find(key)
            {
                row.set(&mut settings, value)
                    .expect("values were checked when they were stated");
            }
        }
        settings
    }

    /// Another class with the same stated keys: diffusers' `from_config`.
    pub(crate) fn of_class(&self, class: Class) -> Self {
        Self {
            class,
            stated: self.stated.clone(),
        }
    }

    /// The config as JSON that diffusers reads: `_class_name` and the stated keys.
    ///
    /// JSON has no infinity; [`to_text`](Self::to_text) writes it as Python does.
    pub fn to_json(&self) -> Value {
        let mut object = Map::new();
        object.insert("_class_name".to_owned(), Value::from(self.class.name()));
        object.extend(self.stated.clone());
        Value::Object(object)
    }

    /// The text of a `scheduler_config.json`, indented by two as diffusers writes it.
    pub fn to_text(&self) -> String {
        let text = serde_json::to_string_pretty(&self.to_json()).expect("a JSON value has a text");
        text.replace("\"-Infinity\"", "-Infinity")
            .replace("\"Infinity\"", "Infinity")
            + "\n"
    }
}

/// Puts quotes around the bare `Infinity` and `-Infinity` that Python's `json` writes and the standard forbids.
fn quote_infinities(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len());
    let (mut inside, mut escaped) = (false, false);
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let word = ["-Infinity", "Infinity"]
            .into_iter()
            .find(|word| !inside && rest.starts_with(word));
        if let Some(word) = word {
            quoted.extend(['"'].into_iter().chain(word.chars()).chain(['"']));
            rest = &rest[word.len()..];
            continue;
        }
        inside ^= letter == '"' && !escaped;
        escaped = inside && letter == '\\' && !escaped;
        quoted.push(letter);
        rest = &rest[letter.len_utf8()..];
    }
    quoted
}

#[cfg(test)]
mod tests;
