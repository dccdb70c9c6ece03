//! The Mersenne Twister's raw 32-bit words.
//!
//! Source: Matsumoto & Nishimura 1998, "Mersenne Twister: A 623-Dimensionally Equidistributed Uniform Pseudorandom
//! Number Generator", ACM TOMACS 8(1); initialisation `init_genrand` of their 2002 revision.

/// Words of state.
const N: usize = 624;
/// Distance of the second word of the recurrence.
const M: usize = 397;

/// One stream of 32-bit words.
#[derive(Clone, Debug)]
pub(crate) struct Mt19937 {
    state: Vec<u32>,
    /// Words of `state` already given out.
    used: usize,
}

impl Mt19937 {
    pub(crate) fn new(seed: u32) -> Self {
        let mut state = vec![seed; N];
        for i in 1..N {
            let previous = state[i - 1];
            state[i] = 1_812_433_253u32
                .wrapping_mul(previous ^ (previous >> 30))
                .wrapping_add(i as u32);
        }
        Self { state, used: N }
    }

    pub(crate) fn next_u32(&mut self) -> u32 {
        if self.used == N {
            self.twist();
        }
        let mut word = self.state[self.used];
        self.used += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    fn twist(&mut self) {
        for i in 0..N {
            let joined = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % N] & 0x7fff_ffff);
            let odd = if joined & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + M) % N] ^ (joined >> 1) ^ odd;
        }
        self.used = 0;
    }
}
