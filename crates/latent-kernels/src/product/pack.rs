//! f32 values into units: rows for the left operand, panels for the right.

use std::cell::Cell;

use super::int8::fill_weights;
use super::{LANES, PANEL, Panels};
use crate::isa::{Precision, for_every_level};

/// Values in a unit.
pub(crate) fn values_per_unit(precision: Precision) -> usize {
    match precision {
        Precision::F32 => 1,
        Precision::Bf16 => 2,
        Precision::Int8 => 4,
    }
}

/// Units that hold `values` values of the summed axis.
pub(crate) fn units(values: usize, precision: Precision) -> usize {
    values.div_ceil(values_per_unit(precision))
}

/// The nearest bf16, ties to even; not-a-number stays so.
#[inline(always)]
pub(crate) fn to_bf16(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + ((bits >> 16) & 1))) >> 16;
    if x.is_nan() {
        (bits >> 16) | 0x40
    } else {
        rounded
    }
}

for_every_level! {
    fn neighbours(values: &[f32], units: &mut [u32]) {
        for (unit, pair) in units.iter_mut().zip(values.chunks_exact(2)) {
            *unit = to_bf16(pair[0]) | to_bf16(pair[1]) << 16;
        }
    }
}

for_every_level! {
    fn pairs(low: &[f32], high: &[f32], units: &mut [u32]) {
        for ((unit, low), high) in units.iter_mut().zip(low).zip(high) {
            *unit = to_bf16(*low) | to_bf16(*high) << 16;
        }
    }
}

for_every_level! {
    fn lows(low: &[f32], units: &mut [u32]) {
        for (unit, low) in units.iter_mut().zip(low) {
            *unit = to_bf16(*low);
        }
    }
}

for_every_level! {
    fn same(values: &[f32], units: &mut [u32]) {
        for (unit, value) in units.iter_mut().zip(values) {
            *unit = value.to_bits();
        }
    }
}

/// Writes `values`, neighbours of the summed axis, as units; a missing last value is 0. Bytes have scales: they are
/// written by [`int8`](super::int8).
pub(crate) fn fill_row(values: &[f32], units: &mut [u32], precision: Precision) {
    match precision {
        Precision::F32 => same(values, units),
        Precision::Bf16 => {
            #[cfg(target_arch = "x86_64")]
            if crate::isa::level() >= crate::isa::Level::Avx512Bf16 {
                // SAFETY: `level` says that the CPU has these features.
                unsafe { avx512::neighbours(values, units) }
                return;
            }
            neighbours(values, units);
            if let (1, Some(last)) = (values.len() % 2, values.last()) {
                units[values.len() / 2] = to_bf16(*last);
            }
        }
        Precision::Int8 => unreachable!("rows of bytes are written with their scale"),
    }
}

/// Writes a step of the summed axis: the row `low`, and in bf16 the row behind it, which may be missing.
pub(crate) fn fill_step(
    low: &[f32],
    high: Option<&[f32]>,
    precision: Precision,
    units: &mut [u32],
) {
    match precision {
        Precision::F32 => same(low, units),
        Precision::Bf16 => fill_pairs(low, high, units),
        Precision::Int8 => unreachable!("bytes are packed column by column"),
    }
}

/// Writes two rows that follow each other on the summed axis as one row of bf16 units; a missing second row is 0.
fn fill_pairs(low: &[f32], high: Option<&[f32]>, units: &mut [u32]) {
    match high {
        Some(high) => {
            #[cfg(target_arch = "x86_64")]
            if crate::isa::level() >= crate::isa::Level::Avx512Bf16 {
                // SAFETY: `level` says that the CPU has these features.
                unsafe { avx512::pairs(low, high, units) }
                return;
            }
            pairs(low, high, units);
        }
        None => lows(low, units),
    }
}

/// Panels of one group from the rows of the summed axis: `row(k)` has `n` values, for `k` below `depth`.
pub(crate) fn fill_panels<'a>(
    depth: usize,
    n: usize,
    precision: Precision,
    row: impl Fn(usize) -> &'a [f32],
    panels: &mut [u32],
) {
    let k = units(depth, precision);
    for (panel, out) in panels[..Panels::group(n, k)]
        .chunks_mut((PANEL * k).max(1))
        .enumerate()
    {
        let first = panel * PANEL;
        fill_panel(
            depth,
            (n - first).min(PANEL),
            precision,
            |k| &row(k)[first..],
            out,
        );
    }
}

/// One panel of `n` columns, 1 to 64, as [`fill_panels`].
pub(crate) fn fill_panel<'a>(
    depth: usize,
    n: usize,
    precision: Precision,
    row: impl Fn(usize) -> &'a [f32],
    panel: &mut [u32],
) {
    let width = Panels::width(n, 0);
    for (step, units) in panel.chunks_exact_mut(width).enumerate() {
        let (units, padding) = units.split_at_mut(n);
        let at_once = values_per_unit(precision);
        let high = (step * at_once + 1 < depth).then(|| &row(step * at_once + 1)[..n]);
        fill_step(&row(step * at_once)[..n], high, precision, units);
        padding.fill(0);
    }
}

