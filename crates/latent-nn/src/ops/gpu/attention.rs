//! Attention over few keys without a score matrix: one unit a query forward, one a query and one a key backward.
//!
//! Sequences past [`LONGEST`] and heads wider than [`WIDEST`] are products of matrices, which `composed` makes.
//! Source: Dao et al. 2022 (arXiv:2205.14135), Algorithms 1 and 4.

use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::cubecl;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::{dense, empty};
use crate::ops::{AttentionOptions, AttentionRecord};

/// Units of a block: queries (or keys) that it looks after.
const UNITS: u32 = 64;
/// Keys (or queries) that lie in shared memory at once.
const TILE: u32 = 32;
/// Beyond this many keys the matrix units win.
const LONGEST: usize = 1024;
/// Values of a head that a unit's registers hold.
const WIDEST: usize = 64;

/// Whether the kernels take these lengths.
pub(super) fn fits(queries: &CubeTensor, keys: &CubeTensor, options: &AttentionOptions) -> bool {
    let [n, lq, channels] = queries.meta.shape().dims();
    let [_, lk, _] = keys.meta.shape().dims();
    let width = channels / options.heads;
    n * lq * lk > 0
        && width <= WIDEST
        && width.is_multiple_of(2)
        && lq <= LONGEST
        && lk <= LONGEST
}

/// Copies `TILE` rows of one head from row `first` on into shared memory; rows past `length` are zeros.
#[cube]
#[allow(clippy::too_many_arguments)]
fn fetch(
    x: &[f32],
    tile: &mut Shared<[f32]>,
    base: u32,
    first: u32,
    length: u32,
    channels: u32,
    #[comptime] width: u32,
) {
    let mut at = UNIT_POS;
    while at < comptime!(TILE * width) {
        let row = first + at / width;
        let mut value = 0.0f32;
        if row < length {
            value = x[(base + row * channels + at % width) as usize];
        }
        tile[at as usize] = value;
        at += UNITS;
    }
}

/// Output and log-sum of query `CUBE_POS_X * UNITS + UNIT_POS` of head `CUBE_POS_Y`.
#[cube(launch)]
#[allow(clippy::too_many_arguments)]
fn forward_kernel(
    queries: &[f32],
    keys: &[f32],
    values: &[f32],
    output: &mut [f32],
    log_sums: &mut [f32],
    lq: u32,
    lk: u32,
    heads: u32,
    tiles: u32,
    scale: f32,
    #[comptime] width: u32,
    #[comptime] causal: bool,
) {
    let channels = heads * width;
    let pair = CUBE_POS_X / tiles;
    let (sample, head) = (pair / heads, pair % heads);
    let query = CUBE_POS_X % tiles * UNITS + UNIT_POS;
    let own = (sample * lq + query) * channels + head * width;
    let base = sample * lk * channels + head * width;
    let mut key_tile = Shared::<[f32]>::new_slice(comptime!((TILE * width) as usize));
    let mut value_tile = Shared::<[f32]>::new_slice(comptime!((TILE * width) as usize));
    let mut q = Array::<f32>::new(comptime!(width as usize));
    let mut sum_of_values = Array::<f32>::new(comptime!(width as usize));
    let present = query < lq;
    #[unroll]
    for i in 0u32..width {
        let mut value = 0.0f32;
        if present {
            value = queries[(own + i) as usize] * scale;
        }
        q[i as usize] = value;
        sum_of_values[i as usize] = 0.0f32;
    }
    let mut peak = f32::new(-1e30);
    let mut sum = 0.0f32;
    let mut first = 0u32;
    while first < lk {
        sync_cube();
        fetch(keys, &mut key_tile, base, first, lk, channels, width);
        fetch(values, &mut value_tile, base, first, lk, channels, width);
        sync_cube();
        let mut last = u32::min(TILE, lk - first);
        if causal {
            // Keys up to the query's own position.
            last = u32::min(last, select(query + 1u32 > first, query + 1u32 - first, 0u32));
        }
        for key in 0u32..last {
            let mut score = 0.0f32;
            #[unroll]
            for i in 0u32..width {
                score += q[i as usize] * key_tile[(key * width + i) as usize];
            }
            let higher = f32::max(peak, score);
            let kept = f32::exp(peak - higher);
            let weight = f32::exp(score - higher);
            sum = sum * kept + weight;
            #[unroll]
            for i in 0u32..width {
                let before = sum_of_values[i as usize];
                sum_of_values[i as usize] =
                    before * kept + weight * value_tile[(key * width + i) as usize];
            }
            peak = higher;
        }
        first += TILE;
    }
    if present {
        #[unroll]
        for i in 0u32..width {
            output[(own + i) as usize] = sum_of_values[i as usize] / sum;
        }
        log_sums[(pair * lq + query) as usize] = peak + f32::ln(sum);
    }
}

