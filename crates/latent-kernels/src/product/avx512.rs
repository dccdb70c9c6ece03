//! Tiles in 32 registers of 512 bits: up to 24 hold sums, the rest the right operand.

use std::arch::x86_64::*;

use super::{Kernel, LANES, Tile};

/// Tiles that keep 16 to 24 sums, so that the adders' latency is covered.
pub(crate) const F32: Kernel = Kernel {
    tile: tile_f32,
    rows: [16, 12, 8, 6],
};
pub(crate) const BF16: Kernel = Kernel {
    tile: tile_bf16,
    rows: [16, 12, 8, 6],
};

#[inline]
#[target_feature(enable = "avx512f")]
fn multiply_f32(sum: __m512, a: __m512i, b: __m512i) -> __m512 {
    _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn multiply_bf16(sum: __m512, a: __m512i, b: __m512i) -> __m512 {
    // SAFETY: both types are 512 bits without an invalid value.
    let [a, b] = unsafe { std::mem::transmute::<[__m512i; 2], [__m512bh; 2]>([a, b]) };
    _mm512_dpbf16_ps(sum, a, b)
}

/// Calls `$sized::<R, V>` for the tile's counts.
macro_rules! sized_tiles {
    ($t:ident, $sized:ident) => {
        sized_tiles!($t, $sized,
            4: 1 2 3 4 5 6;
            3: 1 2 3 4 5 6 7 8;
            2: 1 2 3 4 5 6 7 8 9 10 11 12;
            1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16;
        )
    };
    ($t:ident, $sized:ident, $($v:literal: $($r:literal)*;)*) => {
        match ($t.vectors, $t.rows.len()) {
            // SAFETY: the caller's promise, with the counts just read.
            $($(($v, $r) => unsafe { $sized::<$r, $v>($t) },)*)*
            (vectors, rows) => unreachable!("no tile of {rows} rows by {vectors} vectors"),
        }
    };
}
pub(super) use sized_tiles;

/// A tile function for one precision, and its instances for every count of rows and vectors.
///
/// One body: the sums must not leave the registers, as they would at a call.
macro_rules! tiles {
    ($name:ident, $sized:ident, $multiply:ident, $features:literal) => {
        #[target_feature(enable = $features)]
        unsafe fn $sized<const R: usize, const V: usize>(t: &Tile<'_>) {
            // Columns that are not there are neither read nor written; whole vectors go without the slower mask.
            let whole = t.last == LANES;
            let mask = u16::MAX >> (LANES - t.last);
            let mut sums = [[_mm512_setzero_ps(); V]; R];
            // SAFETY: the caller's promise.
            unsafe {
                if !t.bias.is_null() {
                    for i in 0..R {
                        for j in 0..V {
                            sums[i][j] = _mm512_loadu_ps(t.bias.add(t.rows[i].bias + j * LANES));
                        }
                    }
                }
                if t.add {
                    for i in 0..R {
                        for j in 0..V {
                            let c = t.c.add(t.rows[i].c + j * LANES);
                            let held = if whole || j + 1 < V {
                                _mm512_loadu_ps(c)
                            } else {
                                _mm512_maskz_loadu_ps(mask, c)
                            };
                            sums[i][j] = _mm512_add_ps(sums[i][j], held);
                        }
                    }
                }
                for run in t.runs {
                    let rows: [*const u32; R] =
                        std::array::from_fn(|i| t.a.add(t.rows[i].a + run.a));
                    let mut b = t.b.add(run.b);
                    let mut at = 0;
                    for _ in 0..t.length {
                        let bs: [__m512i; V] =
                            std::array::from_fn(|j| _mm512_loadu_si512(b.add(j * LANES).cast()));
                        for i in 0..R {
                            let a = _mm512_set1_epi32(*rows[i].add(at) as i32);
                            for j in 0..V {
                                sums[i][j] = $multiply(sums[i][j], a, bs[j]);
                            }
                        }
                        at += t.a_step;
                        b = b.wrapping_add(t.b_step);
                    }
                }
                if !t.residual.is_null() {
                    for i in 0..R {
                        for j in 0..V {
                            let residual = t.residual.add(t.rows[i].c + j * LANES);
                            let mask = if j + 1 < V { u16::MAX } else { mask };
                            let held = _mm512_maskz_loadu_ps(mask, residual);
                            sums[i][j] = _mm512_add_ps(sums[i][j], held);
                        }
                    }
                }
                for i in 0..R {
                    for j in 0..V {
                        let c = t.c.add(t.rows[i].c + j * LANES);
                        if whole || j + 1 < V {
                            _mm512_storeu_ps(c, sums[i][j]);
                        } else {
                            _mm512_mask_storeu_ps(c, mask, sums[i][j]);
                        }
                    }
                }
            }
        }

        /// # Safety
        /// As [`Kernel::tile`].
        unsafe fn $name(t: &Tile<'_>) {
            sized_tiles!(t, $sized)
        }
    };
}

tiles!(tile_f32, sized_f32, multiply_f32, "avx512f");
tiles!(tile_bf16, sized_bf16, multiply_bf16, "avx512f,avx512bf16");
