//! Pseudo linear multistep samplers.

use std::collections::VecDeque;

use super::alpha::final_alpha_bar;
use crate::level::{Level, mix};
use crate::run::Walk;
use crate::{Class, Latents, NoiseSchedule, SamplingError};

/// Weights of the last outputs, newest first, for 1 to 4 of them: Adams and Bashforth.
const MULTISTEP: [&[f64]; 4] = [
    &[1.0],
    &[3.0 / 2.0, -1.0 / 2.0],
    &[23.0 / 12.0, -16.0 / 12.0, 5.0 / 12.0],
    &[55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0],
];

/// The multistep mean of up to four outputs, newest first.
pub(super) fn multistep(outputs: &VecDeque<Latents>) -> Latents {
    let weights = MULTISTEP[outputs.len().min(4) - 1];
    mix(&weights.iter().copied().zip(outputs).collect::<Vec<_>>())
}

/// What a walk needs to move along its curve.
struct Transfer {
    schedule: NoiseSchedule,
    final_alpha_bar: f64,
}

impl Transfer {
    fn alpha_bar(&self, time: f64) -> f64 {
        if time < 0.0 {
            self.final_alpha_bar
        } else {
            self.schedule
                .alpha_bar((time as usize).min(self.schedule.len() - 1))
        }
    }

    /// Moves `x` from one timestep to another along a network's output.
    ///
    /// Source: Liu et al. 2022 (arXiv:2202.09778), Eq. 9.
    fn step(
        &self,
        walk: &Walk<'_>,
        x: &Latents,
        output: &Latents,
        from: f64,
        to: f64,
    ) -> (Latents, Latents) {
        let (from, to) = (self.alpha_bar(from), self.alpha_bar(to));
        let level = Level::from_alpha_bar(from);
        let prediction = walk.settings.prediction_type;
        let noise = level.noise(prediction, x, output);
        let denominator = from * (1.0 - to).sqrt() + (from * (1.0 - from) * to).sqrt();
        let next = mix(&[
            ((to / from).sqrt(), x),
            (-(to - from) / denominator, &noise),
        ]);
        (next, level.clean(prediction, x, output))
    }
}

/// Linear multistep along DDIM's curve; the first step is done twice, the second time with the mean of both outputs.
///
/// Source: Liu et al. 2022 (arXiv:2202.09778), Eqs. 12 and 13.
pub(super) fn pndm(walk: &mut Walk<'_>, mut x: Latents) -> Result<Latents, SamplingError> {
    let schedule = NoiseSchedule::of_class(Class::Pndm, walk.settings);
    let final_alpha_bar = final_alpha_bar(walk.settings, &schedule);
    let transfer = Transfer {
        schedule,
        final_alpha_bar,
    };
    let stride = (walk.settings.num_train_timesteps / walk.plan.steps) as f64;
    let mut outputs: VecDeque<Latents> = VecDeque::new();
    let mut calls = walk.calls();
    if !walk.settings.skip_prk_steps {
        x = runge_kutta(walk, &transfer, x, &mut outputs)?;
        calls.start = calls.start.max(12);
    }
    let mut first: Option<Latents> = None;
    for (done, call) in calls.enumerate() {
        let output = walk.predict(&x, call)?;
        let time = walk.plan.timesteps[call];
        let repeats = done == 1 && walk.settings.skip_prk_steps;
        let (mean, base, from, to) = if let (true, Some(start)) = (repeats, first.take()) {
            (
                mix(&[(0.5, &output), (0.5, &outputs[0])]),
                start,
                time + stride,
                time,
            )
        } else {
            outputs.push_front(output);
            outputs.truncate(4);
            first = Some(x.clone());
            (multistep(&outputs), x.clone(), time, time - stride)
        };
        let (next, clean) = transfer.step(walk, &base, &mean, from, to);
        x = next;
        walk.report(call, &mut x, &clean)?;
    }
    Ok(x)
}

/// The first three steps by Runge and Kutta's fourth-order method, four calls each.
///
/// Source: Liu et al. 2022 (arXiv:2202.09778), Eq. 14.
fn runge_kutta(
    walk: &mut Walk<'_>,
    transfer: &Transfer,
    mut x: Latents,
    outputs: &mut VecDeque<Latents>,
) -> Result<Latents, SamplingError> {
    const WEIGHTS: [f64; 4] = [1.0 / 6.0, 1.0 / 3.0, 1.0 / 3.0, 1.0 / 6.0];
    let half = (walk.settings.num_train_timesteps / walk.plan.steps / 2) as f64;
    let mut start = x.clone();
    let mut sum: Option<Latents> = None;
    for (done, call) in walk.calls().take_while(|call| *call < 12).enumerate() {
        let output = walk.predict(&x, call)?;
        let part = done % 4;
        if part == 0 {
            start = x.clone();
            outputs.push_front(output.clone());
        }
        let weighted = mix(&[(WEIGHTS[part], &output)]);
        let total = sum.take().map_or(weighted.clone(), |sum| {
            mix(&[(1.0, &sum), (1.0, &weighted)])
        });
        let direction = if part == 3 { total.clone() } else { output };
        sum = (part < 3).then_some(total);
        let to = walk.plan.timesteps[call] - if part % 2 == 0 { half } else { 0.0 };
        let from = walk.plan.timesteps[walk.plan.first + done / 4 * 4];
        let (next, clean) = transfer.step(walk, &start, &direction, from, to);
        x = next;
        walk.report(call, &mut x, &clean)?;
    }
    Ok(x)
}

/// Linear multistep of fourth order on a circle of noise and data.
///
/// Source: Liu et al. 2022 (arXiv:2202.09778), with the improved start of its authors' code.
pub(super) fn ipndm(walk: &mut Walk<'_>, mut x: Latents) -> Result<Latents, SamplingError> {
    let mut noises: VecDeque<Latents> = VecDeque::new();
    for call in walk.calls() {
        let output = walk.predict(&x, call)?;
        let (from, to) = (walk.plan.levels[call], walk.plan.levels[call + 1]);
        noises.push_front(mix(&[(from.sigma, &x), (from.alpha, &output)]));
        noises.truncate(4);
        let noise = multistep(&noises);
        let weight = 1.0 / from.alpha.max(1e-8);
        let clean = mix(&[(weight, &x), (-from.sigma * weight, &noise)]);
        x = mix(&[(to.alpha, &clean), (to.sigma, &noise)]);
        walk.report(call, &mut x, &clean)?;
    }
    Ok(x)
}
