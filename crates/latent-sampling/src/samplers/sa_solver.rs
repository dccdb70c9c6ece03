//! SA-Solver: stochastic Adams methods, a predictor and a corrector that share each step's noise.

use std::collections::VecDeque;

use super::dpm::evaluate;
use super::sigma::lagrange;
use crate::config::AlgorithmType;
use crate::level::{Level, mix};
use crate::run::Walk;
use crate::{Latents, SamplingError};

/// What the network said at one level.
struct Known {
    value: Latents,
    level: Level,
}

/// The step that led to the present latents, kept for its correction.
struct Before {
    latents: Latents,
    noise: Latents,
    level: Level,
    tau: f64,
    order: usize,
}

/// Share of fresh noise at a timestep. Source: diffusers' default `tau_func`.
fn tau(timestep: f64) -> f64 {
    if (200.0..=800.0).contains(&timestep) {
        1.0
    } else {
        0.0
    }
}

/// Source: Xue et al. 2023 (arXiv:2309.05019), Algorithm 1, with the coefficients of its authors' code.
pub(super) fn sa_solver(walk: &mut Walk<'_>, mut x: Latents) -> Result<Latents, SamplingError> {
    let data = walk.settings.algorithm_type != AlgorithmType::NoisePrediction;
    let most = (walk.settings.predictor_order).max(walk.settings.corrector_order - 1);
    let mut known: VecDeque<Known> = VecDeque::new();
    let mut before: Option<Before> = None;
    for call in walk.calls() {
        let level = walk.plan.levels[call];
        let (value, clean) = evaluate(walk, &x, call, data)?;
        known.push_front(Known { value, level });
        if let Some(before) = &before {
            let solver = Solver::new(before.level, level, before.tau, data);
            x = solver.corrected(before, &known);
        }
        known.truncate(most);
        let noise = walk.noise(&x)?;
        let left = walk.plan.timesteps.len() - call;
        let limit = |order: usize, left: usize| {
            if walk.settings.lower_order_final {
                order.min(left)
            } else {
                order
            }
        };
        let order = limit(walk.settings.predictor_order, left).min(known.len());
        let corrector = limit(walk.settings.corrector_order, left + 1).min(known.len() + 1);
        let tau = tau(walk.plan.timesteps[call]);
        let solver = Solver::new(level, walk.plan.levels[call + 1], tau, data);
        let next = solver.predicted(&x, &noise, &known, order);
        before = Some(Before {
            latents: std::mem::replace(&mut x, next),
            noise,
            level,
            tau,
            order: corrector,
        });
        walk.report(call, &mut x, &clean)?;
    }
    Ok(x)
}

/// One step between two levels.
struct Solver {
    from: Level,
    to: Level,
    /// Growth of the logarithm of signal to noise.
    h: f64,
    tau: f64,
    data: bool,
}

impl Solver {
    fn new(from: Level, to: Level, tau: f64, data: bool) -> Self {
        let h = to.lambda() - from.lambda();
        Self {
            from,
            to,
            h,
            tau,
            data,
        }
    }

    /// Rate of the solver's exponential in the logarithm of signal to noise.
    fn rate(&self) -> f64 {
        if self.data {
            1.0 + self.tau * self.tau
        } else {
            -1.0
        }
    }

    /// Weights of the network's answers at `levels`, newest first: the polynomial through them, integrated.
    fn weights(&self, levels: &[Level]) -> Vec<f64> {
        let lambda = self.to.lambda();
        let nodes: Vec<f64> = levels.iter().map(|level| level.lambda() - lambda).collect();
        let moments = moments(self.rate(), self.h, nodes.len());
        (0..nodes.len())
            .map(|j| {
                let polynomial = lagrange(&nodes, j);
                let integral: f64 = polynomial.iter().zip(&moments).map(|(c, m)| c * m).sum();
                self.scale() * integral
            })
            .collect()
    }

