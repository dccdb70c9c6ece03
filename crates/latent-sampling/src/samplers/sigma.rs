//! Samplers on whole data with growing noise: Euler, its ancestral form, Heun, and linear multistep.

use std::collections::VecDeque;

use crate::level::{Level, mix};
use crate::run::Walk;
use crate::spacing::{down, timestep_of, up};
use crate::{Latents, Prediction, SamplingError};

/// The network's output at a call, given latents whose noise has standard deviation `sigma`.
pub(super) fn output_at(
    walk: &mut Walk<'_>,
    x: &Latents,
    sigma: f64,
    call: usize,
) -> Result<Latents, SamplingError> {
    let scaled = mix(&[(Level::from_ratio(sigma).alpha, x)]);
    walk.predict(&scaled, call)
}

/// The clean latents that an output means at noise `sigma`.
pub(super) fn clean_at(walk: &Walk<'_>, x: &Latents, output: &Latents, sigma: f64) -> Latents {
    match walk.settings.prediction_type {
        Prediction::Epsilon => mix(&[(1.0, x), (-sigma, output)]),
        prediction => {
            let level = Level::from_ratio(sigma);
            level.clean(prediction, &mix(&[(level.alpha, x)]), output)
        }
    }
}

/// `x` moved along its line to `clean` until the noise falls from `from` to `to`.
///
/// In f32 and in this order on purpose: a step from a zero-terminal level (4096) to a few units keeps four digits,
/// and those that diffusers keeps decide its picture.
pub(super) fn toward(x: &Latents, clean: &Latents, from: f64, to: f64) -> Latents {
    let (from, change) = (from as f32, to as f32 - from as f32);
    let mut moved = x.clone();
    moved.zip_mut_with(clean, |x, clean| *x += (*x - clean) / from * change);
    moved
}

/// As [`toward`], the noise put back as the unguided output has it where guidance asks for that.
///
/// Source: Chung et al. 2024 (arXiv:2406.08070), Algorithm 2, in sigma.
fn toward_guided(
    walk: &mut Walk<'_>,
    x: &Latents,
    clean: &Latents,
    (from, to, level): (f64, f64, f64),
) -> Result<Latents, SamplingError> {
    let Some(output) = walk.unguided(x)? else {
        return Ok(toward(x, clean, from, to));
    };
    let unguided = clean_at(walk, x, &output, level);
    let share = to / from;
    Ok(mix(&[(1.0, clean), (share, x), (-share, &unguided)]))
}

/// First-order steps along the probability-flow ODE `dx/dsigma = (x - clean) / sigma`.
///
/// Source: Karras et al. 2022 (arXiv:2206.00364), Algorithm 2 without its correction.
pub(super) fn euler(walk: &mut Walk<'_>, mut x: Latents) -> Result<Latents, SamplingError> {
    for call in walk.calls() {
        let (from, to) = walk.sigmas(call);
        if walk.options.schedule.is_some() && walk.options.churn.is_some() {
            x = churned_step(walk, x, call)?;
            continue;
        }
        // The network sees the latents before fresh noise joins them: so does diffusers.
        let output = output_at(walk, &x, from, call)?;
        let raised = churn(walk, &mut x, from)?;
        let level = if walk.settings.prediction_type == Prediction::V {
            from
        } else {
            raised
        };
        let clean = clean_at(walk, &x, &output, level);
        x = toward_guided(walk, &x, &clean, (raised, to, level))?;
        walk.report(call, &mut x, &clean)?;
    }
    Ok(x)
}

/// A step on k-diffusion's levels, where the network sees the latents after fresh noise joined them, at their new level.
///
/// Source: k-diffusion, `sample_euler`.
fn churned_step(
    walk: &mut Walk<'_>,
    mut x: Latents,
    call: usize,
) -> Result<Latents, SamplingError> {
    let (from, to) = walk.sigmas(call);
    let raised = churn(walk, &mut x, from)?;
    let scaled = mix(&[(Level::from_ratio(raised).alpha, &x)]);
    let timestep = timestep_of(walk.class, walk.settings, raised);
    let output = walk.predict_at(&scaled, walk.options.compat.timestep(timestep))?;
    let clean = clean_at(walk, &x, &output, raised);
    x = toward_guided(walk, &x, &clean, (raised, to, raised))?;
    walk.report(call, &mut x, &clean)?;
    Ok(x)
}

