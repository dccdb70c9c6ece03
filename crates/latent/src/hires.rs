//! The second pass of a picture that is drawn small first.

use latent_formats::Filter;
use latent_sampling::{Latents as Array, PictureGenerator};

use crate::Error;
use crate::modes::{Hires, Upscaler};
use crate::pipeline::Pipeline;
use crate::start::{padded, stacked};

/// The clean latents of the larger pictures `[n, c, h, w]` that the second pass begins with. Pixels are drawn from
/// the encoder by each picture's generator, as image to image draws them, or where there is none taken as their mean.
pub(crate) fn enlarged<'g>(
    pipeline: &Pipeline,
    hires: &Hires,
    small: &Array,
    [width, height]: [usize; 2],
    generators: impl Iterator<Item = Option<&'g mut PictureGenerator>>,
) -> Result<Array, Error> {
    let factor = pipeline.downsampling();
    let [wide, high] = hires.size([width, height]);
    match hires.upscaler {
        Upscaler::Latent => Ok(bilinear(
            small,
            [high.div_ceil(factor), wide.div_ceil(factor)],
        )),
        Upscaler::Lanczos => {
            let pictures = pipeline.decode_array(small)?;
            let each: Result<Vec<Array>, Error> = pictures
                .iter()
                .zip(generators)
                .map(|(picture, generator)| {
                    let picture = picture.crop(0, 0, width, height)?;
                    let picture = picture.resize(wide, high, Filter::Lanczos)?;
                    let picture = padded(&picture, factor)?;
                    let size = [picture.height(), picture.width()];
                    let moments = pipeline.moments(picture.to_f32_nchw(), size)?;
                    pipeline.latents_of(&moments, generator)
                })
                .collect();
            Ok(stacked(&each?))
        }
    }
}

/// Latents `[n, c, h, w]` in another size, by straight lines between the centres of the old ones.
///
/// Source: `torch.nn.functional.interpolate` with `mode="bilinear"`, which A1111's upscaler `Latent` is.
fn bilinear(latents: &Array, [height, width]: [usize; 2]) -> Array {
    let (n, c, h, w) = latents.dim();
    let (rows, columns) = (between(h, height), between(w, width));
    Array::from_shape_fn((n, c, height, width), |(n, c, y, x)| {
        let ([above, below], down) = rows[y];
        let ([left, right], across) = columns[x];
        let row = |y: usize| {
            let (near, far) = (latents[[n, c, y, left]], latents[[n, c, y, right]]);
            near * (1.0 - across) + far * across
        };
        row(above) * (1.0 - down) + row(below) * down
    })
}

/// For each of `to` places the two of `from` places around it, and the share of the second.
fn between(from: usize, to: usize) -> Vec<([usize; 2], f32)> {
    let scale = from as f64 / to as f64;
    let place = |index: usize| {
        let at = ((index as f64 + 0.5) * scale - 0.5).max(0.0);
        let first = (at as usize).min(from - 1);
        let second = (first + 1).min(from - 1);
        ([first, second], (at - first as f64) as f32)
    };
    (0..to).map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latents_grow_as_torch_interpolates() {
        let small = Array::from_shape_vec((1, 1, 2, 3), (0..6).map(|v| v as f32).collect());
        // torch 2.15.0.
        let expected = [
            [0.0, 0.4, 1.0, 1.6, 2.0],
            [1.5, 1.9, 2.5, 3.1, 3.5],
            [3.0, 3.4, 4.0, 4.6, 5.0],
        ];
        let large = bilinear(&small.unwrap(), [3, 5]);
        for (found, expected) in large.iter().zip(expected.concat()) {
            assert!((found - expected).abs() < 1e-5, "{found} is not {expected}");
        }
    }
}
