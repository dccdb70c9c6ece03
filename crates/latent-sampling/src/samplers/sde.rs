//! Solvers of the stochastic equation on whole data with growing noise, as k-diffusion writes them.

use super::sigma::{clean_at, output_at, toward};
use crate::config::SolverType;
use crate::level::mix;
use crate::run::Walk;
use crate::spacing::{down, up};
use crate::{Latents, SamplingError};

/// The network's clean estimate at a call.
fn evaluate(
    walk: &mut Walk<'_>,
    x: &Latents,
    sigma: f64,
    call: usize,
) -> Result<Latents, SamplingError> {
    let output = output_at(walk, x, sigma, call)?;
    Ok(clean_at(walk, x, &output, sigma))
}

/// `x` with noise of a deviation that the options may scale.
fn noised(walk: &Walk<'_>, x: &Latents, deviation: f64, noise: &Latents) -> Latents {
    let scale = walk.options.noise_scale.unwrap_or(1.0);
    mix(&[(1.0, x), (deviation * scale, noise)])
}

/// DPM-Solver++ with fresh noise: each step takes its direction from the network's answer in its middle, which is
/// reached with fresh noise too.
///
/// Source: k-diffusion, `sample_dpmpp_sde` with r 1/2, after Lu et al. 2022 (arXiv:2211.01095).
pub(super) fn dpmpp_sde(walk: &mut Walk<'_>, mut x: Latents) -> Result<Latents, SamplingError> {
    for step in walk.plan.first / 2..walk.calls().end.div_ceil(2) {
        let (from, to) = walk.sigmas(step);
        let (middle, call, eta) = (walk.plan.middles[step], 2 * step, walk.eta);
        let clean = evaluate(walk, &x, from, call)?;
        if to == 0.0 {
            x = toward(&x, &clean, from, 0.0);
            walk.report(call, &mut x, &clean)?;
            return Ok(x);
        }
        let [start, half, end] = times(from, to);
        let noise = walk.increment(&x, start, half)?;
        let mut halfway = toward(&x, &clean, from, down(from, middle, eta));
        halfway = noised(walk, &halfway, up(from, middle, eta), &noise);
        walk.report(call, &mut halfway, &clean)?;
        let clean = evaluate(walk, &halfway, middle, call + 1)?;
        let noise = walk.increment(&x, start, end)?;
        x = toward(&x, &clean, from, down(from, to, eta));
        x = noised(walk, &x, up(from, to, eta), &noise);
        walk.report(call + 1, &mut x, &clean)?;
    }
    Ok(x)
}

/// The levels of a step and its middle where they are read off the Brownian path: through their logarithms in f32, as
/// k-diffusion has them. The path is rough: a last place off is seen in the noise.
fn times(from: f64, to: f64) -> [f64; 3] {
    let log = |sigma: f64| -(f64::from(sigma as f32).ln() as f32);
    let (start, end) = (log(from), log(to));
    let half = start + (end - start) * 0.5;
    [start, half, end].map(|time| f64::from(f64::from(-time).exp() as f32))
}

/// DPM-Solver++(2S) that goes below the next level and returns to it with fresh noise.
///
/// Source: k-diffusion, `sample_dpmpp_2s_ancestral`, after Lu et al. 2022 (arXiv:2211.01095), Algorithm 1.
pub(super) fn dpmpp_2s_a(walk: &mut Walk<'_>, mut x: Latents) -> Result<Latents, SamplingError> {
    for step in walk.plan.first / 2..walk.calls().end.div_ceil(2) {
        let (from, to) = walk.sigmas(step);
        let (middle, call, below) = (walk.plan.middles[step], 2 * step, down(from, to, walk.eta));
        let mut clean = evaluate(walk, &x, from, call)?;
        let last = to == 0.0;
        if !last {
            let mut halfway = toward(&x, &clean, from, middle);
            walk.report(call, &mut halfway, &clean)?;
            clean = evaluate(walk, &halfway, middle, call + 1)?;
        }
        x = toward(&x, &clean, from, below);
        if !last {
            let noise = walk.noise(&x)?;
            x = noised(walk, &x, up(from, to, walk.eta), &noise);
        }
        walk.report(call + usize::from(!last), &mut x, &clean)?;
    }
    Ok(x)
}

/// DPM-Solver++ of two answers on the stochastic equation.
///
/// Source: k-diffusion, `sample_dpmpp_2m_sde`, after Lu et al. 2022 (arXiv:2211.01095), section 5.
pub(super) fn dpmpp_2m_sde(walk: &mut Walk<'_>, x: Latents) -> Result<Latents, SamplingError> {
    multistep_sde(walk, x, 2)
}

/// DPM-Solver++ of three answers on the stochastic equation.
///
/// Source: k-diffusion, `sample_dpmpp_3m_sde`.
pub(super) fn dpmpp_3m_sde(walk: &mut Walk<'_>, x: Latents) -> Result<Latents, SamplingError> {
    multistep_sde(walk, x, 3)
}

/// Clean estimates of the last calls, newest first, each with the growth of `-ln sigma` over the step it began.
type Known = Vec<(Latents, f64)>;

