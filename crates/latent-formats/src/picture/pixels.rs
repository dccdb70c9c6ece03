//! The picture itself, and its way to the numbers models see.

use crate::FormatError;

/// The largest picture we touch, in pixels (8192 x 8192): a small file can claim a size that fills any memory.
pub(crate) const MAX_PIXELS: usize = 1 << 26;

/// A picture of eight bits sRGB, and the texts that belong to it.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
    text: Vec<(String, String)>,
}

impl std::fmt::Debug for Picture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Picture({}x{})", self.width, self.height)
    }
}

impl Picture {
    /// A picture of `rgb [height, width, 3]`.
    ///
    /// # Errors
    /// [`FormatError::PictureSize`] if a side is 0, there are more than 64 megapixels, or the count of bytes is
    /// another.
    pub fn new(width: usize, height: usize, rgb: Vec<u8>) -> Result<Self, FormatError> {
        let needed = pixel_count(width, height)? * 3;
        if rgb.len() != needed {
            let found = rgb.len();
            return Err(FormatError::PictureSize(format!(
                "a picture of {width}x{height} has {needed} bytes, {found} were given"
            )));
        }
        Ok(Self {
            width,
            height,
            rgb,
            text: Vec::new(),
        })
    }

    /// A picture of one colour.
    ///
    /// # Errors
    /// [`FormatError::PictureSize`] if a side is 0 or there are more than 64 megapixels.
    pub fn filled(width: usize, height: usize, color: [u8; 3]) -> Result<Self, FormatError> {
        let count = pixel_count(width, height)?;
        Self::new(width, height, color.repeat(count))
    }

    /// Pixels from left to right.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Pixels from top to bottom.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The pixels `[height, width, 3]`.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// The pixels `[height, width, 3]`, taken out.
    pub fn into_rgb(self) -> Vec<u8> {
        self.rgb
    }

    /// Key and text of what the file says besides its pixels, as `parameters`.
    pub fn text(&self) -> &[(String, String)] {
        &self.text
    }

    /// Sets the text of `key`, which PNG files carry with them.
    pub fn set_text(&mut self, key: impl Into<String>, text: impl Into<String>) {
        let (key, text) = (key.into(), text.into());
        match self.text.iter_mut().find(|(known, _)| *known == key) {
            Some(found) => found.1 = text,
            None => self.text.push((key, text)),
        }
    }

    /// One pixel.
    ///
    /// # Panics
    /// If it lies outside.
    pub fn pixel(&self, x: usize, y: usize) -> [u8; 3] {
        assert!(
            x < self.width,
            "pixel: {x} is outside of width {}",
            self.width
        );
        let at = (y * self.width + x) * 3;
        [self.rgb[at], self.rgb[at + 1], self.rgb[at + 2]]
    }

    /// Mixes `color` into a pixel with `share` 0 to 1; outside of the picture nothing happens.
    pub(crate) fn blend(&mut self, x: isize, y: isize, color: [u8; 3], share: f32) {
        let (Ok(x), Ok(y)) = (usize::try_from(x), usize::try_from(y)) else {
            return;
        };
        if x >= self.width || y >= self.height {
            return;
        }
        let at = (y * self.width + x) * 3;
        for (old, new) in self.rgb[at..at + 3].iter_mut().zip(color) {
            let mixed = f32::from(*old) * (1.0 - share) + f32::from(new) * share;
            *old = mixed.round() as u8;
        }
    }

    /// Lays `picture` over this one, its corner at `x`, `y`; what stands out is cut off.
    pub(crate) fn paste(&mut self, picture: &Picture, x: usize, y: usize) {
        let width = picture.width.min(self.width.saturating_sub(x)) * 3;
        for row in 0..picture.height.min(self.height.saturating_sub(y)) {
            let to = ((y + row) * self.width + x) * 3;
            let from = row * picture.width * 3;
            self.rgb[to..to + width].copy_from_slice(&picture.rgb[from..from + width]);
        }
    }

