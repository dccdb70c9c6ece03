//! What a training loop needs beside a loss: gradients by path, a fused AdamW with an average of the weights, and
//! a state that can be saved and resumed to the bit.

mod average;
mod flat;
mod gradients;
mod optimizer;
mod state;

pub use average::AverageWarmup;
pub use gradients::Grads;
pub(crate) use gradients::is_host;
pub use optimizer::{AdamW, Optimizer, Step, StepReport};
pub use state::{OptimizerState, StateError};
