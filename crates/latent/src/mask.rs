//! What is painted again and what stays: masks, and the larger canvas of outpainting.

use latent_formats::Picture;
use latent_sampling::Latents as Array;

use crate::Error;

/// Grey from which a mask counts as white.
///
/// Source: diffusers' `VaeImageProcessor.binarize`, 0.5 of 255.
const WHITE: u32 = 128;

/// The part of a picture that is painted again.
#[derive(Clone, Debug)]
pub(crate) struct Mask {
    width: usize,
    height: usize,
    /// Share that the new picture has of each pixel, `[height, width]` in 0 to 1; above 0 the network paints.
    share: Vec<f32>,
}

impl Mask {
    /// A mask of white pixels `[height, width]`, widened by `grow` pixels and then fading out over `blur` more.
    ///
    /// # Errors
    /// [`Error::Request`] if nothing is white.
    pub(crate) fn new(
        white: &[bool],
        width: usize,
        grow: usize,
        blur: usize,
    ) -> Result<Self, Error> {
        if !white.contains(&true) {
            return Err(Error::Request(
                "the mask is black everywhere, so nothing would be painted; white marks what to paint again"
                    .into(),
            ));
        }
        let height = white.len() / width.max(1);
        let fade = |distance: usize| {
            let left = (grow + blur + 1).saturating_sub(distance);
            (left as f32 / (blur + 1) as f32).min(1.0)
        };
        let share = distances(white, width).into_iter().map(fade).collect();
        Ok(Self {
            width,
            height,
            share,
        })
    }

    /// The mask of latents, `[1, 1, h, w]` with 1 where they are painted: of each `factor` x `factor` pixels the first
    /// decides, as in diffusers. Also whether that lost more than half of what the mask touches.
    ///
    /// # Errors
    /// [`Error::Request`] if nothing is left.
    pub(crate) fn latents(&self, factor: usize) -> Result<(Array, bool), Error> {
        let (h, w) = (self.height.div_ceil(factor), self.width.div_ceil(factor));
        let painted = |y: usize, x: usize| self.share[y * self.width + x] > 0.0;
        let mask = Array::from_shape_fn((1, 1, h, w), |(_, _, y, x)| {
            f32::from(u8::from(painted(y * factor, x * factor)))
        });
        let touched = |y: usize, x: usize| {
            let rows = y * factor..((y + 1) * factor).min(self.height);
            rows.into_iter().any(|y| {
                let columns = x * factor..((x + 1) * factor).min(self.width);
                columns.into_iter().any(|x| painted(y, x))
            })
        };
        let places = (0..h).flat_map(|y| (0..w).map(move |x| (y, x)));
        let touched = places.filter(|&(y, x)| touched(y, x)).count();
        let left = mask.sum() as usize;
        if left == 0 {
            return Err(Error::Request(format!(
                "the mask is so thin that nothing of it is left in latents of {factor}x{factor} pixels; widen it with \
                 `--mask-grow {factor}`"
            )));
        }
        Ok((mask, 2 * left < touched))
    }

    /// `values [3, h, w]` of the picture, `h` and `w` as large as the mask or padded beyond, with grey where it is
    /// painted: what an inpainting network sees of the picture.
    pub(crate) fn blank(&self, values: &mut [f32], w: usize) {
        let h = values.len() / (3 * w.max(1));
        for (index, value) in values.iter_mut().enumerate() {
            let (y, x) = (
                (index / w % h).min(self.height - 1),
                (index % w).min(self.width - 1),
            );
            if self.share[y * self.width + x] > 0.0 {
                *value = 0.0;
            }
        }
    }

