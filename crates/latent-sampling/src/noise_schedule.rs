//! The training process: how much noise each timestep holds, and the arithmetic of training on it.

use ndarray::Axis;

use crate::config::{BetaSchedule, Class, Settings};
use crate::level::{Level, mix};
use crate::{Latents, Prediction, SamplingError, SchedulerConfig};

/// `alpha_bar` of every training timestep, as torch computes it: betas in f32, their product summed in f64 and
/// rounded to f32. A more exact table would give other fractional timesteps than diffusers.
///
/// ```
/// use latent_sampling::{NoiseSchedule, SchedulerConfig};
/// let config = SchedulerConfig::from_text(r#"{"_class_name": "DDPMScheduler", "beta_schedule": "scaled_linear",
///     "beta_start": 0.00085, "beta_end": 0.012}"#)?;
/// let schedule = NoiseSchedule::new(&config)?;
/// assert!((schedule.alpha_bar(500) - 0.276_332_7).abs() < 1e-6);
/// # Ok::<(), latent_sampling::SamplingError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct NoiseSchedule {
    alpha_bars: Vec<f32>,
}

impl NoiseSchedule {
    /// The schedule that a config's betas describe.
    ///
    /// # Errors
    /// If the config is of a flow or an EDM model, which have no betas.
    pub fn new(config: &SchedulerConfig) -> Result<Self, SamplingError> {
        if config.class().kind() != crate::config::Kind::VariancePreserving {
            return Err(SamplingError::Conflict(format!(
                "`{}` has no betas; a discrete noise schedule needs a class such as `DDPMScheduler`",
                config.class().name()
            )));
        }
        Ok(Self::of(&config.settings(), false))
    }

    /// `keep_finite` replaces the last value of a zero-terminal schedule by 2^-24, as the classes do that divide by it.
    pub(crate) fn of(settings: &Settings, keep_finite: bool) -> Self {
        let mut betas = betas(settings);
        if settings.rescale_betas_zero_snr {
            betas = zero_terminal_snr(&betas);
        }
        let mut alpha_bars = running_product(&betas);
        if settings.rescale_betas_zero_snr
            && keep_finite
            && let Some(last) = alpha_bars.last_mut()
        {
            *last = (0.5f32).powi(24);
        }
        Self { alpha_bars }
    }

    /// The schedule a class of samplers reads.
    pub(crate) fn of_class(class: Class, settings: &Settings) -> Self {
        let divides = matches!(
            class,
            Class::Euler
                | Class::EulerAncestral
                | Class::DpmMultistep
                | Class::UniPc
                | Class::Dpmpp2sAncestral
                | Class::Dpmpp2mSde
                | Class::Dpmpp3mSde
                | Class::Restart
                | Class::ErSde
        );
        Self::of(settings, divides)
    }

    /// Number of training timesteps.
    pub fn len(&self) -> usize {
        self.alpha_bars.len()
    }

    /// Whether there are no timesteps; never so for a schedule that was read from a config.
    pub fn is_empty(&self) -> bool {
        self.alpha_bars.is_empty()
    }

    /// Share of the data's variance that is left at timestep `t`. Source: Ho et al. 2020 (arXiv:2006.11239), Eq. 4.
    ///
    /// # Panics
    /// If `t` is not below [`len`](Self::len).
    pub fn alpha_bar(&self, t: usize) -> f64 {
        f64::from(self.alpha_bars[t])
    }

    /// Noise to data, `sqrt((1 - alpha_bar) / alpha_bar)`, of every timestep in f32.
    pub(crate) fn ratios(&self) -> Vec<f32> {
        self.alpha_bars
            .iter()
            .map(|alpha_bar| ((1.0 - alpha_bar) / alpha_bar).sqrt())
            .collect()
    }

    pub(crate) fn level(&self, t: usize) -> Level {
        Level::from_alpha_bar(self.alpha_bar(t))
    }

    /// Weights of clean latents and noise at timestep `t`: `(sqrt(alpha_bar), sqrt(1 - alpha_bar))`.
    ///
    /// # Panics
    /// If `t` is not below [`len`](Self::len).
    pub fn scales(&self, t: usize) -> (f64, f64) {
        let level = self.level(t);
        (level.alpha, level.sigma)
    }

