//! Attention over few keys without a score matrix: one unit a query forward, one a query and one a key backward.
//!
//! Sequences past [`LONGEST`] and heads wider than [`WIDEST`] are products of matrices, which `composed` makes.
//! Source: Dao et al. 2022 (arXiv:2205.14135), Algorithms 1 and 4.

use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::cubecl;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::{dense, each, empty};
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
    n * lq * lk > 0 && width <= WIDEST && width.is_multiple_of(2) && lq <= LONGEST && lk <= LONGEST
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

/// Values of one head at `own`, times `scale`; zeros where there is nothing.
#[cube]
fn read_row(x: &[f32], own: u32, present: bool, scale: f32, #[comptime] width: u32) -> Array<f32> {
    let mut row = Array::<f32>::new(comptime!(width as usize));
    #[unroll]
    for i in 0u32..width {
        let mut value = 0.0f32;
        if present {
            value = x[(own + i) as usize] * scale;
        }
        row[i as usize] = value;
    }
    row
}

#[cube]
fn zeros(#[comptime] width: u32) -> Array<f32> {
    let mut row = Array::<f32>::new(comptime!(width as usize));
    #[unroll]
    for i in 0u32..width {
        row[i as usize] = 0.0f32;
    }
    row
}

#[cube]
fn write_row(row: &Array<f32>, x: &mut [f32], own: u32, factor: f32, #[comptime] width: u32) {
    #[unroll]
    for i in 0u32..width {
        x[(own + i) as usize] = row[i as usize] * factor;
    }
}

#[cube]
fn dot(row: &Array<f32>, tile: &Shared<[f32]>, at: u32, #[comptime] width: u32) -> f32 {
    let mut sum = 0.0f32;
    #[unroll]
    for i in 0u32..width {
        sum += row[i as usize] * tile[(at * width + i) as usize];
    }
    sum
}

/// `row * kept + tile[at] * factor`.
#[cube]
fn accumulate(
    row: &mut Array<f32>,
    kept: f32,
    tile: &Shared<[f32]>,
    at: u32,
    factor: f32,
    #[comptime] width: u32,
) {
    #[unroll]
    for i in 0u32..width {
        let before = row[i as usize];
        row[i as usize] = before * kept + factor * tile[(at * width + i) as usize];
    }
}

/// How many keys of the tile that begins at `first` the query looks at: with `causal` those up to its own position.
#[cube]
fn looked_at(query: u32, first: u32, lk: u32, #[comptime] causal: bool) -> u32 {
    let mut count = u32::min(TILE, lk - first);
    if causal {
        let before = select(query + 1u32 > first, query + 1u32 - first, 0u32);
        count = u32::min(count, before);
    }
    count
}

/// Output and log-sum of query `CUBE_POS_X % tiles * UNITS + UNIT_POS` of sample and head `CUBE_POS_X / tiles`.
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
    let q = read_row(queries, own, query < lq, scale, width);
    let mut sum_of_values = zeros(width);
    let mut peak = f32::new(-1e30);
    let mut sum = 0.0f32;
    let mut first = 0u32;
    while first < lk {
        sync_cube();
        fetch(keys, &mut key_tile, base, first, lk, channels, width);
        fetch(values, &mut value_tile, base, first, lk, channels, width);
        sync_cube();
        for key in 0u32..looked_at(query, first, lk, causal) {
            let score = dot(&q, &key_tile, key, width);
            let higher = f32::max(peak, score);
            let kept = f32::exp(peak - higher);
            let weight = f32::exp(score - higher);
            sum = sum * kept + weight;
            accumulate(&mut sum_of_values, kept, &value_tile, key, weight, width);
            peak = higher;
        }
        first += TILE;
    }
    if query < lq {
        write_row(&sum_of_values, output, own, 1.0f32 / sum, width);
        log_sums[(pair * lq + query) as usize] = peak + f32::ln(sum);
    }
}

/// `dy . output` of each query's row `CUBE_POS_X * UNITS + UNIT_POS`, which all gradients need.
#[cube(launch)]
fn deltas_kernel(
    output: &[f32],
    dy: &[f32],
    deltas: &mut [f32],
    size: u32,
    lq: u32,
    heads: u32,
    #[comptime] width: u32,
) {
    let at = ABSOLUTE_POS as u32;
    if at < size {
        let (pair, query) = (at / lq, at % lq);
        let (sample, head) = (pair / heads, pair % heads);
        let own = (sample * lq + query) * heads * width + head * width;
        let mut delta = 0.0f32;
        for i in 0u32..width {
            delta += output[(own + i) as usize] * dy[(own + i) as usize];
        }
        deltas[at as usize] = delta;
    }
}

