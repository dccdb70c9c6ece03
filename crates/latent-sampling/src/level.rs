//! A noise level, and what it makes of a network's output.

use crate::{Latents, Prediction};

/// The mixture `noisy = alpha clean + sigma noise`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Level {
    pub(crate) alpha: f64,
    pub(crate) sigma: f64,
}

impl Level {
    /// The variance-preserving level with `sigma` to `alpha` as 1 part of data to `ratio` of noise.
    pub(crate) fn from_ratio(ratio: f64) -> Self {
        let alpha = 1.0 / (ratio * ratio + 1.0).sqrt();
        Self {
            alpha,
            sigma: ratio * alpha,
        }
    }

    /// The level of a training timestep. Source: Ho et al. 2020 (arXiv:2006.11239), Eq. 4.
    pub(crate) fn from_alpha_bar(alpha_bar: f64) -> Self {
        Self {
            alpha: alpha_bar.sqrt(),
            sigma: (1.0 - alpha_bar).sqrt(),
        }
    }

    /// Noise of standard deviation `sigma` added to whole data: the exploding view of k-diffusion.
    pub(crate) fn exploding(sigma: f64) -> Self {
        Self { alpha: 1.0, sigma }
    }

    /// The point `sigma` on the straight path of a flow, 1 at pure noise.
    pub(crate) fn flow(sigma: f64) -> Self {
        Self {
            alpha: 1.0 - sigma,
            sigma,
        }
    }

    /// Half the logarithm of the signal-to-noise ratio; infinite at no noise.
    pub(crate) fn lambda(self) -> f64 {
        self.alpha.ln() - self.sigma.ln()
    }

    /// The mixture of clean latents and unit noise.
    pub(crate) fn noisy(self, clean: &Latents, noise: &Latents) -> Latents {
        mix(&[(self.alpha, clean), (self.sigma, noise)])
    }

    /// The clean latents that a network's output means at this level.
    pub(crate) fn clean(
        self,
        prediction: Prediction,
        noisy: &Latents,
        output: &Latents,
    ) -> Latents {
        match prediction {
            Prediction::Epsilon => mix(&[
                (1.0 / self.alpha, noisy),
                (-self.sigma / self.alpha, output),
            ]),
            Prediction::V => mix(&[(self.alpha, noisy), (-self.sigma, output)]),
            Prediction::Sample => output.clone(),
            // noisy = alpha clean + sigma noise, output = noise - clean, alpha + sigma = 1.
            Prediction::Flow => mix(&[(1.0, noisy), (-self.sigma, output)]),
        }
    }

    /// The noise that a network's output means at this level.
    pub(crate) fn noise(
        self,
        prediction: Prediction,
        noisy: &Latents,
        output: &Latents,
    ) -> Latents {
        match prediction {
            Prediction::Epsilon => output.clone(),
            Prediction::V => mix(&[(self.sigma, noisy), (self.alpha, output)]),
            Prediction::Sample => self.noise_beside(noisy, output),
            Prediction::Flow => mix(&[(1.0, noisy), (self.alpha, output)]),
        }
    }

    /// The output of a network at this level that means given clean latents.
    pub(crate) fn output(
        self,
        prediction: Prediction,
        noisy: &Latents,
        clean: &Latents,
    ) -> Latents {
        match prediction {
            Prediction::Epsilon => self.noise_beside(noisy, clean),
            Prediction::V => mix(&[(self.alpha / self.sigma, noisy), (-1.0 / self.sigma, clean)]),
            Prediction::Sample => clean.clone(),
            Prediction::Flow => mix(&[(1.0 / self.sigma, noisy), (-1.0 / self.sigma, clean)]),
        }
    }

    /// The noise in `noisy` beside given clean latents.
    pub(crate) fn noise_beside(self, noisy: &Latents, clean: &Latents) -> Latents {
        mix(&[(1.0 / self.sigma, noisy), (-self.alpha / self.sigma, clean)])
    }
}

/// The weighted sum of latents of one shape, rounded to f32 once per element.
///
/// # Panics
/// If the shapes differ or the list is empty; both are mistakes of this crate, since shapes are checked where the
/// outside world hands latents in.
pub(crate) fn mix(parts: &[(f64, &Latents)]) -> Latents {
    let (weight, first) = parts[0];
    let mut sum = first.mapv(|value| weight * f64::from(value));
    for (weight, part) in &parts[1..] {
        // A weight of 0 must not turn an infinite part into NaN.
        if *weight != 0.0 {
            sum.zip_mut_with(part, |sum, value| *sum += weight * f64::from(*value));
        }
    }
    sum.mapv(|value| value as f32)
}