/// Gradient of a query, and `dy . output` of its row, which the keys' gradients need.
#[cube(launch)]
#[allow(clippy::too_many_arguments)]
fn backward_queries_kernel(
    queries: &[f32],
    keys: &[f32],
    values: &[f32],
    output: &[f32],
    log_sums: &[f32],
    dy: &[f32],
    dqueries: &mut [f32],
    deltas: &mut [f32],
    lq: u32,
    lk: u32,
    heads: u32,
    tiles: u32,
    scale: f32,
    #[comptime] width: u32,
    #[comptime] causal: bool,
) {
    let channels = heads * width;
    let pair = CUBE_POS_X / tiles;
    let (sample, head) = (pair / heads, pair % heads);
    let query = CUBE_POS_X % tiles * UNITS + UNIT_POS;
    let own = (sample * lq + query) * channels + head * width;
    let base = sample * lk * channels + head * width;
    let mut key_tile = Shared::<[f32]>::new_slice(comptime!((TILE * width) as usize));
    let mut value_tile = Shared::<[f32]>::new_slice(comptime!((TILE * width) as usize));
    let mut q = Array::<f32>::new(comptime!(width as usize));
    let mut slope = Array::<f32>::new(comptime!(width as usize));
    let mut dq = Array::<f32>::new(comptime!(width as usize));
    let present = query < lq;
    let mut delta = 0.0f32;
    let mut log_sum = 0.0f32;
    if present {
        log_sum = log_sums[(pair * lq + query) as usize];
    }
    #[unroll]
    for i in 0u32..width {
        let mut value = 0.0f32;
        let mut gradient = 0.0f32;
        if present {
            value = queries[(own + i) as usize] * scale;
            gradient = dy[(own + i) as usize];
            delta += gradient * output[(own + i) as usize];
        }
        q[i as usize] = value;
        slope[i as usize] = gradient;
        dq[i as usize] = 0.0f32;
    }
    let mut first = 0u32;
    while first < lk {
        sync_cube();
        fetch(keys, &mut key_tile, base, first, lk, channels, width);
        fetch(values, &mut value_tile, base, first, lk, channels, width);
        sync_cube();
        let mut last = u32::min(TILE, lk - first);
        if causal {
            last = u32::min(last, select(query + 1u32 > first, query + 1u32 - first, 0u32));
        }
        for key in 0u32..last {
            let mut score = 0.0f32;
            let mut dweight = 0.0f32;
            #[unroll]
            for i in 0u32..width {
                score += q[i as usize] * key_tile[(key * width + i) as usize];
                dweight += slope[i as usize] * value_tile[(key * width + i) as usize];
            }
            let dscore = f32::exp(score - log_sum) * (dweight - delta) * scale;
            #[unroll]
            for i in 0u32..width {
                let before = dq[i as usize];
                dq[i as usize] = before + dscore * key_tile[(key * width + i) as usize];
            }
        }
        first += TILE;
    }
    if present {
        #[unroll]
        for i in 0u32..width {
            dqueries[(own + i) as usize] = dq[i as usize];
        }
        deltas[(pair * lq + query) as usize] = delta;
    }
}

