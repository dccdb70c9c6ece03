//! The operations every model is made of, as one Burn backend extension.
//!
//! [`LatentOps`] routes by device: the CPU goes to `latent-kernels` on borrowed slices (`flex`), GPUs run the
//! default bodies (`composed`: plain Burn operations, generic over the backend, so that the tests run the very
//! same bodies on the CPU and compare), and training records a hand-written backward pass (`autodiff`).
//! Activations are channels-last; see each function in `functions` for shapes.

mod autodiff;
pub(crate) mod buffers;
pub(crate) mod composed;
pub(crate) mod flex;
mod functions;
#[cfg(feature = "gpu")]
mod gpu;
mod options;
pub(crate) mod pack;
pub(crate) mod record;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, ExtensionType, backend_extension};

pub use buffers::release_buffers;
pub(crate) use flex::group_norm_band;
pub use functions::{
    ConvArguments, activation, add, attention, concat, conv2d, geglu, gelu, group_norm, layer_norm,
    linear, quick_gelu, silu, to_nchw, to_nhwc, upsample_nearest,
};
pub(crate) use functions::{column_sums, overwrite, part};
pub use latent_kernels::Activation;
pub use options::{AttentionOptions, ConvOptions, GroupNormOptions, LinearOptions, WeightUse};
pub use pack::forget_packed;
pub use record::{
    OpCost, OpKind, Part, PartRecord, beside, evaluation, profile, rehearse, rehearsing,
};

/// An optional tensor argument of an operation.
#[derive(Clone, Debug, ExtensionType)]
pub enum Maybe<B: Backend> {
    /// Nothing to add.
    Absent,
    /// The tensor.
    Given(FloatTensor<B>),
}

impl<B: Backend> Maybe<B> {
    pub(crate) fn into_option(self) -> Option<FloatTensor<B>> {
        match self {
            Self::Absent => None,
            Self::Given(tensor) => Some(tensor),
        }
    }
}

impl<B: Backend> From<Option<FloatTensor<B>>> for Maybe<B> {
    fn from(tensor: Option<FloatTensor<B>>) -> Self {
        tensor.map_or(Self::Absent, Self::Given)
    }
}

/// What the backward pass of attention needs from its forward pass.
#[derive(Clone, Debug, ExtensionType)]
pub struct AttentionRecord<B: Backend> {
    /// Queries `[n, lq, heads * d]`.
    pub queries: FloatTensor<B>,
    /// Keys `[n, lk, heads * d]`.
    pub keys: FloatTensor<B>,
    /// Values `[n, lk, heads * d]`.
    pub values: FloatTensor<B>,
    /// The result `[n, lq, heads * d]`.
    pub output: FloatTensor<B>,
    /// Logarithm of each row's sum of exponentials `[n, heads, lq]`.
    pub log_sums: FloatTensor<B>,
}

