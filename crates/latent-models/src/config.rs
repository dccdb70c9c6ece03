//! Strict reading of diffusers' and transformers' configs: what is not understood is refused, and named.

use std::path::Path;

use latent_formats::{parse_config, parse_json};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{ModelError, Result};
use crate::files::FileSource;

/// A model's config, as its folder's `config.json` says it.
pub(crate) trait ModelConfig: Serialize + DeserializeOwned + Clone {
    /// The class in Python that has this config.
    const CLASS: &'static str;
    /// Keys that say which class the file is of, with the key's value for this one.
    const IDENTITY: &'static [(&'static str, &'static str)];
    /// Keys of choices we do not offer, each with the JSON values that mean what we do.
    const FIXED: &'static [(&'static str, &'static [&'static str])];
    /// Keys that Python expects and we do not need, with their JSON values, for files we write.
    const WRITTEN: &'static [(&'static str, &'static str)] = &[];
    /// Keys without meaning for the result.
    const IGNORED: &'static [&'static str];

    /// Refuses sizes that do not fit together.
    fn check_sizes(&self) -> Result<(), Fault>;

    /// [`ModelConfig::check_sizes`] of a config that is not from a file of its own.
    fn checked(&self) -> Result<()> {
        self.check_sizes()
            .map_err(|fault| fault.at(format!("the config of `{}`", Self::CLASS)))
    }
}

/// A key and what is wrong with its value.
#[derive(Debug)]
pub(crate) struct Fault {
    key: String,
    reason: String,
}

impl Fault {
    pub(crate) fn new(key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            reason: reason.into(),
        }
    }

    fn at(self, place: String) -> ModelError {
        ModelError::Config {
            place,
            key: self.key,
            reason: self.reason,
        }
    }
}

/// `Err` with the key and the reason unless `fits`.
pub(crate) fn need(fits: bool, key: &str, reason: impl FnOnce() -> String) -> Result<(), Fault> {
    if fits {
        Ok(())
    } else {
        Err(Fault::new(key, reason()))
    }
}

/// What several models ask of their sizes: at least one, below what would overflow on its way to memory.
pub(crate) fn need_sizes(sizes: &[(&str, usize)]) -> Result<(), Fault> {
    for &(key, size) in sizes {
        need((1..=1 << 20).contains(&size), key, || {
            format!("is {size}; it must be between 1 and 1048576")
        })?;
    }
    Ok(())
}

/// What several models ask of their counts of layers: models are built layer by layer, before their weights say how many
/// there are.
pub(crate) fn need_layers(counts: &[(&str, usize)]) -> Result<(), Fault> {
    for &(key, count) in counts {
        need((1..=256).contains(&count), key, || {
            format!("is {count}; between 1 and 256 layers can be built")
        })?;
    }
    Ok(())
}

/// One number for every level, or one for each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Counts {
    /// The same everywhere.
    Same(usize),
    /// Level by level.
    Each(Vec<usize>),
}

impl Counts {
    /// The number of level `index`; the last one's where the list is shorter.
    pub fn at(&self, index: usize) -> usize {
        match self {
            Self::Same(count) => *count,
            Self::Each(counts) => counts.get(index).or(counts.last()).copied().unwrap_or(0),
        }
    }

    /// Refuses zeros and lists of another length than `levels`.
    pub(crate) fn check(&self, key: &str, levels: usize) -> Result<(), Fault> {
        if let Self::Each(counts) = self {
            need(counts.len() == levels, key, || {
                format!(
                    "has {} numbers, and there are {levels} levels",
                    counts.len()
                )
            })?;
        }
        (0..levels).try_for_each(|level| need_sizes(&[(key, self.at(level))]))
    }
}

/// Layers of something that follows each block of a level: one number for all, or level by level, where a level may list
/// its blocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Depths {
    /// The same everywhere.
    Same(usize),
    /// Level by level.
    Each(Vec<Counts>),
}

