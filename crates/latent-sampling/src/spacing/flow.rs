//! Levels of models that were not trained on betas: flows, EDM, and IPNDM's circle.

use std::f64::consts::FRAC_PI_2;

use super::table::twice;
use super::{Request, karras, linspace, single, spaced};
use crate::config::{FinalSigmas, SigmaSchedule, TimeShift};
use crate::level::Level;
use crate::{Plan, SamplingError, SigmaSpacing};

/// Levels of `flow_euler`: shifted towards noise by a constant, or by `mu` where the config asks for it.
///
/// Source: Esser et al. 2024 (arXiv:2403.03206), Eq. 23.
pub(crate) fn flow_plan(request: &Request<'_>) -> Result<Plan, SamplingError> {
    let (settings, options) = (request.settings, request.options);
    let mut sigmas = shifted(request, unshifted(request)?)?;
    if let Some(terminal) = settings.shift_terminal {
        sigmas = stretched(sigmas, terminal);
    }
    if settings.sigma_spacing() != SigmaSpacing::Timesteps {
        let (least, most) = (sigmas[sigmas.len() - 1], sigmas[0]);
        sigmas = spaced(settings.sigma_spacing(), least, most, options.steps);
    }
    let mut end = 0.0;
    if settings.invert_sigmas {
        sigmas.iter_mut().for_each(|sigma| *sigma = 1.0 - *sigma);
        end = 1.0;
    }
    Ok(flow_of(request, sigmas, end))
}

/// Levels of `flow_heun`.
pub(crate) fn flow_heun_plan(request: &Request<'_>) -> Result<Plan, SamplingError> {
    let sigmas = shifted(request, unshifted(request)?)?;
    Ok(twice(flow_of(request, sigmas, 0.0)))
}

fn flow_of(request: &Request<'_>, sigmas: Vec<f64>, end: f64) -> Plan {
    let total = request.settings.num_train_timesteps as f32;
    let mut sigmas: Vec<f64> = sigmas.into_iter().map(single).collect();
    let timesteps = sigmas
        .iter()
        .map(|sigma| f64::from(*sigma as f32 * total))
        .collect();
    sigmas.push(end);
    let levels = sigmas.iter().map(|sigma| Level::flow(*sigma)).collect();
    let steps = request.options.steps;
    Plan {
        timesteps,
        sigmas,
        init_noise_sigma: 1.0,
        first: 0,
        steps,
        levels,
        middles: Vec::new(),
    }
}

/// The even line that is shifted afterwards. Its lower end is shifted already where the shift is constant: timesteps
/// and levels of these models are not each other's inverse (they meet the shift twice), and weights expect that.
fn unshifted(request: &Request<'_>) -> Result<Vec<f64>, SamplingError> {
    let (settings, options) = (request.settings, request.options);
    if let Some(sigmas) = &options.sigmas {
        let falling = sigmas.windows(2).all(|pair| pair[0] > pair[1]);
        let inside = sigmas.iter().all(|sigma| *sigma > 0.0 && *sigma <= 1.0);
        if sigmas.len() != options.steps || !falling || !inside {
            let needed = "as many falling numbers as steps, above 0 and at most 1";
            return Err(SamplingError::Option {
                option: "sigmas",
                found: format!("{sigmas:?}"),
                needed,
            });
        }
        return Ok(sigmas.clone());
    }
    let total = settings.num_train_timesteps as f64;
    let shift = if settings.use_dynamic_shifting {
        1.0
    } else {
        settings.shift
    };
    let end = |sigma: f64| single(shift * sigma / (1.0 + (shift - 1.0) * sigma));
    let line = linspace(end(1.0) * total, end(1.0 / total) * total, options.steps);
    Ok(line.into_iter().map(|t| t / total).collect())
}

