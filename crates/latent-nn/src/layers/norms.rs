//! Normalisation layers.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use crate::Init;
use crate::ops::{self, GroupNormOptions};

/// Group normalisation over channels-last activations.
#[derive(Module, Debug)]
pub struct GroupNorm {
    /// `[c]`.
    pub weight: Param<Tensor<1>>,
    /// `[c]`.
    pub bias: Param<Tensor<1>>,
    #[module(skip)]
    groups: usize,
    #[module(skip)]
    eps: f64,
}

impl GroupNorm {
    /// `groups` must divide `channels`; `eps` is added to the variance.
    pub fn new(groups: usize, channels: usize, eps: f64, init: &mut Init) -> Self {
        Self {
            weight: init.ones([channels]),
            bias: init.zeros([channels]),
            groups,
            eps,
        }
    }

    /// `x [n, .., c]` to the same shape.
    ///
    /// # Panics
    /// If `x` has other channels.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        self.apply(x, false)
    }

    /// [`GroupNorm::forward`] and SiLU, in one pass.
    ///
    /// # Panics
    /// If `x` has other channels.
    pub fn forward_silu<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        self.apply(x, true)
    }

    pub(crate) fn groups(&self) -> usize {
        self.groups
    }

    pub(crate) fn eps(&self) -> f64 {
        self.eps
    }

    fn apply<const D: usize>(&self, x: Tensor<D>, silu: bool) -> Tensor<D> {
        let options = GroupNormOptions {
            groups: self.groups,
            eps: self.eps,
            silu,
        };
        ops::group_norm(x, self.weight.val(), self.bias.val(), options)
    }
}

/// Layer normalisation of the last axis.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// `[c]`.
    pub weight: Param<Tensor<1>>,
    /// `[c]`.
    pub bias: Param<Tensor<1>>,
    #[module(skip)]
    eps: f64,
}

impl LayerNorm {
    /// `eps` is added to the variance.
    pub fn new(channels: usize, eps: f64, init: &mut Init) -> Self {
        Self {
            weight: init.ones([channels]),
            bias: init.zeros([channels]),
            eps,
        }
    }

    /// `x [.., c]` to the same shape.
    ///
    /// # Panics
    /// If `x` has other channels.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        ops::layer_norm(x, self.weight.val(), self.bias.val(), self.eps)
    }
}