impl Depths {
    /// The number of layers after block `block` of level `level`.
    pub fn at(&self, level: usize, block: usize) -> usize {
        match self {
            Self::Same(count) => *count,
            Self::Each(levels) => levels.get(level).map_or(0, |counts| counts.at(block)),
        }
    }

    /// Whether a level lists its blocks.
    pub fn lists_blocks(&self) -> bool {
        matches!(self, Self::Each(levels) if levels.iter().any(|level| matches!(level, Counts::Each(_))))
    }

    /// Refuses another number of levels than `levels` has, and zeros and lists of a wrong length where a level has
    /// blocks; `levels` says how many.
    pub(crate) fn check(&self, key: &str, levels: &[Option<usize>]) -> Result<(), Fault> {
        if let Self::Each(counts) = self {
            need(counts.len() == levels.len(), key, || {
                format!(
                    "has {} numbers, and there are {} levels",
                    counts.len(),
                    levels.len()
                )
            })?;
        }
        for (level, blocks) in levels.iter().enumerate() {
            let Some(blocks) = *blocks else { continue };
            if let Self::Each(counts) = self
                && let Counts::Each(list) = &counts[level]
            {
                need(list.len() == blocks, key, || {
                    format!(
                        "lists {} blocks for level {level}, which has {blocks}",
                        list.len()
                    )
                })?;
            }
            (0..blocks).try_for_each(|block| need_layers(&[(key, self.at(level, block))]))?;
        }
        Ok(())
    }
}

/// Reads `config.json` of a folder.
pub(crate) fn read<T: ModelConfig>(files: &FileSource) -> Result<T> {
    let bytes = files.need("config.json", "config")?;
    parse(&bytes, &files.path().join("config.json"))
}

/// Reads a config; `name` stands for its file in messages.
pub(crate) fn parse<T: ModelConfig>(bytes: &[u8], name: &Path) -> Result<T> {
    let all: Map<String, Value> = parse_json(bytes, name)?;
    let place = || format!("`{}`", name.display());
    for (key, class) in T::IDENTITY {
        if let Some(found) = all.get(*key).filter(|&found| found != class) {
            let reason = format!("is {found}, and this part must be a `{class}`");
            return Err(Fault::new(*key, reason).at(place()));
        }
    }
    for (key, allowed) in T::FIXED {
        if let Some(found) = all.get(*key).filter(|found| !is_one_of(found, allowed)) {
            let reason = format!("is {found}; Latent supports {}", allowed.join(" or "));
            return Err(Fault::new(*key, reason).at(place()));
        }
    }
    let mut ignored: Vec<&str> = T::IDENTITY.iter().map(|(key, _)| *key).collect();
    ignored.extend(T::FIXED.iter().map(|(key, _)| *key));
    ignored.extend(T::IGNORED);
    let config: T = parse_config(bytes, name, &ignored)?;
    config.check_sizes().map_err(|fault| fault.at(place()))?;
    Ok(config)
}

/// Whether `found` equals one of the JSON values `allowed`; `1` and `1.0` are the same.
fn is_one_of(found: &Value, allowed: &[&str]) -> bool {
    allowed.iter().any(|allowed| {
        serde_json::from_str::<Value>(allowed).is_ok_and(|allowed| {
            allowed == *found || (found.is_number() && allowed.as_f64() == found.as_f64())
        })
    })
}

/// The config as a file says it, so that Python opens it.
pub(crate) fn to_json<T: ModelConfig>(config: &T) -> Value {
    let mut all = Map::new();
    for (key, class) in T::IDENTITY {
        all.insert((*key).into(), (*class).into());
    }
    for (key, value) in T::WRITTEN {
        all.insert(
            (*key).into(),
            serde_json::from_str(value).unwrap_or_default(),
        );
    }
    // A struct of numbers, strings and lists always becomes an object.
    if let Ok(Value::Object(own)) = serde_json::to_value(config) {
        all.extend(own);
    }
    Value::Object(all)
}
