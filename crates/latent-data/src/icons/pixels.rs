//! Arithmetic on pixels: 8 bit, straight alpha, rows from the top.

use super::singles::hue_distance;

/// A square drawing of `side * side * 4` bytes: red, green, blue, alpha, not multiplied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sprite {
    pub(super) side: usize,
    pub(super) rgba: Vec<u8>,
}

/// Rounds halves up, as the reference does.
fn round(value: f64) -> f64 {
    (value + 0.5).floor()
}

/// The whole pixels that `[start, end)` touches, with the part of each that lies inside.
fn coverage(start: f64, end: f64) -> impl Iterator<Item = (usize, f64)> {
    // Sums of fractions may pass a border by a rounding error.
    let touched = (start.floor() as usize..).take_while(move |x| (*x as f64) < end - 1e-9);
    touched.map(move |x| (x, end.min(x as f64 + 1.0) - start.max(x as f64)))
}

/// The area average of `width x height` pixels of RGBA as a square, taken of colours multiplied by their alpha.
pub(super) fn area_average(rgba: &[u8], [width, height]: [usize; 2], side: usize) -> Sprite {
    if width == side && height == side {
        let rgba = rgba.to_vec();
        return Sprite { side, rgba };
    }
    let (step_x, step_y) = (width as f64 / side as f64, height as f64 / side as f64);
    let mut rows = vec![[0.0f64; 4]; side * height];
    for (pixels, sums) in rgba
        .chunks_exact(width * 4)
        .zip(rows.chunks_exact_mut(side))
    {
        for (x, sum) in sums.iter_mut().enumerate() {
            let start = x as f64 * step_x;
            for (from, part) in coverage(start, start + step_x) {
                let pixel = &pixels[from * 4..from * 4 + 4];
                let alpha = f64::from(pixel[3]) * part;
                for channel in 0..3 {
                    sum[channel] += f64::from(pixel[channel]) * alpha;
                }
                sum[3] += alpha;
            }
        }
    }
    let mut out = vec![0; side * side * 4];
    for (y, row) in out.chunks_exact_mut(side * 4).enumerate() {
        let start = y as f64 * step_y;
        let parts: Vec<(usize, f64)> = coverage(start, start + step_y).collect();
        for (x, pixel) in row.chunks_exact_mut(4).enumerate() {
            let mut sum = [0.0; 4];
            for (from, part) in &parts {
                for (total, value) in sum.iter_mut().zip(rows[from * side + x]) {
                    *total += value * part;
                }
            }
            if sum[3] > 0.0 {
                for channel in 0..3 {
                    pixel[channel] = round(sum[channel] / sum[3]) as u8;
                }
            }
            pixel[3] = round(sum[3] / (step_x * step_y)) as u8;
        }
    }
    Sprite { side, rgba: out }
}

impl Sprite {
    /// The drawing at another size.
    pub(super) fn resized(&self, side: usize) -> Self {
        area_average(&self.rgba, [self.side; 2], side)
    }

    /// Turns the hue `source` to `target`, in degrees: what lies within 45 degrees of it and is no gray.
    pub(super) fn recolored(&self, source: f64, target: f64) -> Self {
        let mut turned = self.clone();
        for pixel in turned
            .rgba
            .chunks_exact_mut(4)
            .filter(|pixel| pixel[3] != 0)
        {
            let [hue, saturation, value] = hsv([pixel[0], pixel[1], pixel[2]]);
            if saturation < 0.12 || hue_distance(hue, source) > 45.0 {
                continue;
            }
            let hue = (hue + target - source + 720.0) % 360.0;
            pixel[..3].copy_from_slice(&rgb(hue, saturation, value));
        }
        turned
    }

    /// The drawing in cells of `cell` pixels: opaque or empty, six levels a channel. `side` is a multiple of `cell`.
    pub(super) fn pixelized(&self, cell: usize) -> Self {
        let cells = self.side / cell;
        let small = self.resized(cells);
        let mut rgba = vec![0; self.side * self.side * 4];
        for (place, pixel) in rgba.chunks_exact_mut(4).enumerate() {
            let (x, y) = (place % self.side / cell, place / self.side / cell);
            let from = &small.rgba[(y * cells + x) * 4..][..4];
            if from[3] < 128 {
                continue;
            }
            for channel in 0..3 {
                pixel[channel] = (f64::from(from[channel]) / 51.0).round() as u8 * 51;
            }
            pixel[3] = 255;
        }
        Self {
            side: self.side,
            rgba,
        }
    }

