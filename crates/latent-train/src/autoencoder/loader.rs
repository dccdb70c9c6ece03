//! Batches of the autoencoder stage.

use crate::config::Augment;
use crate::error::Result;
use crate::pictures::{Change, Pictures};
use crate::random::{Draws, Stream};
use crate::run::Load;

/// Pictures, flipped and shifted.
pub(crate) struct PictureLoader {
    pub(crate) pictures: Pictures,
    pub(crate) augment: Augment,
    pub(crate) batch: usize,
    pub(crate) seed: u64,
}

impl Load for PictureLoader {
    /// `[batch, 3, size, size]` in `[-1, 1]`.
    type Batch = Vec<f32>;

    fn load(&self, index: u64) -> Result<Vec<f32>> {
        let mut draws = Draws::new(self.seed, Stream::Augment, index);
        let chosen: Vec<_> = self
            .pictures
            .batch(index, self.batch)
            .into_iter()
            .map(|example| {
                let change =
                    Change::draw(&self.augment, self.pictures.example(example), &mut draws);
                (example, change)
            })
            .collect();
        self.pictures.tensor(&chosen)
    }
}
