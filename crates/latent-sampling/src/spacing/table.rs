//! Levels read off the training table: samplers that work with whole data and growing noise (Euler and its kin).

use super::{Request, karras, levels, linspace, single, spaced, timesteps};
use crate::config::{FinalSigmas, Settings};
use crate::level::Level;
use crate::{
    Class, InterpolationType, NoiseSchedule, Plan, Prediction, SamplingError, SigmaSpacing,
    TimestepSpacing, TimestepType,
};

/// The noise levels of all training timesteps, ascending.
pub(super) struct Table {
    pub(super) ratios: Vec<f32>,
    logs: Vec<f32>,
}

impl Table {
    pub(super) fn new(schedule: &NoiseSchedule) -> Self {
        let ratios = schedule.ratios();
        let logs = ratios
            .iter()
            .map(|ratio| f64::from(*ratio).ln() as f32)
            .collect();
        Self { ratios, logs }
    }

    pub(super) fn least(&self) -> f64 {
        f64::from(self.ratios[0])
    }

    pub(super) fn most(&self) -> f64 {
        f64::from(self.ratios[self.ratios.len() - 1])
    }

    /// The level at a fractional timestep, linear between neighbours.
    pub(super) fn at(&self, timestep: f64) -> f64 {
        let low = (timestep.max(0.0) as usize).min(self.ratios.len() - 1);
        let high = (low + 1).min(self.ratios.len() - 1);
        let (below, above) = (f64::from(self.ratios[low]), f64::from(self.ratios[high]));
        (above - below) * (timestep - low as f64) + below
    }

    /// The level at a fractional timestep, linear in the logarithm between neighbours.
    pub(super) fn at_in_log(&self, timestep: f64) -> f64 {
        let low = (timestep.max(0.0) as usize).min(self.logs.len() - 1);
        let high = (low + 1).min(self.logs.len() - 1);
        let (below, above) = (f64::from(self.logs[low]), f64::from(self.logs[high]));
        ((above - below) * (timestep - low as f64) + below).exp()
    }

    /// The fractional timestep of a level, linear in the logarithm between neighbours.
    pub(super) fn timestep_of(&self, sigma: f64) -> f64 {
        self.timestep_of_log(sigma.max(1e-10).ln())
    }

    fn timestep_of_log(&self, log: f64) -> f64 {
        let not_above = self.logs.partition_point(|entry| f64::from(*entry) <= log);
        let low = not_above.saturating_sub(1).min(self.logs.len() - 2);
        let (below, above) = (f64::from(self.logs[low]), f64::from(self.logs[low + 1]));
        let part = ((below - log) / (below - above)).clamp(0.0, 1.0);
        (1.0 - part) * low as f64 + part * (low + 1) as f64
    }
}

/// The fractional timestep of a level that is not in the plan.
pub(crate) fn timestep_of(class: Class, settings: &Settings, sigma: f64) -> f64 {
    Table::new(&NoiseSchedule::of_class(class, settings)).timestep_of(sigma)
}

/// Levels and timesteps of `euler`, `euler_a`, `lms` and `heun`.
pub(crate) fn sigma_plan(request: &Request<'_>) -> Result<Plan, SamplingError> {
    let (settings, steps) = (request.settings, request.options.steps);
    let table = Table::new(&NoiseSchedule::of_class(request.class, settings));
    if let Some((sigmas, times)) = scheduled(request, &table) {
        return Ok(scheduled_plan(request, &table, (sigmas, times)));
    }
    let mut times = timesteps(settings, steps, false);
    let mut sigmas = match settings.interpolation_type {
        InterpolationType::Linear => times.iter().map(|t| table.at(*t)).collect(),
        InterpolationType::LogLinear => log_linear(&table, steps),
    };
    if settings.sigma_spacing() != SigmaSpacing::Timesteps {
        (sigmas, times) = respaced(settings, &table, &sigmas, steps);
    }
    let last = match settings.final_sigmas_type {
        FinalSigmas::Zero => 0.0,
        FinalSigmas::SigmaMin => table.least(),
    };
    if settings.interpolation_type == InterpolationType::Linear
        || settings.sigma_spacing() != SigmaSpacing::Timesteps
    {
        sigmas.push(last);
    }
    let sigmas: Vec<f64> = sigmas.into_iter().map(single).collect();
    if settings.timestep_type == TimestepType::Continuous
        && settings.prediction_type == Prediction::V
    {
        times = sigmas[..times.len()]
            .iter()
            .map(|sigma| single(0.25 * sigma.ln()))
            .collect();
    }
    let init_noise_sigma = init_noise(settings, &sigmas);
    let plan = Plan {
        timesteps: times,
        init_noise_sigma,
        first: 0,
        steps,
        levels: exploding(&sigmas),
        sigmas,
        middles: Vec::new(),
    };
    Ok(finished(request, plan))
}

/// Second-order samplers call the network at both ends of a step.
fn finished(request: &Request<'_>, plan: Plan) -> Plan {
    if request.class == Class::Heun {
        twice(plan)
    } else {
        plan
    }
}

