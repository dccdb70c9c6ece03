//! What a run will do, known before it runs: timesteps, noise levels, and where it begins.

use crate::level::Level;
use crate::samplers::Visits;
use crate::{Class, Compat, Latents, SamplingError, Schedule, SchedulerConfig, spacing};

/// What one run is asked for, beside the config of its model.
#[derive(Clone, Debug, PartialEq)]
pub struct RunOptions {
    /// Steps of the sampler, 1 to the model's training timesteps.
    pub steps: usize,
    /// Share of fresh noise per step, 0 to 1, for samplers that have it (`ddim`, `tcd`); `None` is the sampler's default.
    pub eta: Option<f64>,
    /// Noise added before each step, for `euler` and `edm_euler`.
    pub churn: Option<Churn>,
    /// How far a flow's times are moved towards noise, for configs with `use_dynamic_shifting`; grows with the picture.
    pub mu: Option<f64>,
    /// Noise levels from 1 down to above 0 that replace a flow's own, before shifting; as many as `steps`.
    pub sigmas: Option<Vec<f64>>,
    /// Whether `ddim` takes its direction from the bounded clean estimate.
    pub use_clipped_model_output: bool,
    /// Whether noise is put back as [`Denoiser::unguided`](crate::Denoiser::unguided) has it, for `ddim`, `euler` and `euler_a`:
    /// CFG++.
    pub unguided_noise: bool,
    /// A row of [`SCHEDULES`](crate::SCHEDULES) that no key of the config states; see [`choose`](crate::choose).
    pub schedule: Option<&'static Schedule>,
    /// Exponent of the schedule `polyexponential`; `None` is 1.
    pub rho: Option<f64>,
    /// What fresh noise is multiplied with, for samplers of k-diffusion; `None` is 1.
    pub noise_scale: Option<f64>,
    /// Share of the training timesteps after which the run begins, above 0 and below 1: another model did those before.
    pub denoising_start: Option<f64>,
    /// Share of the training timesteps after which the run ends, above 0 and below 1: another model does the rest.
    pub denoising_end: Option<f64>,
    /// Whose rules hold where programs differ.
    pub compat: Compat,
}

impl RunOptions {
    /// `steps` steps, everything else as the sampler has it.
    pub fn new(steps: usize) -> Self {
        Self {
            steps,
            eta: None,
            churn: None,
            mu: None,
            sigmas: None,
            use_clipped_model_output: false,
            unguided_noise: false,
            schedule: None,
            rho: None,
            noise_scale: None,
            denoising_start: None,
            denoising_end: None,
            compat: Compat::default(),
        }
    }
}

/// Fresh noise before each step. Source: Karras et al. 2022 (arXiv:2206.00364), Algorithm 2.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Churn {
    /// Overall strength, spread over the steps.
    pub strength: f64,
    /// Least noise level at which noise is added.
    pub from: f64,
    /// Highest noise level at which noise is added.
    pub to: f64,
    /// Standard deviation of the added noise before scaling.
    pub noise: f64,
}

impl Churn {
    /// Relative growth of the noise level at `sigma` in a run of `steps`.
    pub(crate) fn growth(self, sigma: f64, steps: usize) -> f64 {
        if sigma >= self.from && sigma <= self.to {
            (self.strength / steps as f64).min(std::f64::consts::SQRT_2 - 1.0)
        } else {
            0.0
        }
    }
}

/// The calls a run makes to the network.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What the network is told at each call. Second-order samplers and `pndm` make more calls than steps.
    pub timesteps: Vec<f64>,
    /// Noise levels between the calls, one more than `timesteps`; empty for samplers that work on `alpha_bar`.
    pub sigmas: Vec<f64>,
    /// What unit noise is multiplied with at the start.
    pub init_noise_sigma: f64,
    /// Index of the first call; above 0 in image-to-image.
    pub first: usize,
    /// Steps that were asked for.
    pub(crate) steps: usize,
    /// Mixture that the latents hold before each call.
    pub(crate) levels: Vec<Level>,
    /// Levels in the middle of second-order steps (`dpm2`), beside `sigmas`.
    pub(crate) middles: Vec<f64>,
}

impl Plan {
    /// The plan of a run that starts from noise.
    ///
    /// # Errors
    /// If `steps` is 0 or more than the model's training timesteps, an option does not fit, or the config's
    /// prediction type has no meaning at a visited level.
    pub fn new(config: &SchedulerConfig, options: &RunOptions) -> Result<Self, SamplingError> {
        Self::with_strength(config, options, None)
    }

    /// The plan of a run that starts from a picture's latents with noise of `strength`, above 0 to 1.
    ///
    /// # Errors
    /// As [`new`](Self::new), and if `strength` is outside its range or leaves no step to do.
    pub fn for_picture(
        config: &SchedulerConfig,
        options: &RunOptions,
        strength: f64,
    ) -> Result<Self, SamplingError> {
        check_strength(strength)?;
        Self::with_strength(config, options, Some(strength))
    }