    /// Clean latents `[n, c, h, w]` with the noise of one timestep per picture.
    ///
    /// # Panics
    /// If shapes or the number of timesteps differ, or a timestep is not below [`len`](Self::len).
    ///
    /// Source: Ho et al. 2020 (arXiv:2006.11239), Eq. 4.
    pub fn add_noise(&self, clean: &Latents, noise: &Latents, timesteps: &[usize]) -> Latents {
        self.per_picture(timesteps, clean, noise, |level, clean, noise| {
            level.noisy(clean, noise)
        })
    }

    /// The v target, `sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) clean`.
    ///
    /// # Panics
    /// As [`add_noise`](Self::add_noise).
    ///
    /// Source: Salimans & Ho 2022 (arXiv:2202.00512), Appendix D.
    pub fn velocity(&self, clean: &Latents, noise: &Latents, timesteps: &[usize]) -> Latents {
        self.per_picture(timesteps, clean, noise, |level, clean, noise| {
            mix(&[(level.alpha, noise), (-level.sigma, clean)])
        })
    }

    /// What the network is trained to return.
    ///
    /// # Panics
    /// As [`add_noise`](Self::add_noise).
    pub fn target(
        &self,
        prediction: Prediction,
        clean: &Latents,
        noise: &Latents,
        timesteps: &[usize],
    ) -> Latents {
        match prediction {
            Prediction::Epsilon => noise.clone(),
            Prediction::V => self.velocity(clean, noise, timesteps),
            Prediction::Sample => clean.clone(),
            Prediction::Flow => noise - clean,
        }
    }

    /// The clean latents that a network's output means.
    ///
    /// # Panics
    /// As [`add_noise`](Self::add_noise).
    pub fn denoised(
        &self,
        prediction: Prediction,
        output: &Latents,
        noisy: &Latents,
        timesteps: &[usize],
    ) -> Latents {
        self.per_picture(timesteps, noisy, output, |level, noisy, output| {
            level.clean(prediction, noisy, output)
        })
    }

    /// What the network must return at timestep `from` so that one step of DDIM leads from `noisy` to `later`, which has
    /// the noise of timestep `to`, or none.
    ///
    /// # Panics
    /// If the shapes differ, or a timestep is not below [`len`](Self::len).
    ///
    /// Source: Salimans & Ho 2022 (arXiv:2202.00512), Appendix G: the student's target of progressive distillation.
    pub fn leap(
        &self,
        prediction: Prediction,
        (from, noisy): (usize, &Latents),
        (to, later): (Option<usize>, &Latents),
    ) -> Latents {
        let start = self.level(from);
        let end = to.map_or(Level::exploding(0.0), |to| self.level(to));
        let shrunk = end.sigma / start.sigma;
        let length = end.alpha - shrunk * start.alpha;
        let clean = mix(&[(1.0 / length, later), (-shrunk / length, noisy)]);
        start.output(prediction, noisy, &clean)
    }

    fn per_picture(
        &self,
        timesteps: &[usize],
        first: &Latents,
        second: &Latents,
        combine: impl Fn(Level, &Latents, &Latents) -> Latents,
    ) -> Latents {
        assert_eq!(
            first.shape(),
            second.shape(),
            "the two latents differ in shape"
        );
        assert_eq!(
            first.len_of(Axis(0)),
            timesteps.len(),
            "one timestep per picture"
        );
        let mut result = Latents::zeros(first.raw_dim());
        for (k, t) in timesteps.iter().enumerate() {
            let picture =
                |all: &Latents| all.index_axis(Axis(0), k).to_owned().insert_axis(Axis(0));
            let combined = combine(self.level(*t), &picture(first), &picture(second));
            result
                .index_axis_mut(Axis(0), k)
                .assign(&combined.index_axis(Axis(0), 0));
        }
        result
    }

    /// Signal-to-noise ratio `alpha_bar / (1 - alpha_bar)`.
    ///
    /// # Panics
    /// If `t` is not below [`len`](Self::len).
    pub fn snr(&self, t: usize) -> f64 {
        let alpha_bar = self.alpha_bar(t);
        alpha_bar / (1.0 - alpha_bar)
    }

