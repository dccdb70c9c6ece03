//! Group and layer normalisation, each direction in one kernel and a sum.

use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::cubecl;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::pointwise::{swish, swish_slope};
use super::sums::column_sums;
use super::{count, dense, empty, reshaped};
use crate::ops::{GroupNormOptions, LatentOps};

/// Units of a block that normalises one group of one sample.
const UNITS: u32 = 256;
/// Units that share a row of layer normalisation, and rows of a block.
const LANES: u32 = 32;
const ROWS: u32 = 8;
/// Values after which a part may begin that is a view: 512 bytes.
const ALIGNED: usize = 128;

/// Sum of every unit's `value`, the same for all of them and for every run. `UNITS` units must call it together.
#[cube]
fn block_sum(value: f32) -> f32 {
    let mut sums = Shared::<[f32]>::new_slice(256usize);
    sums[UNIT_POS as usize] = value;
    sync_cube();
    let mut half = comptime!(UNITS / 2).runtime();
    while half > 0u32 {
        if UNIT_POS < half {
            let other = sums[(UNIT_POS + half) as usize];
            sums[UNIT_POS as usize] += other;
        }
        sync_cube();
        half /= 2u32;
    }
    let sum = sums[0];
    sync_cube();
    sum
}

/// `y * sigmoid(y)` where asked.
#[cube]
fn silu_if(y: f32, #[comptime] silu: bool) -> f32 {
    if silu { swish(y, 1.0f32) } else { y }
}

/// `dy` through SiLU at `y` where asked.
#[cube]
fn silu_backward_if(y: f32, dy: f32, #[comptime] silu: bool) -> f32 {
    if silu {
        dy * swish_slope(y, 1.0f32)
    } else {
        dy
    }
}

/// Block `CUBE_POS_X` normalises group `CUBE_POS_X % groups` of a sample; each unit keeps to one channel of its `width`.
#[cube(launch)]
#[allow(clippy::too_many_arguments)]
fn group_norm_kernel(
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    y: &mut [f32],
    statistics: &mut [f32],
    positions: u32,
    groups: u32,
    eps: f32,
    #[comptime] width: u32,
    #[comptime] silu: bool,
) {
    let lanes = comptime!(UNITS / width);
    let lane = UNIT_POS / width;
    let group = CUBE_POS_X % groups;
    let channel = group * width + UNIT_POS % width;
    let channels = groups * width;
    let base = CUBE_POS_X / groups * positions * channels + channel;
    // Units beyond the last whole lane look at no position.
    let first = select(lane < lanes, lane, positions);
    let total = f32::cast_from(positions * width);

    let mut sum = 0.0f32;
    let mut position = first;
    while position < positions {
        sum += x[(base + position * channels) as usize];
        position += lanes;
    }
    let mean = block_sum(sum) / total;

    let mut squares = 0.0f32;
    position = first;
    while position < positions {
        let centred = x[(base + position * channels) as usize] - mean;
        squares += centred * centred;
        position += lanes;
    }
    let rstd = 1.0f32 / f32::sqrt(block_sum(squares) / total + eps);

    let scale = weight[channel as usize];
    let shift = bias[channel as usize];
    position = first;
    while position < positions {
        let at = (base + position * channels) as usize;
        let normal = (x[at] - mean) * rstd;
        y[at] = silu_if(normal * scale + shift, silu);
        position += lanes;
    }
    if UNIT_POS == 0u32 {
        statistics[(2u32 * CUBE_POS_X) as usize] = mean;
        statistics[(2u32 * CUBE_POS_X + 1u32) as usize] = rstd;
    }
}

/// Sum over the `lanes` units of a channel, written to `shares[at]` by the first of them; all units must call it together.
#[cube]
fn share_of_channel(
    value: f32,
    shares: &mut [f32],
    at: u32,
    #[comptime] lanes: u32,
    #[comptime] width: u32,
) {
    let mut values = Shared::<[f32]>::new_slice(256usize);
    values[UNIT_POS as usize] = value;
    sync_cube();
    if UNIT_POS < width {
        let mut sum = 0.0f32;
        for other in 0u32..lanes {
            sum += values[(other * width + UNIT_POS) as usize];
        }
        shares[at as usize] = sum;
    }
    sync_cube();
}

