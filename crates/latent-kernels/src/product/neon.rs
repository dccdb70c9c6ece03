//! Tiles in 32 registers of 128 bits: 24 hold sums of six rows by 16 columns.
//!
//! Where the CPU has matrix instructions, two rows and two columns share a register of sums; they are written as
//! assembly, as Rust has them stable for neither bf16 nor bytes. Without them bf16 is widened on the way: its two
//! halves of a unit are f32 after a shift or a mask.

#![expect(
    clippy::needless_range_loop,
    reason = "rows of sums, of pointers and of the tile go together by their number"
)]

use std::arch::aarch64::*;
use std::arch::asm;

use super::{Kernel, LANES, Tile};

pub(crate) const F32: Kernel = Kernel {
    tile: tile_f32,
    rows: [6; 4],
};
/// Fewer rows: both halves of the right operand take a register.
pub(crate) const WIDENED_BF16: Kernel = Kernel {
    tile: tile_widened_bf16,
    rows: [4; 4],
};
pub(crate) const BF16: Kernel = Kernel {
    tile: tile_bf16,
    rows: [6; 4],
};

/// Values of a register.
pub(super) const QUARTER: usize = 4;
/// Registers of a vector of 16 columns.
pub(super) const QUARTERS: usize = LANES / QUARTER;

/// Columns of `vector` that exist in the output.
#[inline]
pub(super) fn columns(t: &Tile<'_>, vector: usize) -> usize {
    if vector + 1 == t.vectors {
        t.last
    } else {
        LANES
    }
}

/// The first `columns` of a vector, then zeros.
///
/// # Safety
/// The CPU has NEON; so many values are readable.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn load(from: *const f32, columns: usize) -> [float32x4_t; QUARTERS] {
    let mut part = [0.0; LANES];
    // SAFETY: the caller's promise; a part is copied to where a whole vector can be read.
    unsafe {
        let from = if columns < LANES {
            std::ptr::copy_nonoverlapping(from, part.as_mut_ptr(), columns);
            part.as_ptr()
        } else {
            from
        };
        std::array::from_fn(|j| vld1q_f32(from.add(j * QUARTER)))
    }
}

/// Writes the first `columns` of a vector.
///
/// # Safety
/// The CPU has NEON; so many values are writable.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn store(to: *mut f32, columns: usize, values: [float32x4_t; QUARTERS]) {
    let mut part = [0.0; LANES];
    // SAFETY: the caller's promise; what is not a whole vector goes through one.
    unsafe {
        let whole = if columns < LANES {
            part.as_mut_ptr()
        } else {
            to
        };
        for (j, values) in values.into_iter().enumerate() {
            vst1q_f32(whole.add(j * QUARTER), values);
        }
        if columns < LANES {
            std::ptr::copy_nonoverlapping(part.as_ptr(), to, columns);
        }
    }
}

/// What the sums of row `i` begin with, from column `first` of the panel on.
///
/// # Safety
/// The CPU has NEON; otherwise as [`Kernel::tile`].
#[inline]
#[target_feature(enable = "neon")]
unsafe fn begin(t: &Tile<'_>, i: usize, first: usize, columns: usize) -> [float32x4_t; QUARTERS] {
    let mut sums = [vdupq_n_f32(0.0); QUARTERS];
    // SAFETY: the caller's promise; the bias is padded to whole vectors.
    unsafe {
        if !t.bias.is_null() {
            sums = load(t.bias.add(t.rows[i].bias + first), LANES);
        }
        if t.add {
            let held = load(t.c.wrapping_add(t.rows[i].c + first), columns);
            sums = std::array::from_fn(|j| vaddq_f32(sums[j], held[j]));
        }
    }
    sums
}

