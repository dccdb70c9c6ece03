//! Products of bytes: a quarter of the memory of f32, and four multiplications where f32 has one.
//!
//! A unit holds four neighbours of the summed axis. An activation is `scale * (byte - 128)` with one scale a row, a
//! weight `scale * byte`, signed, with one a column; each scale takes the largest absolute value to 127. Sums are
//! whole numbers and exact, so every instruction set gives the same ones; what 128 adds to them is known beforehand
//! and taken off again. Scales chosen from the data at hand: Dettmers et al., arXiv:2208.07339, without outliers.

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(super) mod neon;

use super::{Kernel, LANES, Tile};
use crate::isa::for_every_level;

/// Four activations of 0.
pub(crate) const ZERO: u32 = 0x8080_8080;
/// Adding it moves the nearest whole number into the lowest bits.
const SHIFT: f32 = 12_582_912.0;
/// What an activation's byte is above its value.
const OFFSET: f32 = 128.0;
/// Largest byte of a value.
const LARGEST: f32 = 127.0;

/// What turns whole sums into values: of each column, its scale, and what the activations' offset adds to its sum.
#[derive(Clone, Copy)]
pub(crate) struct Scales<'a> {
    pub scales: &'a [f32],
    pub offsets: &'a [i32],
}

for_every_level! {
    /// The bits of the largest absolute value; those of not-a-number are larger than all others.
    fn largest_bits(values: &[f32]) -> u32 {
        let mut largest = [0u32; LANES];
        let mut vectors = values.chunks_exact(LANES);
        for values in &mut vectors {
            for (largest, value) in largest.iter_mut().zip(values) {
                *largest = (*largest).max(value.abs().to_bits());
            }
        }
        let rest = vectors.remainder().iter().map(|value| value.abs().to_bits());
        largest.into_iter().chain(rest).max().unwrap_or(0)
    }
}

for_every_level! {
    fn to_bytes(values: &[f32], inverse: f32, shift: f32, bytes: &mut [u8]) {
        for (byte, value) in bytes.iter_mut().zip(values) {
            // Not at once: every instruction set rounds twice, so all have the same bytes.
            *byte = (value * inverse + shift).to_bits() as u8;
        }
    }
}

for_every_level! {
    fn sum_of_signed(bytes: &[u8]) -> i32 {
        bytes.iter().map(|&byte| i32::from(byte as i8)).sum()
    }
}

/// Largest absolute value; infinite or not a number if one of the values is.
pub(crate) fn largest(values: &[f32]) -> f32 {
    f32::from_bits(largest_bits(values))
}

/// The scale that takes `largest` to 127, and its inverse: 0 where nothing can be divided by the scale.
pub(crate) fn scale(largest: f32) -> (f32, f32) {
    let inverse = LARGEST / largest;
    let usable = largest > 0.0 && inverse.is_finite();
    (largest / LARGEST, if usable { inverse } else { 0.0 })
}

/// The units' bytes, in the order of memory, which is the order of every tile that reads them.
fn bytes_of(units: &mut [u32]) -> &mut [u8] {
    // SAFETY: bytes have no alignment and no invalid value, and the length is that of the units.
    unsafe { std::slice::from_raw_parts_mut(units.as_mut_ptr().cast(), size_of_val(units)) }
}

/// Writes activations, neighbours of the summed axis, whose largest absolute value is `largest`; returns their scale.
pub(crate) fn fill_activations(values: &[f32], largest: f32, units: &mut [u32]) -> f32 {
    let (scale, inverse) = scale(largest);
    if !values.len().is_multiple_of(4) {
        units[values.len() / 4] = ZERO;
    }
    to_bytes(values, inverse, SHIFT + OFFSET, bytes_of(units));
    scale
}

/// Writes a column of weights; returns its scale, and what the activations' offset adds to its sums.
pub(crate) fn fill_weights(values: &[f32], units: &mut [u32]) -> (f32, i32) {
    let (scale, inverse) = scale(largest(values));
    units.fill(0);
    let bytes = &mut bytes_of(units)[..values.len()];
    to_bytes(values, inverse, SHIFT, bytes);
    (scale, OFFSET as i32 * sum_of_signed(bytes))
}

/// One row and one vector at a time.
pub(super) const PORTABLE: Kernel = Kernel {
    tile: portable,
    rows: [4; 4],
};

/// # Safety
/// As [`Kernel::tile`].
unsafe fn portable(t: &Tile<'_>) {
    for row in t.rows {
        for vector in 0..t.vectors {
            let first = vector * LANES;
            let columns = if vector + 1 == t.vectors {
                t.last
            } else {
                LANES
            };
            let mut sums = [0i32; LANES];
            // SAFETY: the caller's promise covers the row's existing columns, and padded scales, offsets and bias.
            unsafe {
                let c = t.c.add(row.c + first);
                if t.add {
                    for (j, sum) in sums[..columns].iter_mut().enumerate() {
                        *sum = (*c.add(j)).to_bits() as i32;
                    }
                }
                sum_runs(t, row.a, first, &mut sums);
                for (j, &sum) in sums[..columns].iter().enumerate() {
                    *c.add(j) = if t.scales.is_null() {
                        f32::from_bits(sum as u32)
                    } else {
                        let whole = sum.wrapping_sub(*t.offsets.add(first + j)) as f32;
                        let mut value = whole * (row.scale * *t.scales.add(first + j));
                        if !t.bias.is_null() {
                            value += *t.bias.add(row.bias + first + j);
                        }
                        if !t.residual.is_null() {
                            value += *t.residual.add(row.c + first + j);
                        }
                        value
                    };
                }
            }
        }
    }
}

/// Adds the products of one row and 16 columns.
///
/// # Safety
/// As [`Kernel::tile`].
#[inline(always)]
unsafe fn sum_runs(t: &Tile<'_>, row: usize, first: usize, sums: &mut [i32; LANES]) {
    for run in t.runs {
        for k in 0..t.length {
            // SAFETY: the caller's promise.
            let (a, b) = unsafe {
                let b = t.b.add(run.b + k * t.b_step + first).cast::<[u32; LANES]>();
                (*t.a.add(row + run.a + k * t.a_step), &*b)
            };
            let a = a.to_ne_bytes();
            for (sum, b) in sums.iter_mut().zip(b) {
                for (a, b) in a.iter().zip(b.to_ne_bytes()) {
                    *sum += i32::from(*a) * i32::from(b as i8);
                }
            }
        }
    }
}
