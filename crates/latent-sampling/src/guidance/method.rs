//! How what a network finds for the wanted and the unwanted words is put together, beside plain guidance.

use ndarray::{ArrayView3, Axis, Zip};
use serde::{Deserialize, Serialize};

use crate::{Latents, SamplingError};

/// How the wanted and the unwanted output become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Method {
    /// Classifier-free guidance: [`guide`](super::guide). Source: Ho & Salimans 2022 (arXiv:2207.12598).
    #[default]
    #[serde(rename = "cfg")]
    Cfg,
    /// CFG++: the clean latents are guided by a strength of 0 to 1, and noise is put back as the unwanted words have it.
    /// Source: Chung et al. 2024 (arXiv:2406.08070), Algorithm 2.
    #[serde(rename = "cfg++")]
    CfgPlusPlus,
    /// Adaptive projected guidance: [`Apg`]. Source: Sadat et al. 2024 (arXiv:2410.02416).
    #[serde(rename = "apg")]
    Apg,
}

impl Method {
    /// All of them with their names.
    pub const ALL: &'static [(&'static str, Self)] = &[
        ("cfg", Self::Cfg),
        ("cfg++", Self::CfgPlusPlus),
        ("apg", Self::Apg),
    ];

    /// What requests and files call it.
    pub fn name(self) -> &'static str {
        let mut all = Self::ALL.iter();
        all.find(|(_, method)| *method == self)
            .map_or("", |(name, _)| name)
    }

    /// The method of a name.
    ///
    /// # Errors
    /// [`SamplingError::Option`] if there is none.
    pub fn from_name(name: &str) -> Result<Self, SamplingError> {
        let mut all = Self::ALL.iter();
        let found = all.find(|(known, _)| known.eq_ignore_ascii_case(name.trim()));
        found
            .map(|(_, method)| *method)
            .ok_or_else(|| SamplingError::Option {
                option: "guidance_method",
                found: name.to_owned(),
                needed: "`cfg`, `cfg++` or `apg`",
            })
    }
}

/// Which values adaptive projected guidance is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ApgSpace {
    /// The clean latents that outputs mean, as published.
    #[default]
    Denoised,
    /// The outputs themselves, as diffusers has it.
    Output,
}

impl ApgSpace {
    /// All of them with their names.
    pub const ALL: &'static [(&'static str, Self)] =
        &[("denoised", Self::Denoised), ("output", Self::Output)];

    /// What requests and files call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Denoised => "denoised",
            Self::Output => "output",
        }
    }

    /// The space of a name.
    ///
    /// # Errors
    /// [`SamplingError::Option`] if there is none.
    pub fn from_name(name: &str) -> Result<Self, SamplingError> {
        let mut all = Self::ALL.iter();
        let found = all.find(|(known, _)| known.eq_ignore_ascii_case(name.trim()));
        found
            .map(|(_, space)| *space)
            .ok_or_else(|| SamplingError::Option {
                option: "apg.space",
                found: name.to_owned(),
                needed: "`denoised` or `output`",
            })
    }
}

/// Adaptive projected guidance: of the way from the unwanted to the wanted output, the part along the wanted one, which makes
/// colours glare, is left out or weakened; the rest is held to a length, and earlier steps are subtracted or added.
///
/// Source: Sadat et al. 2024 (arXiv:2410.02416), Algorithm 1; the defaults are those that it has for Stable Diffusion XL.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Apg {
    /// Share of the part along the wanted output that is kept; 1 keeps it whole.
    pub eta: f64,
    /// The greatest length of the way, over all values of a picture; 0 for any.
    pub norm_threshold: f64,
    /// What the way of the steps before counts for; below 0 it is subtracted.
    pub momentum: f64,
    /// Which values it is about.
    pub space: ApgSpace,
}

impl Default for Apg {
    fn default() -> Self {
        Self {
            eta: 0.0,
            norm_threshold: 15.0,
            momentum: -0.5,
            space: ApgSpace::default(),
        }
    }
}

