//! A data set: examples in a fixed order, their pictures loaded when they are asked for.

use std::fs;
use std::path::{Path, PathBuf};

use latent_formats::{Bytes, FormatError, Picture};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::metadata::Fields;
use super::{folder, pattern, shards};
use crate::DataError;

/// A text that describes a picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caption {
    /// The language's short name, as in `en`, where the data says it.
    pub language: Option<String>,
    /// The words.
    pub text: String,
}

/// One picture and what is known about it.
#[derive(Clone, Debug)]
pub struct Example {
    /// Its name, unique in the data set and the same whenever it is opened.
    pub key: String,
    /// Its captions; training picks one each time.
    pub captions: Vec<Caption>,
    /// Its class, for models that draw by class: `class` or `label` of its metadata, `.cls` in a shard, else the
    /// folder it lies in.
    pub class: Option<String>,
    /// How often it is drawn, compared with the others' 1.
    pub weight: f64,
    /// Whether it may be mirrored in training; true unless its metadata says `"flip": false`.
    pub flip: bool,
    /// What else its metadata says.
    pub attributes: Map<String, Value>,
    pub(super) place: Place,
}

/// Where a picture's bytes are.
#[derive(Clone, Debug)]
pub(super) enum Place {
    File {
        path: PathBuf,
        len: u64,
    },
    Member {
        shard: usize,
        name: String,
        offset: usize,
        len: usize,
    },
}

/// Whether training can do without captions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Captions {
    /// A picture without one is an error.
    Required,
    /// For autoencoders, and models that draw by class or without being told.
    Optional,
}

/// Pictures with captions: a folder, a `metadata.jsonl`, or WebDataset shards.
///
/// ```no_run
/// use latent_data::{Captions, DataSet};
/// # fn main() -> Result<(), latent_data::DataError> {
/// let data = DataSet::open("pictures".as_ref(), Captions::Required)?;
/// let first = data.load(0)?;
/// println!("{}: {}x{}", data.examples()[0].captions[0].text, first.width(), first.height());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct DataSet {
    path: PathBuf,
    examples: Vec<Example>,
    shards: Vec<Shard>,
    classes: Vec<String>,
}

/// An open tar file.
#[derive(Debug)]
pub(super) struct Shard {
    pub(super) path: PathBuf,
    pub(super) bytes: Bytes,
}

/// What a reader finds.
#[derive(Default)]
pub(super) struct Found {
    pub(super) examples: Vec<Example>,
    pub(super) shards: Vec<Shard>,
    /// Where captions were looked for, for the message that says there are none.
    pub(super) looked_for: &'static str,
}

impl DataSet {
    /// Opens a data set, by what lies at `path`:
    ///
    /// - a folder with `metadata.jsonl`, or another `.jsonl` file: a line for each picture, with `file_name` (or
    ///   `file`) and captions under `text`, `caption`, `captions`, `en` or `ko`, as a string or a list;
    /// - a folder of pictures, with each `NAME.png` (`.jpg`, `.jpeg`, `.webp`) a `NAME.txt` of a caption a line;
    /// - `.tar`, `.tar.gz`, `.tgz` in WebDataset layout (`NAME.jpg` with `NAME.txt`, `NAME.json`, `NAME.cls`), a
    ///   folder of them, or a pattern such as `shard-*.tar` or `shard-{000..012}.tar`.
    ///
    /// The order is that of the lines, else of the names.
    ///
    /// # Errors
    /// [`DataError`] if there is no picture, a line or a shard is broken, a named picture is missing, two examples
    /// share a key, or a caption is missing that is [`Captions::Required`].
    pub fn open(path: &Path, captions: Captions) -> Result<Self, DataError> {
        let found = find(path)?;
        if found.examples.is_empty() {
            return Err(not_found(path));
        }
        check_keys(path, &found.examples)?;
        if captions == Captions::Required {
            check_captions(path, &found)?;
        }
        let mut set = Self {
            path: path.to_path_buf(),
            examples: found.examples,
            shards: found.shards,
            classes: Vec::new(),
        };
        set.classes = set.sorted_classes();
        Ok(set)
    }

    /// Count of examples.
    pub fn len(&self) -> usize {
        self.examples.len()
    }

    /// Whether no example is left.
    pub fn is_empty(&self) -> bool {
        self.examples.is_empty()
    }

    /// All examples, in the data set's order.
    pub fn examples(&self) -> &[Example] {
        &self.examples
    }

    /// Names of all classes; a class's place among them is its label. Numbers are sorted as numbers.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Sampling weights of all examples.
    pub fn weights(&self) -> Vec<f64> {
        self.examples.iter().map(|example| example.weight).collect()
    }

    /// Drops examples that training should not see, as those of another split.
    pub fn retain(&mut self, keep: impl FnMut(&Example) -> bool) {
        self.examples.retain(keep);
        self.classes = self.sorted_classes();
    }

    /// Loads the picture of example `index`.
    ///
    /// # Errors
    /// [`DataError::Format`] if its file is missing or broken.
    ///
    /// # Panics
    /// If there are no more than `index` examples.
    pub fn load(&self, index: usize) -> Result<Picture, DataError> {
        self.at(index, Picture::open, Picture::decode)
    }

