//! `model_index.json`: the parts of a diffusers folder and the class of each.

use std::path::Path;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::{Bytes, FormatError, parse_json, write_json};

/// Name of the file in its folder.
const FILE: &str = "model_index.json";

/// What a diffusers folder is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelIndex {
    /// The pipeline, as in `StableDiffusionPipeline`.
    pub class_name: String,
    /// The version of diffusers that wrote it.
    pub diffusers_version: Option<String>,
    /// Parts in the file's order: the folder's name, and its class, `None` where the model goes without.
    pub parts: Vec<(String, Option<PartClass>)>,
    /// The pipeline's own settings, as `requires_safety_checker`.
    pub options: Map<String, Value>,
}

/// Where a part's class comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartClass {
    /// The Python library, as in `diffusers`.
    pub library: String,
    /// The class in it, as in `UNet2DConditionModel`.
    pub class: String,
}

impl ModelIndex {
    /// Reads the index of a model folder.
    ///
    /// # Errors
    /// [`FormatError::Io`] if the folder has none, [`FormatError::Json`] if it says something else.
    pub fn read(folder: &Path) -> Result<Self, FormatError> {
        let path = folder.join(FILE);
        Self::parse(&Bytes::map(&path)?, &path)
    }

    /// Reads an index that is in memory; `name` stands for it in messages.
    ///
    /// # Errors
    /// [`FormatError::Json`].
    pub fn parse(bytes: &[u8], name: &Path) -> Result<Self, FormatError> {
        parse_json(bytes, name)
    }

    /// Writes the index into a model folder.
    ///
    /// # Errors
    /// [`FormatError::Io`] as [`crate::write_atomic`].
    pub fn write(&self, folder: &Path) -> Result<(), FormatError> {
        write_json(&folder.join(FILE), self)
    }

    /// The class of the part in folder `name`, if the model has it.
    pub fn part(&self, name: &str) -> Option<&PartClass> {
        let (_, class) = self.parts.iter().find(|(part, _)| part == name)?;
        class.as_ref()
    }
}

impl<'de> Deserialize<'de> for ModelIndex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut index = Self {
            class_name: String::new(),
            diffusers_version: None,
            parts: Vec::new(),
            options: Map::new(),
        };
        for (key, value) in Map::<String, Value>::deserialize(deserializer)? {
            match (key.as_str(), value) {
                ("_class_name", Value::String(name)) => index.class_name = name,
                ("_diffusers_version", Value::String(v)) => index.diffusers_version = Some(v),
                // Where the folder was fetched from; without meaning once it is here.
                ("_name_or_path", _) => {}
                (unknown, _) if unknown.starts_with('_') => {
                    let known = "`_class_name`, `_diffusers_version` or `_name_or_path`";
                    let message = format!("`{unknown}` is not {known} with a string");
                    return Err(D::Error::custom(message));
                }
                (_, Value::Array(pair)) => {
                    let class = part_class(&key, &pair).map_err(D::Error::custom)?;
                    index.parts.push((key, class));
                }
                (_, value) => drop(index.options.insert(key, value)),
            }
        }
        if index.class_name.is_empty() {
            return Err(D::Error::missing_field("_class_name"));
        }
        Ok(index)
    }
}

fn part_class(key: &str, pair: &[Value]) -> Result<Option<PartClass>, String> {
    match pair {
        [Value::Null, Value::Null] => Ok(None),
        [Value::String(library), Value::String(class)] => Ok(Some(PartClass {
            library: library.clone(),
            class: class.clone(),
        })),
        _ => Err(format!(
            "part `{key}` must be `[\"library\", \"class\"]` or `[null, null]`"
        )),
    }
}

impl Serialize for ModelIndex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = Map::new();
        map.insert("_class_name".into(), self.class_name.clone().into());
        if let Some(version) = &self.diffusers_version {
            map.insert("_diffusers_version".into(), version.clone().into());
        }
        for (key, class) in &self.parts {
            let pair = match class {
                Some(found) => serde_json::json!([found.library, found.class]),
                None => serde_json::json!([null, null]),
            };
            map.insert(key.clone(), pair);
        }
        map.extend(self.options.clone());
        map.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by diffusers 0.42.1.
    const REAL: &[u8] = include_bytes!("../tests/fixtures/model_index.json");

    fn parse(text: &[u8]) -> Result<ModelIndex, FormatError> {
        ModelIndex::parse(text, Path::new("model_index.json"))
    }

    #[test]
    fn the_parts_of_stable_diffusion_are_found() {
        let index = parse(REAL).unwrap();
        assert_eq!(index.class_name, "StableDiffusionPipeline");
        assert_eq!(index.part("unet").unwrap().class, "UNet2DConditionModel");
        assert_eq!(index.part("safety_checker"), None);
        assert_eq!(index.options["requires_safety_checker"], false);
    }

    #[test]
    fn what_is_written_says_the_same_as_what_was_read() {
        let folder = tempfile::tempdir().unwrap();
        let index = parse(REAL).unwrap();
        index.write(folder.path()).unwrap();
        assert_eq!(ModelIndex::read(folder.path()).unwrap(), index);
        let theirs: Value = serde_json::from_slice(REAL).unwrap();
        let ours: Value = serde_json::to_value(&index).unwrap();
        assert_eq!(ours, theirs);
    }

    #[test]
    fn a_part_of_another_form_is_named() {
        let message = parse(br#"{"_class_name": "A", "unet": ["diffusers"]}"#)
            .unwrap_err()
            .to_string();
        assert!(message.contains("part `unet` must be"), "{message}");
    }

    #[test]
    fn an_index_without_a_pipeline_is_refused() {
        let message = parse(b"{}").unwrap_err().to_string();
        assert!(message.contains("missing field `_class_name`"), "{message}");
    }

    #[test]
    fn an_unknown_private_key_is_refused() {
        let message = parse(br#"{"_class_name": "A", "_magic": 1}"#)
            .unwrap_err()
            .to_string();
        assert!(message.contains("`_magic`"), "{message}");
    }
}
