//! Letters on pictures, Latin and Hangul, from bitmap fonts that are part of the program.

mod hangul;

use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};

use crate::Picture;

/// Pixels from one line of text to the next.
pub(crate) const LINE_HEIGHT: usize = 18;
const SIZE: RasterHeight = RasterHeight::Size16;
/// Pixels of a Latin letter; every weight has the same.
const LATIN_WIDTH: usize = get_raster_width(FontWeight::Regular, SIZE);

/// How thick Latin letters are; Hangul has one weight.
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

fn width(letter: char) -> usize {
    if hangul::has(letter) {
        hangul::WIDTH
    } else {
        LATIN_WIDTH
    }
}

/// Pixels that a line of text takes.
pub(crate) fn text_width(text: &str) -> usize {
    text.chars().map(width).sum()
}

/// The text, cut to `room` pixels with two dots at the end where it is longer.
pub(crate) fn fitting(text: &str, room: usize) -> String {
    if text_width(text) <= room {
        return text.to_string();
    }
    let dots = 2.min(room / LATIN_WIDTH);
    let mut left = room - dots * LATIN_WIDTH;
    let kept = text.chars().take_while(|&letter| {
        let fits = width(letter) <= left;
        left = left.saturating_sub(width(letter));
        fits
    });
    kept.chain(std::iter::repeat_n('.', dots)).collect()
}

/// The text in at most `lines` lines of `room` pixels, broken between words; the last is cut as by [`fitting`].
pub(crate) fn wrapped(text: &str, room: usize, lines: usize) -> Vec<String> {
    let mut done: Vec<String> = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        let longer = if line.is_empty() {
            word.to_string()
        } else {
            format!("{line} {word}")
        };
        let last = done.len() + 1 >= lines;
        if line.is_empty() || last || text_width(&longer) <= room {
            line = longer;
        } else {
            done.push(std::mem::replace(&mut line, word.to_string()));
        }
    }
    done.push(line);
    done.iter().map(|line| fitting(line, room)).collect()
}

/// Draws a line of text with its upper left corner at `at`; letters that the fonts lack become `?`.
pub(crate) fn draw_text(
    picture: &mut Picture,
    at: (isize, isize),
    text: &str,
    color: [u8; 3],
    weight: Weight,
) {
    let mut left = at.0;
    for letter in text.chars() {
        let ink = |picture: &mut Picture, y: usize, row: &[u8]| {
            for (x, &ink) in row.iter().enumerate() {
                let share = f32::from(ink) / 255.0;
                picture.blend(left + x as isize, at.1 + y as isize, color, share);
            }
        };
        if let Some(rows) = hangul::rows(letter) {
            for (y, row) in rows.enumerate() {
                ink(picture, y, row);
            }
        } else {
            let font = weight.of_font();
            let raster = get_raster(letter, font, SIZE).or_else(|| get_raster('?', font, SIZE));
            for (y, row) in raster.iter().flat_map(|r| r.raster().iter().enumerate()) {
                ink(picture, y, row);
            }
        }
        left += width(letter) as isize;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Columns of a strip in which `text` leaves ink.
    fn inked(text: &str, weight: Weight) -> Vec<usize> {
        let mut picture = Picture::filled(140, LINE_HEIGHT, [255; 3]).unwrap();
        draw_text(&mut picture, (0, 0), text, [0; 3], weight);
        let column = |x: &usize| (0..LINE_HEIGHT).any(|y| picture.pixel(*x, y) != [255; 3]);
        (0..140).filter(column).collect()
    }

    fn drawn(text: &str) -> Picture {
        let mut picture = Picture::filled(40, LINE_HEIGHT, [255; 3]).unwrap();
        draw_text(&mut picture, (0, 0), text, [0; 3], Weight::Regular);
        picture
    }

    #[test]
    fn text_stays_inside_of_its_width() {
        for text in ["ab", "사과", "3D 사과", "사a과b", "ㅋㅋ"] {
            for weight in [Weight::Regular, Weight::Bold] {
                let columns = inked(text, weight);
                assert!(!columns.is_empty(), "{text}");
                let last = columns.last().copied().unwrap_or(0);
                let width = text_width(text);
                assert!(last < width, "{text}: ink in column {last}, width {width}");
                assert!(last + 8 > width, "{text}: {width} is wider than its ink");
            }
        }
    }

    #[test]
    fn hangul_is_twice_as_wide_as_latin() {
        assert_eq!(text_width("사과"), text_width("appl"));
        assert_eq!(
            text_width("3D 사과"),
            text_width("3D ") + text_width("사과")
        );
    }

    #[test]
    fn an_unknown_letter_is_a_question_mark_and_hangul_is_not() {
        assert_eq!(drawn("漢"), drawn("?"));
        assert_ne!(drawn("a"), drawn("?"));
        assert_ne!(drawn("사"), drawn("?"));
        assert_ne!(drawn("사"), drawn("  "));
        assert_ne!(drawn("사"), drawn("과"));
    }

    #[test]
    fn what_is_too_long_ends_in_dots() {
        assert_eq!(fitting("apple", text_width("apple")), "apple");
        assert_eq!(fitting("apples", text_width("apple")), "app..");
        assert_eq!(fitting("apple", 0), "");
        assert_eq!(fitting("apple", LATIN_WIDTH), ".");
        assert_eq!(fitting("빨간 사과", text_width("빨간 사과")), "빨간 사과");
        assert_eq!(fitting("빨간 사과", text_width("빨간 사")), "빨간 ..");
        assert!(text_width(&fitting("빨간 사과", 50)) <= 50);
    }

    #[test]
    fn lines_break_between_words_and_the_last_is_cut() {
        let room = text_width("a red apple,");
        let lines = |text, most| wrapped(text, room, most);
        assert_eq!(
            lines("a red apple, 3d style", 2),
            ["a red apple,", "3d style"]
        );
        assert_eq!(lines("a red apple, 3d style", 1), ["a red appl.."]);
        assert_eq!(
            lines("빨간 사과, 3D 스타일", 2),
            ["빨간 사과,", "3D 스타일"]
        );
        assert_eq!(lines("", 2), [""]);
        assert_eq!(lines("one", 0), ["one"]);
    }
}
