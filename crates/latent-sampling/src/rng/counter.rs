//! Noise without state: every value is a function of (seed, step, stream, index).

use std::f64::consts::PI;

use super::philox::{key_of, philox4x32};
use crate::Latents;

/// Random numbers of one training step.
///
/// Any value can be asked for alone and in any order, so that a resumed run, another batch split or another number
/// of threads meets the same noise. Streams keep apart what one step draws: picture noise, timesteps, dropped captions.
///
/// ```
/// use latent_sampling::CounterNoise;
/// let noise = CounterNoise::new(7, 1000, 0);
/// assert_eq!(noise.normal(3), CounterNoise::new(7, 1000, 0).normal(3));
/// assert_ne!(noise.normal(3), CounterNoise::new(7, 1001, 0).normal(3));
/// ```
///
/// Source: Salmon et al. 2011 (Philox 4x32-10), Box & Muller 1958.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CounterNoise {
    key: [u32; 2],
    stream: u32,
}

impl CounterNoise {
    /// The numbers of training step `step` in the run of `seed`; `stream` separates uses inside a step.
    pub fn new(seed: u64, step: u64, stream: u32) -> Self {
        // The step passes through Philox once, keyed by the seed, so that all 64 bits of both count and
        // (seed, step) pairs do not collide by addition.
        let [low, high] = key_of(step);
        let words = philox4x32([low, high, 0x6c61_7465, 0x6e74_0000], key_of(seed));
        Self {
            key: [words[0], words[1]],
            stream,
        }
    }

    fn block(&self, index: u64) -> [u32; 4] {
        let [low, high] = key_of(index);
        philox4x32([low, high, self.stream, 0], self.key)
    }

    /// Value `index` of the uniform sequence in [0, 1), with 53 random bits.
    pub fn uniform(&self, index: u64) -> f64 {
        let words = self.block(index);
        let bits = u64::from(words[0]) << 21 | u64::from(words[1]) >> 11;
        bits as f64 * (0.5f64).powi(53)
    }

    /// An integer of [0, `n`), uniform up to 2^-53; 0 where `n` is 0.
    pub fn below(&self, index: u64, n: u64) -> u64 {
        ((self.uniform(index) * n as f64) as u64).min(n.saturating_sub(1))
    }

    /// Value `index` of the standard normal sequence. It shares its words with `uniform`: use another stream for
    /// what must be independent of it.
    pub fn normal(&self, index: u64) -> f32 {
        normals_of(self.block(index / 4))[(index % 4) as usize]
    }

    /// Fills `out` with the normals `first`, `first + 1`, ...
    pub fn fill_normal(&self, out: &mut [f32], first: u64) {
        let mut index = first;
        let mut rest = out;
        while !rest.is_empty() {
            let block = normals_of(self.block(index / 4));
            let skip = (index % 4) as usize;
            let taken = (4 - skip).min(rest.len());
            let (head, tail) = rest.split_at_mut(taken);
            head.copy_from_slice(&block[skip..skip + taken]);
            index += taken as u64;
            rest = tail;
        }
    }

    /// The first normals of the sequence in a shape `[n, c, h, w]`.
    pub fn normals(&self, shape: [usize; 4]) -> Latents {
        let mut values = vec![0.0; shape.iter().product()];
        self.fill_normal(&mut values, 0);
        Latents::from_shape_vec(shape, values).expect("as many values as the shape has elements")
    }
}

/// Four normals of four words: two Box-Muller pairs in f64, rounded once.
fn normals_of(words: [u32; 4]) -> [f32; 4] {
    let unit = |word: u32| (f64::from(word) + 0.5) * (0.5f64).powi(32); // never 0 or 1
    let pair = |a: u32, b: u32| {
        let radius = (-2.0 * unit(a).ln()).sqrt();
        let (sine, cosine) = (2.0 * PI * unit(b)).sin_cos();
        [(radius * cosine) as f32, (radius * sine) as f32]
    };
    let ([a, b], [c, d]) = (pair(words[0], words[1]), pair(words[2], words[3]));
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filled_slice_holds_the_values_asked_for_one_by_one() {
        let noise = CounterNoise::new(3, 5, 1);
        for first in 0..6 {
            let mut filled = [0.0; 11];
            noise.fill_normal(&mut filled, first);
            let single: Vec<f32> = (first..first + 11).map(|i| noise.normal(i)).collect();
            assert_eq!(filled.to_vec(), single, "from {first}");
        }
    }

    #[test]
    fn seed_step_and_stream_each_change_the_values() {
        let base = CounterNoise::new(1, 2, 3).normal(0);
        for other in [
            (9, 2, 3),
            (1, 9, 3),
            (1, 2, 9),
            (1 << 40, 2, 3),
            (1, 1 << 40, 3),
            (2, 1, 3),
        ] {
            assert_ne!(
                base,
                CounterNoise::new(other.0, other.1, other.2).normal(0),
                "{other:?}"
            );
        }
    }

    #[test]
    fn normals_have_the_moments_of_the_standard_normal() {
        let mut values = vec![0.0f32; 40_000];
        CounterNoise::new(11, 0, 0).fill_normal(&mut values, 0);
        let moment = |power: i32| {
            values
                .iter()
                .map(|v| f64::from(*v).powi(power))
                .sum::<f64>()
                / values.len() as f64
        };
        // Five standard errors of each moment at 40,000 draws.
        for (power, exact, error) in [
            (1, 0.0, 0.025),
            (2, 1.0, 0.036),
            (3, 0.0, 0.097),
            (4, 3.0, 0.245),
        ] {
            assert!(
                (moment(power) - exact).abs() < error,
                "moment {power} is {}",
                moment(power)
            );
        }
    }

    #[test]
    fn uniforms_fill_the_unit_interval_evenly() {
        let noise = CounterNoise::new(5, 8, 2);
        let mut bins = [0usize; 10];
        for i in 0..20_000 {
            bins[noise.below(i, 10) as usize] += 1;
        }
        // Five standard deviations of a bin of 2,000 expected.
        assert!(
            bins.iter().all(|count| count.abs_diff(2000) < 215),
            "{bins:?}"
        );
    }

    #[test]
    fn an_empty_range_gives_zero_instead_of_a_panic() {
        assert_eq!(CounterNoise::new(0, 0, 0).below(0, 0), 0);
    }
}
