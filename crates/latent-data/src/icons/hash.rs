//! The two number makers everything random in the set comes from; no clock, no operating system.

/// The finaliser of splitmix64.
///
/// Source: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators" (variant 13 of Stafford).
pub(super) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The hash of a name: FNV-1a of its UTF-8 bytes, mixed.
pub(super) fn hash(name: &str) -> u64 {
    let step = |x: u64, byte: &u8| (x ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    mix(name.as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, step))
}

/// A number below `n` that depends on a name only.
pub(super) fn hash_below(name: &str, n: usize) -> usize {
    (hash(name) % n as u64) as usize
}

/// splitmix64.
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `n`; the tables are short, so that the remainder's bias is nothing.
    pub(super) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// One of a table's rows.
    pub(super) fn of<'a, T>(&mut self, table: &'a [T]) -> &'a T {
        &table[self.below(table.len())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_hash_to_the_published_numbers() {
        assert_eq!(hash("combo:1f34e:3d"), 2_360_750_063_406_066_700);
        assert_eq!(hash("빨간 사과"), 13_708_774_580_415_396_753);
        assert_eq!(hash("scene:0"), 17_829_840_016_185_731_065);
    }

    #[test]
    fn the_first_scene_draws_the_published_numbers() {
        let mut rng = Rng::new(hash("scene:0"));
        assert_eq!(rng.next(), 2_955_865_628_468_131_915);
        assert_eq!(rng.next(), 5_948_679_137_079_845_929);
    }
}
