//! Keeping a clean estimate inside the data's range; for networks that work on pixels.

use ndarray::{ArrayViewMut3, Axis};

use crate::{Latents, Settings};

/// Applies what the settings ask for: dynamic thresholding, else clipping, else nothing.
pub(crate) fn bound(settings: &Settings, clean: Latents) -> Latents {
    if settings.thresholding {
        clamped_to_quantile(
            clean,
            settings.dynamic_thresholding_ratio,
            settings.sample_max_value,
        )
    } else if settings.clip_sample {
        let range = settings.clip_sample_range as f32;
        clean.mapv_into(|value| value.clamp(-range, range))
    } else {
        clean
    }
}

/// As [`bound`] for the classes that threshold but never clip.
pub(crate) fn bound_dynamic(settings: &Settings, clean: Latents) -> Latents {
    if settings.thresholding {
        clamped_to_quantile(
            clean,
            settings.dynamic_thresholding_ratio,
            settings.sample_max_value,
        )
    } else {
        clean
    }
}

/// Clamps each picture to its own quantile of absolute values, between 1 and `most`, and scales it back to 1.
///
/// Source: Saharia et al. 2022 (arXiv:2205.11487), section 2.3.
pub(crate) fn clamped_to_quantile(mut clean: Latents, ratio: f64, most: f64) -> Latents {
    for picture in clean.axis_iter_mut(Axis(0)) {
        clamp_one(picture, ratio, most);
    }
    clean
}

fn clamp_one(mut picture: ArrayViewMut3<'_, f32>, ratio: f64, most: f64) {
    let mut sizes: Vec<f32> = picture.iter().map(|value| value.abs()).collect();
    if sizes.is_empty() {
        return;
    }
    let quantile = quantile(&mut sizes, ratio);
    // Not `clamp`: a `sample_max_value` below 1 wins over the 1, as in torch.
    let limit = quantile.max(1.0).min(most) as f32;
    picture.mapv_inplace(|value| value.max(-limit).min(limit) / limit);
}

/// The value that a share of all is not above, straight between neighbours as torch has it; 0 of none.
pub(crate) fn quantile(values: &mut [f32], share: f64) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    values.sort_by(f32::total_cmp);
    let position = share * (values.len() - 1) as f64;
    let (low, high) = (
        values[position.floor() as usize],
        values[position.ceil() as usize],
    );
    f64::from(low) + position.fract() * f64::from(high - low)
}
