//! Group norm of a picture that is seen a band of lines at a time.
//!
//! The statistics are those of the whole picture, to the bit: sums are cut into the same chunks and added in the same
//! order as where the picture is seen at once.

use rayon::prelude::*;

use super::group::{GroupNormShape, chunk_positions, fill_stats, moments, normalise_chunks};

/// Sums of the channels of one picture, whose positions come band after band.
#[derive(Clone, Debug)]
pub struct ChannelSums {
    channels: usize,
    /// Positions of the picture, and of a chunk of it.
    positions: usize,
    chunk: usize,
    /// Positions seen.
    seen: usize,
    /// The picture's first position, from which distances are taken.
    origin: Vec<f32>,
    /// Sums of the chunk that is not complete, `[2, channels]`.
    open: Vec<f32>,
    /// Sums of the complete ones.
    total: Vec<f64>,
}

impl ChannelSums {
    /// Of a picture of which nothing was seen yet.
    pub fn new(positions: usize, channels: usize) -> Self {
        Self {
            channels,
            positions,
            chunk: chunk_positions(positions, channels).max(1),
            seen: 0,
            origin: Vec::new(),
            open: vec![0.0; 2 * channels],
            total: vec![0.0; 2 * channels],
        }
    }

    /// Adds the next positions `x [some, channels]`.
    ///
    /// # Panics
    /// If the picture has fewer.
    pub fn add(&mut self, x: &[f32]) {
        let channels = self.channels;
        assert!(
            x.len().is_multiple_of(channels.max(1))
                && self.seen + x.len() / channels.max(1) <= self.positions,
            "group norm: a band does not fit the picture"
        );
        if self.origin.is_empty() {
            self.origin = x[..channels.min(x.len())].to_vec();
        }
        let open = self.seen % self.chunk;
        let missing = if open == 0 { 0 } else { self.chunk - open };
        let (head, rest) = x.split_at((missing * channels).min(x.len()));
        self.go_on(head);
        let whole = rest.len() / (self.chunk * channels) * (self.chunk * channels);
        let (whole, tail) = rest.split_at(whole);
        let sums: Vec<Vec<f32>> = whole
            .par_chunks(self.chunk * channels)
            .map(|x| {
                let mut sums = vec![0.0; 2 * channels];
                let (one, two) = sums.split_at_mut(channels);
                moments(x, &self.origin, one, two);
                sums
            })
            .collect();
        sums.iter().for_each(|sums| self.close(sums));
        self.seen += whole.len() / channels;
        self.go_on(tail);
    }

    /// Adds positions of the open chunk, and closes it if they complete it.
    fn go_on(&mut self, x: &[f32]) {
        if x.is_empty() {
            return;
        }
        let (one, two) = self.open.split_at_mut(self.channels);
        moments(x, &self.origin, one, two);
        self.seen += x.len() / self.channels;
        if self.seen.is_multiple_of(self.chunk) || self.seen == self.positions {
            let open = std::mem::replace(&mut self.open, vec![0.0; 2 * self.channels]);
            self.close(&open);
        }
    }

    fn close(&mut self, sums: &[f32]) {
        for (total, part) in self.total.iter_mut().zip(sums) {
            *total += f64::from(*part);
        }
    }

    /// Mean and reciprocal deviation of each group, `[groups, 2]`.
    ///
    /// # Panics
    /// If positions are missing, or the groups do not fit the channels.
    pub fn statistics(&self, groups: usize, eps: f32) -> Vec<f32> {
        assert!(
            self.seen == self.positions && groups > 0 && self.channels.is_multiple_of(groups),
            "group norm: {} of {} positions, {} channels in {groups} groups",
            self.seen,
            self.positions,
            self.channels
        );
        let shape = GroupNormShape {
            n: 1,
            positions: self.positions,
            channels: self.channels,
            groups,
            eps,
            silu: false,
        };
        let mut stats = vec![0.0; 2 * groups];
        fill_stats(&self.origin, &self.total, &shape, &mut stats);
        stats
    }
}

/// [`group_norm`](super::group_norm) of a band `x [positions, channels]` of a picture whose statistics are known.
///
/// # Panics
/// If a length does not fit.
pub fn group_norm_band(
    x: &[f32],
    gamma: &[f32],
    beta: &[f32],
    stats: &[f32],
    silu: bool,
    out: &mut [f32],
) {
    let channels = gamma.len();
    let groups = stats.len() / 2;
    let shape = GroupNormShape {
        n: 1,
        positions: x.len() / channels.max(1),
        channels,
        groups,
        eps: 0.0,
        silu,
    };
    shape.check(&[x.len(), out.len()]);
    assert_eq!(beta.len(), channels, "group norm: weights do not fit");
    if !x.is_empty() {
        normalise_chunks(x, gamma, beta, stats, &shape, out);
    }
}

#[cfg(test)]
mod tests {
    use super::super::group_norm;
    use super::*;

    fn numbers(count: usize, salt: usize) -> Vec<f32> {
        (0..count)
            .map(|i| ((i * 37 + salt) % 101) as f32 / 17.0 + 3.0)
            .collect()
    }

    #[test]
    fn bands_of_any_height_give_the_bits_of_the_whole_picture() {
        // Chunks that end inside a line, a picture shorter than a chunk, and one of a single position.
        for (h, w, c, groups) in [
            (37, 29, 96, 8),
            (5, 3, 32, 32),
            (1, 1, 4, 2),
            (64, 64, 64, 32),
        ] {
            let (x, gamma, beta) = (numbers(h * w * c, 5), numbers(c, 1), numbers(c, 2));
            let shape = GroupNormShape {
                n: 1,
                positions: h * w,
                channels: c,
                groups,
                eps: 1e-6,
                silu: true,
            };
            let (mut whole, mut stats) = (vec![0.0; x.len()], vec![0.0; 2 * groups]);
            group_norm(&x, &gamma, &beta, &shape, &mut whole, &mut stats);
            for lines in [1, 2, 7, 64] {
                let mut sums = ChannelSums::new(h * w, c);
                x.chunks(lines * w * c).for_each(|band| sums.add(band));
                let found = sums.statistics(groups, 1e-6);
                assert_eq!(found, stats, "{h}x{w}x{c} in bands of {lines}");
                let mut out = vec![0.0; x.len()];
                for (x, out) in x.chunks(lines * w * c).zip(out.chunks_mut(lines * w * c)) {
                    group_norm_band(x, &gamma, &beta, &found, true, out);
                }
                assert_eq!(out, whole, "{h}x{w}x{c} in bands of {lines}");
            }
        }
    }
}
