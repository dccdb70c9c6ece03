//! Latents as people can look at them: numbers of each channel, grey tiles, colours.

use latent_formats::{Filter, Picture};

use crate::{Error, Latents};

/// The numbers of one channel of latents.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Channel {
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation: how far they lie from the mean.
    pub std: f64,
}

impl Latents {
    /// Mean and standard deviation of each channel, over all pictures and places.
    #[must_use]
    pub fn channels(&self) -> Vec<Channel> {
        let [count, channels, height, width] = self.shape();
        let places = height * width;
        let of_channel = |channel: usize| {
            let starts = (0..count).map(move |n| (n * channels + channel) * places);
            let values = starts.flat_map(|start| &self.values()[start..start + places]);
            let values: Vec<f64> = values.map(|&value| f64::from(value)).collect();
            let share = 1.0 / values.len().max(1) as f64;
            let mean = values.iter().sum::<f64>() * share;
            let squares = values.iter().map(|value| (value - mean).powi(2));
            Channel {
                mean,
                std: (squares.sum::<f64>() * share).sqrt(),
            }
        };
        (0..channels).map(of_channel).collect()
    }

    /// How densely the values lie around each of `bars` places from `-range` to `range`: the place and the share of all
    /// values a unit there. What lies outside is in no bar.
    #[must_use]
    pub fn histogram(&self, range: f64, bars: usize) -> Vec<(f64, f64)> {
        let width = 2.0 * range / bars as f64;
        let mut counts = vec![0u64; bars];
        for &value in self.values() {
            let bar = ((f64::from(value) + range) / width).floor();
            if bar >= 0.0 && bar < bars as f64 {
                counts[bar as usize] += 1;
            }
        }
        let share = 1.0 / (self.values().len().max(1) as f64 * width);
        let bar = |(bar, &count): (usize, &u64)| {
            ((bar as f64 + 0.5) * width - range, count as f64 * share)
        };
        counts.iter().enumerate().map(bar).collect()
    }

    /// Each channel of the first picture as a grey picture of a pixel a place: middle grey is 0, white is `range` and
    /// above, black is `-range` and below.
    ///
    /// # Errors
    /// [`Error::Format`] if the latents are too large for a picture.
    pub fn tiles(&self, range: f32) -> Result<Vec<Picture>, Error> {
        let [_, channels, height, width] = self.shape();
        let tiles = self.values().chunks(height * width).take(channels);
        let tile = |values: &[f32]| {
            let grey = values.iter().map(|value| (value / range).clamp(-1.0, 1.0));
            let grey: Vec<f32> = grey.collect();
            Ok(Picture::from_f32_nchw(&grey.repeat(3), width, height)?)
        };
        tiles.map(tile).collect()
    }
}

/// The colours of latents by a linear map: at each place a weighted sum of the channels, much quicker than the decoder
/// and as coarse as the latents.
#[derive(Clone, Debug, PartialEq)]
pub struct Projection {
    /// Red, green and blue of 1 in each channel, in the last row of a place where all channels are 0; from -1 to 1.
    rows: Vec<[f64; 3]>,
    explained: f64,
}

impl Projection {
    /// The map that gives the colours of `pictures`, one a latent, with the least squared error.
    ///
    /// # Errors
    /// [`Error::Request`] if there are not as many pictures as latents; [`Error::Format`] if a picture cannot be scaled
    /// down to its latent.
    pub fn fit(latents: &Latents, pictures: &[Picture]) -> Result<Self, Error> {
        let [count, channels, height, width] = latents.shape();
        if count != pictures.len() {
            return Err(Error::Request(format!(
                "{} pictures are given for {count} latents; give one for each",
                pictures.len()
            )));
        }
        let mut colors = Vec::new();
        for picture in pictures {
            let small = picture.resize(width, height, Filter::Area)?;
            let rgb = small.rgb().chunks_exact(3);
            colors.extend(rgb.map(|rgb| [0, 1, 2].map(|c| f64::from(rgb[c]) / 127.5 - 1.0)));
        }
        let (mut squares, mut products) = (
            vec![vec![0.0; channels + 1]; channels + 1],
            vec![[0.0; 3]; channels + 1],
        );
        for (place, color) in places(latents).zip(&colors) {
            for (row, a) in place.iter().enumerate() {
                for (column, b) in place.iter().enumerate() {
                    squares[row][column] += a * b;
                }
                for (sum, value) in products[row].iter_mut().zip(color) {
                    *sum += a * value;
                }
            }
        }
        // A channel that is the same everywhere says nothing of colour; this keeps its weight small, not infinite.
        let ridge = 1e-9 * colors.len().max(1) as f64;
        for (place, row) in squares.iter_mut().enumerate() {
            row[place] += ridge;
        }
        let mut projection = Self {
            rows: solved(squares, products),
            explained: 0.0,
        };
        projection.explained = projection.explains(latents, &colors);
        Ok(projection)
    }

