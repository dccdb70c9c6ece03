//! Fixtures and how close to them is close enough.
#![allow(dead_code, reason = "each test file uses its own part of this")]

use std::path::PathBuf;

use burn::tensor::Tensor;
use latent_formats::Weights;
use latent_nn::{Compute, Precision, to_host};

/// A folder of `tests/fixtures`.
pub(crate) fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

/// The CPU in f32: what the fixtures were computed in.
pub(crate) fn compute() -> Compute {
    Compute::cpu(Precision::F32)
}

/// What Python computed.
pub(crate) struct Expected(Weights);

impl Expected {
    pub(crate) fn open(name: &str) -> Self {
        Self(Weights::open(&fixture(name).join("expected.safetensors")).unwrap())
    }

    pub(crate) fn values(&self, name: &str) -> (Vec<f32>, Vec<usize>) {
        let shape = self
            .0
            .describe(name)
            .unwrap_or_else(|| panic!("no `{name}`"))
            .1
            .to_vec();
        (self.0.read_f32(name).unwrap(), shape)
    }

    pub(crate) fn tensor<const D: usize>(&self, name: &str) -> Tensor<D> {
        let (values, shape) = self.values(name);
        compute().tensor(values, shape.try_into().unwrap())
    }

    pub(crate) fn integers(&self, name: &str) -> Vec<u32> {
        self.values(name)
            .0
            .into_iter()
            .map(|value| value as u32)
            .collect()
    }

    /// Fails unless `found` is within 1e-4 of the largest expected value: f32 sums of a few hundred terms in another
    /// order differ by some 1e-6, a wrong constant by 1e-3 and more.
    pub(crate) fn check<const D: usize>(&self, name: &str, found: Tensor<D>) {
        let (expected, shape) = self.values(name);
        assert_eq!(found.dims().to_vec(), shape, "shape of `{name}`");
        close(name, &to_host(found).0, &expected, 1e-4);
    }
}

/// Fails unless no value is further off than `tolerance` times the largest expected one.
pub(crate) fn close(name: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "length of `{name}`");
    let largest = expected
        .iter()
        .fold(0.0_f32, |largest, value| largest.max(value.abs()));
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let off = (found - expected).abs();
        assert!(
            off <= tolerance * largest,
            "`{name}`[{index}] is {found}, expected {expected} (largest {largest})"
        );
    }
}
