//! Other sizes, by one separable walk with the weights of a filter.

use super::pixels::pixel_count;
use super::{Picture, bicubic};
use crate::FormatError;

/// How a pixel of the new size is made of old ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// The mean of the area it covers: exact for whole ratios, keeps flat art flat.
    Area,
    /// Straight lines between pixels, widened when shrinking (PIL's `BILINEAR`).
    Triangle,
    /// Between the two (PIL's `BICUBIC`, to the bit).
    Bicubic,
    /// The sharpest; rings a little at hard edges (PIL's `LANCZOS`).
    Lanczos,
}

/// Which old pixels a new one is made of: the first, and the weights of it and those behind it.
struct Taps {
    first: usize,
    weights: Vec<f32>,
}

impl Picture {
    /// The picture in another size, stretched if need be.
    ///
    /// # Errors
    /// [`FormatError::PictureSize`] if a side is 0 or there are more than 64 megapixels.
    pub fn resize(&self, width: usize, height: usize, filter: Filter) -> Result<Self, FormatError> {
        pixel_count(width, height)?;
        if (width, height) == (self.width(), self.height()) {
            return Ok(self.clone());
        }
        if filter == Filter::Bicubic {
            return bicubic::resize(self, width, height);
        }
        let wide = self.resize_rows(&taps(self.width(), width, filter));
        let rgb = resize_columns(&wide, width, &taps(self.height(), height, filter));
        Self::new(width, height, rgb)
    }

    /// The picture scaled until it covers `width x height`, its middle cut out.
    ///
    /// # Errors
    /// [`FormatError::PictureSize`] as [`Picture::resize`].
    pub fn cover(&self, width: usize, height: usize, filter: Filter) -> Result<Self, FormatError> {
        pixel_count(width, height)?;
        let (w, h) = (self.width() as u64, self.height() as u64);
        // Compared as whole numbers, so that a picture of the same proportions is never cut.
        let (scaled_w, scaled_h) = if width as u64 * h >= height as u64 * w {
            (width, (h * width as u64).div_ceil(w) as usize)
        } else {
            ((w * height as u64).div_ceil(h) as usize, height)
        };
        let scaled = self.resize(scaled_w, scaled_h, filter)?;
        scaled.center_crop(width, height)
    }

    /// `[height, width, 3]` to `[height, taps, 3]`.
    fn resize_rows(&self, taps: &[Taps]) -> Vec<f32> {
        let mut out = Vec::with_capacity(self.height() * taps.len() * 3);
        for row in self.rgb().chunks_exact(self.width() * 3) {
            for tap in taps {
                let mut sum = [0f32; 3];
                let pixels = row[tap.first * 3..].chunks_exact(3);
                for (pixel, weight) in pixels.zip(&tap.weights) {
                    for (sum, &value) in sum.iter_mut().zip(pixel) {
                        *sum += weight * f32::from(value);
                    }
                }
                out.extend(sum);
            }
        }
        out
    }
}

/// `[height, width, 3]` to `[taps, width, 3]`, rounded to bytes.
fn resize_columns(rows: &[f32], width: usize, taps: &[Taps]) -> Vec<u8> {
    let row_len = width * 3;
    let mut out = Vec::with_capacity(taps.len() * row_len);
    let mut sum = vec![0f32; row_len];
    for tap in taps {
        sum.fill(0.0);
        let lines = rows[tap.first * row_len..].chunks_exact(row_len);
        for (line, weight) in lines.zip(&tap.weights) {
            for (sum, value) in sum.iter_mut().zip(line) {
                *sum += weight * value;
            }
        }
        out.extend(
            sum.iter()
                .map(|value| (value + 0.5).clamp(0.0, 255.0) as u8),
        );
    }
    out
}

fn taps(from: usize, to: usize, filter: Filter) -> Vec<Taps> {
    let scale = from as f64 / to as f64;
    (0..to)
        .map(|index| match filter {
            Filter::Area => area_taps(from, index, scale),
            Filter::Triangle => kernel_taps(from, index, scale, 1.0, |x| 1.0 - x),
            Filter::Bicubic => kernel_taps(from, index, scale, bicubic::SUPPORT, bicubic::kernel),
            Filter::Lanczos => kernel_taps(from, index, scale, 3.0, |x| sinc(x) * sinc(x / 3.0)),
        })
        .collect()
}

/// Weights are the shares of the old pixels in the new one's interval.
fn area_taps(from: usize, index: usize, scale: f64) -> Taps {
    let (begin, end) = (index as f64 * scale, (index + 1) as f64 * scale);
    let first = (begin as usize).min(from - 1);
    let last = (end.ceil() as usize).clamp(first + 1, from);
    let share = |k: usize| (end.min((k + 1) as f64) - begin.max(k as f64)).max(0.0);
    normalised(first, (first..last).map(share).collect())
}