/// Gradients of a key and of its value.
#[cube(launch)]
#[allow(clippy::too_many_arguments)]
fn backward_keys_kernel(
    queries: &[f32],
    keys: &[f32],
    values: &[f32],
    log_sums: &[f32],
    deltas: &[f32],
    dy: &[f32],
    dkeys: &mut [f32],
    dvalues: &mut [f32],
    lq: u32,
    lk: u32,
    heads: u32,
    tiles: u32,
    scale: f32,
    #[comptime] width: u32,
    #[comptime] causal: bool,
) {
    let channels = heads * width;
    let pair = CUBE_POS_X / tiles;
    let (sample, head) = (pair / heads, pair % heads);
    let key = CUBE_POS_X % tiles * UNITS + UNIT_POS;
    let own = (sample * lk + key) * channels + head * width;
    let base = sample * lq * channels + head * width;
    let mut query_tile = Shared::<[f32]>::new_slice(comptime!((TILE * width) as usize));
    let mut slope_tile = Shared::<[f32]>::new_slice(comptime!((TILE * width) as usize));
    let mut k = Array::<f32>::new(comptime!(width as usize));
    let mut v = Array::<f32>::new(comptime!(width as usize));
    let mut dk = Array::<f32>::new(comptime!(width as usize));
    let mut dv = Array::<f32>::new(comptime!(width as usize));
    let present = key < lk;
    #[unroll]
    for i in 0u32..width {
        let mut own_key = 0.0f32;
        let mut own_value = 0.0f32;
        if present {
            own_key = keys[(own + i) as usize] * scale;
            own_value = values[(own + i) as usize];
        }
        k[i as usize] = own_key;
        v[i as usize] = own_value;
        dk[i as usize] = 0.0f32;
        dv[i as usize] = 0.0f32;
    }
    let mut first = 0u32;
    while first < lq {
        sync_cube();
        fetch(queries, &mut query_tile, base, first, lq, channels, width);
        fetch(dy, &mut slope_tile, base, first, lq, channels, width);
        sync_cube();
        let last = u32::min(TILE, lq - first);
        let mut from = 0u32;
        if causal {
            // Queries from the key's own position on.
            from = select(key > first, u32::min(key - first, last), 0u32);
        }
        for query in from..last {
            let mut score = 0.0f32;
            let mut dweight = 0.0f32;
            #[unroll]
            for i in 0u32..width {
                score += k[i as usize] * query_tile[(query * width + i) as usize];
                dweight += v[i as usize] * slope_tile[(query * width + i) as usize];
            }
            let at = (pair * lq + first + query) as usize;
            let weight = f32::exp(score - log_sums[at]);
            let dscore = weight * (dweight - deltas[at]) * scale;
            #[unroll]
            for i in 0u32..width {
                let before = dk[i as usize];
                dk[i as usize] = before + dscore * query_tile[(query * width + i) as usize];
                let before = dv[i as usize];
                dv[i as usize] = before + weight * slope_tile[(query * width + i) as usize];
            }
        }
        first += TILE;
    }
    if present {
        #[unroll]
        for i in 0u32..width {
            dkeys[(own + i) as usize] = dk[i as usize];
            dvalues[(own + i) as usize] = dv[i as usize];
        }
    }
}

/// Lengths of an attention.
struct Sizes {
    n: usize,
    heads: usize,
    lq: usize,
    lk: usize,
    width: usize,
}

impl Sizes {
    fn of(queries: &CubeTensor, keys: &CubeTensor, options: &AttentionOptions) -> Self {
        let [n, lq, channels] = queries.meta.shape().dims();
        let [_, lk, _] = keys.meta.shape().dims();
        Self {
            n,
            heads: options.heads,
            lq,
            lk,
            width: channels / options.heads,
        }
    }

