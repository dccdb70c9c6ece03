//! Random numbers of training: a pure function of (seed, stream, step), so that a resumed run draws the same.

use latent_sampling::CounterNoise;

/// Who draws. Two purposes never share numbers, so that adding one leaves the others as they were.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stream {
    /// Which caption of a picture, and whether it is left out.
    Captions = 2,
    /// Flips and shifts.
    Augment = 3,
    /// Noise of the autoencoder's posterior.
    Posterior = 4,
    /// Noise added by diffusion.
    Noise = 5,
    /// Timesteps of diffusion.
    Timesteps = 6,
    /// Replaced codes of a codebook.
    Codes = 8,
    /// Noise that a whole channel shares.
    Offset = 9,
}

/// Numbers of one stream at one step, drawn one after the other.
#[derive(Clone, Debug)]
pub(crate) struct Draws {
    uniform: CounterNoise,
    uniforms: u64,
    /// Its own stream, since normal and uniform numbers of one stream are made of the same bits.
    normal: CounterNoise,
    normals: u64,
}

impl Draws {
    pub(crate) fn new(seed: u64, stream: Stream, step: u64) -> Self {
        let noise = |kind| CounterNoise::new(seed, step, 2 * stream as u32 + kind);
        Self {
            uniform: noise(0),
            uniforms: 0,
            normal: noise(1),
            normals: 0,
        }
    }

    /// Uniform in `[0, 1)`.
    pub(crate) fn uniform(&mut self) -> f64 {
        self.uniforms += 1;
        self.uniform.uniform(self.uniforms - 1)
    }

    /// A whole number in `0..limit`; 0 where `limit` is 0.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.uniforms += 1;
        self.uniform.below(self.uniforms - 1, limit as u64) as usize
    }

    /// True with probability `odds`.
    pub(crate) fn chance(&mut self, odds: f64) -> bool {
        self.uniform() < odds
    }

    /// `count` independent values of N(0, 1).
    pub(crate) fn normal(&mut self, count: usize) -> Vec<f32> {
        let mut values = vec![0.0; count];
        self.normal.fill_normal(&mut values, self.normals);
        self.normals += count as u64;
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_draws_the_same_numbers_whenever_it_is_asked() {
        let first = Draws::new(7, Stream::Noise, 12).normal(100);
        let _ = Draws::new(7, Stream::Noise, 11).normal(3);
        assert_eq!(first, Draws::new(7, Stream::Noise, 12).normal(100));
    }

    #[test]
    fn streams_steps_and_seeds_do_not_share_numbers() {
        let first = Draws::new(7, Stream::Noise, 12).uniform();
        for other in [
            Draws::new(8, Stream::Noise, 12).uniform(),
            Draws::new(7, Stream::Timesteps, 12).uniform(),
            Draws::new(7, Stream::Noise, 13).uniform(),
        ] {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn draws_go_on_where_the_last_ended() {
        let mut halves = Draws::new(1, Stream::Noise, 0);
        let mut all = halves.normal(7);
        all.extend(halves.normal(6));
        assert_eq!(all, Draws::new(1, Stream::Noise, 0).normal(13));
    }
}
