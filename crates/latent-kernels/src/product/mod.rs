//! The one matrix product under linear layers, convolutions and attention.
//!
//! Operands are made of *units* of 32 bits along the summed axis: one f32, two neighbouring bf16, or four bytes. A
//! unit is what the multiply instructions take, so everything above a tile is the same code for all precisions:
//! * the left operand is read unit by unit at arbitrary row offsets, so a convolution hands over the places of its
//!   patches and never builds a matrix of them;
//! * the right operand lies in panels `[n / 64][k][64]` of units (the last panel is as wide as it needs to be,
//!   in steps of 16). AVX-512 and AMX multiply the same panels.
//!
//! Every output value is summed in the same order whatever the rows beside it, the task or the thread.

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod int8;
#[cfg(target_arch = "aarch64")]
mod neon;
pub(crate) mod pack;
mod portable;
#[cfg(test)]
mod tests;

#[cfg(target_arch = "aarch64")]
use std::arch::is_aarch64_feature_detected;
use std::ops::Range;

use crate::isa::{Level, Precision, level};

use int8::Scales;

/// Columns of a vector.
pub(crate) const LANES: usize = 16;
/// Columns of a full panel.
pub(crate) const PANEL: usize = 64;
/// Units of the summed axis per pass, so that a panel's part stays in the second-level cache.
const DEPTH: usize = 1536;
/// Most parts per pass.
const RUNS: usize = 64;

/// One row of an output tile: offsets in units or values.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Row {
    /// First unit in the left operand.
    pub a: usize,
    /// First value in the output and in the residual.
    pub c: usize,
    /// First value in the bias.
    pub bias: usize,
    /// What a whole number in the left operand stands for; of bytes only.
    pub scale: f32,
}

/// A run of units to be summed: where it begins in either operand.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Run {
    pub a: usize,
    pub b: usize,
}

/// A block of output, 64 columns wide at most; [`Kernel::rows`] of them fit in registers.
pub(crate) struct Tile<'a> {
    pub a: *const u32,
    pub b: *const u32,
    pub c: *mut f32,
    /// Null, or what the sums begin with.
    pub bias: *const f32,
    /// Null, or what is added in the end, placed like the output.
    pub residual: *const f32,
    pub rows: &'a [Row],
    pub runs: &'a [Run],
    /// Units of a run.
    pub length: usize,
    /// Units from one step of the summed axis to the next.
    pub a_step: usize,
    pub b_step: usize,
    /// Vectors of the panel, 1 to 4.
    pub vectors: usize,
    /// Columns of the last vector that exist in the output, 1 to 16.
    pub last: usize,
    /// Whether the sums begin with what the output holds.
    pub add: bool,
    /// Of bytes, in the last pass: each column's scale, and what to take off its sums. Null before, when the output
    /// holds whole sums.
    pub scales: *const f32,
    pub offsets: *const i32,
}

/// The instructions for tiles of one precision.
pub(crate) struct Kernel {
    /// # Safety
    /// The CPU has the kernel's features; all offsets of the tile lie inside its buffers, `c` is written by no one else.
    pub tile: unsafe fn(&Tile<'_>),
    /// Rows of a tile of 1, 2, 3, 4 vectors.
    pub rows: [usize; 4],
}

/// The kernel of `precision` at `level`; bf16 of [`Level::Amx`] has its own walk, in [`amx`].
fn kernel_at(level: Level, precision: Precision) -> Kernel {
    #[cfg(target_arch = "x86_64")]
    match (level, precision) {
        (Level::Avx512Bf16 | Level::Amx, Precision::Bf16) => return avx512::BF16,
        (Level::Avx512 | Level::Avx512Bf16 | Level::Amx, Precision::F32) => return avx512::F32,
        (Level::Avx2 | Level::Avx512, Precision::Bf16) => return avx2::BF16,
        (Level::Avx2, Precision::F32) => return avx2::F32,
        (Level::Avx512 | Level::Avx512Bf16 | Level::Amx, Precision::Int8)
            if is_x86_feature_detected!("avx512vnni") =>
        {
            return int8::avx512::INT8;
        }
        (Level::Avx2 | Level::Avx512 | Level::Avx512Bf16 | Level::Amx, Precision::Int8) => {
            return int8::avx2::INT8;
        }
        (Level::Portable, _) => {}
    }
    #[cfg(target_arch = "aarch64")]
    match (level, precision) {
        (Level::Neon | Level::NeonBf16, Precision::F32) => return neon::F32,
        (Level::Neon, Precision::Bf16) => return neon::WIDENED_BF16,
        (Level::NeonBf16, Precision::Bf16) => return neon::BF16,
        (Level::NeonBf16, Precision::Int8) => return int8::neon::MATRIX,
        (Level::Neon, Precision::Int8) if is_aarch64_feature_detected!("dotprod") => {
            return int8::neon::DOT;
        }
        (Level::Neon, Precision::Int8) | (Level::Portable, _) => {}
    }
    let _ = level;
    match precision {
        Precision::Int8 => int8::PORTABLE,
        Precision::Bf16 => portable::BF16,
        Precision::F32 => portable::F32,
    }
}

/// Panels of the right operand: one or more groups of `[n / 64][k][64]`.
#[derive(Clone, Copy)]
pub(crate) struct Panels<'a> {
    pub data: &'a [u32],
    pub n: usize,
    /// Units of the summed axis in a group.
    pub k: usize,
    /// Of bytes: what turns whole sums into values.
    pub scales: Option<Scales<'a>>,
}

