//! Brownian paths: noise between two levels that is the same however the way between them is cut.

use super::picture::NoiseSource;

/// Words of the pool that seeds are mixed in.
const POOL: usize = 24;
/// Digits after the point that times keep.
const DIGITS: usize = 6;

/// A Brownian path over an interval of times, one value per element of a picture.
///
/// Its values are those of torchsde's `BrownianInterval` with `halfway_tree`, which k-diffusion and diffusers take for the
/// noise of stochastic solvers: the interval is halved until a time is met, and each half gets its own seed.
///
/// Source: torchsde 0.2.6, `BrownianInterval` with `tol` 1e-6, `pool_size` 24 and no Levy area.
#[derive(Clone, Debug)]
pub struct BrownianPath {
    entropy: u64,
    start: f64,
    end: f64,
    whole: Vec<f32>,
    source: NoiseSource,
}

/// A part of the interval in the tree of halves.
struct Part {
    start: f64,
    end: f64,
    /// Growth of the path over the part.
    growth: Vec<f32>,
    key: u64,
    depth: u32,
}

impl BrownianPath {
    /// The path of `seed` from time `start` to `end`, with `count` elements.
    pub fn new(seed: u64, start: f64, end: f64, count: usize) -> Self {
        Self::of_source(NoiseSource::default(), seed, [start, end], count)
    }

    /// [`BrownianPath::new`] with normals of another source: image tools draw them on the GPU, and for a whole batch at once.
    pub fn of_source(source: NoiseSource, seed: u64, [start, end]: [f64; 2], count: usize) -> Self {
        let word = seed_words(seed, None);
        let deviation = (end - start).max(0.0).sqrt() as f32;
        let whole = source.normals(u64::from(word), count).into_iter();
        let whole = whole.map(|value| value * deviation);
        Self {
            entropy: seed,
            start: rounded(start),
            end: rounded(end),
            whole: whole.collect(),
            source,
        }
    }

    /// The growth of the path from time `from` to `to`, over the root of their distance: unit normals. Downwards in time it
    /// has the other sign. Times outside the interval count as its ends; of equal times it is 0.
    pub fn normals_between(&self, from: f64, to: f64) -> Vec<f32> {
        let inside = |time: f64| rounded(time.clamp(self.start, self.end.max(self.start)));
        let (low, high) = (inside(from.min(to)), inside(from.max(to)));
        let mut growth = vec![0.0; self.whole.len()];
        if low < high {
            let root = Part {
                start: self.start,
                end: self.end,
                growth: self.whole.clone(),
                key: 0,
                depth: 0,
            };
            self.add(root, low, high, &mut growth);
        }
        let distance = ((to as f32 - from as f32).abs()).sqrt();
        let sign = if from < to { 1.0 } else { -1.0 };
        if distance > 0.0 {
            growth
                .iter_mut()
                .for_each(|value| *value *= sign / distance);
        }
        growth
    }

    /// Adds what lies of `low` to `high` inside the part.
    fn add(&self, part: Part, low: f64, high: f64, sum: &mut [f32]) {
        if low <= part.start && high >= part.end {
            for (sum, growth) in sum.iter_mut().zip(&part.growth) {
                *sum += growth;
            }
            return;
        }
        let middle = rounded(0.5 * (part.end + part.start));
        if middle <= part.start || middle >= part.end {
            return; // as fine as times are kept
        }
        let [left, right] = self.halves(&part, middle);
        if low < middle {
            self.add(left, low, high.min(middle), sum);
        }
        if high > middle {
            self.add(right, low.max(middle), high, sum);
        }
    }

    /// Both halves of a part: the path's middle is the mean of its ends and noise of its own.
    fn halves(&self, part: &Part, middle: f64) -> [Part; 2] {
        let (before, after) = (middle - part.start, part.end - middle);
        let share = 1.0 / (part.end - part.start);
        let deviation = (before * after * share).sqrt() as f32;
        let word = seed_words(self.entropy, Some((part.key, part.depth)));
        let noise = self.source.normals(u64::from(word), part.growth.len());
        let left: Vec<f32> = part
            .growth
            .iter()
            .zip(noise)
            .map(|(whole, noise)| before as f32 * whole * share as f32 + deviation * noise)
            .collect();
        let right = part
            .growth
            .iter()
            .zip(&left)
            .map(|(whole, left)| whole - left)
            .collect();
        let half = |start, end, growth, side| Part {
            start,
            end,
            growth,
            // Below the 63rd halving times are far finer than they are kept.
            key: part.key.wrapping_mul(2) + side,
            depth: part.depth + 1,
        };
        [
            half(part.start, middle, left, 0),
            half(middle, part.end, right, 1),
        ]
    }
}

/// A time at the digits that are kept, rounded as Python's `round` does.
fn rounded(time: f64) -> f64 {
    format!("{time:.DIGITS$}").parse().unwrap_or(time)
}

/// The first word of numpy's `SeedSequence` for an entropy and the place of a part in the tree.
///
/// Source: numpy's `SeedSequence`, after O'Neill 2015, "Developing a seed_seq alternative".
fn seed_words(entropy: u64, place: Option<(u64, u32)>) -> u32 {
    let mut words = words_of(entropy);
    if let Some((key, depth)) = place {
        words.resize(words.len().max(POOL), 0);
        words.extend(words_of(key));
        words.extend(words_of(u64::from(depth)));
    }
    let pool = mixed(&words);
    let mut word = pool[0] ^ 0x8b51_f9dd;
    word = word.wrapping_mul(0x8b51_f9ddu32.wrapping_mul(0x58f3_8ded));
    word ^ (word >> 16)
}

/// A number's words, the low one first.
fn words_of(number: u64) -> Vec<u32> {
    let (low, high) = (number as u32, (number >> 32) as u32);
    if high == 0 {
        vec![low]
    } else {
        vec![low, high]
    }
}

fn mixed(words: &[u32]) -> [u32; POOL] {
    let mut constant = 0x43b0_d7e5u32;
    let mut hash = |value: u32| {
        let value = value ^ constant;
        constant = constant.wrapping_mul(0x931e_8875);
        let value = value.wrapping_mul(constant);
        value ^ (value >> 16)
    };
    let mix = |x: u32, y: u32| {
        let mixed = x
            .wrapping_mul(0xca01_f9dd)
            .wrapping_sub(y.wrapping_mul(0x4973_f715));
        mixed ^ (mixed >> 16)
    };
    let mut pool = [0; POOL];
    for (i, slot) in pool.iter_mut().enumerate() {
        *slot = hash(words.get(i).copied().unwrap_or(0));
    }
    for from in 0..POOL {
        for to in (0..POOL).filter(|to| *to != from) {
            pool[to] = mix(pool[to], hash(pool[from]));
        }
    }
    for word in words.iter().skip(POOL) {
        for slot in &mut pool {
            *slot = mix(*slot, hash(*word));
        }
    }
    pool
}
