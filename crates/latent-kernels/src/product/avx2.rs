//! Tiles in 16 registers of 256 bits: 12 hold sums of six rows by 16 columns.
//!
//! bf16 is widened on the way: its two halves of a unit are f32 after a shift or a mask.

use std::arch::x86_64::*;

use super::{Kernel, LANES, Tile};

pub(crate) const F32: Kernel = Kernel {
    tile: tile_f32,
    rows: [6; 4],
};
pub(crate) const BF16: Kernel = Kernel {
    tile: tile_bf16,
    rows: [6; 4],
};

pub(super) const HALF: usize = LANES / 2;
/// Steps of the summed axis by which the right operand is asked for ahead: its lines lie as far apart as a panel is
/// wide, and no processor guesses that.
pub(super) const AHEAD: usize = 32;

#[inline]
#[target_feature(enable = "avx2,fma")]
fn multiply_f32(sum: __m256, a: __m256i, b: __m256i) -> __m256 {
    _mm256_fmadd_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), sum)
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn multiply_bf16(sum: __m256, a: __m256i, b: __m256i) -> __m256 {
    let high = _mm256_set1_epi32(0xffff_0000_u32 as i32);
    let widen = |x| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(x));
    let upper = |x| _mm256_castsi256_ps(_mm256_and_si256(x, high));
    let sum = _mm256_fmadd_ps(widen(a), widen(b), sum);
    _mm256_fmadd_ps(upper(a), upper(b), sum)
}

/// Mask of the columns of half `half` of `vector` that exist.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn mask(t: &Tile<'_>, vector: usize, half: usize) -> __m256i {
    let columns = if vector + 1 == t.vectors {
        t.last
    } else {
        LANES
    };
    let there = columns.saturating_sub(half * HALF).min(HALF) as i32;
    _mm256_cmpgt_epi32(
        _mm256_set1_epi32(there),
        _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7),
    )
}

/// Whether all columns of `vector` exist.
#[inline]
pub(super) fn whole(t: &Tile<'_>, vector: usize) -> bool {
    vector + 1 < t.vectors || t.last == LANES
}

/// Stores eight columns, or those in `mask` unless all are `whole`: masked, a store takes as long as dozens of products
/// on some processors.
///
/// # Safety
/// The columns at `c` are writable.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn store(c: *mut f32, values: __m256, mask: __m256i, whole: bool) {
    // SAFETY: the caller's promise.
    unsafe {
        if whole {
            _mm256_storeu_ps(c, values);
        } else {
            _mm256_maskstore_ps(c, mask, values);
        }
    }
}

/// A tile function for one precision.
///
/// One body: the sums must not leave the registers, as they would at a call.
macro_rules! tiles {
    ($name:ident, $sized:ident, $multiply:ident) => {
        #[target_feature(enable = "avx2,fma")]
        unsafe fn $sized<const R: usize>(t: &Tile<'_>, vector: usize) {
            let (masks, whole) = ([mask(t, vector, 0), mask(t, vector, 1)], whole(t, vector));
            let first = vector * LANES;
            let mut sums = [[_mm256_setzero_ps(); 2]; R];
            // SAFETY: the caller's promise; masks leave out columns that are not there.
            unsafe {
                for i in 0..R {
                    for half in 0..2 {
                        let first = first + half * HALF;
                        if !t.bias.is_null() {
                            sums[i][half] = _mm256_loadu_ps(t.bias.add(t.rows[i].bias + first));
                        }
                        if t.add {
                            let c = t.c.wrapping_add(t.rows[i].c + first);
                            sums[i][half] =
                                _mm256_add_ps(sums[i][half], _mm256_maskload_ps(c, masks[half]));
                        }
                    }
                }
                for run in t.runs {
                    let rows: [*const u32; R] =
                        std::array::from_fn(|i| t.a.add(t.rows[i].a + run.a));
                    let mut b = t.b.add(run.b + first);
                    let mut at = 0;
                    for _ in 0..t.length {
                        let low = _mm256_loadu_si256(b.cast());
                        let high = _mm256_loadu_si256(b.add(HALF).cast());
                        _mm_prefetch::<_MM_HINT_T0>(b.wrapping_add(AHEAD * t.b_step).cast());
                        for i in 0..R {
                            let a = _mm256_set1_epi32(*rows[i].add(at) as i32);
                            sums[i][0] = $multiply(sums[i][0], a, low);
                            sums[i][1] = $multiply(sums[i][1], a, high);
                        }
                        at += t.a_step;
                        b = b.wrapping_add(t.b_step);
                    }
                }
                for i in 0..R {
                    for half in 0..2 {
                        let place = t.rows[i].c + first + half * HALF;
                        if !t.residual.is_null() {
                            let residual = t.residual.wrapping_add(place);
                            let held = _mm256_maskload_ps(residual, masks[half]);
                            sums[i][half] = _mm256_add_ps(sums[i][half], held);
                        }
                        store(t.c.wrapping_add(place), sums[i][half], masks[half], whole);
                    }
                }
            }
        }

        /// # Safety
        /// As [`Kernel::tile`].
        unsafe fn $name(t: &Tile<'_>) {
            for vector in 0..t.vectors {
                // SAFETY: the caller's promise, with the count of rows.
                unsafe {
                    match t.rows.len() {
                        1 => $sized::<1>(t, vector),
                        2 => $sized::<2>(t, vector),
                        3 => $sized::<3>(t, vector),
                        4 => $sized::<4>(t, vector),
                        5 => $sized::<5>(t, vector),
                        6 => $sized::<6>(t, vector),
                        rows => unreachable!("no tile of {rows} rows"),
                    }
                }
            }
        }
    };
}

tiles!(tile_f32, sized_f32, multiply_f32);
tiles!(tile_bf16, sized_bf16, multiply_bf16);
