//! Plain settings of the operations; everything that is not a tensor.

use latent_kernels::Precision;

/// Whether a weight will be used again unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightUse {
    /// Keep the packed copy for the next call (drawing).
    Repeated,
    /// Pack for this call only (training: the next step changes the weight).
    Once,
}

/// Settings of a convolution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ConvOptions {
    /// Distance between kernel positions, in (upsampled) input pixels.
    pub stride: usize,
    /// Zeros added at the `[top, left, bottom, right]`, in (upsampled) input pixels.
    pub padding: [usize; 4],
    /// Doubles the input by nearest neighbour first.
    pub upsample: bool,
    /// How the products are computed.
    pub precision: Precision,
    /// Whether the weight's packed copy is kept.
    pub weight_use: WeightUse,
}

impl ConvOptions {
    /// Stride 1, no padding, for a weight that stays as it is.
    pub fn new(precision: Precision) -> Self {
        Self {
            stride: 1,
            padding: [0; 4],
            upsample: false,
            precision,
            weight_use: WeightUse::Repeated,
        }
    }

    /// For training: the weight changes with the next step, and bytes have no gradient.
    pub(crate) fn once(self) -> Self {
        Self {
            weight_use: WeightUse::Once,
            precision: self.precision.floating(),
            ..self
        }
    }
}

/// Settings of a linear layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinearOptions {
    /// How the products are computed.
    pub precision: Precision,
    /// Whether the weight's packed copy is kept.
    pub weight_use: WeightUse,
}

impl LinearOptions {
    /// For a weight that stays as it is.
    pub fn new(precision: Precision) -> Self {
        Self {
            precision,
            weight_use: WeightUse::Repeated,
        }
    }

    /// For training: the weight changes with the next step, and bytes have no gradient.
    pub(crate) fn once(self) -> Self {
        Self {
            weight_use: WeightUse::Once,
            precision: self.precision.floating(),
        }
    }
}

/// Settings of attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionOptions {
    /// Number of heads; channels are `heads * head_dim`.
    pub heads: usize,
    /// Position `i` sees only positions up to `i`.
    pub causal: bool,
    /// How the products are computed; softmax is always f32.
    pub precision: Precision,
}

/// Settings of group normalisation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupNormOptions {
    /// Number of groups; divides the channels.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f64,
    /// Applies SiLU to the result.
    pub silu: bool,
}
