//! Muon's step on one matrix: its momentum, turned into the nearest matrix whose singular values are all about 1.

use rayon::prelude::*;

use crate::isa::Precision;
use crate::linear::{PackedMatrix, linear};
use crate::optimizer::average;
use crate::pointwise::CHUNK;

/// Muon's numbers at one step.
///
/// Source: Jordan et al. 2024; the step's length, which makes AdamW's learning rate and decay fit, is that of Liu et
/// al. 2025 (arXiv:2502.16982), Eq. 4.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Muon {
    /// Learning rate.
    pub lr: f32,
    /// Memory of the gradients' sum.
    pub momentum: f32,
    /// Share of the weight, times the learning rate, taken off.
    pub weight_decay: f32,
    /// How the products of the iteration are computed.
    pub precision: Precision,
}

impl Muon {
    /// Rounds of the iteration.
    ///
    /// Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks".
    pub const ROUNDS: usize = 5;
    /// Its polynomial `a x + b x^3 + c x^5`, which is steep at 0 so that few rounds do.
    pub const POLYNOMIAL: [f32; 3] = [3.4445, -4.7750, 2.0315];

    /// Length of a step at a learning rate of 1, by the root of the matrix's longer side: what makes AdamW's fit.
    pub const LENGTH: f32 = 0.2;

    /// Adds the gradients `g * grad_scale` to the memory `m`, both `[rows, ..]`: the direction to go against.
    ///
    /// # Panics
    /// If the lengths differ or are not whole rows.
    pub fn direction(&self, g: &[f32], m: &mut [f32], grad_scale: f32, rows: usize) -> Vec<f32> {
        let len = g.len();
        assert!(
            m.len() == len && rows > 0 && len.is_multiple_of(rows),
            "Muon: lengths differ"
        );
        let direction = g
            .iter()
            .zip(m)
            .map(|(g, m)| {
                let g = g * grad_scale;
                *m = self.momentum * *m + g;
                // Nesterov's look ahead.
                self.momentum * *m + g
            })
            .collect();
        match len {
            0 => direction,
            _ => orthogonalised(direction, rows, len / rows, self.precision),
        }
    }

    /// Moves the weights `p [rows, ..]` against what [`Muon::direction`] gave.
    ///
    /// `ema` is the weights' running average and the share of it that stays.
    ///
    /// # Panics
    /// If the lengths differ or are not whole rows.
    pub fn step(
        &self,
        p: &mut [f32],
        direction: &[f32],
        ema: Option<(&mut [f32], f32)>,
        rows: usize,
    ) {
        let len = p.len();
        assert!(
            direction.len() == len && rows > 0 && len.is_multiple_of(rows),
            "Muon: lengths differ"
        );
        let kept = (1.0 - f64::from(self.lr) * f64::from(self.weight_decay)) as f32;
        let rate = self.lr * Self::LENGTH * (rows.max(len / rows) as f32).sqrt();
        p.par_chunks_mut(CHUNK)
            .zip(direction.par_chunks(CHUNK))
            .for_each(|(p, direction)| {
                for (p, direction) in p.iter_mut().zip(direction) {
                    *p = *p * kept - rate * direction;
                }
            });
        if let Some((ema, stays)) = ema {
            assert_eq!(ema.len(), len, "Muon: the average's length differs");
            ema.par_chunks_mut(CHUNK)
                .zip(p.par_chunks(CHUNK))
                .for_each(|(ema, p)| average(1.0 - stays, p, ema));
        }
    }
}

