//! Activations, sums, joined and split channels, nearest-neighbour resizing: one unit an element.

use burn::tensor::DType;
use burn_cubecl::cubecl;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;
use latent_kernels::Activation;

use super::{count, dense, each, elementwise, empty};

/// The slope of the sigmoid that imitates GELU in CLIP's first text encoder.
const QUICK: f32 = 1.702;
/// `1 / sqrt(2)`.
const HALF: f32 = std::f32::consts::FRAC_1_SQRT_2;
/// `1 / sqrt(2 pi)`.
const UNIT: f32 = 0.398_942_28;

/// Which of the kernels below: 0 SiLU, 1 GELU, 2 quick GELU.
fn number(kind: Activation) -> u32 {
    match kind {
        Activation::Silu => 0,
        Activation::Gelu => 1,
        Activation::QuickGelu => 2,
    }
}

/// `x * sigmoid(slope * x)`.
#[cube]
pub(super) fn swish(x: f32, slope: f32) -> f32 {
    x / (1.0f32 + f32::exp(-slope * x))
}

/// Derivative of [`swish`].
#[cube]
pub(super) fn swish_slope(x: f32, slope: f32) -> f32 {
    let gate = 1.0f32 / (1.0f32 + f32::exp(-slope * x));
    gate * (1.0f32 + slope * x * (1.0f32 - gate))
}

#[cube]
fn gelu(x: f32) -> f32 {
    0.5f32 * x * (1.0f32 + Erf::erf(x * HALF))
}

#[cube]
fn gelu_slope(x: f32) -> f32 {
    0.5f32 * (1.0f32 + Erf::erf(x * HALF)) + x * f32::exp(-0.5f32 * x * x) * UNIT
}

#[cube]
fn activated(x: f32, #[comptime] kind: u32) -> f32 {
    if kind == 0u32 {
        swish(x, 1.0f32)
    } else if kind == 1u32 {
        gelu(x)
    } else {
        swish(x, QUICK)
    }
}

#[cube]
fn slope(x: f32, #[comptime] kind: u32) -> f32 {
    if kind == 0u32 {
        swish_slope(x, 1.0f32)
    } else if kind == 1u32 {
        gelu_slope(x)
    } else {
        swish_slope(x, QUICK)
    }
}

#[cube(launch)]
fn activation_kernel(x: &[f32], y: &mut [f32], size: u32, #[comptime] kind: u32) {
    let at = ABSOLUTE_POS;
    if at < size as usize {
        y[at] = activated(x[at], kind);
    }
}

#[cube(launch)]
fn activation_backward_kernel(
    x: &[f32],
    dy: &[f32],
    dx: &mut [f32],
    size: u32,
    #[comptime] kind: u32,
) {
    let at = ABSOLUTE_POS;
    if at < size as usize {
        dx[at] = dy[at] * slope(x[at], kind);
    }
}

/// See [`crate::ops::LatentOps::latent_activation`].
pub(super) fn activation(x: CubeTensor, kind: Activation) -> CubeTensor {
    let shape = x.meta.shape().to_vec();
    each([x], &shape, |client, (blocks, block), [x], y, size| {
        activation_kernel::launch(client, blocks, block, x, y, size, number(kind));
    })
}

/// See [`crate::ops::LatentOps::latent_activation_backward`].
pub(super) fn activation_backward(x: CubeTensor, dy: CubeTensor, kind: Activation) -> CubeTensor {
    let shape = x.meta.shape().to_vec();
    each(
        [x, dy],
        &shape,
        |client, (blocks, block), [x, dy], dx, size| {
            activation_backward_kernel::launch(
                client,
                blocks,
                block,
                x,
                dy,
                dx,
                size,
                number(kind),
            );
        },
    )
}

#[cube(launch)]
fn copy_kernel(x: &[f32], y: &mut [f32], size: u32) {
    let at = ABSOLUTE_POS;
    if at < size as usize {
        y[at] = x[at];
    }
}

