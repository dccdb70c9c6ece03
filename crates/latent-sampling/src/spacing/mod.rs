//! Which timesteps and noise levels a run visits, one function per family of samplers.
//!
//! Levels are rounded to f32 where diffusers rounds them, so that timesteps read off the table are its own.

mod beta;
mod discrete;
mod flow;
pub(crate) mod levels;
mod table;

pub(crate) use discrete::{alpha_plan, consistency_plan, dpm_plan, pndm_plan};
pub(crate) use flow::{edm_plan, flow_heun_plan, flow_plan, trigonometric_plan};
pub(crate) use table::{down, middle_plan, restart_plan, sigma_plan, timestep_of, up};

use crate::config::Settings;
use crate::{Class, RunOptions, SigmaSpacing, TimestepSpacing};

/// Everything a plan is made of.
pub(crate) struct Request<'a> {
    pub(crate) class: Class,
    pub(crate) settings: &'a Settings,
    pub(crate) options: &'a RunOptions,
    /// Strength of an image-to-image start.
    pub(crate) strength: Option<f64>,
    /// Share of fresh noise in each step.
    pub(crate) eta: f64,
}

/// `n` even values with both ends, as `numpy.linspace`; one value is the start.
pub(crate) fn linspace(start: f64, end: f64, n: usize) -> Vec<f64> {
    let step = (end - start) / (n.max(2) - 1) as f64;
    (0..n)
        .map(|i| {
            if i > 0 && i == n - 1 {
                end
            } else {
                start + step * i as f64
            }
        })
        .collect()
}

/// The multiples of `last / parts` from `last` down, before they are moved by one: trailing spacing.
fn trailing(last: usize, total: usize, n: usize) -> Vec<f64> {
    let ratio = total as f64 / n as f64;
    let values = (0..n)
        .map(|i| last as f64 - ratio * i as f64)
        .filter(|value| *value > 0.0);
    values.map(|value| value.round_ties_even() - 1.0).collect()
}

/// Timesteps of `n` steps, descending; `round` makes `linspace` whole.
fn timesteps(settings: &Settings, n: usize, round: bool) -> Vec<f64> {
    let total = settings.num_train_timesteps;
    let most = (total - 1) as f64;
    match settings.timestep_spacing {
        TimestepSpacing::Linspace => {
            let even = linspace(0.0, most, n).into_iter().rev();
            if round {
                even.map(f64::round_ties_even).collect()
            } else {
                even.map(single).collect()
            }
        }
        TimestepSpacing::Leading => {
            let (ratio, offset) = (total / n, settings.steps_offset);
            // An offset can point past the table where the ratio is 1; the last timestep stands in.
            (0..n)
                .rev()
                .map(|i| ((i * ratio + offset) as f64).min(most))
                .collect()
        }
        TimestepSpacing::Trailing => trailing(total, total, n),
    }
}

/// Rounded to f32, as torch and numpy keep it.
pub(crate) fn single(value: f64) -> f64 {
    f64::from(value as f32)
}

/// `n` noise levels from `most` down to `least` in the given spacing.
fn spaced(spacing: SigmaSpacing, least: f64, most: f64, n: usize) -> Vec<f64> {
    match spacing {
        SigmaSpacing::Karras => karras(least, most, 7.0, n),
        SigmaSpacing::Exponential | SigmaSpacing::Lu => linspace(most.ln(), least.ln(), n)
            .into_iter()
            .map(f64::exp)
            .collect(),
        SigmaSpacing::Beta => linspace(0.0, 1.0, n)
            .into_iter()
            .map(|part| least + beta::quantile(1.0 - part, 0.6) * (most - least))
            .collect(),
        SigmaSpacing::Timesteps | SigmaSpacing::Flow => linspace(most, least, n),
    }
}

/// Levels evenly spaced in their `rho`-th root. Source: Karras et al. 2022 (arXiv:2206.00364), Eq. 5.
fn karras(least: f64, most: f64, rho: f64, n: usize) -> Vec<f64> {
    let (high, low) = (most.powf(1.0 / rho), least.powf(1.0 / rho));
    linspace(0.0, 1.0, n)
        .into_iter()
        .map(|part| (high + part * (low - high)).powf(rho))
        .collect()
}
