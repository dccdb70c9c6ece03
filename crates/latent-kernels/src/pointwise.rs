//! Activations and GEGLU, value by value.

use rayon::prelude::*;

use crate::isa::for_every_level;
use crate::math::{normal, sigmoid};

/// A function of one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// `x` times the normal distribution's share below `x`, exactly (not by tanh).
    Gelu,
    /// `x * sigmoid(1.702 x)`.
    QuickGelu,
}

/// Values that a task handles.
pub(crate) const CHUNK: usize = 16 * 1024;
const QUICK: f32 = 1.702;

for_every_level! {
    fn silu(x: &[f32], out: &mut [f32]) {
        for (out, &x) in out.iter_mut().zip(x) {
            *out = x * sigmoid::<FUSED>(x);
        }
    }
}

for_every_level! {
    fn gelu(x: &[f32], out: &mut [f32]) {
        for (out, &x) in out.iter_mut().zip(x) {
            *out = x * normal::<FUSED>(x).0;
        }
    }
}

for_every_level! {
    fn quick_gelu(x: &[f32], out: &mut [f32]) {
        for (out, &x) in out.iter_mut().zip(x) {
            *out = x * sigmoid::<FUSED>(QUICK * x);
        }
    }
}

/// Slope of `x * sigmoid(rate * x)`.
#[inline(always)]
pub(crate) fn sigmoid_slope<const FUSED: bool>(x: f32, rate: f32) -> f32 {
    let share = sigmoid::<FUSED>(rate * x);
    share * (1.0 + rate * x * (1.0 - share))
}

for_every_level! {
    fn silu_slope(x: &[f32], dy: &[f32], dx: &mut [f32]) {
        for ((dx, &x), dy) in dx.iter_mut().zip(x).zip(dy) {
            *dx = dy * sigmoid_slope::<FUSED>(x, 1.0);
        }
    }
}

for_every_level! {
    fn gelu_slope(x: &[f32], dy: &[f32], dx: &mut [f32]) {
        for ((dx, &x), dy) in dx.iter_mut().zip(x).zip(dy) {
            let (share, density) = normal::<FUSED>(x);
            *dx = dy * (share + x * density);
        }
    }
}

for_every_level! {
    fn quick_gelu_slope(x: &[f32], dy: &[f32], dx: &mut [f32]) {
        for ((dx, &x), dy) in dx.iter_mut().zip(x).zip(dy) {
            *dx = dy * sigmoid_slope::<FUSED>(x, QUICK);
        }
    }
}

/// `out = kind(x)`.
///
/// # Panics
/// If the lengths differ.
pub fn activation(x: &[f32], kind: Activation, out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "activation: lengths differ");
    let apply = match kind {
        Activation::Silu => silu,
        Activation::Gelu => gelu,
        Activation::QuickGelu => quick_gelu,
    };
    out.par_chunks_mut(CHUNK)
        .zip(x.par_chunks(CHUNK))
        .for_each(|(out, x)| apply(x, out));
}

/// `dx = dy * kind'(x)`.
///
/// # Panics
/// If the lengths differ.
pub fn activation_backward(x: &[f32], dy: &[f32], kind: Activation, dx: &mut [f32]) {
    assert!(
        x.len() == dx.len() && dy.len() == dx.len(),
        "activation_backward: lengths differ"
    );
    let apply = match kind {
        Activation::Silu => silu_slope,
        Activation::Gelu => gelu_slope,
        Activation::QuickGelu => quick_gelu_slope,
    };
    let parts = x.par_chunks(CHUNK).zip(dy.par_chunks(CHUNK));
    dx.par_chunks_mut(CHUNK)
        .zip(parts)
        .for_each(|(dx, (x, dy))| apply(x, dy, dx));
}

for_every_level! {
    fn geglu_row(x: &[f32], out: &mut [f32]) {
        let (values, gates) = x.split_at(out.len());
        for ((out, value), &gate) in out.iter_mut().zip(values).zip(gates) {
            *out = value * gate * normal::<FUSED>(gate).0;
        }
    }
}

for_every_level! {
    fn geglu_slope_row(x: &[f32], dy: &[f32], dx: &mut [f32]) {
        let (values, gates) = x.split_at(dy.len());
        let (dvalues, dgates) = dx.split_at_mut(dy.len());
        let of = values.iter().zip(gates).zip(dy);
        for ((dvalue, dgate), ((value, &gate), dy)) in dvalues.iter_mut().zip(dgates).zip(of) {
            let (share, density) = normal::<FUSED>(gate);
            *dvalue = dy * gate * share;
            *dgate = dy * value * (share + gate * density);
        }
    }
}

/// `out [m, c]`: the first half of each row of `x [m, 2 c]` times GELU of its second half.
///
/// Source: Shazeer 2020 (arXiv:2002.05202), section 2.
///
/// # Panics
/// If a length does not fit.
pub fn geglu(x: &[f32], c: usize, out: &mut [f32]) {
    assert_eq!(x.len(), 2 * out.len(), "geglu: lengths differ");
    if c == 0 {
        return;
    }
    let rows = CHUNK.div_ceil(c);
    out.par_chunks_mut(rows * c)
        .zip(x.par_chunks(rows * 2 * c))
        .for_each(|(out, x)| {
            for (out, x) in out.chunks_exact_mut(c).zip(x.chunks_exact(2 * c)) {
                geglu_row(x, out);
            }
        });
}

/// `dx [m, 2 c]`, the gradient of [`geglu`]'s input, from `dy [m, c]`.
///
/// # Panics
/// If a length does not fit.
pub fn geglu_backward(x: &[f32], dy: &[f32], c: usize, dx: &mut [f32]) {
    assert!(
        x.len() == dx.len() && x.len() == 2 * dy.len(),
        "geglu_backward: lengths differ"
    );
    if c == 0 {
        return;
    }
    let rows = CHUNK.div_ceil(c);
    let parts = x.par_chunks(rows * 2 * c).zip(dy.par_chunks(rows * c));
    dx.par_chunks_mut(rows * 2 * c)
        .zip(parts)
        .for_each(|(dx, (x, dy))| {
            let parts = x.chunks_exact(2 * c).zip(dy.chunks_exact(c));
            for (dx, (x, dy)) in dx.chunks_exact_mut(2 * c).zip(parts) {
                geglu_slope_row(x, dy, dx);
            }
        });
}
