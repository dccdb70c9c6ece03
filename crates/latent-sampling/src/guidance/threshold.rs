//! Keeping strongly guided latents within the range of others.

use ndarray::Axis;
use serde::{Deserialize, Serialize};

use crate::threshold::{clamped_to_quantile, quantile};
use crate::{Latents, SamplingError};

/// Dynamic thresholding of the clean latents that a guided output means.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Thresholding {
    /// Share of the values that are let be; larger ones are clamped. Above 0, at most 1.
    pub percentile: f64,
    /// Strength of guidance whose spread each channel gets back; without one each picture is clamped and scaled to 1, which
    /// is for networks of pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mimic: Option<f64>,
}

impl Default for Thresholding {
    fn default() -> Self {
        Self {
            percentile: 1.0,
            mimic: None,
        }
    }
}

impl Thresholding {
    /// Refuses numbers that mean nothing.
    ///
    /// # Errors
    /// [`SamplingError::Option`] with what is needed.
    pub fn check(&self) -> Result<(), SamplingError> {
        let refuse = |option, found: f64, needed| {
            Err(SamplingError::Option {
                option,
                found: found.to_string(),
                needed,
            })
        };
        if !(self.percentile > 0.0 && self.percentile <= 1.0) {
            return refuse(
                "thresholding.percentile",
                self.percentile,
                "above 0 and at most 1, as in 0.995",
            );
        }
        match self.mimic {
            Some(mimic) if !(0.0..=100.0).contains(&mimic) => {
                refuse("thresholding.mimic", mimic, "from 0 to 100")
            }
            _ => Ok(()),
        }
    }
}

/// Clamps each picture of clean latents to the quantile of its absolute values, at least 1, and scales it back to 1.
///
/// Source: Saharia et al. 2022 (arXiv:2205.11487), section 2.3.
pub fn clamp(clean: Latents, percentile: f64) -> Latents {
    clamped_to_quantile(clean, percentile, f64::INFINITY)
}

/// Clean latents of strong guidance with the spread of weaker ones: about its mean each channel is clamped to the quantile of
/// its absolute values, or to the largest of `weaker` where that is more, and scaled to the largest of `weaker`.
///
/// # Panics
/// If the shapes differ.
///
/// Source: sd-dynamic-thresholding, with separate channels, from the mean, by absolute values.
pub fn mimic(mut strong: Latents, weaker: &Latents, percentile: f64) -> Latents {
    assert_eq!(strong.shape(), weaker.shape(), "mimic: shapes differ");
    for (mut strong, weaker) in strong.axis_iter_mut(Axis(0)).zip(weaker.axis_iter(Axis(0))) {
        for (mut strong, weaker) in strong.axis_iter_mut(Axis(0)).zip(weaker.axis_iter(Axis(0))) {
            let mean = mean(strong.iter());
            let about = |value: &f32, mean: f64| (f64::from(*value) - mean).abs() as f32;
            let mut sizes: Vec<f32> = strong.iter().map(|value| about(value, mean)).collect();
            let least = self::mean(weaker.iter());
            let target = weaker.iter().map(|value| about(value, least));
            let target = f64::from(target.fold(0.0, f32::max));
            let most = quantile(&mut sizes, percentile).max(target);
            if most > 0.0 {
                strong.mapv_inplace(|value| {
                    let centred = (f64::from(value) - mean).max(-most).min(most);
                    (centred / most * target + mean) as f32
                });
            }
        }
    }
    strong
}

fn mean<'a>(values: impl ExactSizeIterator<Item = &'a f32>) -> f64 {
    let count = values.len().max(1) as f64;
    values.map(|value| f64::from(*value)).sum::<f64>() / count
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CounterNoise;

    #[test]
    fn strong_guidance_gets_the_spread_of_the_one_it_mimics_and_keeps_its_mean() {
        let noise = |stream| CounterNoise::new(1, 1, stream).normals([2, 3, 4, 5]);
        let (strong, weak) = (noise(0) * 9.0 + 2.0, noise(1));
        let found = mimic(strong.clone(), &weak, 1.0);
        let channels = |latents: &Latents| -> Vec<(f64, f64)> {
            let channels = latents.outer_iter().flat_map(|one| {
                let each = one.outer_iter().map(|channel| {
                    let mean = mean(channel.iter());
                    let off = channel.iter().map(|v| (f64::from(*v) - mean).abs());
                    (mean, off.fold(0.0, f64::max))
                });
                each.collect::<Vec<_>>()
            });
            channels.collect()
        };
        let (found, strong, weak) = (channels(&found), channels(&strong), channels(&weak));
        for ((found, strong), weak) in found.iter().zip(strong).zip(weak) {
            assert!((found.0 - strong.0).abs() < 1e-5, "{found:?} {strong:?}");
            assert!((found.1 - weak.1).abs() < 1e-5, "{found:?} {weak:?}");
        }
    }

    #[test]
    fn a_percentile_and_a_strength_out_of_range_are_refused_by_name() {
        let of = |percentile, mimic| Thresholding { percentile, mimic }.check();
        for wrong in [of(0.0, None), of(1.1, None), of(f64::NAN, None)] {
            assert!(wrong.unwrap_err().to_string().contains("percentile"));
        }
        assert!(
            of(1.0, Some(-1.0))
                .unwrap_err()
                .to_string()
                .contains("mimic")
        );
        of(0.995, Some(7.0)).unwrap();
    }
}
