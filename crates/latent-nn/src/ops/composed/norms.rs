//! Group and layer normalisation with their gradients.

use burn::backend::Backend;

use super::pointwise::{silu, silu_backward};
use super::{Float, dims, narrow, reshape};
use crate::ops::GroupNormOptions;

/// `[n, positions, groups, channels of a group]` of an `x [n, .., c]`.
fn grouped(shape: &[usize], groups: usize) -> [usize; 4] {
    let channels = shape[shape.len() - 1];
    let positions = shape[1..shape.len() - 1].iter().product();
    [shape[0], positions, groups, channels / groups]
}

/// Mean over positions and a group's channels of `[n, p, g, c]`: `[n, 1, g, 1]`.
fn group_mean<B: Backend>(x: Float<B>) -> Float<B> {
    B::float_mean_dim(B::float_mean_dim(x, 3), 1)
}

/// `x * weight + bias` along the last axis of `[n, p, g, c / g]`.
fn affine<B: Backend>(
    x: Float<B>,
    weight: Float<B>,
    bias: Float<B>,
    shape: [usize; 4],
) -> Float<B> {
    let row = [1, 1, shape[2], shape[3]];
    let scaled = B::float_mul(x, reshape::<B>(weight, &row));
    B::float_add(scaled, reshape::<B>(bias, &row))
}

/// `1 / sqrt(variance + eps)`.
fn reciprocal_deviation<B: Backend>(variance: Float<B>, eps: f64) -> Float<B> {
    B::float_recip(B::float_sqrt(B::float_add_scalar(variance, eps.into())))
}

/// See [`crate::ops::LatentOps::latent_group_norm_recorded`].
pub(crate) fn group_norm<B: Backend>(
    x: Float<B>,
    weight: Float<B>,
    bias: Float<B>,
    options: GroupNormOptions,
) -> (Float<B>, Float<B>) {
    let shape = dims::<B>(&x);
    let split = grouped(&shape, options.groups);
    let x = reshape::<B>(x, &split);
    let mean = group_mean::<B>(x.clone());
    let centred = B::float_sub(x, mean.clone());
    let variance = group_mean::<B>(B::float_mul(centred.clone(), centred.clone()));
    let rstd = reciprocal_deviation::<B>(variance, options.eps);
    let y = affine::<B>(B::float_mul(centred, rstd.clone()), weight, bias, split);
    let column = [shape[0], options.groups, 1];
    let statistics = vec![reshape::<B>(mean, &column), reshape::<B>(rstd, &column)];
    let y = reshape::<B>(y, &shape);
    let y = if options.silu { silu::<B>(y) } else { y };
    (y, B::float_cat(statistics, 2))
}

/// See [`crate::ops::LatentOps::latent_group_norm_backward`]; `saved` is weight, bias, statistics.
pub(crate) fn group_norm_backward<B: Backend>(
    x: Float<B>,
    dy: Float<B>,
    saved: [Float<B>; 3],
    options: GroupNormOptions,
) -> (Float<B>, Float<B>, Float<B>) {
    let [weight, bias, statistics] = saved;
    let shape = dims::<B>(&x);
    let split = grouped(&shape, options.groups);
    let statistic = |i| {
        let one = narrow::<B>(statistics.clone(), 2, i, i + 1);
        reshape::<B>(one, &[shape[0], 1, options.groups, 1])
    };
    let (mean, rstd) = (statistic(0), statistic(1));
    let normal = B::float_mul(B::float_sub(reshape::<B>(x, &split), mean), rstd.clone());
    let mut dy = reshape::<B>(dy, &split);
    if options.silu {
        let before = affine::<B>(normal.clone(), weight.clone(), bias, split);
        dy = silu_backward::<B>(before, dy);
    }
    let channels = split[2] * split[3];
    let sum = |x| {
        let rows = reshape::<B>(x, &[split[0] * split[1], channels]);
        reshape::<B>(column_sums::<B>(rows, 1), &[channels])
    };
    let dweight = sum(B::float_mul(dy.clone(), normal.clone()));
    let dbias = sum(dy.clone());
    let dnormal = B::float_mul(dy, reshape::<B>(weight, &[1, 1, split[2], split[3]]));
    let mean_of = group_mean::<B>(dnormal.clone());
    let projection = group_mean::<B>(B::float_mul(dnormal.clone(), normal.clone()));
    let dx = B::float_sub(
        B::float_sub(dnormal, mean_of),
        B::float_mul(normal, projection),
    );
    (reshape::<B>(B::float_mul(dx, rstd), &shape), dweight, dbias)
}

/// See [`crate::ops::LatentOps::latent_layer_norm`].
pub(crate) fn layer_norm<B: Backend>(
    x: Float<B>,
    weight: Float<B>,
    bias: Float<B>,
    eps: f64,
) -> Float<B> {
    let shape = dims::<B>(&x);
    let (normal, _) = normalised_rows::<B>(x, eps);
    let row = [1, shape[shape.len() - 1]];
    let y = B::float_mul(normal, reshape::<B>(weight, &row));
    reshape::<B>(B::float_add(y, reshape::<B>(bias, &row)), &shape)
}

/// Rows `[m, c]` of mean 0 and variance 1, and their reciprocal deviations `[m, 1]`.
fn normalised_rows<B: Backend>(x: Float<B>, eps: f64) -> (Float<B>, Float<B>) {
    let shape = dims::<B>(&x);
    let channels = shape[shape.len() - 1];
    let rows = shape[..shape.len() - 1].iter().product();
    let x = reshape::<B>(x, &[rows, channels]);
    let centred = B::float_sub(x.clone(), B::float_mean_dim(x, 1));
    let variance = B::float_mean_dim(B::float_mul(centred.clone(), centred.clone()), 1);
    let rstd = reciprocal_deviation::<B>(variance, eps);
    (B::float_mul(centred, rstd.clone()), rstd)
}

/// See [`crate::ops::LatentOps::latent_layer_norm_backward`].
pub(crate) fn layer_norm_backward<B: Backend>(
    x: Float<B>,
    dy: Float<B>,
    weight: Float<B>,
    eps: f64,
) -> (Float<B>, Float<B>, Float<B>) {
    let shape = dims::<B>(&x);
    let channels = shape[shape.len() - 1];
    let (normal, rstd) = normalised_rows::<B>(x, eps);
    let dy = reshape::<B>(dy, &dims::<B>(&normal));
    let sum = |x| reshape::<B>(column_sums::<B>(x, 1), &[channels]);
    let dweight = sum(B::float_mul(dy.clone(), normal.clone()));
    let dbias = sum(dy.clone());
    let dnormal = B::float_mul(dy, reshape::<B>(weight, &[1, channels]));
    let mean_of = B::float_mean_dim(dnormal.clone(), 1);
    let projection = B::float_mean_dim(B::float_mul(dnormal.clone(), normal.clone()), 1);
    let dx = B::float_sub(
        B::float_sub(dnormal, mean_of),
        B::float_mul(normal, projection),
    );
    (reshape::<B>(B::float_mul(dx, rstd), &shape), dweight, dbias)
}

/// See [`crate::ops::LatentOps::latent_column_sums`].
pub(crate) fn column_sums<B: Backend>(dy: Float<B>, runs: usize) -> Float<B> {
    let shape = dims::<B>(&dy);
    let channels = shape[shape.len() - 1];
    let rows: usize = shape[..shape.len() - 1].iter().product();
    let dy = reshape::<B>(dy, &[runs, rows / runs, channels]);
    reshape::<B>(B::float_sum_dim(dy, 1), &[runs, channels])
}