/// Gradient of a query.
#[cube(launch)]
#[allow(clippy::too_many_arguments)]
fn backward_queries_kernel(
    queries: &[f32],
    keys: &[f32],
    values: &[f32],
    log_sums: &[f32],
    deltas: &[f32],
    dy: &[f32],
    dqueries: &mut [f32],
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
    let q = read_row(queries, own, query < lq, scale, width);
    let slope = read_row(dy, own, query < lq, 1.0f32, width);
    let mut dq = zeros(width);
    // The last query's where there is none: read, and not used.
    let row = (pair * lq + u32::min(query, lq - 1u32)) as usize;
    let (log_sum, delta) = (log_sums[row], deltas[row]);
    let mut first = 0u32;
    while first < lk {
        sync_cube();
        fetch(keys, &mut key_tile, base, first, lk, channels, width);
        fetch(values, &mut value_tile, base, first, lk, channels, width);
        sync_cube();
        for key in 0u32..looked_at(query, first, lk, causal) {
            let score = dot(&q, &key_tile, key, width);
            let dweight = dot(&slope, &value_tile, key, width);
            let dscore = f32::exp(score - log_sum) * (dweight - delta);
            accumulate(&mut dq, 1.0f32, &key_tile, key, dscore, width);
        }
        first += TILE;
    }
    if query < lq {
        write_row(&dq, dqueries, own, scale, width);
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
    let k = read_row(keys, own, key < lk, scale, width);
    let v = read_row(values, own, key < lk, 1.0f32, width);
    let mut dk = zeros(width);
    let mut dv = zeros(width);
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
            let score = dot(&k, &query_tile, query, width);
            let dweight = dot(&v, &slope_tile, query, width);
            let at = (pair * lq + first + query) as usize;
            let weight = f32::exp(score - log_sums[at]);
            let dscore = weight * (dweight - deltas[at]);
            accumulate(&mut dk, 1.0f32, &query_tile, query, dscore, width);
            accumulate(&mut dv, 1.0f32, &slope_tile, query, weight, width);
        }
        first += TILE;
    }
    if key < lk {
        write_row(&dk, dkeys, own, scale, width);
        write_row(&dv, dvalues, own, 1.0f32, width);
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

    /// See [`deltas_kernel`]: `[n, heads, lq]`.
    fn deltas(&self, output: CubeTensor, dy: CubeTensor) -> CubeTensor {
        let shape = [self.n, self.heads, self.lq];
        let [lq, heads, width] = [self.lq, self.heads, self.width].map(|length| length as u32);
        each(
            [output, dy],
            &shape,
            |client, (blocks, block), [output, dy], deltas, size| {
                deltas_kernel::launch(
                    client, blocks, block, output, dy, deltas, size, lq, heads, width,
                );
            },
        )
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

/// What both kernels of the way back read.
struct WayBack {
    sizes: Sizes,
    causal: bool,
    /// Queries, keys, values, log-sums, deltas, gradient of the result.
    inputs: [CubeTensor; 6],
}

impl WayBack {
    fn gradient(&self, length: usize) -> CubeTensor {
        let shape = [self.sizes.n, length, self.sizes.heads * self.sizes.width];
        empty(&self.inputs[0], &shape, DType::F32)
    }

    fn queries(&self) -> CubeTensor {
        let (sizes, gradient) = (&self.sizes, self.gradient(self.sizes.lq));
        let (blocks, tiles) = sizes.blocks(sizes.lq);
        let [q, k, v, l, d, g] = self.inputs.clone().map(CubeTensor::into_buffer_arg);
        backward_queries_kernel::launch(
            &gradient.client,
            blocks,
            CubeDim::new_1d(UNITS),
            q,
            k,
            v,
            l,
            d,
            g,
            gradient.clone().into_buffer_arg(),
            sizes.lq as u32,
            sizes.lk as u32,
            sizes.heads as u32,
            tiles,
            sizes.scale(),
            sizes.width as u32,
            self.causal,
        );
        gradient
    }

    fn keys_and_values(&self) -> [CubeTensor; 2] {
        let (sizes, gradients) = (&self.sizes, [(); 2].map(|()| self.gradient(self.sizes.lk)));
        let (blocks, tiles) = sizes.blocks(sizes.lk);
        let [q, k, v, l, d, g] = self.inputs.clone().map(CubeTensor::into_buffer_arg);
        let [dkeys, dvalues] = gradients.clone().map(CubeTensor::into_buffer_arg);
        backward_keys_kernel::launch(
            &gradients[0].client,
            blocks,
            CubeDim::new_1d(UNITS),
            q,
            k,
            v,
            l,
            d,
            g,
            dkeys,
            dvalues,
            sizes.lq as u32,
            sizes.lk as u32,
            sizes.heads as u32,
            tiles,
            sizes.scale(),
            sizes.width as u32,
            self.causal,
        );
        gradients
    }
}

/// See [`crate::ops::LatentOps::latent_attention_backward`].
pub(super) fn backward(
    record: AttentionRecord<CubeBackend>,
    dy: CubeTensor,
    options: AttentionOptions,
) -> (CubeTensor, CubeTensor, CubeTensor) {
    let sizes = Sizes::of(&record.queries, &record.keys, &options);
    let dy = dense(dy);
    let deltas = sizes.deltas(record.output, dy.clone());
    let [queries, keys, values, log_sums] =
        [record.queries, record.keys, record.values, record.log_sums].map(dense);
    let back = WayBack {
        sizes,
        causal: options.causal,
        inputs: [queries, keys, values, log_sums, deltas, dy],
    };
    let [dkeys, dvalues] = back.keys_and_values();
    (back.queries(), dkeys, dvalues)
}
