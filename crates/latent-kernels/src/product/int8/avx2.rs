//! Tiles of bytes in registers of 256 bits: every second byte of both operands as 16-bit numbers, whose products
//! are added up in pairs without loss.

#![expect(
    clippy::needless_range_loop,
    reason = "rows of sums, of pointers and of the tile go together by their number"
)]

use std::arch::x86_64::*;

use super::super::avx2::{AHEAD, HALF, mask, store, whole};
use super::super::{Kernel, LANES, Tile};

pub(crate) const INT8: Kernel = Kernel { tile, rows: [4; 4] };

/// # Safety
/// As [`Kernel::tile`].
unsafe fn tile(t: &Tile<'_>) {
    for vector in 0..t.vectors {
        // SAFETY: the caller's promise, with the count of rows.
        unsafe {
            match t.rows.len() {
                1 => sized::<1>(t, vector),
                2 => sized::<2>(t, vector),
                3 => sized::<3>(t, vector),
                4 => sized::<4>(t, vector),
                rows => unreachable!("no tile of {rows} rows"),
            }
        }
    }
}

/// The signed bytes at even and at odd places, as 16-bit numbers.
#[inline]
#[target_feature(enable = "avx2")]
fn signed(b: __m256i) -> [__m256i; 2] {
    let even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(b));
    [even, _mm256_srai_epi16::<8>(b)]
}

/// The whole sums, or the values they stand for in the last pass.
#[target_feature(enable = "avx2,fma")]
unsafe fn sized<const R: usize>(t: &Tile<'_>, vector: usize) {
    let (masks, whole) = ([mask(t, vector, 0), mask(t, vector, 1)], whole(t, vector));
    let first = vector * LANES;
    let low_bytes = _mm256_set1_epi16(0xff);
    let mut sums = [[_mm256_setzero_si256(); 2]; R];
    // SAFETY: the caller's promise; masks leave out columns that are not there.
    unsafe {
        if t.add {
            for i in 0..R {
                for half in 0..2 {
                    let c = t.c.wrapping_add(t.rows[i].c + first + half * HALF);
                    sums[i][half] = _mm256_maskload_epi32(c.cast(), masks[half]);
                }
            }
        }
        for run in t.runs {
            let rows: [*const u32; R] = std::array::from_fn(|i| t.a.add(t.rows[i].a + run.a));
            let mut b = t.b.add(run.b + first);
            let mut at = 0;
            for _ in 0..t.length {
                _mm_prefetch::<_MM_HINT_T0>(b.wrapping_add(AHEAD * t.b_step).cast());
                let halves = [
                    signed(_mm256_loadu_si256(b.cast())),
                    signed(_mm256_loadu_si256(b.add(HALF).cast())),
                ];
                for i in 0..R {
                    let a = _mm256_set1_epi32(*rows[i].add(at) as i32);
                    let a = [_mm256_and_si256(a, low_bytes), _mm256_srli_epi16::<8>(a)];
                    for half in 0..2 {
                        let even = _mm256_madd_epi16(a[0], halves[half][0]);
                        let odd = _mm256_madd_epi16(a[1], halves[half][1]);
                        let both = _mm256_add_epi32(even, odd);
                        sums[i][half] = _mm256_add_epi32(sums[i][half], both);
                    }
                }
                at += t.a_step;
                b = b.wrapping_add(t.b_step);
            }
        }
        for i in 0..R {
            for half in 0..2 {
                finish(
                    t,
                    (i, first + half * HALF),
                    sums[i][half],
                    (masks[half], whole),
                );
            }
        }
    }
}

/// Writes eight columns of row `i` from column `first` of the panel on.
///
/// # Safety
/// As [`Kernel::tile`].
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn finish(
    t: &Tile<'_>,
    (i, first): (usize, usize),
    sums: __m256i,
    (mask, all): (__m256i, bool),
) {
    let row = &t.rows[i];
    let c = t.c.wrapping_add(row.c + first);
    // SAFETY: the caller's promise; scales, offsets and bias are padded to whole vectors, masks cover the rest.
    unsafe {
        if t.scales.is_null() {
            store(c, _mm256_castsi256_ps(sums), mask, all);
            return;
        }
        let offsets = _mm256_loadu_si256(t.offsets.add(first).cast());
        let whole = _mm256_cvtepi32_ps(_mm256_sub_epi32(sums, offsets));
        let scales = _mm256_loadu_ps(t.scales.add(first));
        let scales = _mm256_mul_ps(_mm256_set1_ps(row.scale), scales);
        let mut value = _mm256_mul_ps(whole, scales);
        if !t.bias.is_null() {
            let bias = _mm256_loadu_ps(t.bias.add(row.bias + first));
            value = _mm256_add_ps(value, bias);
        }
        if !t.residual.is_null() {
            let residual = t.residual.wrapping_add(row.c + first);
            value = _mm256_add_ps(value, _mm256_maskload_ps(residual, mask));
        }
        store(c, value, mask, all);
    }
}
