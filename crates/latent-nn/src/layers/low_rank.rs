//! What a LoRA adds to a layer.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::{Conv2d, Linear};
use crate::Init;
use crate::ops::{self, ConvArguments, ConvOptions, LinearOptions};

/// Two small factors beside a layer's weight: `scale * up(down(x))` is added to what the layer makes.
///
/// Source: Hu et al. 2021 (arXiv:2106.09685), section 4.1. Beside a convolution `down` is a convolution with its kernel,
/// `up` one of 1x1, as in kohya's sd-scripts and in LyCORIS' LoCon.
#[derive(Module, Debug)]
pub struct LowRank {
    /// `[r, ci * kh * kw]`, of a linear layer `[r, in]`.
    pub down: Param<Tensor<2>>,
    /// `[out, r]`.
    pub up: Param<Tensor<2>>,
    /// Alpha over the rank.
    #[module(skip)]
    scale: f64,
}

impl LowRank {
    /// Factors beside a weight of `shape [out, in, ..]` that change nothing yet: `up` is zero, `down` is drawn as a new
    /// layer's weight.
    ///
    /// # Panics
    /// If the shape has no two axes.
    pub fn new(shape: &[usize], rank: usize, alpha: f64, init: &mut Init) -> Self {
        let fan_in: usize = shape[1..].iter().product();
        Self {
            down: init.uniform([rank, fan_in], (fan_in as f32).sqrt().recip()),
            up: init.zeros([shape[0], rank]),
            scale: alpha / rank as f64,
        }
    }

    /// Alpha over the rank.
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// `down` of `x [.., in]`, scaled.
    fn linear_down<const D: usize>(&self, x: Tensor<D>, options: LinearOptions) -> Tensor<D> {
        self.scaled(ops::linear(x, self.down.val(), None, None, options))
    }

    /// The same beside a convolution of `kernel [co, ci, kh, kw]`.
    fn conv_down(&self, x: Tensor<4>, kernel: [usize; 4], options: ConvOptions) -> Tensor<4> {
        let [_, ci, kh, kw] = kernel;
        let rank = self.down.dims()[0];
        let weight = self.down.val().reshape([rank, ci, kh, kw]);
        self.scaled(ops::conv2d(x, weight, ConvArguments::default(), options))
    }

    fn scaled<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        if self.scale == 1.0 { x } else { x * self.scale }
    }

    /// `y [.., out]` with `up` of what `down` made.
    fn add_up<const D: usize>(
        &self,
        low: Tensor<D>,
        y: Tensor<D>,
        options: LinearOptions,
    ) -> Tensor<D> {
        ops::linear(low, self.up.val(), None, Some(y), options)
    }

    /// What a linear layer makes of `x`, `layer(x)`, and what the factors add.
    pub(super) fn beside_linear<const D: usize>(
        &self,
        x: Tensor<D>,
        layer: impl FnOnce(Tensor<D>) -> Tensor<D>,
        options: LinearOptions,
    ) -> Tensor<D> {
        let low = self.linear_down(x.clone(), options);
        self.add_up(low, layer(x), options)
    }

    /// The same of a convolution.
    pub(super) fn beside_conv(
        &self,
        x: Tensor<4>,
        kernel: [usize; 4],
        layer: impl FnOnce(Tensor<4>) -> Tensor<4>,
        options: ConvOptions,
    ) -> Tensor<4> {
        let low = self.conv_down(x.clone(), kernel, options);
        self.add_up(low, layer(x), LinearOptions::new(options.precision))
    }
}

/// A layer that may have factors beside its weight.
#[derive(Debug)]
pub enum Adaptable<'a> {
    /// A linear layer.
    Linear(&'a mut Linear),
    /// A convolution.
    Conv2d(&'a mut Conv2d),
}

impl Adaptable<'_> {
    /// Its weight's shape: `[out, in]` or `[co, ci, kh, kw]`.
    pub fn shape(&self) -> Vec<usize> {
        match self {
            Self::Linear(layer) => layer.weight.dims().to_vec(),
            Self::Conv2d(layer) => layer.weight.dims().to_vec(),
        }
    }

    /// Puts factors beside its weight.
    pub fn adapt(self, factors: LowRank) {
        match self {
            Self::Linear(layer) => layer.lora = Some(factors),
            Self::Conv2d(layer) => layer.lora = Some(factors),
        }
    }
}

#[cfg(test)]
mod tests {
    use latent_kernels::Precision;

    use super::*;
    use crate::{Compute, to_host};

    fn factors(shape: &[usize], init: &mut Init) -> LowRank {
        let mut factors = LowRank::new(shape, 3, 6.0, init);
        factors.up = init.uniform([shape[0], 3], 1.0);
        factors
    }

    /// `weight + scale * up · down`, value by value.
    fn merged(weight: &[f32], factors: &LowRank, out: usize) -> Vec<f32> {
        let (down, [rank, width]) = to_host(factors.down.val());
        let (up, _) = to_host(factors.up.val());
        let mut merged = weight.to_vec();
        for (row, values) in merged.chunks_exact_mut(width).enumerate() {
            assert!(row < out);
            for (column, value) in values.iter_mut().enumerate() {
                let sum: f32 = (0..rank)
                    .map(|k| up[row * rank + k] * down[k * width + column])
                    .sum();
                *value += 2.0 * sum;
            }
        }
        merged
    }

    fn close(a: Vec<f32>, b: Vec<f32>) {
        let worst = a
            .iter()
            .zip(&b)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(a.len() == b.len() && worst < 1e-5, "{worst}");
    }

    #[test]
    fn factors_beside_a_linear_layer_add_their_product_to_its_weight() {
        let compute = Compute::cpu(Precision::F32);
        let mut init = Init::seeded(&compute, 1);
        let mut layer = Linear::new([5, 4], &mut init);
        let factors = factors(&[4, 5], &mut init);
        let weight = merged(&to_host(layer.weight.val()).0, &factors, 4);
        let mut whole = layer.clone();
        whole.weight = Param::from_tensor(compute.tensor(weight, [4, 5]));
        Adaptable::Linear(&mut layer).adapt(factors);
        let x = init.uniform([2, 3, 5], 1.0).val();
        let residual = init.uniform([2, 3, 4], 1.0).val();
        close(
            to_host(layer.forward_residual(x.clone(), residual.clone())).0,
            to_host(whole.forward_residual(x, residual)).0,
        );
    }

    #[test]
    fn factors_beside_a_convolution_follow_its_stride_and_its_doubling() {
        let compute = Compute::cpu(Precision::F32);
        let mut init = Init::seeded(&compute, 2);
        for change in [
            |conv: Conv2d| conv.with_stride(2),
            |conv: Conv2d| conv.with_upsample(),
        ] {
            let mut layer = change(Conv2d::new([2, 4], 3, &mut init));
            let factors = factors(&[4, 2, 3, 3], &mut init);
            let weight = merged(&to_host(layer.weight.val()).0, &factors, 4);
            let mut whole = layer.clone();
            whole.weight = Param::from_tensor(compute.tensor(weight, [4, 2, 3, 3]));
            Adaptable::Conv2d(&mut layer).adapt(factors);
            let x = init.uniform([1, 6, 4, 2], 1.0).val();
            close(
                to_host(layer.forward(x.clone())).0,
                to_host(whole.forward(x)).0,
            );
        }
    }
}