/// Gradient of a block's group, and the sample's shares of the gradients of weight and bias: `[n, 2 * half]`.
#[cube(launch)]
#[allow(clippy::too_many_arguments)]
fn group_norm_backward_kernel(
    x: &[f32],
    dy: &[f32],
    weight: &[f32],
    bias: &[f32],
    statistics: &[f32],
    dx: &mut [f32],
    shares: &mut [f32],
    positions: u32,
    groups: u32,
    half: u32,
    #[comptime] width: u32,
    #[comptime] silu: bool,
) {
    let lanes = comptime!(UNITS / width);
    let lane = UNIT_POS / width;
    let group = CUBE_POS_X % groups;
    let channel = group * width + UNIT_POS % width;
    let channels = groups * width;
    let sample = CUBE_POS_X / groups;
    let base = sample * positions * channels + channel;
    let first = select(lane < lanes, lane, positions);
    let total = f32::cast_from(positions * width);
    let mean = statistics[(2u32 * CUBE_POS_X) as usize];
    let rstd = statistics[(2u32 * CUBE_POS_X + 1u32) as usize];
    let scale = weight[channel as usize];
    let shift = bias[channel as usize];

    let mut of_weight = 0.0f32;
    let mut of_bias = 0.0f32;
    let mut position = first;
    while position < positions {
        let at = (base + position * channels) as usize;
        let normal = (x[at] - mean) * rstd;
        let slope = silu_backward_if(normal * scale + shift, dy[at], silu);
        of_weight += slope * normal;
        of_bias += slope;
        position += lanes;
    }

    let at = 2u32 * sample * half + channel;
    share_of_channel(of_weight, shares, at, lanes, width);
    share_of_channel(of_bias, shares, at + half, lanes, width);

    let mean_slope = block_sum(of_bias * scale) / total;
    let projection = block_sum(of_weight * scale) / total;
    position = first;
    while position < positions {
        let at = (base + position * channels) as usize;
        let normal = (x[at] - mean) * rstd;
        let slope = silu_backward_if(normal * scale + shift, dy[at], silu) * scale;
        dx[at] = (slope - mean_slope - normal * projection) * rstd;
        position += lanes;
    }
}

/// `[n, positions, channels]` of an `x [n, .., c]`.
fn folded(x: &CubeTensor) -> [usize; 3] {
    let shape = x.meta.shape().to_vec();
    let channels = shape[shape.len() - 1];
    [
        shape[0],
        count(&shape) / (shape[0] * channels).max(1),
        channels,
    ]
}

/// Whether the channels of a group fit a block.
pub(super) fn fits(x: &CubeTensor, options: &GroupNormOptions) -> bool {
    let [n, positions, channels] = folded(x);
    let width = channels / options.groups;
    n * positions > 0 && (1..=UNITS as usize).contains(&width)
}

/// See [`crate::ops::LatentOps::latent_group_norm_recorded`].
pub(super) fn group_norm(
    x: CubeTensor,
    weight: CubeTensor,
    bias: CubeTensor,
    options: GroupNormOptions,
) -> (CubeTensor, CubeTensor) {
    let shape = x.meta.shape().to_vec();
    let [n, positions, channels] = folded(&x);
    let y = empty(&x, &shape, DType::F32);
    let statistics = empty(&x, &[n, options.groups, 2], DType::F32);
    group_norm_kernel::launch(
        &y.client,
        CubeCount::Static((n * options.groups) as u32, 1, 1),
        CubeDim::new_1d(UNITS),
        dense(x).into_buffer_arg(),
        dense(weight).into_buffer_arg(),
        dense(bias).into_buffer_arg(),
        y.clone().into_buffer_arg(),
        statistics.clone().into_buffer_arg(),
        positions as u32,
        options.groups as u32,
        options.eps as f32,
        (channels / options.groups) as u32,
        options.silu,
    );
    (y, statistics)
}

