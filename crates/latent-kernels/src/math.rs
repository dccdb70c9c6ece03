//! Functions of one value that the compiler can turn into vectors: no calls, no branches.
//!
//! `FUSED` says whether the instruction set multiplies and adds at once; without it that would be a slow call.

/// `a * b + c`.
#[inline(always)]
pub(crate) fn multiply_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// All 16 lanes by `combine`, in halves.
#[inline(always)]
pub(crate) fn fold(lanes: [f32; 16], combine: impl Fn(f32, f32) -> f32) -> f32 {
    let eight: [f32; 8] = std::array::from_fn(|i| combine(lanes[i], lanes[i + 8]));
    let four: [f32; 4] = std::array::from_fn(|i| combine(eight[i], eight[i + 4]));
    combine(combine(four[0], four[2]), combine(four[1], four[3]))
}

/// `e^x` to about one unit in the last place; 0 below -86.6, largest at 88.
#[inline(always)]
pub(crate) fn exp<const FUSED: bool>(x: f32) -> f32 {
    /// Below this the exponent would leave the normal numbers.
    const LOWEST: f32 = -86.6;
    const HIGHEST: f32 = 88.0;
    /// Adding it moves the nearest whole number into the lowest bits.
    const SHIFT: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    /// Of the series of `e^r`: 1 / 7!, 1 / 6!, and so on.
    const SERIES: [f32; 8] = [
        1.0 / 5040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ];
    let inside = if x > LOWEST { x } else { LOWEST };
    let inside = if inside < HIGHEST { inside } else { HIGHEST };
    let shifted = multiply_add::<FUSED>(inside, std::f32::consts::LOG2_E, SHIFT);
    let whole = shifted - SHIFT;
    let r = multiply_add::<FUSED>(whole, -LN_2_HIGH, inside);
    let r = multiply_add::<FUSED>(whole, -LN_2_LOW, r);
    let mut power = SERIES[0];
    for coefficient in &SERIES[1..] {
        power = multiply_add::<FUSED>(power, r, *coefficient);
    }
    let scaled = f32::from_bits(power.to_bits().wrapping_add(shifted.to_bits() << 23));
    if x > LOWEST { scaled } else { 0.0 }
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn sigmoid<const FUSED: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FUSED>(-x))
}

/// Share of the normal distribution below `x`, and its density there; errors below 2e-7.
///
/// Source: Abramowitz & Stegun 1964, 7.1.26 (the error function).
#[inline(always)]
pub(crate) fn normal<const FUSED: bool>(x: f32) -> (f32, f32) {
    const RATE: f32 = 0.327_591_1;
    const SERIES: [f32; 5] = [
        1.061_405_4,
        -1.453_152,
        1.421_413_7,
        -0.284_496_74,
        0.254_829_6,
    ];
    const DENSITY: f32 = 0.398_942_3;
    let bell = exp::<FUSED>(-0.5 * x * x);
    let t = 1.0 / multiply_add::<FUSED>(RATE, x.abs() * std::f32::consts::FRAC_1_SQRT_2, 1.0);
    let mut sum = SERIES[0];
    for coefficient in &SERIES[1..] {
        sum = multiply_add::<FUSED>(sum, t, *coefficient);
    }
    let tail = 0.5 * sum * t * bell;
    (if x < 0.0 { tail } else { 1.0 - tail }, DENSITY * bell)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_right_to_two_parts_in_ten_million_and_ends_in_zero() {
        for i in -86_000..88_000 {
            let x = i as f32 / 1000.0;
            let (exact, got) = (f64::from(x).exp(), f64::from(exp::<true>(x)));
            assert!(
                (got / exact - 1.0).abs() < 2e-7,
                "exp({x}) = {got}, not {exact}"
            );
            let plain = f64::from(exp::<false>(x));
            assert!(
                (plain / exact - 1.0).abs() < 4e-7,
                "exp({x}) = {plain}, not {exact}"
            );
        }
        assert_eq!(exp::<true>(f32::NEG_INFINITY), 0.0);
        assert!(exp::<true>(1e9).is_finite());
    }
}
