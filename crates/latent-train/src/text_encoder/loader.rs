//! Batches of the text-encoder stage.

use std::sync::Arc;

use latent_models::ClipTokenizer;

use super::contrastive::{mask, twin_mask};
use super::twins::Opposites;
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
    pub(crate) opposites: Opposites,
    pub(crate) tokenizer: Arc<ClipTokenizer>,
    pub(crate) batch: usize,
    pub(crate) seed: u64,
}

/// A batch of pairs.
pub(crate) struct Pairs {
    /// `[batch, 3, size, size]` in `[-1, 1]`.
    pub(crate) pictures: Vec<f32>,
    /// Token ids `[captions, length]`: the batch's captions, then a wrong twin of each where there are opposites.
    pub(crate) ids: Vec<u32>,
    /// `[batch, captions]`, added to the scores.
    pub(crate) mask: Vec<f32>,
}

impl Pairs {
    /// Captions of a batch of `pictures`, wrong twins among them.
    pub(super) fn captions(&self, pictures: usize) -> usize {
        self.mask.len() / pictures
    }
}

impl Load for PairLoader {
    type Batch = Pairs;

    fn load(&self, index: u64) -> Result<Pairs> {
        let mut augment = Draws::new(self.seed, Stream::Augment, index);
        let mut words = Draws::new(self.seed, Stream::Captions, index);
        let examples = self.pictures.batch(index, self.batch);
        let mut chosen = Vec::new();
        let (mut captions, mut twins) = (Vec::new(), Vec::new());
        for &example in &examples {
            let about = self.pictures.example(example);
            chosen.push((example, Change::draw(&self.augment, about, &mut augment)));
            let text = self.choice.draw(&about.captions, &mut words);
            captions.push(self.tokenizer.encode(&text).ids);
            if !self.opposites.is_empty() {
                let twin = self.opposites.twin(&text, &mut words);
                twins.push(twin.map(|twin| self.tokenizer.encode(&twin).ids));
            }
        }
        let rows: Vec<&[u32]> = captions.iter().map(Vec::as_slice).collect();
        let mask = twin_mask(mask(&examples, &rows), &rows, &twins);
        let stand_ins = captions.iter().zip(twins);
        let twins: Vec<Vec<u32>> = stand_ins
            .map(|(own, twin)| twin.unwrap_or_else(|| own.clone()))
            .collect();
        Ok(Pairs {
            pictures: self.pictures.tensor(&chosen)?,
            mask,
            ids: [captions, twins].concat().concat(),
        })
    }
}
