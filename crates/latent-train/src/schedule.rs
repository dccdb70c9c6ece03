//! What changes with the step: the learning rate and the length of the weights' moving average.

use latent_nn::training::AverageWarmup;
use serde::{Deserialize, Serialize};

/// `[learning_rate]`: a rise over `warmup` steps to `peak`, then the decay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LearningRate {
    /// The highest rate.
    pub peak: f64,
    /// Steps of linear rise from 0.
    #[serde(default)]
    pub warmup: u64,
    /// What follows the rise.
    #[serde(default)]
    pub decay: Decay,
}

/// The way down from the peak to 0 at the last step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// Stays at the peak.
    Constant,
    /// A straight line to 0.
    Linear,
    /// Half a cosine to 0.
    #[default]
    Cosine,
}

impl LearningRate {
    /// The rate of update `step` (from 0) of `steps`, as diffusers' `get_scheduler` has it.
    pub fn at(&self, step: u64, steps: u64) -> f64 {
        if step < self.warmup {
            return self.peak * step as f64 / self.warmup.max(1) as f64;
        }
        let length = steps.saturating_sub(self.warmup).max(1) as f64;
        let progress = (step - self.warmup) as f64 / length;
        match self.decay {
            Decay::Constant => self.peak,
            Decay::Linear => self.peak * (1.0 - progress).max(0.0),
            Decay::Cosine => {
                self.peak * (0.5 * (1.0 + (std::f64::consts::PI * progress).cos())).max(0.0)
            }
        }
    }
}

/// `[ema]`: the moving average of the weights, which is what is drawn with and exported.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ema {
    /// The longest memory: after many steps the average keeps this share of itself at each step.
    pub decay: f64,
    /// The decay of update `n` is `1 - (1 + n / inv_gamma)^-power` until it reaches `decay`.
    pub power: f64,
    /// See `power`; larger values lengthen the memory later.
    pub inv_gamma: f64,
}

impl Default for Ema {
    fn default() -> Self {
        Self {
            decay: 0.999,
            power: 0.75,
            inv_gamma: 1.0,
        }
    }
}

impl Ema {
    /// Decay of update `step` (from 0); the first update copies the weights.
    pub fn at(&self, step: u64) -> f64 {
        let warmup = AverageWarmup {
            max: self.decay,
            inv_gamma: self.inv_gamma,
            power: self.power,
        };
        warmup.decay(step + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::fixture;

    #[test]
    fn every_decay_gives_the_learning_rates_of_diffusers() {
        for (decay, name) in [
            (Decay::Constant, "lr/constant_with_warmup"),
            (Decay::Linear, "lr/linear"),
            (Decay::Cosine, "lr/cosine"),
        ] {
            let rate = LearningRate {
                peak: 0.1,
                warmup: 5,
                decay,
            };
            for (step, expected) in fixture(name).into_iter().enumerate() {
                let found = rate.at(step as u64, 25);
                // The fixture was read as f32.
                assert!(
                    (found - f64::from(expected)).abs() < 1e-8,
                    "{name} {step}: {found} is not {expected}"
                );
            }
        }
    }

    #[test]
    fn a_rate_without_warmup_starts_at_its_peak() {
        let rate = LearningRate {
            peak: 0.1,
            warmup: 0,
            decay: Decay::Constant,
        };
        let expected = fixture("lr/constant");
        assert!(
            (0..28)
                .all(|step| (rate.at(step, 25) - f64::from(expected[step as usize])).abs() < 1e-8)
        );
    }

    #[test]
    fn the_average_forgets_as_that_of_diffusers() {
        let ema = Ema {
            decay: 0.9999,
            power: 0.75,
            inv_gamma: 1.0,
        };
        for (step, expected) in fixture("ema_warmup/decay").into_iter().enumerate() {
            assert!(
                (ema.at(step as u64) - f64::from(expected)).abs() < 1e-7,
                "{step}"
            );
        }
    }

    #[test]
    fn an_average_after_its_warmup_keeps_its_longest_memory() {
        assert_eq!(Ema::default().at(1_000_000), 0.999);
    }
}
