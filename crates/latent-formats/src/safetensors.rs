//! The safetensors container: eight bytes of length, a JSON header, the tensors one after the other.
//!
//! The header is read by our own few lines and not by the `safetensors` crate, whose errors do not name the tensor;
//! the tests hold both against each other.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value, json};

use crate::weights::{Entry, Table};
use crate::{Bytes, Dtype, FormatError, write_atomic};

/// The format's own limit on the header, so that a hostile length costs no memory.
const HEADER_LIMIT: u64 = 100_000_000;
const METADATA: &str = "__metadata__";

/// A safetensors header opens with a brace after its length.
pub(crate) fn recognises(start: &[u8]) -> bool {
    start.get(8) == Some(&b'{')
}

/// Reads the header and checks that the tensors fill the rest of the file exactly.
pub(crate) fn read(path: &Path, bytes: &Bytes) -> Result<Table, FormatError> {
    let (header, data_start) = split(path, bytes)?;
    let Header(raw) = serde_json::from_slice(header)
        .map_err(|error| FormatError::weights(path, format!("its header is broken: {error}")))?;
    let data_len = bytes.len() - data_start;
    let mut table = Table::default();
    for (name, value) in raw {
        if name == METADATA {
            table.metadata = metadata(path, value)?;
        } else {
            let entry = entry(path, &name, value, data_start, data_len)?;
            table.entries.push((name, entry));
        }
    }
    check_places(path, &table, data_start, bytes.len())?;
    Ok(table)
}

fn split<'a>(path: &Path, bytes: &'a [u8]) -> Result<(&'a [u8], usize), FormatError> {
    let fail = |reason: String| Err(FormatError::weights(path, reason));
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return fail(format!(
            "it has {} bytes, a safetensors file has at least 8; fetch it again",
            bytes.len()
        ));
    };
    let length = u64::from_le_bytes(*length);
    if length > HEADER_LIMIT {
        return fail(format!(
            "its header claims {length} bytes, at most {HEADER_LIMIT} are allowed; it is no safetensors file"
        ));
    }
    match rest.split_at_checked(length as usize) {
        Some((header, _)) => Ok((header, 8 + header.len())),
        None => fail(format!(
            "its header claims {length} bytes, {} are there; it was cut, fetch it again",
            rest.len()
        )),
    }
}

