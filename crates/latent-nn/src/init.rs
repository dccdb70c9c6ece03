//! How a new layer's weights start: drawn from a seed, or empty because a file is read next.

use burn::module::{Param, ParamId};
use burn::tensor::{Shape, Tensor};
use latent_kernels::Precision;
use rayon::prelude::*;

use crate::Compute;
use crate::philox::Philox;

/// What every layer's `new` takes: where it lives and how its weights start.
///
/// Drawn weights depend on the seed and the order of layers only: not on device, precision or threads.
#[derive(Debug)]
pub struct Init {
    compute: Compute,
    /// `None` leaves weights unmade.
    generator: Option<Philox>,
    /// Next unused block of the generator.
    block: u64,
}

impl Init {
    /// Weights drawn from `seed` with torch's default ranges.
    pub fn seeded(compute: &Compute, seed: u64) -> Self {
        Self {
            compute: compute.clone(),
            generator: Some(Philox::new(seed)),
            block: 0,
        }
    }

    /// Names and shapes: for a model whose weights are loaded next. Costs neither time nor memory, so a config may ask for
    /// any sizes; a weight that is looked at all the same is zero, or the constant it starts at.
    pub fn empty(compute: &Compute) -> Self {
        Self {
            compute: compute.clone(),
            generator: None,
            block: 0,
        }
    }

    /// Where and how exactly to compute.
    pub fn compute(&self) -> &Compute {
        &self.compute
    }

    /// How products are computed.
    pub fn precision(&self) -> Precision {
        self.compute.precision
    }

    /// Uniform in `-bound..bound`.
    pub fn uniform<const D: usize>(&mut self, shape: [usize; D], bound: f32) -> Param<Tensor<D>> {
        self.drawn(shape, move |words| {
            words.map(|word| bound * (2.0 * unit(word) - 1.0))
        })
    }

    /// Normal with mean 0 and standard deviation `deviation`.
    pub fn normal<const D: usize>(
        &mut self,
        shape: [usize; D],
        deviation: f32,
    ) -> Param<Tensor<D>> {
        self.drawn(shape, move |[a, b, c, d]| {
            let [x, y] = box_muller(a, b);
            let [z, w] = box_muller(c, d);
            [x, y, z, w].map(|value| deviation * value)
        })
    }

    /// `value` everywhere.
    pub fn constant<const D: usize>(&mut self, shape: [usize; D], value: f32) -> Param<Tensor<D>> {
        if self.generator.is_none() {
            return self.unmade(shape, value);
        }
        self.param(vec![value; shape.iter().product()], shape)
    }

    /// Zeros.
    pub fn zeros<const D: usize>(&mut self, shape: [usize; D]) -> Param<Tensor<D>> {
        self.constant(shape, 0.0)
    }

    /// Ones.
    pub fn ones<const D: usize>(&mut self, shape: [usize; D]) -> Param<Tensor<D>> {
        self.constant(shape, 1.0)
    }

    fn drawn<const D: usize>(
        &mut self,
        shape: [usize; D],
        values_of: impl Fn([u32; 4]) -> [f32; 4] + Sync,
    ) -> Param<Tensor<D>> {
        let Some(generator) = &self.generator else {
            return self.unmade(shape, 0.0);
        };
        let mut values = vec![0.0; shape.iter().product()];
        let first = self.block;
        // A counter names each block of four, so any thread may draw any block.
        values
            .par_chunks_mut(4)
            .enumerate()
            .with_min_len(1 << 12)
            .for_each(|(i, four)| {
                let drawn = values_of(generator.block(first + i as u64));
                four.copy_from_slice(&drawn[..four.len()]);
            });
        self.block += values.len().div_ceil(4) as u64;
        self.param(values, shape)
    }

