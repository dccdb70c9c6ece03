//! Random numbers: torch's generator on the CPU, its generator on NVIDIA GPUs, and a counter-based one for training.
//!
//! Every picture's noise comes from [`TorchGenerator`], so that a seed means here what it means in Python.
//! Training draws from [`CounterNoise`], whose values depend on (seed, step, stream, index) alone, so that a
//! resumed run needs no saved state.

mod counter;
mod mt19937;
mod philox;
mod torch;

pub use counter::CounterNoise;
pub use philox::{PhiloxGenerator, philox4x32};
pub use torch::TorchGenerator;
