//! Reading the fixtures.

use std::collections::HashMap;
use std::path::PathBuf;

use safetensors::{Dtype, SafeTensors};

/// The tensors of one file, all as f64.
pub(crate) struct Fixture {
    tensors: HashMap<String, Vec<f64>>,
}

pub(crate) fn path(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "fixtures", name]
        .iter()
        .collect()
}

impl Fixture {
    pub(crate) fn open(name: &str) -> Self {
        let bytes = std::fs::read(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let read = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
            (name, numbers(view.dtype(), view.data()))
        };
        Self {
            tensors: file.tensors().into_iter().map(read).collect(),
        }
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&[f64]> {
        self.tensors.get(name).map(Vec::as_slice)
    }

    pub(crate) fn values(&self, name: &str) -> &[f64] {
        self.get(name)
            .unwrap_or_else(|| panic!("no tensor `{name}`"))
    }
}

fn numbers(dtype: Dtype, bytes: &[u8]) -> Vec<f64> {
    macro_rules! read {
        ($size:literal, $kind:ty, $convert:expr) => {
            bytes
                .chunks_exact($size)
                .map(|b| $convert(<$kind>::from_le_bytes(b.try_into().unwrap())))
                .collect()
        };
    }
    match dtype {
        Dtype::F64 => read!(8, f64, |v| v),
        Dtype::F32 => read!(4, f32, f64::from),
        Dtype::F16 => read!(2, half::f16, f64::from),
        Dtype::BF16 => read!(2, half::bf16, f64::from),
        Dtype::I64 => read!(8, i64, |v| v as f64),
        other => panic!("no reader for {other:?}"),
    }
}