    fn with_strength(
        config: &SchedulerConfig,
        options: &RunOptions,
        strength: Option<f64>,
    ) -> Result<Self, SamplingError> {
        let sampler = crate::sampler_of(config);
        sampler.check(options)?;
        // Their rules are about levels; what goes by timesteps keeps diffusers'.
        let compat = match sampler.visits {
            Visits::Levels => options.compat,
            Visits::Timesteps | Visits::Own => Compat::Diffusers,
        };
        let asked = options.steps;
        let options = &RunOptions {
            steps: compat.steps_of_schedule(asked, strength),
            ..options.clone()
        };
        let settings = config.settings();
        let most = settings.num_train_timesteps;
        if options.steps == 0 || options.steps > most {
            return Err(match strength {
                Some(strength) if options.steps > asked && asked > 0 => {
                    SamplingError::StepsOfStrength {
                        asked,
                        strength,
                        whole: options.steps,
                        most,
                    }
                }
                _ => SamplingError::Steps {
                    found: options.steps,
                    most,
                },
            });
        }
        let request = spacing::Request {
            class: config.class(),
            settings: &settings,
            options,
            strength,
            eta: options.eta.or(sampler.eta).unwrap_or(0.0),
        };
        let mut plan = (sampler.plan)(&request)?;
        if let Some(strength) = strength {
            let skipped = compat.skipped(plan.steps, asked, strength);
            let skipped = skipped
                .unwrap_or_else(|| skipped_by_diffusers(config.class(), plan.steps, strength));
            plan.begin_at(config.class(), skipped, strength)?;
        } else if let Some(share) = options.denoising_start {
            plan.first = plan.reached(config, ("denoising_start", share))?;
        }
        if config.class() == Class::Pndm && !settings.skip_prk_steps && plan.first > 0 {
            return Err(SamplingError::Conflict(
                "`pndm` cannot begin inside its Runge-Kutta start; set `skip_prk_steps` to true, or `strength` to 1"
                    .to_owned(),
            ));
        }
        Ok(plan)
    }

    /// The steps to ask for so that a start of `strength` does `done` of them.
    ///
    /// # Errors
    /// If `strength` is not above 0 and at most 1, or takes more steps than the model has training timesteps.
    pub fn steps_that_do(
        config: &SchedulerConfig,
        done: usize,
        strength: f64,
    ) -> Result<usize, SamplingError> {
        check_strength(strength)?;
        let most = config.settings().num_train_timesteps;
        let class = config.class();
        let enough = |steps: &usize| steps - skipped_by_diffusers(class, *steps, strength) >= done;
        (done.max(1)..=most)
            .find(enough)
            .ok_or(SamplingError::Steps {
                found: (done as f64 / strength).ceil() as usize,
                most,
            })
    }

    /// Steps and strength to ask for so that a second pass of `strength` does `done` steps.
    ///
    /// # Errors
    /// As [`steps_that_do`](Self::steps_that_do).
    pub fn second_pass(
        config: &SchedulerConfig,
        compat: Compat,
        done: usize,
        strength: f64,
    ) -> Result<(usize, f64), SamplingError> {
        check_strength(strength)?;
        let on_levels = crate::sampler_of(config).visits == Visits::Levels;
        match compat {
            Compat::A1111 if on_levels => {
                let steps = (done as f64 / strength.min(0.999)) as usize;
                // A strength of which its rule makes `done` steps.
                Ok((steps, (done as f64 - 0.5) / steps as f64))
            }
            Compat::ComfyUi if on_levels => Ok((done, strength)),
            _ => Ok((Self::steps_that_do(config, done, strength)?, strength)),
        }
    }

    /// Skips the calls that a weaker start makes needless.
    fn begin_at(
        &mut self,
        class: Class,
        skipped: usize,
        strength: f64,
    ) -> Result<(), SamplingError> {
        self.first = skipped * calls_per_step(class);
        if skipped >= self.steps || self.first >= self.timesteps.len() {
            let needed = "large enough for one of the steps; raise it or the number of steps";
            return Err(SamplingError::Option {
                option: "strength",
                found: strength.to_string(),
                needed,
            });
        }
        Ok(())
    }

    /// Clean latents with as much unit noise as the run holds before a call; `call` is an index into `timesteps`.
    ///
    /// # Panics
    /// If the shapes differ, or `call` is not below the number of timesteps.
    pub fn noisy(&self, call: usize, clean: &Latents, noise: &Latents) -> Latents {
        assert_eq!(clean.shape(), noise.shape(), "noisy: shapes differ");
        self.levels[call].noisy(clean, noise)
    }