/// Levels and timesteps of the schedule that the options ask for, in k-diffusion's way: fractional timesteps.
pub(super) fn scheduled(request: &Request<'_>, table: &Table) -> Option<(Vec<f64>, Vec<f64>)> {
    let options = request.options;
    let levels = options.schedule?.levels?;
    let drops = options.compat.drops_penultimate(request.class);
    let mut sigmas = levels(&levels::Request {
        table,
        steps: options.steps + usize::from(drops),
        rho: options.rho,
    });
    if drops {
        sigmas.pop();
    }
    let times = sigmas
        .iter()
        .map(|sigma| options.compat.timestep(table.timestep_of(*sigma)))
        .collect();
    Some((sigmas, times))
}

/// A walk on given levels that ends at no noise and starts from noise alone.
fn scheduled_plan(
    request: &Request<'_>,
    table: &Table,
    (mut sigmas, times): (Vec<f64>, Vec<f64>),
) -> Plan {
    sigmas.push(0.0);
    let sigmas: Vec<f64> = sigmas.into_iter().map(single).collect();
    let plan = Plan {
        steps: times.len(),
        timesteps: times,
        init_noise_sigma: first_noise(request, table, sigmas[0]),
        first: 0,
        levels: exploding(&sigmas),
        sigmas,
        middles: Vec::new(),
    };
    finished(request, plan)
}

/// What unit noise is multiplied with at the start of a schedule that begins at a level.
pub(super) fn first_noise(request: &Request<'_>, table: &Table, sigma: f64) -> f64 {
    request.options.compat.first_noise(sigma, table.most())
}

/// Evenly in the logarithm over `steps + 1` levels, whose last takes the place of the usual zero.
fn log_linear(table: &Table, steps: usize) -> Vec<f64> {
    linspace(table.most().ln(), table.least().ln(), steps + 1)
        .into_iter()
        .map(f64::exp)
        .collect()
}

/// Levels in another spacing between the ends of the given ones, and the timesteps that belong to them.
fn respaced(
    settings: &Settings,
    table: &Table,
    sigmas: &[f64],
    steps: usize,
) -> (Vec<f64>, Vec<f64>) {
    let least = settings.sigma_min.unwrap_or(sigmas[steps - 1]);
    let most = settings.sigma_max.unwrap_or(sigmas[0]);
    let sigmas = spaced(settings.sigma_spacing(), least, most, steps);
    let times = sigmas
        .iter()
        .map(|sigma| single(table.timestep_of(*sigma)))
        .collect();
    (sigmas, times)
}

/// What unit noise is scaled by at the highest level: whole data is taken into account for leading spacing only.
fn init_noise(settings: &Settings, sigmas: &[f64]) -> f64 {
    let most = sigmas.iter().copied().fold(0.0, f64::max);
    match settings.timestep_spacing {
        TimestepSpacing::Leading => (most * most + 1.0).sqrt(),
        TimestepSpacing::Linspace | TimestepSpacing::Trailing => most,
    }
}

fn exploding(sigmas: &[f64]) -> Vec<Level> {
    sigmas
        .iter()
        .map(|sigma| Level::exploding(*sigma))
        .collect()
}

/// Steps that are kept back for going up again and down once more, and how often, by the number of steps.
///
/// Source: the settings of AUTOMATIC1111 stable-diffusion-webui's `restart_sampler`.
fn restarts(steps: usize) -> (usize, usize) {
    match steps {
        0..20 => (0, 0),
        20..36 => (9, 1),
        _ => (steps / 4, 2),
    }
}

/// Levels of `restart`: down to little noise, up to more and down again, then to none.
///
/// Source: Xu et al. 2023 (arXiv:2306.14878), Algorithm 1, between the levels 0.1 and 2 as image tools have it.
pub(crate) fn restart_plan(request: &Request<'_>) -> Result<Plan, SamplingError> {
    let (again, times) = restarts(request.options.steps);
    let options = crate::RunOptions {
        steps: request.options.steps - again * times,
        ..request.options.clone()
    };
    let once = sigma_plan(&Request {
        options: &options,
        ..*request
    })?;
    let nearest = |level: f64| {
        let apart = |i: &usize| (once.sigmas[*i] - level).abs();
        (0..once.sigmas.len()).min_by(|a, b| apart(a).total_cmp(&apart(b)))
    };
    let (low, high) = (nearest(0.1).unwrap_or(0), nearest(2.0).unwrap_or(0));
    let mut steps: Vec<[f64; 2]> = once.sigmas.windows(2).map(|w| [w[0], w[1]]).collect();
    if high < low && low < steps.len() {
        let loop_levels = karras(once.sigmas[low], once.sigmas[high], 7.0, again + 1);
        let round: Vec<[f64; 2]> = loop_levels
            .windows(2)
            .map(|w| [single(w[0]), single(w[1])])
            .collect();
        let rounds = (0..times).flat_map(|_| round.iter().copied());
        let after = steps.split_off(low);
        steps.extend(rounds);
        steps.extend(after);
    }
    let table = Table::new(&NoiseSchedule::of_class(request.class, request.settings));
    let ends = steps.iter().flatten().copied();
    let sigmas: Vec<f64> = ends.collect();
    let calls = &sigmas[..sigmas.len() - 1];
    Ok(Plan {
        timesteps: calls
            .iter()
            .map(|s| options.compat.timestep(table.timestep_of(*s)))
            .collect(),
        init_noise_sigma: once.init_noise_sigma,
        first: 0,
        steps: steps.len(),
        levels: exploding(&sigmas),
        sigmas,
        middles: Vec::new(),
    })
}

