//! The operations written as plain Burn operations, generic over the backend: what GPUs run. The tests run these very
//! bodies on the CPU and compare with the kernels.

mod attention;
mod convolution;
mod layout;
mod linear;
mod norms;
mod pointwise;

pub(crate) use attention::{attention, attention_backward, attention_recorded};
pub(crate) use convolution::{conv2d, conv2d_backward_input, conv2d_backward_weight};
pub(crate) use layout::{concat, nearest_source, split, upsample, upsample_backward};
pub(crate) use linear::{linear, linear_backward_input, linear_backward_weight};
pub(crate) use norms::{
    column_sums, group_norm, group_norm_backward, layer_norm, layer_norm_backward,
};
pub(crate) use pointwise::{activation, activation_backward, geglu, geglu_backward};

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{DType, FloatDType, Shape, Slice};
use latent_kernels::Precision;

/// A backend's float tensor.
type Float<B> = FloatTensor<B>;

/// The shape as plain numbers.
fn dims<B: Backend>(x: &Float<B>) -> Vec<usize> {
    x.shape().to_vec()
}

/// `x` with another shape of as many elements.
fn reshape<B: Backend>(x: Float<B>, shape: &[usize]) -> Float<B> {
    B::float_reshape(x, Shape::from(shape.to_vec()))
}

/// Rounds to bf16 where products are asked in bf16 and the device can compute in it.
fn lowered<B: Backend>(x: Float<B>, precision: Precision) -> Float<B> {
    if precision == Precision::Bf16 && B::supports_dtype(&x.device(), DType::BF16) {
        B::float_cast(x, FloatDType::BF16)
    } else {
        x
    }
}

/// Back to f32.
fn widened<B: Backend>(x: Float<B>) -> Float<B> {
    if x.dtype() == DType::F32 {
        x
    } else {
        B::float_cast(x, FloatDType::F32)
    }
}

/// Matrix product of the last two axes in the precision asked.
fn product<B: Backend>(a: Float<B>, b: Float<B>, precision: Precision) -> Float<B> {
    widened::<B>(B::float_matmul(
        lowered::<B>(a, precision),
        lowered::<B>(b, precision),
    ))
}

/// The part `from..to` of `axis`.
pub(crate) fn narrow<B: Backend>(x: Float<B>, axis: usize, from: usize, to: usize) -> Float<B> {
    let mut slices = vec![Slice::full(); dims::<B>(&x).len()];
    slices[axis] = Slice::from(from..to);
    B::float_slice(x, &slices)
}

/// Adds where there is something to add.
fn plus<B: Backend>(x: Float<B>, other: Option<Float<B>>) -> Float<B> {
    match other {
        Some(other) => B::float_add(x, other),
        None => x,
    }
}

#[cfg(test)]
mod tests;
