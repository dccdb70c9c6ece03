//! Every sampler: a function and a row. Command line, documentation and tests read the table.

mod alpha;
mod consistency;
mod dpm;
mod flow;
mod pndm;
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
    /// What other tools call it.
    pub aliases: &'static [&'static str],
    /// The diffusers class whose results it equals.
    pub class: Class,
    /// Paper and equation.
    pub source: &'static str,
    /// Whether fresh noise enters on the way with the row's own options.
    pub stochastic: bool,
    /// Calls to the network per step, nearly.
    pub evaluations_per_step: usize,
    /// The `eta` it takes where none is asked for; `None` if it has no such option.
    pub eta: Option<f64>,
    /// Options beside steps and `eta` that it has.
    takes: &'static [Takes],
    /// Keys it sets in a config.
    sets: &'static [(&'static str, Setting, When)],
    /// Timesteps and levels.
    pub(crate) plan: fn(&Request<'_>) -> Result<Plan, SamplingError>,
    /// The walk.
    pub(crate) run: fn(&mut Walk<'_>, Latents) -> Result<Latents, SamplingError>,
}

/// An option of [`RunOptions`] that only some samplers have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    Churn,
    Mu,
    Sigmas,
    ClippedOutput,
}

/// A value in a row, as constants can hold it.
#[derive(Clone, Copy, Debug)]
enum Setting {
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

/// The row of a name or an alias; upper and lower case and the marks between words do not count.
///
/// ```
/// assert_eq!(latent_sampling::find("DPM++ 2M Karras")?.name, "dpmpp_2m_karras");
/// # Ok::<(), latent_sampling::SamplingError>(())
/// ```
///
/// # Errors
/// If no row has the name; the sentence lists those that are known.
pub fn find(name: &str) -> Result<&'static Sampler, SamplingError> {
    let wanted = simplified(name);
    let named = |row: &&Sampler| {
        row.aliases
            .iter()
            .chain([&row.name])
            .any(|known| simplified(known) == wanted)
    };
    SAMPLERS.iter().find(named).ok_or_else(|| {
        let known: Vec<String> = SAMPLERS
            .iter()
            .map(|row| format!("`{}`", row.name))
            .collect();
        SamplingError::UnknownSampler {
            found: name.to_owned(),
            known: known.join(", "),
        }
    })
}

fn simplified(name: &str) -> String {
    let letters = name.to_lowercase().replace('+', "p");
    letters
        .chars()
        .filter(|letter| letter.is_alphanumeric())
        .collect()
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
    fn always(&self) -> impl Iterator<Item = (&'static str, Value)> {
        self.sets
            .iter()
            .filter(|(_, _, when)| *when == When::Always)
            .map(|(key, value, _)| (*key, Value::from(*value)))
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
                return refuse("eta", "`ddim` or `tcd`");
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
        if options.use_clipped_model_output && !self.takes.contains(&Takes::ClippedOutput) {
            return refuse("use_clipped_model_output", "`ddim`");
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
