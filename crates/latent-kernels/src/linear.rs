//! Linear layers: `x @ w^T`, and their gradients.

use std::ops::Range;

use rayon::prelude::*;

use crate::conv::ConvShape;
use crate::conv::weight::weight_gradient;
use crate::isa::Precision;
use crate::product::int8::{Scales, fill_activations, largest};
use crate::product::pack::{
    fill_panel, fill_panel_of_bytes, fill_panel_of_columns, fill_row, units, values_per_unit,
};
use crate::product::{LANES, PANEL, Panels, Part, Product, Row};
use crate::shared::{Output, Units, with_scratch};
use crate::tasks::{self, MOST_UNITS};

/// A weight `[n, k]`, packed for [`linear`].
#[derive(Clone, Debug)]
pub struct PackedMatrix {
    data: Units,
    n: usize,
    k: usize,
    precision: Precision,
    /// Of bytes, by column, padded to whole vectors: its scale, and what the activations' offset adds to its sums.
    scales: Vec<f32>,
    offsets: Vec<i32>,
}

impl PackedMatrix {
    /// Packs `w [n, k]`: `n` outputs, `k` inputs.
    ///
    /// # Panics
    /// If `w` has not `n * k` values.
    pub fn pack(w: &[f32], n: usize, k: usize, precision: Precision) -> Self {
        assert_eq!(w.len(), n * k, "a weight [{n}, {k}] has other values");
        if precision == Precision::Int8 {
            return Self::of_bytes(n, k, |j, values| values.copy_from_slice(&w[j * k..][..k]));
        }
        Self::by_panel(n, k, precision, |first, panel| {
            let column = |j: usize| &w[j * k..][..k];
            fill_panel_of_columns(k, n, precision, column, first, panel);
        })
    }

    /// Packs the transpose of `w [k, n]`: `linear(dy, pack_transposed(w, ..))` is the gradient of a layer's input.
    /// Gradients are [`floating`](Precision::floating).
    ///
    /// # Panics
    /// If `w` has not `n * k` values.
    pub fn pack_transposed(w: &[f32], n: usize, k: usize, precision: Precision) -> Self {
        assert_eq!(w.len(), n * k, "a weight [{k}, {n}] has other values");
        let precision = precision.floating();
        Self::by_panel(n, k, precision, |first, panel| {
            let columns = (n - first).min(PANEL);
            fill_panel(
                k,
                columns,
                precision,
                |row| &w[row * n + first..][..columns],
                panel,
            );
        })
    }

    /// `fill(first column, panel)` for every panel, on all threads.
    pub(crate) fn by_panel(
        n: usize,
        k: usize,
        precision: Precision,
        fill: impl Fn(usize, &mut [u32]) + Sync,
    ) -> Self {
        let depth = units(k, precision);
        let mut data = Units::zeros(Panels::group(n, depth));
        data.par_chunks_mut((PANEL * depth).max(1))
            .enumerate()
            .for_each(|(i, panel)| fill(i * PANEL, panel));
        Self {
            data,
            n,
            k,
            precision,
            scales: Vec::new(),
            offsets: Vec::new(),
        }
    }

    /// `column(j, values)` writes the `k` values of every column, on all threads.
    pub(crate) fn of_bytes(n: usize, k: usize, column: impl Fn(usize, &mut [f32]) + Sync) -> Self {
        let depth = units(k, Precision::Int8);
        let padded = n.next_multiple_of(LANES);
        let mut data = Units::zeros(Panels::group(n, depth));
        let (mut scales, mut offsets) = (vec![0.0; padded], vec![0; padded]);
        data.par_chunks_mut((PANEL * depth).max(1))
            .zip(scales.par_chunks_mut(PANEL))
            .zip(offsets.par_chunks_mut(PANEL))
            .enumerate()
            .for_each(|(i, ((panel, scales), offsets))| {
                fill_panel_of_bytes([k, n], &column, i * PANEL, panel, scales, offsets);
            });
        Self {
            data,
            n,
            k,
            precision: Precision::Int8,
            scales,
            offsets,
        }
    }

    /// Bytes that a weight `[n, k]` takes once it is packed.
    pub fn bytes(n: usize, k: usize, precision: Precision) -> usize {
        let scales = match precision {
            Precision::Int8 => 2 * n.next_multiple_of(LANES),
            Precision::F32 | Precision::Bf16 => 0,
        };
        4 * (Panels::group(n, units(k, precision)) + scales)
    }

    /// Units of the whole weight.
    pub(crate) fn units(&self) -> usize {
        self.data.len()
    }

    pub(crate) fn panels(&self) -> Panels<'_> {
        Panels {
            data: &self.data,
            n: self.n,
            k: units(self.k, self.precision),
            scales: (self.precision == Precision::Int8).then_some(Scales {
                scales: &self.scales,
                offsets: &self.offsets,
            }),
        }
    }
}

