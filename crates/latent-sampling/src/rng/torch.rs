//! What `torch.randn`, `rand`, `randint` and `randperm` return on the CPU for a seed.

use std::f64::consts::PI;

use half::{bf16, f16};

use super::mt19937::Mt19937;
use crate::Latents;

/// From this many elements on torch fills normals in blocks; below it draws them one by one in f64.
const BLOCK: usize = 16;

/// torch's CPU generator: `torch.Generator("cpu").manual_seed(seed)`.
///
/// Consecutive calls continue the stream as torch's do. Uniform values, integers and normals of fewer than 16 elements are
/// torch's bit for bit; larger f32 draws agree within 5e-7, because torch's vectorised logarithm and sine differ
/// in the last place.
///
/// ```
/// let noise = latent_sampling::TorchGenerator::new(42).randn(16);
/// assert!((noise[0] - 1.926_915_3).abs() < 5e-7);
/// ```
#[derive(Clone, Debug)]
pub struct TorchGenerator {
    words: Mt19937,
    /// Second value of the last scalar Box-Muller pair; it survives larger draws in between, as in torch.
    spare: Option<f64>,
}

impl TorchGenerator {
    /// Starts the stream of `seed`; torch keeps the low 32 bits only.
    pub fn new(seed: u64) -> Self {
        Self {
            words: Mt19937::new(seed as u32),
            spare: None,
        }
    }

    /// The next raw word of the Mersenne Twister.
    pub fn next_u32(&mut self) -> u32 {
        self.words.next_u32()
    }

    fn next_u64(&mut self) -> u64 {
        let high = u64::from(self.next_u32());
        high << 32 | u64::from(self.next_u32())
    }

    fn uniform(&mut self) -> f32 {
        (self.next_u32() & 0x00ff_ffff) as f32 * (1.0 / 16_777_216.0)
    }

    fn uniform_f64(&mut self) -> f64 {
        (self.next_u64() & ((1 << 53) - 1)) as f64 * (0.5f64).powi(53)
    }

