//! The stack machine of pickles, without the power to call anything.

use std::collections::HashMap;

use crate::Dtype;

/// What a name in a pickle may mean; every other name is refused.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Global {
    /// A dictionary that keeps its order.
    OrderedDict,
    /// The kind of a storage's numbers.
    Storage(Dtype),
    /// A tensor of a storage, offset, sizes and strides.
    RebuildTensor,
    /// A tensor that is trained; the tensor in it.
    RebuildParameter,
    /// A tuple of sizes.
    Size,
    /// Known to stand in checkpoints of PyTorch Lightning, and of no use here.
    Ignored,
}

/// Every name that is not refused.
const GLOBALS: &[(&str, &str, Global)] = &[
    ("collections", "OrderedDict", Global::OrderedDict),
    ("torch._utils", "_rebuild_tensor", Global::RebuildTensor),
    ("torch._utils", "_rebuild_tensor_v2", Global::RebuildTensor),
    (
        "torch._utils",
        "_rebuild_parameter",
        Global::RebuildParameter,
    ),
    ("torch", "Size", Global::Size),
    ("torch", "FloatStorage", Global::Storage(Dtype::F32)),
    ("torch", "HalfStorage", Global::Storage(Dtype::F16)),
    ("torch", "BFloat16Storage", Global::Storage(Dtype::Bf16)),
    ("torch", "DoubleStorage", Global::Storage(Dtype::F64)),
    ("torch", "LongStorage", Global::Storage(Dtype::I64)),
    ("torch", "IntStorage", Global::Storage(Dtype::I32)),
    ("torch", "ShortStorage", Global::Storage(Dtype::I16)),
    ("torch", "CharStorage", Global::Storage(Dtype::I8)),
    ("torch", "ByteStorage", Global::Storage(Dtype::U8)),
    ("torch", "BoolStorage", Global::Storage(Dtype::Bool)),
    // The state of callbacks and the best score in Stable Diffusion 1.x's own files.
    (
        "pytorch_lightning.callbacks.model_checkpoint",
        "ModelCheckpoint",
        Global::Ignored,
    ),
    ("numpy.core.multiarray", "scalar", Global::Ignored),
    ("numpy", "dtype", Global::Ignored),
    ("_codecs", "encode", Global::Ignored),
];

/// A value; containers hold places on the heap, for a pickle fills them after it has handed them on.
#[derive(Clone, Debug)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    Bytes,
    Tuple(Vec<usize>),
    List(Vec<usize>),
    Dict(Vec<(usize, usize)>),
    Global(Global),
    Storage(Storage),
    Tensor(Tensor),
    /// The result of a name that is ignored.
    Ignored,
}

/// Numbers that tensors share.
#[derive(Clone, Debug)]
pub(super) struct Storage {
    pub(super) key: String,
    pub(super) dtype: Dtype,
}

/// A view of a storage; sizes and strides count values.
#[derive(Clone, Debug)]
pub(super) struct Tensor {
    pub(super) storage: Storage,
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

/// Values at most, so that a small file cannot fill the memory.
const MAX_VALUES: usize = 20_000_000;
/// Items that may be copied for each byte that was read: what is recalled takes two bytes and may be long, so a file could
/// else make the square of its size. Files of PyTorch stay below one.
const COPIES_PER_BYTE: usize = 8;
/// What short pickles may copy beyond that.
const FEW_COPIES: usize = 1 << 12;

/// Runs a pickle. Values live as long as the machine.
#[derive(Default)]
pub(super) struct Machine {
    heap: Vec<Value>,
    stack: Vec<usize>,
    marks: Vec<usize>,
    memo: HashMap<usize, usize>,
    /// Bytes of all that ran.
    read: usize,
    /// Items of containers, and bytes of keys, that stand in more than one value.
    copied: usize,
}

/// The bytes of a pickle, read from the front.
struct Code<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Code<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(len);
        let part = end.and_then(|end| self.bytes.get(self.at..end));
        let part = part.ok_or("its pickle ends too early; it was cut, fetch it again")?;
        self.at += len;
        Ok(part)
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    fn number(&mut self, width: usize) -> Result<usize, String> {
        let bytes = self.take(width)?;
        let number = bytes
            .iter()
            .rev()
            .fold(0u64, |n, &byte| n << 8 | u64::from(byte));
        usize::try_from(number).map_err(|error| error.to_string())
    }