    /// The share of the colours' variance that the map gives, 0 to 1.
    #[must_use]
    pub fn explained(&self) -> f64 {
        self.explained
    }

    /// The latents as pictures of a pixel a place.
    ///
    /// # Errors
    /// [`Error::Request`] if the latents have other channels than those the map was fitted to; [`Error::Format`] if they
    /// are too large for a picture.
    pub fn pictures(&self, latents: &Latents) -> Result<Vec<Picture>, Error> {
        let [_, channels, height, width] = latents.shape();
        if channels + 1 != self.rows.len() {
            return Err(Error::Request(format!(
                "the latents have {channels} channels, and these colours were fitted to {}; fit them anew",
                self.rows.len() - 1
            )));
        }
        let rgb: Vec<f32> = places(latents)
            .flat_map(|place| {
                self.color(&place)
                    .map(|value| value.clamp(-1.0, 1.0) as f32)
            })
            .collect();
        let picture = |rgb: &[f32]| Ok(Picture::from_f32_nhwc(rgb, width, height)?);
        rgb.chunks(3 * height * width).map(picture).collect()
    }

    fn color(&self, place: &[f64]) -> [f64; 3] {
        let mut color = [0.0; 3];
        for (value, row) in place.iter().zip(&self.rows) {
            for (sum, weight) in color.iter_mut().zip(row) {
                *sum += value * weight;
            }
        }
        color
    }

    fn explains(&self, latents: &Latents, colors: &[[f64; 3]]) -> f64 {
        let share = 1.0 / colors.len().max(1) as f64;
        let mean = [0, 1, 2].map(|c| colors.iter().map(|color| color[c]).sum::<f64>() * share);
        let (mut missed, mut whole) = (0.0, 0.0);
        for (place, color) in places(latents).zip(colors) {
            let found = self.color(&place);
            for c in 0..3 {
                missed += (color[c] - found[c]).powi(2);
                whole += (color[c] - mean[c]).powi(2);
            }
        }
        if whole > 0.0 {
            (1.0 - missed / whole).max(0.0)
        } else {
            1.0
        }
    }
}

/// The channels at each place of each picture, and a 1 behind them.
fn places(latents: &Latents) -> impl Iterator<Item = Vec<f64>> {
    let [count, channels, height, width] = latents.shape();
    let area = height * width;
    (0..count * area).map(move |index| {
        let first = index / area * channels * area + index % area;
        let values = (0..channels).map(|c| f64::from(latents.values()[first + c * area]));
        values.chain([1.0]).collect()
    })
}

/// Solves `squares * x = products` by Gaussian elimination with pivots; `squares` is symmetric and above 0.
fn solved(mut squares: Vec<Vec<f64>>, mut products: Vec<[f64; 3]>) -> Vec<[f64; 3]> {
    let size = squares.len();
    for column in 0..size {
        let largest = (column..size).max_by(|&a, &b| {
            squares[a][column]
                .abs()
                .total_cmp(&squares[b][column].abs())
        });
        let pivot = largest.unwrap_or(column);
        squares.swap(column, pivot);
        products.swap(column, pivot);
        let (row, product) = (squares[column].clone(), products[column]);
        for below in column + 1..size {
            let factor = squares[below][column] / row[column];
            for (value, above) in squares[below].iter_mut().zip(&row) {
                *value -= factor * above;
            }
            for (value, above) in products[below].iter_mut().zip(product) {
                *value -= factor * above;
            }
        }
    }
    for row in (0..size).rev() {
        let (until, after) = products.split_at_mut(row + 1);
        let factors = &squares[row];
        for (c, value) in until[row].iter_mut().enumerate() {
            let terms = after.iter().zip(&factors[row + 1..size]);
            let later: f64 = terms.map(|(found, factor)| factor * found[c]).sum();
            *value = (*value - later) / factors[row];
        }
    }
    products
}

#[cfg(test)]
mod tests {
    use super::*;

    fn latents(values: &[f32], shape: [usize; 4]) -> Latents {
        Latents::new(values.to_vec(), shape).expect("as many values")
    }

    /// Two latents of three channels whose values repeat late.
    fn uneven() -> Latents {
        let values: Vec<f32> = (0..2 * 3 * 4 * 4)
            .map(|i| ((i * 37 % 101) as f32 - 50.0) / 60.0)
            .collect();
        latents(&values, [2, 3, 4, 4])
    }

