//! The rules of image tools where one name means different mathematics in different programs.

use serde::{Deserialize, Serialize};

use crate::samplers::Setting::{Count, Text};
use crate::schedules::Choice;
use crate::{
    Class, GeneratorKind, Sampler, SamplingError, Schedule, SchedulerConfig, choose, find,
    find_joined, find_schedule, sampler_of,
};

/// Whose rules a run follows.
///
/// | | `Diffusers` | `A1111` | `ComfyUi` |
/// |---|---|---|---|
/// | noise | torch on the CPU, one stream a picture | torch on an NVIDIA GPU, one stream a picture | the first on the CPU, of steps on the GPU, one stream a batch |
/// | levels without a schedule | the scheduler's own | "Automatic" of the sampler: `karras`, `exponential` or `normal` | `normal` |
/// | named levels | diffusers' keys, whole timesteps | on the model's table, fractional timesteps | on the model's table, nearest timesteps |
/// | last but one level | kept | left out by `dpm2`, `dpm2_a`, `dpmpp_3m_sde` | left out by `dpm2`, `dpm2_a`, `unipc` |
/// | first noise | the scheduler's own | times the level σ | times √(1 + σ²) from the highest level on, else σ |
/// | start from a picture, `n` steps at strength `s` | ⌊ns⌋ steps | ⌊n min(s, 0.999)⌋ + 1 steps | `n` steps, the last of ⌊n/s⌋ |
/// | `dpmpp_2m_sde` | fresh noise | a Brownian path | a Brownian path |
/// | `ddim`, `beta`, `unipc` | diffusers' | third order and `bh1` for `unipc` | `euler`, `beta_timesteps`, third order and `bh1` |
///
/// Samplers that go by whole timesteps (`ddim`, `pndm`, `lcm` and their kin) and those of flows follow diffusers always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compat {
    /// Those of diffusers.
    #[default]
    Diffusers,
    /// Those of AUTOMATIC1111's web UI, 1.10, on an NVIDIA GPU.
    A1111,
    /// Those of ComfyUI on an NVIDIA GPU.
    ComfyUi,
}

