//! Attention, forward.

use std::cell::Cell;

use rayon::prelude::*;

use super::{AttentionShape, step};
use crate::isa::{Precision, for_every_level};
use crate::math::{exp, fold, multiply_add};
use crate::product::pack::{fill_panel_of_columns, fill_panels, fill_row, units, values_per_unit};
use crate::product::{LANES, PANEL, Panels, Part, Product, Row};
use crate::shared::{Output, Scratch, Units, with_scratch};

/// Queries and keys of a block.
const QUERIES: usize = 64;
const KEYS: usize = 512;

/// `out = softmax(q @ k^T / sqrt(head_dim)) @ v` for every head.
///
/// `q`, `out`: `[batch, queries, heads * head_dim]`; `k`, `v`: `[batch, keys, heads * head_dim]`. `log_sum_exp
/// [batch, heads, queries]`, if given, receives the logarithm of each row's sum, for [`attention_backward`].
///
/// # Panics
/// If a length does not fit, or there are queries but no keys.
///
/// [`attention_backward`]: super::attention_backward
#[expect(
    clippy::too_many_arguments,
    reason = "three operands, two results and how"
)]
pub fn attention(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    shape: &AttentionShape,
    precision: Precision,
    out: &mut [f32],
    log_sum_exp: Option<&mut [f32]>,
) {
    let precision = precision.floating();
    let sums = log_sum_exp.as_ref().map(|sums| sums.len());
    shape.check(&[q.len(), out.len()], &[k.len(), v.len()], sums.as_slice());
    if out.is_empty() {
        return;
    }
    assert!(shape.keys > 0, "attention: queries without keys");
    let (k_group, v_group) = groups(shape, precision);
    let heads = shape.batch * shape.heads;
    let mut panels = PANELS.take();
    panels.grow(heads * (k_group + v_group));
    panels[..heads * (k_group + v_group)]
        .par_chunks_mut(k_group + v_group)
        .enumerate()
        .for_each(|(i, panels)| {
            let head = (i / shape.heads, i % shape.heads);
            let (k_panels, v_panels) = panels.split_at_mut(k_group);
            fill_transposed(k, shape, head, precision, k_panels);
            fill_panels(
                shape.keys,
                shape.head_dim,
                precision,
                |j| shape.row(v, shape.keys, head, j),
                v_panels,
            );
        });
    let blocks = shape.queries.div_ceil(QUERIES);
    let (out, sums) = (Output::new(out), log_sum_exp.map(Output::new));
    (0..heads * blocks).into_par_iter().for_each(|task| {
        let (i, first) = (task / blocks, task % blocks * QUERIES);
        let block = Block {
            q,
            shape,
            precision,
            panels: &panels[i * (k_group + v_group)..][..k_group + v_group],
            head: (i / shape.heads, i % shape.heads),
            first,
            count: QUERIES.min(shape.queries - first),
        };
        with_scratch(|scratch| block.compute(scratch, out, sums));
    });
    PANELS.set(panels);
}

thread_local! {
    /// Packed keys and values of all heads.
    static PANELS: Cell<Units> = const { Cell::new(Units::EMPTY) };
}

/// Units of one head's packed keys and values.
fn groups(shape: &AttentionShape, precision: Precision) -> (usize, usize) {
    (
        Panels::group(shape.keys, units(shape.head_dim, precision)),
        Panels::group(shape.head_dim, units(shape.keys, precision)),
    )
}

/// Panels for products with `x^T`: columns are the keys of one head.
pub(super) fn fill_transposed(
    x: &[f32],
    shape: &AttentionShape,
    head: (usize, usize),
    precision: Precision,
    panels: &mut [u32],
) {
    let depth = units(shape.head_dim, precision);
    let column = |j: usize| shape.row(x, shape.keys, head, j);
    for (i, panel) in panels.chunks_mut(PANEL * depth).enumerate() {
        fill_panel_of_columns(
            shape.head_dim,
            shape.keys,
            precision,
            column,
            i * PANEL,
            panel,
        );
    }
}

/// Some queries of one head.
struct Block<'a> {
    q: &'a [f32],
    shape: &'a AttentionShape,
    precision: Precision,
    /// The head's keys and values.
    panels: &'a [u32],
    head: (usize, usize),
    first: usize,
    count: usize,
}

/// What a row's softmax knows so far.
#[derive(Clone, Copy)]
struct Softmax {
    highest: f32,
    sum: f32,
}

for_every_level! {
    /// Turns scores into shares relative to the highest so far; `scores` is whole vectors, padded by minus infinity.
    /// Returns the factor for what was summed before.
    fn soften(scores: &mut [f32], scale: f32, state: &mut Softmax) -> f32 {
        let mut tops = [f32::NEG_INFINITY; LANES];
        for scores in scores.chunks_exact(LANES) {
            for (top, score) in tops.iter_mut().zip(scores) {
                *top = if *score > *top { *score } else { *top };
            }
        }
        let top = fold(tops, |a, b| if b > a { b } else { a });
        let highest = if top * scale > state.highest { top * scale } else { state.highest };
        let mut sums = [0.0; LANES];
        for scores in scores.chunks_exact_mut(LANES) {
            for (sum, score) in sums.iter_mut().zip(scores) {
                *score = exp::<FUSED>(multiply_add::<FUSED>(*score, scale, -highest));
                *sum += *score;
            }
        }
        let factor = if state.highest == f32::NEG_INFINITY { 0.0 } else { (state.highest - highest).exp() };
        state.sum = state.sum * factor + fold(sums, |a, b| a + b);
        state.highest = highest;
        factor
    }
}