    /// `value` everywhere, once somebody looks.
    fn unmade<const D: usize>(&self, shape: [usize; D], value: f32) -> Param<Tensor<D>> {
        Param::uninitialized(
            ParamId::new(),
            move |device, tracked| {
                let tensor = Tensor::full(shape, value, device);
                if tracked {
                    tensor.require_grad()
                } else {
                    tensor
                }
            },
            self.compute.device.clone(),
            self.compute.device.is_autodiff(),
            Shape::from(shape),
        )
    }

    fn param<const D: usize>(&self, values: Vec<f32>, shape: [usize; D]) -> Param<Tensor<D>> {
        let tensor = self.compute.tensor(values, shape);
        let tensor = if self.compute.device.is_autodiff() {
            tensor.require_grad()
        } else {
            tensor
        };
        Param::initialized(ParamId::new(), tensor)
    }
}

/// A word as a number in `0..1`, of 24 bits so that it is exact in f32.
fn unit(word: u32) -> f32 {
    (word >> 8) as f32 * (1.0 / (1 << 24) as f32)
}

/// Two independent normal numbers from two words; Source: Box & Muller 1958.
fn box_muller(a: u32, b: u32) -> [f32; 2] {
    let radius = (-2.0 * f64::from(1.0 - unit(a)).ln()).sqrt();
    let (sin, cos) = (2.0 * std::f64::consts::PI * f64::from(unit(b))).sin_cos();
    [(radius * cos) as f32, (radius * sin) as f32]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::to_host;

    fn init(seed: u64) -> Init {
        Init::seeded(&Compute::cpu(Precision::F32), seed)
    }

    #[test]
    fn the_same_seed_draws_the_same_weights_on_any_number_of_threads() {
        let draw = || to_host(init(3).uniform([37, 1001], 0.5).val()).0;
        let alone = rayon::ThreadPoolBuilder::new()
            .num_threads(1)
            .build()
            .unwrap();
        assert_eq!(alone.install(draw), draw());
        let other = to_host(init(4).uniform([37, 1001], 0.5).val()).0;
        assert_ne!(draw(), other);
    }

    #[test]
    fn two_layers_of_one_model_differ() {
        let mut init = init(3);
        let (first, second) = (init.normal([64], 1.0), init.normal([64], 1.0));
        assert_ne!(to_host(first.val()).0, to_host(second.val()).0);
    }

    #[test]
    fn an_empty_model_takes_no_memory_until_somebody_looks() {
        let mut init = Init::empty(&Compute::cpu(Precision::F32));
        // Four tebibytes.
        let vast = init.uniform([1 << 20, 1 << 20], 1.0);
        assert_eq!(*vast.lazy_shape(), [1 << 20, 1 << 20]);
        assert_eq!(to_host(init.ones([3]).val()).0, [1.0; 3]);
        assert_eq!(to_host(init.normal([3], 1.0).val()).0, [0.0; 3]);
    }

    #[test]
    fn normal_weights_have_the_moments_of_a_normal_distribution() {
        let values = to_host(init(1).normal([1 << 16], 2.0).val()).0;
        let mean = |power: i32| {
            values
                .iter()
                .map(|&x| f64::from(x / 2.0).powi(power))
                .sum::<f64>()
                / values.len() as f64
        };
        // Standard errors of the moments at n = 65,536: 0.004, 0.0055, 0.038; four of them allowed.
        assert!(mean(1).abs() < 0.016, "mean {}", mean(1));
        assert!((mean(2) - 1.0).abs() < 0.022, "variance {}", mean(2));
        assert!((mean(4) - 3.0).abs() < 0.16, "kurtosis {}", mean(4));
    }

    #[test]
    fn uniform_weights_fill_their_range() {
        let values = to_host(init(1).uniform([1 << 16], 0.25).val()).0;
        assert!(values.iter().all(|x| (-0.25..0.25).contains(x)));
        assert!(values.iter().any(|&x| x > 0.249) && values.iter().any(|&x| x < -0.249));
    }
}
