//! Training pictures and captions in batches: which, turned how, described by which words.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use latent_data::{Caption, Captions, DataSet, Example, Sampler};
use latent_formats::{Filter, Picture};
use rayon::prelude::*;

use crate::config::{Augment, Data, Languages};
use crate::error::Result;
use crate::random::Draws;

/// A data set at one size, its decoded pictures kept while memory lasts.
pub(crate) struct Pictures {
    data: DataSet,
    sampler: Sampler,
    size: usize,
    /// RGB bytes `[size, size, 3]` of the pictures read so far.
    kept: Vec<OnceLock<Vec<u8>>>,
    memory: usize,
    used: AtomicUsize,
}

/// What is done to a picture before a model sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    /// Left and right exchanged.
    pub(crate) flip: bool,
    /// Pixels to the right.
    pub(crate) right: isize,
    /// Pixels down.
    pub(crate) down: isize,
}

impl Change {
    /// Draws a change; an example that must not be flipped is not.
    pub(crate) fn draw(augment: &Augment, example: &Example, draws: &mut Draws) -> Self {
        let reach = augment.shift as isize;
        // Three numbers each time, so that the next example's do not depend on this one's kind.
        let flip = draws.chance(augment.flip);
        let mut shift = || draws.below(2 * augment.shift + 1) as isize - reach;
        Self {
            right: shift(),
            down: shift(),
            flip: flip && example.flip,
        }
    }
}

impl Pictures {
    pub(crate) fn open(config: &Data, captions: Captions, seed: u64) -> Result<Self> {
        let data = DataSet::open(&config.path, captions)?;
        Ok(Self {
            sampler: Sampler::weighted(seed, &data.weights())?,
            size: config.size,
            kept: (0..data.len()).map(|_| OnceLock::new()).collect(),
            memory: config.memory << 20,
            used: AtomicUsize::new(0),
            data,
        })
    }

    pub(crate) fn data(&self) -> &DataSet {
        &self.data
    }

    pub(crate) fn example(&self, index: usize) -> &Example {
        &self.data.examples()[index]
    }

    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// Examples of batch `number`, from the data's weights.
    pub(crate) fn batch(&self, number: u64, batch: usize) -> Vec<usize> {
        self.sampler.batch_at(number, batch)
    }

    /// RGB bytes `[size, size, 3]`.
    pub(crate) fn rgb(&self, index: usize) -> Result<std::borrow::Cow<'_, [u8]>> {
        if let Some(kept) = self.kept[index].get() {
            return Ok(kept.as_slice().into());
        }
        let picture = self.data.load(index)?;
        let rgb = fitted(picture, self.size)?.into_rgb();
        if self.used.fetch_add(rgb.len(), Ordering::Relaxed) + rgb.len() > self.memory {
            return Ok(rgb.into());
        }
        Ok(self.kept[index].get_or_init(|| rgb).as_slice().into())
    }

    /// Pictures `[n, 3, size, size]` in `[-1, 1]`, each changed as it is told.
    pub(crate) fn tensor(&self, chosen: &[(usize, Change)]) -> Result<Vec<f32>> {
        let pictures: Vec<Vec<f32>> = chosen
            .par_iter()
            .map(|&(index, change)| Ok(changed(&self.rgb(index)?, self.size, change)))
            .collect::<Result<_>>()?;
        Ok(pictures.concat())
    }
}

/// The picture scaled to cover the square and cut at its centre.
pub(crate) fn fitted(picture: Picture, size: usize) -> Result<Picture> {
    if (picture.width(), picture.height()) == (size, size) {
        return Ok(picture);
    }
    let larger = picture.width() >= size && picture.height() >= size;
    Ok(picture.cover(
        size,
        size,
        if larger {
            Filter::Area
        } else {
            Filter::Lanczos
        },
    )?)
}

/// RGB bytes as `[3, size, size]` in `[-1, 1]`; beyond the edge the edge is repeated.
fn changed(rgb: &[u8], size: usize, change: Change) -> Vec<f32> {
    let clamp = |at: isize| at.clamp(0, size as isize - 1) as usize;
    let mut out = Vec::with_capacity(3 * size * size);
    for channel in 0..3 {
        for row in 0..size {
            let from = clamp(row as isize - change.down);
            for column in 0..size {
                let shifted = clamp(column as isize - change.right);
                let source = if change.flip {
                    size - 1 - shifted
                } else {
                    shifted
                };
                let byte = rgb[(from * size + source) * 3 + channel];
                out.push(f32::from(byte) / 127.5 - 1.0);
            }
        }
    }
    out
}

