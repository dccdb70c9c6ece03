//! The order in which training sees examples: a pure function of the seed and the position, so that a run resumes
//! anywhere without a state.

use crate::DataError;

/// Draws examples, epoch after epoch.
///
/// In an epoch of as many draws as there are examples, one of weight `w` comes up `w / mean` times, rounded down or up
/// with the right chance (systematic resampling); with equal weights that is once each. The order is another in each
/// epoch.
#[derive(Clone, Debug)]
pub struct Sampler {
    seed: u64,
    len: u64,
    /// Sums of weights up to and with each example; `None` if all are equal.
    cumulative: Option<Vec<f64>>,
}

impl Sampler {
    /// Draws `len` examples with equal chances.
    ///
    /// # Errors
    /// [`DataError::Weights`] if there is none.
    pub fn new(seed: u64, len: usize) -> Result<Self, DataError> {
        if len == 0 {
            return Err(DataError::Weights(
                "there is no example to draw".to_string(),
            ));
        }
        Ok(Self {
            seed,
            len: len as u64,
            cumulative: None,
        })
    }

    /// Draws examples with chances in proportion to their weights.
    ///
    /// # Errors
    /// [`DataError::Weights`] if one is negative or not finite, or none is above 0.
    pub fn weighted(seed: u64, weights: &[f64]) -> Result<Self, DataError> {
        let sampler = Self::new(seed, weights.len())?;
        if let Some(index) = weights.iter().position(|w| !w.is_finite() || *w < 0.0) {
            let reason = format!(
                "that of example {index} is {}, not a number from 0",
                weights[index]
            );
            return Err(DataError::Weights(reason));
        }
        if weights.iter().all(|weight| *weight == weights[0]) && weights[0] > 0.0 {
            return Ok(sampler);
        }
        let add = |sum: &mut f64, weight: &f64| {
            *sum += weight;
            Some(*sum)
        };
        let cumulative: Vec<f64> = weights.iter().scan(0.0, add).collect();
        match cumulative.last() {
            Some(sum) if *sum > 0.0 && sum.is_finite() => Ok(Self {
                cumulative: Some(cumulative),
                ..sampler
            }),
            _ => Err(DataError::Weights(
                "none is above 0, or their sum is no number".to_string(),
            )),
        }
    }

    /// Count of examples, and of draws in an epoch.
    pub fn epoch_len(&self) -> u64 {
        self.len
    }

    /// The example drawn at `position`, counted from the start of training.
    pub fn index_at(&self, position: u64) -> usize {
        let (epoch, place) = (position / self.len, position % self.len);
        let key = mix(self.seed ^ mix(epoch));
        let place = shuffled(place, self.len, key);
        let Some(cumulative) = &self.cumulative else {
            return place as usize;
        };
        // Evenly spaced points along the line of weights, shifted anew each epoch.
        let shift = (mix(key) >> 11) as f64 / (1u64 << 53) as f64;
        let sum = cumulative[cumulative.len() - 1];
        let point = (place as f64 + shift) / self.len as f64 * sum;
        // Rounding may put the last point on the sum itself.
        let last = cumulative.partition_point(|&reached| reached < sum);
        cumulative
            .partition_point(|&reached| reached <= point)
            .min(last)
    }

    /// The examples of batch number `step`, of `batch` examples each; batches run on across epochs.
    pub fn batch_at(&self, step: u64, batch: usize) -> Vec<usize> {
        let first = step.wrapping_mul(batch as u64);
        (0..batch as u64)
            .map(|k| self.index_at(first.wrapping_add(k)))
            .collect()
    }
}