    /// Number of calls to the network of a run that goes to the end.
    pub fn calls(&self) -> usize {
        self.timesteps.len() - self.first
    }

    /// Index after the last call of a run with these options; the number of timesteps unless it ends early.
    ///
    /// # Errors
    /// If `denoising_end` is outside its range, or leaves no call.
    pub fn end(
        &self,
        config: &SchedulerConfig,
        options: &RunOptions,
    ) -> Result<usize, SamplingError> {
        let Some(share) = options.denoising_end else {
            return Ok(self.timesteps.len());
        };
        let end = self.reached(config, ("denoising_end", share))?;
        if end > self.first {
            return Ok(end);
        }
        Err(SamplingError::Option {
            option: "denoising_end",
            found: share.to_string(),
            needed: "large enough for one of the steps; raise it or the number of steps",
        })
    }

    /// Calls of whole steps before a share of the training timesteps is passed.
    ///
    /// Source: diffusers' `StableDiffusionXLImg2ImgPipeline.get_timesteps`; where that would end between the two calls
    /// of a second-order step, here the whole step is left to the next model.
    fn reached(
        &self,
        config: &SchedulerConfig,
        (option, share): (&'static str, f64),
    ) -> Result<usize, SamplingError> {
        let refuse = |needed| SamplingError::Option {
            option,
            found: share.to_string(),
            needed,
        };
        if !(share > 0.0 && share < 1.0) {
            return Err(refuse("above 0 and below 1"));
        }
        let whole = config.settings().num_train_timesteps as f64;
        let cutoff = (whole - share * whole).round_ties_even();
        // The last one: restarts return to levels that were passed before.
        let last = self.timesteps.iter().rposition(|&time| time >= cutoff);
        let each = calls_per_step(config.class());
        let calls = last.map_or(0, |last| last + 1) / each * each;
        if calls == self.timesteps.len() {
            return Err(refuse(
                "small enough to leave one of the steps; lower it or raise the number of steps",
            ));
        }
        Ok(calls)
    }
}

/// Calls to the network that one step makes.
fn calls_per_step(class: Class) -> usize {
    match class {
        Class::Heun
        | Class::Kdpm2
        | Class::Kdpm2Ancestral
        | Class::FlowHeun
        | Class::DpmSde
        | Class::Dpmpp2sAncestral
        | Class::Restart => 2,
        _ => 1,
    }
}

fn check_strength(strength: f64) -> Result<(), SamplingError> {
    if strength > 0.0 && strength <= 1.0 {
        return Ok(());
    }
    Err(SamplingError::Option {
        option: "strength",
        found: strength.to_string(),
        needed: "above 0 and at most 1",
    })
}

/// Steps of `steps` that a start of `strength` leaves out, as diffusers' pipelines count them.
fn skipped_by_diffusers(class: Class, steps: usize, strength: f64) -> usize {
    let done = steps as f64 * strength;
    match class {
        Class::Lcm => 0, // its timesteps were already chosen from the weaker part of the schedule
        Class::FlowEuler | Class::FlowHeun => (steps as f64 - done) as usize,
        _ => steps - done as usize,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steps_that_do_so_many_are_the_fewest() {
        for (class, done, strength, expected) in [
            ("DDIMScheduler", 20, 0.7, 29),
            ("EulerDiscreteScheduler", 1, 1.0, 1),
            ("LCMScheduler", 4, 0.5, 4),
            ("FlowMatchEulerDiscreteScheduler", 5, 0.6, 7),
        ] {
            let config =
                SchedulerConfig::from_text(&format!("{{\"_class_name\": \"{class}\"}}")).unwrap();
            let steps = Plan::steps_that_do(&config, done, strength).unwrap();
            assert_eq!(steps, expected, "{class}");
            let plan = Plan::for_picture(&config, &RunOptions::new(steps), strength).unwrap();
            assert_eq!(plan.calls(), done, "{class}");
        }
        let config = SchedulerConfig::from_text(r#"{"_class_name": "DDIMScheduler"}"#).unwrap();
        assert!(Plan::steps_that_do(&config, 20, 0.001).is_err());
    }

    #[test]
    fn a_schedule_that_grows_too_long_is_told_with_the_steps_and_the_strength_that_were_asked_for()
    {
        let config =
            SchedulerConfig::from_text(r#"{"_class_name": "EulerDiscreteScheduler"}"#).unwrap();
        let options = RunOptions {
            compat: Compat::ComfyUi,
            ..RunOptions::new(20)
        };
        let error = Plan::for_picture(&config, &options, 0.01).unwrap_err();
        let message = error.to_string();
        assert!(
            message.starts_with("20 steps at a strength of 0.01"),
            "{message}"
        );
        let error = Plan::for_picture(&config, &RunOptions::new(2000), 0.5).unwrap_err();
        assert!(error.to_string().starts_with("2000 sampling steps"));
    }
}