    /// Weight of the squared error at timestep `t` that stops easy timesteps from ruling the loss; `gamma` is 5 in the paper.
    ///
    /// The v and flow weights are finite at zero signal too; the epsilon weight is 1 there, its limit.
    ///
    /// # Panics
    /// If `t` is not below [`len`](Self::len).
    ///
    /// Source: Hang et al. 2023 (arXiv:2303.09556), Eq. 8 and its forms for epsilon and v.
    pub fn min_snr_weight(&self, prediction: Prediction, t: usize, gamma: f64) -> f64 {
        let snr = self.snr(t);
        match prediction {
            Prediction::Epsilon => (gamma / snr).min(1.0),
            Prediction::V | Prediction::Flow => snr.min(gamma) / (snr + 1.0),
            Prediction::Sample => snr.min(gamma),
        }
    }
}

/// The betas of the config, in f32.
fn betas(settings: &Settings) -> Vec<f32> {
    let (start, end, n) = (
        settings.beta_start,
        settings.beta_end,
        settings.num_train_timesteps,
    );
    if let Some(trained) = &settings.trained_betas {
        return trained.iter().map(|beta| *beta as f32).collect();
    }
    match settings.beta_schedule {
        BetaSchedule::Linear => line(start as f32, end as f32, n),
        BetaSchedule::ScaledLinear => line(start.sqrt() as f32, end.sqrt() as f32, n)
            .iter()
            .map(|root| root * root)
            .collect(),
        BetaSchedule::Cosine => cosine(n),
        BetaSchedule::Sigmoid => line(-6.0, 6.0, n)
            .iter()
            .map(|x| (1.0 / (1.0 + (-f64::from(*x)).exp()) * (end - start) + start) as f32)
            .collect(),
    }
}

/// `torch.linspace` in f32: from both ends towards the middle, so that both ends are exact, each value rounded once.
fn line(start: f32, end: f32, n: usize) -> Vec<f32> {
    let step = (end - start) / (n - 1) as f32;
    (0..n)
        .map(|i| {
            if i < n / 2 {
                step.mul_add(i as f32, start)
            } else {
                (-step).mul_add((n - 1 - i) as f32, end)
            }
        })
        .collect()
}

