//! The judge: a text encoder and image tower trained apart from the generator's own, and only ever used to measure.

use std::path::Path;

use latent_formats::{Picture, read_json};
use latent_models::{ClipTextModel, ClipTokenizer, ImageTower};
use latent_nn::{Compute, to_host};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::pictures::fitted;
use crate::text_encoder::Opposites;

/// Pictures or captions of one pass.
const BATCH: usize = 32;
const PREPROCESSOR: &str = "preprocessor_config.json";

/// What pictures the tower was trained on, beside its config.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Preprocessor {
    /// Side of the square pictures.
    size: usize,
    /// Lists of words that exclude one another, which training set against each other.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    opposites: Vec<Vec<String>>,
}

/// Writes what [`Judge::open`] needs beside the tower's own files.
pub(crate) fn write_preprocessor(
    folder: &Path,
    size: usize,
    opposites: &[Vec<String>],
) -> Result<()> {
    let opposites = opposites.to_vec();
    Ok(latent_formats::write_json(
        &folder.join(PREPROCESSOR),
        &Preprocessor { size, opposites },
    )?)
}

/// A text encoder and an image tower that score pictures.
pub struct Judge {
    text: ClipTextModel,
    tokenizer: ClipTokenizer,
    tower: ImageTower,
    size: usize,
    opposites: Opposites,
    compute: Compute,
}

impl Judge {
    /// Opens what the text-encoder stage exported: `text_encoder/`, `tokenizer/`, `image_tower/`.
    ///
    /// # Errors
    /// A part is missing or damaged.
    pub fn open(folder: &Path, compute: &Compute) -> Result<Self> {
        let text = ClipTextModel::load(&folder.join("text_encoder"), compute)?;
        let length = text.config().max_position_embeddings;
        let tower = folder.join("image_tower");
        let Preprocessor { size, opposites } = read_json(&tower.join(PREPROCESSOR))?;
        Ok(Self {
            tokenizer: ClipTokenizer::open(&folder.join("tokenizer"), length)?,
            tower: ImageTower::load(&tower, compute)?,
            text,
            size,
            opposites: Opposites::new(opposites),
            compute: compute.clone(),
        })
    }

    /// Lists of words that captions turn on; empty if the judge was trained without.
    pub(crate) fn opposites(&self) -> &Opposites {
        &self.opposites
    }

    /// A vector of length 1 for each picture.
    ///
    /// # Errors
    /// A picture cannot be scaled.
    pub fn see(&self, pictures: &[Picture]) -> Result<Vec<Vec<f32>>> {
        let mut vectors = Vec::new();
        for part in pictures.chunks(BATCH) {
            let mut values = Vec::new();
            for picture in part {
                values.extend(fitted(picture.clone(), self.size)?.to_f32_nchw());
            }
            let batch = self
                .compute
                .tensor(values, [part.len(), 3, self.size, self.size]);
            vectors.extend(rows(to_host(self.tower.embed(batch))));
        }
        Ok(vectors)
    }

    /// A vector of length 1 for each caption.
    pub fn read(&self, captions: &[&str]) -> Vec<Vec<f32>> {
        let mut vectors = Vec::new();
        for part in captions.chunks(BATCH) {
            let ids: Vec<u32> = part
                .iter()
                .flat_map(|caption| self.tokenizer.encode(caption).ids)
                .collect();
            let ids = self.compute.ids(&ids, [part.len(), ids.len() / part.len()]);
            vectors.extend(rows(to_host(
                self.tower.project_text(self.text.forward(ids).pooled),
            )));
        }
        vectors
    }
}

fn rows((values, [_, width]): (Vec<f32>, [usize; 2])) -> Vec<Vec<f32>> {
    values.chunks_exact(width).map(<[f32]>::to_vec).collect()
}

/// Cosine of two vectors of length 1.
pub(super) fn cosine(a: &[f32], b: &[f32]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(x, y)| f64::from(*x) * f64::from(*y))
        .sum()
}

/// The place and cosine of the vector nearest to `vector`; `None` if there are none.
pub(super) fn nearest(vector: &[f32], among: &[Vec<f32>]) -> Option<(usize, f64)> {
    let scored = among
        .iter()
        .enumerate()
        .map(|(index, other)| (index, cosine(vector, other)));
    scored.reduce(|best, next| if next.1 > best.1 { next } else { best })
}