impl Apg {
    /// `cond` moved away from `uncond` with a strength of 1 (not at all) and more; `average` is what earlier steps of the run
    /// left, nothing at its beginning. Arrays `[n, c, h, w]`, each picture for itself.
    ///
    /// # Panics
    /// If the shapes differ.
    pub fn guide(
        &self,
        average: &mut Option<Latents>,
        [cond, uncond]: [&Latents; 2],
        strength: f64,
    ) -> Latents {
        assert_eq!(cond.shape(), uncond.shape(), "apg: shapes differ");
        let mut way = cond - uncond;
        if let Some(average) = average.take() {
            let momentum = self.momentum as f32;
            way.zip_mut_with(&average, |way, average| *way += momentum * average);
        }
        let mut guided = cond.clone();
        let pictures = guided.axis_iter_mut(Axis(0)).zip(way.axis_iter(Axis(0)));
        for ((mut picture, way), cond) in pictures.zip(cond.axis_iter(Axis(0))) {
            let length = dot(way, way).sqrt();
            let held = match self.norm_threshold {
                most if most > 0.0 && length > most => most / length,
                _ => 1.0,
            };
            let square = dot(cond, cond);
            let along = if square > 0.0 {
                held * dot(way, cond) / square
            } else {
                0.0
            };
            let (strength, less) = (strength - 1.0, (1.0 - self.eta) * along);
            Zip::from(&mut picture).and(way).for_each(|value, way| {
                let cond = f64::from(*value);
                *value = (cond + strength * (held * f64::from(*way) - less * cond)) as f32;
            });
        }
        *average = Some(way);
        guided
    }
}

fn dot(first: ArrayView3<'_, f32>, second: ArrayView3<'_, f32>) -> f64 {
    let pairs = first.iter().zip(second.iter());
    pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// Perturbed-attention guidance: away from what the network finds where the self-attention of some layers looks at nothing but
/// each position itself. It needs no unwanted words, and goes with them too.
///
/// Source: Ahn et al. 2024 (arXiv:2403.17377), Eq. 14; diffusers' `PAGMixin`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pag {
    /// Strength; 0 is none, 3 the paper's.
    pub scale: f64,
    /// By how much the strength falls with each of 1000 timesteps below the first, down to 0.
    #[serde(skip_serializing_if = "is_zero")]
    pub adaptive_scale: f64,
    /// Beginnings of names of the layers: `mid`, `down.2`, `up.1.attentions.0`.
    pub layers: Vec<String>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde's `skip_serializing_if` passes a reference"
)]
fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

impl Default for Pag {
    fn default() -> Self {
        Self {
            scale: 3.0,
            adaptive_scale: 0.0,
            layers: vec!["mid".to_owned()],
        }
    }
}

impl Pag {
    /// The strength at a timestep, at least 0.
    pub fn strength_at(&self, timestep: f64) -> f64 {
        (self.scale - self.adaptive_scale * (1000.0 - timestep)).max(0.0)
    }
}

/// The part of a run in which it is guided; elsewhere only what is wanted is asked for, which takes half of the time.
///
/// Source: Kynkäänniemi et al. 2024 (arXiv:2404.07724).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interval {
    /// Where it begins.
    pub from: f64,
    /// Where it ends.
    pub to: f64,
    /// What both are measured in.
    #[serde(default)]
    pub by: Measure,
}

/// What the ends of an [`Interval`] are measured in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Measure {
    /// Shares of the run's calls, 0 to 1, as diffusers' guiders count.
    #[default]
    Share,
    /// Noise levels σ, noise to data, from the higher down to the lower one, as the paper has it.
    Sigma,
}

impl Interval {
    /// Reads `0.2:0.8`, shares of the run, or `sigma:5.4:0.28`, noise levels.
    ///
    /// # Errors
    /// [`SamplingError::Option`] if it is neither, or has no room between its ends.
    pub fn from_text(text: &str) -> Result<Self, SamplingError> {
        let refused = || SamplingError::Option {
            option: "guidance_interval",
            found: text.to_owned(),
            needed: "two shares of the run as 0.2:0.8, or two noise levels as sigma:5.4:0.28",
        };
        let (by, ends) = match text.trim().strip_prefix("sigma:") {
            Some(ends) => (Measure::Sigma, ends),
            None => (Measure::Share, text),
        };
        let (from, to) = ends.split_once(':').ok_or_else(refused)?;
        let number = |text: &str| text.trim().parse::<f64>().map_err(|_| refused());
        let interval = Self {
            from: number(from)?,
            to: number(to)?,
            by,
        };
        interval.check()?;
        Ok(interval)
    }

    /// Refuses ends that leave no room between them.
    ///
    /// # Errors
    /// [`SamplingError::Option`] with what is needed.
    pub fn check(&self) -> Result<(), SamplingError> {
        let (from, to) = (self.from, self.to);
        let (fits, needed) = match self.by {
            Measure::Share => (
                from >= 0.0 && from < to && to <= 1.0,
                "two shares of the run from 0 to 1, the first below the second",
            ),
            Measure::Sigma => (
                from > to && to >= 0.0 && from.is_finite(),
                "two noise levels from 0 on, the first above the second",
            ),
        };
        match fits {
            true => Ok(()),
            false => Err(SamplingError::Option {
                option: "guidance_interval",
                found: self.to_string(),
                needed,
            }),
        }
    }