    /// `painted` where the mask says so, and `original` where it does not; both of the mask's size.
    ///
    /// # Errors
    /// [`Error::Format`] if the pictures have other sizes.
    pub(crate) fn over(&self, painted: &Picture, original: &Picture) -> Result<Picture, Error> {
        let pixels = painted.rgb().iter().zip(original.rgb()).enumerate();
        let mixed = pixels.map(|(index, (&new, &old))| {
            let share = self.share[index / 3];
            (f32::from(new) * share + f32::from(old) * (1.0 - share)).round() as u8
        });
        Ok(Picture::new(self.width, self.height, mixed.collect())?)
    }
}

/// The white pixels of a mask picture, `[height, width]`.
///
/// Source: the luma of ITU-R BT.601 in whole numbers, as PIL's `convert("L")` has it.
pub(crate) fn white(picture: &Picture) -> Vec<bool> {
    let luma = |rgb: &[u8]| {
        let [r, g, b] = [rgb[0], rgb[1], rgb[2]].map(u32::from);
        (19_595 * r + 38_470 * g + 7_471 * b + 0x8000) >> 16
    };
    picture
        .rgb()
        .chunks_exact(3)
        .map(|rgb| luma(rgb) >= WHITE)
        .collect()
}

/// The picture with `[left, top, right, bottom]` more pixels, which repeat its edge.
///
/// # Errors
/// [`Error::Format`] if that is larger than a picture may be.
pub(crate) fn extended(picture: &Picture, sides: [usize; 4]) -> Result<Picture, Error> {
    let [left, top, right, bottom] = sides;
    let (width, height) = (
        picture.width().saturating_add(left).saturating_add(right),
        picture.height().saturating_add(top).saturating_add(bottom),
    );
    // Refuses an impossible size before anything is made of it.
    let mut canvas = Picture::filled(width, height, [0; 3])?.into_rgb();
    let inside = |at: usize, before: usize, len: usize| at.saturating_sub(before).min(len - 1);
    for (index, pixel) in canvas.chunks_exact_mut(3).enumerate() {
        let x = inside(index % width, left, picture.width());
        let y = inside(index / width, top, picture.height());
        pixel.copy_from_slice(&picture.pixel(x, y));
    }
    Ok(Picture::new(width, height, canvas)?)
}

/// `white [height, width]` on a canvas with `[left, top, right, bottom]` more pixels, all of which are white.
pub(crate) fn surrounded(white: &[bool], width: usize, sides: [usize; 4]) -> Vec<bool> {
    let [left, top, right, bottom] = sides;
    let wide = left + width + right;
    let mut all = vec![true; wide * top];
    for row in white.chunks_exact(width) {
        all.extend(std::iter::repeat_n(true, left));
        all.extend(row);
        all.extend(std::iter::repeat_n(true, right));
    }
    all.extend(std::iter::repeat_n(true, wide * bottom));
    all
}

