//! Matrix products of activations with weights stored `[out, in]`.

use burn::backend::Backend;

use super::{Float, dims, plus, product, reshape};
use crate::ops::LinearOptions;

/// All leading axes as one: `[m, k]`.
fn rows<B: Backend>(x: Float<B>) -> Float<B> {
    let shape = dims::<B>(&x);
    let width = shape[shape.len() - 1];
    let count = shape[..shape.len() - 1].iter().product();
    reshape::<B>(x, &[count, width])
}

fn with_last(mut shape: Vec<usize>, width: usize) -> Vec<usize> {
    if let Some(last) = shape.last_mut() {
        *last = width;
    }
    shape
}

/// See [`crate::ops::LatentOps::latent_linear`].
pub(crate) fn linear<B: Backend>(
    x: Float<B>,
    weight: Float<B>,
    bias: Option<Float<B>>,
    residual: Option<Float<B>>,
    options: LinearOptions,
) -> Float<B> {
    let out = dims::<B>(&weight)[0];
    let shape = with_last(dims::<B>(&x), out);
    let y = product::<B>(rows::<B>(x), B::float_transpose(weight), options.precision);
    let y = plus::<B>(y, bias.map(|bias| reshape::<B>(bias, &[1, out])));
    plus::<B>(reshape::<B>(y, &shape), residual)
}

/// See [`crate::ops::LatentOps::latent_linear_backward_input`].
pub(crate) fn linear_backward_input<B: Backend>(
    dy: Float<B>,
    weight: Float<B>,
    options: LinearOptions,
) -> Float<B> {
    let shape = with_last(dims::<B>(&dy), dims::<B>(&weight)[1]);
    let dx = product::<B>(rows::<B>(dy), weight, options.precision);
    reshape::<B>(dx, &shape)
}

/// See [`crate::ops::LatentOps::latent_linear_backward_weight`].
pub(crate) fn linear_backward_weight<B: Backend>(
    x: Float<B>,
    dy: Float<B>,
    options: LinearOptions,
) -> Float<B> {
    let dy = B::float_transpose(rows::<B>(dy));
    product::<B>(dy, rows::<B>(x), options.precision)
}
