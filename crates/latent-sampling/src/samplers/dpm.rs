//! DPM-Solver and DPM-Solver++, multistep and singlestep, and DEIS.
//!
//! With `lambda = ln(alpha / sigma)` and `h` its growth over a step, both solvers integrate exactly what is linear and
//! approximate the network by a polynomial in `lambda`. Data prediction (`++`) follows the clean latents, the plain
//! form the noise.

use std::collections::VecDeque;

use super::flow::{edm_clean, edm_input};
use crate::config::{AlgorithmType, SolverType};
use crate::level::{Level, mix};
use crate::run::Walk;
use crate::threshold::bound_dynamic;
use crate::{Class, FinalSigmas, Latents, SamplingError};

/// A step between two levels and how its solver works.
struct Step {
    from: Level,
    to: Level,
    /// Growth of `lambda`.
    h: f64,
    algorithm: AlgorithmType,
    solver: SolverType,
}

impl Step {
    fn data(&self) -> bool {
        matches!(
            self.algorithm,
            AlgorithmType::DpmSolverPp
                | AlgorithmType::SdeDpmSolverPp
                | AlgorithmType::Deis
                | AlgorithmType::DataPrediction
        )
    }

    fn stochastic(&self) -> bool {
        matches!(
            self.algorithm,
            AlgorithmType::SdeDpmSolverPp | AlgorithmType::SdeDpmSolver
        )
    }

    /// Weight of the latents before the step.
    fn carry(&self) -> f64 {
        match self.algorithm {
            AlgorithmType::SdeDpmSolverPp => self.to.sigma / self.from.sigma * (-self.h).exp(),
            _ if self.data() => self.to.sigma / self.from.sigma,
            _ => self.to.alpha / self.from.alpha,
        }
    }

    /// Weights of the network's value and of its first and second derivative in `lambda h`: the exact integrals of
    /// 1, `s` and `s^2 / 2` against the solver's exponential.
    ///
    /// Source: Lu et al. 2022 (arXiv:2211.01095), Eqs. 9 to 11; the stochastic forms are their section 5.
    fn weights(&self) -> [f64; 3] {
        let (scale, rate) = match self.algorithm {
            AlgorithmType::SdeDpmSolverPp => (self.to.alpha, -2.0 * self.h),
            AlgorithmType::SdeDpmSolver => (2.0 * self.to.sigma, self.h),
            _ if self.data() => (self.to.alpha, -self.h),
            _ => (self.to.sigma, self.h),
        };
        let growth = rate.exp_m1();
        let first = growth / rate - 1.0;
        let second = (growth - rate) / (rate * rate) - 0.5;
        // diffusers' stochastic third order adds the half that the integral subtracts; its pictures are the standard here.
        let second = if self.algorithm == AlgorithmType::SdeDpmSolverPp {
            second + 1.0
        } else {
            second
        };
        [-scale * growth, -scale * first, -scale * second]
    }

    /// Weight of the derivative where the polynomial has degree 1.
    fn slope_weight(&self) -> f64 {
        let [value, slope, _] = self.weights();
        if self.solver == SolverType::Heun {
            slope
        } else {
            0.5 * value
        }
    }

    /// Weight of fresh noise.
    fn noise(&self) -> f64 {
        match self.algorithm {
            AlgorithmType::SdeDpmSolverPp => self.to.sigma * (-(-2.0 * self.h).exp_m1()).sqrt(),
            AlgorithmType::SdeDpmSolver => self.to.sigma * (2.0 * self.h).exp_m1().sqrt(),
            _ => 0.0,
        }
    }
}

/// What the network said at one level.
struct Known {
    value: Latents,
    lambda: f64,
}

