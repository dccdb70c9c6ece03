//! Group norm and layer norm, forward and backward.

mod bands;
mod group;
mod layer;

pub use bands::{ChannelSums, group_norm_band};
pub use group::{GroupNormShape, group_norm, group_norm_backward};
pub use layer::{layer_norm, layer_norm_backward};
