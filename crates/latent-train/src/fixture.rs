//! What diffusers and torch compute, for tests.

use std::path::Path;

use latent_formats::Weights;

/// The values of one tensor of `tests/fixtures/training.safetensors`.
pub(crate) fn fixture(name: &str) -> Vec<f32> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/training.safetensors");
    Weights::open(&path)
        .and_then(|weights| weights.read_f32(name))
        .expect("the fixture is in the repository")
}
