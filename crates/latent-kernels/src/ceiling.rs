//! What this machine can reach, measured: the bar for every other figure.

use std::time::Instant;

use crate::isa::Precision;
use crate::linear::{PackedMatrix, linear};

/// Speed of a large product (2048 cubed, weight packed before) on all threads of the pool, in GFLOP/s.
///
/// The best of some runs; takes well under a second on a desktop.
pub fn measure_ceiling(precision: Precision) -> f64 {
    const SIZE: usize = 2048;
    let x: Vec<f32> = (0..SIZE * SIZE)
        .map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0)
        .collect();
    let w = PackedMatrix::pack(&x, SIZE, SIZE, precision);
    let mut out = vec![0.0; SIZE * SIZE];
    let best = (0..5)
        .map(|_| {
            let start = Instant::now();
            linear(&x, &w, None, None, &mut out);
            start.elapsed().as_secs_f64()
        })
        .fold(f64::INFINITY, f64::min);
    2.0 * (SIZE as f64).powi(3) / best / 1e9
}
