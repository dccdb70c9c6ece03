//! Quantiles of the symmetric beta distribution.

/// The `x` below which a share `p` of Beta(`a`, `a`) lies. Source: bisection of the distribution function.
pub(super) fn quantile(p: f64, a: f64) -> f64 {
    if p <= 0.0 || p >= 1.0 {
        return p.clamp(0.0, 1.0);
    }
    if p == 0.5 {
        return 0.5; // exactly, since timesteps are rounded from here
    }
    // The distribution is symmetric, and its lower half keeps more digits.
    if p > 0.5 {
        return 1.0 - quantile(1.0 - p, a);
    }
    let constant = 1.0 / integral_to_half(a);
    let (mut low, mut high) = (0.0, 0.5);
    for _ in 0..80 {
        let middle = 0.5 * (low + high);
        if 0.5 * constant * integral(middle, a) < p {
            low = middle
        } else {
            high = middle
        }
    }
    0.5 * (low + high)
}

fn integral_to_half(a: f64) -> f64 {
    integral(0.5, a)
}

/// The integral of `t^(a-1) (1-t)^(a-1)` from 0 to `x`, at most a half, by its power series.
///
/// Source: Abramowitz & Stegun 1964, 26.5.4 with the hypergeometric series of 15.1.1; every term is below half the last.
fn integral(x: f64, a: f64) -> f64 {
    let (mut term, mut sum, mut n) = (1.0, 1.0 / a, 0.0);
    while term > 1e-18 {
        term *= x * (n + 1.0 - a) / (n + 1.0);
        n += 1.0;
        sum += term / (a + n);
    }
    x.powf(a) * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_the_arcsine_law_are_known() {
        // Beta(1/2, 1/2) has the quantile sin^2(pi p / 2).
        for p in [0.01f64, 0.2, 0.5, 0.77, 0.999] {
            let exact = (std::f64::consts::FRAC_PI_2 * p).sin().powi(2);
            assert!((quantile(p, 0.5) - exact).abs() < 1e-12, "{p}");
        }
    }
}