/// The panel that begins at column `first`: `column(j, values)` writes the `depth` values of column `j`.
pub(crate) fn fill_panel_by_column(
    depth: usize,
    n: usize,
    precision: Precision,
    column: &impl Fn(usize, &mut [f32]),
    first: usize,
    panel: &mut [u32],
) {
    with_buffers(|values, rows| {
        grow(values, depth);
        let fill = |j: usize, units: &mut [u32]| {
            column(j, &mut values[..depth]);
            fill_row(&values[..depth], units, precision);
        };
        turn_panel(units(depth, precision), n, fill, first, panel, rows);
    });
}

/// The panel that begins at column `first`, of columns that lie in memory: `column(j)` has `depth` values.
pub(crate) fn fill_panel_of_columns<'a>(
    depth: usize,
    n: usize,
    precision: Precision,
    column: impl Fn(usize) -> &'a [f32],
    first: usize,
    panel: &mut [u32],
) {
    with_buffers(|_, rows| {
        let fill = |j: usize, units: &mut [u32]| fill_row(column(j), units, precision);
        turn_panel(units(depth, precision), n, fill, first, panel, rows);
    });
}

/// As [`fill_panel_by_column`], of bytes: each column's scale and what the activations' offset adds to its sums go to
/// the panel's part of `scales` and `offsets`.
pub(crate) fn fill_panel_of_bytes(
    [depth, n]: [usize; 2],
    column: &impl Fn(usize, &mut [f32]),
    first: usize,
    panel: &mut [u32],
    scales: &mut [f32],
    offsets: &mut [i32],
) {
    with_buffers(|values, rows| {
        grow(values, depth);
        let fill = |j: usize, units: &mut [u32]| {
            column(j, &mut values[..depth]);
            (scales[j - first], offsets[j - first]) = fill_weights(&values[..depth], units);
        };
        turn_panel(units(depth, Precision::Int8), n, fill, first, panel, rows);
    });
}

/// Writes columns as rows of `k` units, 16 at a time, and turns them.
fn turn_panel(
    k: usize,
    n: usize,
    mut fill: impl FnMut(usize, &mut [u32]),
    first: usize,
    panel: &mut [u32],
    rows: &mut Vec<u32>,
) {
    let width = Panels::width(n, first);
    grow(rows, LANES * k);
    for group in (0..width).step_by(LANES) {
        for (j, units) in rows[..LANES * k].chunks_exact_mut(k.max(1)).enumerate() {
            if first + group + j < n {
                fill(first + group + j, units);
            } else {
                units.fill(0);
            }
        }
        turn(rows, k, width, &mut panel[group..]);
    }
}

/// `out[step * width + j] = rows[j * k + step]` for 16 rows of `k` units.
pub(crate) fn turn(rows: &[u32], k: usize, width: usize, out: &mut [u32]) {
    let done = turn_whole(rows, k, width, out);
    for step in done..k {
        for (j, out) in out[step * width..][..LANES].iter_mut().enumerate() {
            *out = rows[j * k + step];
        }
    }
}

/// Turns blocks of 16 steps as far as they go; the steps done.
#[cfg(target_arch = "x86_64")]
fn turn_whole(rows: &[u32], k: usize, width: usize, out: &mut [u32]) -> usize {
    if crate::isa::level() < crate::isa::Level::Avx512 {
        return 0;
    }
    let whole = k / LANES * LANES;
    for step in (0..whole).step_by(LANES) {
        // SAFETY: `level` says that the CPU has these features.
        unsafe { avx512::turn(&rows[step..], k, width, &mut out[step * width..]) }
    }
    whole
}

/// Elsewhere every step is turned by itself.
#[cfg(not(target_arch = "x86_64"))]
fn turn_whole(_: &[u32], _: usize, _: usize, _: &mut [u32]) -> usize {
    0
}

/// Makes room for `len` values; what they hold is old.
pub(crate) fn grow<T: Copy + Default>(buffer: &mut Vec<T>, len: usize) {
    if buffer.len() < len {
        buffer.resize(len, T::default());
    }
}

thread_local! {
    static PACKING: Cell<(Vec<f32>, Vec<u32>)> = const { Cell::new((Vec::new(), Vec::new())) };
}

/// Lends this thread's packing buffers.
fn with_buffers(work: impl FnOnce(&mut Vec<f32>, &mut Vec<u32>)) {
    let (mut values, mut rows) = PACKING.take();
    work(&mut values, &mut rows);
    PACKING.set((values, rows));
}

#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
