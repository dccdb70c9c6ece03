//! Batches of the diffusion stage: noised latents, and what to say about them.

use std::sync::Arc;

use latent_sampling::Latents;

use super::latents::LatentCache;
use super::noise::{Noising, stratified_timesteps};
use super::texts::{Drawn, TextCache};
use crate::error::{Result, TrainError};
use crate::pictures::Pictures;
use crate::random::{Draws, Stream};
use crate::run::Load;

/// What the U-Net is told, by example.
pub(crate) enum Conditions {
    Texts(TextCache),
    Classes {
        /// Label of each example.
        labels: Vec<u32>,
        /// The label of "no class".
        none: u32,
        /// Its odds.
        dropout: f64,
    },
    Nothing,
}

/// Everything a batch is made from.
pub(crate) struct NoisedLoader {
    pub(crate) pictures: Arc<Pictures>,
    pub(crate) latents: LatentCache,
    pub(crate) conditions: Conditions,
    pub(crate) noising: Noising,
    pub(crate) batch: usize,
    pub(crate) seed: u64,
}

/// A batch of noised latents.
#[derive(Default)]
pub(crate) struct Noised {
    /// `[batch, c, h, w]`.
    pub(crate) noisy: Vec<f32>,
    /// What the U-Net should predict, of the same shape.
    pub(crate) target: Vec<f32>,
    /// Timestep of each.
    pub(crate) timesteps: Vec<usize>,
    /// Weight of each one's squared error.
    pub(crate) weights: Vec<f32>,
    /// Text states `[batch, length, width]`; empty without text, and where there are ids.
    pub(crate) states: Vec<f32>,
    /// Token ids `[batch, length]` of texts whose states are not kept.
    pub(crate) ids: Vec<u32>,
    /// Class labels; empty without classes.
    pub(crate) labels: Vec<u32>,
}

impl Load for NoisedLoader {
    type Batch = Noised;

    fn load(&self, index: u64) -> Result<Noised> {
        let draws = |stream| Draws::new(self.seed, stream, index);
        let (mut posterior, mut noises) = (draws(Stream::Posterior), draws(Stream::Noise));
        let mut words = draws(Stream::Captions);
        let start = draws(Stream::Timesteps).uniform();
        let timesteps = stratified_timesteps(start, self.batch, self.noising.timesteps());
        let mut batch = Noised::default();
        let mut clean = Vec::new();
        for example in self.pictures.batch(index, self.batch) {
            clean.extend(self.latents.draw(example, &mut posterior)?);
            match &self.conditions {
                Conditions::Texts(texts) => {
                    match texts.draw(&self.pictures, example, &mut words)? {
                        Drawn::States(states) => batch.states.extend(states),
                        Drawn::Ids(ids) => batch.ids.extend(ids),
                    }
                }
                Conditions::Classes {
                    labels,
                    none,
                    dropout,
                } => {
                    let dropped = words.chance(*dropout);
                    batch
                        .labels
                        .push(if dropped { *none } else { labels[example] });
                }
                Conditions::Nothing => {}
            }
        }
        let noise = self.shaped(noises.normal(clean.len()))?;
        let [noisy, target] = self.noising.apply(&self.shaped(clean)?, &noise, &timesteps);
        batch.noisy = noisy.into_iter().collect();
        batch.target = target.into_iter().collect();
        batch.weights = timesteps
            .iter()
            .map(|&timestep| self.noising.weight(timestep))
            .collect();
        batch.timesteps = timesteps;
        Ok(batch)
    }
}

impl NoisedLoader {
    fn shaped(&self, values: Vec<f32>) -> Result<Latents> {
        let [c, h, w] = self.latents.shape();
        Latents::from_shape_vec([self.batch, c, h, w], values).map_err(|error| {
            TrainError::Other(format!("the cached latents have another shape: {error}"))
        })
    }
}
