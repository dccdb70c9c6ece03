//! What a training loop needs beside a loss: gradients by path, a fused AdamW (and Muon) with an average of the weights, and
//! a state that can be saved and resumed to the bit.

mod average;
mod flat;
mod gradients;
mod optimizer;
mod recorded;
mod side_by_side;
mod stack;
mod state;

pub use average::AverageWarmup;
pub(crate) use gradients::is_host;
pub use gradients::{Grads, frozen, with_own_leaves};
pub use optimizer::{AdamW, Kept, Muon, Optimizer, Rates, Step, StepReport};
pub use recorded::{Recorded, Work};
pub use side_by_side::SideBySide;
pub use state::{OptimizerState, StateError};