/// Writes the sums of row `i` from column `first` of the panel on.
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
    mut sums: [float32x4_t; QUARTERS],
) {
    let place = t.rows[i].c + first;
    // SAFETY: the caller's promise.
    unsafe {
        if !t.residual.is_null() {
            let residual = load(t.residual.wrapping_add(place), columns);
            sums = std::array::from_fn(|j| vaddq_f32(sums[j], residual[j]));
        }
        store(t.c.wrapping_add(place), columns, sums);
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn multiply_f32(sum: float32x4_t, a: u32, b: uint32x4_t) -> float32x4_t {
    vfmaq_n_f32(sum, vreinterpretq_f32_u32(b), f32::from_bits(a))
}

#[inline]
#[target_feature(enable = "neon")]
fn multiply_widened_bf16(sum: float32x4_t, a: u32, b: uint32x4_t) -> float32x4_t {
    let a = vdupq_n_u32(a);
    let high = vdupq_n_u32(0xffff_0000);
    let widen = |x| vreinterpretq_f32_u32(vshlq_n_u32::<16>(x));
    let upper = |x| vreinterpretq_f32_u32(vandq_u32(x, high));
    let sum = vfmaq_f32(sum, widen(a), widen(b));
    vfmaq_f32(sum, upper(a), upper(b))
}

/// A tile function for one precision.
///
/// One body: the sums must not leave the registers, as they would at a call.
macro_rules! tiles {
    ($name:ident, $sized:ident, $multiply:ident, $($rows:literal)*) => {
        #[target_feature(enable = "neon")]
        unsafe fn $sized<const R: usize>(t: &Tile<'_>, vector: usize) {
            let columns = columns(t, vector);
            let first = vector * LANES;
            let mut sums = [[vdupq_n_f32(0.0); QUARTERS]; R];
            // SAFETY: the caller's promise, of R rows and the columns that are there.
            unsafe {
                for i in 0..R {
                    sums[i] = begin(t, i, first, columns);
                }
                for run in t.runs {
                    let rows: [*const u32; R] =
                        std::array::from_fn(|i| t.a.add(t.rows[i].a + run.a));
                    let mut b = t.b.add(run.b + first);
                    let mut at = 0;
                    for _ in 0..t.length {
                        let bs: [uint32x4_t; QUARTERS] =
                            std::array::from_fn(|j| vld1q_u32(b.add(j * QUARTER)));
                        for i in 0..R {
                            let a = *rows[i].add(at);
                            for j in 0..QUARTERS {
                                sums[i][j] = $multiply(sums[i][j], a, bs[j]);
                            }
                        }
                        at += t.a_step;
                        b = b.wrapping_add(t.b_step);
                    }
                }
                for i in 0..R {
                    finish(t, i, first, columns, sums[i]);
                }
            }
        }

        /// # Safety
        /// As [`Kernel::tile`].
        unsafe fn $name(t: &Tile<'_>) {
            for vector in 0..t.vectors {
                match t.rows.len() {
                    // SAFETY: the caller's promise, with the count of rows.
                    $($rows => unsafe { $sized::<$rows>(t, vector) },)*
                    rows => unreachable!("no tile of {rows} rows"),
                }
            }
        }
    };
}

tiles!(tile_f32, sized_f32, multiply_f32, 1 2 3 4 5 6);
tiles!(tile_widened_bf16, sized_widened_bf16, multiply_widened_bf16, 1 2 3 4);

/// Sums of P pairs of rows by 16 columns: `[p][q][h]` holds rows `2 p` and `2 p + 1` of columns `4 q + 2 h` and the
/// next, row by row.
pub(super) type Blocks<const P: usize> = [[[uint32x4_t; 2]; QUARTERS]; P];

/// Two rows of four columns as two blocks, and two blocks as two rows.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn cross([x, y]: [uint32x4_t; 2]) -> [uint32x4_t; 2] {
    let (x, y) = (vreinterpretq_u64_u32(x), vreinterpretq_u64_u32(y));
    [
        vreinterpretq_u32_u64(vzip1q_u64(x, y)),
        vreinterpretq_u32_u64(vzip2q_u64(x, y)),
    ]
}

/// The second row of pair `p`; of an odd count, the last row goes with itself.
#[inline]
pub(super) fn second(t: &Tile<'_>, p: usize) -> usize {
    (2 * p + 1).min(t.rows.len() - 1)
}

/// Two neighbours of the summed axis, of each of two rows.
///
/// # Safety
/// The CPU has NEON; both units of both rows are readable.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn two_steps(rows: [*const u32; 2], a_step: usize) -> uint32x4_t {
    // SAFETY: the caller's promise.
    let [x, y] = rows.map(|row| unsafe {
        if a_step == 1 {
            vld1_u32(row)
        } else {
            vset_lane_u32::<1>(*row.add(a_step), vdup_n_u32(*row))
        }
    });
    vcombine_u32(x, y)
}

/// One step of the summed axis and a 0, of each of two rows.
///
/// # Safety
/// The CPU has NEON; the unit of both rows is readable.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn one_step(rows: [*const u32; 2]) -> uint32x4_t {
    // SAFETY: the caller's promise.
    let [x, y] = rows.map(|row| unsafe { vcreate_u32(u64::from(*row)) });
    vcombine_u32(x, y)
}