    /// The part of `width x height` whose upper left corner is at `x`, `y`.
    ///
    /// # Errors
    /// [`FormatError::PictureSize`] if it does not lie inside.
    pub fn crop(
        &self,
        x: usize,
        y: usize,
        width: usize,
        height: usize,
    ) -> Result<Self, FormatError> {
        let fits = |at: usize, len: usize, whole: usize| {
            at.checked_add(len).is_some_and(|end| end <= whole)
        };
        if !fits(x, width, self.width) || !fits(y, height, self.height) {
            return Err(FormatError::PictureSize(format!(
                "a part of {width}x{height} at {x},{y} does not lie inside of a picture of {}x{}",
                self.width, self.height
            )));
        }
        let rows = (y..y + height).map(|row| (row * self.width + x) * 3);
        let rgb = rows.flat_map(|at| &self.rgb[at..at + width * 3]).copied();
        Self::new(width, height, rgb.collect())
    }

    /// The middle of the picture; where the rest is odd, the left and upper side loses a pixel less.
    ///
    /// # Errors
    /// [`FormatError::PictureSize`] if the picture is smaller than that.
    pub fn center_crop(&self, width: usize, height: usize) -> Result<Self, FormatError> {
        let x = self.width.saturating_sub(width) / 2;
        let y = self.height.saturating_sub(height) / 2;
        self.crop(x, y, width, height)
    }

    /// The picture mirrored left to right.
    pub fn flip_horizontal(&self) -> Self {
        let rows = self.rgb.chunks_exact(self.width * 3);
        let pixels = rows.flat_map(|row| row.chunks_exact(3).rev().flatten());
        Self {
            rgb: pixels.copied().collect(),
            ..self.clone()
        }
    }

    /// The numbers a model sees, `[3, height, width]` in -1 to 1.
    pub fn to_f32_nchw(&self) -> Vec<f32> {
        (0..3)
            .flat_map(|channel| self.rgb.iter().skip(channel).step_by(3))
            .map(|&byte| to_signed(byte))
            .collect()
    }

    /// The numbers a model sees, `[height, width, 3]` in -1 to 1.
    pub fn to_f32_nhwc(&self) -> Vec<f32> {
        self.rgb.iter().map(|&byte| to_signed(byte)).collect()
    }

    /// The picture of `values [3, height, width]`; what lies outside of -1 to 1 is cut, not-a-number becomes black.
    ///
    /// # Errors
    /// [`FormatError::PictureSize`] if there are more or fewer values.
    pub fn from_f32_nchw(values: &[f32], width: usize, height: usize) -> Result<Self, FormatError> {
        let count = pixel_count(width, height)?;
        check_values(values, width, height, count)?;
        let (red, rest) = values.split_at(count);
        let (green, blue) = rest.split_at(count);
        let pixels = red.iter().zip(green).zip(blue);
        let rgb = pixels.flat_map(|((r, g), b)| [r, g, b].map(|&value| to_byte(value)));
        Self::new(width, height, rgb.collect())
    }

    /// The picture of `values [height, width, 3]`; what lies outside of -1 to 1 is cut, not-a-number becomes black.
    ///
    /// # Errors
    /// [`FormatError::PictureSize`] if there are more or fewer values.
    pub fn from_f32_nhwc(values: &[f32], width: usize, height: usize) -> Result<Self, FormatError> {
        check_values(values, width, height, pixel_count(width, height)?)?;
        Self::new(
            width,
            height,
            values.iter().map(|&value| to_byte(value)).collect(),
        )
    }
}

fn check_values(
    values: &[f32],
    width: usize,
    height: usize,
    count: usize,
) -> Result<(), FormatError> {
    if values.len() == 3 * count {
        return Ok(());
    }
    Err(FormatError::PictureSize(format!(
        "a picture of {width}x{height} has {} values, {} were given",
        3 * count,
        values.len()
    )))
}