/// The finaliser of splitmix64. Source: Steele, Lea and Flood 2014 (OOPSLA), with Stafford's constants.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// A permutation of `0..len`, one place at a time: a Feistel network over the next power of four, walked until it
/// lands inside.
///
/// Source: Black and Rogaway 2002 (CT-RSA), "Ciphers with arbitrary finite domains", cycle walking.
fn shuffled(place: u64, len: u64, key: u64) -> u64 {
    const ROUNDS: u64 = 8;
    let half = (64 - (len - 1).leading_zeros()).div_ceil(2).max(1);
    let mask = (1u64 << half) - 1;
    let mut value = place;
    loop {
        let (mut left, mut right) = (value >> half, value & mask);
        for round in 0..ROUNDS {
            let noise = mix(key ^ mix(right | round << 32)) & mask;
            (left, right) = (right, left ^ noise);
        }
        value = left << half | right;
        if value < len {
            return value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(sampler: &Sampler, epoch: u64) -> Vec<usize> {
        let len = sampler.epoch_len();
        let mut counts = vec![0; len as usize];
        (epoch * len..(epoch + 1) * len).for_each(|at| counts[sampler.index_at(at)] += 1);
        counts
    }

    #[test]
    fn every_epoch_of_every_length_has_each_example_once() {
        for len in (1..=70).chain([255, 256, 257, 1000, 4097]) {
            let sampler = Sampler::new(7, len).unwrap();
            for epoch in [0, 1, 99] {
                assert!(
                    counts(&sampler, epoch).iter().all(|&n| n == 1),
                    "{len}, epoch {epoch}"
                );
            }
        }
    }

    #[test]
    fn the_order_depends_on_seed_and_epoch() {
        let order = |seed, epoch: u64| -> Vec<usize> {
            let sampler = Sampler::new(seed, 100).unwrap();
            (0..100)
                .map(|k| sampler.index_at(epoch * 100 + k))
                .collect()
        };
        assert_eq!(order(1, 0), order(1, 0));
        assert_ne!(order(1, 0), order(2, 0));
        assert_ne!(order(1, 0), order(1, 1));
    }

    #[test]
    fn every_place_is_as_likely_to_hold_any_example() {
        // Chi-squared with 9 degrees of freedom exceeds 27.9 once in a thousand.
        for place in [0, 5, 9] {
            let mut seen = [0f64; 10];
            for seed in 0..10_000 {
                seen[Sampler::new(seed, 10).unwrap().index_at(place)] += 1.0;
            }
            let chi: f64 = seen.iter().map(|n| (n - 1000.0).powi(2) / 1000.0).sum();
            assert!(chi < 27.9, "place {place}: {chi}");
        }
    }

    #[test]
    fn two_examples_follow_each_other_no_more_often_than_by_chance() {
        // Pairs (first, second) of a shuffle of 6: 30 equally likely; chi-squared of 29 exceeds 58.3 once in a thousand.
        let mut seen = [[0f64; 6]; 6];
        for seed in 0..30_000 {
            let sampler = Sampler::new(seed, 6).unwrap();
            seen[sampler.index_at(0)][sampler.index_at(1)] += 1.0;
        }
        let pairs = seen.iter().flatten().filter(|&&n| n > 0.0);
        let chi: f64 = pairs.map(|n| (n - 1000.0).powi(2) / 1000.0).sum();
        assert!(chi < 58.3, "{chi}");
    }

    #[test]
    fn weights_decide_how_often_an_example_comes() {
        let sampler = Sampler::weighted(3, &[1.0, 0.5, 2.0, 0.0, 1.5]).unwrap();
        let mut sums = [0usize; 5];
        for epoch in 0..2000 {
            let counts = counts(&sampler, epoch);
            assert!(
                (1..=1).contains(&counts[0]) && counts[1] <= 1 && counts[2] == 2 && counts[3] == 0
            );
            sums.iter_mut().zip(counts).for_each(|(sum, n)| *sum += n);
        }
        // Halves: 2000 draws of a coin, five standard deviations of 22.
        assert!(
            sums[1].abs_diff(1000) < 112 && sums[4].abs_diff(3000) < 112,
            "{sums:?}"
        );
    }

    #[test]
    fn equal_weights_are_no_weights() {
        let (plain, equal) = (
            Sampler::new(5, 9).unwrap(),
            Sampler::weighted(5, &[0.3; 9]).unwrap(),
        );
        assert!((0..50).all(|at| plain.index_at(at) == equal.index_at(at)));
    }

    #[test]
    fn a_batch_is_the_same_whenever_it_is_asked_for() {
        let sampler = Sampler::new(1, 10).unwrap();
        let run: Vec<usize> = (0..12).flat_map(|step| sampler.batch_at(step, 4)).collect();
        assert_eq!(sampler.batch_at(7, 4), run[28..32]);
        assert_eq!(
            (0..48).map(|at| sampler.index_at(at)).collect::<Vec<_>>(),
            run
        );
    }

    #[test]
    fn weights_of_which_nothing_can_be_drawn_are_refused() {
        for weights in [
            &[][..],
            &[0.0, 0.0],
            &[1.0, -1.0],
            &[f64::NAN],
            &[f64::INFINITY],
            &[f64::MAX, f64::MAX, 1.0],
        ] {
            assert!(Sampler::weighted(0, weights).is_err(), "{weights:?}");
        }
        assert!(Sampler::new(0, 0).is_err());
    }
}