/// Steps of a chess king from each pixel to the nearest white one.
///
/// Source: Rosenfeld & Pfaltz 1968, "Distance functions on digital pictures", two passes.
fn distances(white: &[bool], width: usize) -> Vec<usize> {
    let height = white.len() / width;
    let far = width + height;
    let mut distance: Vec<usize> = white.iter().map(|&w| if w { 0 } else { far }).collect();
    let mut nearer = |at: usize, from: Option<usize>| {
        if let Some(from) = from {
            distance[at] = distance[at].min(distance[from] + 1);
        }
    };
    for at in 0..white.len() {
        let (x, up) = (at % width, at.checked_sub(width));
        nearer(at, (x > 0).then(|| at - 1));
        nearer(at, up);
        nearer(at, up.filter(|_| x > 0).map(|up| up - 1));
        nearer(at, up.filter(|_| x + 1 < width).map(|up| up + 1));
    }
    for at in (0..white.len()).rev() {
        let (x, down) = (at % width, Some(at + width).filter(|&d| d < white.len()));
        nearer(at, (x + 1 < width).then(|| at + 1));
        nearer(at, down);
        nearer(at, down.filter(|_| x > 0).map(|down| down - 1));
        nearer(at, down.filter(|_| x + 1 < width).map(|down| down + 1));
    }
    distance
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One white pixel at `x`, `y` of a square.
    fn dot(side: usize, x: usize, y: usize) -> Vec<bool> {
        (0..side * side).map(|at| at == y * side + x).collect()
    }

    #[test]
    fn distances_are_those_of_every_pair_of_pixels() {
        let (width, height) = (7, 5);
        let white: Vec<bool> = (0..35).map(|at| at == 3 || at == 22).collect();
        for (at, found) in distances(&white, width).into_iter().enumerate() {
            let places = (0..width * height).filter(|&to| white[to]);
            let king = |to: usize| {
                let across = (at % width).abs_diff(to % width);
                across.max((at / width).abs_diff(to / width))
            };
            assert_eq!(Some(found), places.map(king).min(), "{at}");
        }
    }

    #[test]
    fn a_mask_grows_and_then_fades() {
        let mask = Mask::new(&dot(9, 4, 4), 9, 1, 1).unwrap();
        let row: Vec<f32> = mask.share[36..45].to_vec();
        assert_eq!(row, [0.0, 0.0, 0.5, 1.0, 1.0, 1.0, 0.5, 0.0, 0.0]);
    }

    #[test]
    fn a_black_mask_and_one_that_latents_lose_are_refused_with_what_to_do() {
        let black = Mask::new(&[false; 64], 8, 0, 0).unwrap_err().to_string();
        assert!(black.contains("white marks"), "{black}");
        let thin = Mask::new(&dot(16, 5, 5), 16, 0, 0).unwrap();
        let error = thin.latents(8).unwrap_err().to_string();
        assert!(error.contains("`--mask-grow 8`"), "{error}");
        let (grown, lost) = Mask::new(&dot(16, 5, 5), 16, 8, 0)
            .unwrap()
            .latents(8)
            .unwrap();
        assert_eq!((grown.sum(), lost), (4.0, false));
    }

    #[test]
    fn a_mask_of_which_latents_lose_most_is_noticed() {
        // A row of white pixels over four latents, of which one begins with a white pixel.
        let mut white = vec![false; 32 * 8];
        white[..1].fill(true);
        white[32 + 1..64].fill(true);
        let (mask, lost) = Mask::new(&white, 32, 0, 0).unwrap().latents(8).unwrap();
        assert_eq!((mask.sum(), lost), (1.0, true));
    }

    #[test]
    fn a_canvas_repeats_the_edge_and_its_mask_surrounds_the_picture() {
        let picture = Picture::new(2, 1, vec![1, 1, 1, 9, 9, 9]).unwrap();
        let canvas = extended(&picture, [1, 1, 2, 0]).unwrap();
        let reds: Vec<u8> = canvas.rgb().iter().step_by(3).copied().collect();
        assert_eq!(reds, [1, 1, 9, 9, 9, 1, 1, 9, 9, 9]);
        let white = surrounded(&[false, true], 2, [1, 1, 2, 0]);
        let row = [true, false, true, true, true];
        assert_eq!(white, [[true; 5], row].concat());
        assert!(extended(&picture, [usize::MAX, 0, 0, 0]).is_err());
    }

    #[test]
    fn what_stays_keeps_its_bytes() {
        let (old, new) = (
            Picture::filled(3, 1, [10, 20, 30]).unwrap(),
            Picture::filled(3, 1, [200; 3]).unwrap(),
        );
        let mask = Mask::new(&[false, false, true], 3, 0, 1).unwrap();
        let mixed = mask.over(&new, &old).unwrap();
        assert_eq!(mixed.rgb(), [10, 20, 30, 105, 110, 115, 200, 200, 200]);
    }

    #[test]
    fn grey_is_white_from_the_middle_on() {
        let picture = Picture::new(3, 1, vec![127, 127, 127, 128, 128, 128, 255, 0, 0]).unwrap();
        assert_eq!(white(&picture), [false, true, false]);
    }
}