fn shifted(request: &Request<'_>, sigmas: Vec<f64>) -> Result<Vec<f64>, SamplingError> {
    let settings = request.settings;
    if !settings.use_dynamic_shifting {
        let shift = settings.shift;
        return Ok(sigmas
            .into_iter()
            .map(|sigma| shift * sigma / (1.0 + (shift - 1.0) * sigma))
            .collect());
    }
    let Some(mu) = request.options.mu else {
        return Err(SamplingError::Conflict(
            "the config says `use_dynamic_shifting`, which needs `mu`; give it in the run's options".to_owned(),
        ));
    };
    let factor = time_shift(request, mu)?;
    Ok(sigmas
        .into_iter()
        .map(|sigma| factor / (factor + (1.0 / sigma - 1.0)))
        .collect())
}

/// How many times the odds of noise against data grow by `mu`.
pub(super) fn time_shift(request: &Request<'_>, mu: f64) -> Result<f64, SamplingError> {
    let factor = match request.settings.time_shift_type {
        TimeShift::Exponential => mu.exp(),
        TimeShift::Linear => mu,
    };
    if factor > 0.0 && factor < 1e6 {
        return Ok(factor);
    }
    let needed = "a number that gives a shift above 0 and below a million";
    Err(SamplingError::Option {
        option: "mu",
        found: mu.to_string(),
        needed,
    })
}

/// Stretches the levels so that the last one is `terminal`.
pub(super) fn stretched(sigmas: Vec<f64>, terminal: f64) -> Vec<f64> {
    let scale = (1.0 - sigmas[sigmas.len() - 1]) / (1.0 - terminal);
    if scale == 0.0 {
        return sigmas; // one step, at pure noise: nothing to stretch
    }
    sigmas
        .into_iter()
        .map(|sigma| 1.0 - (1.0 - sigma) / scale)
        .collect()
}

/// Levels of `edm_euler` and `edm_dpmpp_2m`. Source: Karras et al. 2022 (arXiv:2206.00364), Eq. 5.
pub(crate) fn edm_plan(request: &Request<'_>) -> Result<Plan, SamplingError> {
    let (settings, steps) = (request.settings, request.options.steps);
    let (least, most) = (
        settings.sigma_min.unwrap_or(0.002),
        settings.sigma_max.unwrap_or(80.0),
    );
    let sigmas = match settings.sigma_schedule {
        SigmaSchedule::Karras => karras(least, most, settings.rho, steps),
        SigmaSchedule::Exponential => spaced(SigmaSpacing::Exponential, least, most, steps),
    };
    let mut sigmas: Vec<f64> = sigmas.into_iter().map(single).collect();
    let timesteps = sigmas
        .iter()
        .map(|sigma| single(0.25 * sigma.ln()))
        .collect();
    sigmas.push(match settings.final_sigmas_type {
        FinalSigmas::Zero => 0.0,
        FinalSigmas::SigmaMin => sigmas[steps - 1],
    });
    let levels = sigmas
        .iter()
        .map(|sigma| Level::exploding(*sigma))
        .collect();
    let init_noise_sigma = (most * most + 1.0).sqrt();
    Ok(Plan {
        timesteps,
        sigmas,
        init_noise_sigma,
        first: 0,
        steps,
        levels,
        middles: Vec::new(),
    })
}

/// Levels of `ipndm`: noise is the squared sine of an angle that falls evenly, or the model's own list.
pub(crate) fn trigonometric_plan(request: &Request<'_>) -> Result<Plan, SamplingError> {
    if request.settings.trained_betas.is_some() {
        let text =
            "`ipndm` with `trained_betas` is not supported; take a model without them".to_owned();
        return Err(SamplingError::Conflict(text));
    }
    let steps = request.options.steps;
    let parts = (0..=steps).map(|i| 1.0 - i as f64 / steps as f64);
    let levels: Vec<Level> = parts
        .map(|part| {
            let sigma = (part * FRAC_PI_2).sin().powi(2);
            Level {
                alpha: (1.0 - sigma * sigma).max(0.0).sqrt(),
                sigma,
            }
        })
        .collect();
    let timesteps = levels[..steps]
        .iter()
        .map(|level| single(level.sigma.atan2(level.alpha) / FRAC_PI_2))
        .collect();
    Ok(Plan {
        timesteps,
        sigmas: Vec::new(),
        init_noise_sigma: 1.0,
        first: 0,
        steps,
        levels,
        middles: Vec::new(),
    })
}
