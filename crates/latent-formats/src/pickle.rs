//! Pickled checkpoints of PyTorch (`.ckpt`, `.pt`, `.bin`): tensors and plain containers, nothing else.
//!
//! Python executes what a pickle asks for; here nothing can be executed. A pickle builds values on a stack, and of the
//! names that it may call only those in [`machine`]'s table mean anything. Any other is refused by name.

mod layout;
mod machine;
mod zip;

use std::collections::HashMap;
use std::path::Path;

use crate::weights::Table;
use crate::{Bytes, FormatError};
use layout::{Places, flatten};
use machine::Machine;

/// The first pickle of files from before PyTorch 1.6.
const LEGACY_START: &[u8] = &[
    0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19,
];

/// A zip archive, or the magic number of older files.
pub(crate) fn recognises(start: &[u8]) -> bool {
    start.starts_with(b"PK\x03\x04") || start.starts_with(LEGACY_START)
}

/// Reads the tensors of a checkpoint: those under `state_dict` if there is one, else all, nested names joined by dots.
/// Numbers and texts beside them become metadata.
pub(crate) fn read(path: &Path, bytes: &Bytes) -> Result<Table, FormatError> {
    let fail = |reason: String| FormatError::weights(path, reason);
    if bytes.starts_with(LEGACY_START) {
        return read_legacy(bytes).map_err(fail);
    }
    read_zip(bytes).map_err(fail)
}

/// `NAME/data.pkl` describes tensors, `NAME/data/KEY` holds each storage.
fn read_zip(bytes: &[u8]) -> Result<Table, String> {
    let entries = zip::entries(bytes)?;
    let pickle = entries
        .iter()
        .find(|entry| entry.name.ends_with("/data.pkl"));
    let pickle =
        pickle.ok_or("it is a zip archive without `data.pkl`, so no checkpoint of PyTorch")?;
    let folder = pickle.name[..pickle.name.len() - "data.pkl".len()].to_string();
    let order = entries
        .iter()
        .find(|entry| entry.name == format!("{folder}byteorder"));
    if order.is_some_and(|order| &bytes[order.offset..][..order.len] != b"little") {
        return Err("its numbers are big-endian; save it again on another machine".to_string());
    }
    let prefix = format!("{folder}data/");
    let places = entries.iter().filter_map(|entry| {
        let key = entry.name.strip_prefix(&prefix)?;
        Some((key.to_string(), (entry.offset, entry.len)))
    });
    let places: Places = places.collect();
    let mut machine = Machine::default();
    let (root, _) = machine.run(&bytes[pickle.offset..][..pickle.len])?;
    flatten(&machine, root, &places)
}

/// Four pickles (magic number, protocol, system, the value), the list of storage keys, then each storage behind the
/// count of its values.
fn read_legacy(bytes: &[u8]) -> Result<Table, String> {
    let mut at = 0;
    let mut next = |machine: &mut Machine| -> Result<usize, String> {
        let (value, used) = machine.run(&bytes[at..])?;
        at += used;
        Ok(value)
    };
    for _ in 0..2 {
        next(&mut Machine::default())?;
    }
    let mut system = Machine::default();
    let info = next(&mut system)?;
    if system
        .dict_value(info, "little_endian")
        .and_then(|value| system.bool(value))
        == Some(false)
    {
        return Err("its numbers are big-endian; save it again on another machine".to_string());
    }
    let mut machine = Machine::default();
    let root = next(&mut machine)?;
    let mut keys = Machine::default();
    let list = next(&mut keys)?;
    let places = storages_behind(bytes, at, &keys.texts(list)?, &machine.storages())?;
    flatten(&machine, root, &places)
}

/// Where each storage lies in a legacy file, `at` being the place of the first.
fn storages_behind(
    bytes: &[u8],
    mut at: usize,
    keys: &[&str],
    widths: &HashMap<&str, usize>,
) -> Result<Places, String> {
    let mut places = Places::new();
    for &key in keys {
        let cut = || format!("it ends inside of storage `{key}`; it was cut, fetch it again");
        let count = bytes
            .get(at..at + 8)
            .and_then(|b| b.try_into().ok())
            .map(u64::from_le_bytes);
        let width = widths.get(key).copied().unwrap_or(1);
        let len = count.and_then(|count| usize::try_from(count).ok()?.checked_mul(width));
        let len = len.ok_or_else(cut)?;
        at += 8;
        if bytes.len() - at < len {
            return Err(cut());
        }
        places.insert(key.to_string(), (at, len));
        at += len;
    }
    Ok(places)
}

#[cfg(test)]
mod tests;