/// Count of pixels of a size that is allowed.
pub(crate) fn pixel_count(width: usize, height: usize) -> Result<usize, FormatError> {
    match width.checked_mul(height) {
        Some(0) => Err(FormatError::PictureSize(format!(
            "a picture of {width}x{height} has no pixels"
        ))),
        Some(count) if count <= MAX_PIXELS => Ok(count),
        _ => Err(FormatError::PictureSize(format!(
            "a picture of {width}x{height} is too large; at most 64 megapixels (8192x8192) are allowed"
        ))),
    }
}

fn to_signed(byte: u8) -> f32 {
    f32::from(byte) / 255.0 * 2.0 - 1.0
}

/// Rounds, and halves to even, as diffusers does; A1111 and ComfyUI cut, which is half a level darker.
fn to_byte(value: f32) -> u8 {
    ((value / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(width: usize, height: usize) -> Picture {
        let rgb = (0..width * height * 3).map(|i| (i % 251) as u8).collect();
        Picture::new(width, height, rgb).unwrap()
    }

    #[test]
    fn every_byte_survives_the_way_to_numbers_and_back() {
        let picture =
            Picture::new(16, 16, (0..=255).flat_map(|v| [v, 255 - v, 7]).collect()).unwrap();
        let there = picture.to_f32_nhwc();
        assert_eq!(Picture::from_f32_nhwc(&there, 16, 16).unwrap(), picture);
        let there = picture.to_f32_nchw();
        assert_eq!(Picture::from_f32_nchw(&there, 16, 16).unwrap(), picture);
    }

    #[test]
    fn channels_come_apart_and_together() {
        let picture = Picture::new(2, 1, vec![0, 51, 255, 255, 204, 0]).unwrap();
        let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6);
        assert!(close(
            &picture.to_f32_nchw(),
            &[-1.0, 1.0, -0.6, 0.6, 1.0, -1.0]
        ));
        assert!(close(
            &picture.to_f32_nhwc(),
            &[-1.0, -0.6, 1.0, 1.0, 0.6, -1.0]
        ));
    }

    #[test]
    fn numbers_outside_are_cut_and_halves_go_to_even() {
        let values = [-7.0, 7.0, f32::NAN];
        assert_eq!(
            Picture::from_f32_nhwc(&values, 1, 1).unwrap().rgb(),
            [0, 255, 0]
        );
        // 0 is 127.5 of 255.
        assert_eq!(
            Picture::from_f32_nhwc(&[0.0; 3], 1, 1).unwrap().rgb(),
            [128; 3]
        );
    }

    #[test]
    fn a_crop_is_that_part() {
        let picture = numbered(7, 5);
        let part = picture.crop(2, 1, 3, 2).unwrap();
        assert_eq!(part.pixel(0, 0), picture.pixel(2, 1));
        assert_eq!(part.pixel(2, 1), picture.pixel(4, 2));
        assert_eq!(
            picture.center_crop(3, 3).unwrap(),
            picture.crop(2, 1, 3, 3).unwrap()
        );
    }

    #[test]
    fn a_crop_outside_is_refused() {
        for (x, width) in [(6, 2), (usize::MAX, 1), (0, 8)] {
            assert!(numbered(7, 5).crop(x, 0, width, 1).is_err());
        }
    }

    #[test]
    fn a_mirror_image_mirrored_is_the_picture() {
        let picture = numbered(5, 3);
        assert_eq!(picture.flip_horizontal().pixel(0, 2), picture.pixel(4, 2));
        assert_eq!(picture.flip_horizontal().flip_horizontal(), picture);
    }

    #[test]
    fn impossible_sizes_are_refused() {
        assert!(Picture::new(0, 5, vec![]).is_err());
        assert!(Picture::filled(1 << 20, 1 << 20, [0; 3]).is_err());
        assert!(Picture::filled(usize::MAX, 2, [0; 3]).is_err());
        assert!(Picture::new(2, 2, vec![0; 11]).is_err());
        assert!(Picture::from_f32_nchw(&[0.0; 11], 2, 2).is_err());
    }
}