/// Adds the products of two steps of the summed axis: pairs of rows `$a` with four columns at a time, whose units
/// at either step are `$low(q)` and `$high(q)`.
///
/// The instructions are not `pure`: kept in order, they leave registers enough for the sums.
macro_rules! add_two_steps {
    ($instruction:literal, $sums:ident, $a:expr, $low:expr, $high:expr) => {
        let a: [uint32x4_t; P] = std::array::from_fn($a);
        for q in 0..QUARTERS {
            let (low, high) = ($low(q), $high(q));
            let b = [vzip1q_u32(low, high), vzip2q_u32(low, high)];
            for h in 0..2 {
                for p in 0..P {
                    asm!(
                        $instruction,
                        sum = inout(vreg) $sums[p][q][h],
                        a = in(vreg) a[p],
                        b = in(vreg) b[h],
                        options(nomem, nostack, preserves_flags),
                    );
                }
            }
        }
    };
}

/// A function that adds the products of all runs to blocks of sums; one instruction multiplies two rows with two
/// columns over two steps of the summed axis.
macro_rules! multiply_blocks {
    ($name:ident, $features:literal, $instruction:literal) => {
        /// # Safety
        /// As [`Kernel::tile`], with `2 P` rows, or one less.
        #[inline]
        #[target_feature(enable = $features)]
        pub(in crate::product) unsafe fn $name<const P: usize>(
            t: &Tile<'_>,
            first: usize,
            mut sums: Blocks<P>,
        ) -> Blocks<P> {
            // SAFETY: the caller's promise; the instruction touches its registers alone.
            unsafe {
                for run in t.runs {
                    let rows: [[*const u32; 2]; P] = std::array::from_fn(|p| {
                        [2 * p, second(t, p)].map(|i| t.a.add(t.rows[i].a + run.a))
                    });
                    let mut b = t.b.add(run.b + first);
                    let mut at = 0;
                    for _ in 0..t.length / 2 {
                        add_two_steps!(
                            $instruction,
                            sums,
                            |p: usize| two_steps(rows[p].map(|row| row.add(at)), t.a_step),
                            |q: usize| vld1q_u32(b.add(q * QUARTER)),
                            |q: usize| vld1q_u32(b.add(t.b_step + q * QUARTER))
                        );
                        at += 2 * t.a_step;
                        b = b.wrapping_add(2 * t.b_step);
                    }
                    if !t.length.is_multiple_of(2) {
                        // A step alone goes with one of zeros.
                        add_two_steps!(
                            $instruction,
                            sums,
                            |p: usize| one_step(rows[p].map(|row| row.add(at))),
                            |q: usize| vld1q_u32(b.add(q * QUARTER)),
                            |_| vdupq_n_u32(0)
                        );
                    }
                }
            }
            sums
        }
    };
}

multiply_blocks!(
    add_bf16,
    "neon,bf16",
    "bfmmla {sum:v}.4s, {a:v}.8h, {b:v}.8h"
);
multiply_blocks!(
    add_bytes,
    "neon,i8mm",
    "usmmla {sum:v}.4s, {a:v}.16b, {b:v}.16b"
);

/// P pairs of rows, the second of the last pair perhaps missing.
#[target_feature(enable = "neon,bf16")]
unsafe fn sized_bf16<const P: usize>(t: &Tile<'_>, vector: usize) {
    let columns = columns(t, vector);
    let first = vector * LANES;
    let mut sums: Blocks<P> = [[[vdupq_n_u32(0); 2]; QUARTERS]; P];
    // SAFETY: the caller's promise, of the rows and the columns that are there.
    unsafe {
        if t.add || !t.bias.is_null() {
            for p in 0..P {
                let [x, y] = [2 * p, second(t, p)].map(|i| begin(t, i, first, columns));
                for q in 0..QUARTERS {
                    sums[p][q] = cross([x[q], y[q]].map(|row| vreinterpretq_u32_f32(row)));
                }
            }
        }
        let sums = add_bf16(t, first, sums);
        for p in 0..P {
            let rows = sums[p].map(|blocks| cross(blocks).map(|row| vreinterpretq_f32_u32(row)));
            for i in 2 * p..=second(t, p) {
                finish(t, i, first, columns, rows.map(|row| row[i - 2 * p]));
            }
        }
    }
}

/// # Safety
/// As [`Kernel::tile`].
unsafe fn tile_bf16(t: &Tile<'_>) {
    for vector in 0..t.vectors {
        // SAFETY: the caller's promise, with the count of pairs.
        unsafe {
            match t.rows.len().div_ceil(2) {
                1 => sized_bf16::<1>(t, vector),
                2 => sized_bf16::<2>(t, vector),
                3 => sized_bf16::<3>(t, vector),
                pairs => unreachable!("no tile of {pairs} pairs of rows"),
            }
        }
    }
}