/// Our operations on backend primitives. Models call the wrappers in `functions` instead.
///
/// `x` is channels-last: `[n, h, w, c]`, `[n, l, c]` or any rank ending in channels.
#[backend_extension(Flex, Cube: cfg(feature = "gpu"), Fusion: cfg(feature = "fusion"), Autodiff)]
pub trait LatentOps: Backend {
    /// Convolution of `x [n, h, w, ci]` with `weight [co, ci, kh, kw]`, plus `bias [co]`, `per_channel [n, co]`, `residual [n, ho, wo, co]`.
    #[fusion(default)]
    fn latent_conv2d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        #[extension_type] bias: Maybe<Self>,
        #[extension_type] per_channel: Maybe<Self>,
        #[extension_type] residual: Maybe<Self>,
        options: ConvOptions,
    ) -> FloatTensor<Self> {
        let added = [bias, per_channel, residual].map(Maybe::into_option);
        composed::conv2d::<Self>(x, weight, added, options)
    }

    /// Gradient of [`LatentOps::latent_conv2d`] with respect to `x`, whose shape is `input`.
    #[fusion(default)]
    fn latent_conv2d_backward_input(
        dy: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        input: [usize; 4],
        options: ConvOptions,
    ) -> FloatTensor<Self> {
        composed::conv2d_backward_input::<Self>(dy, weight, input, options)
    }

    /// Gradient of [`LatentOps::latent_conv2d`] with respect to `weight`, whose spatial size is `kernel`.
    #[fusion(default)]
    fn latent_conv2d_backward_weight(
        x: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        kernel: [usize; 2],
        options: ConvOptions,
    ) -> FloatTensor<Self> {
        composed::conv2d_backward_weight::<Self>(x, dy, kernel, options)
    }

    /// Sums `dy [.., c]` over equal runs of rows into `[runs, c]`: gradients of biases (one run) and of per-sample shifts (`n` runs).
    #[fusion(default)]
    fn latent_column_sums(dy: FloatTensor<Self>, runs: usize) -> FloatTensor<Self> {
        composed::column_sums::<Self>(dy, runs)
    }

    /// `x [.., k] @ weight [n, k]^T + bias [n] + residual [.., n]`.
    #[fusion(default)]
    fn latent_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        #[extension_type] bias: Maybe<Self>,
        #[extension_type] residual: Maybe<Self>,
        options: LinearOptions,
    ) -> FloatTensor<Self> {
        let (bias, residual) = (bias.into_option(), residual.into_option());
        composed::linear::<Self>(x, weight, bias, residual, options)
    }

    /// Gradient of [`LatentOps::latent_linear`] with respect to `x`: `dy @ weight`.
    #[fusion(default)]
    fn latent_linear_backward_input(
        dy: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        options: LinearOptions,
    ) -> FloatTensor<Self> {
        composed::linear_backward_input::<Self>(dy, weight, options)
    }

    /// Gradient of [`LatentOps::latent_linear`] with respect to `weight`: `dy^T @ x`.
    #[fusion(default)]
    fn latent_linear_backward_weight(
        x: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        options: LinearOptions,
    ) -> FloatTensor<Self> {
        composed::linear_backward_weight::<Self>(x, dy, options)
    }

    /// `softmax(q k^T / sqrt(d)) v` of each head.
    #[fusion(default)]
    fn latent_attention(
        queries: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        options: AttentionOptions,
    ) -> FloatTensor<Self> {
        composed::attention::<Self>(queries, keys, values, options)
    }

    /// [`LatentOps::latent_attention`] and, for its backward pass, the logarithms of the rows' sums of exponentials `[n, heads, lq]`.
    #[fusion(default)]
    fn latent_attention_recorded(
        queries: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        options: AttentionOptions,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        composed::attention_recorded::<Self>(queries, keys, values, options)
    }

    /// Gradients with respect to queries, keys, values.
    #[fusion(default)]
    fn latent_attention_backward(
        #[extension_type] record: AttentionRecord<Self>,
        dy: FloatTensor<Self>,
        options: AttentionOptions,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        composed::attention_backward::<Self>(record, dy, options)
    }

    /// Normalises each sample's groups of channels to mean 0 and variance 1, scales, shifts, and applies SiLU if asked.
    #[fusion(default)]
    fn latent_group_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        options: GroupNormOptions,
    ) -> FloatTensor<Self> {
        composed::group_norm::<Self>(x, weight, bias, options).0
    }

    /// [`LatentOps::latent_group_norm`] and the groups' means and reciprocal deviations `[n, groups, 2]`.
    #[fusion(default)]
    fn latent_group_norm_recorded(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        options: GroupNormOptions,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        composed::group_norm::<Self>(x, weight, bias, options)
    }

    /// Gradients with respect to `x`, `weight`, `bias`.
    #[fusion(default)]
    fn latent_group_norm_backward(
        x: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        statistics: FloatTensor<Self>,
        options: GroupNormOptions,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        composed::group_norm_backward::<Self>(x, dy, [weight, bias, statistics], options)
    }

    /// Normalises the last axis to mean 0 and variance 1, scales, shifts.
    #[fusion(default)]
    fn latent_layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self> {
        composed::layer_norm::<Self>(x, weight, bias, eps)
    }

    /// Gradients with respect to `x`, `weight`, `bias`.
    #[fusion(default)]
    fn latent_layer_norm_backward(
        x: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        composed::layer_norm_backward::<Self>(x, dy, weight, eps)
    }

    /// First half of the channels times GELU of the second half.
    #[fusion(default)]
    fn latent_geglu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        composed::geglu::<Self>(x)
    }

    /// Gradient of [`LatentOps::latent_geglu`].
    #[fusion(default)]
    fn latent_geglu_backward(x: FloatTensor<Self>, dy: FloatTensor<Self>) -> FloatTensor<Self> {
        composed::geglu_backward::<Self>(x, dy)
    }

    /// Applies `kind` to every element.
    #[fusion(default)]
    fn latent_activation(x: FloatTensor<Self>, kind: Activation) -> FloatTensor<Self> {
        composed::activation::<Self>(x, kind)
    }

    /// Gradient of [`LatentOps::latent_activation`].
    #[fusion(default)]
    fn latent_activation_backward(
        x: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        kind: Activation,
    ) -> FloatTensor<Self> {
        composed::activation_backward::<Self>(x, dy, kind)
    }

    /// Sum of two tensors of the same shape.
    #[fusion(default)]
    fn latent_add(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_add(a, b)
    }

    /// Joins `a [.., ca]` and `b [.., cb]` along the channels.
    #[fusion(default)]
    fn latent_concat(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        composed::concat::<Self>(a, b)
    }

    /// Undoes [`LatentOps::latent_concat`]: the first `channels` and the rest.
    #[fusion(default)]
    fn latent_split(
        x: FloatTensor<Self>,
        channels: usize,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        composed::split::<Self>(x, channels)
    }

    /// Values `from..to` of `x [n]`, which must not be written to while the part is used: where it can be, it is a view.
    #[fusion(default)]
    fn latent_part(x: FloatTensor<Self>, from: usize, to: usize) -> FloatTensor<Self> {
        composed::narrow::<Self>(x, 0, from, to)
    }

    /// The values of `y` in the memory of `x`, of the same shape, whoever else looks at it; on the CPU, simply `y`.
    #[fusion(default)]
    fn latent_overwrite(x: FloatTensor<Self>, y: FloatTensor<Self>) -> FloatTensor<Self> {
        let _ = x;
        y
    }

    /// Nearest-neighbour resize of `x [n, h, w, c]` to `size`.
    #[fusion(default)]
    fn latent_upsample(x: FloatTensor<Self>, size: [usize; 2]) -> FloatTensor<Self> {
        composed::upsample::<Self>(x, size)
    }

    /// Gradient of [`LatentOps::latent_upsample`] for an `x` of spatial size `size`.
    #[fusion(default)]
    fn latent_upsample_backward(dy: FloatTensor<Self>, size: [usize; 2]) -> FloatTensor<Self> {
        composed::upsample_backward::<Self>(dy, size)
    }
}
