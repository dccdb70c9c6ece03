//! Samplers of straight paths from noise to data, and of EDM's preconditioned networks.

use super::sigma::{churn, toward, trapezoid};
use crate::level::{Level, mix};
use crate::run::Walk;
use crate::{Latents, Prediction, SamplingError};

/// Euler steps along a flow, or jumps to clean latents and back where the config says `stochastic_sampling`.
///
/// Source: Liu et al. 2022 (arXiv:2209.03003), Eq. 1.
pub(super) fn flow_euler(walk: &mut Walk<'_>, mut x: Latents) -> Result<Latents, SamplingError> {
    for call in walk.calls() {
        let (from, to) = walk.sigmas(call);
        let output = walk.predict(&x, call)?;
        let clean = Level::flow(from).clean(Prediction::Flow, &x, &output);
        x = if walk.settings.stochastic_sampling {
            let noise = walk.noise(&x)?;
            Level::flow(to).noisy(&clean, &noise)
        } else {
            mix(&[(1.0, &x), (to - from, &output)])
        };
        walk.report(call, &mut x, &clean)?;
    }
    Ok(x)
}

/// Heun's method on a flow: an Euler step, corrected by the mean of the slopes at its two ends.
///
/// Source: Karras et al. 2022 (arXiv:2206.00364), Algorithm 1, on the path of arXiv:2209.03003.
pub(super) fn flow_heun(walk: &mut Walk<'_>, mut x: Latents) -> Result<Latents, SamplingError> {
    let mut call = walk.plan.first;
    while call < walk.calls().end {
        let (from, to) = walk.sigmas(call);
        let output = walk.predict(&x, call)?;
        let clean = Level::flow(from).clean(Prediction::Flow, &x, &output);
        let mut end = toward(&x, &clean, from, to);
        walk.report(call, &mut end, &clean)?;
        if to == 0.0 || call + 1 == walk.plan.timesteps.len() {
            return Ok(end);
        }
        let output = walk.predict(&end, call + 1)?;
        let corrected = Level::flow(to).clean(Prediction::Flow, &end, &output);
        x = trapezoid(&x, &clean, &end, &corrected, [from, to]);
        walk.report(call + 1, &mut x, &corrected)?;
        call += 2;
    }
    Ok(x)
}

/// EDM's scaling of what the network sees.
pub(super) fn edm_input(walk: &Walk<'_>, x: &Latents, sigma: f64) -> Latents {
    mix(&[(1.0 / sigma.hypot(walk.settings.sigma_data), x)])
}

/// The clean latents that an EDM network's output means at noise `sigma`.
///
/// Source: Karras et al. 2022 (arXiv:2206.00364), Eq. 7 and Table 1.
pub(super) fn edm_clean(walk: &Walk<'_>, x: &Latents, output: &Latents, sigma: f64) -> Latents {
    let data = walk.settings.sigma_data;
    let size = sigma.hypot(data);
    let sign = if walk.settings.prediction_type == Prediction::V {
        -1.0
    } else {
        1.0
    };
    mix(&[
        ((data / size).powi(2), x),
        (sign * sigma * data / size, output),
    ])
}

/// Euler steps with EDM's preconditioning.
///
/// Source: Karras et al. 2022 (arXiv:2206.00364), Algorithm 2 without its correction.
pub(super) fn edm_euler(walk: &mut Walk<'_>, mut x: Latents) -> Result<Latents, SamplingError> {
    for call in walk.calls() {
        let (from, to) = walk.sigmas(call);
        let output = walk.predict(&edm_input(walk, &x, from), call)?;
        let raised = churn(walk, &mut x, from)?;
        let clean = edm_clean(walk, &x, &output, raised);
        x = toward(&x, &clean, raised, to);
        walk.report(call, &mut x, &clean)?;
    }
    Ok(x)
}
