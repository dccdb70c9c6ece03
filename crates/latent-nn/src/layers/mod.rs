//! Layers whose fields are named as in checkpoints: `weight`, `bias`.
//!
//! New layers start as torch's do (`kaiming_uniform` with `a = sqrt(5)`, that is uniform in `±1 / sqrt(fan_in)`, for
//! weight and bias of products; ones and zeros for norms), so that training starts where others' does.

mod convolution;
mod embedding;
mod linear;
mod low_rank;
mod norms;
mod timestep;

pub use convolution::{Conv2d, Epilogue};
pub use embedding::Embedding;
pub use linear::Linear;
pub use low_rank::{Adaptable, LowRank};
pub use norms::{GroupNorm, LayerNorm};
pub use timestep::{Sinusoid, TimestepEmbedding, sinusoid_values, timestep_sinusoid};

use burn::module::Param;
use burn::tensor::Tensor;

/// A parameter of the same shape and place, all zero.
fn zeroed<const D: usize>(param: Param<Tensor<D>>) -> Param<Tensor<D>> {
    if !param.is_initialized() {
        // Of an empty model, whose weights are loaded next.
        return param;
    }
    param.map(|tensor| {
        let tracked = tensor.is_require_grad();
        let zeros = Tensor::zeros(tensor.dims(), &tensor.device());
        if tracked { zeros.require_grad() } else { zeros }
    })
}
