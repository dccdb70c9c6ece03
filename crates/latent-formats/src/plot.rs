//! Line plots: how a loss falls, on one glance.

mod ticks;

use std::path::Path;

use crate::picture::Picture;
use crate::text::{LINE_HEIGHT, Weight, draw_text, text_width};
use crate::{FormatError, write_bytes};
use ticks::{Axis, Tick};

/// How values are laid on an axis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scale {
    /// Equal distances for equal differences.
    #[default]
    Linear,
    /// Equal distances for equal ratios; values that are not above 0 are left out.
    Log,
}

/// One line of a plot.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// What the legend calls it.
    pub name: String,
    /// x and y in the order in which they are joined; the line has a gap where one is not finite.
    pub points: Vec<(f64, f64)>,
}

/// A line plot with labelled axes and a legend.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plot {
    /// The line at the top.
    pub title: String,
    /// What the horizontal axis shows.
    pub x_label: String,
    /// What the vertical axis shows.
    pub y_label: String,
    /// How the vertical axis is laid out.
    pub y_scale: Scale,
    /// The lines, the first in front in the legend.
    pub series: Vec<Series>,
}

/// Colours that eyes of every kind tell apart. Source: Okabe and Ito 2008, without yellow, which white swallows.
const COLORS: &[[u8; 3]] = &[
    [0, 114, 178],
    [213, 94, 0],
    [0, 158, 115],
    [204, 121, 167],
    [86, 180, 233],
    [230, 159, 0],
];
const INK: [u8; 3] = [60, 60, 60];
const GRID: [u8; 3] = [228, 228, 228];
/// Half of a line's width in pixels.
const HALF_LINE: f64 = 1.0;

/// Where the axes lie on the picture, in pixels.
struct Frame {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    x: Axis,
    y: Axis,
}

impl Plot {
    /// Draws the plot.
    ///
    /// # Errors
    /// [`FormatError::PictureSize`] below 160x120 pixels or above 64 megapixels.
    pub fn draw(&self, width: usize, height: usize) -> Result<Picture, FormatError> {
        if width < 160 || height < 120 {
            return Err(FormatError::PictureSize(format!(
                "a plot needs at least 160x120 pixels, {width}x{height} were asked for"
            )));
        }
        let mut picture = Picture::filled(width, height, [255; 3])?;
        let lines: Vec<_> = self.series.iter().map(|s| self.drawable(s)).collect();
        let y = self.y_axis(&lines);
        let labels = y.ticks.iter().map(|tick| text_width(&tick.label)).max();
        let frame = Frame {
            left: (labels.unwrap_or(0) + 18) as f64,
            right: (width - 18) as f64,
            top: (2 * LINE_HEIGHT + 14) as f64,
            bottom: (height - 2 * LINE_HEIGHT - 10) as f64,
            x: Axis::linear(lines.iter().flatten().map(|point| point.0)),
            y,
        };
        frame.draw_grid(&mut picture);
        for (index, points) in lines.iter().enumerate() {
            frame.draw_line(&mut picture, points, COLORS[index % COLORS.len()]);
        }
        self.draw_words(&mut picture, &frame);
        Ok(picture)
    }

    /// Draws the plot into a PNG file, whole or not at all.
    ///
    /// # Errors
    /// Those of [`Plot::draw`] and [`Picture::save`].
    pub fn save(&self, path: &Path, width: usize, height: usize) -> Result<(), FormatError> {
        let picture = self.draw(width, height)?;
        write_bytes(path, &picture.encode(crate::PictureFormat::Png)?)
    }

    /// The points of a series, with not-a-number where the line breaks.
    fn drawable(&self, series: &Series) -> Vec<(f64, f64)> {
        let visible = |(x, y): (f64, f64)| {
            let allowed = self.y_scale == Scale::Linear || y > 0.0;
            x.is_finite() && y.is_finite() && allowed
        };
        let gap = (f64::NAN, f64::NAN);
        let points = series.points.iter();
        points.map(|&p| if visible(p) { p } else { gap }).collect()
    }

