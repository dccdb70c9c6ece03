//! A counter-based generator for initial weights: block `i` is a function of the seed and `i`.
//!
//! Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", Philox4x32-10.

/// Philox4x32-10 keyed by a seed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Philox {
    key: [u32; 2],
}

impl Philox {
    /// The generator of `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            key: [seed as u32, (seed >> 32) as u32],
        }
    }

    /// The four words of block `index`.
    pub(crate) fn block(&self, index: u64) -> [u32; 4] {
        let mut counter = [index as u32, (index >> 32) as u32, 0, 0];
        let mut key = self.key;
        for _ in 0..10 {
            counter = round(counter, key);
            // The golden ratio and the square root of 3, in Weyl sequences.
            key[0] = key[0].wrapping_add(0x9E37_79B9);
            key[1] = key[1].wrapping_add(0xBB67_AE85);
        }
        counter
    }
}

fn round([a, b, c, d]: [u32; 4], [k0, k1]: [u32; 2]) -> [u32; 4] {
    let wide = |x: u32, factor: u32| {
        let product = u64::from(x) * u64::from(factor);
        ((product >> 32) as u32, product as u32)
    };
    let (high_a, low_a) = wide(a, 0xD251_1F53);
    let (high_c, low_c) = wide(c, 0xCD9E_8D57);
    [high_c ^ b ^ k0, low_c, high_a ^ d ^ k1, low_a]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Source: Random123's `kat_vectors`, Philox4x32-10 with counter and key zero.
    #[test]
    fn the_published_answer_for_zeros_is_met() {
        let words = Philox::new(0).block(0);
        assert_eq!(words, [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
    }
}