    /// Lays the drawing over `canvas [256, 256, 3]` with its corner at `(x, y)`; what stands out is cut.
    pub(super) fn draw_on(&self, canvas: &mut Canvas, x: usize, y: usize) {
        let columns = self.side.min(CANVAS.saturating_sub(x));
        let rows = self.side.min(CANVAS.saturating_sub(y));
        for row in 0..rows {
            let from = &self.rgba[row * self.side * 4..][..columns * 4];
            let to = &mut canvas.0[((row + y) * CANVAS + x) * 3..][..columns * 3];
            for (pixel, below) in from.chunks_exact(4).zip(to.chunks_exact_mut(3)) {
                let alpha = u32::from(pixel[3]);
                for channel in 0..3 {
                    let (over, under) = (u32::from(pixel[channel]), u32::from(below[channel]));
                    // 255 is odd: no half is ever rounded.
                    let sum = over * alpha + under * (255 - alpha);
                    below[channel] = ((sum + 127) / 255) as u8;
                }
            }
        }
    }
}

/// Hue in degrees, saturation and value from 0 to 1.
pub(super) fn hsv(rgb: [u8; 3]) -> [f64; 3] {
    let [r, g, b] = rgb.map(|channel| f64::from(channel) / 255.0);
    let value = r.max(g).max(b);
    let range = value - r.min(g).min(b);
    if range == 0.0 {
        return [0.0, 0.0, value];
    }
    let sixth = if value == r {
        (g - b) / range % 6.0
    } else if value == g {
        (b - r) / range + 2.0
    } else {
        (r - g) / range + 4.0
    };
    let hue = sixth * 60.0;
    [
        if hue < 0.0 { hue + 360.0 } else { hue },
        range / value,
        value,
    ]
}

/// The inverse of [`hsv`].
fn rgb(hue: f64, saturation: f64, value: f64) -> [u8; 3] {
    let chroma = value * saturation;
    let second = chroma * (1.0 - ((hue / 60.0) % 2.0 - 1.0).abs());
    let channels = match hue {
        h if h < 60.0 => [chroma, second, 0.0],
        h if h < 120.0 => [second, chroma, 0.0],
        h if h < 180.0 => [0.0, chroma, second],
        h if h < 240.0 => [0.0, second, chroma],
        h if h < 300.0 => [second, 0.0, chroma],
        _ => [chroma, 0.0, second],
    };
    let least = value - chroma;
    channels.map(|channel| round((channel + least) * 255.0) as u8)
}

/// Side of the picture that is composed, in pixels.
pub(super) const CANVAS: usize = 256;

/// A picture of `[256, 256, 3]` bytes.
#[derive(Clone, Debug)]
pub(super) struct Canvas(pub(super) Vec<u8>);

impl Canvas {
    pub(super) fn filled(rgb: [u8; 3]) -> Self {
        Self(rgb.repeat(CANVAS * CANVAS))
    }

    /// The picture at `side`, halved as often as needed.
    pub(super) fn at_side(self, side: usize) -> Vec<u8> {
        let (mut pixels, mut now) = (self.0, CANVAS);
        while now > side {
            pixels = halved(&pixels, now);
            now /= 2;
        }
        pixels
    }

    /// Mean colours of `cells * cells` equal squares.
    pub(super) fn grid(&self, cells: usize) -> Vec<[f64; 3]> {
        let side = CANVAS / cells;
        let mut sums = vec![[0.0; 3]; cells * cells];
        for (place, pixel) in self.0.chunks_exact(3).enumerate() {
            let (x, y) = (place % CANVAS / side, place / CANVAS / side);
            for (sum, value) in sums[y * cells + x].iter_mut().zip(pixel) {
                *sum += f64::from(*value) / (side * side) as f64;
            }
        }
        sums
    }
}

