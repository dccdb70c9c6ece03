//! Letters on pictures, from a bitmap font that is part of the program.

use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};

use crate::Picture;

/// Pixels from one line of text to the next.
pub(crate) const LINE_HEIGHT: usize = 18;
const SIZE: RasterHeight = RasterHeight::Size16;

/// How thick letters are.
#[derive(Clone, Copy)]
pub(crate) enum Weight {
    Regular,
    Bold,
}

impl Weight {
    fn of_font(self) -> FontWeight {
        match self {
            Self::Regular => FontWeight::Regular,
            Self::Bold => FontWeight::Bold,
        }
    }
}

/// Pixels that a line of text takes.
pub(crate) fn text_width(text: &str) -> usize {
    text.chars().count() * get_raster_width(FontWeight::Regular, SIZE)
}

/// The text, cut to `width` pixels with two dots at the end where it is longer.
pub(crate) fn fitting(text: &str, width: usize) -> String {
    let room = width / get_raster_width(FontWeight::Regular, SIZE);
    if text.chars().count() <= room {
        return text.to_string();
    }
    let kept = text.chars().take(room.saturating_sub(2));
    kept.chain("..".chars()).take(room).collect()
}

/// Draws a line of text with its upper left corner at `at`; letters that the font lacks become `?`.
pub(crate) fn draw_text(
    picture: &mut Picture,
    at: (isize, isize),
    text: &str,
    color: [u8; 3],
    weight: Weight,
) {
    let font = weight.of_font();
    let step = get_raster_width(font, SIZE) as isize;
    for (index, letter) in text.chars().enumerate() {
        let raster = get_raster(letter, font, SIZE).or_else(|| get_raster('?', font, SIZE));
        let Some(raster) = raster else { continue };
        let left = at.0 + index as isize * step;
        for (y, row) in raster.raster().iter().enumerate() {
            for (x, &ink) in row.iter().enumerate() {
                let share = f32::from(ink) / 255.0;
                picture.blend(left + x as isize, at.1 + y as isize, color, share);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_inside_of_its_width() {
        let mut picture = Picture::filled(100, LINE_HEIGHT, [255; 3]).unwrap();
        draw_text(&mut picture, (0, 0), "ab", [0; 3], Weight::Bold);
        let inked = |x: usize| (0..LINE_HEIGHT).any(|y| picture.pixel(x, y) != [255; 3]);
        assert!((0..text_width("ab")).any(inked));
        assert!(!(text_width("ab")..100).any(inked));
    }

    #[test]
    fn an_unknown_letter_is_a_question_mark() {
        let draw = |text| {
            let mut picture = Picture::filled(20, LINE_HEIGHT, [255; 3]).unwrap();
            draw_text(&mut picture, (0, 0), text, [0; 3], Weight::Regular);
            picture
        };
        assert_eq!(draw("사"), draw("?"));
        assert_ne!(draw("a"), draw("?"));
    }

    #[test]
    fn what_is_too_long_ends_in_dots() {
        assert_eq!(fitting("apple", text_width("apple")), "apple");
        assert_eq!(fitting("apples", text_width("apple")), "app..");
        assert_eq!(fitting("apple", 0), "");
    }
}
