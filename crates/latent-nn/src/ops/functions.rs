//! The operations on [`Tensor`]s: what layers and models call.

use burn::backend::Dispatch;
use burn::tensor::Tensor;
use latent_kernels::{Activation, Precision};

use super::record::{OpKind, described, watch};
use super::{AttentionOptions, ConvOptions, GroupNormOptions, LatentOps, LinearOptions, Maybe};

/// What a convolution adds to its result, each in the pass that writes it.
#[derive(Clone, Debug, Default)]
pub struct ConvArguments {
    /// `[co]`.
    pub bias: Option<Tensor<1>>,
    /// One shift per sample and channel, such as a timestep embedding: `[n, co]`.
    pub per_channel: Option<Tensor<2>>,
    /// The other branch of a residual block: `[n, ho, wo, co]`.
    pub residual: Option<Tensor<4>>,
}

fn maybe<const D: usize>(tensor: Option<Tensor<D>>) -> Maybe<Dispatch> {
    Maybe::from(tensor.map(Tensor::into_dispatch))
}

/// Convolves `x [n, h, w, ci]` with `weight [co, ci, kh, kw]` to `[n, ho, wo, co]`.
///
/// `ho = (h + top + bottom - kh) / stride + 1`, with `h` doubled first if `options.upsample`.
///
/// # Panics
/// If the shapes do not fit together.
pub fn conv2d(
    x: Tensor<4>,
    weight: Tensor<4>,
    added: ConvArguments,
    options: ConvOptions,
) -> Tensor<4> {
    watch(|| described::convolution(&x, &weight, &options)).around(|| {
        Tensor::from_dispatch(Dispatch::latent_conv2d(
            x.into_dispatch(),
            weight.into_dispatch(),
            maybe(added.bias),
            maybe(added.per_channel),
            maybe(added.residual),
            options,
        ))
    })
}

/// `x [.., k] @ weight [n, k]^T + bias [n] + residual [.., n]`.
///
/// # Panics
/// If the shapes do not fit together.
pub fn linear<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    residual: Option<Tensor<D>>,
    options: LinearOptions,
) -> Tensor<D> {
    watch(|| described::linear(&x, &weight, &options)).around(|| {
        Tensor::from_dispatch(Dispatch::latent_linear(
            x.into_dispatch(),
            weight.into_dispatch(),
            maybe(bias),
            maybe(residual),
            options,
        ))
    })
}

/// `softmax(q k^T / sqrt(d)) v` of each head; `q [n, lq, heads * d]`, `k` and `v [n, lk, heads * d]`.
///
/// The score matrix never exists as a whole, in the backward pass neither.
///
/// # Panics
/// If the shapes do not fit together or the channels are no multiple of the heads.
///
/// Source: Vaswani et al. 2017 (arXiv:1706.03762), Eq. 1; Dao et al. 2022 (arXiv:2205.14135).
pub fn attention(
    queries: Tensor<3>,
    keys: Tensor<3>,
    values: Tensor<3>,
    options: AttentionOptions,
) -> Tensor<3> {
    watch(|| described::attention(&queries, &keys, &options)).around(|| {
        Tensor::from_dispatch(Dispatch::latent_attention(
            queries.into_dispatch(),
            keys.into_dispatch(),
            values.into_dispatch(),
            options,
        ))
    })
}

/// Sums `x [rows, c]` over equal runs of rows: `[runs, c]`.
///
/// # Panics
/// If the rows are no multiple of the runs.
pub(crate) fn column_sums(x: Tensor<2>, runs: usize) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::latent_column_sums(x.into_dispatch(), runs))
}

/// Values `from..to` of `x`, as a view where the device can.
pub(crate) fn part(x: Tensor<1>, from: usize, to: usize) -> Tensor<1> {
    Tensor::from_dispatch(Dispatch::latent_part(x.into_dispatch(), from, to))
}

/// `y`, on a GPU in the memory of `x`: whatever looks at `x` sees it from then on.
pub(crate) fn overwrite(x: Tensor<1>, y: Tensor<1>) -> Tensor<1> {
    Tensor::from_dispatch(Dispatch::latent_overwrite(
        x.into_dispatch(),
        y.into_dispatch(),
    ))
}

