//! The captions' text states by the frozen text encoder: computed once and kept on disk where they fit there, else
//! computed for every batch.

use std::collections::BTreeMap;
use std::ops::Range;

use latent_models::ClipTokenizer;
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

/// The largest cache in bytes; a data set of many captions would fill the disk with what a small encoder computes in
/// a moment.
const LARGEST: usize = 4 << 30;

/// States `[length, width]` of every caption that training may use, and of the empty one.
pub(crate) struct TextCache {
    kept: Kept,
    choice: CaptionChoice,
    /// Odds of the empty caption.
    dropout: f64,
}

/// What is at hand of each caption.
enum Kept {
    /// Its states, and the row of each text.
    States(RowCache, BTreeMap<String, usize>),
    /// Nothing; its ids are made when it is drawn.
    Nothing(ClipTokenizer),
}

/// A caption as the training step gets it.
pub(crate) enum Drawn {
    /// States `[length, width]`.
    States(Vec<f32>),
    /// Token ids `[length]`, to be encoded in the step.
    Ids(Vec<u32>),
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
        let whole = |kept| Self {
            kept,
            choice,
            dropout: config.caption_dropout,
        };
        let places = texts(pictures, config.style_dropout > 0.0);
        let listed: Vec<&str> = places.keys().map(String::as_str).collect();
        let total = listed.len();
        let [length, width] = text.state_shape();
        if total * length * width * size_of::<half::f16>() > LARGEST {
            return Ok(Some(whole(Kept::Nothing(text.tokenizer.clone()))));
        }
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
        Ok(rows.map(|rows| whole(Kept::States(rows, places))))
    }

    /// One of an example's captions, or the empty one.
    pub(crate) fn draw(
        &self,
        pictures: &Pictures,
        example: usize,
        draws: &mut Draws,
    ) -> Result<Drawn> {
        let text = self.choice.draw(&pictures.example(example).captions, draws);
        let text = if draws.chance(self.dropout) {
            ""
        } else {
            text.as_str()
        };
        match &self.kept {
            Kept::Nothing(tokenizer) => Ok(Drawn::Ids(tokenizer.encode(text).ids)),
            Kept::States(rows, places) => match places.get(text) {
                Some(&row) => Ok(Drawn::States(rows.row(row)?)),
                None => unreachable!("every caption was listed when the cache was built"),
            },
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