    /// Blocks for a unit each of `length`, and how many of them a head has.
    fn blocks(&self, length: usize) -> (CubeCount, u32) {
        let tiles = length.div_ceil(UNITS as usize);
        let blocks = self.n * self.heads * tiles;
        (CubeCount::Static(blocks as u32, 1, 1), tiles as u32)
    }

    fn scale(&self) -> f32 {
        (self.width as f32).sqrt().recip()
    }
}

/// See [`crate::ops::LatentOps::latent_attention_recorded`].
pub(super) fn forward(
    queries: CubeTensor,
    keys: CubeTensor,
    values: CubeTensor,
    options: AttentionOptions,
) -> (CubeTensor, CubeTensor) {
    let sizes = Sizes::of(&queries, &keys, &options);
    let shape = [sizes.n, sizes.lq, sizes.heads * sizes.width];
    let output = empty(&queries, &shape, DType::F32);
    let log_sums = empty(&queries, &[sizes.n, sizes.heads, sizes.lq], DType::F32);
    let (blocks, tiles) = sizes.blocks(sizes.lq);
    forward_kernel::launch(
        &output.client,
        blocks,
        CubeDim::new_1d(UNITS),
        dense(queries).into_buffer_arg(),
        dense(keys).into_buffer_arg(),
        dense(values).into_buffer_arg(),
        output.clone().into_buffer_arg(),
        log_sums.clone().into_buffer_arg(),
        sizes.lq as u32,
        sizes.lk as u32,
        sizes.heads as u32,
        tiles,
        sizes.scale(),
        sizes.width as u32,
        options.causal,
    );
    (output, log_sums)
}

/// See [`crate::ops::LatentOps::latent_attention_backward`].
pub(super) fn backward(
    record: AttentionRecord<CubeBackend>,
    dy: CubeTensor,
    options: AttentionOptions,
) -> (CubeTensor, CubeTensor, CubeTensor) {
    let sizes = Sizes::of(&record.queries, &record.keys, &options);
    let [queries, keys, values, output, log_sums, dy] = [
        record.queries,
        record.keys,
        record.values,
        record.output,
        record.log_sums,
        dy,
    ]
    .map(dense);
    let of = |length| {
        let shape = [sizes.n, length, sizes.heads * sizes.width];
        empty(&queries, &shape, DType::F32)
    };
    let (dqueries, dkeys, dvalues) = (of(sizes.lq), of(sizes.lk), of(sizes.lk));
    let deltas = empty(&queries, &[sizes.n, sizes.heads, sizes.lq], DType::F32);
    let (blocks, tiles) = sizes.blocks(sizes.lq);
    backward_queries_kernel::launch(
        &queries.client,
        blocks,
        CubeDim::new_1d(UNITS),
        queries.clone().into_buffer_arg(),
        keys.clone().into_buffer_arg(),
        values.clone().into_buffer_arg(),
        output.into_buffer_arg(),
        log_sums.clone().into_buffer_arg(),
        dy.clone().into_buffer_arg(),
        dqueries.clone().into_buffer_arg(),
        deltas.clone().into_buffer_arg(),
        sizes.lq as u32,
        sizes.lk as u32,
        sizes.heads as u32,
        tiles,
        sizes.scale(),
        sizes.width as u32,
        options.causal,
    );
    let (blocks, tiles) = sizes.blocks(sizes.lk);
    backward_keys_kernel::launch(
        &queries.client,
        blocks,
        CubeDim::new_1d(UNITS),
        queries.clone().into_buffer_arg(),
        keys.into_buffer_arg(),
        values.into_buffer_arg(),
        log_sums.into_buffer_arg(),
        deltas.into_buffer_arg(),
        dy.into_buffer_arg(),
        dkeys.clone().into_buffer_arg(),
        dvalues.clone().into_buffer_arg(),
        sizes.lq as u32,
        sizes.lk as u32,
        sizes.heads as u32,
        tiles,
        sizes.scale(),
        sizes.width as u32,
        options.causal,
    );
    (dqueries, dkeys, dvalues)
}
