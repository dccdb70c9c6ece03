//! Many pictures on one.

use super::Picture;
use crate::FormatError;
use crate::text::{LINE_HEIGHT, Weight, draw_text, wrapped};

/// The look of a sheet: a grid of cells as large as the largest picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sheet {
    /// Pictures in a row; with fewer pictures the row is shorter.
    pub columns: usize,
    /// Pixels between the pictures and around them.
    pub gap: usize,
    /// The colour of the gaps.
    pub background: [u8; 3],
    /// Lines that a label may take, at least 1.
    pub lines: usize,
}

impl Default for Sheet {
    /// Eight in a row on white, labels of one line.
    fn default() -> Self {
        Self {
            columns: 8,
            gap: 4,
            background: [255; 3],
            lines: 1,
        }
    }
}

impl Sheet {
    /// Lays the pictures out row after row, each in the middle of its cell.
    ///
    /// # Errors
    /// [`FormatError::PictureSize`] if there is no picture or no column, or the sheet has more than 64 megapixels.
    pub fn draw(&self, pictures: &[Picture]) -> Result<Picture, FormatError> {
        let cells: Vec<_> = pictures.iter().map(|picture| ("", picture)).collect();
        self.draw_cells(&cells, 0)
    }

    /// The same with a label under each picture, in Latin letters or Hangul; others become `?`, what is too long is cut.
    ///
    /// # Errors
    /// As [`Sheet::draw`].
    pub fn draw_labelled(&self, cells: &[(&str, &Picture)]) -> Result<Picture, FormatError> {
        self.draw_cells(cells, self.lines.max(1) * LINE_HEIGHT)
    }

    fn draw_cells(&self, cells: &[(&str, &Picture)], label: usize) -> Result<Picture, FormatError> {
        let width = cells.iter().map(|(_, p)| p.width()).max();
        let height = cells.iter().map(|(_, p)| p.height()).max();
        let columns = self.columns.min(cells.len());
        let (Some(width), Some(height), 1..) = (width, height, columns) else {
            return Err(FormatError::PictureSize(
                "a sheet needs at least one picture and one column".to_string(),
            ));
        };
        let rows = cells.len().div_ceil(columns);
        let step = [width, height + label].map(|size| size.saturating_add(self.gap));
        let side = |count: usize, step: usize| count.saturating_mul(step).saturating_add(self.gap);
        let (sheet_width, sheet_height) = (side(columns, step[0]), side(rows, step[1]));
        let mut sheet = Picture::filled(sheet_width, sheet_height, self.background)?;
        for (index, (text, picture)) in cells.iter().enumerate() {
            let x = self.gap + index % columns * step[0];
            let y = self.gap + index / columns * step[1];
            let (left, top) = (
                (width - picture.width()) / 2,
                (height - picture.height()) / 2,
            );
            sheet.paste(picture, x + left, y + top);
            let lines = if label > 0 {
                wrapped(text, width, self.lines)
            } else {
                Vec::new()
            };
            for (line, text) in lines.iter().enumerate() {
                let at = (x as isize, (y + height + line * LINE_HEIGHT) as isize);
                draw_text(&mut sheet, at, text, self.ink(), Weight::Regular);
            }
        }
        Ok(sheet)
    }

    /// Letters are dark on a light background and the other way round.
    fn ink(&self) -> [u8; 3] {
        let sum: u32 = self.background.iter().map(|&value| u32::from(value)).sum();
        if sum > 380 { [40; 3] } else { [220; 3] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn colors() -> Vec<Picture> {
        [10, 20, 30]
            .map(|v| Picture::filled(6, 4, [v; 3]).unwrap())
            .to_vec()
    }

    #[test]
    fn pictures_stand_row_after_row_with_gaps() {
        let sheet = Sheet {
            columns: 2,
            gap: 1,
            ..Sheet::default()
        };
        let drawn = sheet.draw(&colors()).unwrap();
        assert_eq!((drawn.width(), drawn.height()), (1 + 2 * 7, 1 + 2 * 5));
        assert_eq!(drawn.pixel(1, 1), [10; 3]);
        assert_eq!(drawn.pixel(8, 1), [20; 3]);
        assert_eq!(drawn.pixel(1, 6), [30; 3]);
        assert_eq!(drawn.pixel(7, 1), [255; 3]);
        assert_eq!(drawn.pixel(8, 6), [255; 3]);
    }

    #[test]
    fn a_smaller_picture_stands_in_the_middle() {
        let (large, small) = (
            Picture::filled(6, 6, [0; 3]).unwrap(),
            Picture::filled(2, 2, [9; 3]).unwrap(),
        );
        let drawn = Sheet {
            columns: 2,
            gap: 0,
            ..Sheet::default()
        }
        .draw(&[large, small])
        .unwrap();
        assert_eq!(drawn.pixel(6 + 2, 2), [9; 3]);
        assert_eq!(drawn.pixel(6 + 1, 2), [255; 3]);
    }

    #[test]
    fn labels_leave_ink_under_the_pictures_only() {
        let picture = Picture::filled(40, 8, [255; 3]).unwrap();
        let drawn = Sheet::default()
            .draw_labelled(&[("apple", &picture), ("", &picture)])
            .unwrap();
        let dark = |x: std::ops::Range<usize>| {
            let inside = drawn.rgb().chunks(3).enumerate();
            inside
                .filter(|(i, p)| x.contains(&(i % drawn.width())) && p[0] < 128)
                .count()
        };
        assert!(dark(0..46) > 20);
        assert_eq!(dark(46..drawn.width()), 0);
    }

    #[test]
    fn labels_in_hangul_differ_and_take_as_many_lines_as_they_may() {
        let picture = Picture::filled(70, 8, [255; 3]).unwrap();
        let draw = |text, lines| {
            let sheet = Sheet {
                lines,
                ..Sheet::default()
            };
            sheet.draw_labelled(&[(text, &picture)]).unwrap()
        };
        assert_ne!(draw("사과", 1), draw("배", 1));
        assert_ne!(draw("사과", 1), draw("??", 1));
        let (one, two) = (draw("빨간 사과 그림", 1), draw("빨간 사과 그림", 2));
        assert_eq!(two.height(), one.height() + LINE_HEIGHT);
        let below = one.height() - 4..two.height();
        let inked = |y| (0..two.width()).any(|x| two.pixel(x, y)[0] < 128);
        assert!(below.into_iter().any(inked), "the second line is empty");
    }

    #[test]
    fn no_picture_or_no_column_is_an_error() {
        assert!(Sheet::default().draw(&[]).is_err());
        assert!(
            Sheet {
                columns: 0,
                ..Sheet::default()
            }
            .draw(&colors())
            .is_err()
        );
        assert!(
            Sheet {
                gap: usize::MAX,
                ..Sheet::default()
            }
            .draw(&colors())
            .is_err()
        );
    }
}
