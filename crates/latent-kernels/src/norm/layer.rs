//! Layer norm over the last axis.

use rayon::prelude::*;

use crate::isa::for_every_level;
use crate::math::multiply_add;
use crate::pointwise::CHUNK;

const LANES: usize = 16;

/// Sum of `of(i)`, in 16 running sums and the rest.
#[inline(always)]
fn lanes(len: usize, of: impl Fn(usize) -> f32) -> f32 {
    let mut sums = [0.0; LANES];
    let whole = len / LANES * LANES;
    for first in (0..whole).step_by(LANES) {
        for (lane, sum) in sums.iter_mut().enumerate() {
            *sum += of(first + lane);
        }
    }
    sums.iter().sum::<f32>() + (whole..len).map(of).sum::<f32>()
}

/// Mean and reciprocal deviation of a row.
#[inline(always)]
fn moments(x: &[f32], eps: f32) -> (f32, f32) {
    let count = x.len() as f32;
    let mean = lanes(x.len(), |i| x[i]) / count;
    let variance = lanes(x.len(), |i| (x[i] - mean) * (x[i] - mean)) / count;
    (mean, 1.0 / (variance + eps).sqrt())
}

for_every_level! {
    fn rows(x: &[f32], gamma: &[f32], beta: &[f32], eps: f32, out: &mut [f32]) {
        for (x, out) in x.chunks_exact(gamma.len()).zip(out.chunks_exact_mut(gamma.len())) {
            let (mean, rstd) = moments(x, eps);
            for ((x, out), (gamma, beta)) in x.iter().zip(out).zip(gamma.iter().zip(beta)) {
                *out = multiply_add::<FUSED>((x - mean) * rstd, *gamma, *beta);
            }
        }
    }
}

/// `out = (x - mean) / sqrt(variance + eps) * gamma + beta` over each row of `x [m, c]`; `gamma`, `beta` `[c]`.
///
/// Source: Ba, Kiros & Hinton 2016 (arXiv:1607.06450), Eq. 4.
///
/// # Panics
/// If a length does not fit.
pub fn layer_norm(x: &[f32], gamma: &[f32], beta: &[f32], eps: f32, out: &mut [f32]) {
    let c = gamma.len();
    assert!(
        x.len() == out.len() && beta.len() == c,
        "layer_norm: lengths differ"
    );
    assert!(
        c > 0 && x.len().is_multiple_of(c),
        "layer_norm: {} values are not rows of {c}",
        x.len()
    );
    let chunk = CHUNK.div_ceil(c) * c;
    out.par_chunks_mut(chunk)
        .zip(x.par_chunks(chunk))
        .for_each(|(out, x)| rows(x, gamma, beta, eps, out));
}

for_every_level! {
    fn gradient_rows(x: &[f32], dy: &[f32], gamma: &[f32], eps: f32, dx: &mut [f32], sums: &mut [f32]) {
        let c = gamma.len();
        let (dgamma, dbeta) = sums.split_at_mut(c);
        for ((x, dy), dx) in x.chunks_exact(c).zip(dy.chunks_exact(c)).zip(dx.chunks_exact_mut(c)) {
            let (x, dy) = (&x[..c], &dy[..c]);
            let (mean, rstd) = moments(x, eps);
            let flat = lanes(c, |i| dy[i] * gamma[i]) / c as f32;
            let tilt = lanes(c, |i| dy[i] * gamma[i] * ((x[i] - mean) * rstd)) / c as f32;
            for i in 0..c {
                let normal = (x[i] - mean) * rstd;
                dx[i] = rstd * (dy[i] * gamma[i] - flat - normal * tilt);
                dgamma[i] += dy[i] * normal;
                dbeta[i] += dy[i];
            }
        }
    }
}

/// The gradients of [`layer_norm`]: `dx [m, c]`, `dgamma` and `dbeta` `[c]`.
///
/// # Panics
/// If a length does not fit.
#[expect(
    clippy::too_many_arguments,
    reason = "what forward had, and its three gradients"
)]
pub fn layer_norm_backward(
    x: &[f32],
    dy: &[f32],
    gamma: &[f32],
    eps: f32,
    dx: &mut [f32],
    dgamma: &mut [f32],
    dbeta: &mut [f32],
) {
    let c = gamma.len();
    assert!(
        x.len() == dy.len() && x.len() == dx.len(),
        "layer_norm_backward: lengths differ"
    );
    assert!(
        dgamma.len() == c && dbeta.len() == c,
        "layer_norm_backward: weights' lengths differ"
    );
    assert!(
        c > 0 && x.len().is_multiple_of(c),
        "layer_norm_backward: {} values are not rows of {c}",
        x.len()
    );
    let chunk = CHUNK.div_ceil(c) * c;
    let parts: Vec<Vec<f32>> = dx
        .par_chunks_mut(chunk)
        .zip(x.par_chunks(chunk).zip(dy.par_chunks(chunk)))
        .map(|(dx, (x, dy))| {
            let mut sums = vec![0.0; 2 * c];
            gradient_rows(x, dy, gamma, eps, dx, &mut sums);
            sums
        })
        .collect();
    for i in 0..c {
        dgamma[i] = parts.iter().map(|part| f64::from(part[i])).sum::<f64>() as f32;
        dbeta[i] = parts.iter().map(|part| f64::from(part[c + i])).sum::<f64>() as f32;
    }
}