/// The network's answer in the form the algorithm follows, and the clean latents it means.
pub(super) fn evaluate(
    walk: &mut Walk<'_>,
    x: &Latents,
    call: usize,
    data: bool,
) -> Result<(Latents, Latents), SamplingError> {
    let level = walk.plan.levels[call];
    if walk.class == Class::EdmDpm {
        let output = walk.predict(&edm_input(walk, x, level.sigma), call)?;
        let clean = bound_dynamic(walk.settings, edm_clean(walk, x, &output, level.sigma));
        let value = if data {
            clean.clone()
        } else {
            level.noise_beside(x, &clean)
        };
        return Ok((value, clean));
    }
    let output = walk.predict(x, call)?;
    let prediction = walk.settings.prediction_type;
    let clean = bound_dynamic(walk.settings, level.clean(prediction, x, &output));
    let value = match data {
        true => clean.clone(),
        false if walk.settings.thresholding => level.noise_beside(x, &clean),
        false => level.noise(prediction, x, &output),
    };
    Ok((value, clean))
}

/// The step of a call, from the level `back` calls before it.
fn step_of(walk: &Walk<'_>, call: usize, back: usize) -> Step {
    let (from, to) = (walk.plan.levels[call - back], walk.plan.levels[call + 1]);
    let settings = walk.settings;
    let h = to.lambda() - from.lambda();
    Step {
        from,
        to,
        h,
        algorithm: settings.algorithm_type,
        solver: settings.solver_type,
    }
}

/// Moves `x` by a step along `parts`, with fresh noise where the algorithm has it.
fn advance(
    walk: &mut Walk<'_>,
    x: &Latents,
    step: &Step,
    parts: &[(f64, &Latents)],
) -> Result<Latents, SamplingError> {
    // Drawn even where its weight is 0, as diffusers draws it.
    let noise = if step.stochastic() {
        Some(walk.noise(x)?)
    } else {
        None
    };
    if step.from == step.to {
        return Ok(x.clone());
    }
    let mut all = vec![(step.carry(), x)];
    all.extend_from_slice(parts);
    if let Some(noise) = &noise {
        all.push((step.noise(), noise));
    }
    Ok(mix(&all))
}

/// Multistep DPM-Solver: each step uses the network's last one, two or three answers.
///
/// Source: Lu et al. 2022 (arXiv:2211.01095), Algorithm 2, and arXiv:2206.00927 for noise prediction.
pub(super) fn multistep(walk: &mut Walk<'_>, mut x: Latents) -> Result<Latents, SamplingError> {
    let mut known: VecDeque<Known> = VecDeque::new();
    for call in walk.calls() {
        let step = step_of(walk, call, 0);
        let (value, clean) = evaluate(walk, &x, call, step.data())?;
        known.push_front(Known {
            value,
            lambda: step.from.lambda(),
        });
        known.truncate(walk.settings.solver_order);
        let order = multistep_order(walk, call).min(distinct(&known));
        let [value, slope, curve] = step.weights();
        let m0 = &known[0].value;
        x = match order {
            1 => advance(walk, &x, &step, &[(value, m0)])?,
            2 => {
                let per_r = step.slope_weight() * step.h / (known[0].lambda - known[1].lambda);
                advance(
                    walk,
                    &x,
                    &step,
                    &[(value + per_r, m0), (-per_r, &known[1].value)],
                )?
            }
            _ => {
                let [w0, w1, w2] = third_order(
                    [known[0].lambda, known[1].lambda, known[2].lambda],
                    step.h,
                    [value, slope, curve],
                );
                advance(
                    walk,
                    &x,
                    &step,
                    &[(w0, m0), (w1, &known[1].value), (w2, &known[2].value)],
                )?
            }
        };
        walk.report(call, &mut x, &clean)?;
    }
    Ok(x)
}