/// Betas whose `alpha_bar` follows a squared cosine, each at most 0.999.
///
/// Source: Nichol & Dhariwal 2021 (arXiv:2102.09672), Eq. 17.
fn cosine(n: usize) -> Vec<f32> {
    let alpha_bar = |t: f64| {
        ((t + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2)
            .cos()
            .powi(2)
    };
    (0..n)
        .map(|i| {
            (1.0 - alpha_bar((i + 1) as f64 / n as f64) / alpha_bar(i as f64 / n as f64)).min(0.999)
                as f32
        })
        .collect()
}

/// `alpha_bar` of betas: torch keeps the running product in f64 and rounds every entry.
fn running_product(betas: &[f32]) -> Vec<f32> {
    let mut product = 1.0f64;
    betas
        .iter()
        .map(|beta| {
            product *= f64::from(1.0 - beta);
            product as f32
        })
        .collect()
}

/// Shifts and stretches `sqrt(alpha_bar)` so that the last timestep is pure noise and the first stays.
///
/// Source: Lin et al. 2023 (arXiv:2305.08891), Algorithm 1.
fn zero_terminal_snr(betas: &[f32]) -> Vec<f32> {
    let roots: Vec<f32> = running_product(betas)
        .iter()
        .map(|alpha_bar| alpha_bar.sqrt())
        .collect();
    let (first, last) = (roots[0], roots[roots.len() - 1]);
    let stretch = first / (first - last);
    let squares: Vec<f32> = roots
        .iter()
        .map(|root| ((root - last) * stretch).powi(2))
        .collect();
    let before = [1.0].iter().chain(&squares);
    squares
        .iter()
        .zip(before)
        .map(|(now, before)| 1.0 - now / before)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(text: &str) -> NoiseSchedule {
        NoiseSchedule::new(&SchedulerConfig::from_text(text).unwrap()).unwrap()
    }

    #[test]
    fn the_cosine_schedule_meets_the_paper_at_its_two_ends_and_middle() {
        let schedule =
            schedule(r#"{"_class_name": "DDPMScheduler", "beta_schedule": "squaredcos_cap_v2"}"#);
        let exact = |t: f64| {
            let f = |t: f64| {
                ((t + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2)
                    .cos()
                    .powi(2)
            };
            f(t) / f(0.0)
        };
        for t in [0, 499, 990] {
            let expected = exact((t + 1) as f64 / 1000.0);
            assert!(
                (schedule.alpha_bar(t) - expected).abs() < 1e-5 * expected,
                "{t}: {}",
                schedule.alpha_bar(t)
            );
        }
        // The last beta is capped at 0.999.
        assert!((schedule.alpha_bar(999) / schedule.alpha_bar(998) - 0.001).abs() < 1e-6);
    }

    #[test]
    fn a_rescaled_schedule_ends_in_pure_noise_and_begins_as_before() {
        let plain =
            schedule(r#"{"_class_name": "DDPMScheduler", "beta_schedule": "scaled_linear"}"#);
        let zero = schedule(
            r#"{"_class_name": "DDPMScheduler", "beta_schedule": "scaled_linear", "rescale_betas_zero_snr": true}"#,
        );
        assert_eq!((zero.alpha_bar(999), zero.snr(999)), (0.0, 0.0));
        assert!((zero.alpha_bar(0) - plain.alpha_bar(0)).abs() < 1e-6);
        assert_eq!(zero.min_snr_weight(Prediction::V, 999, 5.0), 0.0);
        assert_eq!(zero.min_snr_weight(Prediction::Epsilon, 999, 5.0), 1.0);
    }

    #[test]
    fn every_schedule_falls() {
        for shape in BetaSchedule::ALL {
            let text = format!(
                r#"{{"_class_name": "DDPMScheduler", "beta_schedule": "{}"}}"#,
                shape.0
            );
            let schedule = schedule(&text);
            let falls =
                (1..schedule.len()).all(|t| schedule.alpha_bar(t) < schedule.alpha_bar(t - 1));
            assert!(falls && schedule.alpha_bar(999) > 0.0, "{}", shape.0);
        }
    }

    #[test]
    fn given_betas_replace_the_rule() {
        let text = r#"{"_class_name": "DDPMScheduler", "num_train_timesteps": 3, "trained_betas": [0.5, 0.5, 0.75]}"#;
        let schedule = schedule(text);
        assert_eq!(
            (0..3).map(|t| schedule.alpha_bar(t)).collect::<Vec<_>>(),
            [0.5, 0.25, 0.0625]
        );
    }

    #[test]
    fn a_flow_has_no_betas() {
        let error = NoiseSchedule::new(&SchedulerConfig::new(Class::FlowEuler))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("`FlowMatchEulerDiscreteScheduler`"),
            "{error}"
        );
    }

    /// Says at each call what leads from one of the given latents to the next.
    struct Leaping<'a> {
        schedule: &'a NoiseSchedule,
        prediction: Prediction,
        stops: &'a [(Option<usize>, Latents)],
        calls: usize,
    }

    impl crate::Denoiser for Leaping<'_> {
        fn predict(&mut self, input: &Latents, timestep: f64) -> Result<Latents, crate::Stopped> {
            let (to, later) = &self.stops[self.calls];
            self.calls += 1;
            let here = (timestep as usize, input);
            Ok(self.schedule.leap(self.prediction, here, (*to, later)))
        }

        fn noise(&mut self, shape: [usize; 4]) -> Latents {
            Latents::zeros(shape)
        }
    }

    #[test]
    fn a_step_of_ddim_with_the_output_of_a_leap_ends_where_the_leap_does() {
        for (prediction, name) in [
            (Prediction::Epsilon, "epsilon"),
            (Prediction::V, "v_prediction"),
            (Prediction::Sample, "sample"),
        ] {
            for to_one in [true, false] {
                let config = SchedulerConfig::from_text(&format!(
                    r#"{{"_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear", "prediction_type": "{name}",
                    "clip_sample": false, "timestep_spacing": "trailing", "set_alpha_to_one": {to_one}}}"#
                ))
                .unwrap();
                let schedule = NoiseSchedule::new(&config).unwrap();
                let mut generator = crate::TorchGenerator::new(3);
                let last = (!to_one).then_some(0);
                let stops = [Some(666), Some(332), last]
                    .map(|to| (to, generator.randn_latents([2, 1, 2, 2])));
                let start = crate::Start::Noise(generator.randn_latents([2, 1, 2, 2]));
                let mut denoiser = Leaping {
                    schedule: &schedule,
                    prediction,
                    stops: &stops,
                    calls: 0,
                };
                let options = crate::RunOptions::new(3);
                let end = crate::sample(&config, &options, start, &mut denoiser).unwrap();
                let far = (&end - &stops[2].1).mapv(f32::abs);
                let far = far.fold(0.0f32, |most, value| most.max(*value));
                assert!(far < 1e-4, "{name}, {to_one}: {far}");
            }
        }
    }
}
