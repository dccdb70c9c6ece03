//! Attention in blocks of queries, so that the score matrix of a large picture never exists as a whole.
//!
//! Source: the backward pass follows Dao et al. 2022 (arXiv:2205.14135), Appendix B.2.

use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{FloatDType, TensorData};

use super::{Float, dims, narrow, product, reshape};
use crate::ops::{AttentionOptions, AttentionRecord};

/// Scores held at once: 2^26 f32, a quarter of a gigabyte.
const SCORES: usize = 1 << 26;

/// `[n, l, heads * d]` as `[n, heads, l, d]`.
fn heads_first<B: Backend>(x: Float<B>, heads: usize) -> Float<B> {
    let [n, length, channels] = x.shape().dims();
    let x = reshape::<B>(x, &[n, length, heads, channels / heads]);
    B::float_permute(x, &[0, 2, 1, 3])
}

/// `[n, heads, l, d]` as `[n, l, heads * d]`.
fn heads_last<B: Backend>(x: Float<B>) -> Float<B> {
    let [n, heads, length, width] = x.shape().dims();
    reshape::<B>(
        B::float_permute(x, &[0, 2, 1, 3]),
        &[n, length, heads * width],
    )
}

fn transposed<B: Backend>(x: Float<B>) -> Float<B> {
    B::float_swap_dims(x, 2, 3)
}

/// Ranges of queries whose scores fit in [`SCORES`].
fn blocks<B: Backend>(queries: &Float<B>, keys: &Float<B>) -> Vec<(usize, usize)> {
    let [n, heads, length, _] = queries.shape().dims();
    let row = n * heads * dims::<B>(keys)[2];
    let block = (SCORES / row.max(1)).clamp(1, length.max(1));
    (0..length)
        .step_by(block)
        .map(|from| (from, (from + block).min(length)))
        .collect()
}

/// Scaled scores `[n, heads, to - from, lk]` of one block of queries, masked if causal.
fn scores<B: Backend>(
    block: Float<B>,
    keys: &Float<B>,
    from: usize,
    options: &AttentionOptions,
) -> Float<B> {
    let [_, _, rows, width] = block.shape().dims();
    let scale = (width as f64).sqrt().recip();
    let scores = product::<B>(block, transposed::<B>(keys.clone()), options.precision);
    let scores = B::float_mul_scalar(scores, scale.into());
    if !options.causal {
        return scores;
    }
    let columns = dims::<B>(keys)[2];
    let mask: Vec<f32> = (0..rows * columns)
        .map(|i| {
            if i % columns > from + i / columns {
                -1e30
            } else {
                0.0
            }
        })
        .collect();
    let mask = B::float_from_data(
        TensorData::new(mask, [1, 1, rows, columns]),
        &scores.device(),
    );
    B::float_add(scores, mask)
}

/// See [`crate::ops::LatentOps::latent_attention`].
pub(crate) fn attention<B: Backend>(
    queries: Float<B>,
    keys: Float<B>,
    values: Float<B>,
    options: AttentionOptions,
) -> Float<B> {
    // Not Burn's fused kernel: it narrows whatever it is given to the range of f16 (65,504), which the activations of
    // large models leave.
    attention_recorded::<B>(queries, keys, values, options).0
}

/// See [`crate::ops::LatentOps::latent_attention_recorded`].
pub(crate) fn attention_recorded<B: Backend>(
    queries: Float<B>,
    keys: Float<B>,
    values: Float<B>,
    options: AttentionOptions,
) -> (Float<B>, Float<B>) {
    let queries = heads_first::<B>(queries, options.heads);
    let keys = heads_first::<B>(keys, options.heads);
    let values = heads_first::<B>(values, options.heads);
    let [n, heads, length, _] = queries.shape().dims();
    let (mut outputs, mut log_sums) = (Vec::new(), Vec::new());
    for (from, to) in blocks::<B>(&queries, &keys) {
        let block = narrow::<B>(queries.clone(), 2, from, to);
        let scores = scores::<B>(block, &keys, from, &options);
        let peak = B::float_max_dim(scores.clone(), 3);
        let weights = B::float_exp(B::float_sub(scores, peak.clone()));
        let sum = B::float_sum_dim(weights.clone(), 3);
        let output = product::<B>(weights, values.clone(), options.precision);
        outputs.push(B::float_div(output, sum.clone()));
        log_sums.push(B::float_add(peak, B::float_log(sum)));
    }
    let log_sums = reshape::<B>(B::float_cat(log_sums, 2), &[n, heads, length]);
    (heads_last::<B>(B::float_cat(outputs, 2)), log_sums)
}

/// See [`crate::ops::LatentOps::latent_attention_backward`].
pub(crate) fn attention_backward<B: Backend>(
    record: AttentionRecord<B>,
    dy: Float<B>,
    options: AttentionOptions,
) -> (Float<B>, Float<B>, Float<B>) {
    let split = |x| heads_first::<B>(x, options.heads);
    let (queries, keys, values) = (
        split(record.queries),
        split(record.keys),
        split(record.values),
    );
    let (output, dy) = (split(record.output), split(dy));
    let [n, heads, length, width] = queries.shape().dims();
    let log_sums = reshape::<B>(record.log_sums, &[n, heads, length, 1]);
    let scale = (width as f64).sqrt().recip();
    let zeros = || B::float_zeros(keys.shape(), &keys.device(), FloatDType::F32);
    let (mut dqueries, mut dkeys, mut dvalues) = (Vec::new(), zeros(), zeros());
    for (from, to) in blocks::<B>(&queries, &keys) {
        let part = |x: &Float<B>| narrow::<B>(x.clone(), 2, from, to);
        let (block, dy) = (part(&queries), part(&dy));
        let scores = scores::<B>(block.clone(), &keys, from, &options);
        let weights = B::float_exp(B::float_sub(scores, part(&log_sums)));
        let delta = B::float_sum_dim(B::float_mul(dy.clone(), part(&output)), 3);
        let dvalue = product::<B>(
            transposed::<B>(weights.clone()),
            dy.clone(),
            options.precision,
        );
        dvalues = B::float_add(dvalues, dvalue);
        let dweights = product::<B>(dy, transposed::<B>(values.clone()), options.precision);
        let dscores = B::float_mul(weights, B::float_sub(dweights, delta));
        let dscores = B::float_mul_scalar(dscores, scale.into());
        let dkey = product::<B>(transposed::<B>(dscores.clone()), block, options.precision);
        dkeys = B::float_add(dkeys, dkey);
        dqueries.push(product::<B>(dscores, keys.clone(), options.precision));
    }
    let dqueries = B::float_cat(dqueries, 2);
    (
        heads_last::<B>(dqueries),
        heads_last::<B>(dkeys),
        heads_last::<B>(dvalues),
    )
}