/// How captions are chosen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CaptionChoice {
    pub(crate) languages: Languages,
    /// Odds that the part naming the style is left out.
    pub(crate) style_dropout: f64,
}

impl CaptionChoice {
    /// A language by its odds among those the example has, then one of its captions.
    pub(crate) fn draw(&self, captions: &[Caption], draws: &mut Draws) -> String {
        let (index, plain) = self.draw_index(captions, draws);
        let text = captions
            .get(index)
            .map_or("", |caption| caption.text.as_str());
        if plain {
            without_style(text).to_string()
        } else {
            text.to_string()
        }
    }

    /// As [`CaptionChoice::draw`]: which caption, and whether its style is left out. No caption at all gives 0.
    pub(crate) fn draw_index(&self, captions: &[Caption], draws: &mut Draws) -> (usize, bool) {
        let weights: Vec<f64> = captions
            .iter()
            .map(|caption| self.weight(captions, caption))
            .collect();
        let plain = draws.chance(self.style_dropout);
        let number = draws.uniform();
        if captions.is_empty() || weights.iter().all(|weight| *weight == 0.0) {
            return (((captions.len() as f64) * number) as usize, plain);
        }
        let mut left = number * weights.iter().sum::<f64>();
        let last = weights.len() - 1;
        let index = weights.iter().position(|weight| {
            left -= weight;
            left < 0.0
        });
        (index.unwrap_or(last), plain)
    }

    /// The odds of the caption's language, shared by all captions of it.
    fn weight(&self, captions: &[Caption], caption: &Caption) -> f64 {
        let korean = is_korean(caption);
        let alike = captions
            .iter()
            .filter(|other| is_korean(other) == korean)
            .count();
        let odds = if korean {
            self.languages.ko
        } else {
            self.languages.en
        };
        odds / alike as f64
    }
}

fn is_korean(caption: &Caption) -> bool {
    caption.language.as_deref() == Some("ko")
}

/// The caption without its last part, if that names a style: `a red apple, 3d style` to `a red apple`.
pub(crate) fn without_style(caption: &str) -> &str {
    latent::split_style(caption).0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    fn caption(language: &str, text: &str) -> Caption {
        Caption {
            language: Some(language.into()),
            text: text.into(),
        }
    }

    #[test]
    fn a_flipped_and_shifted_picture_has_its_pixels_where_they_belong() {
        // One row of three grey pixels 0, 51, 102, in a 3x3 picture of equal rows.
        let rgb: Vec<u8> = (0..3)
            .flat_map(|_| [0u8, 0, 0, 51, 51, 51, 102, 102, 102])
            .collect();
        let row = |change| -> Vec<u8> {
            let values = changed(&rgb, 3, change);
            values[..3]
                .iter()
                .map(|v| ((v + 1.0) * 127.5).round() as u8)
                .collect()
        };
        let still = Change::default();
        assert_eq!(row(still), [0, 51, 102]);
        assert_eq!(
            row(Change {
                flip: true,
                ..still
            }),
            [102, 51, 0]
        );
        assert_eq!(row(Change { right: 1, ..still }), [0, 0, 51]);
        assert_eq!(
            row(Change {
                right: -1,
                flip: true,
                ..still
            }),
            [51, 0, 0]
        );
    }

    #[test]
    fn languages_come_by_their_odds_however_many_captions_each_has() {
        let captions = [
            caption("en", "a"),
            caption("en", "b"),
            caption("en", "c"),
            caption("ko", "가"),
        ];
        let choice = CaptionChoice {
            languages: Languages { en: 60.0, ko: 40.0 },
            style_dropout: 0.0,
        };
        let korean = (0..10_000)
            .filter(|&step| {
                let mut draws = Draws::new(1, Stream::Captions, step);
                choice.draw(&captions, &mut draws) == "가"
            })
            .count();
        // Five standard errors of 10,000 draws at 0.4 are 245.
        assert!(korean.abs_diff(4000) < 245, "{korean}");
    }

    #[test]
    fn the_style_is_the_last_part_and_nothing_else_is_left_out() {
        assert_eq!(without_style("a red apple, 3d style"), "a red apple");
        assert_eq!(without_style("빨간 사과, 3D 스타일"), "빨간 사과");
        assert_eq!(without_style("a cat, animal, pet"), "a cat, animal, pet");
    }
}
