//! Bicubic resizing to the bit as PIL does it, which is how encoders of pictures were shown theirs.
//!
//! Weights have 22 bits behind the point, and pixels are rounded to bytes between the two passes.

use super::Picture;
use crate::FormatError;

/// Bits behind the point of a weight. Source: Pillow's `Resample.c`, `PRECISION_BITS`.
const BITS: u32 = 32 - 8 - 2;
/// Reach of the kernel in old pixels.
pub(super) const SUPPORT: f64 = 2.0;

/// Which old pixels a new one is made of: the first, and the weights of it and those behind it.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

/// The picture in another size.
pub(super) fn resize(
    picture: &Picture,
    width: usize,
    height: usize,
) -> Result<Picture, FormatError> {
    let (from, lines) = (picture.width(), picture.height());
    let columns = taps(from, width);
    let mut wide = Vec::with_capacity(lines * width * 3);
    for row in picture.rgb().chunks_exact(from * 3) {
        for tap in &columns {
            wide.extend([0, 1, 2].map(|channel| tap.sum(|k| row[k * 3 + channel])));
        }
    }
    let mut rgb = Vec::with_capacity(height * width * 3);
    for tap in taps(lines, height) {
        rgb.extend((0..width * 3).map(|at| tap.sum(|k| wide[k * width * 3 + at])));
    }
    Picture::new(width, height, rgb)
}

impl Taps {
    /// The weighted sum of old pixels, as a byte.
    fn sum(&self, pixel: impl Fn(usize) -> u8) -> u8 {
        let weights = self.weights.iter().enumerate();
        let sum = weights.fold(1 << (BITS - 1), |sum: i32, (k, weight)| {
            sum + weight * i32::from(pixel(self.first + k))
        });
        (sum >> BITS).clamp(0, 255) as u8
    }
}

/// One for each new pixel of an axis. Source: Pillow's `precompute_coeffs` and `normalize_coeffs_8bpc`.
fn taps(from: usize, to: usize) -> Vec<Taps> {
    let scale = from as f64 / to as f64;
    let stretch = scale.max(1.0);
    let reach = SUPPORT * stretch;
    let shrink = stretch.recip();
    let each = |index: usize| {
        let center = (index as f64 + 0.5) * scale;
        // Both casts cut the fraction off, and what is below zero.
        let first = (center - reach + 0.5) as usize;
        let last = ((center + reach + 0.5) as usize).min(from);
        let weight = |k: usize| kernel((k as f64 - center + 0.5) * shrink);
        let weights: Vec<f64> = (first..last).map(weight).collect();
        let sum: f64 = weights.iter().sum();
        let fixed = |weight: &f64| (weight / sum * f64::from(1 << BITS)).round() as i32;
        Taps {
            first,
            weights: weights.iter().map(fixed).collect(),
        }
    };
    (0..to).map(each).collect()
}

/// Keys' cubic with a = -1/2. Source: Keys 1981, "Cubic convolution interpolation for digital image processing", Eq. 4.
pub(super) fn kernel(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < SUPPORT {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}
