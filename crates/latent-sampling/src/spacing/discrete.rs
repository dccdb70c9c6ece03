//! Whole training timesteps: DDIM and its kin, and the DPM solvers.

use super::flow::{stretched, time_shift};
use super::table::{Table, first_noise, scheduled};
use super::{Request, linspace, single, spaced, timesteps, trailing};
use crate::config::{FinalSigmas, Settings};
use crate::level::Level;
use crate::{
    BetaSchedule, Class, NoiseSchedule, Plan, Prediction, SamplingError, SigmaSpacing,
    TimestepSpacing,
};

/// A plan on `alpha_bar`, which needs no list of sigmas.
fn on_alpha_bar(request: &Request<'_>, times: Vec<f64>) -> Result<Plan, SamplingError> {
    let schedule = NoiseSchedule::of_class(request.class, request.settings);
    let levels: Vec<Level> = times.iter().map(|t| schedule.level(*t as usize)).collect();
    let divides = request.settings.prediction_type == Prediction::Epsilon;
    if divides && levels.iter().any(|level| level.alpha == 0.0) {
        return Err(SamplingError::Conflict(
            "`rescale_betas_zero_snr` leaves no signal at the last timestep, where an epsilon prediction says nothing; \
             take a model with `prediction_type` v_prediction, or leading `timestep_spacing`"
                .to_owned(),
        ));
    }
    let steps = request.options.steps;
    Ok(Plan {
        timesteps: times,
        sigmas: Vec::new(),
        init_noise_sigma: 1.0,
        first: 0,
        steps,
        levels,
        middles: Vec::new(),
    })
}

/// Timesteps of `ddpm` and `ddim`.
pub(crate) fn alpha_plan(request: &Request<'_>) -> Result<Plan, SamplingError> {
    on_alpha_bar(
        request,
        timesteps(request.settings, request.options.steps, true),
    )
}

/// Timesteps of `pndm`: the second one twice, or four calls to each of the first three by Runge and Kutta.
pub(crate) fn pndm_plan(request: &Request<'_>) -> Result<Plan, SamplingError> {
    let (settings, steps) = (request.settings, request.options.steps);
    let mut times = timesteps(settings, steps, true);
    if settings.skip_prk_steps {
        if let [_, second, ..] = times[..] {
            times.insert(1, second);
        }
        return on_alpha_bar(request, times);
    }
    if steps < 4 {
        return Err(SamplingError::Option {
            option: "steps",
            found: steps.to_string(),
            needed: "at least 4 for `pndm` with its Runge-Kutta start; take more, or set `skip_prk_steps` to true",
        });
    }
    let half = (settings.num_train_timesteps / steps / 2) as f64;
    let most = (settings.num_train_timesteps - 1) as f64;
    // Highest four times and the points half a step above them, each but the ends twice.
    let points: Vec<f64> = times[..4]
        .iter()
        .flat_map(|t| [(t + half).min(most), *t])
        .skip(1)
        .collect();
    let inner = points[1..points.len() - 1].iter().flat_map(|t| [*t, *t]);
    let calls = [points[0]]
        .into_iter()
        .chain(inner)
        .chain([points[points.len() - 1]]);
    let calls = calls.take(12).chain(times[3..].iter().copied()).collect();
    on_alpha_bar(request, calls)
}

/// Timesteps of `lcm` and `tcd`, picked evenly from those of their distillation.
pub(crate) fn consistency_plan(request: &Request<'_>) -> Result<Plan, SamplingError> {
    let (settings, steps) = (request.settings, request.options.steps);
    let origin = settings
        .original_inference_steps
        .clamp(1, settings.num_train_timesteps);
    let stride = settings.num_train_timesteps / origin;
    let strength = if request.class == Class::Lcm {
        request.strength.unwrap_or(1.0)
    } else {
        1.0
    };
    let count = (origin as f64 * strength) as usize;
    if steps > count {
        return Err(SamplingError::Steps {
            found: steps,
            most: count,
        });
    }
    let times = (0..steps)
        .map(|i| {
            let skipped = (i as f64 * (count as f64 / steps as f64)).floor() as usize;
            ((count - skipped) * stride - 1) as f64
        })
        .collect();
    on_alpha_bar(request, times)
}

/// Timesteps and levels of the DPM solvers, UniPC, DEIS and SA-Solver.
pub(crate) fn dpm_plan(request: &Request<'_>) -> Result<Plan, SamplingError> {
    let settings = request.settings;
    let schedule = NoiseSchedule::of_class(request.class, settings);
    let table = Table::new(&schedule);
    let given = scheduled(request, &table);
    let from_noise_alone = given.is_some();
    let (mut sigmas, times) = match given {
        Some(given) => given,
        None => solver_levels(request, &schedule, &table)?,
    };
    sigmas.push(final_sigma(request, &table, sigmas[sigmas.len() - 1]));
    let sigmas: Vec<f64> = sigmas.into_iter().map(single).collect();
    let levels: Vec<Level> = sigmas
        .iter()
        .map(|sigma| solver_level(settings, *sigma))
        .collect();
    Ok(Plan {
        steps: times.len(),
        timesteps: times,
        // k-diffusion's schedules leave no share of data in the first noise.
        init_noise_sigma: if from_noise_alone {
            first_noise(request, &table, sigmas[0]) * levels[0].alpha
        } else {
            1.0
        },
        first: 0,
        levels,
        sigmas,
        middles: Vec::new(),
    })
}

