//! How far two pictures are apart.

use super::Picture;
use crate::FormatError;

/// The window of the structural similarity: 11 positions of a Gaussian of standard deviation 1.5.
const WINDOW: usize = 11;

/// Peak signal-to-noise ratio over red, green and blue, in dB; infinite when the pictures are equal.
///
/// # Errors
/// [`FormatError::PictureSize`] if their sizes differ.
pub fn psnr(a: &Picture, b: &Picture) -> Result<f64, FormatError> {
    same_size(a, b)?;
    let squares = a.rgb().iter().zip(b.rgb());
    let sum: u64 = squares.map(|(a, b)| u64::from(a.abs_diff(*b)).pow(2)).sum();
    let mean = sum as f64 / a.rgb().len() as f64;
    Ok(10.0 * (255.0 * 255.0 / mean).log10())
}

/// Structural similarity, the mean over red, green and blue and over every window that lies inside; 1 when equal.
///
/// # Errors
/// [`FormatError::PictureSize`] if their sizes differ or a side is below 11 pixels.
///
/// Source: Wang et al. 2004 (IEEE TIP 13(4)), Eq. 13, with a Gaussian window of 11 x 11, K1 = 0.01, K2 = 0.03.
pub fn ssim(a: &Picture, b: &Picture) -> Result<f64, FormatError> {
    same_size(a, b)?;
    if a.width() < WINDOW || a.height() < WINDOW {
        return Err(FormatError::PictureSize(format!(
            "structural similarity needs pictures of at least {WINDOW}x{WINDOW}, these are {}x{}",
            a.width(),
            a.height()
        )));
    }
    let sum: f64 = (0..3).map(|channel| channel_ssim(a, b, channel)).sum();
    Ok(sum / 3.0)
}

fn same_size(a: &Picture, b: &Picture) -> Result<(), FormatError> {
    if (a.width(), a.height()) == (b.width(), b.height()) {
        return Ok(());
    }
    Err(FormatError::PictureSize(format!(
        "only pictures of one size can be compared, these are {}x{} and {}x{}",
        a.width(),
        a.height(),
        b.width(),
        b.height()
    )))
}

fn channel_ssim(a: &Picture, b: &Picture, channel: usize) -> f64 {
    let plane = |p: &Picture| -> Vec<f64> {
        let values = p.rgb().iter().skip(channel).step_by(3);
        values.map(|&v| f64::from(v)).collect()
    };
    let product =
        |a: &[f64], b: &[f64]| -> Vec<f64> { a.iter().zip(b).map(|(a, b)| a * b).collect() };
    let (x, y) = (plane(a), plane(b));
    let mean = |plane: &[f64]| blur(plane, a.width(), a.height());
    let (mean_x, mean_y) = (mean(&x), mean(&y));
    let (xx, yy, xy) = (
        mean(&product(&x, &x)),
        mean(&product(&y, &y)),
        mean(&product(&x, &y)),
    );
    let c1 = (0.01 * 255.0f64).powi(2);
    let c2 = (0.03 * 255.0f64).powi(2);
    let mut sum = 0.0;
    for i in 0..mean_x.len() {
        let (mx, my) = (mean_x[i], mean_y[i]);
        let (var_x, var_y, cov) = (xx[i] - mx * mx, yy[i] - my * my, xy[i] - mx * my);
        sum += (2.0 * mx * my + c1) * (2.0 * cov + c2)
            / ((mx * mx + my * my + c1) * (var_x + var_y + c2));
    }
    sum / mean_x.len() as f64
}

/// `[height, width]` to `[height - 10, width - 10]`: the Gaussian mean of every window that lies inside.
fn blur(plane: &[f64], width: usize, height: usize) -> Vec<f64> {
    let gaussian = gaussian();
    let inner = width + 1 - WINDOW;
    let mut rows = Vec::with_capacity(inner * height);
    for row in plane.chunks_exact(width) {
        let windows = row.windows(WINDOW);
        rows.extend(windows.map(|w| w.iter().zip(&gaussian).map(|(v, g)| v * g).sum::<f64>()));
    }
    let mut out = vec![0.0; inner * (height + 1 - WINDOW)];
    for (y, line) in out.chunks_exact_mut(inner).enumerate() {
        for (k, weight) in gaussian.iter().enumerate() {
            let from = &rows[(y + k) * inner..(y + k + 1) * inner];
            for (sum, value) in line.iter_mut().zip(from) {
                *sum += weight * value;
            }
        }
    }
    out
}

fn gaussian() -> [f64; WINDOW] {
    let bell = std::array::from_fn(|i| {
        let distance = i as f64 - (WINDOW / 2) as f64;
        (-distance * distance / (2.0 * 1.5 * 1.5)).exp()
    });
    let sum: f64 = bell.iter().sum();
    bell.map(|value: f64| value / sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two pictures of 24x20 by a rule that any language can repeat; the reference walks every window of 11x11.
    fn pair() -> (Picture, Picture) {
        let value = |i: usize| (i * 37 + i / 24 * 11 + i * i % 17 * 5) % 256;
        let a: Vec<u8> = (0..24 * 20 * 3).map(|i| value(i) as u8).collect();
        let b = (0..a.len()).map(|i| ((value(i) * 7 + i % 13 * 20) / 8) as u8);
        let b = Picture::new(24, 20, b.collect()).unwrap();
        (Picture::new(24, 20, a).unwrap(), b)
    }

    #[test]
    fn psnr_of_one_level_everywhere_is_48_db() {
        let a = Picture::filled(4, 4, [100; 3]).unwrap();
        let b = Picture::filled(4, 4, [101; 3]).unwrap();
        assert!((psnr(&a, &b).unwrap() - 48.130803608679).abs() < 1e-9);
        assert_eq!(psnr(&a, &a).unwrap(), f64::INFINITY);
    }

    #[test]
    fn psnr_and_ssim_equal_a_reference_in_numpy() {
        let (a, b) = pair();
        assert!((psnr(&a, &b).unwrap() - 25.798691318693542).abs() < 1e-9);
        assert!((ssim(&a, &b).unwrap() - 0.9824813555015134).abs() < 1e-9);
    }

    #[test]
    fn ssim_of_flat_pictures_is_its_luminance_term() {
        // Without variance only (2 a b + c1) / (a a + b b + c1) is left.
        let a = Picture::filled(12, 12, [100; 3]).unwrap();
        let b = Picture::filled(12, 12, [150; 3]).unwrap();
        let expected = (2.0 * 100.0 * 150.0 + 6.5025) / (100.0 * 100.0 + 150.0 * 150.0 + 6.5025);
        assert!((ssim(&a, &b).unwrap() - expected).abs() < 1e-9);
        assert!((ssim(&a, &a).unwrap() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn pictures_of_other_sizes_are_refused() {
        let a = Picture::filled(12, 12, [0; 3]).unwrap();
        let b = Picture::filled(12, 13, [0; 3]).unwrap();
        assert!(psnr(&a, &b).is_err() && ssim(&a, &b).is_err());
        let small = Picture::filled(12, 10, [0; 3]).unwrap();
        let message = ssim(&small, &small).unwrap_err().to_string();
        assert!(message.contains("at least 11x11"), "{message}");
    }
}
