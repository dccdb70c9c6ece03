//! Steering a network's output by comparing it with its output for another condition.

mod meaning;
mod method;
pub mod threshold;

pub use meaning::Meaning;
pub use method::{Apg, ApgSpace, Interval, Measure, Method, Pag};
pub use threshold::Thresholding;

use ndarray::{ArrayView3, Axis};

use crate::Latents;
use crate::level::mix;

/// Classifier-free guidance: `uncond + strength * (cond - uncond)`; 1 leaves `cond` as it is. Arrays `[n, c, h, w]`.
///
/// # Panics
/// If the shapes differ.
///
/// Source: Ho & Salimans 2022 (arXiv:2207.12598), Eq. 6, with `strength = 1 + w`.
pub fn guide(cond: &Latents, uncond: &Latents, strength: f64) -> Latents {
    assert_eq!(cond.shape(), uncond.shape(), "guide: shapes differ");
    mix(&[(1.0 - strength, uncond), (strength, cond)])
}

/// Several conditions at once: `uncond` and of each condition its share of `cond - uncond`; one whole share leaves `cond` as it
/// is. Arrays `[n, c, h, w]`.
///
/// # Panics
/// If the shapes differ.
///
/// Source: Liu et al. 2022 (arXiv:2206.01714), Eq. 11, without its strength, which is [`guide`]'s.
pub fn compose(conds: &[(f64, Latents)], uncond: &Latents) -> Latents {
    let same = conds.iter().all(|(_, cond)| cond.shape() == uncond.shape());
    assert!(same, "compose: shapes differ");
    let whole: f64 = conds.iter().map(|(share, _)| share).sum();
    let shares = conds.iter().map(|(share, cond)| (*share, cond));
    let terms: Vec<(f64, &Latents)> = [(1.0 - whole, uncond)].into_iter().chain(shares).collect();
    mix(&terms)
}

/// `guided` moved away from perturbed outputs: each condition's way from its perturbed output to its own, by its share and
/// `strength`, is added. `pairs` are of a condition its share, its output and its perturbed one.
///
/// # Panics
/// If the shapes differ.
///
/// Source: Ahn et al. 2024 (arXiv:2403.17377), Eq. 14.
pub fn perturb(guided: &Latents, pairs: &[(f64, Latents, Latents)], strength: f64) -> Latents {
    let mut terms = vec![(1.0, guided)];
    for (share, output, perturbed) in pairs {
        assert_eq!(output.shape(), guided.shape(), "perturb: shapes differ");
        assert_eq!(perturbed.shape(), guided.shape(), "perturb: shapes differ");
        terms.extend([(strength * share, output), (-strength * share, perturbed)]);
    }
    mix(&terms)
}

/// Brings the guided output part of the way (`phi`, 0 to 1) back to the standard deviation of the conditional one.
///
/// Deviations are taken per picture over `[c, h, w]`, with Bessel's correction, so that a picture does not depend
/// on the batch it is drawn in. A picture of no deviation stays as it is.
///
/// # Panics
/// If the shapes differ.
///
/// Source: Lin et al. 2023 (arXiv:2305.08891), Eqs. 15 and 16.
pub fn rescale(mut guided: Latents, cond: &Latents, phi: f64) -> Latents {
    assert_eq!(guided.shape(), cond.shape(), "rescale: shapes differ");
    for (mut picture, cond) in guided.axis_iter_mut(Axis(0)).zip(cond.axis_iter(Axis(0))) {
        let deviation = deviation(picture.view());
        if deviation > 0.0 {
            let factor = phi * self::deviation(cond) / deviation + (1.0 - phi);
            picture.mapv_inplace(|value| (f64::from(value) * factor) as f32);
        }
    }
    guided
}

/// Standard deviation with Bessel's correction; 0 for fewer than two values.
fn deviation(picture: ArrayView3<'_, f32>) -> f64 {
    if picture.len() < 2 {
        return 0.0;
    }
    let count = picture.len() as f64;
    let mean = picture.iter().map(|value| f64::from(*value)).sum::<f64>() / count;
    let squares: f64 = picture
        .iter()
        .map(|value| (f64::from(*value) - mean).powi(2))
        .sum();
    (squares / (count - 1.0)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CounterNoise;

    fn noise(stream: u32) -> Latents {
        CounterNoise::new(1, 1, stream).normals([2, 3, 4, 5])
    }

    #[test]
    fn a_strength_of_one_gives_the_conditional_output_bit_for_bit() {
        assert_eq!(guide(&noise(0), &noise(1), 1.0), noise(0));
        assert_eq!(guide(&noise(0), &noise(1), 0.0), noise(1));
    }

    #[test]
    fn guidance_moves_away_from_the_unconditional_output() {
        let (one, three) = (
            Latents::from_elem([1, 1, 1, 1], 1.0),
            Latents::from_elem([1, 1, 1, 1], 3.0),
        );
        assert_eq!(guide(&three, &one, 7.5)[[0, 0, 0, 0]], 1.0 + 7.5 * 2.0);
    }

    #[test]
    fn conditions_are_added_by_their_shares_of_the_way_from_the_unconditional_one() {
        let even = |value| Latents::from_elem([1, 1, 1, 1], value);
        let conds = [(1.0, even(3.0)), (0.5, even(9.0)), (-1.0, even(2.0))];
        assert_eq!(
            compose(&conds, &even(1.0))[[0, 0, 0, 0]],
            1.0 + 2.0 + 4.0 - 1.0
        );
        assert_eq!(compose(&[(1.0, noise(0))], &noise(1)), noise(0));
    }

    #[test]
    fn a_full_rescale_gives_each_picture_the_conditional_deviation() {
        let cond = noise(2);
        let rescaled = rescale(noise(3) * 9.0, &cond, 1.0);
        for (picture, cond) in rescaled.axis_iter(Axis(0)).zip(cond.axis_iter(Axis(0))) {
            assert!((deviation(picture) - deviation(cond)).abs() < 1e-6);
        }
    }

    #[test]
    fn the_deviation_has_bessels_correction() {
        let picture = ndarray::array![[[1.0f32, 2.0, 3.0, 4.0]]];
        assert!((deviation(picture.view()) - (5.0f64 / 3.0).sqrt()).abs() < 1e-12);
    }

    #[test]
    fn a_picture_is_rescaled_alone_as_in_its_batch() {
        let (guided, cond) = (noise(4), noise(5));
        let both = rescale(guided.clone(), &cond, 0.7);
        let second = |all: &Latents| all.slice(ndarray::s![1..2, .., .., ..]).to_owned();
        assert_eq!(rescale(second(&guided), &second(&cond), 0.7), second(&both));
    }

    #[test]
    fn an_even_picture_stays_finite() {
        let even = Latents::from_elem([1, 1, 2, 2], 3.0);
        assert_eq!(rescale(even.clone(), &even, 1.0), even);
    }
}
