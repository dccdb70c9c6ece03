//! Sums over rows, in as many pieces as keep a card busy.

use burn::tensor::DType;
use burn_cubecl::cubecl;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::{count, dense, each, empty};

/// Channels a block sums side by side.
const LANES: u32 = 32;
/// Rows a block reads side by side.
const ROWS: u32 = 32;
/// Blocks that keep a card busy.
const BUSY: usize = 512;
/// Rows below which another launch costs more than it saves.
const SHORT: usize = 4096;

/// One block sums `piece` rows of `LANES` channels: piece `CUBE_POS_X % pieces` of run `CUBE_POS_X / pieces`.
#[cube(launch)]
fn sum_rows(x: &[f32], y: &mut [f32], channels: u32, run: u32, piece: u32, pieces: u32) {
    let channel = CUBE_POS_Y * LANES + UNIT_POS_X;
    let first = (CUBE_POS_X % pieces) * piece;
    let last = u32::min(first + piece, run);
    let base = (CUBE_POS_X / pieces) * run;
    let mut sums = Shared::<[f32]>::new_slice(1024usize);
    let mut sum = 0.0f32;
    if channel < channels {
        let mut row = first + UNIT_POS_Y;
        while row < last {
            sum += x[((base + row) * channels + channel) as usize];
            row += ROWS;
        }
    }
    sums[UNIT_POS as usize] = sum;
    sync_cube();
    if UNIT_POS_Y == 0u32 && channel < channels {
        let mut total = 0.0f32;
        for row in 0u32..ROWS {
            total += sums[(row * LANES + UNIT_POS_X) as usize];
        }
        y[(CUBE_POS_X * channels + channel) as usize] = total;
    }
}

/// `dy [.., c]` summed over `runs` equal runs of rows: `[runs, c]`. The order of the sums depends on the shape only.
pub(super) fn column_sums(dy: CubeTensor, runs: usize) -> CubeTensor {
    let shape = dy.meta.shape().to_vec();
    let channels = shape[shape.len() - 1];
    let rows = count(&shape) / channels;
    let mut x = dense(dy);
    let mut run = rows / runs;
    loop {
        let tiles = runs * channels.div_ceil(LANES as usize);
        let wanted = match run > SHORT {
            true => (BUSY / tiles).clamp(1, run / (4 * ROWS as usize)),
            false => 1,
        };
        let piece = run.div_ceil(wanted);
        let pieces = run.div_ceil(piece);
        let y = empty(&x, &[runs * pieces, channels], DType::F32);
        sum_rows::launch(
            &y.client,
            CubeCount::Static(
                (runs * pieces) as u32,
                channels.div_ceil(LANES as usize) as u32,
                1,
            ),
            CubeDim::new_2d(LANES, ROWS),
            x.into_buffer_arg(),
            y.clone().into_buffer_arg(),
            channels as u32,
            run as u32,
            piece as u32,
            pieces as u32,
        );
        if pieces == 1 {
            return y;
        }
        (x, run) = (y, pieces);
    }
}

/// Adds the partial products `[parts, k, co]`, `k` counting taps and then `ci`, into the weight `[co, ci, taps]`.
#[cube(launch)]
fn join_parts(
    x: &[f32],
    y: &mut [f32],
    size: u32,
    parts: u32,
    inputs: u32,
    outputs: u32,
    taps: u32,
) {
    let index = ABSOLUTE_POS as u32;
    if index < size {
        let mut sum = 0.0f32;
        for part in 0u32..parts {
            sum += x[(part * size + index) as usize];
        }
        let output = index % outputs;
        let row = index / outputs;
        let input = row % inputs;
        let tap = row / inputs;
        y[((output * inputs + input) * taps + tap) as usize] = sum;
    }
}

/// See [`join_parts`]; `shape` is the weight's `[co, ci, kh, kw]`.
pub(super) fn weight_of_parts(parts: CubeTensor, shape: [usize; 4]) -> CubeTensor {
    let [outputs, inputs, kh, kw] = shape;
    let size = count(&shape);
    let splits = count(parts.meta.shape()) / size;
    let [splits, inputs, outputs] = [splits, inputs, outputs].map(|length| length as u32);
    let taps = (kh * kw) as u32;
    each([parts], &shape, |client, (blocks, block), [x], y, size| {
        join_parts::launch(
            client, blocks, block, x, y, size, splits, inputs, outputs, taps,
        );
    })
}
