//! Keeping a clean estimate inside the data's range; for networks that work on pixels.

use ndarray::{ArrayViewMut3, Axis};

use crate::{Latents, Settings};

/// Applies what the settings ask for: dynamic thresholding, else clipping, else nothing.
pub(crate) fn bound(settings: &Settings, clean: Latents) -> Latents {
    if settings.thresholding {
        dynamic(
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
        dynamic(
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
fn dynamic(mut clean: Latents, ratio: f64, most: f64) -> Latents {
    for picture in clean.axis_iter_mut(Axis(0)) {
        dynamic_one(picture, ratio, most);
    }
    clean
}

fn dynamic_one(mut picture: ArrayViewMut3<'_, f32>, ratio: f64, most: f64) {
    let mut sizes: Vec<f32> = picture.iter().map(|value| value.abs()).collect();
    if sizes.is_empty() {
        return;
    }
    sizes.sort_by(f32::total_cmp);
    let position = ratio * (sizes.len() - 1) as f64;
    let (low, high) = (
        sizes[position.floor() as usize],
        sizes[position.ceil() as usize],
    );
    let quantile = f64::from(low) + position.fract() * f64::from(high - low);
    // Not `clamp`: a `sample_max_value` below 1 wins over the 1, as in torch.
    let limit = quantile.max(1.0).min(most) as f32;
    picture.mapv_inplace(|value| value.max(-limit).min(limit) / limit);
}