/// Adds the noise that the options ask for at this level, and says the level reached.
pub(super) fn churn(
    walk: &mut Walk<'_>,
    x: &mut Latents,
    sigma: f64,
) -> Result<f64, SamplingError> {
    let Some(churn) = walk.options.churn else {
        return Ok(sigma);
    };
    let growth = churn.growth(sigma, walk.plan.steps);
    if growth == 0.0 {
        return Ok(sigma);
    }
    let raised = sigma * (1.0 + growth);
    let noise = walk.noise(x)?;
    *x = mix(&[
        (1.0, x),
        (
            churn.noise * (raised * raised - sigma * sigma).sqrt(),
            &noise,
        ),
    ]);
    Ok(raised)
}

/// Euler steps that go below the next level and return to it with fresh noise.
///
/// Source: Song et al. 2020 (arXiv:2010.02502), Eq. 16 with eta 1, in sigma.
pub(super) fn euler_a(walk: &mut Walk<'_>, mut x: Latents) -> Result<Latents, SamplingError> {
    for call in walk.calls() {
        let (from, to) = walk.sigmas(call);
        let output = output_at(walk, &x, from, call)?;
        let clean = clean_at(walk, &x, &output, from);
        let noise = walk.noise(&x)?;
        let scale = walk.options.noise_scale.unwrap_or(1.0);
        let down = down(from, to, walk.eta);
        x = toward_guided(walk, &x, &clean, (from, down, from))?;
        x = mix(&[(1.0, &x), (up(from, to, walk.eta) * scale, &noise)]);
        walk.report(call, &mut x, &clean)?;
    }
    Ok(x)
}

/// An Euler step, then the same step again with the mean of the slopes at its two ends.
///
/// Source: Karras et al. 2022 (arXiv:2206.00364), Algorithm 1.
pub(super) fn heun(walk: &mut Walk<'_>, mut x: Latents) -> Result<Latents, SamplingError> {
    let mut call = walk.plan.first;
    while call < walk.calls().end {
        let (from, to) = walk.sigmas(call);
        let output = output_at(walk, &x, from, call)?;
        let clean = bounded(walk, clean_at(walk, &x, &output, from));
        let mut end = toward(&x, &clean, from, to);
        walk.report(call, &mut end, &clean)?;
        if to == 0.0 || call + 1 == walk.plan.timesteps.len() {
            return Ok(end);
        }
        let output = output_at(walk, &end, to, call + 1)?;
        let corrected = bounded(walk, clean_at(walk, &end, &output, to));
        x = trapezoid(&x, &clean, &end, &corrected, [from, to]);
        x = raised(walk, x, to, call + 2)?;
        walk.report(call + 1, &mut x, &corrected)?;
        call += 2;
    }
    Ok(x)
}

/// Adds noise where the next call's level lies above the one that is reached, as it does in a restart.
///
/// Source: Xu et al. 2023 (arXiv:2306.14878), Algorithm 1.
fn raised(
    walk: &mut Walk<'_>,
    x: Latents,
    reached: f64,
    next: usize,
) -> Result<Latents, SamplingError> {
    let level = walk.plan.sigmas[next];
    if level <= reached {
        return Ok(x);
    }
    let noise = walk.noise(&x)?;
    let scale = walk.options.noise_scale.unwrap_or(1.0);
    let deviation = (level * level - reached * reached).sqrt();
    Ok(mix(&[(1.0, &x), (deviation * scale, &noise)]))
}

/// `x + (to - from) (slope at the start + slope at the end) / 2`.
pub(super) fn trapezoid(
    x: &Latents,
    clean: &Latents,
    end: &Latents,
    end_clean: &Latents,
    [from, to]: [f64; 2],
) -> Latents {
    let half = 0.5 * (to - from);
    mix(&[
        (1.0 + half / from, x),
        (-half / from, clean),
        (half / to, end),
        (-half / to, end_clean),
    ])
}

fn bounded(walk: &Walk<'_>, clean: Latents) -> Latents {
    crate::threshold::bound(walk.settings, clean)
}

