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
    /// ComfyUI's on an NVIDIA GPU: all pictures of a batch share the seed, the first noise is torch's on the CPU, the noise
    /// of steps torch's on the GPU.
    ComfyUi,
}

impl GeneratorKind {
    /// All kinds with their names.
    pub const ALL: &'static [(&'static str, Self)] = &[
        ("torch", Self::Torch),
        ("philox", Self::Philox),
        ("comfyui", Self::ComfyUi),
    ];

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
                needed: "`torch`, `philox` or `comfyui`",
            })
    }

    /// What requests and files call it.
    pub fn name(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(_, kind)| *kind == self)
            .map_or("", |(name, _)| name)
    }

    /// The stream of a seed, for a picture by itself.
    pub fn start(self, seed: u64) -> PictureGenerator {
        let alone = NoiseSource {
            kind: self,
            ..NoiseSource::default()
        };
        alone.start(seed)
    }
}

/// Which numbers of a seed are a picture's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NoiseSource {
    /// What draws them.
    pub kind: GeneratorKind,
    /// The picture's place in the batch that shares the seed, where the kind shares it: from 0.
    pub place: usize,
    /// Pictures of that batch.
    pub of: usize,
}

impl Default for NoiseSource {
    /// A picture with torch's generator to itself.
    fn default() -> Self {
        Self {
            kind: GeneratorKind::Torch,
            place: 0,
            of: 1,
        }
    }
}

impl NoiseSource {
    /// The picture's stream of a seed.
    pub fn start(self, seed: u64) -> PictureGenerator {
        match self.kind {
            GeneratorKind::Torch => PictureGenerator::Torch(TorchGenerator::new(seed)),
            GeneratorKind::Philox => PictureGenerator::Philox(PhiloxGenerator::new(seed)),
            GeneratorKind::ComfyUi => PictureGenerator::Batch(BatchGenerator {
                place: self.place,
                of: self.of.max(1),
                first: Some(TorchGenerator::new(seed)),
                later: PhiloxGenerator::new(seed),
            }),
        }
    }

    /// The picture's first `n` normals of a seed, as a Brownian path draws them for each of its parts.
    pub(crate) fn normals(self, seed: u64, n: usize) -> Vec<f32> {
        self.start(seed).randn(n)
    }
}

/// The stream of one picture's noise.
#[derive(Clone, Debug)]
pub enum PictureGenerator {
    /// See [`TorchGenerator`].
    Torch(TorchGenerator),
    /// See [`PhiloxGenerator`].
    Philox(PhiloxGenerator),
    /// See [`GeneratorKind::ComfyUi`].
    Batch(BatchGenerator),
}

/// One picture's part of the noise that a batch draws as a whole.
#[derive(Clone, Debug)]
pub struct BatchGenerator {
    place: usize,
    of: usize,
    /// Of the first draw.
    first: Option<TorchGenerator>,
    later: PhiloxGenerator,
}

impl BatchGenerator {
    fn randn(&mut self, n: usize) -> Vec<f32> {
        let start = self.place * n;
        match self.first.take() {
            // Blocks of torch's normals may lie across pictures, so the batch is drawn whole.
            Some(mut first) => first.randn(self.of * n)[start..start + n].to_vec(),
            None => self.later.randn_from(start, n),
        }
    }
}

impl PictureGenerator {
    /// A stream of the same kind and place from another seed.
    #[must_use]
    pub fn of_seed(&self, seed: u64) -> Self {
        let alone = NoiseSource::default();
        let source = match self {
            Self::Torch(_) => alone,
            Self::Philox(_) => NoiseSource {
                kind: GeneratorKind::Philox,
                ..alone
            },
            Self::Batch(BatchGenerator { place, of, .. }) => NoiseSource {
                kind: GeneratorKind::ComfyUi,
                place: *place,
                of: *of,
            },
        };
        source.start(seed)
    }

    /// `n` standard normals.
    pub fn randn(&mut self, n: usize) -> Vec<f32> {
        match self {
            Self::Torch(generator) => generator.randn(n),
            Self::Philox(generator) => generator.randn(n),
            Self::Batch(generator) => generator.randn(n),
        }
    }

    /// Standard normals of a shape, counted by its elements only.
    pub fn randn_latents(&mut self, shape: [usize; 4]) -> Latents {
        let values = self.randn(shape.iter().product());
        Latents::from_shape_vec(shape, values).expect("as many values as the shape has elements")
    }
}