fn multistep_sde(
    walk: &mut Walk<'_>,
    mut x: Latents,
    order: usize,
) -> Result<Latents, SamplingError> {
    let mut known: Known = Vec::new();
    for call in walk.calls() {
        let (from, to) = walk.sigmas(call);
        let clean = evaluate(walk, &x, from, call)?;
        let h = (from / to).ln();
        if to == 0.0 {
            x = clean.clone();
        } else if h == 0.0 {
            // Two equal levels, as rounded spacings can give: nothing to do.
        } else {
            let weights = sde_weights(walk, h, &known);
            let mut parts = vec![((-h * (1.0 + walk.eta)).exp(), &x), (weights[0], &clean)];
            parts.extend(weights[1..].iter().copied().zip(known.iter().map(|k| &k.0)));
            let next = mix(&parts);
            x = next;
            if walk.eta > 0.0 {
                let noise = walk.increment(&x, from, to)?;
                let deviation = to * (-(-2.0 * h * walk.eta).exp_m1()).sqrt();
                x = noised(walk, &x, deviation, &noise);
            }
        }
        if h != 0.0 {
            known.insert(0, (clean.clone(), h));
            known.truncate(order - 1);
        }
        walk.report(call, &mut x, &clean)?;
    }
    Ok(x)
}

/// Weights of the new clean estimate and of the known ones, newest first.
fn sde_weights(walk: &Walk<'_>, h: f64, known: &Known) -> Vec<f64> {
    let rate = h * (1.0 + walk.eta);
    let value = -(-rate).exp_m1();
    // Integrals of the slope and of the curvature in `-ln sigma` against the solver's exponential.
    let slope = 1.0 - value / rate;
    let curve = slope / rate - 0.5;
    match known.as_slice() {
        [] => vec![value],
        [(_, before)] => {
            let per_r = match (walk.settings.solver_type, walk.class) {
                (SolverType::Heun, _) | (_, crate::Class::Dpmpp3mSde) => slope * h / before,
                _ => 0.5 * value * h / before,
            };
            vec![value + per_r, -per_r]
        }
        [(_, first), (_, second), ..] => {
            let (r0, r1) = (first / h, second / h);
            // d0 = (D - D1) / r0, d1 = (D1 - D2) / r1; slope d0 + (d0 - d1) r0 / (r0 + r1), curvature (d0 - d1) / (r0 + r1).
            let of_d0 = slope * (1.0 + r0 / (r0 + r1)) - curve / (r0 + r1);
            let of_d1 = -slope * r0 / (r0 + r1) + curve / (r0 + r1);
            vec![value + of_d0 / r0, of_d1 / r1 - of_d0 / r0, -of_d1 / r1]
        }
    }
}

/// Points of the integrals that have no closed form.
const POINTS: usize = 200;

/// How fast noise is replaced at a level; the larger, the less of the old noise is kept.
fn replaced(sigma: f64) -> f64 {
    sigma * (sigma.powf(0.3).exp() + 10.0)
}

/// The extended reverse-time equation in steps of third order, from the last three clean estimates.
///
/// Source: Cui et al. 2023 (arXiv:2309.06169), ER-SDE-Solver-3 on whole data, with its authors' noise function and
/// integrals of 200 points.
pub(super) fn er_sde(walk: &mut Walk<'_>, mut x: Latents) -> Result<Latents, SamplingError> {
    // The last clean estimate and the last slope, with the levels they belong to.
    let mut last: Option<(Latents, f64)> = None;
    let mut slope_before: Option<(Latents, f64)> = None;
    for call in walk.calls() {
        let (from, to) = walk.sigmas(call);
        let clean = evaluate(walk, &x, from, call)?;
        if to == 0.0 {
            x = clean.clone();
            walk.report(call, &mut x, &clean)?;
            continue;
        }
        let kept = replaced(to) / replaced(from);
        let mut next = mix(&[(kept, &x), (1.0 - kept, &clean)]);
        let apart = last.as_ref().filter(|(_, level)| *level != from);
        if let Some((old, level)) = apart {
            let change = to - from;
            let [plain, weighted] = er_integrals(from, to);
            let per = 1.0 / (from - level);
            let slope = mix(&[(per, &clean), (-per, old)]);
            next = mix(&[(1.0, &next), (change + plain * replaced(to), &slope)]);
            if let Some((old_slope, level)) = &slope_before {
                let per = 2.0 / (from - level);
                let curve = mix(&[(per, &slope), (-per, old_slope)]);
                let weight = 0.5 * change * change + weighted * replaced(to);
                next = mix(&[(1.0, &next), (weight, &curve)]);
            }
            slope_before = Some((slope, *level));
        }
        let noise = walk.noise(&x)?;
        let deviation = (to * to - from * from * kept * kept).max(0.0).sqrt();
        x = noised(walk, &next, deviation, &noise);
        last = Some((clean.clone(), from));
        walk.report(call, &mut x, &clean)?;
    }
    Ok(x)
}

/// Sums for the integrals from `to` up to `from` of `1 / replaced(s)` and of `(s - from) / replaced(s)`.
fn er_integrals(from: f64, to: f64) -> [f64; 2] {
    let width = (from - to) / POINTS as f64;
    let points = (0..POINTS).map(|i| to + i as f64 * width);
    points.fold([0.0, 0.0], |[plain, weighted], s| {
        let share = width / replaced(s);
        [plain + share, weighted + (s - from) * share]
    })
}
