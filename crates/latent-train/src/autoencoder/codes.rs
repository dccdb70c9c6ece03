//! Codes that nothing uses any more get a new place among the vectors that are there.

use burn::tensor::Tensor;
use latent_nn::{Exported, to_host};

use super::reconstruct::{Reconstruct, UsedCodes};
use crate::checkpoint::Saved;
use crate::error::Result;
use crate::random::{Draws, Stream};
use crate::trainee::Trainee;

/// Updates over which a code must be used once to stay.
const PATIENCE: u64 = 200;
/// Name in checkpoints.
const NAME: &str = "codebook.usage";

/// How often each code was used since the last look.
pub(super) struct Codebook {
    usage: Vec<f32>,
}

impl Codebook {
    /// `codes`: 0 for autoencoders without a codebook.
    pub(super) fn new(codes: usize) -> Self {
        Self {
            usage: vec![0.0; codes],
        }
    }

    /// Share of the codes that were used since the last look.
    pub(super) fn used(&self) -> f64 {
        let used = self.usage.iter().filter(|&&count| count > 0.0).count();
        used as f64 / self.usage.len().max(1) as f64
    }

    pub(super) fn count(&mut self, codes: &UsedCodes) {
        for &code in &codes.indices {
            self.usage[code as usize] += 1.0;
        }
    }

    /// Every [`PATIENCE`] updates: moves unused codes to vectors of the last batch, picked at random.
    ///
    /// Without this a codebook that starts badly keeps a handful of codes for ever, since only a code that is used
    /// gets a gradient. Source: Dhariwal et al. 2020 (arXiv:2005.00341), section 3.1, "random restarts".
    pub(super) fn revive<M: Reconstruct>(
        &mut self,
        trainee: &mut Trainee<M>,
        codes: &UsedCodes,
        seed: u64,
        step: u64,
    ) {
        if !(step + 1).is_multiple_of(PATIENCE) {
            return;
        }
        let unused = self
            .usage
            .iter()
            .enumerate()
            .filter(|(_, count)| **count == 0.0);
        let dead: Vec<usize> = unused.map(|(code, _)| code).collect();
        self.usage.fill(0.0);
        if dead.is_empty() {
            return;
        }
        let vectors = drawn(
            &codes.vectors,
            dead.len(),
            &mut Draws::new(seed, Stream::Codes, step),
        );
        trainee.change(|model| model.revive(&dead, &vectors));
    }

    pub(super) fn state(&self) -> Option<Exported> {
        (!self.usage.is_empty()).then(|| Exported {
            path: NAME.into(),
            shape: vec![self.usage.len()],
            values: self.usage.clone(),
        })
    }

    pub(super) fn restore(&mut self, saved: &Saved) -> Result<()> {
        if !self.usage.is_empty() {
            self.usage = saved.tensor(NAME, &[self.usage.len()])?;
        }
        Ok(())
    }
}

/// `count` vectors `[count, c]` at random positions of `[n, c, h, w]`.
fn drawn(vectors: &Tensor<4>, count: usize, draws: &mut Draws) -> Vec<f32> {
    let (values, [n, c, h, w]) = to_host(vectors.clone());
    let plane = h * w;
    let mut out = Vec::with_capacity(count * c);
    for _ in 0..count {
        let (picture, place) = (draws.below(n), draws.below(plane));
        out.extend((0..c).map(|channel| values[(picture * c + channel) * plane + place]));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use latent_nn::{Compute, Precision};

    #[test]
    fn drawn_vectors_are_vectors_of_the_batch() {
        let compute = Compute::cpu(Precision::F32);
        // Channel 0 counts positions, channel 1 is a thousand more.
        let values = (0..2)
            .flat_map(|n| [n * 4, 1000 + n * 4])
            .flat_map(|first| (first..first + 4).map(|v| v as f32));
        let vectors = compute.tensor(values.collect(), [2, 2, 2, 2]);
        let found = drawn(&vectors, 50, &mut Draws::new(1, Stream::Codes, 0));
        assert!(found.chunks(2).all(|pair| pair[1] == pair[0] + 1000.0));
        assert!((0..8).all(|place| found.chunks(2).any(|pair| pair[0] == place as f32)));
    }

    #[test]
    fn usage_counts_codes_that_were_seen() {
        let compute = Compute::cpu(Precision::F32);
        let mut codebook = Codebook::new(4);
        codebook.count(&UsedCodes {
            indices: vec![1, 1, 3],
            vectors: compute.tensor(vec![0.0; 3], [3, 1, 1, 1]),
        });
        assert_eq!(codebook.used(), 0.5);
    }
}
