//! Tiles of bytes in 32 registers of 128 bits.
//!
//! With matrix instructions (i8mm) two rows and two columns share a register of sums. With dot products alone both
//! operands are signed: activations lose their 128 on the way, and what that takes off the sums is summed beside
//! them, in registers that all rows share. Instructions are written as assembly, as Rust has none stable for them.

#![expect(
    clippy::needless_range_loop,
    reason = "rows of sums, of pointers and of the tile go together by their number"
)]

use std::arch::aarch64::*;
use std::arch::asm;

use super::super::neon::{
    Blocks, QUARTER, QUARTERS, add_bytes, columns, cross, load, second, store,
};
use super::super::{Kernel, LANES, Tile};
use super::ZERO;

/// With matrix instructions.
pub(crate) const MATRIX: Kernel = Kernel {
    tile: tile_matrix,
    rows: [6; 4],
};
/// With dot products.
pub(crate) const DOT: Kernel = Kernel {
    tile: tile_dot,
    rows: [5; 4],
};

/// What the sums of row `i` begin with, from column `first` of the panel on.
///
/// # Safety
/// The CPU has NEON; otherwise as [`Kernel::tile`].
#[inline]
#[target_feature(enable = "neon")]
unsafe fn begin(t: &Tile<'_>, i: usize, first: usize, columns: usize) -> [uint32x4_t; QUARTERS] {
    if !t.add {
        return [vdupq_n_u32(0); QUARTERS];
    }
    // SAFETY: the caller's promise; the output holds whole sums in the bits of its values.
    unsafe {
        load(t.c.wrapping_add(t.rows[i].c + first), columns).map(|held| vreinterpretq_u32_f32(held))
    }
}

/// Writes the whole sums of row `i`, or the values they stand for in the last pass, from column `first` of the panel
/// on.
///
/// # Safety
/// As [`begin`].
#[inline]
#[target_feature(enable = "neon")]
unsafe fn finish(
    t: &Tile<'_>,
    i: usize,
    first: usize,
    columns: usize,
    sums: [uint32x4_t; QUARTERS],
) {
    let row = &t.rows[i];
    let c = t.c.wrapping_add(row.c + first);
    // SAFETY: the caller's promise; scales, offsets and bias are padded to whole vectors.
    unsafe {
        if t.scales.is_null() {
            return store(c, columns, sums.map(|sums| vreinterpretq_f32_u32(sums)));
        }
        let scales = load(t.scales.add(first), LANES);
        let mut values: [float32x4_t; QUARTERS] = std::array::from_fn(|j| {
            let offsets = vld1q_s32(t.offsets.add(first + j * QUARTER));
            let whole = vcvtq_f32_s32(vsubq_s32(vreinterpretq_s32_u32(sums[j]), offsets));
            vmulq_f32(whole, vmulq_n_f32(scales[j], row.scale))
        });
        if !t.bias.is_null() {
            let bias = load(t.bias.add(row.bias + first), LANES);
            values = std::array::from_fn(|j| vaddq_f32(values[j], bias[j]));
        }
        if !t.residual.is_null() {
            let residual = load(t.residual.wrapping_add(row.c + first), columns);
            values = std::array::from_fn(|j| vaddq_f32(values[j], residual[j]));
        }
        store(c, columns, values);
    }
}

/// # Safety
/// As [`Kernel::tile`].
unsafe fn tile_matrix(t: &Tile<'_>) {
    for vector in 0..t.vectors {
        // SAFETY: the caller's promise, with the count of pairs.
        unsafe {
            match t.rows.len().div_ceil(2) {
                1 => sized_matrix::<1>(t, vector),
                2 => sized_matrix::<2>(t, vector),
                3 => sized_matrix::<3>(t, vector),
                pairs => unreachable!("no tile of {pairs} pairs of rows"),
            }
        }
    }
}

/// P pairs of rows, the second of the last pair perhaps missing.
#[target_feature(enable = "neon,i8mm")]
unsafe fn sized_matrix<const P: usize>(t: &Tile<'_>, vector: usize) {
    let columns = columns(t, vector);
    let first = vector * LANES;
    let mut sums: Blocks<P> = [[[vdupq_n_u32(0); 2]; QUARTERS]; P];
    // SAFETY: the caller's promise, of the rows and the columns that are there.
    unsafe {
        if t.add {
            for p in 0..P {
                let [x, y] = [2 * p, second(t, p)].map(|i| begin(t, i, first, columns));
                for q in 0..QUARTERS {
                    sums[p][q] = cross([x[q], y[q]]);
                }
            }
        }
        let sums = add_bytes(t, first, sums);
        for p in 0..P {
            let rows = sums[p].map(|blocks| cross(blocks));
            for i in 2 * p..=second(t, p) {
                finish(t, i, first, columns, rows.map(|row| row[i - 2 * p]));
            }
        }
    }
}

/// # Safety
/// As [`Kernel::tile`].
unsafe fn tile_dot(t: &Tile<'_>) {
    for vector in 0..t.vectors {
        // SAFETY: the caller's promise, with the count of rows.
        unsafe {
            match t.rows.len() {
                1 => sized_dot::<1>(t, vector),
                2 => sized_dot::<2>(t, vector),
                3 => sized_dot::<3>(t, vector),
                4 => sized_dot::<4>(t, vector),
                5 => sized_dot::<5>(t, vector),
                rows => unreachable!("no tile of {rows} rows"),
            }
        }
    }
}

/// Adds the products of four signed bytes of `a`, the first of its register, with those of each column of `b`.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn multiply(mut sum: uint32x4_t, a: uint32x4_t, b: uint32x4_t) -> uint32x4_t {
    // SAFETY: the CPU has the instruction, which touches its registers alone.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {b:v}.16b, {a:v}.4b[0]",
            sum = inout(vreg) sum,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

/// One body: the sums must not leave the registers, as they would at a call.
#[target_feature(enable = "neon,dotprod")]
unsafe fn sized_dot<const R: usize>(t: &Tile<'_>, vector: usize) {
    let columns = columns(t, vector);
    let first = vector * LANES;
    // The byte of 0 is -128 as a signed one, and takes 128 off an unsigned one where their bits are joined.
    let zero = vdupq_n_u32(ZERO);
    let mut sums = [[vdupq_n_u32(0); QUARTERS]; R];
    let mut taken = [vdupq_n_u32(0); QUARTERS];
    // SAFETY: the caller's promise, of R rows and the columns that are there.
    unsafe {
        for i in 0..R {
            sums[i] = begin(t, i, first, columns);
        }
        for run in t.runs {
            let rows: [*const u32; R] = std::array::from_fn(|i| t.a.add(t.rows[i].a + run.a));
            let mut b = t.b.add(run.b + first);
            let mut at = 0;
            for _ in 0..t.length {
                let bs: [uint32x4_t; QUARTERS] =
                    std::array::from_fn(|j| vld1q_u32(b.add(j * QUARTER)));
                for j in 0..QUARTERS {
                    taken[j] = multiply(taken[j], zero, bs[j]);
                }
                for i in 0..R {
                    let a = vdupq_n_u32(*rows[i].add(at) ^ ZERO);
                    for j in 0..QUARTERS {
                        sums[i][j] = multiply(sums[i][j], a, bs[j]);
                    }
                }
                at += t.a_step;
                b = b.wrapping_add(t.b_step);
            }
        }
        for i in 0..R {
            let whole = std::array::from_fn(|j| vsubq_u32(sums[i][j], taken[j]));
            finish(t, i, first, columns, whole);
        }
    }
}