    fn y_axis(&self, lines: &[Vec<(f64, f64)>]) -> Axis {
        let values = lines.iter().flatten().map(|point| point.1);
        match self.y_scale {
            Scale::Linear => Axis::linear(values),
            Scale::Log => Axis::log(values),
        }
    }

    fn draw_words(&self, picture: &mut Picture, frame: &Frame) {
        let middle = |from: f64, to: f64, text: &str| {
            ((from + to) / 2.0) as isize - (text_width(text) / 2) as isize
        };
        let x = middle(0.0, picture.width() as f64, &self.title);
        draw_text(picture, (x, 6), &self.title, INK, Weight::Bold);
        let x = middle(frame.left, frame.right, &self.x_label);
        let y = (picture.height() - LINE_HEIGHT - 4) as isize;
        draw_text(picture, (x, y), &self.x_label, INK, Weight::Regular);
        let above = frame.top as isize - LINE_HEIGHT as isize - 4;
        draw_text(picture, (8, above), &self.y_label, INK, Weight::Regular);
        self.draw_legend(picture, frame, above);
    }

    /// Names from right to left above the frame, each behind a dash of its colour.
    fn draw_legend(&self, picture: &mut Picture, frame: &Frame, y: isize) {
        let mut right = frame.right as isize;
        for (index, series) in self.series.iter().enumerate().rev() {
            right -= text_width(&series.name) as isize;
            draw_text(picture, (right, y), &series.name, INK, Weight::Regular);
            let color = COLORS[index % COLORS.len()];
            for (dx, dy) in (4..20).flat_map(|dx| [(dx, 7), (dx, 8), (dx, 9)]) {
                picture.blend(right - 24 + dx, y + dy, color, 1.0);
            }
            right -= 36;
        }
    }
}

impl Frame {
    fn place(&self, (x, y): (f64, f64)) -> (f64, f64) {
        let along = self.x.share(x);
        let up = self.y.share(y);
        (
            self.left + along * (self.right - self.left),
            self.bottom - up * (self.bottom - self.top),
        )
    }

    fn draw_grid(&self, picture: &mut Picture) {
        for Tick { value, label } in &self.y.ticks {
            let y = self.place((0.0, *value)).1.round() as isize;
            for x in self.left as isize..=self.right as isize {
                picture.blend(x, y, GRID, 1.0);
            }
            let x = self.left as isize - text_width(label) as isize - 8;
            draw_text(picture, (x, y - 8), label, INK, Weight::Regular);
        }
        for Tick { value, label } in &self.x.ticks {
            let x = self.place((*value, 0.0)).0.round() as isize;
            for y in self.top as isize..=self.bottom as isize {
                picture.blend(x, y, GRID, 1.0);
            }
            let half = (text_width(label) / 2) as isize;
            let at = (x - half, self.bottom as isize + 5);
            draw_text(picture, at, label, INK, Weight::Regular);
        }
        for x in self.left as isize..=self.right as isize {
            picture.blend(x, self.bottom as isize, INK, 1.0);
        }
        for y in self.top as isize..=self.bottom as isize {
            picture.blend(self.left as isize, y, INK, 1.0);
        }
    }

    /// Gathers how much of each pixel the whole line covers, so that its joints are not darker, then paints once.
    fn draw_line(&self, picture: &mut Picture, points: &[(f64, f64)], color: [u8; 3]) {
        let width = picture.width();
        let mut cover = vec![0f32; width * picture.height()];
        let mut before: Option<(f64, f64)> = None;
        for &point in points {
            let here = self.place(point);
            if here.0.is_nan() || here.1.is_nan() {
                before = None;
                continue;
            }
            cover_segment(&mut cover, width, before.unwrap_or(here), here);
            before = Some(here);
        }
        for (index, &share) in cover.iter().enumerate().filter(|(_, share)| **share > 0.0) {
            let (x, y) = (index % width, index / width);
            picture.blend(x as isize, y as isize, color, share);
        }
    }
}