/// See [`crate::ops::LatentOps::latent_overwrite`].
pub(super) fn overwrite(x: CubeTensor, y: CubeTensor) -> CubeTensor {
    let size = count(x.meta.shape());
    let (blocks, block) = elementwise(size);
    copy_kernel::launch(
        &x.client,
        blocks,
        block,
        dense(y).into_buffer_arg(),
        x.clone().into_buffer_arg(),
        size as u32,
    );
    x
}

#[cube(launch)]
fn add_kernel(a: &[f32], b: &[f32], y: &mut [f32], size: u32) {
    let at = ABSOLUTE_POS;
    if at < size as usize {
        y[at] = a[at] + b[at];
    }
}

/// See [`crate::ops::LatentOps::latent_add`].
pub(super) fn add(a: CubeTensor, b: CubeTensor) -> CubeTensor {
    let shape = a.meta.shape().to_vec();
    each(
        [a, b],
        &shape,
        |client, (blocks, block), [a, b], y, size| {
            add_kernel::launch(client, blocks, block, a, b, y, size);
        },
    )
}

#[cube(launch)]
fn geglu_kernel(x: &[f32], y: &mut [f32], size: u32, half: u32) {
    let at = ABSOLUTE_POS as u32;
    if at < size {
        let value = (at / half * 2u32 * half + at % half) as usize;
        y[at as usize] = x[value] * gelu(x[value + half as usize]);
    }
}

#[cube(launch)]
fn geglu_backward_kernel(x: &[f32], dy: &[f32], dx: &mut [f32], size: u32, half: u32) {
    let at = ABSOLUTE_POS as u32;
    if at < size {
        let value = (at / half * 2u32 * half + at % half) as usize;
        let gate = value + half as usize;
        let slope = dy[at as usize];
        dx[value] = slope * gelu(x[gate]);
        dx[gate] = slope * x[value] * gelu_slope(x[gate]);
    }
}

/// See [`crate::ops::LatentOps::latent_geglu`].
pub(super) fn geglu(x: CubeTensor) -> CubeTensor {
    let mut shape = x.meta.shape().to_vec();
    let last = shape.len() - 1;
    shape[last] /= 2;
    let half = shape[last] as u32;
    each([x], &shape, |client, (blocks, block), [x], y, size| {
        geglu_kernel::launch(client, blocks, block, x, y, size, half);
    })
}

/// See [`crate::ops::LatentOps::latent_geglu_backward`].
pub(super) fn geglu_backward(x: CubeTensor, dy: CubeTensor) -> CubeTensor {
    let shape = dy.meta.shape().to_vec();
    let dx = empty(&x, &x.meta.shape().to_vec(), DType::F32);
    let (blocks, block) = elementwise(count(&shape));
    geglu_backward_kernel::launch(
        &dx.client,
        blocks,
        block,
        dense(x).into_buffer_arg(),
        dense(dy).into_buffer_arg(),
        dx.clone().into_buffer_arg(),
        count(&shape) as u32,
        shape[shape.len() - 1] as u32,
    );
    dx
}

#[cube(launch)]
fn concat_kernel(a: &[f32], b: &[f32], y: &mut [f32], size: u32, left: u32, right: u32) {
    let at = ABSOLUTE_POS as u32;
    if at < size {
        let row = at / (left + right);
        let channel = at % (left + right);
        if channel < left {
            y[at as usize] = a[(row * left + channel) as usize];
        } else {
            y[at as usize] = b[(row * right + channel - left) as usize];
        }
    }
}

#[cube(launch)]
fn split_kernel(x: &[f32], a: &mut [f32], b: &mut [f32], size: u32, left: u32, right: u32) {
    let at = ABSOLUTE_POS as u32;
    if at < size {
        let row = at / (left + right);
        let channel = at % (left + right);
        if channel < left {
            a[(row * left + channel) as usize] = x[at as usize];
        } else {
            b[(row * right + channel - left) as usize] = x[at as usize];
        }
    }
}

/// See [`crate::ops::LatentOps::latent_concat`].
pub(super) fn concat(a: CubeTensor, b: CubeTensor) -> CubeTensor {
    let mut shape = a.meta.shape().to_vec();
    let last = shape.len() - 1;
    let (left, right) = (shape[last], b.meta.shape()[last]);
    shape[last] = left + right;
    let (left, right) = (left as u32, right as u32);
    each(
        [a, b],
        &shape,
        |client, (blocks, block), [a, b], y, size| {
            concat_kernel::launch(client, blocks, block, a, b, y, size, left, right);
        },
    )
}

