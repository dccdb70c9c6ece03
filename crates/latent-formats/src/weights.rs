//! Named tensors of one or several files, whatever their format.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::{Bytes, Dtype, FormatError, parse_json, pickle, safetensors};

mod changed;

pub use changed::ChangedTensors;

/// A kind of weights file.
pub struct WeightFormat {
    /// Its name, for messages.
    pub name: &'static str,
    /// The endings of its files.
    pub extensions: &'static [&'static str],
    recognises: fn(&[u8]) -> bool,
    read: fn(&Path, &Bytes) -> Result<Table, FormatError>,
}

/// Every weights format; a new one is a module and a row here.
pub const FORMATS: &[WeightFormat] = &[
    // The container that everyone writes today.
    WeightFormat {
        name: "safetensors",
        extensions: &["safetensors"],
        recognises: safetensors::recognises,
        read: safetensors::read,
    },
    // What PyTorch saves by itself: older checkpoints and embeddings.
    WeightFormat {
        name: "PyTorch pickle",
        extensions: &["ckpt", "pt", "pth", "bin"],
        recognises: pickle::recognises,
        read: pickle::read,
    },
];

/// What a format's reader finds in one file.
#[derive(Default)]
pub(crate) struct Table {
    pub(crate) entries: Vec<(String, Entry)>,
    pub(crate) metadata: BTreeMap<String, String>,
}

/// Where a tensor lies in its file.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    /// First byte, from the start of the file.
    pub(crate) offset: usize,
    /// Steps between neighbours of each dimension, in values; `None` when they are those of the shape.
    pub(crate) strides: Option<Vec<usize>>,
}

impl Entry {
    /// A tensor without holes. The caller has checked that shape and offset lie inside the file.
    pub(crate) fn dense(dtype: Dtype, shape: Vec<usize>, offset: usize) -> Self {
        Self {
            dtype,
            shape,
            offset,
            strides: None,
        }
    }

    /// Bytes of the values, without holes.
    pub(crate) fn byte_len(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.size()
    }

    /// Run `which` of `count` equal runs of rows; `None` if the rows do not fall into so many.
    fn rows(&self, (which, count): (usize, usize)) -> Option<Self> {
        if count == 1 {
            return Some(self.clone());
        }
        let rows = *self.shape.first()?;
        if count == 0 || which >= count || !rows.is_multiple_of(count) {
            return None;
        }
        let step = match &self.strides {
            Some(strides) => strides[0],
            None => self.shape[1..].iter().product(),
        };
        let mut part = self.clone();
        part.shape[0] = rows / count;
        part.offset += which * part.shape[0] * step * self.dtype.size();
        Some(part)
    }

    /// The same values with rows as columns; `None` unless there are two dimensions.
    fn transposed(&self) -> Option<Self> {
        let [rows, columns] = *self.shape.as_slice() else {
            return None;
        };
        let strides = match self.strides.as_deref() {
            Some([row, column]) => vec![*column, *row],
            _ => vec![1, columns],
        };
        Some(Self {
            shape: vec![columns, rows],
            strides: Some(strides),
            ..self.clone()
        })
    }

    fn bytes<'a>(&self, file: &'a [u8]) -> Cow<'a, [u8]> {
        match &self.strides {
            None => Cow::Borrowed(&file[self.offset..self.offset + self.byte_len()]),
            Some(strides) => Cow::Owned(self.gather(&file[self.offset..], strides)),
        }
    }

    /// Walks the positions in row-major order; `from` is the place of the first value.
    fn gather(&self, from: &[u8], strides: &[usize]) -> Vec<u8> {
        let size = self.dtype.size();
        let mut out = Vec::with_capacity(self.byte_len());
        let mut position = vec![0; self.shape.len()];
        for _ in 0..self.shape.iter().product() {
            let place: usize = position.iter().zip(strides).map(|(p, s)| p * s).sum();
            out.extend_from_slice(&from[place * size..(place + 1) * size]);
            for (at, &len) in position.iter_mut().zip(&self.shape).rev() {
                *at += 1;
                if *at < len {
                    break;
                }
                *at = 0;
            }
        }
        out
    }
}

/// A tensor's other name, or the name of a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renamed {
    /// The new name.
    pub name: String,
    /// Which of how many equal runs of rows it names; `(0, 1)` for the whole tensor.
    pub rows: (usize, usize),
    /// Rows become columns; for tensors of two dimensions.
    pub transposed: bool,
}

impl Renamed {
    /// Another name of a whole tensor.
    pub fn whole(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            rows: (0, 1),
            transposed: false,
        }
    }

    /// Another name of a tensor `[a, b]` whose values are shown as `[b, a]`.
    pub fn transposed(name: impl Into<String>) -> Self {
        Self {
            transposed: true,
            ..Self::whole(name)
        }
    }
}

