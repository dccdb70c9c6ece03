//! Tiles of bytes in 32 registers of 512 bits (AVX-512 VNNI): up to 24 hold sums, the rest the right operand.

#![expect(
    clippy::needless_range_loop,
    reason = "rows of sums, of pointers and of the tile go together by their number"
)]

use std::arch::x86_64::*;

use super::super::avx512::sized_tiles;
use super::super::{Kernel, LANES, Tile};

pub(crate) const INT8: Kernel = Kernel {
    tile,
    rows: [16, 12, 8, 6],
};

/// # Safety
/// As [`Kernel::tile`].
unsafe fn tile(t: &Tile<'_>) {
    sized_tiles!(t, sized)
}

/// The whole sums, or the values they stand for in the last pass.
///
/// One body of small loops, each unrolled: the sums must not leave the registers, as they would at a call or in a loop.
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn sized<const R: usize, const V: usize>(t: &Tile<'_>) {
    let mask = u16::MAX >> (LANES - t.last);
    let there = |j: usize| if j + 1 < V { u16::MAX } else { mask };
    let mut sums = [[_mm512_setzero_si512(); V]; R];
    // SAFETY: the caller's promise; masks leave out columns that are not there.
    unsafe {
        if t.add {
            for i in 0..R {
                for j in 0..V {
                    let c = t.c.add(t.rows[i].c + j * LANES).cast();
                    sums[i][j] = _mm512_maskz_loadu_epi32(there(j), c);
                }
            }
        }
        for run in t.runs {
            let rows: [*const u32; R] = std::array::from_fn(|i| t.a.add(t.rows[i].a + run.a));
            let mut b = t.b.add(run.b);
            let mut at = 0;
            for _ in 0..t.length {
                let bs: [__m512i; V] =
                    std::array::from_fn(|j| _mm512_loadu_si512(b.add(j * LANES).cast()));
                for i in 0..R {
                    let a = _mm512_set1_epi32(*rows[i].add(at) as i32);
                    for j in 0..V {
                        sums[i][j] = _mm512_dpbusd_epi32(sums[i][j], a, bs[j]);
                    }
                }
                at += t.a_step;
                b = b.wrapping_add(t.b_step);
            }
        }
        if t.scales.is_null() {
            for i in 0..R {
                for j in 0..V {
                    let c = t.c.add(t.rows[i].c + j * LANES);
                    _mm512_mask_storeu_epi32(c.cast(), there(j), sums[i][j]);
                }
            }
        } else {
            finish(t, sums);
        }
    }
}

/// Writes the values that whole sums stand for.
///
/// # Safety
/// As [`Kernel::tile`].
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn finish<const R: usize, const V: usize>(t: &Tile<'_>, sums: [[__m512i; V]; R]) {
    let mask = u16::MAX >> (LANES - t.last);
    let there = |j: usize| if j + 1 < V { u16::MAX } else { mask };
    let mut values = [[_mm512_setzero_ps(); V]; R];
    // SAFETY: the caller's promise; scales, offsets and bias are padded to whole vectors, masks cover the rest.
    unsafe {
        let offsets: [__m512i; V] =
            std::array::from_fn(|j| _mm512_loadu_si512(t.offsets.add(j * LANES).cast()));
        let scales: [__m512; V] = std::array::from_fn(|j| _mm512_loadu_ps(t.scales.add(j * LANES)));
        for i in 0..R {
            for j in 0..V {
                let whole = _mm512_cvtepi32_ps(_mm512_sub_epi32(sums[i][j], offsets[j]));
                let scale = _mm512_mul_ps(_mm512_set1_ps(t.rows[i].scale), scales[j]);
                values[i][j] = _mm512_mul_ps(whole, scale);
            }
        }
        if !t.bias.is_null() {
            for i in 0..R {
                for j in 0..V {
                    let bias = _mm512_loadu_ps(t.bias.add(t.rows[i].bias + j * LANES));
                    values[i][j] = _mm512_add_ps(values[i][j], bias);
                }
            }
        }
        if !t.residual.is_null() {
            for i in 0..R {
                for j in 0..V {
                    let residual = t.residual.add(t.rows[i].c + j * LANES);
                    let held = _mm512_maskz_loadu_ps(there(j), residual);
                    values[i][j] = _mm512_add_ps(values[i][j], held);
                }
            }
        }
        for i in 0..R {
            for j in 0..V {
                let c = t.c.add(t.rows[i].c + j * LANES);
                _mm512_mask_storeu_ps(c, there(j), values[i][j]);
            }
        }
    }
}