/// A step to the geometric middle of two levels, whose slope then leads from the first to the second.
///
/// Source: Karras et al. 2022 (arXiv:2206.00364), Algorithm 3 with alpha 1/2, in log sigma; the ancestral form goes
/// below the level and returns with fresh noise.
fn dpm2_with(
    walk: &mut Walk<'_>,
    mut x: Latents,
    ancestral: bool,
) -> Result<Latents, SamplingError> {
    for step in walk.plan.first / 2..walk.calls().end.div_ceil(2) {
        let (from, to) = walk.sigmas(step);
        let (middle, call) = (walk.plan.middles[step], 2 * step);
        let output = output_at(walk, &x, from, call)?;
        let clean = clean_at(walk, &x, &output, from);
        let mut halfway = toward(&x, &clean, from, middle);
        walk.report(call, &mut halfway, &clean)?;
        if middle == 0.0 {
            return Ok(halfway);
        }
        let output = output_at(walk, &halfway, middle, call + 1)?;
        let clean = clean_at(walk, &halfway, &output, middle);
        let target = if ancestral {
            down(from, to, walk.eta)
        } else {
            to
        };
        let slope = (target - from) / middle;
        x = mix(&[(1.0, &x), (slope, &halfway), (-slope, &clean)]);
        if ancestral {
            let noise = walk.noise(&x)?;
            let scale = walk.options.noise_scale.unwrap_or(1.0);
            x = mix(&[(1.0, &x), (up(from, to, walk.eta) * scale, &noise)]);
        }
        walk.report(call + 1, &mut x, &clean)?;
    }
    Ok(x)
}

/// See [`dpm2_with`].
pub(super) fn dpm2(walk: &mut Walk<'_>, x: Latents) -> Result<Latents, SamplingError> {
    dpm2_with(walk, x, false)
}

/// See [`dpm2_with`].
pub(super) fn dpm2_a(walk: &mut Walk<'_>, x: Latents) -> Result<Latents, SamplingError> {
    dpm2_with(walk, x, true)
}

/// Steps along the polynomial through the last four slopes.
///
/// Source: the Adams-Bashforth methods with uneven steps, Hairer, Norsett & Wanner 1993, section III.5.
pub(super) fn lms(walk: &mut Walk<'_>, mut x: Latents) -> Result<Latents, SamplingError> {
    let mut slopes: VecDeque<Latents> = VecDeque::new();
    for call in walk.calls() {
        let (from, to) = walk.sigmas(call);
        let output = output_at(walk, &x, from, call)?;
        let clean = clean_at(walk, &x, &output, from);
        slopes.push_front(mix(&[(1.0 / from, &x), (-1.0 / from, &clean)]));
        slopes.truncate(4);
        let known: Vec<f64> = (0..lms_order(walk, call))
            .map(|back| walk.plan.sigmas[call - back])
            .collect();
        let weights = (0..known.len()).map(|j| lagrange_integral(&known, j, from, to));
        let mut parts = vec![(1.0, &x)];
        parts.extend(weights.zip(&slopes));
        let next = mix(&parts);
        x = next;
        walk.report(call, &mut x, &clean)?;
    }
    Ok(x)
}

/// How many levels the polynomial goes through. It counts from the head of the schedule even where image-to-image begins
/// later, with fewer slopes than weights: so does diffusers, and pictures are to be the same.
fn lms_order(walk: &Walk<'_>, call: usize) -> usize {
    let (most, sigmas) = ((call + 1).min(4), &walk.plan.sigmas);
    // Equal levels would divide by zero; they can only be neighbours.
    (1..most)
        .find(|back| sigmas[call - back] == sigmas[call - back + 1])
        .unwrap_or(most)
}

/// Integral from `from` to `to` of the polynomial that is 1 at `known[j]` and 0 at the others.
fn lagrange_integral(known: &[f64], j: usize, from: f64, to: f64) -> f64 {
    let polynomial = lagrange(known, j);
    let at = |x: f64| -> f64 {
        polynomial
            .iter()
            .enumerate()
            .map(|(power, c)| c * x.powi(power as i32 + 1) / (power + 1) as f64)
            .sum()
    };
    at(to) - at(from)
}

/// Coefficients, lowest power first, of the polynomial that is 1 at `known[j]` and 0 at the others.
pub(super) fn lagrange(known: &[f64], j: usize) -> Vec<f64> {
    let mut polynomial = vec![1.0];
    for (k, root) in known.iter().enumerate() {
        if k != j {
            let scale = 1.0 / (known[j] - root);
            let mut product = vec![0.0; polynomial.len() + 1];
            for (power, coefficient) in polynomial.iter().enumerate() {
                product[power + 1] += coefficient * scale;
                product[power] -= coefficient * scale * root;
            }
            polynomial = product;
        }
    }
    polynomial
}