    fn scale(&self) -> f64 {
        let share = 1.0 + self.tau * self.tau;
        if self.data {
            share * self.to.alpha
        } else {
            -share * self.to.sigma
        }
    }

    /// What the authors' code adds to the newest of two answers' weights and takes from the other's, times the distance
    /// in `lambda` of the two: a term beyond the method's order that helps in few steps.
    fn second_order(&self) -> f64 {
        if !self.data {
            return 0.0;
        }
        let (rate, h) = (self.rate(), self.h);
        self.scale() * (h * h / 2.0 - (h * rate - 1.0 + (-rate * h).exp()) / (rate * rate))
    }

    fn predicted(
        &self,
        x: &Latents,
        noise: &Latents,
        known: &VecDeque<Known>,
        order: usize,
    ) -> Latents {
        let levels: Vec<Level> = known.iter().take(order).map(|k| k.level).collect();
        let apart = |pair: &[Level]| pair[0] != pair[1];
        let order = 1 + levels.windows(2).take_while(|pair| apart(pair)).count();
        let mut weights = self.weights(&levels[..order]);
        if order == 2 {
            let extra = self.second_order() / (levels[0].lambda() - levels[1].lambda());
            weights[0] += extra;
            weights[1] -= extra;
        }
        self.moved(x, noise, known, &weights)
    }

    /// The step done again with the network's answer at its end, which is the newest of `known`.
    fn corrected(&self, before: &Before, known: &VecDeque<Known>) -> Latents {
        let levels: Vec<Level> = known.iter().take(before.order).map(|k| k.level).collect();
        let apart = |pair: &[Level]| pair[0] != pair[1];
        let order = 1 + levels.windows(2).take_while(|pair| apart(pair)).count();
        let mut weights = self.weights(&levels[..order]);
        if order == 2 {
            let extra = self.second_order() / self.h;
            weights[0] += extra;
            weights[1] -= extra;
        }
        self.moved(&before.latents, &before.noise, known, &weights)
    }

    fn moved(
        &self,
        x: &Latents,
        noise: &Latents,
        known: &VecDeque<Known>,
        weights: &[f64],
    ) -> Latents {
        let (h, square) = (self.h, self.tau * self.tau);
        let (carry, deviation) = if self.data {
            (
                (-square * h).exp() * self.to.sigma / self.from.sigma,
                self.to.sigma * (-(-2.0 * square * h).exp_m1()).max(0.0).sqrt(),
            )
        } else {
            (
                self.to.alpha / self.from.alpha,
                self.tau * self.to.sigma * (2.0 * h).exp_m1().max(0.0).sqrt(),
            )
        };
        let mut parts = vec![(carry, x), (deviation, noise)];
        parts.extend(weights.iter().copied().zip(known.iter().map(|k| &k.value)));
        mix(&parts)
    }
}

/// Integrals of `u^k exp(rate u)` over the last `h` before 0, for `k` below `count`.
fn moments(rate: f64, h: f64, count: usize) -> Vec<f64> {
    let start = (-rate * h).exp();
    let mut moments = vec![-(-rate * h).exp_m1() / rate];
    for k in 1..count {
        let edge = -(-h).powi(k as i32) * start;
        moments.push((edge - k as f64 * moments[k - 1]) / rate);
    }
    moments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_equal_sums_over_fine_slices() {
        for (rate, h) in [(1.0, 0.7), (2.0, 1.5), (-1.0, 0.4)] {
            let n = 200_000;
            for (k, found) in moments(rate, h, 4).into_iter().enumerate() {
                let slices = (0..n).map(|i| -h + h * (f64::from(i) + 0.5) / f64::from(n));
                let sum: f64 = slices.map(|u| u.powi(k as i32) * (rate * u).exp()).sum();
                let expected = sum * h / f64::from(n);
                assert!((found - expected).abs() < 1e-9, "{rate} {h} {k}");
            }
        }
    }
}