/// Weights of three answers, newest first, from those of value, slope and curvature.
fn third_order(lambdas: [f64; 3], h: f64, [value, slope, curve]: [f64; 3]) -> [f64; 3] {
    let (r0, r1) = ((lambdas[0] - lambdas[1]) / h, (lambdas[1] - lambdas[2]) / h);
    // Differences: d0 = (m0 - m1) / r0 and d1 = (m1 - m2) / r1;
    // slope = d0 + (d0 - d1) r0 / (r0 + r1), curvature = (d0 - d1) / (r0 + r1).
    let of_d0 = slope * (1.0 + r0 / (r0 + r1)) + curve / (r0 + r1);
    let of_d1 = -slope * r0 / (r0 + r1) - curve / (r0 + r1);
    [value + of_d0 / r0, -of_d0 / r0 + of_d1 / r1, -of_d1 / r1]
}

/// The order that a call may have by its place in the run.
fn multistep_order(walk: &Walk<'_>, call: usize) -> usize {
    let (settings, total) = (walk.settings, walk.plan.timesteps.len());
    let short = settings.lower_order_final && total < 15;
    let last = settings.euler_at_final || short || settings.final_sigmas_type == FinalSigmas::Zero;
    let most = match total - 1 - call {
        0 if last => 1,
        1 if short => 2,
        _ => 3,
    };
    settings.solver_order.min(most)
}

/// How many of the newest answers lie at levels apart from their neighbours'.
fn distinct(known: &VecDeque<Known>) -> usize {
    (1..known.len())
        .find(|i| known[*i].lambda == known[i - 1].lambda)
        .unwrap_or(known.len())
}

/// Singlestep DPM-Solver: groups of one, two or three calls, each group from the latents at its own beginning.
///
/// Source: Lu et al. 2022 (arXiv:2206.00927), Algorithms 1 and 2, and arXiv:2211.01095 for data prediction.
pub(super) fn singlestep(walk: &mut Walk<'_>, mut x: Latents) -> Result<Latents, SamplingError> {
    let orders = singlestep_orders(walk);
    let mut known: VecDeque<Known> = VecDeque::new();
    let mut base = x.clone();
    for call in walk.calls() {
        let here = step_of(walk, call, 0);
        let (value, clean) = evaluate(walk, &x, call, here.data())?;
        known.push_front(Known {
            value,
            lambda: here.from.lambda(),
        });
        known.truncate(walk.settings.solver_order);
        // Image-to-image may begin inside a group, whose earlier answers do not exist.
        let order = orders[call].min(distinct(&known));
        if order == 1 {
            base = x.clone();
        }
        let step = step_of(walk, call, order - 1);
        x = match order {
            1 => {
                let [value, ..] = step.weights();
                advance(walk, &base, &step, &[(value, &known[0].value)])?
            }
            2 => {
                let [value, ..] = step.weights();
                let per_r = step.slope_weight() * step.h / (known[0].lambda - known[1].lambda);
                advance(
                    walk,
                    &base,
                    &step,
                    &[(value - per_r, &known[1].value), (per_r, &known[0].value)],
                )?
            }
            _ => {
                let lambdas = [known[0].lambda, known[1].lambda, known[2].lambda];
                let [w0, w1, w2] = group_of_three(&step, lambdas);
                advance(
                    walk,
                    &base,
                    &step,
                    &[
                        (w0, &known[0].value),
                        (w1, &known[1].value),
                        (w2, &known[2].value),
                    ],
                )?
            }
        };
        walk.report(call, &mut x, &clean)?;
    }
    Ok(x)
}

/// Weights of a group's three answers, newest first, where the oldest lies at the group's beginning.
fn group_of_three(step: &Step, lambdas: [f64; 3]) -> [f64; 3] {
    let [value, slope, curve] = step.weights();
    let (r0, r1) = (
        (lambdas[0] - lambdas[2]) / step.h,
        (lambdas[1] - lambdas[2]) / step.h,
    );
    if step.solver != SolverType::Heun {
        return [slope / r0, 0.0, value - slope / r0];
    }
    // d0 = (m1 - m2) / r1 and d1 = (m0 - m2) / r0; slope = (r0 d0 - r1 d1) / (r0 - r1), curvature = 2 (d1 - d0) / (r0 - r1).
    let of_d0 = (slope * r0 - 2.0 * curve) / (r0 - r1);
    let of_d1 = (-slope * r1 + 2.0 * curve) / (r0 - r1);
    [of_d1 / r0, of_d0 / r1, value - of_d0 / r1 - of_d1 / r0]
}

