//! Activations and their gradients.

use burn::backend::Backend;
use latent_kernels::Activation;

use super::layout::{concat, split};
use super::{Float, dims};

/// The slope of the sigmoid that imitates GELU in CLIP's first text encoder.
const QUICK: f64 = 1.702;

/// `x * sigmoid(x)`.
pub(super) fn silu<B: Backend>(x: Float<B>) -> Float<B> {
    swish::<B>(x, 1.0)
}

/// Gradient of [`silu`].
pub(super) fn silu_backward<B: Backend>(x: Float<B>, dy: Float<B>) -> Float<B> {
    swish_backward::<B>(x, dy, 1.0)
}

/// `x * sigmoid(slope * x)`.
fn swish<B: Backend>(x: Float<B>, slope: f64) -> Float<B> {
    let gate = B::sigmoid(B::float_mul_scalar(x.clone(), slope.into()));
    B::float_mul(x, gate)
}

/// `dy * s * (1 + slope * x * (1 - s))` with `s = sigmoid(slope * x)`.
fn swish_backward<B: Backend>(x: Float<B>, dy: Float<B>, slope: f64) -> Float<B> {
    let x = B::float_mul_scalar(x, slope.into());
    let gate = B::sigmoid(x.clone());
    let closed = B::float_add_scalar(B::float_neg(gate.clone()), 1.0.into());
    let factor = B::float_add_scalar(B::float_mul(x, closed), 1.0.into());
    B::float_mul(dy, B::float_mul(gate, factor))
}

/// The normal distribution's `P(X <= x)`.
fn normal_cdf<B: Backend>(x: Float<B>) -> Float<B> {
    let half = std::f64::consts::FRAC_1_SQRT_2;
    let erf = B::float_erf(B::float_mul_scalar(x, half.into()));
    B::float_mul_scalar(B::float_add_scalar(erf, 1.0.into()), 0.5.into())
}

/// `x * P(X <= x)`; Source: Hendrycks & Gimpel 2016 (arXiv:1606.08415).
fn gelu<B: Backend>(x: Float<B>) -> Float<B> {
    B::float_mul(x.clone(), normal_cdf::<B>(x))
}

/// `dy * (P(X <= x) + x * density(x))`.
fn gelu_backward<B: Backend>(x: Float<B>, dy: Float<B>) -> Float<B> {
    let square = B::float_mul(x.clone(), x.clone());
    let density = B::float_exp(B::float_mul_scalar(square, (-0.5).into()));
    let unit = (2.0 * std::f64::consts::PI).sqrt().recip();
    let density = B::float_mul_scalar(density, unit.into());
    let slope = B::float_add(normal_cdf::<B>(x.clone()), B::float_mul(x, density));
    B::float_mul(dy, slope)
}

/// See [`crate::ops::LatentOps::latent_activation`].
pub(crate) fn activation<B: Backend>(x: Float<B>, kind: Activation) -> Float<B> {
    match kind {
        Activation::Silu => silu::<B>(x),
        Activation::Gelu => gelu::<B>(x),
        Activation::QuickGelu => swish::<B>(x, QUICK),
    }
}

/// See [`crate::ops::LatentOps::latent_activation_backward`].
pub(crate) fn activation_backward<B: Backend>(
    x: Float<B>,
    dy: Float<B>,
    kind: Activation,
) -> Float<B> {
    match kind {
        Activation::Silu => silu_backward::<B>(x, dy),
        Activation::Gelu => gelu_backward::<B>(x, dy),
        Activation::QuickGelu => swish_backward::<B>(x, dy, QUICK),
    }
}

fn halves<B: Backend>(x: Float<B>) -> (Float<B>, Float<B>) {
    let shape = dims::<B>(&x);
    split::<B>(x, shape[shape.len() - 1] / 2)
}

/// See [`crate::ops::LatentOps::latent_geglu`].
pub(crate) fn geglu<B: Backend>(x: Float<B>) -> Float<B> {
    let (value, gate) = halves::<B>(x);
    B::float_mul(value, gelu::<B>(gate))
}

/// See [`crate::ops::LatentOps::latent_geglu_backward`].
pub(crate) fn geglu_backward<B: Backend>(x: Float<B>, dy: Float<B>) -> Float<B> {
    let (value, gate) = halves::<B>(x);
    let dvalue = B::float_mul(dy.clone(), gelu::<B>(gate.clone()));
    let dgate = gelu_backward::<B>(gate, B::float_mul(dy, value));
    concat::<B>(dvalue, dgate)
}