    /// Whether call `call` of `calls`, at noise level `sigma`, lies within.
    pub fn holds(&self, [call, calls]: [usize; 2], sigma: f64) -> bool {
        let place = |share: f64| (share * calls as f64) as usize;
        match self.by {
            Measure::Share => (place(self.from)..place(self.to)).contains(&call),
            Measure::Sigma => self.to < sigma && sigma <= self.from,
        }
    }
}

impl std::fmt::Display for Interval {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { from, to, by } = self;
        match by {
            Measure::Share => write!(f, "{from}:{to}"),
            Measure::Sigma => write!(f, "sigma:{from}:{to}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CounterNoise, guidance::guide};

    fn noise(stream: u32) -> Latents {
        CounterNoise::new(1, 1, stream).normals([2, 3, 4, 5])
    }

    #[test]
    fn apg_that_leaves_nothing_out_is_plain_guidance() {
        let plain = Apg {
            eta: 1.0,
            norm_threshold: 0.0,
            momentum: 0.0,
            space: ApgSpace::Output,
        };
        let mut average = None;
        let found = plain.guide(&mut average, [&noise(0), &noise(1)], 5.0);
        let expected = guide(&noise(0), &noise(1), 5.0);
        let worst = (found - expected).mapv(f32::abs).into_iter();
        assert!(worst.fold(0.0, f32::max) < 1e-5);
    }

    #[test]
    fn apg_moves_across_the_wanted_output_and_no_further_than_its_threshold() {
        let apg = Apg {
            norm_threshold: 0.5,
            ..Apg::default()
        };
        let cond = noise(0);
        let found = apg.guide(&mut None, [&cond, &noise(1)], 3.0);
        for (found, cond) in found.axis_iter(Axis(0)).zip(cond.axis_iter(Axis(0))) {
            let way = &found - &cond;
            assert!(dot(way.view(), cond).abs() < 1e-3);
            // Twice of what is left of a way of length 0.5.
            assert!(dot(way.view(), way.view()).sqrt() <= 1.0 + 1e-5);
        }
    }

    #[test]
    fn momentum_counts_the_steps_before() {
        let apg = Apg {
            eta: 1.0,
            norm_threshold: 0.0,
            momentum: -0.5,
            space: ApgSpace::Output,
        };
        let even = |value| Latents::from_elem([1, 1, 1, 1], value);
        let mut average = None;
        let first = apg.guide(&mut average, [&even(3.0), &even(1.0)], 2.0);
        let second = apg.guide(&mut average, [&even(3.0), &even(1.0)], 2.0);
        let third = apg.guide(&mut average, [&even(3.0), &even(1.0)], 2.0);
        let values = [first, second, third].map(|one| one[[0, 0, 0, 0]]);
        assert_eq!(values, [5.0, 4.0, 4.5]);
    }

    #[test]
    fn a_perturbation_weakens_with_time_and_never_turns_around() {
        let pag = Pag {
            adaptive_scale: 0.01,
            ..Pag::default()
        };
        assert_eq!(
            [999.0, 700.0, 0.0].map(|t| pag.strength_at(t)),
            [2.99, 0.0, 0.0]
        );
    }

    #[test]
    fn an_interval_counts_calls_as_diffusers_does_or_levels_as_its_paper() {
        let shares = Interval::from_text("0.25:0.75").unwrap();
        let held: Vec<usize> = (0..10)
            .filter(|call| shares.holds([*call, 10], 1.0))
            .collect();
        assert_eq!(held, [2, 3, 4, 5, 6]);
        let levels = Interval::from_text("sigma:5.42:0.28").unwrap();
        assert!(levels.holds([0, 1], 5.42) && !levels.holds([0, 1], 0.28));
        assert!(!levels.holds([0, 1], 6.0));
        for text in ["0.25:0.75", "sigma:5.42:0.28"] {
            assert_eq!(Interval::from_text(text).unwrap().to_string(), text);
        }
        for wrong in [
            "0.5",
            "0.8:0.2",
            "0.5:0.5",
            "-1:1",
            "0:1.5",
            "sigma:1:2",
            "a:b",
            "NaN:1",
        ] {
            let error = Interval::from_text(wrong).unwrap_err().to_string();
            assert!(error.contains("guidance_interval"), "{error}");
        }
    }

    #[test]
    fn methods_are_found_by_the_names_they_are_written_with() {
        for (name, method) in Method::ALL {
            assert_eq!(Method::from_name(name).unwrap(), *method);
            assert_eq!(method.name(), *name);
            assert_eq!(serde_json::to_value(method).unwrap(), *name);
        }
        assert!(Method::from_name("cfg--").is_err());
    }
}
