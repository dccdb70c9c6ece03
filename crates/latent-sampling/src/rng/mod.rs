//! Random numbers: torch's generator on the CPU, its generator on NVIDIA GPUs, and a counter-based one for training.
//!
//! A picture's noise comes from [`TorchGenerator`], so that a seed means here what it means in Python, or from
//! [`PhiloxGenerator`], so that it means what it means to image tools on NVIDIA GPUs. Stochastic solvers may follow a
//! [`BrownianPath`].
//! Training draws from [`CounterNoise`], whose values depend on (seed, step, stream, index) alone, so that a
//! resumed run needs no saved state.

mod brownian;
mod counter;
mod mt19937;
mod philox;
mod picture;
mod torch;

pub use brownian::BrownianPath;
pub use counter::CounterNoise;
pub use philox::{PhiloxGenerator, philox4x32};
pub use picture::{BatchGenerator, GeneratorKind, NoiseSource, PictureGenerator};
pub use torch::TorchGenerator;