/// See [`crate::ops::LatentOps::latent_group_norm_backward`]; `saved` is weight, bias, statistics.
pub(super) fn group_norm_backward(
    x: CubeTensor,
    dy: CubeTensor,
    [weight, bias, statistics]: [CubeTensor; 3],
    options: GroupNormOptions,
) -> (CubeTensor, CubeTensor, CubeTensor) {
    let shape = x.meta.shape().to_vec();
    let [n, positions, channels] = folded(&x);
    let dx = empty(&x, &shape, DType::F32);
    let half = channels.next_multiple_of(ALIGNED);
    let shares = empty(&x, &[n, 2 * half], DType::F32);
    group_norm_backward_kernel::launch(
        &dx.client,
        CubeCount::Static((n * options.groups) as u32, 1, 1),
        CubeDim::new_1d(UNITS),
        dense(x).into_buffer_arg(),
        dense(dy).into_buffer_arg(),
        dense(weight).into_buffer_arg(),
        dense(bias).into_buffer_arg(),
        dense(statistics).into_buffer_arg(),
        dx.clone().into_buffer_arg(),
        shares.clone().into_buffer_arg(),
        positions as u32,
        options.groups as u32,
        half as u32,
        (channels / options.groups) as u32,
        options.silu,
    );
    let (dweight, dbias) = halves(column_sums(shares, 1), channels, half);
    (dx, dweight, dbias)
}

/// The first `channels` sums of both halves of `[1, 2 * half]`.
fn halves(sums: CubeTensor, channels: usize, half: usize) -> (CubeTensor, CubeTensor) {
    let sums = reshaped(sums, &[2 * half]);
    let part = |from| CubeBackend::latent_part(sums.clone(), from, from + channels);
    (part(0), part(half))
}

/// Sum of the `LANES` units of a row; all units of the block must call it together.
#[cube]
fn row_sum(value: f32) -> f32 {
    let mut sums = Shared::<[f32]>::new_slice(256usize);
    sums[UNIT_POS as usize] = value;
    sync_cube();
    let mut half = comptime!(LANES / 2).runtime();
    while half > 0u32 {
        if UNIT_POS_X < half {
            let other = sums[(UNIT_POS + half) as usize];
            sums[UNIT_POS as usize] += other;
        }
        sync_cube();
        half /= 2u32;
    }
    let sum = sums[(UNIT_POS - UNIT_POS_X) as usize];
    sync_cube();
    sum
}

#[cube]
fn row_mean(x: &[f32], base: u32, first: u32, channels: u32) -> f32 {
    let mut sum = 0.0f32;
    let mut channel = first;
    while channel < channels {
        sum += x[(base + channel) as usize];
        channel += LANES;
    }
    row_sum(sum) / f32::cast_from(channels)
}

#[cube]
fn row_rstd(x: &[f32], base: u32, first: u32, channels: u32, mean: f32, eps: f32) -> f32 {
    let mut squares = 0.0f32;
    let mut channel = first;
    while channel < channels {
        let centred = x[(base + channel) as usize] - mean;
        squares += centred * centred;
        channel += LANES;
    }
    1.0f32 / f32::sqrt(row_sum(squares) / f32::cast_from(channels) + eps)
}

/// A block normalises `ROWS` rows of `channels`.
#[cube(launch)]
fn layer_norm_kernel(
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    y: &mut [f32],
    rows: u32,
    channels: u32,
    eps: f32,
) {
    let row = CUBE_POS_X * ROWS + UNIT_POS_Y;
    let base = row * channels;
    let first = select(row < rows, UNIT_POS_X, channels);
    let mean = row_mean(x, base, first, channels);
    let rstd = row_rstd(x, base, first, channels, mean, eps);
    let mut channel = first;
    while channel < channels {
        let normal = (x[(base + channel) as usize] - mean) * rstd;
        y[(base + channel) as usize] = normal * weight[channel as usize] + bias[channel as usize];
        channel += LANES;
    }
}

