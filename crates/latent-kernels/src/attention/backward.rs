//! The gradients of attention: scores are computed again, block by block.

use std::ops::Range;

use rayon::prelude::*;

use super::forward::fill_transposed;
use super::{AttentionShape, step};
use crate::isa::{Precision, for_every_level};
use crate::math::{exp, fold, multiply_add};
use crate::product::pack::{fill_panels, fill_row, fill_step, units, values_per_unit};
use crate::product::{LANES, Panels, Part, Product, Row};
use crate::shared::{Output, Scratch, with_scratch};

/// Queries and keys of a block.
const QUERIES: usize = 128;
const KEYS: usize = 256;

/// What attention was given and gave.
struct Record<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    out: &'a [f32],
    dout: &'a [f32],
    log_sums: &'a [f32],
    shape: &'a AttentionShape,
    precision: Precision,
}

/// The gradients `dq`, `dk`, `dv` of [`attention`](super::attention) from that of its output, `dout`.
///
/// `out` and `log_sum_exp` are what it gave for `q`, `k`, `v`.
///
/// # Panics
/// If a length does not fit.
#[expect(
    clippy::too_many_arguments,
    reason = "what forward had and gave, and three gradients"
)]
pub fn attention_backward(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: &[f32],
    dout: &[f32],
    log_sum_exp: &[f32],
    shape: &AttentionShape,
    precision: Precision,
    dq: &mut [f32],
    dk: &mut [f32],
    dv: &mut [f32],
) {
    let precision = precision.floating();
    shape.check(
        &[q.len(), out.len(), dout.len(), dq.len()],
        &[k.len(), v.len(), dk.len(), dv.len()],
        &[log_sum_exp.len()],
    );
    if q.is_empty() || k.is_empty() || shape.causal {
        // Else every value is written before it is added to.
        dq.fill(0.0);
        dk.fill(0.0);
        dv.fill(0.0);
    }
    if q.is_empty() || k.is_empty() {
        return;
    }
    let record = Record {
        q,
        k,
        v,
        out,
        dout,
        log_sums: log_sum_exp,
        shape,
        precision,
    };
    let gradients = [dq, dk, dv].map(Output::new);
    (0..shape.batch * shape.heads)
        .into_par_iter()
        .with_max_len(1)
        .for_each(|i| {
            let head = (i / shape.heads, i % shape.heads);
            with_scratch(|scratch| record.head(head, gradients, scratch));
        });
}

for_every_level! {
    /// Shares from `scores`, and the scores' gradients from the shares' gradients in `slopes`, both in place.
    fn slopes_of_row(scores: &mut [f32], slopes: &mut [f32], scale: f32, log_sum: f32, delta: f32) {
        for (score, slope) in scores.iter_mut().zip(slopes) {
            let share = exp::<FUSED>(multiply_add::<FUSED>(*score, scale, -log_sum));
            *score = share;
            *slope = share * (*slope - delta) * scale;
        }
    }
}

for_every_level! {
    fn dot(a: &[f32], b: &[f32]) -> f32 {
        let mut sums = [0.0; LANES];
        for (a, b) in a.chunks(LANES).zip(b.chunks(LANES)) {
            for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
                *sum += a * b;
            }
        }
        fold(sums, |a, b| a + b)
    }
}

/// A block of queries against a block of keys.
#[derive(Clone, Copy)]
struct Block {
    query: usize,
    queries: usize,
    key: usize,
    keys: usize,
}

/// One head's operands in units.
struct Packed<'a> {
    /// Keys and values, transposed.
    k_columns: &'a [u32],
    v_columns: &'a [u32],
    /// Keys as they are.
    k_rows: &'a [u32],
    /// Sums of output times output gradient of the query block.
    deltas: &'a [f32],
    /// The query block's queries and output gradients: as left operands, as panels.
    q: &'a [u32],
    dout: &'a [u32],
    q_rows: &'a [u32],
    dout_rows: &'a [u32],
}