    /// One normal of the scalar path, which works in f64 whatever the type and keeps the pair's second value.
    fn scalar_normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let angle = 2.0 * PI * self.uniform_f64();
        let radius = (-2.0 * (-self.uniform_f64()).ln_1p()).sqrt();
        self.spare = Some(radius * angle.sin());
        radius * angle.cos()
    }

    /// `n` values uniform in [0, 1): `torch.rand(n)`.
    pub fn rand(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.uniform()).collect()
    }

    /// `n` values uniform in [0, 1): `torch.rand(n, dtype=torch.float64)`.
    pub fn rand_f64(&mut self, n: usize) -> Vec<f64> {
        (0..n).map(|_| self.uniform_f64()).collect()
    }

    /// `n` standard normals: `torch.randn(n)`. A shape counts by its number of elements only.
    pub fn randn(&mut self, n: usize) -> Vec<f32> {
        if n < BLOCK {
            return (0..n).map(|_| self.scalar_normal() as f32).collect();
        }
        let mut values = self.rand(n);
        for block in values.chunks_exact_mut(BLOCK) {
            box_muller(block);
        }
        self.rewrite_tail(&mut values);
        values
    }

    /// `n` standard normals: `torch.randn(n, dtype=torch.float64)`.
    pub fn randn_f64(&mut self, n: usize) -> Vec<f64> {
        if n < BLOCK {
            return (0..n).map(|_| self.scalar_normal()).collect();
        }
        let mut values = self.rand_f64(n);
        for block in values.chunks_exact_mut(BLOCK) {
            box_muller_f64(block);
        }
        if !n.is_multiple_of(BLOCK) {
            let tail = &mut values[n - BLOCK..];
            tail.copy_from_slice(&self.rand_f64(BLOCK));
            box_muller_f64(tail);
        }
        values
    }

    /// `n` standard normals as `torch.randn(n, dtype=torch.bfloat16)` rounds them.
    pub fn randn_bf16(&mut self, n: usize) -> Vec<f32> {
        self.randn_half(n, |value| bf16::from_f64(value).to_f32())
    }

    /// `n` standard normals as `torch.randn(n, dtype=torch.float16)` rounds them.
    pub fn randn_f16(&mut self, n: usize) -> Vec<f32> {
        self.randn_half(n, |value| f16::from_f64(value).to_f32())
    }

    /// The 16-bit types draw their uniforms block by block, so that a remainder takes no words of its own before
    /// the tail; they are therefore not the rounded f32 values unless 16 divides `n`.
    fn randn_half(&mut self, n: usize, round: fn(f64) -> f32) -> Vec<f32> {
        if n < BLOCK {
            return (0..n).map(|_| round(self.scalar_normal())).collect();
        }
        let mut values = vec![0.0; n];
        for block in values.chunks_exact_mut(BLOCK) {
            block.copy_from_slice(&self.rand(BLOCK));
            box_muller(block);
        }
        self.rewrite_tail(&mut values);
        values
            .into_iter()
            .map(|value| round(f64::from(value)))
            .collect()
    }

    /// Where 16 does not divide the length, torch overwrites the last 16 values with a fresh block.
    fn rewrite_tail(&mut self, values: &mut [f32]) {
        let n = values.len();
        if !n.is_multiple_of(BLOCK) {
            let tail = &mut values[n - BLOCK..];
            tail.copy_from_slice(&self.rand(BLOCK));
            box_muller(tail);
        }
    }

    /// `n` integers of [0, `high`): `torch.randint(0, high, (n,))`. A `high` of 0 counts as 1.
    pub fn randint(&mut self, high: u64, n: usize) -> Vec<u64> {
        let high = high.max(1);
        // Where torch switches to 64-bit draws; releases before 2.x switched at 2^32.
        let wide = high >= 1 << 28;
        (0..n)
            .map(|_| {
                if wide {
                    self.next_u64() % high
                } else {
                    u64::from(self.next_u32()) % high
                }
            })
            .collect()
    }

    /// The numbers 0 to `n` - 1 in random order: `torch.randperm(n)`.
    pub fn randperm(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in 0..n.saturating_sub(1) {
            let other = i + self.next_u32() as usize % (n - i);
            order.swap(i, other);
        }
        order
    }

    /// Standard normals of a shape: `torch.randn(n, c, h, w)`.
    ///
    /// One generator for a batch gives other noise than one generator a picture; diffusers' pipelines draw
    /// `[1, c, h, w]` from each picture's own generator when they are given several seeds.
    pub fn randn_latents(&mut self, shape: [usize; 4]) -> Latents {
        let values = self.randn(shape.iter().product());
        Latents::from_shape_vec(shape, values).expect("as many values as the shape has elements")
    }
}

/// Turns 16 uniforms into 16 normals in f32; logarithm and sine are evaluated in f64, so that every platform
/// rounds them to the same f32.
fn box_muller(block: &mut [f32]) {
    let (first, second) = block.split_at_mut(BLOCK / 2);
    for (cosine, sine) in first.iter_mut().zip(second) {
        let radius = (-2.0 * (f64::from(1.0 - *cosine).ln() as f32)).sqrt();
        let angle = f64::from(2.0 * std::f32::consts::PI * *sine);
        *cosine = radius * angle.cos() as f32;
        *sine = radius * angle.sin() as f32;
    }
}

fn box_muller_f64(block: &mut [f64]) {
    let (first, second) = block.split_at_mut(BLOCK / 2);
    for (cosine, sine) in first.iter_mut().zip(second) {
        let radius = (-2.0 * (1.0 - *cosine).ln()).sqrt();
        let angle = 2.0 * PI * *sine;
        *cosine = radius * angle.cos();
        *sine = radius * angle.sin();
    }
}
