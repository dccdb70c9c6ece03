//! How a network is told the timestep.

use burn::module::Module;
use burn::tensor::Tensor;

use super::Linear;
use crate::{Compute, Init, ops};

/// How a timestep is spread over sines and cosines.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sinusoid {
    /// Number of values per timestep; odd ones end in a zero.
    pub dim: usize,
    /// Cosines come first.
    pub flip_sin_to_cos: bool,
    /// Subtracted from the number of frequencies in the exponent's denominator.
    pub freq_shift: f64,
}

/// The slowest wave is this many times longer than the fastest.
const MAX_PERIOD: f64 = 10_000.0;

/// `timesteps` to `[n, dim]` sines and cosines of falling frequency.
pub fn timestep_sinusoid(timesteps: &[f32], sinusoid: &Sinusoid, compute: &Compute) -> Tensor<2> {
    let values = sinusoid_values(timesteps, sinusoid);
    compute.tensor(values, [timesteps.len(), sinusoid.dim])
}

/// The values of [`timestep_sinusoid`].
///
/// Source: Vaswani et al. 2017 (arXiv:1706.03762), section 3.5; options as in diffusers' `get_timestep_embedding`.
pub fn sinusoid_values(timesteps: &[f32], sinusoid: &Sinusoid) -> Vec<f32> {
    let half = sinusoid.dim / 2;
    let steps = (half as f64 - sinusoid.freq_shift) as f32;
    // In f32 and in torch's order: at timestep 999 the angle's rounding shows in the fourth digit. The exponential is
    // rounded once, so that it is the same on every machine.
    let frequency = |i: usize| {
        let exponent = -MAX_PERIOD.ln() as f32 * i as f32 / steps;
        f64::from(exponent).exp() as f32
    };
    let mut values = Vec::with_capacity(timesteps.len() * sinusoid.dim);
    for &timestep in timesteps {
        let angles = (0..half).map(|i| timestep * frequency(i));
        let (sines, cosines): (Vec<f32>, Vec<f32>) = angles.map(f32::sin_cos).unzip();
        let (first, second) = if sinusoid.flip_sin_to_cos {
            (cosines, sines)
        } else {
            (sines, cosines)
        };
        values.extend(first);
        values.extend(second);
        values.extend(std::iter::repeat_n(0.0, sinusoid.dim % 2));
    }
    values
}

/// Two linear layers with SiLU between.
#[derive(Module, Debug)]
pub struct TimestepEmbedding {
    /// Of a further input that is added to the sinusoids.
    cond_proj: Option<Linear>,
    linear_1: Linear,
    linear_2: Linear,
}

impl TimestepEmbedding {
    /// Width of the sinusoids, and of the embedding.
    pub fn new([width_in, width_out]: [usize; 2], init: &mut Init) -> Self {
        Self {
            cond_proj: None,
            linear_1: Linear::new([width_in, width_out], init),
            linear_2: Linear::new([width_out, width_out], init),
        }
    }

    /// A further input of `width`; see [`TimestepEmbedding::project`].
    #[must_use]
    pub fn with_condition(self, width: usize, init: &mut Init) -> Self {
        let width_in = self.linear_1.weight.dims()[1];
        let projection = Linear::new([width, width_in], init).without_bias();
        Self {
            cond_proj: Some(projection),
            ..self
        }
    }

    /// The further input `[n, width]` to what is added to the sinusoids, `[n, in]`; `None` if there is no such input.
    ///
    /// # Panics
    /// If `x` has another width.
    pub fn project(&self, x: Tensor<2>) -> Option<Tensor<2>> {
        Some(self.cond_proj.as_ref()?.forward(x))
    }

    /// `[n, in]` to `[n, out]`.
    ///
    /// # Panics
    /// If `x` has another width.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.linear_2.forward(ops::silu(self.linear_1.forward(x)))
    }
}
