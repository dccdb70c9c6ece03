//! Edges of a picture, as white lines on black.

use super::Picture;
use crate::FormatError;

/// `tan 22.5°`: a gradient flatter than this runs along a row.
const TAN_22_5: f32 = 0.414_213_56;

/// Horizontal and vertical change of one pixel, and how strong it is.
#[derive(Clone, Copy, Default)]
struct Gradient {
    x: f32,
    y: f32,
    strength: f32,
}

impl Picture {
    /// The edges of the picture, white on black, one pixel wide: pixels whose gradient is above `high` and the
    /// strongest across its edge, and those above `low` that hang together with one.
    ///
    /// Gradients are Sobel's, summed over both directions, of the channel in which they are strongest; 100 and 200 are
    /// usual.
    ///
    /// # Errors
    /// [`FormatError::PictureSize`] if the thresholds are not finite, or `low` is above `high`.
    ///
    /// Source: Canny 1986 (IEEE PAMI 8/6); steps and units as in OpenCV's `Canny` with its defaults.
    pub fn canny(&self, low: f32, high: f32) -> Result<Self, FormatError> {
        if !(low.is_finite() && high.is_finite() && low <= high) {
            return Err(FormatError::PictureSize(format!(
                "edges are found between two thresholds, the smaller first, and {low} and {high} are none"
            )));
        }
        let (width, height) = (self.width(), self.height());
        let gradients: Vec<Gradient> = (0..width * height)
            .map(|at| self.gradient(at % width, at / width))
            .collect();
        let mut edge = vec![false; gradients.len()];
        let mut found: Vec<usize> = Vec::new();
        let crest: Vec<bool> = (0..gradients.len())
            .map(|at| is_crest(&gradients, width, at))
            .collect();
        for at in 0..gradients.len() {
            if crest[at] && gradients[at].strength > high {
                edge[at] = true;
                found.push(at);
            }
        }
        while let Some(at) = found.pop() {
            for near in neighbours(at, width, height) {
                if !edge[near] && crest[near] && gradients[near].strength > low {
                    edge[near] = true;
                    found.push(near);
                }
            }
        }
        let rgb = edge.iter().flat_map(|&edge| [u8::from(edge) * 255; 3]);
        Self::new(width, height, rgb.collect())
    }

    /// Sobel's gradient; pixels beyond the border equal the nearest one inside.
    fn gradient(&self, x: usize, y: usize) -> Gradient {
        let (left, right) = (x.saturating_sub(1), (x + 1).min(self.width() - 1));
        let (above, below) = (y.saturating_sub(1), (y + 1).min(self.height() - 1));
        let mut strongest = Gradient::default();
        for channel in 0..3 {
            let at =
                |x: usize, y: usize| f32::from(self.rgb()[(y * self.width() + x) * 3 + channel]);
            let column = |x| at(x, above) + 2.0 * at(x, y) + at(x, below);
            let row = |y| at(left, y) + 2.0 * at(x, y) + at(right, y);
            let (x, y) = (column(right) - column(left), row(below) - row(above));
            let strength = x.abs() + y.abs();
            if strength > strongest.strength {
                strongest = Gradient { x, y, strength };
            }
        }
        strongest
    }
}

/// Whether no neighbour across the edge is stronger; of two equal ones the first counts.
fn is_crest(gradients: &[Gradient], width: usize, at: usize) -> bool {
    let Gradient { x, y, strength } = gradients[at];
    let (column, row) = ((at % width) as isize, (at / width) as isize);
    let height = (gradients.len() / width) as isize;
    let near = |dx: isize, dy: isize| {
        let (x, y) = (column + dx, row + dy);
        let inside = (0..width as isize).contains(&x) && (0..height).contains(&y);
        if inside {
            gradients[y as usize * width + x as usize].strength
        } else {
            0.0
        }
    };
    if y.abs() < TAN_22_5 * x.abs() {
        return strength > near(-1, 0) && strength >= near(1, 0);
    }
    if x.abs() < TAN_22_5 * y.abs() {
        return strength > near(0, -1) && strength >= near(0, 1);
    }
    let slope = if (x < 0.0) == (y < 0.0) { 1 } else { -1 };
    strength > near(-slope, -1) && strength > near(slope, 1)
}

/// The up to eight pixels around one.
fn neighbours(at: usize, width: usize, height: usize) -> impl Iterator<Item = usize> {
    let (x, y) = (at % width, at / width);
    let rows = y.saturating_sub(1)..=(y + 1).min(height - 1);
    rows.flat_map(move |row| {
        (x.saturating_sub(1)..=(x + 1).min(width - 1)).map(move |column| row * width + column)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Dark to the left of `split`, bright from there on.
    fn halves(split: usize, dark: u8, bright: u8) -> Picture {
        let value = |at: usize| if at % 16 < split { dark } else { bright };
        let rgb = (0..16 * 12).flat_map(|at| [value(at); 3]).collect();
        Picture::new(16, 12, rgb).unwrap()
    }

    fn white(picture: &Picture) -> Vec<(usize, usize)> {
        let places = (0..picture.height()).flat_map(|y| (0..picture.width()).map(move |x| (x, y)));
        places
            .filter(|&(x, y)| picture.pixel(x, y) == [255; 3])
            .collect()
    }

    #[test]
    fn a_step_becomes_one_line_and_a_flat_picture_none() {
        let edges = halves(6, 20, 220).canny(100.0, 200.0).unwrap();
        let line: Vec<_> = (0..12).map(|y| (5, y)).collect();
        assert_eq!(white(&edges), line);
        let flat = halves(6, 90, 90).canny(100.0, 200.0).unwrap();
        assert!(white(&flat).is_empty());
    }

    #[test]
    fn a_step_counts_four_times_its_height_against_the_thresholds() {
        let found = |high: f32| !white(&halves(6, 100, 150).canny(10.0, high).unwrap()).is_empty();
        assert!(found(199.0) && !found(200.0));
    }

    #[test]
    fn a_weak_edge_stays_only_where_it_hangs_together_with_a_strong_one() {
        // Bright above, less bright below: the lower half of the edge is weak.
        let rgb = (0..16 * 12).flat_map(|at| match (at % 16 < 6, at / 16 < 6) {
            (true, _) => [0; 3],
            (false, true) => [200; 3],
            (false, false) => [40; 3],
        });
        let picture = Picture::new(16, 12, rgb.collect()).unwrap();
        let column = |low| {
            let edges = white(&picture.canny(low, 500.0).unwrap());
            edges.iter().filter(|(x, y)| *x == 5 && *y > 8).count()
        };
        assert_eq!((column(100.0), column(200.0)), (3, 0));
    }

    #[test]
    fn thresholds_in_the_wrong_order_are_refused() {
        assert!(halves(6, 0, 9).canny(200.0, 100.0).is_err());
    }
}