/// Means of 2x2 pixels, halves rounded up.
fn halved(rgb: &[u8], side: usize) -> Vec<u8> {
    let half = side / 2;
    let mut out = Vec::with_capacity(half * half * 3);
    for y in 0..half {
        for x in 0..half {
            for channel in 0..3 {
                let at = |dy, dx| u16::from(rgb[((2 * y + dy) * side + 2 * x + dx) * 3 + channel]);
                out.push(((at(0, 0) + at(0, 1) + at(1, 0) + at(1, 1) + 2) >> 2) as u8);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_average_weighs_colours_by_their_alpha() {
        // Opaque red beside transparent green: red, half there.
        let two_by_two = [255, 0, 0, 255, 0, 255, 0, 0].repeat(2);
        let one = area_average(&two_by_two, [2, 2], 1);
        assert_eq!(one.rgba, [255, 0, 0, 128]);
    }

    #[test]
    fn an_average_splits_pixels_that_lie_on_a_border() {
        // Three pixels to two: the middle one counts half on each side.
        let gray = |value| [value, value, value, 255];
        let row: Vec<u8> = [gray(0), gray(90), gray(240)].concat().repeat(3);
        let two = area_average(&row, [3, 3], 2);
        assert_eq!((two.rgba[0], two.rgba[4]), (30, 190));
    }

    #[test]
    fn every_colour_survives_the_way_to_hue_and_back() {
        for word in (0..1 << 24).step_by(4_099) {
            let [_, r, g, b] = u32::to_be_bytes(word);
            let [hue, saturation, value] = hsv([r, g, b]);
            assert_eq!(rgb(hue, saturation, value), [r, g, b]);
        }
    }

    #[test]
    fn only_the_dominant_hue_turns() {
        let rgba = [
            255, 0, 0, 255, 0, 0, 255, 255, 128, 128, 128, 255, 255, 0, 0, 0,
        ]
        .to_vec();
        let turned = Sprite { side: 2, rgba }.recolored(0.0, 120.0);
        assert_eq!(
            turned.rgba,
            [
                0, 255, 0, 255, 0, 0, 255, 255, 128, 128, 128, 255, 255, 0, 0, 0
            ]
        );
    }

    #[test]
    fn pixel_art_is_opaque_or_empty_in_six_levels() {
        let rgba = [10, 100, 200, 127, 30, 100, 200, 255].repeat(2).to_vec();
        let art = Sprite { side: 2, rgba }.pixelized(1);
        assert_eq!(art.rgba[..8], [0, 0, 0, 0, 51, 102, 204, 255]);
    }

    #[test]
    fn a_drawing_that_stands_out_is_cut() {
        let sprite = Sprite {
            side: 4,
            rgba: [0, 0, 0, 255].repeat(16),
        };
        let mut canvas = Canvas::filled([255; 3]);
        sprite.draw_on(&mut canvas, 254, 255);
        let black = canvas.0.iter().filter(|value| **value == 0).count();
        assert_eq!(black, 2 * 3);
    }

    /// The first digits of a sha256.
    fn sum(bytes: &[u8]) -> String {
        use sha2::{Digest, Sha256};
        let digest = Sha256::digest(bytes);
        digest[..8]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// Every colour and alpha in a pattern without structure.
    fn pattern(side: usize) -> Sprite {
        let value = |i: usize| {
            let (x, y, channel) = (i / 4 % side, i / 4 / side, i % 4);
            match channel {
                3 if (x * 3 + y * 5).is_multiple_of(7) => 0,
                3 => x * x + y * 11,
                c => x * (c + 3) + y * y * (c + 1) + c * 40,
            }
        };
        let rgba = (0..side * side * 4)
            .map(|i| (value(i) % 256) as u8)
            .collect();
        Sprite { side, rgba }
    }

    #[test]
    fn every_step_gives_the_reference_builder_s_bytes() {
        let sprite = pattern(224);
        assert_eq!(sum(&sprite.rgba), "fcd49b4a1e7ca3c1");
        assert_eq!(sum(&sprite.resized(116).rgba), "ad3a2171f54175d2");
        assert_eq!(sum(&pattern(256).resized(224).rgba), "b5fa3279960acf02");
        assert_eq!(sum(&sprite.recolored(28.0, 218.0).rgba), "5e469789b64d441c");
        assert_eq!(
            sum(&sprite.recolored(350.0, 125.0).rgba),
            "3884b176086047b5"
        );
        assert_eq!(sum(&sprite.pixelized(8).rgba), "4f01dc6eb7d6bcdf");
        assert_eq!(sum(&pattern(116).pixelized(4).rgba), "3672b0193fd33441");
        let rgb = pattern(256).rgba;
        let rgb = rgb.chunks_exact(4).flat_map(|pixel| pixel[..3].to_vec());
        let canvas = Canvas(rgb.collect());
        assert_eq!(sum(&canvas.clone().at_side(128)), "a6dd814c7c42a0b4");
        assert_eq!(sum(&canvas.at_side(64)), "b276a14085c8dbfd");
    }

    #[test]
    fn halves_are_rounded_up() {
        let rgb: Vec<u8> = [[0; 3], [1; 3], [0; 3], [1; 3]].concat();
        assert_eq!(halved(&rgb, 2), [1; 3]);
    }
}