impl Record<'_> {
    /// Adds up the gradients of one head.
    fn head(&self, head: (usize, usize), gradients: [Output; 3], scratch: &mut Scratch) {
        let (shape, precision) = (self.shape, self.precision);
        let step = step(shape.head_dim, precision);
        let by_columns = Panels::group(shape.keys, units(shape.head_dim, precision));
        let by_rows = Panels::group(shape.head_dim, units(shape.keys, precision));
        let of_block = Panels::group(shape.head_dim, units(QUERIES, precision));
        let (fixed, left) = (2 * by_columns + by_rows, 2 * QUERIES * step);
        scratch.a.grow(fixed + left + 2 * of_block);
        let mut packed = std::mem::take(&mut scratch.a);
        let (keys, block_units) = packed.split_at_mut(fixed);
        let (k_columns, rest) = keys.split_at_mut(by_columns);
        let (v_columns, k_rows) = rest.split_at_mut(by_columns);
        fill_transposed(self.k, shape, head, precision, k_columns);
        fill_transposed(self.v, shape, head, precision, v_columns);
        fill_panels(
            shape.keys,
            shape.head_dim,
            precision,
            |j| shape.row(self.k, shape.keys, head, j),
            k_rows,
        );
        for query in (0..shape.queries).step_by(QUERIES) {
            let queries = QUERIES.min(shape.queries - query);
            let (q, rest) = block_units.split_at_mut(QUERIES * step);
            let (dout, rest) = rest.split_at_mut(QUERIES * step);
            let (q_rows, dout_rows) = rest.split_at_mut(of_block);
            self.fill_block(self.q, head, query..query + queries, (q, q_rows));
            self.fill_block(self.dout, head, query..query + queries, (dout, dout_rows));
            let packed = Packed {
                deltas: &self.deltas(head, query..query + queries),
                k_columns,
                v_columns,
                k_rows,
                q,
                dout,
                q_rows,
                dout_rows,
            };
            let seen = shape.seen(query + queries - 1);
            for key in (0..seen).step_by(KEYS) {
                let block = Block {
                    query,
                    queries,
                    key,
                    keys: KEYS.min(seen - key),
                };
                self.block(head, block, &packed, gradients, scratch);
            }
        }
        scratch.a = packed;
    }

    /// Some queries' rows of `x`: as left operand, as panels.
    fn fill_block(
        &self,
        x: &[f32],
        head: (usize, usize),
        queries: Range<usize>,
        (left, panels): (&mut [u32], &mut [u32]),
    ) {
        let (shape, precision) = (self.shape, self.precision);
        let row = |i: usize| shape.row(x, shape.queries, head, queries.start + i);
        let left = left.chunks_exact_mut(step(shape.head_dim, precision));
        for (i, units) in left.take(queries.len()).enumerate() {
            fill_row(row(i), units, precision);
        }
        fill_panels(queries.len(), shape.head_dim, precision, row, panels);
    }

    /// Sums of output times output gradient of some queries.
    fn deltas(&self, head: (usize, usize), queries: Range<usize>) -> [f32; QUERIES] {
        let mut deltas = [0.0; QUERIES];
        for (delta, query) in deltas.iter_mut().zip(queries) {
            let row = |x| self.shape.row(x, self.shape.queries, head, query);
            *delta = dot(row(self.dout), row(self.out));
        }
        deltas
    }

    /// Adds one block's part to the gradients.
    fn block(
        &self,
        head: (usize, usize),
        at: Block,
        packed: &Packed<'_>,
        [dq, dk, dv]: [Output; 3],
        scratch: &mut Scratch,
    ) {
        let precision = self.precision;
        let Scratch {
            units: [slope_rows, slope_pairs, share_pairs],
            values,
            more_values,
            rows,
            ..
        } = scratch;
        values.grow(QUERIES * KEYS);
        more_values.grow(QUERIES * KEYS);
        self.scores(packed.q, packed.k_columns, at, rows, values);
        self.scores(packed.dout, packed.v_columns, at, rows, more_values);
        for units in [&mut *slope_rows, &mut *slope_pairs, &mut *share_pairs] {
            units.grow(QUERIES * KEYS);
        }
        // The queries of one unit at a time, while they are in the first-level cache.
        let at_once = values_per_unit(precision);
        for first in (0..at.queries).step_by(at_once) {
            let some = first..at.queries.min(first + at_once);
            self.soften(head, at, (some.clone(), packed.deltas), values, more_values);
            for i in some.clone() {
                let slopes = &more_values[i * KEYS..][..at.keys];
                fill_row(slopes, &mut slope_rows[i * KEYS..][..KEYS], precision);
            }
            let step = first / at_once * KEYS;
            fill_queries(more_values, at, &some, precision, &mut slope_pairs[step..]);
            fill_queries(values, at, &some, precision, &mut share_pairs[step..]);
        }
        self.add_to_queries(head, at, (slope_rows, packed.k_rows), dq, rows);
        self.add_to_keys(head, at, (slope_pairs, packed.q_rows), dk, rows);
        self.add_to_keys(head, at, (share_pairs, packed.dout_rows), dv, rows);
    }

    /// `out[query] += a[query] @ panels` over the block's keys.
    fn add_to_queries(
        &self,
        head: (usize, usize),
        at: Block,
        (a, panels): (&[u32], &[u32]),
        out: Output,
        rows: &mut Vec<Row>,
    ) {
        let (shape, precision) = (self.shape, self.precision);
        let place = |i| shape.place(shape.queries, head, at.query + i);
        rows.clear();
        rows.extend((0..at.queries).map(|i| Row {
            a: i * KEYS,
            c: place(i),
            bias: 0,
            ..Row::default()
        }));
        let product = Product {
            precision,
            a,
            rows,
            parts: &[Part {
                a: 0,
                group: 0,
                k: at.key / values_per_unit(precision),
            }],
            length: units(at.keys, precision),
            a_step: 1,
            b: Panels {
                data: panels,
                n: shape.head_dim,
                k: units(shape.keys, precision),
                scales: None,
            },
            columns: 0..shape.head_dim,
            bias: None,
            add: at.key > 0 || shape.causal,
        };
        // SAFETY: these rows belong to this head, which one task computes.
        unsafe { product.run(out.pointer(), std::ptr::null()) }
    }

    /// `out[key] += a[.., key]^T @ panels` over the block's queries.
    fn add_to_keys(
        &self,
        head: (usize, usize),
        at: Block,
        (a, panels): (&[u32], &[u32]),
        out: Output,
        rows: &mut Vec<Row>,
    ) {
        let (shape, length) = (self.shape, units(at.queries, self.precision));
        let place = |j| shape.place(shape.keys, head, at.key + j);
        rows.clear();
        rows.extend((0..at.keys).map(|j| Row {
            a: j,
            c: place(j),
            bias: 0,
            ..Row::default()
        }));
        let product = Product {
            precision: self.precision,
            a,
            rows,
            parts: &[Part::default()],
            length,
            a_step: KEYS,
            b: Panels {
                data: panels,
                n: shape.head_dim,
                k: length,
                scales: None,
            },
            columns: 0..shape.head_dim,
            bias: None,
            add: at.query > 0 || shape.causal,
        };
        // SAFETY: these rows belong to this head, which one task computes.
        unsafe { product.run(out.pointer(), std::ptr::null()) }
    }

    /// `values [queries, KEYS]` = products of the block's rows in `a` with its keys' columns.
    fn scores(
        &self,
        a: &[u32],
        columns: &[u32],
        at: Block,
        rows: &mut Vec<Row>,
        values: &mut [f32],
    ) {
        let depth = units(self.shape.head_dim, self.precision);
        let step = step(self.shape.head_dim, self.precision);
        rows.clear();
        rows.extend((0..at.queries).map(|i| Row {
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
                data: columns,
                n: self.shape.keys,
                k: depth,
                scales: None,
            },
            columns: at.key..at.key + at.keys,
            bias: None,
            add: false,
        };
        // SAFETY: column `at.key` is written to the front of each row of `values`, which has `KEYS` places.
        unsafe { product.run(values.as_mut_ptr().wrapping_sub(at.key), std::ptr::null()) }
    }

    /// Turns some queries' scores into shares and the shares' gradients into the scores', zero where a key is not seen.
    fn soften(
        &self,
        head: (usize, usize),
        at: Block,
        (queries, deltas): (Range<usize>, &[f32]),
        scores: &mut [f32],
        slopes: &mut [f32],
    ) {
        let shape = self.shape;
        for i in queries {
            let (scores, slopes) = (&mut scores[i * KEYS..], &mut slopes[i * KEYS..]);
            let query = at.query + i;
            let log_sum = self.log_sums[(head.0 * shape.heads + head.1) * shape.queries + query];
            let seen = shape.seen(query).saturating_sub(at.key).min(at.keys);
            slopes_of_row(
                &mut scores[..seen],
                &mut slopes[..seen],
                shape.scale(),
                log_sum,
                deltas[i],
            );
            scores[seen..at.keys].fill(0.0);
            slopes[seen..at.keys].fill(0.0);
        }
    }
}

/// The rows of one unit, one query or two, of `values [queries, KEYS]` as a step of a left operand whose rows are the
/// keys and whose summed axis is the queries.
fn fill_queries(
    values: &[f32],
    at: Block,
    queries: &Range<usize>,
    precision: Precision,
    units: &mut [u32],
) {
    let row = |i: usize| &values[i * KEYS..][..at.keys];
    let high = (queries.len() > 1).then(|| row(queries.start + 1));
    fill_step(row(queries.start), high, precision, &mut units[..at.keys]);
}