impl Panels<'_> {
    /// Units of one group.
    pub(crate) fn group(n: usize, k: usize) -> usize {
        n.next_multiple_of(LANES) * k
    }

    /// Width in columns, padding included, of the panel that begins at column `first`.
    pub(crate) fn width(n: usize, first: usize) -> usize {
        (n - first).next_multiple_of(LANES).min(PANEL)
    }
}

/// A run of units named by its place: unit `a` of the left operand, step `k` of group `group` on the right.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Part {
    pub a: usize,
    pub group: usize,
    pub k: usize,
}

/// `c[row] = start + sum over parts of a[row] * b (+ residual)`, for all rows and all columns of `b`.
pub(crate) struct Product<'a> {
    pub precision: Precision,
    pub a: &'a [u32],
    pub rows: &'a [Row],
    pub parts: &'a [Part],
    /// Units of a part.
    pub length: usize,
    /// Units from one step of the summed axis to the next in `a`.
    pub a_step: usize,
    pub b: Panels<'a>,
    /// The columns to compute; begins at a panel.
    pub columns: Range<usize>,
    /// What the sums begin with, in rows of at least `n` rounded up to 16 values.
    pub bias: Option<&'a [f32]>,
    /// Whether the sums begin with what the output holds; not of bytes.
    pub add: bool,
}

impl Product<'_> {
    /// Computes into `c`, adding `residual` (same places as `c`) at the end if there is one.
    ///
    /// # Safety
    /// Every row's `n` values at `c + row.c` are writable and used by no other thread; `residual` is readable there.
    pub(crate) unsafe fn run(&self, c: *mut f32, residual: *const f32) {
        // SAFETY: the caller's promise; the machine has the level in use.
        unsafe { self.run_at(level(), c, residual) }
    }

    /// [`run`](Self::run) with the instructions of `level`.
    ///
    /// # Safety
    /// As [`run`](Self::run), and the machine has `level`.
    unsafe fn run_at(&self, level: Level, c: *mut f32, residual: *const f32) {
        self.check();
        let pass = |parts: &[Part], length, first, last| {
            let pass = Pass {
                product: self,
                parts,
                length,
                bias: self.bias.filter(|_| self.bias_in_this_pass(first, last)),
                add: self.add || !first,
                c,
                residual: if last { residual } else { std::ptr::null() },
                scales: self.b.scales.filter(|_| last),
            };
            // SAFETY: the caller's promise; `check` covers the offsets inside the operands.
            unsafe { pass.run(level) }
        };
        if self.parts.is_empty() || self.length == 0 {
            return pass(&[], 0, true, true);
        }
        if self.length > DEPTH {
            let pieces = self.length.div_ceil(DEPTH);
            let piece = self.length.div_ceil(pieces);
            for (i, part) in self.parts.iter().enumerate() {
                for first in (0..self.length).step_by(piece) {
                    let moved = Part {
                        a: part.a + first * self.a_step,
                        k: part.k + first,
                        ..*part
                    };
                    let length = piece.min(self.length - first);
                    let last = i + 1 == self.parts.len() && first + length == self.length;
                    pass(&[moved], length, i == 0 && first == 0, last);
                }
            }
            return;
        }
        let at_once = (DEPTH / self.length).clamp(1, RUNS);
        for (i, parts) in self.parts.chunks(at_once).enumerate() {
            let last = (i + 1) * at_once >= self.parts.len();
            pass(parts, self.length, i == 0, last);
        }
    }

    /// Sums of values begin with the bias; to whole sums it is added in the end.
    fn bias_in_this_pass(&self, first: bool, last: bool) -> bool {
        if self.b.scales.is_some() { last } else { first }
    }

    /// Every offset lies inside the operands.
    fn check(&self) {
        assert!(
            (self.precision == Precision::Int8) == self.b.scales.is_some(),
            "products of bytes, and no others, have scales"
        );
        if let Some(Scales { scales, offsets }) = self.b.scales {
            let padded = self.b.n.next_multiple_of(LANES);
            assert!(
                !self.add && scales.len() >= padded && offsets.len() >= padded,
                "a product reads past its scales"
            );
        }
        assert!(
            self.columns.start.is_multiple_of(PANEL) && self.columns.end <= self.b.n,
            "a product's columns begin at a panel"
        );
        let deepest = self.rows.iter().map(|row| row.a).max().unwrap_or(0);
        let step = self.length.saturating_sub(1) * self.a_step;
        for part in self.parts {
            assert!(
                self.length == 0 || deepest + part.a + step < self.a.len(),
                "a product reads past its left operand"
            );
            assert!(
                part.k + self.length <= self.b.k,
                "a product reads past its right operand"
            );
            assert!(
                (part.group + 1) * Panels::group(self.b.n, self.b.k) <= self.b.data.len(),
                "a product reads past its right operand"
            );
        }
        if let Some(bias) = self.bias {
            let furthest = self.rows.iter().map(|row| row.bias).max().unwrap_or(0);
            assert!(
                furthest + self.b.n.next_multiple_of(LANES) <= bias.len(),
                "a product reads past its bias"
            );
        }
    }
}

