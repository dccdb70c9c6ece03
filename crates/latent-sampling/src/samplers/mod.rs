//! Every sampler: a function and a row. Command line, documentation and tests read the table.

mod alpha;
mod consistency;
mod dpm;
mod flow;
mod pndm;
mod sa_solver;
mod sde;
mod sigma;
mod table;
mod unipc;

pub use table::SAMPLERS;

use serde_json::Value;

use crate::config::{Kind, SchedulerConfig};
use crate::run::Walk;
use crate::spacing::Request;
use crate::{Class, Latents, Plan, RunOptions, SamplingError};

/// One way to walk from noise to latents.
#[derive(Debug)]
pub struct Sampler {
    /// What requests and files call it.
    pub name: &'static str,
    /// One sentence for people choosing.
    pub about: &'static str,
    /// Further names it is found by.
    pub aliases: &'static [&'static str],
    /// A1111's label.
    pub a1111: Option<&'static str>,
    /// ComfyUI's name.
    pub comfyui: Option<&'static str>,
    /// The diffusers class whose results it equals, or the class made for it where diffusers has none.
    pub class: Class,
    /// Order of its error in the length of a step.
    pub order: usize,
    /// Paper and equation.
    pub source: &'static str,
    /// Whether fresh noise enters on the way with the row's own options.
    pub stochastic: bool,
    /// Calls to the network per step, nearly.
    pub evaluations_per_step: usize,
    /// The `eta` it takes where none is asked for; `None` if it has no such option.
    pub eta: Option<f64>,
    /// What it goes by, which says which schedules it can walk on.
    pub(crate) visits: Visits,
    /// Options beside steps and `eta` that it has.
    takes: &'static [Takes],
    /// Keys it sets in a config.
    sets: &'static [(&'static str, Setting, When)],
    /// Timesteps and levels.
    pub(crate) plan: fn(&Request<'_>) -> Result<Plan, SamplingError>,
    /// The walk.
    pub(crate) run: fn(&mut Walk<'_>, Latents) -> Result<Latents, SamplingError>,
}

/// What a sampler's steps lie between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Visits {
    /// Whole training timesteps.
    Timesteps,
    /// Any noise levels.
    Levels,
    /// Levels of its own kind of model.
    Own,
}

/// An option of [`RunOptions`] that only some samplers have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    Churn,
    Mu,
    Sigmas,
    ClippedOutput,
    NoiseScale,
    UnguidedNoise,
}

/// A value in a row, as constants can hold it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Setting {
    Flag(bool),
    Text(&'static str),
    Count(u64),
}

impl From<Setting> for Value {
    fn from(setting: Setting) -> Self {
        match setting {
            Setting::Flag(flag) => flag.into(),
            Setting::Text(text) => text.into(),
            Setting::Count(count) => count.into(),
        }
    }
}

/// When a row's key is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// It is what the name says.
    Always,
    /// The model's config is of another class, whose habit this sampler does not share.
    OtherClass,
    /// The model's config says nothing, and the class's own default is for pixels or for another start.
    Unstated,
}

/// The row that a config means: the first of its class whose own keys it has, else the first of its class.
pub fn sampler_of(config: &SchedulerConfig) -> &'static Sampler {
    let of_class = || SAMPLERS.iter().filter(|row| row.class == config.class());
    let exact = of_class()
        .filter(|row| row.fits(config))
        .max_by_key(|row| row.always().count());
    exact
        .or_else(|| of_class().next())
        .expect("every class has a row; a test holds this")
}