    /// A little-endian two's complement number of any length; what an `i64` cannot hold becomes its largest.
    fn long(&mut self, len: usize) -> Result<i64, String> {
        let bytes = self.take(len)?;
        let fill = if bytes.last().is_some_and(|byte| byte & 0x80 != 0) {
            0xff
        } else {
            0
        };
        let mut wide = [fill; 8];
        if bytes.len() > 8 {
            return Ok(i64::MAX);
        }
        wide[..bytes.len()].copy_from_slice(bytes);
        Ok(i64::from_le_bytes(wide))
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|&byte| byte == b'\n');
        let line = self.take(end.ok_or("a name in its pickle has no end")?)?;
        self.at += 1;
        std::str::from_utf8(line).map_err(|error| error.to_string())
    }

    fn text(&mut self, len: usize) -> Result<Value, String> {
        Ok(Value::Text(
            String::from_utf8_lossy(self.take(len)?).into_owned(),
        ))
    }

    fn skip(&mut self, len: usize) -> Result<Value, String> {
        self.take(len)?;
        Ok(Value::Bytes)
    }
}

const EMPTY: &str = "its pickle takes a value from an empty stack";

impl Machine {
    /// Runs until the end mark; gives the value and the count of bytes used.
    pub(super) fn run(&mut self, bytes: &[u8]) -> Result<(usize, usize), String> {
        let mut code = Code { bytes, at: 0 };
        loop {
            let operation = code.byte()?;
            if operation == b'.' {
                self.read += code.at;
                return Ok((self.pop()?, code.at));
            }
            self.step(operation, &mut code)?;
            if self.copied > COPIES_PER_BYTE * code.at + FEW_COPIES {
                return Err("its pickle multiplies its values, which no tensor needs".to_string());
            }
            if self.heap.len() > MAX_VALUES {
                return Err(format!("its pickle builds more than {MAX_VALUES} values"));
            }
        }
    }