/// The order of every call: groups 1, 2, ..., `solver_order`, the last ones shorter where the config says so.
fn singlestep_orders(walk: &Walk<'_>) -> Vec<usize> {
    let (settings, total) = (walk.settings, walk.plan.timesteps.len());
    let order = settings.solver_order;
    // Whole groups are a must where low orders may not end the run; otherwise they end it.
    let lower_final = settings.lower_order_final
        || !total.is_multiple_of(order)
        || settings.final_sigmas_type == FinalSigmas::Zero;
    let mut orders: Vec<usize> = (0..total).map(|call| call % order + 1).collect();
    // Where the last group would be whole, it is one shorter and a single call ends the run. So it does where the
    // run ends at no noise, which no polynomial reaches.
    if lower_final && total.is_multiple_of(order) || settings.final_sigmas_type == FinalSigmas::Zero
    {
        orders[total - 1] = 1;
    }
    orders
}

/// Exponential integrator on the noise, polynomial in log rho.
///
/// Source: Zhang & Chen 2022 (arXiv:2204.13902), Eq. 15 with the log-rho basis of its tAB-DEIS.
pub(super) fn deis(walk: &mut Walk<'_>, mut x: Latents) -> Result<Latents, SamplingError> {
    let mut known: VecDeque<Known> = VecDeque::new();
    for call in walk.calls() {
        let (from, to) = (walk.plan.levels[call], walk.plan.levels[call + 1]);
        let (value, clean) = evaluate(walk, &x, call, false)?;
        known.push_front(Known {
            value,
            lambda: from.lambda(),
        });
        known.truncate(walk.settings.solver_order);
        let order = deis_order(walk, call).min(distinct(&known));
        // The logarithm of rho = sigma / alpha is -lambda.
        let logs: Vec<f64> = known
            .iter()
            .take(order)
            .map(|known| -known.lambda)
            .collect();
        let mut parts = vec![(to.alpha / from.alpha, &x)];
        for (j, known) in known.iter().take(order).enumerate() {
            let weight = log_integral(&logs, j, -to.lambda()) - log_integral(&logs, j, logs[0]);
            parts.push((to.alpha * weight, &known.value));
        }
        let next = mix(&parts);
        x = next;
        walk.report(call, &mut x, &clean)?;
    }
    Ok(x)
}

fn deis_order(walk: &Walk<'_>, call: usize) -> usize {
    let (settings, total) = (walk.settings, walk.plan.timesteps.len());
    let short = settings.lower_order_final && total < 15;
    settings
        .solver_order
        .min(if short { total - call } else { 3 })
}

/// Antiderivative in rho, at `exp(log)`, of the polynomial in log rho that is 1 at `logs[j]` and 0 at the others.
fn log_integral(logs: &[f64], j: usize, log: f64) -> f64 {
    let others: Vec<f64> = logs
        .iter()
        .enumerate()
        .filter(|(k, _)| *k != j)
        .map(|(_, root)| *root)
        .collect();
    let scale: f64 = others.iter().map(|root| logs[j] - root).product();
    // With u = log rho: the integral of e^u is e^u, of u e^u is e^u (u - 1), of u^2 e^u is e^u (u^2 - 2u + 2).
    let polynomial = match others[..] {
        [] => 1.0,
        [c] => log - 1.0 - c,
        [c, d] => log * log - 2.0 * log + 2.0 - (c + d) * (log - 1.0) + c * d,
        _ => unreachable!("orders above 3 are refused with the config"),
    };
    log.exp() * polynomial / scale
}
