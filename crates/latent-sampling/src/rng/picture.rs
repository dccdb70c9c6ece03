//! The generator of a picture's noise, chosen by name.

use super::{PhiloxGenerator, TorchGenerator};
use crate::{Latents, SamplingError};

/// Which generator a seed starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum GeneratorKind {
    /// torch's on the CPU: diffusers with a CPU generator, and the tools' "CPU" source.
    #[default]
    Torch,
    /// torch's on NVIDIA GPUs: the tools' "NV" source.
    Philox,
}

impl GeneratorKind {
    /// All kinds with their names.
    pub const ALL: &'static [(&'static str, Self)] =
        &[("torch", Self::Torch), ("philox", Self::Philox)];

    /// The kind of a name.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn from_name(name: &str) -> Result<Self, SamplingError> {
        let mut kinds = Self::ALL.iter();
        let found = kinds.find(|(known, _)| known.eq_ignore_ascii_case(name));
        found
            .map(|(_, kind)| *kind)
            .ok_or_else(|| SamplingError::Option {
                option: "generator",
                found: format!("`{name}`"),
                needed: "`torch` or `philox`",
            })
    }

    /// What requests and files call it.
    pub fn name(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(_, kind)| *kind == self)
            .map_or("", |(name, _)| name)
    }

    /// The stream of a seed.
    pub fn start(self, seed: u64) -> PictureGenerator {
        match self {
            Self::Torch => PictureGenerator::Torch(TorchGenerator::new(seed)),
            Self::Philox => PictureGenerator::Philox(PhiloxGenerator::new(seed)),
        }
    }
}

/// The stream of one picture's noise.
#[derive(Clone, Debug)]
pub enum PictureGenerator {
    /// See [`TorchGenerator`].
    Torch(TorchGenerator),
    /// See [`PhiloxGenerator`].
    Philox(PhiloxGenerator),
}

impl PictureGenerator {
    /// A stream of the same kind from another seed.
    #[must_use]
    pub fn of_seed(&self, seed: u64) -> Self {
        match self {
            Self::Torch(_) => GeneratorKind::Torch.start(seed),
            Self::Philox(_) => GeneratorKind::Philox.start(seed),
        }
    }

    /// `n` standard normals.
    pub fn randn(&mut self, n: usize) -> Vec<f32> {
        match self {
            Self::Torch(generator) => generator.randn(n),
            Self::Philox(generator) => generator.randn(n),
        }
    }

    /// Standard normals of a shape, counted by its elements only.
    pub fn randn_latents(&mut self, shape: [usize; 4]) -> Latents {
        let values = self.randn(shape.iter().product());
        Latents::from_shape_vec(shape, values).expect("as many values as the shape has elements")
    }
}
