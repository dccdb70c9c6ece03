//! Noised latents, what the U-Net should say about them, and how much each timestep counts.

use latent_sampling::{Latents, NoiseSchedule, Prediction};

use crate::config::{self, DiffusionLoss};

/// The forward process and what is learned of it.
pub(crate) struct Noising {
    schedule: NoiseSchedule,
    prediction: Prediction,
    min_snr_gamma: Option<f64>,
}

impl Noising {
    pub(crate) fn new(schedule: NoiseSchedule, loss: &DiffusionLoss) -> Self {
        let prediction = match loss.prediction {
            config::Prediction::Epsilon => Prediction::Epsilon,
            config::Prediction::V => Prediction::V,
        };
        Self::of(schedule, prediction, loss.min_snr_gamma)
    }

    /// The same from a scheduler's own words.
    pub(crate) fn of(
        schedule: NoiseSchedule,
        prediction: Prediction,
        min_snr_gamma: Option<f64>,
    ) -> Self {
        Self {
            schedule,
            prediction,
            min_snr_gamma,
        }
    }

    pub(crate) fn timesteps(&self) -> usize {
        self.schedule.len()
    }

    /// Noised latents and the target, from clean latents and unit noise `[n, c, h, w]`.
    pub(crate) fn apply(
        &self,
        clean: &Latents,
        noise: &Latents,
        timesteps: &[usize],
    ) -> [Latents; 2] {
        let noisy = self.schedule.add_noise(clean, noise, timesteps);
        [
            noisy,
            self.schedule
                .target(self.prediction, clean, noise, timesteps),
        ]
    }

    /// Weight of the squared error at a timestep: 1, or min-SNR.
    ///
    /// Source: Hang et al. 2023 (arXiv:2303.09556), Eq. 8 and appendix.
    pub(crate) fn weight(&self, timestep: usize) -> f32 {
        match self.min_snr_gamma {
            Some(gamma) => self
                .schedule
                .min_snr_weight(self.prediction, timestep, gamma) as f32,
            None => 1.0,
        }
    }
}

/// One timestep for each picture of a batch: evenly spread over all timesteps from a common random start, which
/// varies less from batch to batch than independent draws and has the same mean.
///
/// `start` lies in `[0, 1)`.
pub(crate) fn stratified_timesteps(start: f64, batch: usize, timesteps: usize) -> Vec<usize> {
    (0..batch)
        .map(|index| {
            let place = (index as f64 + start) / batch as f64 * timesteps as f64;
            (place as usize).min(timesteps - 1)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::fixture;
    use latent_sampling::SchedulerConfig;

    #[test]
    fn stratified_timesteps_cover_every_part_of_the_range() {
        assert_eq!(stratified_timesteps(0.0, 4, 1000), [0, 250, 500, 750]);
        assert_eq!(
            stratified_timesteps(0.999_999, 4, 1000),
            [249, 499, 749, 999]
        );
    }

    #[test]
    fn stratified_timesteps_have_the_mean_of_all_timesteps() {
        let draws = 1000;
        let sum: usize = (0..draws)
            .flat_map(|draw| stratified_timesteps(draw as f64 / draws as f64, 3, 1000))
            .sum();
        assert!((sum as f64 / (3 * draws) as f64 - 499.5).abs() < 0.5);
    }

    fn noising(prediction: config::Prediction) -> Noising {
        let scheduler = SchedulerConfig::from_text(
            r#"{"_class_name": "DDPMScheduler", "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}"#,
        )
        .expect("a config");
        let loss = DiffusionLoss {
            prediction,
            min_snr_gamma: Some(5.0),
        };
        Noising::new(NoiseSchedule::new(&scheduler).expect("a schedule"), &loss)
    }

    fn latents(name: &str) -> Latents {
        Latents::from_shape_vec([3, 2, 3, 3], fixture(name)).expect("its shape")
    }

    fn near(found: &[f32], expected: &[f32]) {
        for (found, expected) in found.iter().zip(expected) {
            // Relative: f32 sums of diffusers' table of a thousand products.
            assert!(
                (found - expected).abs() <= 1e-5 * expected.abs().max(1.0),
                "{found} is not {expected}"
            );
        }
    }

    #[test]
    fn noised_latents_and_targets_are_those_of_diffusers() {
        let timesteps = [0, 371, 999];
        let (clean, noise) = (latents("target/x0"), latents("target/noise"));
        let [noisy, velocity] = noising(config::Prediction::V).apply(&clean, &noise, &timesteps);
        near(noisy.as_slice().expect("whole"), &fixture("target/x_t"));
        near(velocity.as_slice().expect("whole"), &fixture("target/v"));
        let [_, epsilon] = noising(config::Prediction::Epsilon).apply(&clean, &noise, &timesteps);
        assert_eq!(epsilon, noise);
    }

    #[test]
    fn min_snr_weights_are_those_of_diffusers() {
        for (prediction, name) in [
            (config::Prediction::Epsilon, "target/min_snr5_eps_weight"),
            (config::Prediction::V, "target/min_snr5_v_weight"),
        ] {
            let weights = [0, 371, 999].map(|timestep| noising(prediction).weight(timestep));
            near(&weights, &fixture(name));
        }
    }
}
