//! Hangul letters: a sheet of bitmaps drawn from Noto Sans KR by `tools/make_hangul.py`.
//!
//! © Adobe, SIL Open Font License 1.1 (`assets/OFL.txt`).

use std::sync::OnceLock;

use image::ImageFormat;

/// Letters in a row of the sheet.
const COLUMNS: usize = 112;
/// Pixels of a letter: twice the width of a Latin one.
pub(super) const WIDTH: usize = 14;
const HEIGHT: usize = 16;
const SHEET: &[u8] = include_bytes!("../../assets/hangul.png");

/// Whether the letter is on the sheet.
pub(super) fn has(letter: char) -> bool {
    place(letter).is_some()
}

/// The letter's place on the sheet: syllables first, then the letters they are made of.
fn place(letter: char) -> Option<usize> {
    const SYLLABLES: usize = 11_172;
    let code = letter as usize;
    match letter {
        '\u{ac00}'..='\u{d7a3}' => Some(code - 0xac00),
        '\u{3131}'..='\u{3163}' => Some(SYLLABLES + code - 0x3131),
        _ => None,
    }
}

/// The rows of a letter, [`WIDTH`] values each, 0 for paper and 255 for ink; `None` for other letters.
pub(super) fn rows(letter: char) -> Option<impl Iterator<Item = &'static [u8]>> {
    let place = place(letter)?;
    let (left, top) = (place % COLUMNS * WIDTH, place / COLUMNS * HEIGHT);
    let line = COLUMNS * WIDTH;
    let first = top * line + left;
    let ink = ink().get(first..first + (HEIGHT - 1) * line + WIDTH)?;
    Some(ink.chunks(line).map(|row| &row[..WIDTH]))
}

/// The sheet's pixels, decoded at first use.
fn ink() -> &'static [u8] {
    static INK: OnceLock<Vec<u8>> = OnceLock::new();
    INK.get_or_init(|| {
        image::load_from_memory_with_format(SHEET, ImageFormat::Png)
            .map(|sheet| sheet.into_luma8().into_raw())
            .unwrap_or_default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sum of a letter's ink in each of its halves: left, right, upper, lower.
    fn halves(letter: char) -> [u32; 4] {
        let mut sums = [0; 4];
        for (y, row) in rows(letter).unwrap().enumerate() {
            for (x, &ink) in row.iter().enumerate() {
                sums[usize::from(x >= WIDTH / 2)] += u32::from(ink);
                sums[2 + usize::from(y >= HEIGHT / 2)] += u32::from(ink);
            }
        }
        sums
    }

    #[test]
    fn every_letter_has_rows_of_ink_and_no_two_are_alike() {
        let letters = ('가'..='힣').chain('ㄱ'..='ㅣ');
        let mut seen: Vec<Vec<u8>> = letters
            .map(|letter| {
                let rows: Vec<&[u8]> = rows(letter).unwrap().collect();
                assert_eq!(rows.len(), HEIGHT, "{letter}");
                rows.concat()
            })
            .collect();
        assert!(seen.iter().all(|pixels| pixels.contains(&255)));
        let all = seen.len();
        seen.sort_unstable();
        seen.dedup();
        // Syllables such as 뛟 and 뛠 may fall together at this size; ordinary ones do not.
        assert!(
            seen.len() as f64 > 0.99 * all as f64,
            "{} of {all}",
            seen.len()
        );
    }

    #[test]
    fn strokes_lie_where_the_letters_have_them() {
        let ([left, right, ..], [.., upper, lower]) = (halves('ㅏ'), halves('ㅜ'));
        assert!(
            right > left && upper > lower,
            "ㅏ's stroke on the right, ㅜ's bar on top"
        );
        let ([left, right, ..], [.., upper, lower]) = (halves('ㅓ'), halves('ㅗ'));
        assert!(
            right > left && lower > upper,
            "stems: ㅓ on the right, ㅗ below"
        );
    }

    #[test]
    fn letters_of_other_scripts_are_not_here() {
        for letter in ['a', '漢', 'あ', '\u{1100}', '\u{abff}', '\u{d7a4}'] {
            assert!(!has(letter) && rows(letter).is_none(), "{letter}");
        }
    }
}