/// Key and value in the file's order, a doubled key refused: serde's maps would keep the last in silence.
struct Header(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut pairs = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, Value>()? {
                    if let Some((doubled, _)) = pairs.remove_entry(&key) {
                        let message = format!("the key `{doubled}` stands twice");
                        return Err(serde::de::Error::custom(message));
                    }
                    pairs.insert(key, value);
                }
                Ok(Header(pairs.into_iter().collect()))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

fn metadata(path: &Path, value: Value) -> Result<BTreeMap<String, String>, FormatError> {
    serde_json::from_value(value).map_err(|error| {
        let reason = format!("its `{METADATA}` must map strings to strings: {error}");
        FormatError::weights(path, reason)
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [usize; 2],
}

/// One tensor's entry, its place counted from the start of the file.
fn entry(
    path: &Path,
    name: &str,
    value: Value,
    data_start: usize,
    data_len: usize,
) -> Result<Entry, FormatError> {
    let fail = |reason: String| FormatError::entry(path, name, reason);
    let raw: RawEntry = serde_json::from_value(value).map_err(|error| fail(error.to_string()))?;
    let dtype = Dtype::from_name(&raw.dtype).ok_or_else(|| {
        let known = Dtype::names();
        fail(format!("dtype `{}` is none of {known}", raw.dtype))
    })?;
    let [begin, end] = raw.data_offsets;
    if begin > end {
        return Err(fail(format!(
            "it ends at byte {end}, before its begin {begin}"
        )));
    }
    if end > data_len {
        return Err(fail(format!(
            "it ends at byte {end} of the data, {data_len} are there; the file was cut, fetch it again"
        )));
    }
    let needed = raw
        .shape
        .iter()
        .try_fold(dtype.size(), |bytes, &size| bytes.checked_mul(size))
        .ok_or_else(|| fail(format!("shape {:?} is larger than any memory", raw.shape)))?;
    if needed != end - begin {
        return Err(fail(format!(
            "shape {:?} of {} takes {needed} bytes, the entry has {}",
            raw.shape,
            raw.dtype,
            end - begin
        )));
    }
    Ok(Entry::dense(dtype, raw.shape, data_start + begin))
}

/// Tensors lie one behind the other, without overlap and without a gap: nothing can hide between them.
fn check_places(
    path: &Path,
    table: &Table,
    data_start: usize,
    file_len: usize,
) -> Result<(), FormatError> {
    let mut places: Vec<_> = table.entries.iter().collect();
    places.sort_by_key(|(name, entry)| (entry.offset, entry.byte_len(), name.clone()));
    let mut reached = data_start;
    let mut last = "";
    for (name, entry) in places {
        if entry.offset < reached {
            let reason = format!("its bytes overlap those of `{last}`");
            return Err(FormatError::entry(path, name, reason));
        }
        if entry.offset > reached {
            let gap = entry.offset - reached;
            let reason = format!("{gap} bytes before it belong to no tensor");
            return Err(FormatError::entry(path, name, reason));
        }
        reached += entry.byte_len();
        last = name;
    }
    if reached != file_len {
        let reason = format!("its last {} bytes belong to no tensor", file_len - reached);
        return Err(FormatError::weights(path, reason));
    }
    Ok(())
}

/// Gathers named tensors and writes them as one safetensors file.
///
/// The same tensors give the same bytes, in whatever order they were added.
#[derive(Default)]
pub struct SafetensorsWriter<'a> {
    metadata: BTreeMap<String, String>,
    tensors: BTreeMap<String, ToWrite<'a>>,
}

struct ToWrite<'a> {
    dtype: Dtype,
    shape: Vec<usize>,
    values: Values<'a>,
}

enum Values<'a> {
    /// To be converted while they are written.
    F32(&'a [f32]),
    Raw(&'a [u8]),
}

impl<'a> SafetensorsWriter<'a> {
    /// A file of no tensors yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a line of metadata; a second one of the same key replaces the first.
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// Adds a tensor of `values`, stored as F32, F16 or BF16 (rounded to nearest even).
    ///
    /// # Errors
    /// [`FormatError::TensorToWrite`] if the shape holds another count, the name is taken, the kind is another, or a
    /// finite value is too large for it.
    pub fn f32(
        self,
        name: &str,
        shape: &[usize],
        values: &'a [f32],
        dtype: Dtype,
    ) -> Result<Self, FormatError> {
        let largest = match dtype {
            Dtype::F32 => f32::MAX,
            Dtype::F16 => half::f16::MAX.to_f32(),
            Dtype::Bf16 => half::bf16::MAX.to_f32(),
            _ => return Err(unwritable(name, "floats are stored as F32, F16 or BF16")),
        };
        if let Some(value) = values.iter().find(|v| v.is_finite() && v.abs() > largest) {
            let reason = format!("its value {value} does not fit into {}", dtype.name());
            return Err(unwritable(name, reason));
        }
        self.add(name, dtype, shape, Values::F32(values), values.len())
    }

    /// Adds a tensor whose little-endian bytes are ready.
    ///
    /// # Errors
    /// [`FormatError::TensorToWrite`] if shape and bytes disagree or the name is taken.
    pub fn raw(
        self,
        name: &str,
        shape: &[usize],
        bytes: &'a [u8],
        dtype: Dtype,
    ) -> Result<Self, FormatError> {
        if !bytes.len().is_multiple_of(dtype.size()) {
            return Err(unwritable(name, "its bytes are no whole number of values"));
        }
        self.add(
            name,
            dtype,
            shape,
            Values::Raw(bytes),
            bytes.len() / dtype.size(),
        )
    }

    fn add(
        mut self,
        name: &str,
        dtype: Dtype,
        shape: &[usize],
        values: Values<'a>,
        count: usize,
    ) -> Result<Self, FormatError> {
        let product = shape
            .iter()
            .try_fold(1usize, |n, &size| n.checked_mul(size));
        if product != Some(count) {
            let reason = format!("shape {shape:?} does not hold its {count} values");
            return Err(unwritable(name, reason));
        }
        if name == METADATA {
            return Err(unwritable(name, "the format keeps that name for itself"));
        }
        let shape = shape.to_vec();
        let tensor = ToWrite {
            dtype,
            shape,
            values,
        };
        match self.tensors.insert(name.to_string(), tensor) {
            None => Ok(self),
            Some(_) => Err(unwritable(name, "a tensor of that name is there already")),
        }
    }

    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    /// [`FormatError::Io`] as [`write_atomic`].
    pub fn write(&self, path: &Path) -> Result<(), FormatError> {
        write_atomic(path, |writer| self.write_to(writer))
    }

    /// The file's bytes.
    ///
    /// # Errors
    /// [`FormatError::Weights`] if memory refuses them.
    pub fn to_bytes(&self) -> Result<Vec<u8>, FormatError> {
        let mut bytes = Vec::new();
        self.write_to(&mut bytes)
            .map_err(|error| FormatError::weights(Path::new("memory"), error.to_string()))?;
        Ok(bytes)
    }

    fn write_to(&self, writer: &mut dyn Write) -> io::Result<()> {
        // Wide kinds first, so that every tensor lies at a multiple of its own width.
        let mut order: Vec<_> = self.tensors.iter().collect();
        order.sort_by_key(|(name, tensor)| (std::cmp::Reverse(tensor.dtype.size()), *name));
        let mut header = Map::new();
        if !self.metadata.is_empty() {
            header.insert(METADATA.to_string(), json!(self.metadata));
        }
        let mut end = 0;
        for (name, tensor) in &order {
            let begin = end;
            end += tensor.shape.iter().product::<usize>() * tensor.dtype.size();
            let entry = json!({
                "dtype": tensor.dtype.name(), "shape": tensor.shape, "data_offsets": [begin, end],
            });
            header.insert((*name).clone(), entry);
        }
        let mut header = serde_json::to_vec(&header)?;
        header.resize(header.len().next_multiple_of(8), b' ');
        writer.write_all(&(header.len() as u64).to_le_bytes())?;
        writer.write_all(&header)?;
        order
            .iter()
            .try_for_each(|(_, tensor)| tensor.write_to(writer))
    }
}

impl ToWrite<'_> {
    /// Converts some thousands of values at a time, so that a large tensor is not held twice.
    fn write_to(&self, writer: &mut dyn Write) -> io::Result<()> {
        match self.values {
            Values::Raw(bytes) => writer.write_all(bytes),
            Values::F32(values) => {
                let mut bytes = Vec::new();
                for part in values.chunks(1 << 16) {
                    bytes.clear();
                    self.dtype
                        .append_f32(part, &mut bytes)
                        .ok_or_else(|| io::Error::other("not a float"))?;
                    writer.write_all(&bytes)?;
                }
                Ok(())
            }
        }
    }
}

fn unwritable(name: &str, reason: impl Into<String>) -> FormatError {
    FormatError::TensorToWrite {
        name: name.to_string(),
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests;
