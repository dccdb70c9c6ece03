//! A convolution layer.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use latent_kernels::Precision;

use super::{LowRank, zeroed};
use crate::Init;
use crate::ops::{self, ConvArguments, ConvOptions};

/// A convolution over channels-last pictures.
#[derive(Module, Debug)]
pub struct Conv2d {
    /// `[co, ci, kh, kw]`.
    pub weight: Param<Tensor<4>>,
    /// `[co]`.
    pub bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    stride: usize,
    #[module(skip)]
    padding: [usize; 4],
    #[module(skip)]
    upsample: bool,
    #[module(skip)]
    precision: Precision,
    /// What a LoRA adds.
    pub(super) lora: Option<LowRank>,
}

/// What joins a convolution's result in the pass that writes it.
#[derive(Clone, Debug, Default)]
pub struct Epilogue {
    /// One shift per sample and channel, such as a timestep embedding: `[n, co]`.
    pub per_channel: Option<Tensor<2>>,
    /// The other branch of a residual block: `[n, ho, wo, co]`.
    pub residual: Option<Tensor<4>>,
}

impl Conv2d {
    /// `channels` in and out, a square kernel, stride 1, padding that keeps the size of odd kernels, a bias.
    pub fn new([ci, co]: [usize; 2], kernel: usize, init: &mut Init) -> Self {
        let bound = ((ci * kernel * kernel) as f32).sqrt().recip();
        Self {
            weight: init.uniform([co, ci, kernel, kernel], bound),
            bias: Some(init.uniform([co], bound)),
            stride: 1,
            padding: [kernel / 2; 4],
            upsample: false,
            precision: init.precision(),
            lora: None,
        }
    }

    /// Moves the kernel `stride` pixels at a time.
    #[must_use]
    pub fn with_stride(self, stride: usize) -> Self {
        Self { stride, ..self }
    }

    /// Zeros added at the `[top, left, bottom, right]`.
    #[must_use]
    pub fn with_padding(self, padding: [usize; 4]) -> Self {
        Self { padding, ..self }
    }

    /// Doubles the picture by nearest neighbour first, without ever writing the doubled one.
    #[must_use]
    pub fn with_upsample(self) -> Self {
        Self {
            upsample: true,
            ..self
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

    /// `x [n, h, w, ci]` to `[n, ho, wo, co]`.
    ///
    /// # Panics
    /// If `x` has other channels.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.forward_with(x, Epilogue::default())
    }

    /// [`Conv2d::forward`] plus `residual [n, ho, wo, co]`.
    ///
    /// # Panics
    /// If the shapes do not fit together.
    pub fn forward_residual(&self, x: Tensor<4>, residual: Tensor<4>) -> Tensor<4> {
        let epilogue = Epilogue {
            residual: Some(residual),
            ..Epilogue::default()
        };
        self.forward_with(x, epilogue)
    }

    /// [`Conv2d::forward`] plus what `epilogue` holds.
    ///
    /// # Panics
    /// If the shapes do not fit together.
    pub fn forward_with(&self, x: Tensor<4>, epilogue: Epilogue) -> Tensor<4> {
        let added = ConvArguments {
            bias: self.bias.as_ref().map(Param::val),
            per_channel: epilogue.per_channel,
            residual: epilogue.residual,
        };
        let options = ConvOptions {
            stride: self.stride,
            padding: self.padding,
            upsample: self.upsample,
            ..ConvOptions::new(self.precision)
        };
        let layer = |x| ops::conv2d(x, self.weight.val(), added, options);
        match &self.lora {
            Some(factors) => factors.beside_conv(x, self.weight.dims(), layer, options),
            None => layer(x),
        }
    }
}
