//! Every schedule: where between noise and picture the levels of a run lie. Command line, documentation and tests read
//! the table.
//!
//! A schedule that diffusers has a key for is stated in the scheduler config, for the classes that read the key, and
//! then has diffusers' numbers. The others, and those keys for classes that do not read them, give levels from the
//! model's own table as k-diffusion and the tools built on it do: with fractional timesteps and an end at no noise.

use crate::samplers::Setting::{self, Flag, Text};
use crate::samplers::Visits;
use crate::spacing::levels::{self, Request};
use crate::{Sampler, SamplingError, SchedulerConfig, find_joined, find_schedule, sampler_of};

/// One way to space the noise levels of a run.
pub struct Schedule {
    /// What requests and files call it.
    pub name: &'static str,
    /// One sentence for people choosing.
    pub about: &'static str,
    /// What other tools call it beside A1111 and ComfyUI.
    pub aliases: &'static [&'static str],
    /// A1111's label of the schedule type.
    pub a1111: Option<&'static str>,
    /// ComfyUI's name of the scheduler.
    pub comfyui: Option<&'static str>,
    /// Paper, or the program whose numbers it has.
    pub source: &'static str,
    /// Groups of keys that state it in a scheduler config; the first group that the class reads whole is set.
    keys: &'static [&'static [(&'static str, Setting)]],
    /// Its levels on the model's own table, highest first, without the end at no noise.
    pub(crate) levels: Option<fn(&Request<'_>) -> Vec<f64>>,
}

impl std::fmt::Debug for Schedule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Schedule").field(&self.name).finish()
    }
}