/// Weights of `kernel` (of a distance not above `support`) around the new pixel's centre, stretched when shrinking.
fn kernel_taps(
    from: usize,
    index: usize,
    scale: f64,
    support: f64,
    kernel: fn(f64) -> f64,
) -> Taps {
    let stretch = scale.max(1.0);
    let center = (index as f64 + 0.5) * scale;
    let reach = support * stretch;
    let first = (center - reach).floor().max(0.0) as usize;
    let last = ((center + reach).ceil() as usize).min(from);
    let weight = |k: usize| {
        let distance = ((k as f64 + 0.5 - center) / stretch).abs();
        if distance < support {
            kernel(distance)
        } else {
            0.0
        }
    };
    normalised(first, (first..last).map(weight).collect())
}

fn normalised(first: usize, weights: Vec<f64>) -> Taps {
    let sum: f64 = weights.iter().sum();
    let weights = weights.iter().map(|weight| (weight / sum) as f32).collect();
    Taps { first, weights }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 {
        return 1.0;
    }
    let x = x * std::f64::consts::PI;
    x.sin() / x
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::imageops::FilterType;

    fn noise(width: usize, height: usize) -> Picture {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1664525).wrapping_add(1013904223);
            (state >> 24) as u8
        };
        let rgb = (0..width * height * 3).map(|_| next()).collect();
        Picture::new(width, height, rgb).unwrap()
    }

    #[test]
    fn halving_by_area_is_the_rounded_mean_of_four() {
        let picture = noise(16, 8);
        let half = picture.resize(8, 4, Filter::Area).unwrap();
        for (x, y) in [(0, 0), (3, 2), (7, 3)] {
            for channel in 0..3 {
                let at = |dx, dy| u32::from(picture.pixel(2 * x + dx, 2 * y + dy)[channel]);
                let mean = (at(0, 0) + at(1, 0) + at(0, 1) + at(1, 1) + 2) / 4;
                assert_eq!(u32::from(half.pixel(x, y)[channel]), mean);
            }
        }
    }

    #[test]
    fn three_to_two_by_area_takes_half_of_the_middle() {
        let picture = Picture::new(3, 1, vec![0, 0, 0, 90, 90, 90, 240, 240, 240]).unwrap();
        let small = picture.resize(2, 1, Filter::Area).unwrap();
        // (0 + 90/2) / 1.5 and (90/2 + 240) / 1.5.
        assert_eq!(small.rgb(), [30, 30, 30, 190, 190, 190]);
    }

    #[test]
    fn triangle_and_lanczos_are_those_of_the_image_crate() {
        let picture = noise(31, 23);
        let theirs = image::RgbImage::from_raw(31, 23, picture.rgb().to_vec()).unwrap();
        for (ours, filter) in [
            (Filter::Triangle, FilterType::Triangle),
            (Filter::Lanczos, FilterType::Lanczos3),
        ] {
            for (width, height) in [(13, 9), (64, 50), (31, 8)] {
                let expected = image::imageops::resize(&theirs, width, height, filter);
                let got = picture
                    .resize(width as usize, height as usize, ours)
                    .unwrap();
                // One level for rounding: the order of the two passes is the other way round there.
                let worst = got
                    .rgb()
                    .iter()
                    .zip(expected.as_raw())
                    .map(|(a, b)| a.abs_diff(*b))
                    .max();
                assert!(worst <= Some(1), "{ours:?} to {width}x{height}: {worst:?}");
            }
        }
    }

    #[test]
    fn one_colour_stays_one_colour_in_every_filter_and_size() {
        let picture = Picture::filled(9, 7, [10, 128, 255]).unwrap();
        for filter in [
            Filter::Area,
            Filter::Triangle,
            Filter::Bicubic,
            Filter::Lanczos,
        ] {
            for (width, height) in [(1, 1), (4, 3), (100, 90), (9, 7)] {
                let resized = picture.resize(width, height, filter).unwrap();
                assert!(
                    resized.rgb().chunks(3).all(|p| p == [10, 128, 255]),
                    "{filter:?}"
                );
            }
        }
    }

    #[test]
    fn covering_keeps_proportions_and_the_middle() {
        let mut rgb = vec![0; 40 * 20 * 3];
        for row in rgb.chunks_exact_mut(40 * 3) {
            row[10 * 3..30 * 3].fill(200);
        }
        let picture = Picture::new(40, 20, rgb).unwrap();
        let square = picture.cover(10, 10, Filter::Area).unwrap();
        assert!(square.rgb().iter().all(|&value| value == 200));
        assert_eq!(picture.cover(3, 7, Filter::Lanczos).unwrap().width(), 3);
    }

    #[test]
    fn no_size_and_endless_sizes_are_refused() {
        assert!(noise(2, 2).resize(0, 2, Filter::Area).is_err());
        assert!(noise(2, 2).resize(1 << 20, 1 << 20, Filter::Area).is_err());
        assert!(noise(64, 1).cover(1 << 13, 1 << 13, Filter::Area).is_err());
    }
}
