//! CPU kernels on plain slices: products, convolution, attention, norms, activations, optimiser; forward and backward.
//!
//! Memory is f32 and channels-last; [`Precision`] says how products are computed. Outputs are overwritten, never
//! added to. Results have the same bits for any number of threads and any batch: work is cut by sizes alone, and
//! every sum has one order. The instruction set is chosen at run time ([`instruction_set`]).
#![allow(
    unsafe_code,
    reason = "vector instructions, and outputs that threads fill together"
)]

mod attention;
mod ceiling;
mod conv;
mod isa;
mod linear;
mod math;
mod muon;
mod norm;
mod optimizer;
mod pointwise;
mod product;
mod shared;
mod sums;
mod tasks;

pub use attention::{AttentionShape, attention, attention_backward};
pub use ceiling::measure_ceiling;
pub use conv::{
    ConvShape, Epilogue, PackedConv, conv2d, conv2d_backward_input, conv2d_backward_weight,
};
pub use isa::{Precision, UnknownInstructionSet, check_instruction_set, instruction_set};
pub use linear::{PackedMatrix, linear, linear_backward_weight};
pub use muon::Muon;
pub use norm::{
    ChannelSums, GroupNormShape, group_norm, group_norm_backward, group_norm_band, layer_norm,
    layer_norm_backward,
};
pub use optimizer::AdamW;
pub use pointwise::{Activation, activation, activation_backward, geglu, geglu_backward};
pub use sums::{column_sums, sum_of_squares};