impl PartialEq for Schedule {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

/// What rows share unless they say otherwise.
const PLAIN: Schedule = Schedule {
    name: "",
    about: "",
    aliases: &[],
    a1111: None,
    comfyui: None,
    source: "",
    keys: &[],
    levels: None,
};

/// Keys that space the levels; choosing a schedule turns the others off.
const SPACINGS: &[&str] = &[
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "use_lu_lambdas",
];

/// Every schedule. A new one is a function in `spacing/levels.rs`, or the keys it means, and a row here.
pub const SCHEDULES: &[Schedule] = &[
    Schedule {
        name: "karras",
        about: "More steps where there is little noise; the field's usual choice.",
        a1111: Some("Karras"),
        comfyui: Some("karras"),
        source: "Karras et al. 2022 (arXiv:2206.00364), Eq. 5 with rho 7",
        keys: &[
            &[("use_karras_sigmas", Flag(true))],
            &[("sigma_schedule", Text("karras"))],
        ],
        levels: Some(levels::karras),
        ..PLAIN
    },
    Schedule {
        name: "exponential",
        about: "Evenly in the logarithm of the noise.",
        a1111: Some("Exponential"),
        comfyui: Some("exponential"),
        source: "k-diffusion, `get_sigmas_exponential`",
        keys: &[
            &[("use_exponential_sigmas", Flag(true))],
            &[("sigma_schedule", Text("exponential"))],
        ],
        levels: Some(levels::exponential),
        ..PLAIN
    },
    Schedule {
        name: "polyexponential",
        about: "A power `rho` of an even line in the logarithm of the noise; `rho` 1 is `exponential`.",
        a1111: Some("Polyexponential"),
        source: "k-diffusion, `get_sigmas_polyexponential`",
        levels: Some(levels::polyexponential),
        ..PLAIN
    },
    Schedule {
        name: "beta",
        about: "Dense at both ends: quantiles of Beta(0.6, 0.6) in the noise level, as A1111 and diffusers take them.",
        a1111: Some("Beta"),
        source: "Lee et al. 2024 (arXiv:2407.12173)",
        keys: &[&[("use_beta_sigmas", Flag(true))]],
        levels: Some(levels::beta),
        ..PLAIN
    },
    Schedule {
        name: "beta_timesteps",
        about: "Quantiles of Beta(0.6, 0.6) in the timestep: what ComfyUI calls `beta`.",
        source: "Lee et al. 2024 (arXiv:2407.12173), as ComfyUI's `beta_scheduler` reads it",
        levels: Some(levels::beta_timesteps),
        ..PLAIN
    },
    Schedule {
        name: "normal",
        about: "Evenly in the timestep, both ends included.",
        aliases: &["discrete"],
        a1111: Some("Uniform"),
        comfyui: Some("normal"),
        source: "k-diffusion, `DiscreteSchedule.get_sigmas`",
        levels: Some(levels::normal),
        ..PLAIN
    },
    Schedule {
        name: "sgm_uniform",
        about: "Evenly in the timestep, the last one left out; for models distilled to few steps.",
        aliases: &["sgm"],
        a1111: Some("SGM Uniform"),
        comfyui: Some("sgm_uniform"),
        source: "Stability AI's generative-models, `DiscreteDenoiser` with `LegacyDDPMDiscretization`; ComfyUI, `sgm_uniform`",
        levels: Some(levels::sgm_uniform),
        ..PLAIN
    },
    Schedule {
        name: "simple",
        about: "Every so many levels of the model's table, from the top.",
        a1111: Some("Simple"),
        comfyui: Some("simple"),
        source: "ComfyUI, `simple_scheduler`",
        levels: Some(levels::simple),
        ..PLAIN
    },
    Schedule {
        name: "ddim_uniform",
        about: "Every so many levels of the table from the bottom; starts below full noise and may take a step more.",
        a1111: Some("DDIM"),
        comfyui: Some("ddim_uniform"),
        source: "ComfyUI, `ddim_scheduler`",
        levels: Some(levels::ddim_uniform),
        ..PLAIN
    },
    Schedule {
        name: "kl_optimal",
        about: "Evenly in the arc tangent of the noise, which bounds the divergence of each step.",
        a1111: Some("KL Optimal"),
        comfyui: Some("kl_optimal"),
        source: "Sabour et al. 2024 (arXiv:2404.14507), section 3.1; ComfyUI, `kl_optimal_scheduler`",
        levels: Some(levels::kl_optimal),
        ..PLAIN
    },
    Schedule {
        name: "align_your_steps",
        about: "Levels optimised for Stable Diffusion 1 in ten steps.",
        aliases: &["ays", "ays_sd1"],
        a1111: Some("Align Your Steps"),
        source: "Sabour et al. 2024 (arXiv:2404.14507), the table of its authors' page",
        levels: Some(levels::align_your_steps),
        ..PLAIN
    },
    Schedule {
        name: "align_your_steps_sdxl",
        about: "Levels optimised for SDXL in ten steps.",
        aliases: &["ays_sdxl"],
        source: "Sabour et al. 2024 (arXiv:2404.14507), the table of its authors' page",
        levels: Some(levels::align_your_steps_sdxl),
        ..PLAIN
    },
    Schedule {
        name: "lu",
        about: "Evenly in the logarithm of signal to noise.",
        aliases: &["lu_lambdas"],
        source: "Lu et al. 2022 (arXiv:2206.00927), section 3.3",
        keys: &[&[("use_lu_lambdas", Flag(true))]],
        ..PLAIN
    },
    Schedule {
        name: "linspace",
        about: "Timesteps evenly, both ends included.",
        source: "Lin et al. 2023 (arXiv:2305.08891), Table 2",
        keys: &[&[("timestep_spacing", Text("linspace"))]],
        ..PLAIN
    },
    Schedule {
        name: "leading",
        about: "Multiples of a whole ratio; leaves the noisiest timesteps out.",
        source: "Lin et al. 2023 (arXiv:2305.08891), Table 2",
        keys: &[&[("timestep_spacing", Text("leading"))]],
        ..PLAIN
    },
    Schedule {
        name: "trailing",
        about: "Timesteps from the last one down in equal parts.",
        source: "Lin et al. 2023 (arXiv:2305.08891), Table 2",
        keys: &[&[("timestep_spacing", Text("trailing"))]],
        ..PLAIN
    },
    Schedule {
        name: "zero_snr",
        about: "Trailing timesteps of a process stretched to end in pure noise; for models trained so.",
        aliases: &["zero_terminal_snr", "ztsnr"],
        source: "Lin et al. 2023 (arXiv:2305.08891), Algorithm 1",
        keys: &[&[
            ("rescale_betas_zero_snr", Flag(true)),
            ("timestep_spacing", Text("trailing")),
        ]],
        ..PLAIN
    },
    Schedule {
        name: "automatic",
        about: "What the sampler and the model have by themselves.",
        a1111: Some("Automatic"),
        source: "none",
        keys: &[&[]],
        ..PLAIN
    },
];

/// A scheduler config with, where the config has no key for it, the schedule to put into
/// [`RunOptions::schedule`](crate::RunOptions::schedule).
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The sampler, and the schedule where a key states it.
    pub config: SchedulerConfig,
    /// A schedule that no key of the class states.
    pub schedule: Option<&'static Schedule>,
    /// The schedule that was asked for, where the name of the config's sampler does not say it.
    pub named: Option<&'static Schedule>,
}