/// Raises `cover [height, width]` to how far pixels lie under the segment.
fn cover_segment(cover: &mut [f32], width: usize, a: (f64, f64), b: (f64, f64)) {
    let height = cover.len() / width;
    let reach = HALF_LINE + 1.0;
    let span = |a: f64, b: f64, len: usize| {
        let low = (a.min(b) - reach).clamp(0.0, len as f64) as usize;
        let high = (a.max(b) + reach).ceil().clamp(0.0, len as f64) as usize;
        low..high
    };
    for y in span(a.1, b.1, height) {
        for x in span(a.0, b.0, width) {
            let distance = distance_to_segment((x as f64, y as f64), a, b);
            let share = (HALF_LINE + 0.5 - distance).clamp(0.0, 1.0) as f32;
            let old = &mut cover[y * width + x];
            *old = old.max(share);
        }
    }
}

fn distance_to_segment(p: (f64, f64), a: (f64, f64), b: (f64, f64)) -> f64 {
    let (dx, dy) = (b.0 - a.0, b.1 - a.1);
    let length = dx * dx + dy * dy;
    let along = if length == 0.0 {
        0.0
    } else {
        (((p.0 - a.0) * dx + (p.1 - a.1) * dy) / length).clamp(0.0, 1.0)
    };
    (p.0 - a.0 - along * dx).hypot(p.1 - a.1 - along * dy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn falling(points: Vec<(f64, f64)>, y_scale: Scale) -> Plot {
        Plot {
            title: "loss".into(),
            x_label: "step".into(),
            y_label: "mean squared error".into(),
            y_scale,
            series: vec![Series {
                name: "train".into(),
                points,
            }],
        }
    }

    /// Rows in which the first colour is met in a column.
    fn line_at(picture: &Picture, x: usize) -> Vec<usize> {
        let rows = 54..picture.height() - 46;
        rows.filter(|&y| picture.pixel(x, y) == COLORS[0]).collect()
    }

    #[test]
    fn a_falling_line_falls() {
        let picture = falling(vec![(0.0, 1.0), (100.0, 0.0)], Scale::Linear)
            .draw(640, 400)
            .unwrap();
        let (early, late) = (line_at(&picture, 150), line_at(&picture, 550));
        assert!(
            !early.is_empty() && early[0] < late[0],
            "{early:?} {late:?}"
        );
    }

    #[test]
    fn on_a_log_axis_an_exponential_is_straight() {
        let points = (0..=100).map(|i| (f64::from(i), (-f64::from(i) / 10.0).exp()));
        let picture = falling(points.collect(), Scale::Log)
            .draw(640, 400)
            .unwrap();
        let middle = |x| {
            let rows = line_at(&picture, x);
            rows.iter().sum::<usize>() as f64 / rows.len() as f64
        };
        assert!((middle(200) + middle(500) - 2.0 * middle(350)).abs() < 1.5);
    }

    #[test]
    fn numbers_that_cannot_be_drawn_leave_a_gap() {
        let points = vec![
            (0.0, 1.0),
            (1.0, f64::NAN),
            (2.0, f64::INFINITY),
            (3.0, -1.0),
            (4.0, 2.0),
        ];
        let picture = falling(points, Scale::Log).draw(640, 400).unwrap();
        assert!(line_at(&picture, 350).is_empty());
    }

    #[test]
    fn nothing_to_draw_is_still_a_plot() {
        for points in [
            vec![],
            vec![(5.0, 5.0)],
            vec![(f64::NAN, 0.0)],
            vec![(0.0, -1e308), (1e308, 1e308)],
        ] {
            for scale in [Scale::Linear, Scale::Log] {
                falling(points.clone(), scale).draw(160, 120).unwrap();
            }
        }
        assert!(falling(vec![], Scale::Linear).draw(100, 100).is_err());
    }
}
