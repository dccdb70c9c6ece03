//! Philox 4x32-10, and torch's normals on NVIDIA GPUs made of it.

/// Ten rounds of Philox: four random words for a counter and a key.
///
/// Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (SC11), section 4.3.
pub fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let first = u64::from(counter[0]) * 0xd251_1f53;
        let second = u64::from(counter[2]) * 0xcd9e_8d57;
        counter = [
            (second >> 32) as u32 ^ counter[1] ^ key[0],
            second as u32,
            (first >> 32) as u32 ^ counter[3] ^ key[1],
            first as u32,
        ];
        key = [
            key[0].wrapping_add(0x9e37_79b9),
            key[1].wrapping_add(0xbb67_ae85),
        ];
    }
    counter
}

/// Low and high half of a 64-bit key.
pub(crate) fn key_of(seed: u64) -> [u32; 2] {
    [seed as u32, (seed >> 32) as u32]
}

/// `torch.randn` on a CUDA device, as image tools emulate it on the CPU (their "NV" source).
///
/// All 64 bits of the seed count. Each call of [`randn`](Self::randn) is one step of the stream, whatever its length.
#[derive(Clone, Debug)]
pub struct PhiloxGenerator {
    seed: u64,
    calls: u32,
}

impl PhiloxGenerator {
    /// Starts the stream of `seed`.
    pub fn new(seed: u64) -> Self {
        Self { seed, calls: 0 }
    }

    /// `n` standard normals; element `i` depends on the seed, the number of earlier calls and `i`.
    pub fn randn(&mut self, n: usize) -> Vec<f32> {
        self.randn_from(0, n)
    }

    /// `n` standard normals of a longer call, from its element `first` on.
    pub(crate) fn randn_from(&mut self, first: usize, n: usize) -> Vec<f32> {
        let (call, key) = (self.calls, key_of(self.seed));
        self.calls = self.calls.wrapping_add(1);
        (first..first + n)
            .map(|i| sine_normal(philox4x32([call, 0, i as u32, 0], key)))
            .collect()
    }
}

/// One Box-Muller value, the sine, of the first two words; in f32 like the GPU's.
fn sine_normal(words: [u32; 4]) -> f32 {
    const STEP: f32 = 2.328_306_4e-10; // 2^-32
    const TURN: f32 = (2.328_306_4e-10 * 6.283_185_5) as f32;
    let uniform = words[0] as f32 * STEP + STEP / 2.0;
    let angle = words[1] as f32 * TURN + TURN / 2.0;
    let radius = (-2.0 * (f64::from(uniform).ln() as f32)).sqrt();
    radius * f64::from(angle).sin() as f32
}