impl Block<'_> {
    /// Writes the block's rows of `out` and of the sums.
    fn compute(&self, scratch: &mut Scratch, out: Output, log_sums: Option<Output>) {
        let (shape, precision) = (self.shape, self.precision);
        let step = step(shape.head_dim, precision);
        let width = shape.head_dim.next_multiple_of(LANES);
        let Scratch {
            a,
            b,
            values,
            more_values,
            rows,
            ..
        } = scratch;
        a.grow(QUERIES * step);
        for (i, units) in a.chunks_exact_mut(step).take(self.count).enumerate() {
            fill_row(
                shape.row(self.q, shape.queries, self.head, self.first + i),
                units,
                precision,
            );
        }
        let stride = units(KEYS, precision);
        b.grow(QUERIES * stride);
        values.grow(QUERIES * KEYS);
        more_values.grow(QUERIES * width);
        let mut state = [Softmax {
            highest: f32::NEG_INFINITY,
            sum: 0.0,
        }; QUERIES];
        let seen = shape.seen(self.first + self.count - 1);
        for keys in (0..seen).step_by(KEYS) {
            let there = KEYS.min(seen - keys);
            self.score(a, keys, there, rows, values);
            for i in 0..self.count {
                let scores = &mut values[i * KEYS..][..there.next_multiple_of(LANES)];
                scores[shape.seen(self.first + i).saturating_sub(keys).min(there)..]
                    .fill(f32::NEG_INFINITY);
                let factor = soften(scores, shape.scale(), &mut state[i]);
                // f32 are units as they are.
                if precision != Precision::F32 {
                    fill_row(&scores[..there], &mut b[i * stride..][..stride], precision);
                }
                if keys > 0 && factor != 1.0 {
                    more_values[i * width..][..width]
                        .iter_mut()
                        .for_each(|value| *value *= factor);
                }
            }
            let shares = match precision {
                Precision::F32 => bytemuck::cast_slice(values),
                _ => &**b,
            };
            self.gather(shares, keys, there, rows, more_values);
        }
        self.finish(more_values, &state, out, log_sums);
    }

    /// `values [queries, KEYS]` = products of the block's queries with `there` keys from `keys` on.
    fn score(&self, a: &[u32], keys: usize, there: usize, rows: &mut Vec<Row>, values: &mut [f32]) {
        let depth = units(self.shape.head_dim, self.precision);
        let step = step(self.shape.head_dim, self.precision);
        rows.clear();
        rows.extend((0..self.count).map(|i| Row {
            a: i * step,
            c: i * KEYS,
            bias: 0,
            ..Row::default()
        }));
        let product = Product {
            precision: self.precision,
            a,
            rows,
            parts: &[Part::default()],
            length: depth,
            a_step: 1,
            b: Panels {
                data: &self.panels[..groups(self.shape, self.precision).0],
                n: self.shape.keys,
                k: depth,
                scales: None,
            },
            columns: keys..keys + there,
            bias: None,
            add: false,
        };
        // SAFETY: column `keys` is written to the front of each row of `values`, which has `KEYS` places.
        unsafe { product.run(values.as_mut_ptr().wrapping_sub(keys), std::ptr::null()) }
    }

    /// `values [queries, width]` += the shares in `b` times the values of `there` keys from `keys` on.
    fn gather(
        &self,
        b: &[u32],
        keys: usize,
        there: usize,
        rows: &mut Vec<Row>,
        values: &mut [f32],
    ) {
        let (k_group, _) = groups(self.shape, self.precision);
        let width = self.shape.head_dim.next_multiple_of(LANES);
        rows.clear();
        rows.extend((0..self.count).map(|i| Row {
            a: i * units(KEYS, self.precision),
            c: i * width,
            bias: 0,
            ..Row::default()
        }));
        let product = Product {
            precision: self.precision,
            a: b,
            rows,
            parts: &[Part {
                a: 0,
                group: 0,
                k: keys / values_per_unit(self.precision),
            }],
            length: units(there, self.precision),
            a_step: 1,
            b: Panels {
                data: &self.panels[k_group..],
                n: self.shape.head_dim,
                k: units(self.shape.keys, self.precision),
                scales: None,
            },
            columns: 0..self.shape.head_dim,
            bias: None,
            add: keys > 0,
        };
        // SAFETY: each row has `width` places.
        unsafe { product.run(values.as_mut_ptr(), std::ptr::null()) }
    }

    fn finish(&self, values: &[f32], state: &[Softmax], out: Output, log_sums: Option<Output>) {
        let shape = self.shape;
        let width = shape.head_dim.next_multiple_of(LANES);
        for (i, state) in state.iter().take(self.count).enumerate() {
            let place = shape.place(shape.queries, self.head, self.first + i);
            // SAFETY: this row belongs to this block alone, and lies in the checked output.
            let out =
                unsafe { std::slice::from_raw_parts_mut(out.pointer().add(place), shape.head_dim) };
            let share = 1.0 / state.sum;
            for (out, value) in out.iter_mut().zip(&values[i * width..]) {
                *out = value * share;
            }
            if let Some(log_sums) = log_sums {
                let place =
                    (self.head.0 * shape.heads + self.head.1) * shape.queries + self.first + i;
                // SAFETY: as above.
                unsafe { *log_sums.pointer().add(place) = state.highest + state.sum.ln() };
            }
        }
    }
}
