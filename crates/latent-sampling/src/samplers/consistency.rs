//! Samplers of distilled models, which jump to clean latents and back to noise.

use crate::level::{Level, mix};
use crate::run::Walk;
use crate::threshold::bound;
use crate::{Class, Latents, NoiseSchedule, SamplingError};

/// Clean latents at each call, noised again to the next timestep; the last call's stay clean.
///
/// Source: Luo et al. 2023 (arXiv:2310.04378), Algorithm 3.
pub(super) fn lcm(walk: &mut Walk<'_>, mut x: Latents) -> Result<Latents, SamplingError> {
    let schedule = NoiseSchedule::of_class(Class::Lcm, walk.settings);
    for call in walk.calls() {
        let output = walk.predict(&x, call)?;
        let time = walk.plan.timesteps[call];
        let clean = schedule
            .level(time as usize)
            .clean(walk.settings.prediction_type, &x, &output);
        let clean = bound(walk.settings, clean);
        // Boundary condition of Song et al. 2023 (arXiv:2303.01469), Eq. 5 with sigma_data 1/2.
        let scaled = time * walk.settings.timestep_scaling;
        let (skip, out) = (
            0.25 / (scaled * scaled + 0.25),
            scaled / (scaled * scaled + 0.25).sqrt(),
        );
        let clean = mix(&[(out, &clean), (skip, &x)]);
        x = match walk.plan.timesteps.get(call + 1) {
            Some(next) => {
                let level = schedule.level(*next as usize);
                let noise = walk.noise(&x)?;
                level.noisy(&clean, &noise)
            }
            None => clean.clone(),
        };
        walk.report(call, &mut x, &clean)?;
    }
    Ok(x)
}

/// As [`lcm`], but jumping to a timestep below the next one (by the share `eta`) and adding noise from there.
///
/// Source: Zheng et al. 2024 (arXiv:2402.19159), Algorithm 2.
pub(super) fn tcd(walk: &mut Walk<'_>, mut x: Latents) -> Result<Latents, SamplingError> {
    let schedule = NoiseSchedule::of_class(Class::Tcd, walk.settings);
    for call in walk.calls() {
        let output = walk.predict(&x, call)?;
        let time = walk.plan.timesteps[call];
        let next = walk.plan.timesteps.get(call + 1).copied();
        let below = ((1.0 - walk.eta) * next.unwrap_or(0.0)).floor() as usize;
        let (level, prediction) = (schedule.level(time as usize), walk.settings.prediction_type);
        let clean = bound(walk.settings, level.clean(prediction, &x, &output));
        let noise = level.noise(prediction, &x, &output);
        let below = schedule.alpha_bar(below);
        x = Level::from_alpha_bar(below).noisy(&clean, &noise);
        if let (true, Some(next)) = (walk.eta > 0.0, next) {
            let kept = schedule.alpha_bar(next as usize) / below;
            let fresh = walk.noise(&x)?;
            x = Level::from_alpha_bar(kept).noisy(&x, &fresh);
        }
        walk.report(call, &mut x, &clean)?;
    }
    Ok(x)
}
