//! From the values of a pickle to named tensors, each checked to lie inside of its storage.

use std::collections::HashMap;

use super::machine::{Machine, Tensor, Value};
use crate::weights::{Entry, Table};

/// First byte and count of bytes of each storage.
pub(super) type Places = HashMap<String, (usize, usize)>;

/// Containers within containers; a pickle can make one that holds itself.
const DEPTH: usize = 16;
/// Values at most, however long the pickle: shared containers can multiply without end.
const MAX_VALUES: usize = 1_000_000;
/// Values that a short pickle may have; beyond, one for each of its bytes. A tensor takes some fifty.
const FEW_VALUES: usize = 1 << 10;
/// Bytes that names and texts may take for each byte of the pickle, which recalls them with two.
const TEXT_PER_BYTE: usize = 64;

/// The tensors under `state_dict`, else all, nested names joined by dots.
pub(super) fn flatten(machine: &Machine, root: usize, places: &Places) -> Result<Table, String> {
    let mut walk = Walk {
        machine,
        places,
        table: Table::default(),
        values: machine.read().clamp(FEW_VALUES, MAX_VALUES),
        text: TEXT_PER_BYTE * (machine.read() + FEW_VALUES),
    };
    let state = machine.dict_value(root, "state_dict");
    walk.add("", state.unwrap_or(root), 0)?;
    let mut entries: HashMap<String, Entry> = HashMap::new();
    for (name, entry) in walk.table.entries {
        // Of a doubled key the last counts, as in Python.
        entries.insert(name, entry);
    }
    Ok(Table {
        entries: entries.into_iter().collect(),
        metadata: walk.table.metadata,
    })
}

struct Walk<'a> {
    machine: &'a Machine,
    places: &'a Places,
    table: Table,
    /// Values that may still be met.
    values: usize,
    /// Bytes of names and texts that may still be met.
    text: usize,
}

impl Walk<'_> {
    fn add(&mut self, name: &str, place: usize, depth: usize) -> Result<(), String> {
        if depth > DEPTH {
            return Err(format!("`{name}` is nested deeper than {DEPTH}"));
        }
        let left = self
            .values
            .checked_sub(1)
            .zip(self.text.checked_sub(name.len()));
        (self.values, self.text) = left.ok_or_else(multiplied)?;
        match self.machine.value(place) {
            Value::Dict(pairs) => {
                for &(key, value) in pairs {
                    if let Some(key) = self.key(key) {
                        self.add(&join(name, &key), value, depth + 1)?;
                    }
                }
            }
            Value::List(items) | Value::Tuple(items) => {
                for (index, &item) in items.iter().enumerate() {
                    self.add(&join(name, &index.to_string()), item, depth + 1)?;
                }
            }
            Value::Tensor(tensor) => {
                let entry = entry(tensor, self.places);
                let entry = entry.map_err(|reason| format!("tensor `{name}`: {reason}"))?;
                self.table.entries.push((name.to_string(), entry));
            }
            Value::Text(text) => {
                self.text = self.text.checked_sub(text.len()).ok_or_else(multiplied)?;
                self.note(name, text.clone());
            }
            Value::Int(number) => self.note(name, number.to_string()),
            Value::Float(number) => self.note(name, number.to_string()),
            Value::Bool(value) => self.note(name, value.to_string()),
            Value::None | Value::Bytes | Value::Global(_) | Value::Storage(_) | Value::Ignored => {}
        }
        Ok(())
    }

    fn note(&mut self, name: &str, value: String) {
        self.table.metadata.insert(name.to_string(), value);
    }

    /// Keys are texts or numbers; under others, as classes, nothing of use is stored.
    fn key(&self, place: usize) -> Option<String> {
        match self.machine.value(place) {
            Value::Text(text) => Some(text.clone()),
            Value::Int(number) => Some(number.to_string()),
            _ => None,
        }
    }
}

/// What a pickle is refused for whose few containers stand in one another again and again.
fn multiplied() -> String {
    "it has more values, or longer names, than a pickle of its size should make; take the safetensors file".to_string()
}

fn join(name: &str, key: &str) -> String {
    if name.is_empty() {
        return key.to_string();
    }
    format!("{name}.{key}")
}

fn entry(tensor: &Tensor, places: &Places) -> Result<Entry, String> {
    let Tensor {
        storage,
        offset,
        shape,
        strides,
    } = tensor;
    let width = storage.dtype.size();
    let &(start, len) = places
        .get(&storage.key)
        .ok_or_else(|| format!("its storage `{}` is missing", storage.key))?;
    if shape.len() != strides.len() {
        return Err(format!(
            "sizes {shape:?} and strides {strides:?} do not fit together"
        ));
    }
    let outside = || {
        format!(
            "sizes {shape:?} and strides {strides:?} from {offset} leave its storage of {len} bytes"
        )
    };
    let count = product(shape).ok_or_else(outside)?;
    if count == 0 {
        return Ok(Entry::dense(storage.dtype, shape.clone(), start));
    }
    let last = shape
        .iter()
        .zip(strides)
        .try_fold(*offset, |last, (size, stride)| {
            last.checked_add(stride.checked_mul(size - 1)?)
        });
    let held = len / width;
    if last.is_none_or(|last| last >= held) || count > held {
        return Err(outside());
    }
    let mut entry = Entry::dense(storage.dtype, shape.clone(), start + offset * width);
    if *strides != dense_strides(shape) {
        entry.strides = Some(strides.clone());
    }
    Ok(entry)
}

fn product(shape: &[usize]) -> Option<usize> {
    shape
        .iter()
        .try_fold(1usize, |product, &size| product.checked_mul(size))
}

/// Strides of a tensor without holes, row after row.
fn dense_strides(shape: &[usize]) -> Vec<usize> {
    let mut step = 1;
    let mut strides: Vec<usize> = Vec::with_capacity(shape.len());
    for &size in shape.iter().rev() {
        strides.push(step);
        step *= size;
    }
    strides.reverse();
    strides
}