/// What names of a sampler and a schedule mean for a model whose folder has the given config; without a name the
/// folder's own stays. A schedule named by itself wins over one joined to the sampler's name.
///
/// ```
/// use latent_sampling::{Class, SchedulerConfig, choose};
/// let folder = SchedulerConfig::new(Class::Pndm);
/// let joined = choose(&folder, Some("DPM++ 2M Karras"), None)?;
/// assert_eq!(joined, choose(&folder, Some("dpmpp_2m"), Some("karras"))?);
/// # Ok::<(), latent_sampling::SamplingError>(())
/// ```
///
/// # Errors
/// If a name is unknown, the sampler does not fit the model, or the schedule the sampler.
pub fn choose(
    folder: &SchedulerConfig,
    sampler: Option<&str>,
    schedule: Option<&str>,
) -> Result<Choice, SamplingError> {
    let (config, joined) = match sampler {
        Some(name) => {
            let (row, joined) = find_joined(name)?;
            (row.configure(folder)?, joined)
        }
        None => (folder.clone(), None),
    };
    match schedule.map(find_schedule).transpose()?.or(joined) {
        Some(schedule) => schedule.on(config),
        None => Ok(Choice {
            config,
            schedule: None,
            named: None,
        }),
    }
}

/// A config in which no key spaces the levels.
fn without_spacings(mut config: SchedulerConfig) -> Result<SchedulerConfig, SamplingError> {
    for key in SPACINGS {
        let read = config.class().reads(key);
        if read && config.stated(key).is_some_and(|value| value == true) {
            config = config.with(key, false)?;
        }
    }
    Ok(config)
}

impl Schedule {
    /// Every name it is found by.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        let others = self.a1111.into_iter().chain(self.comfyui);
        [self.name]
            .into_iter()
            .chain(others)
            .chain(self.aliases.iter().copied())
    }

    /// Whether a sampler can walk on it.
    pub fn fits(&self, sampler: &Sampler) -> bool {
        self.stated_for(sampler).is_some()
            || (self.levels.is_some() && sampler.visits == Visits::Levels)
    }

    fn stated_for(&self, sampler: &Sampler) -> Option<&'static [(&'static str, Setting)]> {
        let read =
            |group: &&[(&str, Setting)]| group.iter().all(|(key, _)| sampler.class.reads(key));
        self.keys.iter().copied().find(read)
    }

    /// Puts the schedule in place of whichever the config has.
    fn on(&'static self, mut config: SchedulerConfig) -> Result<Choice, SamplingError> {
        let sampler = sampler_of(&config);
        let settings = config.settings();
        if !self.fits(sampler)
            || settings.use_flow_sigmas && !self.keys.iter().any(|k| k.is_empty())
        {
            return Err(self.unfit(sampler, settings.use_flow_sigmas));
        }
        let stated = self.stated_for(sampler);
        if stated.is_some_and(<[_]>::is_empty) {
            return Ok(Choice {
                config,
                schedule: None,
                named: None,
            });
        }
        config = without_spacings(config)?;
        for (key, value) in stated.unwrap_or_default() {
            config = config.with(key, *value)?;
        }
        let schedule = stated.is_none().then_some(self);
        let said = stated.is_some_and(|keys| sampler_of(&config).says(keys));
        let named = (!said).then_some(self);
        Ok(Choice {
            config,
            schedule,
            named,
        })
    }

    /// Whether its levels can be those of a sampler.
    pub(crate) fn walks(&self, config: &SchedulerConfig) -> bool {
        let by_levels = sampler_of(config).visits == Visits::Levels;
        by_levels && self.levels.is_some() && !config.settings().use_flow_sigmas
    }

    /// [`Schedule::on`] for programs that read all levels off the model's own table, whatever keys diffusers has.
    pub(crate) fn on_levels(
        &'static self,
        config: SchedulerConfig,
    ) -> Result<Choice, SamplingError> {
        if !self.walks(&config) {
            return self.on(config);
        }
        Ok(Choice {
            config: without_spacings(config)?,
            schedule: Some(self),
            named: Some(self),
        })
    }

    pub(crate) fn unfit(&self, sampler: &Sampler, on_flow: bool) -> SamplingError {
        let fitting = SCHEDULES
            .iter()
            .filter(|row| row.fits(sampler) && !on_flow || row.keys.iter().any(|k| k.is_empty()));
        let names: Vec<String> = fitting.map(|row| format!("`{}`", row.name)).collect();
        SamplingError::NoSuchSchedule {
            sampler: sampler.name,
            schedule: self.name,
            fitting: names.join(", "),
        }
    }
}