/// Normalises groups of channels of `x [n, .., c]` with `weight [c]` and `bias [c]`.
///
/// # Panics
/// If the channels are no multiple of the groups.
///
/// Source: Wu & He 2018 (arXiv:1803.08494).
pub fn group_norm<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    options: GroupNormOptions,
) -> Tensor<D> {
    watch(|| described::plain(OpKind::Norm, &x, 3, x.dims())).around(|| {
        Tensor::from_dispatch(Dispatch::latent_group_norm(
            x.into_dispatch(),
            weight.into_dispatch(),
            bias.into_dispatch(),
            options,
        ))
    })
}

/// Normalises the last axis of `x [.., c]` with `weight [c]` and `bias [c]`.
///
/// Source: Ba et al. 2016 (arXiv:1607.06450).
pub fn layer_norm<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    eps: f64,
) -> Tensor<D> {
    watch(|| described::plain(OpKind::Norm, &x, 2, x.dims())).around(|| {
        Tensor::from_dispatch(Dispatch::latent_layer_norm(
            x.into_dispatch(),
            weight.into_dispatch(),
            bias.into_dispatch(),
            eps,
        ))
    })
}

/// First half of the channels times GELU of the second half: `[.., 2c]` to `[.., c]`.
///
/// Source: Shazeer 2020 (arXiv:2002.05202).
pub fn geglu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    watch(|| described::plain(OpKind::Pointwise, &x, 3, halved(x.dims())))
        .around(|| Tensor::from_dispatch(Dispatch::latent_geglu(x.into_dispatch())))
}

/// Applies `kind` to every element.
pub fn activation<const D: usize>(x: Tensor<D>, kind: Activation) -> Tensor<D> {
    watch(|| described::plain(OpKind::Pointwise, &x, 2, x.dims()))
        .around(|| Tensor::from_dispatch(Dispatch::latent_activation(x.into_dispatch(), kind)))
}

/// `x * sigmoid(x)`.
pub fn silu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    activation(x, Activation::Silu)
}

/// `x * P(X <= x)` for a normal `X`, by the error function.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    activation(x, Activation::Gelu)
}

/// `x * sigmoid(1.702 x)`, CLIP's first text encoder's stand-in for GELU.
pub fn quick_gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    activation(x, Activation::QuickGelu)
}

/// `a + b` of the same shape, on every core. A `residual` argument is cheaper still.
///
/// # Panics
/// If the shapes differ.
pub fn add<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
    assert_eq!(a.dims(), b.dims(), "add: shapes differ");
    watch(|| described::plain(OpKind::Pointwise, &a, 3, a.dims())).around(|| {
        Tensor::from_dispatch(Dispatch::latent_add(a.into_dispatch(), b.into_dispatch()))
    })
}

/// Joins `a [.., ca]` and `b [.., cb]` to `[.., ca + cb]`.
///
/// # Panics
/// If the other axes differ.
pub fn concat<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
    assert_eq!(
        a.dims()[..D - 1],
        b.dims()[..D - 1],
        "concat: shapes differ before the channels"
    );
    watch(|| described::plain(OpKind::Layout, &a, 2, joined(a.dims(), b.dims()))).around(|| {
        Tensor::from_dispatch(Dispatch::latent_concat(
            a.into_dispatch(),
            b.into_dispatch(),
        ))
    })
}

/// Nearest-neighbour resize of `x [n, h, w, c]` to `[n, size[0], size[1], c]`.
pub fn upsample_nearest(x: Tensor<4>, size: [usize; 2]) -> Tensor<4> {
    watch(|| described::plain(OpKind::Layout, &x, 2, resized(x.dims(), size)))
        .around(|| Tensor::from_dispatch(Dispatch::latent_upsample(x.into_dispatch(), size)))
}

fn halved<const D: usize>(mut shape: [usize; D]) -> [usize; D] {
    shape[D - 1] /= 2;
    shape
}

fn joined<const D: usize>(mut shape: [usize; D], other: [usize; D]) -> [usize; D] {
    shape[D - 1] += other[D - 1];
    shape
}

fn resized([n, _, _, c]: [usize; 4], [height, width]: [usize; 2]) -> [usize; 4] {
    [n, height, width, c]
}

/// `[n, c, h, w]` to channels-last `[n, h, w, c]`.
pub fn to_nhwc(x: Tensor<4>) -> Tensor<4> {
    x.permute([0, 2, 3, 1])
}

/// Channels-last `[n, h, w, c]` to `[n, c, h, w]`.
pub fn to_nchw(x: Tensor<4>) -> Tensor<4> {
    x.permute([0, 3, 1, 2])
}

impl AttentionOptions {
    /// Every position sees every key.
    pub fn new(heads: usize, precision: Precision) -> Self {
        Self {
            heads,
            causal: false,
            precision,
        }
    }
}
