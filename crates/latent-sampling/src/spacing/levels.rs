//! Noise levels that k-diffusion and the tools built on it read off a model's table.

use super::table::Table;
use super::{beta, linspace};
use crate::SigmaSpacing;

/// What levels are made of.
pub(crate) struct Request<'a> {
    /// The levels of the training timesteps.
    pub(super) table: &'a Table,
    /// Steps asked for.
    pub(super) steps: usize,
    /// The exponent of schedules that have one.
    pub(super) rho: Option<f64>,
}

impl Request<'_> {
    fn spaced(&self, spacing: SigmaSpacing) -> Vec<f64> {
        super::spaced(spacing, self.table.least(), self.table.most(), self.steps)
    }

    /// The last training timestep.
    fn last(&self) -> f64 {
        (self.table.ratios.len() - 1) as f64
    }

    fn at(&self, index: usize) -> f64 {
        f64::from(self.table.ratios[index])
    }
}

/// In f32 as k-diffusion has it: Brownian paths are read at the levels, and are so rough that a last place is seen.
pub(crate) fn karras(request: &Request<'_>) -> Vec<f64> {
    let root = |sigma: f64| sigma.powf(1.0 / 7.0);
    let (high, low) = (root(request.table.most()), root(request.table.least()));
    let ramp = linspace(0.0, 1.0, request.steps);
    let roots = ramp
        .into_iter()
        .map(|part| high as f32 + part as f32 * (low - high) as f32);
    roots.map(|root| f64::from(root).powi(7)).collect()
}

pub(crate) fn exponential(request: &Request<'_>) -> Vec<f64> {
    request.spaced(SigmaSpacing::Exponential)
}

pub(crate) fn beta(request: &Request<'_>) -> Vec<f64> {
    request.spaced(SigmaSpacing::Beta)
}

/// The logarithm falls as a power `rho` of an even line.
pub(crate) fn polyexponential(request: &Request<'_>) -> Vec<f64> {
    let (least, most) = (request.table.least().ln(), request.table.most().ln());
    linspace(1.0, 0.0, request.steps)
        .into_iter()
        .map(|part| (part.powf(request.rho.unwrap_or(1.0)) * (most - least) + least).exp())
        .collect()
}

pub(crate) fn normal(request: &Request<'_>) -> Vec<f64> {
    linspace(request.last(), 0.0, request.steps)
        .into_iter()
        .map(|t| request.table.at_in_log(t))
        .collect()
}

pub(crate) fn sgm_uniform(request: &Request<'_>) -> Vec<f64> {
    let mut times = linspace(request.last(), 0.0, request.steps + 1);
    times.pop();
    times
        .into_iter()
        .map(|t| request.table.at_in_log(t))
        .collect()
}

pub(crate) fn simple(request: &Request<'_>) -> Vec<f64> {
    let total = request.table.ratios.len();
    let stride = total as f64 / request.steps as f64;
    (0..request.steps)
        .map(|i| request.at(total - 1 - (i as f64 * stride) as usize))
        .collect()
}

pub(crate) fn ddim_uniform(request: &Request<'_>) -> Vec<f64> {
    let total = request.table.ratios.len();
    let stride = (total / request.steps).max(1);
    let mut levels: Vec<f64> = (1..total).step_by(stride).map(|t| request.at(t)).collect();
    levels.reverse();
    levels
}

/// Rounded timesteps; one that comes twice is taken once.
pub(crate) fn beta_timesteps(request: &Request<'_>) -> Vec<f64> {
    let parts = (0..request.steps).map(|i| 1.0 - i as f64 / request.steps as f64);
    let mut times: Vec<usize> = parts
        .map(|part| (beta::quantile(part, 0.6) * request.last()).round_ties_even() as usize)
        .collect();
    times.dedup();
    times.into_iter().map(|t| request.at(t)).collect()
}

pub(crate) fn kl_optimal(request: &Request<'_>) -> Vec<f64> {
    linspace(
        request.table.most().atan(),
        request.table.least().atan(),
        request.steps,
    )
    .into_iter()
    .map(f64::tan)
    .collect()
}

/// The ends of ten steps of Stable Diffusion 1. The eleventh is where no noise takes its place.
const SD1: [f64; 11] = [
    14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029,
];
/// The ends of ten steps of SDXL.
const SDXL: [f64; 11] = [
    14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029,
];

pub(crate) fn align_your_steps(request: &Request<'_>) -> Vec<f64> {
    resampled(&SD1, request.steps)
}

pub(crate) fn align_your_steps_sdxl(request: &Request<'_>) -> Vec<f64> {
    resampled(&SDXL, request.steps)
}

/// The ends of `steps` steps, linear in the logarithm between those of the table, without the last one.
fn resampled(table: &[f64; 11], steps: usize) -> Vec<f64> {
    (0..steps)
        .map(|i| {
            let place = i as f64 / steps as f64 * 10.0;
            let low = place as usize;
            let (above, below) = (table[low].ln(), table[low + 1].ln());
            (above + (below - above) * place.fract()).exp()
        })
        .collect()
}