/// Named tensors of one file, or of several that belong together. Nothing is read before it is asked for.
#[derive(Clone, Debug)]
pub struct Weights {
    path: PathBuf,
    files: Vec<Bytes>,
    entries: BTreeMap<String, (usize, Entry)>,
    metadata: BTreeMap<String, String>,
}

/// One tensor as it lies in the file.
#[derive(Debug)]
pub struct TensorView<'a> {
    /// Its key.
    pub name: &'a str,
    /// The kind of its values.
    pub dtype: Dtype,
    /// Its sizes, the slowest first.
    pub shape: &'a [usize],
    /// Its values, little-endian, row after row.
    pub bytes: Cow<'a, [u8]>,
}

impl TensorView<'_> {
    /// The values as `f32`, rounded to nearest where they do not fit.
    pub fn to_f32(&self) -> Vec<f32> {
        self.dtype.to_f32(&self.bytes)
    }

    /// The values of an integer tensor; `None` for floats, or where an `i64` is too small.
    pub fn to_i64(&self) -> Option<Vec<i64>> {
        self.dtype.to_i64(&self.bytes)
    }
}

/// One tensor of a file that stays readable without the [`Weights`] it came from.
#[derive(Clone, Debug)]
pub struct StoredTensor {
    file: Bytes,
    range: Range<usize>,
    dtype: Dtype,
}

impl StoredTensor {
    /// The kind of its values.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The values as `f32`.
    pub fn to_f32(&self) -> Vec<f32> {
        self.dtype.to_f32(self.as_ref())
    }

    /// Gives the memory that reading took back to the system; it can be read again.
    pub fn release(&self) {
        self.file.release(self.range.clone());
    }
}

impl AsRef<[u8]> for StoredTensor {
    fn as_ref(&self) -> &[u8] {
        &self.file[self.range.clone()]
    }
}

impl Weights {
    /// Opens a weights file, or the `*.index.json` of one that was cut into several.
    ///
    /// # Errors
    /// [`FormatError`] if a file is missing or its header does not describe exactly what the file holds.
    pub fn open(path: &Path) -> Result<Self, FormatError> {
        if path.extension().is_some_and(|ending| ending == "json") {
            return Self::open_index(path);
        }
        Self::from_named_bytes(path, Bytes::map(path)?)
    }

    /// Reads a weights file that is in memory; `name` stands for it in messages.
    ///
    /// # Errors
    /// [`FormatError`] as [`Weights::open`].
    pub fn from_bytes(name: &str, bytes: Bytes) -> Result<Self, FormatError> {
        Self::from_named_bytes(Path::new(name), bytes)
    }

    fn from_named_bytes(path: &Path, bytes: Bytes) -> Result<Self, FormatError> {
        let table = (format_of(path, &bytes)?.read)(path, &bytes)?;
        let entries = table.entries.into_iter();
        Ok(Self {
            path: path.to_path_buf(),
            files: vec![bytes],
            entries: entries.map(|(name, entry)| (name, (0, entry))).collect(),
            metadata: table.metadata,
        })
    }

    fn open_index(path: &Path) -> Result<Self, FormatError> {
        let index: Index = parse_json(&Bytes::map(path)?, path)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut whole = Self {
            path: path.to_path_buf(),
            files: Vec::new(),
            entries: BTreeMap::new(),
            metadata: BTreeMap::new(),
        };
        let mut shards: BTreeMap<String, (usize, Self)> = BTreeMap::new();
        for (tensor, file) in index.weight_map {
            if !shards.contains_key(&file) {
                // Never another index, which could lead back to this one.
                let place = folder.join(plain_name(path, &file)?);
                let shard = Self::from_named_bytes(&place, Bytes::map(&place)?)?;
                let number = whole.files.len();
                whole.metadata.extend(shard.metadata.clone());
                whole.files.extend(shard.files.iter().cloned());
                shards.insert(file.clone(), (number, shard));
            }
            let (number, shard) = &shards[&file];
            let found = shard.entries.get(&tensor);
            let (_, entry) = found.ok_or_else(|| shard.missing(&tensor))?;
            whole.entries.insert(tensor, (*number, entry.clone()));
        }
        Ok(whole)
    }

