//! Noise between two noises.

use ndarray::{Axis, Zip};

use crate::Latents;

/// Above this mean cosine two noises are one.
const PARALLEL: f64 = 0.9995;

/// Noise `share` of the way from `from` to `to`, 0 to 1, along the sphere, so that it stays as long as noise is.
/// Arrays `[n, c, h, w]`.
///
/// Each column `[h]` is turned by its own angle, as A1111's variations have it: the same two seeds then give the same
/// picture in both.
///
/// # Panics
/// If the shapes differ.
///
/// Source: Shoemake 1985, "Animating Rotation with Quaternion Curves", SIGGRAPH; AUTOMATIC1111
/// stable-diffusion-webui's `slerp`.
pub fn slerp(from: &Latents, to: &Latents, share: f64) -> Latents {
    assert_eq!(from.shape(), to.shape(), "slerp: shapes differ");
    let length = |noise: &Latents| {
        let squares = noise.mapv(|value| f64::from(value).powi(2));
        squares.sum_axis(Axis(2)).mapv(f64::sqrt)
    };
    let product = Zip::from(from)
        .and(to)
        .map_collect(|a, b| f64::from(*a) * f64::from(*b));
    let cosine = product.sum_axis(Axis(2)) / (length(from) * length(to));
    let mut between = from.clone();
    let columns = between.lanes_mut(Axis(2));
    let (mean, count) = (cosine.sum(), cosine.len().max(1) as f64);
    if mean / count > PARALLEL {
        return from.clone();
    }
    Zip::from(columns)
        .and(to.lanes(Axis(2)))
        .and(&cosine)
        .for_each(|mut column, to, &cosine| {
            let angle = cosine.clamp(-1.0, 1.0).acos();
            let (near, far) = if angle.sin() > 1e-6 {
                let part = |share: f64| (share * angle).sin() / angle.sin();
                (part(1.0 - share), part(share))
            } else {
                // A column of one value has no angle to turn by.
                (1.0 - share, share)
            };
            column.zip_mut_with(&to, |value, to| {
                *value = (near * f64::from(*value) + far * f64::from(*to)) as f32;
            });
        });
    between
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TorchGenerator;

    fn small(values: [f32; 8]) -> Latents {
        Latents::from_shape_vec((1, 2, 2, 2), values.to_vec()).unwrap()
    }

    #[test]
    fn between_two_noises_lies_what_a1111_computes() {
        let from = small([1.0, 2.0, 3.0, -1.0, 0.5, -2.0, 1.5, 0.25]);
        let to = small([-1.0, 1.0, 2.0, 4.0, 1.0, 0.0, -0.5, 1.0]);
        // A1111's function on torch 2.15.0.
        let expected = [
            0.4088, 2.4699, 2.8771, 1.1226, 0.9670, -1.7095, 1.1634, 0.6374,
        ];
        for (found, expected) in slerp(&from, &to, 0.3).iter().zip(expected) {
            assert!((found - expected).abs() < 1e-4, "{found} is not {expected}");
        }
    }

    #[test]
    fn both_ends_are_the_noises_themselves_and_the_middle_is_as_long() {
        let draw = |seed| TorchGenerator::new(seed).randn_latents([1, 4, 16, 16]);
        let (a, b) = (draw(1), draw(2));
        let apart = |x: &Latents, y: &Latents| (x - y).iter().fold(0.0f32, |m, v| m.max(v.abs()));
        assert!(apart(&slerp(&a, &b, 0.0), &a) < 1e-6);
        assert!(apart(&slerp(&a, &b, 1.0), &b) < 1e-6);
        assert!(apart(&slerp(&a, &a, 0.5), &a) < 1e-6);
        let power = |x: &Latents| x.iter().map(|v| v * v).sum::<f32>() / x.len() as f32;
        assert!((power(&slerp(&a, &b, 0.5)) - 1.0).abs() < 0.1);
    }

    #[test]
    fn a_latent_one_value_high_gives_numbers() {
        let draw = |seed| TorchGenerator::new(seed).randn_latents([1, 4, 1, 8]);
        assert!(slerp(&draw(1), &draw(2), 0.5).iter().all(|v| v.is_finite()));
    }
}
