//! What a network's output means, for guidance that is about clean latents.

use crate::config::Kind;
use crate::level::{Level, mix};
use crate::{Latents, NoiseSchedule, Prediction, SamplingError, SchedulerConfig};

/// What the outputs of a model mean at the timesteps it is told.
///
/// Levels are those that it was trained on, between whole timesteps straight in the logarithm of noise to data.
#[derive(Clone, Debug)]
pub struct Meaning {
    prediction: Prediction,
    schedule: NoiseSchedule,
}

impl Meaning {
    /// Of a model with this config.
    ///
    /// # Errors
    /// [`SamplingError::Conflict`] for flows and EDM models, whose outputs mean something else.
    pub fn of(config: &SchedulerConfig) -> Result<Self, SamplingError> {
        if config.class().kind() != Kind::VariancePreserving {
            return Err(SamplingError::Conflict(format!(
                "guidance of clean latents (APG's, thresholding, an interval of noise levels) is for models with betas; \
                 `{}` has none, so leave it out",
                config.class().name()
            )));
        }
        let settings = config.settings();
        Ok(Self {
            prediction: settings.prediction_type,
            schedule: NoiseSchedule::of_class(config.class(), &settings),
        })
    }

    fn level(&self, timestep: f64) -> Level {
        let last = self.schedule.len() - 1;
        let timestep = timestep.clamp(0.0, last as f64);
        let (low, part) = (timestep as usize, timestep.fract());
        if part == 0.0 {
            return self.schedule.level(low);
        }
        let log = |t| {
            let level = self.schedule.level(t);
            (level.sigma / level.alpha).ln()
        };
        let ratio = ((1.0 - part) * log(low) + part * log((low + 1).min(last))).exp();
        match ratio.is_finite() {
            true => Level::from_ratio(ratio),
            false => Level::from_alpha_bar(0.0),
        }
    }

    /// Noise to data at a timestep.
    pub fn sigma(&self, timestep: f64) -> f64 {
        let level = self.level(timestep);
        level.sigma / level.alpha
    }

    /// The clean latents that an output for `noisy` means.
    pub fn clean(&self, timestep: f64, noisy: &Latents, output: &Latents) -> Latents {
        let level = self.level(timestep);
        level.clean(self.prediction, noisy, output)
    }

    /// The output for `noisy` that means these clean latents.
    pub fn output(&self, timestep: f64, noisy: &Latents, clean: &Latents) -> Latents {
        let level = self.level(timestep);
        match self.prediction {
            Prediction::Epsilon => level.noise_beside(noisy, clean),
            Prediction::V => mix(&[
                (level.alpha / level.sigma, noisy),
                (-1.0 / level.sigma, clean),
            ]),
            Prediction::Sample => clean.clone(),
            Prediction::Flow => mix(&[(1.0 / level.sigma, noisy), (-1.0 / level.sigma, clean)]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CounterNoise;

    fn meaning(prediction: &str) -> Meaning {
        let text = format!(
            r#"{{"_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear", "beta_start": 0.00085,
            "beta_end": 0.012, "prediction_type": "{prediction}"}}"#
        );
        Meaning::of(&SchedulerConfig::from_text(&text).unwrap()).unwrap()
    }

    #[test]
    fn an_output_and_the_clean_latents_that_it_means_are_found_from_each_other() {
        let noise = |stream| CounterNoise::new(1, 1, stream).normals([1, 2, 3, 4]);
        for prediction in ["epsilon", "v_prediction", "sample"] {
            let meaning = meaning(prediction);
            for timestep in [0.0, 1.0, 431.25, 999.0] {
                let clean = meaning.clean(timestep, &noise(0), &noise(1));
                let back = meaning.output(timestep, &noise(0), &clean);
                let off = (back - noise(1)).mapv(f32::abs).into_iter();
                assert!(off.fold(0.0, f32::max) < 1e-3, "{prediction} at {timestep}");
            }
        }
    }

    #[test]
    fn levels_between_timesteps_lie_straight_in_the_logarithm() {
        let meaning = meaning("epsilon");
        // Stable Diffusion's greatest level, as k-diffusion has it.
        assert!((meaning.sigma(999.0) - 14.6146).abs() < 1e-3);
        let middle = (meaning.sigma(500.0) * meaning.sigma(501.0)).sqrt();
        assert!((meaning.sigma(500.5) - middle).abs() < 1e-9);
    }

    #[test]
    fn a_flow_has_no_such_meaning() {
        let text = r#"{"_class_name": "FlowMatchEulerDiscreteScheduler"}"#;
        let error = Meaning::of(&SchedulerConfig::from_text(text).unwrap()).unwrap_err();
        assert!(error.to_string().contains("betas"), "{error}");
    }
}