/// One walk over all rows and columns of a product, with some of its parts.
struct Pass<'a> {
    product: &'a Product<'a>,
    parts: &'a [Part],
    /// Units of a part.
    length: usize,
    /// What the sums begin with: a bias, what the output holds.
    bias: Option<&'a [f32]>,
    add: bool,
    c: *mut f32,
    /// Null, or what is added in the end.
    residual: *const f32,
    /// Of bytes, in the last pass.
    scales: Option<Scales<'a>>,
}

impl Pass<'_> {
    /// # Safety
    /// As [`Product::run_at`], after [`Product::check`].
    unsafe fn run(&self, level: Level) {
        let precision = self.product.precision;
        #[cfg(target_arch = "x86_64")]
        if (level, precision) == (Level::Amx, Precision::Bf16) {
            // SAFETY: the caller's promise.
            return unsafe { amx::run(self) };
        }
        let kernel = kernel_at(level, precision);
        let mut runs = [Run::default(); RUNS];
        for first in self.product.columns.clone().step_by(PANEL) {
            let runs = self.runs(first, &mut runs);
            let rows_at_once = kernel.rows[self.width(first) / LANES - 1];
            for rows in self.product.rows.chunks(rows_at_once) {
                // SAFETY: the caller's promise.
                unsafe { (kernel.tile)(&self.tile(first, rows, runs)) }
            }
        }
    }

    /// Width in columns of the panel that begins at column `first`.
    fn width(&self, first: usize) -> usize {
        Panels::width(self.product.b.n, first)
    }

    /// The parts as runs of the panel that begins at column `first`.
    fn runs<'r>(&self, first: usize, runs: &'r mut [Run; RUNS]) -> &'r [Run] {
        let (Panels { n, k, .. }, width) = (self.product.b, self.width(first));
        for (run, part) in runs.iter_mut().zip(self.parts) {
            let b = part.group * Panels::group(n, k) + first * k + part.k * width;
            *run = Run { a: part.a, b };
        }
        &runs[..self.parts.len()]
    }

    /// The block of `rows` by the panel that begins at column `first`.
    fn tile<'t>(&self, first: usize, rows: &'t [Row], runs: &'t [Run]) -> Tile<'t> {
        let (product, width) = (self.product, self.width(first));
        Tile {
            a: product.a.as_ptr(),
            b: product.b.data.as_ptr(),
            c: self.c.wrapping_add(first),
            bias: match self.bias {
                Some(bias) => bias[first..].as_ptr(),
                None => std::ptr::null(),
            },
            residual: if self.residual.is_null() {
                self.residual
            } else {
                self.residual.wrapping_add(first)
            },
            rows,
            runs,
            length: self.length,
            a_step: product.a_step,
            b_step: width,
            vectors: width / LANES,
            last: ((product.b.n - first).min(PANEL) - 1) % LANES + 1,
            add: self.add,
            scales: match self.scales {
                Some(columns) => columns.scales[first..].as_ptr(),
                None => std::ptr::null(),
            },
            offsets: match self.scales {
                Some(columns) => columns.offsets[first..].as_ptr(),
                None => std::ptr::null(),
            },
        }
    }
}