impl Sampler {
    /// Every name it is found by, beside its class's.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        let others = self.a1111.into_iter().chain(self.comfyui);
        [self.name]
            .into_iter()
            .chain(others)
            .chain(self.aliases.iter().copied())
    }

    /// The `eta` that diffusers' pipelines hand to it where none is asked for: 0 to every class whose step has one,
    /// whatever its own default is.
    pub fn eta_of_pipelines(&self) -> Option<f64> {
        match self.class {
            Class::Ddim | Class::Tcd => Some(0.0),
            _ => self.eta,
        }
    }

    fn always(&self) -> impl Iterator<Item = (&'static str, Value)> {
        self.sets
            .iter()
            .filter(|(_, _, when)| *when == When::Always)
            .map(|(key, value, _)| (*key, Value::from(*value)))
    }

    /// Whether the row's name stands for all of these keys.
    pub(crate) fn says(&self, keys: &[(&str, Setting)]) -> bool {
        keys.iter().all(|(key, value)| {
            self.always()
                .any(|(own, said)| own == *key && said == Value::from(*value))
        })
    }

    /// Whether the keys that the row's name stands for are in effect.
    fn fits(&self, config: &SchedulerConfig) -> bool {
        let settings = config.settings();
        self.always().all(|(key, value)| {
            config
                .clone()
                .with(key, value)
                .is_ok_and(|with_key| with_key.settings() == settings)
        })
    }

    /// The config of this sampler for a model whose folder has the given one.
    ///
    /// Follows diffusers' `from_config`: keys that the folder states carry over, absent ones take the new class's own
    /// default; then the row's own keys. Two things differ where the class changes: `clip_sample` is off unless
    /// stated, since latents are not bounded (diffusers' pipelines switch it off too), and the multistep solvers keep
    /// their even spacing, which begins at the model's highest level as their results in the field do.
    ///
    /// # Errors
    /// If the model was trained on something this sampler does not walk on, such as a flow.
    pub fn configure(&self, folder: &SchedulerConfig) -> Result<SchedulerConfig, SamplingError> {
        let mut config = folder.of_class(self.class);
        let (model, own) = (folder.class().kind(), self.class.kind());
        if model == Kind::Flow && self.solves_flows() {
            let shift = folder.settings().shift;
            config = config.with_all([
                ("prediction_type", "flow_prediction".into()),
                ("use_flow_sigmas", true.into()),
                ("flow_shift", shift.into()),
            ])?;
        } else if model != own {
            return Err(SamplingError::Conflict(format!(
                "sampler `{}` does not fit a model of `{}`; take {}",
                self.name,
                folder.class().name(),
                fitting(model)
            )));
        }
        let changes = folder.class() != self.class;
        for (key, value, when) in self.sets {
            let applies = match when {
                When::Always => true,
                When::OtherClass => changes,
                When::Unstated => changes && folder.stated(key).is_none(),
            };
            if applies {
                config = config.with(key, *value)?;
            }
        }
        config.class().check(&config.settings())?;
        Ok(config)
    }

    fn solves_flows(&self) -> bool {
        matches!(
            self.class,
            Class::DpmMultistep | Class::DpmSinglestep | Class::UniPc | Class::Deis
        )
    }

    /// Refuses options that this sampler would have to ignore.
    pub(crate) fn check(&self, options: &RunOptions) -> Result<(), SamplingError> {
        let refuse = |option, instead| {
            Err(SamplingError::NoSuchOption {
                sampler: self.name,
                option,
                instead,
            })
        };
        if let Some(eta) = options.eta {
            if self.eta.is_none() {
                return refuse("eta", "`ddim`, `euler_a` or another that has it");
            }
            if !(0.0..=1.0).contains(&eta) {
                return Err(SamplingError::Option {
                    option: "eta",
                    found: eta.to_string(),
                    needed: "from 0 to 1",
                });
            }
        }
        if options.churn.is_some() && !self.takes.contains(&Takes::Churn) {
            return refuse("churn", "`euler` or `edm_euler`");
        }
        if let Some(churn) = options.churn
            && !(churn.strength >= 0.0
                && churn.noise >= 0.0
                && churn.strength.max(churn.noise) < 1e6)
        {
            let needed = "made of numbers from 0 to a million";
            return Err(SamplingError::Option {
                option: "churn",
                found: format!("{churn:?}"),
                needed,
            });
        }
        if options.mu.is_some() && !self.takes.contains(&Takes::Mu) {
            return refuse("mu", "`flow_euler`");
        }
        if options.sigmas.is_some() && !self.takes.contains(&Takes::Sigmas) {
            return refuse("sigmas", "`flow_euler`");
        }
        if options.noise_scale.is_some() && !self.takes.contains(&Takes::NoiseScale) {
            return refuse("noise_scale", "`euler_a` or `dpmpp_sde`");
        }
        self.check_schedule(options)?;
        if options.use_clipped_model_output && !self.takes.contains(&Takes::ClippedOutput) {
            return refuse("use_clipped_model_output", "`ddim`");
        }
        if options.unguided_noise && !self.takes.contains(&Takes::UnguidedNoise) {
            return refuse("guidance_method: cfg++", "`ddim`, `euler` or `euler_a`");
        }
        Ok(())
    }
}

impl Sampler {
    /// Refuses a schedule that this sampler's plan would not follow.
    fn check_schedule(&self, options: &RunOptions) -> Result<(), SamplingError> {
        let Some(schedule) = options.schedule else {
            return match options.rho {
                Some(rho) => Err(SamplingError::Option {
                    option: "rho",
                    found: rho.to_string(),
                    needed: "left out but with the schedule `polyexponential`",
                }),
                None => Ok(()),
            };
        };
        if self.visits != Visits::Levels || schedule.levels.is_none() {
            return Err(schedule.unfit(self, false));
        }
        let found = options.rho.unwrap_or(1.0);
        if options.rho.is_some() && schedule.name != "polyexponential"
            || !(0.01..=100.0).contains(&found)
        {
            return Err(SamplingError::Option {
                option: "rho",
                found: found.to_string(),
                needed: "from 0.01 to 100, with the schedule `polyexponential`",
            });
        }
        Ok(())
    }
}

/// Names of the samplers that walk on what a model was trained on.
fn fitting(kind: Kind) -> String {
    let fits =
        |row: &&Sampler| row.class.kind() == kind || (kind == Kind::Flow && row.solves_flows());
    let names: Vec<String> = SAMPLERS
        .iter()
        .filter(fits)
        .map(|row| format!("`{}`", row.name))
        .collect();
    names.join(", ")
}
