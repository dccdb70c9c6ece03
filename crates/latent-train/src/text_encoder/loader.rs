//! Batches of the text-encoder stage.

use std::sync::Arc;

use latent_models::ClipTokenizer;

use super::contrastive::mask;
use crate::config::Augment;
use crate::error::Result;
use crate::pictures::{CaptionChoice, Change, Pictures};
use crate::random::{Draws, Stream};
use crate::run::Load;

/// Pictures with one of their captions each.
pub(crate) struct PairLoader {
    pub(crate) pictures: Pictures,
    pub(crate) augment: Augment,
    pub(crate) choice: CaptionChoice,
    pub(crate) tokenizer: Arc<ClipTokenizer>,
    pub(crate) batch: usize,
    pub(crate) seed: u64,
}

/// A batch of pairs.
pub(crate) struct Pairs {
    /// `[batch, 3, size, size]` in `[-1, 1]`.
    pub(crate) pictures: Vec<f32>,
    /// Token ids `[batch, length]`.
    pub(crate) ids: Vec<u32>,
    /// `[batch, batch]`, added to the scores.
    pub(crate) mask: Vec<f32>,
}

impl Load for PairLoader {
    type Batch = Pairs;

    fn load(&self, index: u64) -> Result<Pairs> {
        let mut augment = Draws::new(self.seed, Stream::Augment, index);
        let mut words = Draws::new(self.seed, Stream::Captions, index);
        let examples = self.pictures.batch(index, self.batch);
        let mut chosen = Vec::new();
        let mut captions = Vec::new();
        for &example in &examples {
            let about = self.pictures.example(example);
            chosen.push((example, Change::draw(&self.augment, about, &mut augment)));
            let text = self.choice.draw(&about.captions, &mut words);
            captions.push(self.tokenizer.encode(&text).ids);
        }
        let rows: Vec<&[u32]> = captions.iter().map(Vec::as_slice).collect();
        Ok(Pairs {
            pictures: self.pictures.tensor(&chosen)?,
            mask: mask(&examples, &rows),
            ids: captions.concat(),
        })
    }
}