/// See [`crate::ops::LatentOps::latent_split`].
pub(super) fn split(x: CubeTensor, channels: usize) -> (CubeTensor, CubeTensor) {
    let shape = x.meta.shape().to_vec();
    let last = shape.len() - 1;
    let with = |channels| {
        let mut shape = shape.clone();
        shape[last] = channels;
        empty(&x, &shape, DType::F32)
    };
    let (a, b) = (with(channels), with(shape[last] - channels));
    let (blocks, block) = elementwise(count(&shape));
    split_kernel::launch(
        &a.client,
        blocks,
        block,
        dense(x).into_buffer_arg(),
        a.clone().into_buffer_arg(),
        b.clone().into_buffer_arg(),
        count(&shape) as u32,
        channels as u32,
        (shape[last] - channels) as u32,
    );
    (a, b)
}

/// Each row and column of `y` shows the nearest of `x`; torch's rule, in its f32 arithmetic.
#[cube(launch)]
#[allow(clippy::too_many_arguments)]
fn upsample_kernel(
    x: &[f32],
    y: &mut [f32],
    size: u32,
    h: u32,
    w: u32,
    height: u32,
    width: u32,
    channels: u32,
) {
    let at = ABSOLUTE_POS as u32;
    if at < size {
        let channel = at % channels;
        let column = at / channels % width;
        let row = at / channels / width % height;
        let sample = at / channels / width / height;
        let scale_row = f32::cast_from(h) / f32::cast_from(height);
        let scale_column = f32::cast_from(w) / f32::cast_from(width);
        let source_row = u32::min(u32::cast_from(f32::cast_from(row) * scale_row), h - 1u32);
        let source_column = u32::min(
            u32::cast_from(f32::cast_from(column) * scale_column),
            w - 1u32,
        );
        let source = ((sample * h + source_row) * w + source_column) * channels + channel;
        y[at as usize] = x[source as usize];
    }
}

/// See [`crate::ops::LatentOps::latent_upsample`].
pub(super) fn upsample(x: CubeTensor, [height, width]: [usize; 2]) -> CubeTensor {
    let [n, h, w, c] = x.meta.shape().dims();
    let shape = [n, height, width, c];
    let [h, w, height, width, c] = [h, w, height, width, c].map(|length| length as u32);
    each([x], &shape, |client, (blocks, block), [x], y, size| {
        upsample_kernel::launch(client, blocks, block, x, y, size, h, w, height, width, c);
    })
}

/// Whether `dy` is that of an `x` of `size` doubled.
pub(super) fn doubles(dy: &CubeTensor, [h, w]: [usize; 2]) -> bool {
    let [_, height, width, _] = dy.meta.shape().dims();
    (height, width) == (2 * h, 2 * w)
}

#[cube(launch)]
fn sum_of_four_kernel(dy: &[f32], dx: &mut [f32], size: u32, width: u32, channels: u32) {
    let at = ABSOLUTE_POS as u32;
    if at < size {
        let channel = at % channels;
        let column = at / channels % width;
        // Rows of all samples at once: each has two rows of `dy`.
        let row = at / channels / width;
        let first = ((2u32 * row * width + column) * 2u32) * channels + channel;
        let below = first + 2u32 * width * channels;
        let upper = dy[first as usize] + dy[(first + channels) as usize];
        let lower = dy[below as usize] + dy[(below + channels) as usize];
        dx[at as usize] = upper + lower;
    }
}

/// See [`crate::ops::LatentOps::latent_upsample_backward`], where [`doubles`].
pub(super) fn upsample_doubled_backward(dy: CubeTensor, [h, w]: [usize; 2]) -> CubeTensor {
    let [n, _, _, c] = dy.meta.shape().dims();
    let shape = [n, h, w, c];
    each([dy], &shape, |client, (blocks, block), [dy], dx, size| {
        sum_of_four_kernel::launch(client, blocks, block, dy, dx, size, w as u32, c as u32);
    })
}
