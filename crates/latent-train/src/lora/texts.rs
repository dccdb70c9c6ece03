//! What the U-Net is told of captions: states of the model's text encoders, kept on disk where the encoders stay as they
//! are and the states fit there, else made in each step.

use std::collections::BTreeMap;
use std::ops::Range;

use burn::tensor::Tensor;
use latent::Pipeline;
use latent_models::{ClipTextModel, ClipTokenizer};
use latent_nn::{Compute, to_host};
use sha2::{Digest, Sha256};

use super::hex;
use crate::cache::{Plan, RowCache};
use crate::config::LoraConfig;
use crate::error::Result;
use crate::events::{Event, Options};

/// Captions of one pass.
const BATCH: usize = 16;
/// Rows of a file of the cache.
const PER_FILE: usize = 256;
/// The largest cache in bytes; beyond it states are made in each step.
const LARGEST: usize = 8 << 30;

/// How this model's text encoders are read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    /// Stable Diffusion XL reads the last layer but one, not normalised, and a pooled text.
    pub(super) is_xl: bool,
    /// Layers left out at the end.
    pub(super) skip: usize,
}

/// What the encoders know of texts.
pub(super) struct States {
    /// `[n, l, c]`, all encoders' side by side.
    pub(super) text: Tensor<3>,
    /// Of the last encoder `[n, p]`.
    pub(super) pooled: Tensor<2>,
}

impl Reading {
    /// States of token ids `[n, l]`, one list an encoder.
    ///
    /// Source: diffusers' `StableDiffusionPipeline.encode_prompt` and `StableDiffusionXLPipeline.encode_prompt`.
    pub(super) fn states(
        self,
        encoders: &[&ClipTextModel],
        ids: &[Vec<u32>],
        (count, compute): (usize, &Compute),
    ) -> States {
        let mut texts = Vec::new();
        let mut pooled = None;
        for (encoder, ids) in encoders.iter().zip(ids) {
            let ids = compute.ids(ids, [count, ids.len() / count]);
            let states = encoder.forward(ids.clone());
            texts.push(match (self.is_xl, self.skip) {
                (false, 0) => states.last,
                (false, skip) => encoder.forward_skip(ids, skip),
                (true, 0) => states.penultimate,
                (true, skip) => encoder.forward_hidden(ids, skip + 1),
            });
            pooled = Some(states.pooled);
        }
        let Some(pooled) = pooled else {
            unreachable!("a model without text encoders was refused")
        };
        let text = match texts.len() {
            1 => texts.swap_remove(0),
            _ => Tensor::cat(texts, 2),
        };
        States { text, pooled }
    }
}

/// Every caption, ready for the U-Net or for the encoders.
pub(super) enum Texts {
    /// States and pooled text of each, and the row of each text; `[l, c]` and `p`.
    States {
        rows: RowCache,
        places: BTreeMap<String, usize>,
    },
    /// Token ids are made when a text is drawn.
    Ids(Vec<ClipTokenizer>),
}

/// A batch of texts.
#[derive(Debug)]
pub(super) enum Words {
    /// States `[n, l, c]` and pooled text `[n, p]`.
    States { text: Vec<f32>, pooled: Vec<f32> },
    /// Token ids `[n, l]`, one list an encoder.
    Ids(Vec<Vec<u32>>),
}

