//! Batches of LoRA training: noised latents of one shape, and what to say about them.

use latent_data::Caption;
use latent_sampling::Latents;

use super::paths::Paths;
use super::source::Source;
use super::texts::{Texts, Words};
use crate::config::{Languages, LoraConfig};
use crate::diffusion::{Noising, stratified_timesteps};
use crate::error::{Result, TrainError};
use crate::pictures::CaptionChoice;
use crate::random::{Draws, Stream};
use crate::run::Load;

/// Passes over the class's pictures draw from steps that no pass of the subject's reaches.
const CLASS: u64 = 1 << 62;

/// Everything a batch is made from.
pub(super) struct LoraLoader {
    pub(super) lessons: Lessons,
    pub(super) texts: Texts,
    /// Numbers of the pooled text.
    pub(super) pooled: usize,
}

/// What is learned from.
pub(super) enum Lessons {
    Pictures(Box<Pictures>),
    /// The model's own way to pictures.
    Paths(Box<Paths>),
}

/// Pictures that get noise.
pub(super) struct Pictures {
    pub(super) own: Source,
    /// Pictures of the class, and what all of them show.
    pub(super) class: Option<(Source, String)>,
    /// What all pictures of the subject show, in the place of their captions.
    pub(super) caption: Option<String>,
    pub(super) noising: Noising,
    pub(super) rules: Rules,
}

/// What is drawn by chance.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) seed: u64,
    pub(super) flip: f64,
    pub(super) caption_dropout: f64,
    pub(super) noise_offset: f64,
    pub(super) languages: Languages,
}

impl Rules {
    pub(super) fn of(config: &LoraConfig) -> Self {
        Self {
            seed: config.run.seed,
            flip: config.flip,
            caption_dropout: config.caption_dropout,
            noise_offset: config.loss.noise_offset,
            languages: config.data.languages,
        }
    }
}

/// Whose pictures are drawn.
#[derive(Clone, Copy)]
enum Whose<'a> {
    /// Those of the config's data, with their captions.
    Subject,
    /// Those of the class, with what all of them show.
    Class(&'a str),
}

/// One pass over the subject's pictures, and one over the class's.
pub(super) struct Pair {
    pub(super) own: Told,
    pub(super) class: Option<Told>,
}

/// Noised latents of one shape, and what the U-Net is told of them.
#[derive(Debug)]
pub(super) struct Told {
    /// Of the latents, `[n, c, h, w]`.
    pub(super) shape: [usize; 4],
    pub(super) noisy: Vec<f32>,
    /// What the U-Net should predict, of the same shape.
    pub(super) target: Vec<f32>,
    pub(super) timesteps: Vec<usize>,
    /// Weight of each one's squared error.
    pub(super) weights: Vec<f32>,
    pub(super) words: Words,
    /// Sizes `[n, 6]`, for Stable Diffusion XL.
    pub(super) numbers: Vec<f32>,
}

impl Load for LoraLoader {
    type Batch = Pair;

    fn load(&self, index: u64) -> Result<Pair> {
        let words = |texts: &[String]| self.texts.batch(texts, self.pooled);
        match &self.lessons {
            Lessons::Paths(paths) => Ok(Pair {
                own: paths.told(index, words)?,
                class: None,
            }),
            Lessons::Pictures(pictures) => {
                let class = pictures.class.as_ref().map(|(source, prompt)| {
                    pictures.told(source, Whose::Class(prompt), index, words)
                });
                Ok(Pair {
                    own: pictures.told(&pictures.own, Whose::Subject, index, words)?,
                    class: class.transpose()?,
                })
            }
        }
    }
}

impl LoraLoader {
    /// Training examples.
    pub(super) fn examples(&self) -> usize {
        match &self.lessons {
            Lessons::Pictures(pictures) => pictures.own.data().len(),
            Lessons::Paths(paths) => paths.len(),
        }
    }

    /// Timesteps of the model.
    pub(super) fn timesteps(&self) -> usize {
        match &self.lessons {
            Lessons::Pictures(pictures) => pictures.noising.timesteps(),
            Lessons::Paths(paths) => paths.timesteps(),
        }
    }
}

impl Pictures {
    /// Batch `index` of a source.
    fn told(
        &self,
        source: &Source,
        whose: Whose<'_>,
        index: u64,
        words_of: impl Fn(&[String]) -> Result<Words>,
    ) -> Result<Told> {
        let examples = source.batch(index);
        let step = match whose {
            Whose::Subject => index,
            Whose::Class(_) => index + CLASS,
        };
        let draws = |stream| Draws::new(self.rules.seed, stream, step);
        let (mut changes, mut posterior) = (draws(Stream::Augment), draws(Stream::Posterior));
        let mut words = draws(Stream::Captions);
        let (mut clean, mut numbers, mut texts) = (Vec::new(), Vec::new(), Vec::new());
        for &example in &examples {
            let drawn = source.draw(example, self.rules.flip, [&mut changes, &mut posterior])?;
            clean.extend(drawn.latents);
            numbers.extend(drawn.numbers);
            texts.push(match whose {
                Whose::Class(prompt) => prompt.to_owned(),
                Whose::Subject => {
                    self.caption(&source.data().examples()[example].captions, &mut words)
                }
            });
        }
        let [c, h, w] = source.shape(examples[0]);
        let shape = [examples.len(), c, h, w];
        let start = draws(Stream::Timesteps).uniform();
        let timesteps = stratified_timesteps(start, examples.len(), self.noising.timesteps());
        let mut noise = draws(Stream::Noise).normal(clean.len());
        let offset = self.rules.noise_offset as f32;
        if offset > 0.0 {
            let offsets = draws(Stream::Offset).normal(examples.len() * c);
            for (channel, own) in noise.chunks_exact_mut(h * w).zip(offsets) {
                channel.iter_mut().for_each(|value| *value += offset * own);
            }
        }
        let words = words_of(&texts)?;
        self.noised((clean, noise), shape, timesteps, (words, numbers))
    }

    /// One of an example's captions, or none.
    fn caption(&self, captions: &[Caption], draws: &mut Draws) -> String {
        let choice = CaptionChoice {
            languages: self.rules.languages,
            style_dropout: 0.0,
        };
        let own = choice.draw(captions, draws);
        let caption = self.caption.clone().unwrap_or(own);
        if draws.chance(self.rules.caption_dropout) {
            String::new()
        } else {
            caption
        }
    }

    pub(super) fn noised(
        &self,
        (clean, noise): (Vec<f32>, Vec<f32>),
        shape: [usize; 4],
        timesteps: Vec<usize>,
        (words, numbers): (Words, Vec<f32>),
    ) -> Result<Told> {
        let shaped = |values| {
            Latents::from_shape_vec(shape, values).map_err(|error| {
                TrainError::Other(format!("the cached latents have another shape: {error}"))
            })
        };
        let [noisy, target] = self
            .noising
            .apply(&shaped(clean)?, &shaped(noise)?, &timesteps);
        let weight = |&timestep: &usize| self.noising.weight(timestep);
        Ok(Told {
            shape,
            noisy: noisy.into_iter().collect(),
            target: target.into_iter().collect(),
            weights: timesteps.iter().map(weight).collect(),
            timesteps,
            words,
            numbers,
        })
    }
}