/// `x [rows, columns]` with singular values between 0.7 and 1.2 and its singular vectors kept.
fn orthogonalised(x: Vec<f32>, rows: usize, columns: usize, precision: Precision) -> Vec<f32> {
    if rows > columns {
        let turned = orthogonalised(transposed(&x, rows, columns), columns, rows, precision);
        return transposed(&turned, columns, rows);
    }
    let [a, b, c] = Muon::POLYNOMIAL;
    let length = crate::sum_of_squares(&x).sqrt() as f32 + 1e-7;
    let mut x: Vec<f32> = x.into_iter().map(|value| value / length).collect();
    let mut gram = vec![0.0; rows * rows];
    let mut factor = vec![0.0; rows * rows];
    let mut next = vec![0.0; x.len()];
    for _ in 0..Muon::ROUNDS {
        // Both factors of each product are needed by rows: x x^T, and the square of a symmetric matrix.
        let by_rows = PackedMatrix::pack(&x, rows, columns, precision);
        linear(&x, &by_rows, None, None, &mut gram);
        let by_rows = PackedMatrix::pack(&gram, rows, rows, precision);
        linear(&gram, &by_rows, None, None, &mut factor);
        for (factor, gram) in factor.iter_mut().zip(&gram) {
            *factor = b * gram + c * *factor;
        }
        for i in 0..rows {
            factor[i * rows + i] += a;
        }
        let by_columns = PackedMatrix::pack_transposed(&x, columns, rows, precision);
        linear(&factor, &by_columns, None, None, &mut next);
        std::mem::swap(&mut x, &mut next);
    }
    x
}

fn transposed(x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let mut turned = vec![0.0; x.len()];
    turned
        .par_chunks_mut(rows)
        .enumerate()
        .for_each(|(column, turned)| {
            for (row, value) in turned.iter_mut().enumerate() {
                *value = x[row * columns + column];
            }
        });
    turned
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(len: usize) -> Vec<f32> {
        (0..len)
            .map(|i| ((i * 7919 + i * i * 31) % 1009) as f32 / 504.5 - 1.0)
            .collect()
    }

    /// `x x^T` in f64.
    fn gram(x: &[f32], rows: usize) -> Vec<f64> {
        let columns = x.len() / rows;
        let row = |i: usize| &x[i * columns..][..columns];
        let product = |i: usize, j: usize| -> f64 {
            let pairs = row(i).iter().zip(row(j));
            pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        (0..rows * rows)
            .map(|at| product(at / rows, at % rows))
            .collect()
    }

    #[test]
    fn rows_of_a_turned_matrix_are_about_orthogonal_and_of_about_unit_length() {
        for (rows, columns) in [(6, 40), (40, 6), (33, 70)] {
            for precision in [Precision::F32, Precision::Bf16] {
                let x = orthogonalised(drawn(rows * columns), rows, columns, precision);
                let (short, x) = match rows > columns {
                    true => (columns, transposed(&x, rows, columns)),
                    false => (rows, x),
                };
                for (at, value) in gram(&x, short).into_iter().enumerate() {
                    let one = f64::from(u8::from(at / short == at % short));
                    // Singular values lie in 0.7 to 1.2, their squares within 0.5 of 1.
                    assert!((value - one).abs() < 0.5, "{rows}x{columns} {at}: {value}");
                }
            }
        }
    }

    #[test]
    fn a_scaled_gradient_gives_the_same_first_step() {
        let muon = Muon {
            lr: 0.1,
            momentum: 0.95,
            weight_decay: 0.0,
            precision: Precision::F32,
        };
        let step = |scale: f32| {
            let mut p = vec![0.0; 600];
            let direction = muon.direction(&drawn(600), &mut vec![0.0; 600], scale, 20);
            muon.step(&mut p, &direction, None, 20);
            p
        };
        for (one, other) in step(1.0).into_iter().zip(step(1e-3)) {
            assert!((one - other).abs() < 1e-5, "{one} {other}");
        }
    }

    #[test]
    fn decay_and_average_are_those_of_adamw() {
        let muon = Muon {
            lr: 0.1,
            momentum: 0.9,
            weight_decay: 0.5,
            precision: Precision::F32,
        };
        // Without a gradient there is no direction, and what is left is the decay.
        let (mut p, mut average) = (vec![2.0; 8], vec![1.0; 8]);
        let direction = muon.direction(&[0.0; 8], &mut [0.0; 8], 1.0, 2);
        muon.step(&mut p, &direction, Some((&mut average, 0.75)), 2);
        for (p, average) in p.into_iter().zip(average) {
            assert!((p - 1.9).abs() < 1e-6 && (average - 1.225).abs() < 1e-6);
        }
    }
}
