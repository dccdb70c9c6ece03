//! Sums in an order that depends on lengths alone.

use rayon::prelude::*;

use crate::isa::for_every_level;
use crate::pointwise::CHUNK;

const LANES: usize = 16;

for_every_level! {
    fn add_rows(rows: &[f32], sums: &mut [f32]) {
        for row in rows.chunks_exact(sums.len()) {
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += value;
            }
        }
    }
}

/// `out [n]` = sum of the rows of `dy [m, n]`: the gradient of a bias.
///
/// # Panics
/// If `dy` is not whole rows of `n`, or `out` is not `[n]`.
pub fn column_sums(dy: &[f32], n: usize, out: &mut [f32]) {
    assert!(
        out.len() == n && (n == 0 || dy.len().is_multiple_of(n)),
        "column_sums: lengths differ"
    );
    if n == 0 {
        return;
    }
    let rows = CHUNK.div_ceil(n);
    let parts: Vec<_> = dy
        .par_chunks(rows * n)
        .map(|dy| {
            let mut sums = vec![0.0; n];
            add_rows(dy, &mut sums);
            sums
        })
        .collect();
    let mut total = vec![0.0; n];
    for part in parts {
        for (total, part) in total.iter_mut().zip(part) {
            *total += f64::from(part);
        }
    }
    for (out, total) in out.iter_mut().zip(total) {
        *out = total as f32;
    }
}

for_every_level! {
    fn squares(x: &[f32]) -> f64 {
        let mut lanes = [0.0; LANES];
        let whole = x.chunks_exact(LANES);
        let rest = whole.remainder().iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>();
        for x in whole {
            for (lane, &value) in lanes.iter_mut().zip(x) {
                *lane += f64::from(value) * f64::from(value);
            }
        }
        lanes.iter().sum::<f64>() + rest
    }
}

/// Sum of squares of all values.
pub fn sum_of_squares(x: &[f32]) -> f64 {
    let parts: Vec<f64> = x.par_chunks(CHUNK).map(squares).collect();
    parts.iter().sum()
}