    /// The tensors for which `rename` has names, under those names. Nothing is copied.
    #[must_use]
    pub fn renamed(&self, rename: impl Fn(&str) -> Vec<Renamed>) -> Self {
        let mut entries = BTreeMap::new();
        for (name, (file, entry)) in &self.entries {
            for renamed in rename(name) {
                let part = entry.rows(renamed.rows);
                let part = match renamed.transposed {
                    true => part.and_then(|part| part.transposed()),
                    false => part,
                };
                if let Some(entry) = part {
                    entries.insert(renamed.name, (*file, entry));
                }
            }
        }
        Self {
            path: self.path.clone(),
            files: self.files.clone(),
            entries,
            metadata: self.metadata.clone(),
        }
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Count of tensors.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no tensor at all.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether there is a tensor of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// The file, or the name that stands for it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the file says about itself.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// A tensor's kind and shape, without touching its values; `None` if there is none of that name.
    pub fn describe(&self, name: &str) -> Option<(Dtype, &[usize])> {
        let (_, entry) = self.entries.get(name)?;
        Some((entry.dtype, &entry.shape))
    }

    /// A tensor as it lies in the file.
    ///
    /// # Errors
    /// [`FormatError::MissingTensor`].
    pub fn tensor(&self, name: &str) -> Result<TensorView<'_>, FormatError> {
        let (name, (file, entry)) = self
            .entries
            .get_key_value(name)
            .ok_or_else(|| self.missing(name))?;
        Ok(TensorView {
            name,
            dtype: entry.dtype,
            shape: &entry.shape,
            bytes: entry.bytes(&self.files[*file]),
        })
    }

    /// A tensor as it lies in the file, to be read when it is needed; `None` if there is none of this name, or its
    /// values do not lie in one run at an address that fits them.
    pub fn stored(&self, name: &str) -> Option<StoredTensor> {
        let (file, entry) = self.entries.get(name)?;
        let stored = StoredTensor {
            file: self.files[*file].clone(),
            range: entry.offset..entry.offset + entry.byte_len(),
            dtype: entry.dtype,
        };
        let aligned = (stored.as_ref().as_ptr() as usize).is_multiple_of(entry.dtype.size());
        (entry.strides.is_none() && aligned).then_some(stored)
    }

    /// A tensor's values as `f32`, row after row.
    ///
    /// # Errors
    /// [`FormatError::MissingTensor`].
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>, FormatError> {
        Ok(self.tensor(name)?.to_f32())
    }

    /// [`Weights::read_f32`] of a tensor that must have `shape`.
    ///
    /// # Errors
    /// [`FormatError::MissingTensor`], [`FormatError::TensorShape`].
    pub fn read_f32_shaped(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, FormatError> {
        let tensor = self.tensor(name)?;
        if tensor.shape != shape {
            return Err(FormatError::TensorShape {
                path: self.path.clone(),
                name: name.to_string(),
                found: tensor.shape.to_vec(),
                needed: shape.to_vec(),
            });
        }
        Ok(tensor.to_f32())
    }

    fn missing(&self, name: &str) -> FormatError {
        let nearest = self
            .names()
            .map(|known| (edit_distance(known, name), known))
            .min()
            .filter(|(distance, _)| *distance * 3 <= name.chars().count());
        FormatError::MissingTensor {
            path: self.path.clone(),
            name: name.to_string(),
            nearest: nearest.map(|(_, known)| known.to_string()),
        }
    }
}

/// Recognised by content, else by the name's ending, for a broken file should be named after what it claims to be.
fn format_of(path: &Path, bytes: &[u8]) -> Result<&'static WeightFormat, FormatError> {
    if bytes.starts_with(b"version https://git-lfs") {
        let reason =
            "it is a Git LFS pointer, not the weights; run `git lfs pull` where it came from";
        return Err(FormatError::weights(path, reason));
    }
    let ending = path.extension().and_then(|ending| ending.to_str());
    let by_ending = |row: &&WeightFormat| ending.is_some_and(|e| row.extensions.contains(&e));
    FORMATS
        .iter()
        .find(|row| (row.recognises)(bytes))
        .or_else(|| FORMATS.iter().find(by_ending))
        .ok_or_else(|| {
            let known: Vec<_> = FORMATS.iter().map(|row| row.name).collect();
            FormatError::weights(path, format!("its content is none of {}", known.join(", ")))
        })
}

/// `model.safetensors.index.json` of files that were cut into shards.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Index {
    #[serde(default, rename = "metadata")]
    _metadata: serde_json::Value,
    weight_map: BTreeMap<String, String>,
}

/// An index may only name files beside it.
fn plain_name<'a>(index: &Path, file: &'a str) -> Result<&'a Path, FormatError> {
    let name = Path::new(file);
    let mut parts = name.components();
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(_)), None) => Ok(name),
        _ => Err(FormatError::weights(
            index,
            format!("it names `{file}`; only files in its own folder are allowed"),
        )),
    }
}

/// Source: Wagner and Fischer 1974; one row of the table at a time.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let changed = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests;