/// Rows of a task are a multiple of this, so that most tiles are full.
const STEP: usize = 32;

/// `out [m, n] = x [m, k] @ w^T + bias [n] + residual [m, n]`.
///
/// # Panics
/// If a length does not fit.
pub fn linear(
    x: &[f32],
    w: &PackedMatrix,
    bias: Option<&[f32]>,
    residual: Option<&[f32]>,
    out: &mut [f32],
) {
    let (n, k) = (w.n, w.k);
    if n == 0 || out.is_empty() {
        return;
    }
    let m = out.len() / n;
    assert!(
        out.len() == m * n && x.len() == m * k,
        "linear: {} inputs, {} outputs for [{n}, {k}]",
        x.len(),
        out.len()
    );
    assert!(
        bias.is_none_or(|bias| bias.len() == n),
        "linear: a bias is not [{n}]"
    );
    assert!(
        residual.is_none_or(|residual| residual.len() == out.len()),
        "linear: a residual is not like the output"
    );
    let bias = bias.map(|bias| {
        let mut padded = bias.to_vec();
        padded.resize(n.next_multiple_of(LANES), 0.0);
        padded
    });
    let most = MOST_UNITS / units(k, w.precision).max(1) / STEP * STEP;
    let rows = tasks::rows(m, w.units())
        .next_multiple_of(STEP)
        .min(most.max(STEP));
    let columns = tasks::columns(n, m.div_ceil(rows));
    let out = Output::new(out);
    let tasks = m.div_ceil(rows) * n.div_ceil(columns);
    (0..tasks).into_par_iter().with_max_len(1).for_each(|task| {
        let (i, j) = (task % m.div_ceil(rows), task / m.div_ceil(rows));
        let block = Block {
            x,
            w,
            bias: bias.as_deref(),
            residual,
            rows: i * rows..m.min((i + 1) * rows),
            columns: j * columns..n.min((j + 1) * columns),
        };
        block.compute(out);
    });
}

/// Some rows and columns of a linear layer's output.
struct Block<'a> {
    x: &'a [f32],
    w: &'a PackedMatrix,
    bias: Option<&'a [f32]>,
    residual: Option<&'a [f32]>,
    rows: Range<usize>,
    columns: Range<usize>,
}

impl Block<'_> {
    /// Writes this block of `out`; blocks do not overlap.
    fn compute(&self, out: Output) {
        let (n, k, precision) = (self.w.n, self.w.k, self.w.precision);
        let depth = units(k, precision);
        with_scratch(|scratch| {
            scratch.a.grow(self.rows.len() * depth);
            scratch.rows.clear();
            scratch
                .rows
                .extend(self.rows.clone().enumerate().map(|(i, row)| Row {
                    a: i * depth,
                    c: row * n,
                    ..Row::default()
                }));
            let x = &self.x[self.rows.start * k..self.rows.end * k];
            if precision != Precision::Int8 && k.is_multiple_of(values_per_unit(precision)) {
                fill_row(x, &mut scratch.a, precision);
            } else {
                let rows = scratch.rows.iter_mut().zip(x.chunks_exact(k));
                for ((row, x), units) in rows.zip(scratch.a.chunks_exact_mut(depth)) {
                    match precision {
                        Precision::Int8 => row.scale = fill_activations(x, largest(x), units),
                        _ => fill_row(x, units, precision),
                    }
                }
            }
            let product = Product {
                precision,
                a: &scratch.a,
                rows: &scratch.rows,
                parts: &[Part::default()],
                length: depth,
                a_step: 1,
                b: self.w.panels(),
                columns: self.columns.clone(),
                bias: self.bias,
                add: false,
            };
            let residual = self.residual.map_or(std::ptr::null(), <[f32]>::as_ptr);
            // SAFETY: the rows lie in `out`, which has `m * n` values, and belong to this block alone.
            unsafe { product.run(out.pointer(), residual) }
        });
    }
}

/// `dw [n, k] = dy [m, n]^T @ x [m, k]`.
///
/// # Panics
/// If a length does not fit.
#[expect(
    clippy::too_many_arguments,
    reason = "three matrices and their three sizes"
)]
pub fn linear_backward_weight(
    x: &[f32],
    dy: &[f32],
    m: usize,
    k: usize,
    n: usize,
    precision: Precision,
    dw: &mut [f32],
) {
    assert!(
        x.len() == m * k && dy.len() == m * n && dw.len() == n * k,
        "linear_backward_weight: lengths differ"
    );
    // Rows are pixels of a picture 128 wide, whose last line may be short.
    let shape = ConvShape {
        n: 1,
        h: m.div_ceil(128),
        w: m.min(128),
        ci: k,
        co: n,
        kh: 1,
        kw: 1,
        stride: 1,
        padding: [0; 4],
        upsample: false,
    };
    weight_gradient(x, dy, &shape, precision, dw);
}