/// Gradient of a block's rows, and `[rows, 2 * half]` of `dy * normal` and `dy`, whose sums over all rows are the
/// gradients of weight and bias.
#[cube(launch)]
#[allow(clippy::too_many_arguments)]
fn layer_norm_backward_kernel(
    x: &[f32],
    dy: &[f32],
    weight: &[f32],
    dx: &mut [f32],
    products: &mut [f32],
    rows: u32,
    channels: u32,
    half: u32,
    eps: f32,
) {
    let row = CUBE_POS_X * ROWS + UNIT_POS_Y;
    let base = row * channels;
    let first = select(row < rows, UNIT_POS_X, channels);
    let total = f32::cast_from(channels);
    let mean = row_mean(x, base, first, channels);
    let rstd = row_rstd(x, base, first, channels, mean, eps);
    let mut slopes = 0.0f32;
    let mut along = 0.0f32;
    let mut channel = first;
    while channel < channels {
        let at = (base + channel) as usize;
        let normal = (x[at] - mean) * rstd;
        let slope = dy[at] * weight[channel as usize];
        slopes += slope;
        along += slope * normal;
        channel += LANES;
    }
    let mean_slope = row_sum(slopes) / total;
    let projection = row_sum(along) / total;
    channel = first;
    while channel < channels {
        let at = (base + channel) as usize;
        let normal = (x[at] - mean) * rstd;
        let slope = dy[at] * weight[channel as usize];
        dx[at] = (slope - mean_slope - normal * projection) * rstd;
        products[(2u32 * row * half + channel) as usize] = dy[at] * normal;
        products[(2u32 * row * half + half + channel) as usize] = dy[at];
        channel += LANES;
    }
}

/// See [`crate::ops::LatentOps::latent_layer_norm`].
pub(super) fn layer_norm(
    x: CubeTensor,
    weight: CubeTensor,
    bias: CubeTensor,
    eps: f64,
) -> CubeTensor {
    let shape = x.meta.shape().to_vec();
    let channels = shape[shape.len() - 1];
    let rows = count(&shape) / channels;
    let y = empty(&x, &shape, DType::F32);
    layer_norm_kernel::launch(
        &y.client,
        CubeCount::Static(rows.div_ceil(ROWS as usize) as u32, 1, 1),
        CubeDim::new_2d(LANES, ROWS),
        dense(x).into_buffer_arg(),
        dense(weight).into_buffer_arg(),
        dense(bias).into_buffer_arg(),
        y.clone().into_buffer_arg(),
        rows as u32,
        channels as u32,
        eps as f32,
    );
    y
}

/// See [`crate::ops::LatentOps::latent_layer_norm_backward`].
pub(super) fn layer_norm_backward(
    x: CubeTensor,
    dy: CubeTensor,
    weight: CubeTensor,
    eps: f64,
) -> (CubeTensor, CubeTensor, CubeTensor) {
    let shape = x.meta.shape().to_vec();
    let channels = shape[shape.len() - 1];
    let rows = count(&shape) / channels;
    let dx = empty(&x, &shape, DType::F32);
    let half = channels.next_multiple_of(ALIGNED);
    let products = empty(&x, &[rows, 2 * half], DType::F32);
    layer_norm_backward_kernel::launch(
        &dx.client,
        CubeCount::Static(rows.div_ceil(ROWS as usize) as u32, 1, 1),
        CubeDim::new_2d(LANES, ROWS),
        dense(x).into_buffer_arg(),
        dense(dy).into_buffer_arg(),
        dense(weight).into_buffer_arg(),
        dx.clone().into_buffer_arg(),
        products.clone().into_buffer_arg(),
        rows as u32,
        channels as u32,
        half as u32,
        eps as f32,
    );
    let (dweight, dbias) = halves(column_sums(products, 1), channels, half);
    (dx, dweight, dbias)
}