/// Every level but the ends twice: at the end of a step and at its correction.
pub(super) fn twice(mut plan: Plan) -> Plan {
    plan.timesteps = doubled(&plan.timesteps, plan.timesteps.len());
    plan.levels = doubled(&plan.levels, plan.levels.len() - 1);
    plan.sigmas = doubled(&plan.sigmas, plan.sigmas.len() - 1);
    plan
}

/// All entries once, and those from the second to `end` once more.
fn doubled<T: Copy>(values: &[T], end: usize) -> Vec<T> {
    let twice =
        |(i, value): (usize, &T)| std::iter::repeat_n(*value, if i > 0 && i < end { 2 } else { 1 });
    values.iter().enumerate().flat_map(twice).collect()
}

/// Levels and timesteps that the settings ask for.
fn middle_levels(request: &Request<'_>, table: &Table) -> (Vec<f64>, Vec<f64>) {
    let (settings, steps) = (request.settings, request.options.steps);
    let times = timesteps(settings, steps, false);
    let sigmas: Vec<f64> = times.iter().map(|t| table.at(*t)).collect();
    if settings.sigma_spacing() == SigmaSpacing::Timesteps {
        return (sigmas, times);
    }
    let (sigmas, mut times) = respaced(settings, table, &sigmas, steps);
    let rounds = matches!(request.class, Class::Kdpm2 | Class::Kdpm2Ancestral);
    if rounds && settings.sigma_spacing() == SigmaSpacing::Karras {
        times.iter_mut().for_each(|t| *t = t.round_ties_even());
    }
    (sigmas, times)
}

/// Levels and timesteps of `dpm2`, `dpmpp_sde` and their ancestral kin: between two levels lies their geometric mean.
pub(crate) fn middle_plan(request: &Request<'_>) -> Result<Plan, SamplingError> {
    let settings = request.settings;
    let table = Table::new(&NoiseSchedule::of_class(request.class, settings));
    let given = scheduled(request, &table);
    let from_noise_alone = given.is_some();
    let (mut sigmas, times) = given.unwrap_or_else(|| middle_levels(request, &table));
    let steps = sigmas.len();
    sigmas.push(0.0);
    let sigmas: Vec<f64> = sigmas.into_iter().map(single).collect();
    let middles: Vec<f64> = sigmas
        .windows(2)
        .map(|pair| {
            let to = match request.class {
                Class::Kdpm2Ancestral | Class::Dpmpp2sAncestral => {
                    down(pair[0], pair[1], request.eta)
                }
                _ => pair[1],
            };
            middle(pair[0], to)
        })
        .collect();
    let mut calls = vec![times[0]];
    for (middle, time) in middles.iter().zip(&times[1..]) {
        let between = single(table.timestep_of(*middle));
        calls.extend([request.options.compat.timestep(between), *time]);
    }
    let init_noise_sigma = if from_noise_alone {
        first_noise(request, &table, sigmas[0])
    } else {
        init_noise(settings, &sigmas)
    };
    let levels = doubled(&exploding(&sigmas), sigmas.len() - 1);
    Ok(Plan {
        timesteps: calls,
        init_noise_sigma,
        first: 0,
        steps,
        levels,
        sigmas,
        middles,
    })
}

/// The part of level `to` that a deterministic step from `from` reaches when an ancestral sampler puts noise back.
///
/// In f32 on purpose: after a zero-terminal level the difference keeps few digits, and those decide the picture.
pub(crate) fn down(from: f64, to: f64, eta: f64) -> f64 {
    let (up, to) = (up(from, to, eta) as f32, to as f32);
    f64::from((to * to - up * up).max(0.0).sqrt())
}

/// The noise that an ancestral step from `from` to `to` puts back, in f32 as [`down`] needs it.
///
/// Source: Song et al. 2020 (arXiv:2010.02502), Eq. 16 in sigma, a share `eta` of it.
pub(crate) fn up(from: f64, to: f64, eta: f64) -> f64 {
    let (from, to) = (from as f32, to as f32);
    if from == 0.0 {
        return 0.0;
    }
    let whole = (to * to * (from * from - to * to).max(0.0) / (from * from)).sqrt();
    f64::from((eta as f32 * whole).min(to))
}

/// The geometric mean of two levels through their logarithms in f32, as torch's `lerp` takes it.
fn middle(from: f64, to: f64) -> f64 {
    let log = |sigma: f64| (sigma.ln()) as f32;
    single(f64::from(log(from) + 0.5 * (log(to) - log(from))).exp())
}