    /// Width and height of the picture of example `index`, without reading its pixels.
    ///
    /// # Errors
    /// [`DataError::Format`] if its file is missing or its beginning is broken.
    ///
    /// # Panics
    /// If there are no more than `index` examples.
    pub fn measure(&self, index: usize) -> Result<[usize; 2], DataError> {
        let file = |path: &Path| Picture::measure(&Bytes::map(path)?, path);
        self.at(index, file, Picture::measure)
    }

    /// What `file` makes of the picture's file, or `member` of its bytes in a shard, whose name is for messages.
    fn at<T>(
        &self,
        index: usize,
        file: impl FnOnce(&Path) -> Result<T, FormatError>,
        member: impl FnOnce(&[u8], &Path) -> Result<T, FormatError>,
    ) -> Result<T, DataError> {
        Ok(match &self.examples[index].place {
            Place::File { path, .. } => file(path)?,
            Place::Member {
                shard,
                name,
                offset,
                len,
            } => {
                let Shard { path, bytes } = &self.shards[*shard];
                let name = format!("{}:{name}", path.display());
                member(&bytes[*offset..offset + len], Path::new(&name))?
            }
        })
    }

    /// A checksum over keys, captions, classes and the sizes of the picture files, for caches made from the data.
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        for example in &self.examples {
            let texts = example.captions.iter().map(|caption| caption.text.as_str());
            let parts = std::iter::once(example.key.as_str()).chain(texts);
            for part in parts.chain(example.class.as_deref()) {
                // Lengths keep "ab", "c" apart from "a", "bc".
                hash.update((part.len() as u64).to_le_bytes());
                hash.update(part);
            }
            let len = match &example.place {
                Place::File { len, .. } => *len,
                Place::Member { len, .. } => *len as u64,
            };
            hash.update(len.to_le_bytes());
        }
        hash.finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// What was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn sorted_classes(&self) -> Vec<String> {
        let names = self
            .examples
            .iter()
            .filter_map(|example| example.class.clone());
        let mut names: Vec<String> = names.collect();
        names.sort_by_cached_key(|name| (name.parse::<u64>().unwrap_or(u64::MAX), name.clone()));
        names.dedup();
        names
    }
}

impl Example {
    pub(super) fn new(key: String, fields: Fields, place: Place) -> Self {
        Self {
            key: fields.key.unwrap_or(key),
            captions: fields.captions,
            class: fields.class,
            weight: fields.weight,
            flip: fields.flip,
            attributes: fields.attributes,
            place,
        }
    }
}

/// Chooses the reader.
fn find(path: &Path) -> Result<Found, DataError> {
    let Ok(kind) = fs::metadata(path) else {
        let shards = pattern::matching(path)?;
        return shards::read(&shards);
    };
    if !kind.is_dir() {
        return match () {
            () if shards::is_shard(path) => shards::read(&[path.to_path_buf()]),
            () if path.extension().is_some_and(|ending| ending == "jsonl") => {
                folder::read_lines(path)
            }
            () => Err(not_found(path)),
        };
    }
    let lines = path.join(folder::METADATA);
    if lines.is_file() {
        return folder::read_lines(&lines);
    }
    let tars = pattern::files_of(path, shards::is_shard)?;
    let found = folder::read_pictures(path)?;
    if tars.is_empty() {
        return Ok(found);
    }
    if !found.examples.is_empty() {
        let reason = "it holds pictures and tar shards; name the shards by a pattern such as `*.tar`, or move them";
        return Err(DataError::conflict(path, reason));
    }
    shards::read(&tars)
}

fn not_found(path: &Path) -> DataError {
    DataError::NotFound {
        path: path.to_path_buf(),
        reason: format!(
            "looked for pictures (.png, .jpg, .jpeg, .webp), `{}` and shards (.tar, .tar.gz, .tgz)",
            folder::METADATA
        ),
    }
}

fn check_keys(path: &Path, examples: &[Example]) -> Result<(), DataError> {
    let mut keys: Vec<&str> = examples
        .iter()
        .map(|example| example.key.as_str())
        .collect();
    keys.sort_unstable();
    match keys.windows(2).find(|pair| pair[0] == pair[1]) {
        None => Ok(()),
        Some(pair) => {
            let reason = format!("two examples have the key `{}`; rename one", pair[0]);
            Err(DataError::conflict(path, reason))
        }
    }
}

fn check_captions(path: &Path, found: &Found) -> Result<(), DataError> {
    let bare = found
        .examples
        .iter()
        .filter(|example| example.captions.is_empty());
    let bare: Vec<&str> = bare.map(|example| example.key.as_str()).collect();
    let Some(first) = bare.first() else {
        return Ok(());
    };
    let all = found.examples.len();
    let which = if bare.len() == all {
        format!("none of its {all} pictures has one")
    } else {
        format!(
            "{} of its {all} pictures have none, the first is `{first}`",
            bare.len()
        )
    };
    Err(DataError::NoCaptions {
        path: path.to_path_buf(),
        reason: format!("{which}; looked for {}", found.looked_for),
    })
}

#[cfg(test)]
mod tests;
