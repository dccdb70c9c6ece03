//! The captions' text states, computed once by the frozen text encoder.

use std::collections::BTreeMap;
use std::ops::Range;

use latent_nn::to_host;
use sha2::{Digest, Sha256};

use super::frozen::FrozenText;
use crate::cache::{Plan, RowCache};
use crate::config::DiffusionConfig;
use crate::error::Result;
use crate::events::{Event, Options};
use crate::pictures::{CaptionChoice, Pictures, without_style};
use crate::random::Draws;

/// Captions of one pass.
const BATCH: usize = 32;
/// Rows of a file of the cache.
const PER_FILE: usize = 512;

/// States `[length, width]` of every caption that training may use, and of the empty one.
pub(crate) struct TextCache {
    rows: RowCache,
    /// Row of each text.
    places: BTreeMap<String, usize>,
    choice: CaptionChoice,
    /// Odds of the empty caption.
    dropout: f64,
}

impl TextCache {
    /// Computes what is not on disk yet; `None` if it was stopped.
    pub(crate) fn build(
        config: &DiffusionConfig,
        pictures: &Pictures,
        text: &FrozenText,
        options: &Options,
        progress: &mut dyn FnMut(&Event),
    ) -> Result<Option<Self>> {
        let choice = CaptionChoice {
            languages: config.data.languages,
            style_dropout: config.style_dropout,
        };
        let places = texts(pictures, config.style_dropout > 0.0);
        let listed: Vec<&str> = places.keys().map(String::as_str).collect();
        let total = listed.len();
        let [length, width] = text.state_shape();
        let plan = Plan {
            folder: config
                .cache_folder()
                .join(format!("texts-{}", key(text, &listed))),
            rows: total,
            length: length * width,
            per_file: PER_FILE,
        };
        let make = |range: Range<usize>| {
            let mut values = Vec::new();
            for part in listed[range].chunks(BATCH) {
                if options.stopped() {
                    return Ok(None);
                }
                values.extend(to_host(text.states(part)).0);
            }
            Ok(Some(values))
        };
        let rows = RowCache::build(plan, make, |done| {
            progress(&Event::Preparing {
                what: "captions",
                done,
                total,
            });
        })?;
        Ok(rows.map(|rows| Self {
            rows,
            places,
            choice,
            dropout: config.caption_dropout,
        }))
    }

    /// States of one of an example's captions, or of the empty one.
    pub(crate) fn draw(
        &self,
        pictures: &Pictures,
        example: usize,
        draws: &mut Draws,
    ) -> Result<Vec<f32>> {
        let text = self.choice.draw(&pictures.example(example).captions, draws);
        let text = if draws.chance(self.dropout) {
            ""
        } else {
            text.as_str()
        };
        match self.places.get(text) {
            Some(&row) => self.rows.row(row),
            None => unreachable!("every caption was listed when the cache was built"),
        }
    }
}

/// Every text that may be drawn, in order, with its row.
fn texts(pictures: &Pictures, style_dropout: bool) -> BTreeMap<String, usize> {
    let mut places = BTreeMap::from([(String::new(), 0)]);
    for example in pictures.data().examples() {
        for caption in &example.captions {
            places.insert(caption.text.clone(), 0);
            if style_dropout {
                places.insert(without_style(&caption.text).to_string(), 0);
            }
        }
    }
    for (row, place) in places.values_mut().enumerate() {
        *place = row;
    }
    places
}

/// Checksum of the text encoder, the tokenizer and the texts.
fn key(text: &FrozenText, listed: &[&str]) -> String {
    let mut hash = Sha256::new();
    hash.update(&text.sum);
    for text in listed {
        hash.update(text);
        hash.update([0]);
    }
    hash.finalize()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