impl Texts {
    /// Reads `texts` as far as their states are not on disk yet; `None` if it was stopped.
    pub(super) fn build(
        texts: impl Iterator<Item = String>,
        config: &LoraConfig,
        (pipeline, reading): (&Pipeline, Reading),
        encoders_sum: &str,
        options: &Options,
        progress: &mut dyn FnMut(&Event),
    ) -> Result<Option<Self>> {
        let mut places: BTreeMap<String, usize> = texts.map(|text| (text, 0)).collect();
        for (row, place) in places.values_mut().enumerate() {
            *place = row;
        }
        let (encoders, tokenizers): (Vec<_>, Vec<_>) = pipeline.texts().into_iter().unzip();
        let ids = || Self::Ids(tokenizers.iter().map(|&own| own.clone()).collect());
        let length = row_length(&encoders, &tokenizers);
        let total = places.len();
        if config.text_encoder.is_some() || total * length * size_of::<half::f16>() > LARGEST {
            return Ok(Some(ids()));
        }
        let listed: Vec<&str> = places.keys().map(String::as_str).collect();
        let key = key(&listed, &tokenizers, encoders_sum, (pipeline, reading));
        let plan = Plan {
            folder: config.cache_folder().join(format!("texts-{key}")),
            rows: total,
            length,
            per_file: PER_FILE,
        };
        let make = |range: Range<usize>| {
            let mut values = Vec::new();
            for part in listed[range].chunks(BATCH) {
                if options.stopped() {
                    return Ok(None);
                }
                let ids = encoded(&tokenizers, part);
                let states = reading.states(&encoders, &ids, (part.len(), pipeline.compute()));
                let (text, [_, length, width]) = to_host(states.text);
                let (pooled, [_, size]) = to_host(states.pooled);
                for (text, pooled) in text
                    .chunks_exact(length * width)
                    .zip(pooled.chunks_exact(size))
                {
                    values.extend(text.iter().chain(pooled));
                }
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
        Ok(rows.map(|rows| Self::States { rows, places }))
    }

    /// A batch of texts, of which `pooled` numbers of each row are the pooled text.
    pub(super) fn batch(&self, texts: &[String], pooled: usize) -> Result<Words> {
        match self {
            Self::Ids(tokenizers) => {
                let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                let tokenizers: Vec<&ClipTokenizer> = tokenizers.iter().collect();
                Ok(Words::Ids(encoded(&tokenizers, &texts)))
            }
            Self::States { rows, places } => {
                let (mut all, mut ends) = (Vec::new(), Vec::new());
                for text in texts {
                    let Some(&place) = places.get(text) else {
                        unreachable!("every caption was listed when the cache was built")
                    };
                    let row = rows.row(place)?;
                    let (states, end) = row.split_at(row.len() - pooled);
                    all.extend_from_slice(states);
                    ends.extend_from_slice(end);
                }
                Ok(Words::States {
                    text: all,
                    pooled: ends,
                })
            }
        }
    }
}

/// Token ids of texts, one list an encoder.
fn encoded(tokenizers: &[&ClipTokenizer], texts: &[&str]) -> Vec<Vec<u32>> {
    let ids = |tokenizer: &&ClipTokenizer| {
        let all = texts.iter().map(|text| tokenizer.encode(text).ids);
        all.flatten().collect()
    };
    tokenizers.iter().map(ids).collect()
}

/// Tokens of a text.
pub(super) fn text_length(tokenizer: &ClipTokenizer) -> usize {
    tokenizer.encode("").ids.len()
}

/// Numbers of one text's states and pooled text.
fn row_length(encoders: &[&ClipTextModel], tokenizers: &[&ClipTokenizer]) -> usize {
    let states = encoders.iter().zip(tokenizers);
    let states =
        states.map(|(encoder, tokenizer)| text_length(tokenizer) * encoder.config().hidden_size);
    states.sum::<usize>() + pooled_width(encoders)
}

/// Numbers of the pooled text, which is the last encoder's.
pub(super) fn pooled_width(encoders: &[&ClipTextModel]) -> usize {
    encoders
        .last()
        .map_or(0, |encoder| encoder.config().pooled_width())
}

/// Checksum of the encoders, how they are read, the texts and what the tokenizers make of them.
fn key(
    listed: &[&str],
    tokenizers: &[&ClipTokenizer],
    encoders_sum: &str,
    (pipeline, reading): (&Pipeline, Reading),
) -> String {
    let mut hash = Sha256::new();
    hash.update(encoders_sum);
    hash.update(format!("{reading:?} {:?}", pipeline.compute().precision));
    for text in listed {
        hash.update(text);
        hash.update([0]);
    }
    for ids in encoded(tokenizers, listed) {
        ids.iter().for_each(|id| hash.update(id.to_le_bytes()));
    }
    hex(hash)
}