    #[test]
    fn channels_have_the_mean_and_spread_of_their_values() {
        let of = latents(&[1.0, 3.0, 0.0, 0.0, 5.0, 7.0, 0.0, 2.0], [2, 2, 1, 2]).channels();
        let channel = |mean, std| Channel { mean, std };
        // Of 1, 3, 5, 7 and of 0, 0, 0, 2.
        assert_eq!(
            of,
            [channel(4.0, f64::sqrt(5.0)), channel(0.5, f64::sqrt(0.75))]
        );
    }

    #[test]
    fn a_histogram_holds_the_share_of_each_bar() {
        let bars = latents(&[-0.5, 0.2, 0.7, 0.9, 7.0], [1, 1, 1, 5]).histogram(1.0, 4);
        let places: Vec<f64> = bars.iter().map(|bar| bar.0).collect();
        assert_eq!(places, [-0.75, -0.25, 0.25, 0.75]);
        // A fifth of the values in a bar of half a unit.
        for ((_, share), values) in bars.iter().zip([0.0, 1.0, 1.0, 2.0]) {
            assert!((share - values / 5.0 / 0.5).abs() < 1e-12, "{bars:?}");
        }
    }

    #[test]
    fn tiles_are_grey_at_zero_and_end_at_the_range() {
        let tiles = latents(&[0.0, 2.0, -2.0, 9.0], [1, 2, 1, 2])
            .tiles(2.0)
            .expect("tiles");
        let grey = |tile: usize, x: usize| tiles[tile].pixel(x, 0);
        assert_eq!(
            [grey(0, 0), grey(0, 1), grey(1, 0), grey(1, 1)],
            [[128; 3], [255; 3], [0; 3], [255; 3]]
        );
    }

    #[test]
    fn colours_that_are_a_linear_map_are_found_again() {
        // Channels unlike one another, so that rounding a picture moves no coefficient far.
        let values: Vec<f32> = (0..2 * 3 * 4 * 4)
            .map(|i| ((i * 7919 + i * i * 31) % 1009) as f32 / 630.6 - 0.8)
            .collect();
        let latents = latents(&values, [2, 3, 4, 4]);
        let weights = [
            [0.4, -0.2, 0.1],
            [0.1, 0.3, -0.3],
            [-0.2, 0.2, 0.2],
            [0.1, -0.1, 0.0],
        ];
        let rgb: Vec<f32> = places(&latents)
            .flat_map(|place| {
                [0, 1, 2].map(|c| {
                    place
                        .iter()
                        .zip(weights)
                        .map(|(v, row)| v * row[c])
                        .sum::<f64>() as f32
                })
            })
            .collect();
        let pictures: Vec<Picture> = rgb
            .chunks(3 * 16)
            .map(|rgb| Picture::from_f32_nhwc(rgb, 4, 4).expect("a picture"))
            .collect();
        let found = Projection::fit(&latents, &pictures).expect("fitted");
        for (row, expected) in found.rows.iter().zip(weights) {
            for (value, expected) in row.iter().zip(expected) {
                // Pictures round to 1/255 of their range of 2.
                assert!((value - expected).abs() < 4e-3, "{:?}", found.rows);
            }
        }
        assert!(found.explained() > 0.999, "{}", found.explained());
        for (again, picture) in found
            .pictures(&latents)
            .expect("pictures")
            .iter()
            .zip(&pictures)
        {
            assert!(
                again
                    .rgb()
                    .iter()
                    .zip(picture.rgb())
                    .all(|(a, b)| a.abs_diff(*b) <= 1)
            );
        }
    }

    #[test]
    fn a_channel_that_never_changes_breaks_nothing() {
        let latents = latents(&[0.0; 2 * 9], [1, 2, 3, 3]);
        let grey = Picture::filled(24, 24, [200; 3]).expect("a picture");
        let found = Projection::fit(&latents, std::slice::from_ref(&grey)).expect("fitted");
        assert_eq!(
            found.pictures(&latents).expect("pictures")[0].pixel(1, 1),
            [200; 3]
        );
    }

    #[test]
    fn other_counts_and_channels_are_refused() {
        let grey = Picture::filled(4, 4, [9; 3]).expect("a picture");
        assert!(Projection::fit(&uneven(), std::slice::from_ref(&grey)).is_err());
        let fitted = Projection::fit(&uneven(), &[grey.clone(), grey]).expect("fitted");
        assert!(fitted.pictures(&latents(&[0.0; 4], [1, 1, 2, 2])).is_err());
    }
}
