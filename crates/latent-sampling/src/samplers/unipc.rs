//! UniPC: a predictor whose answer at the new level also corrects the step that led there, at no further call.

use std::collections::VecDeque;

use crate::config::{Settings, SolverType};
use crate::level::{Level, mix};
use crate::run::Walk;
use crate::threshold::bound_dynamic;
use crate::{Latents, SamplingError};

/// What the network said at one level.
struct Known {
    value: Latents,
    level: Level,
}

/// Source: Zhao et al. 2023 (arXiv:2302.04867), Algorithms 5 to 8.
pub(super) fn unipc(walk: &mut Walk<'_>, mut x: Latents) -> Result<Latents, SamplingError> {
    let mut known: VecDeque<Known> = VecDeque::new();
    let mut before: Option<(Latents, usize)> = None; // latents before the last step, and its order
    for call in walk.calls() {
        let level = walk.plan.levels[call];
        let (value, clean) = evaluate(walk, &x, call)?;
        if let Some((start, order)) = &before
            && !walk.settings.disable_corrector.contains(&(call - 1))
        {
            x = update(
                walk.settings,
                start,
                level,
                known.make_contiguous(),
                (*order, Some(&value)),
            );
        }
        known.push_front(Known { value, level });
        known.truncate(walk.settings.solver_order);
        let order = order(walk, call).min(distinct(&known));
        let next = update(
            walk.settings,
            &x,
            walk.plan.levels[call + 1],
            known.make_contiguous(),
            (order, None),
        );
        before = Some((std::mem::replace(&mut x, next), order));
        walk.report(call, &mut x, &clean)?;
    }
    Ok(x)
}

/// The network's answer as clean latents or as noise, and the clean latents it means.
fn evaluate(
    walk: &mut Walk<'_>,
    x: &Latents,
    call: usize,
) -> Result<(Latents, Latents), SamplingError> {
    let (level, prediction) = (walk.plan.levels[call], walk.settings.prediction_type);
    let output = walk.predict(x, call)?;
    let clean = level.clean(prediction, x, &output);
    if walk.settings.predict_x0 {
        let clean = bound_dynamic(walk.settings, clean);
        return Ok((clean.clone(), clean));
    }
    Ok((level.noise(prediction, x, &output), clean))
}

fn order(walk: &Walk<'_>, call: usize) -> usize {
    let left = walk.plan.timesteps.len() - call;
    if walk.plan.levels[call + 1].sigma == 0.0 {
        return 1; // no polynomial in lambda reaches its infinite end
    }
    if walk.settings.lower_order_final {
        walk.settings.solver_order.min(left)
    } else {
        walk.settings.solver_order
    }
}

/// How many of the newest answers lie at levels apart from their neighbours'.
fn distinct(known: &VecDeque<Known>) -> usize {
    (1..known.len())
        .find(|i| known[*i].level == known[i - 1].level)
        .unwrap_or(known.len())
}

/// The step from the newest known level to `to`: predicted, or corrected where the answer at `to` is given.
fn update(
    settings: &Settings,
    x: &Latents,
    to: Level,
    known: &[Known],
    (order, arrived): (usize, Option<&Latents>),
) -> Latents {
    let (from, m0) = (known[0].level, &known[0].value);
    if from == to {
        return x.clone();
    }
    let h = to.lambda() - from.lambda();
    let signed = if settings.predict_x0 { -h } else { h };
    let growth = signed.exp_m1();
    let b = if settings.solver_type == SolverType::Bh1 {
        signed
    } else {
        growth
    };
    let ratios: Vec<f64> = known[1..order]
        .iter()
        .map(|known| (known.level.lambda() - from.lambda()) / h)
        .collect();
    let weights = residual_weights(&ratios, signed, b, arrived.is_some());
    let (carry, scale) = if settings.predict_x0 {
        (to.sigma / from.sigma, to.alpha)
    } else {
        (to.alpha / from.alpha, to.sigma)
    };
    // The differences (m_k - m0) / r_k, spread over their two ends.
    let mut parts = vec![(carry, x)];
    let mut newest = -scale * growth;
    let ends = known[1..order]
        .iter()
        .map(|known| &known.value)
        .chain(arrived);
    for ((weight, ratio), end) in weights.iter().zip(ratios.iter().chain([&1.0])).zip(ends) {
        let weight = if *weight == 0.0 {
            0.0
        } else {
            -scale * b * weight / ratio
        };
        parts.push((weight, end));
        newest -= weight;
    }
    parts.push((newest, m0));
    mix(&parts)
}

/// Weights of the differences to the earlier answers, and, for the corrector, to the answer at the new level.
///
/// Source: Zhao et al. 2023 (arXiv:2302.04867), Eqs. 3 to 5: powers of the ratios, times the weights, give the
/// coefficients of the exact expansion.
fn residual_weights(ratios: &[f64], signed: f64, b: f64, corrects: bool) -> Vec<f64> {
    let count = ratios.len() + usize::from(corrects);
    // The paper's order 2 takes a half in place of the solution, which differs from it in higher order only.
    if count == 1 {
        return vec![0.5];
    }
    let points: Vec<f64> = ratios
        .iter()
        .copied()
        .chain(corrects.then_some(1.0))
        .collect();
    let (mut phi, mut factorial) = (signed.exp_m1() / signed - 1.0, 1.0);
    let (mut rows, mut rights) = (Vec::new(), Vec::new());
    for power in 0..count {
        rows.push(
            points
                .iter()
                .map(|point| point.powi(power as i32))
                .collect(),
        );
        rights.push(phi * factorial / b);
        factorial *= (power + 2) as f64;
        phi = phi / signed - 1.0 / factorial;
    }
    solve(rows, rights)
}

/// Gauss' elimination with pivoting; at most three unknowns.
fn solve(mut rows: Vec<Vec<f64>>, mut rights: Vec<f64>) -> Vec<f64> {
    let n = rights.len();
    for column in 0..n {
        let pivot = (column..n)
            .max_by(|a, b| rows[*a][column].abs().total_cmp(&rows[*b][column].abs()))
            .unwrap_or(column);
        rows.swap(column, pivot);
        rights.swap(column, pivot);
        let (above, lower) = rows.split_at_mut(column + 1);
        for (row, right) in lower.iter_mut().zip(column + 1..) {
            let factor = row[column] / above[column][column];
            for (entry, pivot) in row.iter_mut().zip(&above[column]).skip(column) {
                *entry -= factor * pivot;
            }
            rights[right] -= factor * rights[column];
        }
    }
    for row in (0..n).rev() {
        let known: f64 = (row + 1..n).map(|k| rows[row][k] * rights[k]).sum();
        rights[row] = (rights[row] - known) / rows[row][row];
    }
    rights
}
