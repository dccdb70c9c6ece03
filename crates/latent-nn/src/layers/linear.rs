//! A linear layer.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use latent_kernels::Precision;

use super::{LowRank, zeroed};
use crate::Init;
use crate::ops::{self, LinearOptions};

/// A linear map of the last axis.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Param<Tensor<2>>,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    precision: Precision,
    /// What a LoRA adds.
    pub(super) lora: Option<LowRank>,
}

impl Linear {
    /// Width in and out, and a bias.
    pub fn new([width_in, width_out]: [usize; 2], init: &mut Init) -> Self {
        let bound = (width_in as f32).sqrt().recip();
        Self {
            weight: init.uniform([width_out, width_in], bound),
            bias: Some(init.uniform([width_out], bound)),
            precision: init.precision(),
            lora: None,
        }
    }

    /// No bias.
    #[must_use]
    pub fn without_bias(self) -> Self {
        Self { bias: None, ..self }
    }

    /// Weight and bias start at zero.
    #[must_use]
    pub fn zeroed(self) -> Self {
        Self {
            weight: zeroed(self.weight),
            bias: self.bias.map(zeroed),
            ..self
        }
    }

    /// `x [.., in]` to `[.., out]`.
    ///
    /// # Panics
    /// If `x` has another width.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        self.apply(x, None)
    }

    /// [`Linear::forward`] plus `residual [.., out]`.
    ///
    /// # Panics
    /// If the shapes do not fit together.
    pub fn forward_residual<const D: usize>(&self, x: Tensor<D>, residual: Tensor<D>) -> Tensor<D> {
        self.apply(x, Some(residual))
    }

    fn apply<const D: usize>(&self, x: Tensor<D>, residual: Option<Tensor<D>>) -> Tensor<D> {
        let bias = self.bias.as_ref().map(Param::val);
        let options = LinearOptions::new(self.precision);
        let layer = |x| ops::linear(x, self.weight.val(), bias, residual, options);
        match &self.lora {
            Some(factors) => factors.beside_linear(x, layer, options),
            None => layer(x),
        }
    }
}