    fn step(&mut self, operation: u8, code: &mut Code<'_>) -> Result<(), String> {
        if let Some(value) = literal(operation, code)? {
            self.push(value);
            return Ok(());
        }
        match operation {
            // Protocol and frames say nothing that is needed.
            0x80 => drop(code.take(1)?),
            0x95 => drop(code.take(8)?),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_mark()?),
            b'2' => {
                let top = *self.stack.last().ok_or(EMPTY)?;
                self.stack.push(top);
            }
            b'q' => self.remember(code.number(1)?)?,
            b'r' => self.remember(code.number(4)?)?,
            0x94 => self.remember(self.memo.len())?,
            b'h' => self.recall(code.number(1)?)?,
            b'j' => self.recall(code.number(4)?)?,
            b't' | b'l' | b'd' | 0x85..=0x87 => self.gather(operation)?,
            b'a' | b'e' | b's' | b'u' => self.fill(operation)?,
            b'c' => {
                let (module, name) = (code.line()?, code.line()?);
                self.push(global(module, name)?);
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Some(module), Some(name)) = (self.text(module), self.text(name)) else {
                    return Err("a name in its pickle is no text".to_string());
                };
                let found = global(module, name)?;
                self.push(found);
            }
            b'R' | 0x81 => self.call()?,
            b'Q' => self.storage()?,
            b'b' => self.build()?,
            other => {
                return Err(format!(
                    "its pickle uses operation {other:#04x} at byte {}, which no tensor needs",
                    code.at - 1
                ));
            }
        }
        Ok(())
    }

    fn push(&mut self, value: Value) {
        self.stack.push(self.heap.len());
        self.heap.push(value);
    }

    /// Takes a value, never one from below the last mark.
    fn pop(&mut self) -> Result<usize, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err(EMPTY.to_string());
        }
        self.stack.pop().ok_or_else(|| EMPTY.to_string())
    }

    fn pop_mark(&mut self) -> Result<Vec<usize>, String> {
        let mark = self
            .marks
            .pop()
            .ok_or("its pickle ends a group that never began")?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn remember(&mut self, key: usize) -> Result<(), String> {
        let top = *self.stack.last().ok_or(EMPTY)?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: usize) -> Result<(), String> {
        let value = self
            .memo
            .get(&key)
            .ok_or("its pickle recalls what it never stored")?;
        self.stack.push(*value);
        Ok(())
    }

    /// Makes one container of the values on the stack.
    fn gather(&mut self, operation: u8) -> Result<(), String> {
        let items = match operation {
            0x85..=0x87 => {
                let mut items = Vec::new();
                for _ in 0x84..operation {
                    items.push(self.pop()?);
                }
                items.reverse();
                items
            }
            _ => self.pop_mark()?,
        };
        let value = match operation {
            b'l' => Value::List(items),
            b'd' => Value::Dict(pairs(&items)?),
            _ => Value::Tuple(items),
        };
        self.push(value);
        Ok(())
    }

    /// Puts values from the stack into the container below them.
    fn fill(&mut self, operation: u8) -> Result<(), String> {
        let items = match operation {
            b'a' => vec![self.pop()?],
            b's' => {
                let value = self.pop()?;
                vec![self.pop()?, value]
            }
            _ => self.pop_mark()?,
        };
        let target = *self.stack.last().ok_or(EMPTY)?;
        match (&mut self.heap[target], operation) {
            (Value::List(list), b'a' | b'e') => list.extend(items),
            (Value::Dict(dict), b's' | b'u') => dict.extend(pairs(&items)?),
            (Value::Ignored, _) => {}
            _ => return Err("its pickle puts values into what holds none".to_string()),
        }
        Ok(())
    }

    /// "Calls" one of the known names.
    fn call(&mut self) -> Result<(), String> {
        let (arguments, callee) = (self.pop()?, self.pop()?);
        let Value::Tuple(arguments) = &self.heap[arguments] else {
            return Err("its pickle calls a name without a tuple of arguments".to_string());
        };
        let (value, copied) = match self.heap[callee] {
            Value::Global(Global::OrderedDict) => match arguments.first() {
                None => (Value::Dict(Vec::new()), 0),
                Some(&items) => {
                    let pairs = self.dict_of_pairs(items)?;
                    let copied = pairs.len();
                    (Value::Dict(pairs), copied)
                }
            },
            Value::Global(Global::RebuildTensor) => {
                let tensor = self.tensor(arguments)?;
                let copied = tensor.storage.key.len() + 2 * tensor.shape.len();
                (Value::Tensor(tensor), copied)
            }
            Value::Global(Global::RebuildParameter | Global::Size) => {
                let first = *arguments.first().ok_or("a tensor in it has no data")?;
                self.stack.push(first);
                return Ok(());
            }
            Value::Global(Global::Ignored) | Value::Ignored => (Value::Ignored, 0),
            _ => return Err("its pickle calls what is no function".to_string()),
        };
        self.copied += copied;
        self.push(value);
        Ok(())
    }

    /// `OrderedDict([[key, value], ...])`, as Python 2 wrote it.
    fn dict_of_pairs(&self, items: usize) -> Result<Vec<(usize, usize)>, String> {
        let mut dict = Vec::new();
        for &pair in self.items(items).unwrap_or_default() {
            match self.items(pair) {
                Some(&[key, value]) => dict.push((key, value)),
                _ => return Err("a dictionary in it is not made of pairs".to_string()),
            }
        }
        Ok(dict)
    }

    fn tensor(&self, arguments: &[usize]) -> Result<Tensor, String> {
        let broken =
            || "a tensor in it is not made of storage, offset, sizes and strides".to_string();
        let [storage, offset, shape, strides, ..] = arguments else {
            return Err(broken());
        };
        let Value::Storage(storage) = &self.heap[*storage] else {
            return Err(broken());
        };
        let sizes = |list: usize| -> Option<Vec<usize>> {
            self.items(list)?
                .iter()
                .map(|&item| self.size(item))
                .collect()
        };
        Ok(Tensor {
            storage: storage.clone(),
            offset: self.size(*offset).ok_or_else(broken)?,
            shape: sizes(*shape).ok_or_else(broken)?,
            strides: sizes(*strides).ok_or_else(broken)?,
        })
    }

    /// The persistent name of a storage: `("storage", kind, key, location, count)`.
    fn storage(&mut self) -> Result<(), String> {
        let name = self.pop()?;
        let storage = match self.items(name) {
            Some(&[tag, kind, key, ..]) => {
                match (&self.heap[tag], &self.heap[kind], &self.heap[key]) {
                    (Value::Text(tag), Value::Global(Global::Storage(dtype)), Value::Text(key))
                        if tag == "storage" =>
                    {
                        Some(Storage {
                            key: key.clone(),
                            dtype: *dtype,
                        })
                    }
                    _ => None,
                }
            }
            _ => None,
        };
        let storage = storage.ok_or("it names a storage in a way of its own")?;
        self.copied += storage.key.len();
        self.push(Value::Storage(storage));
        Ok(())
    }

    /// Attributes set on a value: tensors and dictionaries need none of them.
    fn build(&mut self) -> Result<(), String> {
        self.pop()?;
        let target = *self.stack.last().ok_or(EMPTY)?;
        match self.heap[target] {
            Value::Dict(_) | Value::Tensor(_) | Value::Ignored => Ok(()),
            _ => Err("its pickle sets attributes on what has none".to_string()),
        }
    }

    /// Bytes of the pickles that ran to their end.
    pub(super) fn read(&self) -> usize {
        self.read
    }

    pub(super) fn value(&self, place: usize) -> &Value {
        &self.heap[place]
    }

    fn items(&self, place: usize) -> Option<&[usize]> {
        match &self.heap[place] {
            Value::Tuple(items) | Value::List(items) => Some(items),
            _ => None,
        }
    }

    pub(super) fn text(&self, place: usize) -> Option<&str> {
        match &self.heap[place] {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    fn size(&self, place: usize) -> Option<usize> {
        match self.heap[place] {
            Value::Int(number) => usize::try_from(number).ok(),
            _ => None,
        }
    }

    pub(super) fn bool(&self, place: usize) -> Option<bool> {
        match self.heap[place] {
            Value::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// The value under a text key; of a doubled key the last, as in Python.
    pub(super) fn dict_value(&self, place: usize, key: &str) -> Option<usize> {
        let Value::Dict(pairs) = &self.heap[place] else {
            return None;
        };
        let found = pairs
            .iter()
            .rev()
            .find(|(known, _)| self.text(*known) == Some(key));
        found.map(|(_, value)| *value)
    }

    /// The texts of a list.
    pub(super) fn texts(&self, place: usize) -> Result<Vec<&str>, String> {
        let items = self.items(place).ok_or("its list of storages is no list")?;
        let texts: Option<Vec<&str>> = items.iter().map(|&item| self.text(item)).collect();
        texts.ok_or_else(|| "its list of storages is not one of texts".to_string())
    }

    /// Bytes per value of every storage that was named.
    pub(super) fn storages(&self) -> HashMap<&str, usize> {
        let storages = self.heap.iter().filter_map(|value| match value {
            Value::Storage(storage) => Some((storage.key.as_str(), storage.dtype.size())),
            _ => None,
        });
        storages.collect()
    }
}

/// Values that stand in the code itself; `None` for other operations.
fn literal(operation: u8, code: &mut Code<'_>) -> Result<Option<Value>, String> {
    let value = match operation {
        b'N' => Value::None,
        0x88 => Value::Bool(true),
        0x89 => Value::Bool(false),
        b'J' => Value::Int(code.long(4)?),
        b'K' => Value::Int(i64::from(code.byte()?)),
        b'M' => Value::Int(code.number(2)? as i64),
        0x8a => {
            let len = code.number(1)?;
            Value::Int(code.long(len)?)
        }
        b'G' => {
            let bytes = code.take(8)?;
            Value::Float(bytes.try_into().map_or(f64::NAN, f64::from_be_bytes))
        }
        b'X' | 0x8c | 0x8d | b'U' | b'T' => {
            let width = [(b'X', 4), (b'T', 4), (0x8d, 8)]
                .iter()
                .find(|(op, _)| *op == operation);
            let len = code.number(width.map_or(1, |(_, width)| *width))?;
            code.text(len)?
        }
        b'B' | b'C' | 0x8e => {
            let width = [(b'B', 4), (0x8e, 8)]
                .iter()
                .find(|(op, _)| *op == operation);
            let len = code.number(width.map_or(1, |(_, width)| *width))?;
            code.skip(len)?
        }
        b')' => Value::Tuple(Vec::new()),
        b']' => Value::List(Vec::new()),
        b'}' => Value::Dict(Vec::new()),
        _ => return Ok(None),
    };
    Ok(Some(value))
}

fn global(module: &str, name: &str) -> Result<Value, String> {
    let known = GLOBALS.iter().find(|row| (row.0, row.1) == (module, name));
    known.map(|row| Value::Global(row.2)).ok_or_else(|| {
        format!("it asks for `{module}.{name}`, which no tensor needs; it was not run, take the safetensors file")
    })
}

fn pairs(items: &[usize]) -> Result<Vec<(usize, usize)>, String> {
    match items.as_chunks::<2>() {
        (pairs, []) => Ok(pairs.iter().map(|pair| (pair[0], pair[1])).collect()),
        _ => Err("a dictionary in its pickle has a key without a value".to_string()),
    }
}
