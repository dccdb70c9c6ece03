//! Linear layers. Operands stay f32, which the matrix units round by themselves: a pass that narrows them would cost
//! more than it saves.

use burn_cubecl::tensor::CubeTensor;

use super::convolution::with_added;
use super::sums::weight_of_parts;
use super::{count, dense, product, product_over_rows, reshaped, transposed};

/// All leading axes as one: `[m, k]`, and the shape with `width` in place of `k`.
fn rows_of(x: CubeTensor, width: usize) -> (CubeTensor, Vec<usize>) {
    let mut shape = x.meta.shape().to_vec();
    let last = shape.len() - 1;
    let channels = shape[last];
    let rows = count(&shape) / channels;
    shape[last] = width;
    (reshaped(dense(x), &[rows, channels]), shape)
}

/// See [`crate::ops::LatentOps::latent_linear`].
pub(super) fn linear(
    x: CubeTensor,
    weight: CubeTensor,
    bias: Option<CubeTensor>,
    residual: Option<CubeTensor>,
) -> CubeTensor {
    let out = weight.meta.shape()[0];
    let (x, shape) = rows_of(x, out);
    let y = product(x, transposed(dense(weight)));
    with_added(reshaped(y, &shape), [bias, None, residual], 1)
}

/// See [`crate::ops::LatentOps::latent_linear_backward_input`].
pub(super) fn linear_backward_input(dy: CubeTensor, weight: CubeTensor) -> CubeTensor {
    let (dy, shape) = rows_of(dy, weight.meta.shape()[1]);
    reshaped(product(dy, dense(weight)), &shape)
}

/// See [`crate::ops::LatentOps::latent_linear_backward_weight`].
pub(super) fn linear_backward_weight(x: CubeTensor, dy: CubeTensor) -> CubeTensor {
    let (x, _) = rows_of(x, 0);
    let (dy, _) = rows_of(dy, 0);
    let (rows, inputs, outputs) = (x.meta.shape()[0], x.meta.shape()[1], dy.meta.shape()[1]);
    // The sum of the parts turns `[in, out]` into the weight's `[out, in]` as well.
    let parts = product_over_rows(x, dy, rows);
    reshaped(
        weight_of_parts(parts, [outputs, inputs, 1, 1]),
        &[outputs, inputs],
    )
}
