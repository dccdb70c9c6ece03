//! Samplers on `alpha_bar` at whole timesteps: DDPM and DDIM.

use crate::config::{Settings, VarianceType};
use crate::level::{Level, mix};
use crate::run::Walk;
use crate::threshold::bound;
use crate::{Class, Latents, NoiseSchedule, SamplingError};

/// Share of data left at the end: none of the noise, or as much as at the first timestep.
pub(super) fn final_alpha_bar(settings: &Settings, schedule: &NoiseSchedule) -> f64 {
    if settings.set_alpha_to_one {
        1.0
    } else {
        schedule.alpha_bar(0)
    }
}

/// One ancestral step of the learned reverse process after another.
///
/// Source: Ho et al. 2020 (arXiv:2006.11239), Eqs. 6 and 7, between the timesteps that are visited.
pub(super) fn ddpm(walk: &mut Walk<'_>, mut x: Latents) -> Result<Latents, SamplingError> {
    let schedule = NoiseSchedule::of_class(Class::Ddpm, walk.settings);
    for call in walk.calls() {
        let output = walk.predict(&x, call)?;
        let time = walk.plan.timesteps[call];
        let from = schedule.alpha_bar(time as usize);
        let to = walk
            .plan
            .timesteps
            .get(call + 1)
            .map_or(1.0, |next| schedule.alpha_bar(*next as usize));
        let clean = Level::from_alpha_bar(from).clean(walk.settings.prediction_type, &x, &output);
        let clean = bound(walk.settings, clean);
        let kept = from / to; // the alpha of this step
        let clean_weight = to.sqrt() * (1.0 - kept) / (1.0 - from);
        let noisy_weight = kept.sqrt() * (1.0 - to) / (1.0 - from);
        let mut next = mix(&[(clean_weight, &clean), (noisy_weight, &x)]);
        if time > 0.0 {
            let noise = walk.noise(&x)?;
            next = mix(&[
                (1.0, &next),
                (ddpm_deviation(walk.settings, from, to), &noise),
            ]);
        }
        x = next;
        walk.report(call, &mut x, &clean)?;
    }
    Ok(x)
}

/// Standard deviation of the noise that a step from `alpha_bar` `from` to `to` puts back.
fn ddpm_deviation(settings: &Settings, from: f64, to: f64) -> f64 {
    let beta = 1.0 - from / to;
    let variance = match settings.variance_type {
        Some(VarianceType::FixedLarge) => beta,
        Some(VarianceType::FixedSmall | VarianceType::FixedSmallLog) | None => {
            (1.0 - to) / (1.0 - from) * beta
        }
    };
    variance.max(1e-20).sqrt()
}

/// Steps that keep the direction to the noise and replace a share `eta` of it by fresh noise.
///
/// Source: Song et al. 2020 (arXiv:2010.02502), Eqs. 12 and 16.
pub(super) fn ddim(walk: &mut Walk<'_>, mut x: Latents) -> Result<Latents, SamplingError> {
    let schedule = NoiseSchedule::of_class(Class::Ddim, walk.settings);
    let stride = (walk.settings.num_train_timesteps / walk.plan.steps) as f64;
    for call in walk.calls() {
        let output = walk.predict(&x, call)?;
        let time = walk.plan.timesteps[call];
        let level = schedule.level(time as usize);
        // The next timestep is counted, not looked up: so does diffusers, whatever the spacing.
        let to = if time >= stride {
            schedule.alpha_bar((time - stride) as usize)
        } else {
            final_alpha_bar(walk.settings, &schedule)
        };
        let prediction = walk.settings.prediction_type;
        let clean = bound(walk.settings, level.clean(prediction, &x, &output));
        let noise = match walk.unguided(&x)? {
            Some(unguided) => level.noise(prediction, &x, &unguided),
            None if walk.options.use_clipped_model_output => level.noise_beside(&x, &clean),
            None => level.noise(prediction, &x, &output),
        };
        let from = schedule.alpha_bar(time as usize);
        let deviation = walk.eta
            * ((1.0 - to) / (1.0 - from) * (1.0 - from / to))
                .max(0.0)
                .sqrt();
        let direction = (1.0 - to - deviation * deviation).max(0.0).sqrt();
        x = mix(&[(to.sqrt(), &clean), (direction, &noise)]);
        if walk.eta > 0.0 {
            let fresh = walk.noise(&x)?;
            x = mix(&[(1.0, &x), (deviation, &fresh)]);
        }
        walk.report(call, &mut x, &clean)?;
    }
    Ok(x)
}