/// Levels and timesteps that the settings ask for.
fn solver_levels(
    request: &Request<'_>,
    schedule: &NoiseSchedule,
    table: &Table,
) -> Result<(Vec<f64>, Vec<f64>), SamplingError> {
    let (settings, steps) = (request.settings, request.options.steps);
    Ok(match settings.sigma_spacing() {
        SigmaSpacing::Flow => flow_levels(request)?,
        SigmaSpacing::Timesteps => {
            let times = solver_timesteps(request, schedule);
            (times.iter().map(|t| table.at(*t)).collect(), times)
        }
        spacing => {
            let least = settings.sigma_min.unwrap_or(table.least());
            let most = settings.sigma_max.unwrap_or(table.most());
            let sigmas = spaced(spacing, least, most, steps);
            let times = sigmas
                .iter()
                .map(|sigma| whole(request, table.timestep_of(*sigma)))
                .collect();
            (sigmas, times)
        }
    })
}

/// The level that the last step goes to, from the level `last`.
fn final_sigma(request: &Request<'_>, table: &Table, last: f64) -> f64 {
    let settings = request.settings;
    let given = request.options.schedule.is_some();
    match (request.class, settings.final_sigmas_type) {
        // DEIS divides by the last level and has no way to end at none; SA-Solver is defined so.
        (Class::Deis | Class::SaSolver, _) => {
            if settings.sigma_spacing() == SigmaSpacing::Timesteps {
                table.least().min(last)
            } else {
                last
            }
        }
        (_, FinalSigmas::SigmaMin) if !given => match settings.sigma_spacing() {
            SigmaSpacing::Timesteps => table.least(),
            _ => last,
        },
        _ => 0.0,
    }
}

/// What a level means: a point of a flow, or a ratio of noise to data.
fn solver_level(settings: &Settings, sigma: f64) -> Level {
    if settings.use_flow_sigmas {
        Level::flow(sigma)
    } else {
        Level::from_ratio(sigma)
    }
}

/// A fractional timestep made whole: Karras' and Lu's are rounded, the others cut, as diffusers does.
fn whole(request: &Request<'_>, timestep: f64) -> f64 {
    let rounds = matches!(
        request.settings.sigma_spacing(),
        SigmaSpacing::Karras | SigmaSpacing::Lu
    );
    let cosine = request.settings.beta_schedule == BetaSchedule::Cosine
        && request.class == Class::DpmMultistep;
    if rounds && !cosine {
        timestep.round_ties_even()
    } else {
        timestep.trunc()
    }
}

/// One timestep more than the steps is laid out, and the lowest left out: the last step goes to the final level.
fn solver_timesteps(request: &Request<'_>, schedule: &NoiseSchedule) -> Vec<f64> {
    let (settings, steps) = (request.settings, request.options.steps);
    let total = settings.num_train_timesteps;
    let last = match request.class {
        Class::DpmMultistep | Class::DpmSinglestep | Class::SaSolver => {
            total - clipped(schedule, settings.lambda_min_clipped)
        }
        _ => total,
    };
    match settings.timestep_spacing {
        TimestepSpacing::Linspace => {
            let even = linspace(0.0, (last - 1) as f64, steps + 1);
            even.into_iter()
                .skip(1)
                .rev()
                .map(f64::round_ties_even)
                .collect()
        }
        TimestepSpacing::Leading => {
            let (ratio, most) = (last / (steps + 1), (total - 1) as f64);
            (1..=steps)
                .rev()
                .map(|i| ((i * ratio + settings.steps_offset) as f64).min(most))
                .collect()
        }
        TimestepSpacing::Trailing => {
            let times = trailing(last, total, steps);
            times.into_iter().map(|t| t.max(0.0)).collect()
        }
    }
}

/// How many of the noisiest timesteps have a log signal-to-noise ratio below the limit; one is always kept.
fn clipped(schedule: &NoiseSchedule, limit: f64) -> usize {
    let below = (0..schedule.len())
        .filter(|t| schedule.level(*t).lambda() < limit)
        .count();
    below.min(schedule.len() - 1)
}

/// Levels of a flow, shifted towards noise.
fn flow_levels(request: &Request<'_>) -> Result<(Vec<f64>, Vec<f64>), SamplingError> {
    let (settings, steps) = (request.settings, request.options.steps);
    let total = settings.num_train_timesteps as f64;
    let shift = match request.options.mu {
        Some(mu) if settings.use_dynamic_shifting => time_shift(request, mu)?,
        _ => settings.flow_shift,
    };
    let shifted = |sigma: f64| shift * sigma / (1.0 + (shift - 1.0) * sigma);
    let line = linspace(1.0, 1.0 / total, steps + 1);
    let sigmas: Vec<f64> = if request.class == Class::UniPc {
        let sigmas = line[..steps].iter().map(|sigma| shifted(*sigma)).collect();
        let sigmas = match settings.shift_terminal {
            Some(terminal) => stretched(sigmas, terminal),
            None => sigmas,
        };
        // Its data prediction divides by what is left of the data: the first level stays just below pure noise.
        sigmas
            .into_iter()
            .map(|sigma| sigma.min(1.0 - 1e-6))
            .collect()
    } else {
        line[1..]
            .iter()
            .rev()
            .map(|alpha| shifted(1.0 - alpha))
            .collect()
    };
    let times = sigmas.iter().map(|sigma| (sigma * total).trunc()).collect();
    Ok((sigmas, times))
}