impl Compat {
    /// All of them with their names.
    pub const ALL: &'static [(&'static str, Self)] = &[
        ("diffusers", Self::Diffusers),
        ("a1111", Self::A1111),
        ("comfyui", Self::ComfyUi),
    ];

    /// What requests and files call it.
    pub fn name(self) -> &'static str {
        let mut all = Self::ALL.iter();
        all.find(|(_, compat)| *compat == self)
            .map_or("", |(name, _)| name)
    }

    /// The generator where none is asked for.
    pub fn generator(self) -> GeneratorKind {
        match self {
            Self::Diffusers => GeneratorKind::Torch,
            Self::A1111 => GeneratorKind::Philox,
            Self::ComfyUi => GeneratorKind::ComfyUi,
        }
    }

    /// Whether the last level but one is left out, for which a schedule is laid out with a step more.
    ///
    /// Source: A1111's `discard_next_to_last_sigma`, ComfyUI's `DISCARD_PENULTIMATE_SIGMA_SAMPLERS`.
    pub(crate) fn drops_penultimate(self, class: Class) -> bool {
        match self {
            Self::Diffusers => false,
            Self::A1111 => matches!(
                class,
                Class::Kdpm2 | Class::Kdpm2Ancestral | Class::Dpmpp3mSde
            ),
            Self::ComfyUi => matches!(class, Class::Kdpm2 | Class::Kdpm2Ancestral | Class::UniPc),
        }
    }

    /// What the network is told for a fractional timestep; ComfyUI's nearest is the lower of two as near.
    pub(crate) fn timestep(self, fractional: f64) -> f64 {
        match self {
            Self::Diffusers | Self::A1111 => fractional,
            Self::ComfyUi => (fractional - 0.5).ceil().max(0.0),
        }
    }

    /// What unit noise is multiplied with at the start of levels read off a table.
    ///
    /// Source: ComfyUI's `max_denoise` and `EPS.noise_scaling`.
    pub(crate) fn first_noise(self, sigma: f64, most: f64) -> f64 {
        if self == Self::ComfyUi && sigma >= most * (1.0 - 1e-5) {
            return sigma.hypot(1.0);
        }
        sigma
    }

    /// Steps of the schedule of which a start from a picture does a part.
    ///
    /// Source: ComfyUI's `KSampler.set_steps`.
    pub(crate) fn steps_of_schedule(self, steps: usize, strength: Option<f64>) -> usize {
        match strength {
            Some(strength) if self == Self::ComfyUi && strength <= 0.9999 => {
                (steps as f64 / strength) as usize
            }
            _ => steps,
        }
    }

    /// Steps of a schedule of `steps` that a start of `strength` leaves out; `None` where diffusers' rule holds. A ComfyUI
    /// schedule was made longer by [`steps_of_schedule`](Self::steps_of_schedule).
    ///
    /// Source: A1111's `setup_img2img_steps`, ComfyUI's `KSampler.set_steps`.
    pub(crate) fn skipped(self, steps: usize, asked: usize, strength: f64) -> Option<usize> {
        match self {
            Self::Diffusers => None,
            Self::A1111 => {
                let before_last = (strength.min(0.999) * steps as f64) as usize;
                Some(steps.saturating_sub(before_last + 1))
            }
            Self::ComfyUi => Some(steps.saturating_sub(asked)),
        }
    }

    /// The row that a name stands for, and the schedule that is part of the name.
    fn row(
        self,
        named: &'static Sampler,
    ) -> Result<(&'static Sampler, Option<&'static Schedule>), SamplingError> {
        let (base, karras) = match named.name.strip_suffix("_karras") {
            Some(base) => (base, Some(find_schedule("karras")?)),
            None => (named.name, None),
        };
        let row = match (self, base) {
            (Self::ComfyUi, "ddim") => "euler",
            (_, "dpmpp_2m_sde") => "dpmpp_2m_sde_bt",
            (_, base) => base,
        };
        Ok((find(row)?, karras))
    }

    /// The schedule where none is asked for.
    ///
    /// Source: A1111's `samplers_k_diffusion`; its UniPC lays out timesteps evenly, as diffusers' `linspace` does.
    fn automatic(self, row: &Sampler) -> Option<&'static str> {
        if self == Self::ComfyUi {
            return Some("normal");
        }
        match row.name {
            "dpmpp_2m" | "dpmpp_sde" | "dpmpp_2s_a" | "dpm2" | "dpm2_a" | "restart" => {
                Some("karras")
            }
            "dpmpp_2m_sde_bt" | "dpmpp_2m_sde_heun" | "dpmpp_3m_sde" => Some("exponential"),
            "unipc" => None,
            _ => Some("normal"),
        }
    }
}

/// [`choose`] by the rules of a program.
///
/// # Errors
/// As [`choose`].
pub fn choose_as(
    compat: Compat,
    folder: &SchedulerConfig,
    sampler: Option<&str>,
    schedule: Option<&str>,
) -> Result<Choice, SamplingError> {
    if compat == Compat::Diffusers {
        return choose(folder, sampler, schedule);
    }
    let (named, joined) = match sampler {
        Some(name) => find_joined(name)?,
        None => (sampler_of(folder), None),
    };
    let (row, karras) = compat.row(named)?;
    let mut config = row.configure(folder)?;
    if row.class == Class::UniPc {
        let second = sampler.is_some_and(|name| name.to_lowercase().ends_with("bh2"));
        let kind = if second { "bh2" } else { "bh1" };
        config = config.with("solver_order", Count(3))?;
        config = config.with("solver_type", Text(kind))?;
    }
    let asked = schedule.map(find_schedule).transpose()?;
    let asked = asked.or(joined).filter(|row| row.name != "automatic");
    match asked.or(karras) {
        Some(schedule) if compat == Compat::ComfyUi && schedule.name == "beta" => {
            find_schedule("beta_timesteps")?.on_levels(config)
        }
        Some(schedule) => schedule.on_levels(config),
        None => {
            let automatic = compat.automatic(row).map(find_schedule).transpose()?;
            match automatic.filter(|schedule| schedule.walks(&config)) {
                Some(schedule) => schedule.on_levels(config),
                None => Ok(Choice {
                    config,
                    schedule: None,
                    named: None,
                }),
            }
        }
    }
}
