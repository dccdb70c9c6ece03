//! One update of the text encoder and the image tower.

use std::path::Path;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::Tensor;
use latent_formats::{Filter, Picture, Sheet, Weights};
use latent_models::{ClipTextModel, ImageTower, read_parameter};
use latent_nn::{Compute, Exported, parameter_count, to_host};

use super::contrastive::{accuracy, loss};
use super::loader::{PairLoader, Pairs};
use crate::checkpoint::Saved;
use crate::config::TextEncoderConfig;
use crate::error::Result;
use crate::eval::write_preprocessor;
use crate::run::{Load, Stage, Update};
use crate::trainee::{Found, Trainee};

/// Both networks, trained as one.
#[derive(Module, Debug)]
pub(super) struct Pair {
    pub(super) text: ClipTextModel,
    pub(super) image: ImageTower,
}

impl Pair {
    /// Scores `[n, captions]` of `pictures [n, 3, size, size]` and captions' pooled states `[captions, c]`: cosines times the
    /// learned scale.
    fn scores(&self, pictures: Tensor<4>, pooled: Tensor<2>) -> Tensor<2> {
        let image = self.image.embed(pictures);
        let text = self.image.project_text(pooled);
        let cosines = image.matmul(text.transpose());
        cosines * self.image.scale().unsqueeze()
    }
}

pub(super) struct TextEncoderStage {
    pub(super) trainee: Trainee<Pair>,
    pub(super) loader: Arc<PairLoader>,
    pub(super) config: TextEncoderConfig,
    pub(super) compute: Compute,
}

/// The weights of folders that an earlier run exported.
pub(super) struct Exports {
    text: Weights,
    image: Weights,
}

impl Exports {
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let open = |part| Weights::open(&folder.join(part).join("model.safetensors"));
        Ok(Self {
            text: open("text_encoder")?,
            image: open("image_tower")?,
        })
    }

    /// Values of the [`Pair`]'s parameter `path`.
    pub(super) fn read(&self, path: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let (weights, name) = match path.split_once('.') {
            Some(("text", rest)) => (&self.text, rest),
            Some((_, rest)) => (&self.image, rest),
            None => (&self.image, path),
        };
        Ok(read_parameter(weights, name, shape)?)
    }
}

impl Stage for TextEncoderStage {
    const NAME: &'static str = "text-encoder";
    type Loader = PairLoader;

    fn parameters(&self) -> usize {
        parameter_count(self.trainee.model())
    }

    fn examples(&self) -> usize {
        self.loader.pictures.data().len()
    }

    fn loader(&self) -> Arc<PairLoader> {
        self.loader.clone()
    }

    fn learning_rate(&self, step: u64) -> f64 {
        self.config
            .optimizer
            .learning_rate
            .at(step, self.config.run.steps)
    }

    fn update(&mut self, step: u64, batches: Vec<Pairs>) -> Result<Update> {
        let [pairs] = <[Pairs; 1]>::try_from(batches)
            .unwrap_or_else(|_| unreachable!("the config was checked: no accumulation"));
        let (count, size) = (self.config.run.batch, self.config.data.size);
        let captions = pairs.captions(count);
        let width = pairs.ids.len() / captions;
        // Ids are small whole numbers, exact in f32.
        let ids = pairs.ids.iter().map(|&id| id as f32).collect();
        let ends = self.trainee.model().text.end_rows(&pairs.ids, width);
        let ends = ends.into_iter().map(|row| row as f32).collect();
        let inputs = vec![pairs.pictures, ids, ends, pairs.mask];
        let Self {
            trainee, compute, ..
        } = self;
        let learned = trainee.learn(step, inputs, compute, |model, inputs| {
            let [pictures, ids, ends, mask] = inputs else {
                unreachable!("four were given")
            };
            let pictures = pictures.clone().reshape([count, 3, size, size]);
            let ids = ids.clone().int().reshape([captions, width]);
            let pooled = model.text.forward_pooled_at(ids, ends.clone().int()).pooled;
            let scores = model.scores(pictures, pooled) + mask.clone().reshape([count, captions]);
            Found {
                loss: loss(scores.clone()),
                shown: vec![scores.reshape([count * captions])],
            }
        });
        let right = accuracy(&learned.shown.concat(), captions);
        Ok(Update {
            loss: learned.loss,
            parts: vec![("accuracy", right)],
            report: learned.report,
        })
    }

    fn state(&self) -> Vec<Exported> {
        self.trainee.state()
    }

    fn restore(&mut self, saved: &Saved) -> Result<()> {
        self.trainee.restore(saved)
    }

    /// Pictures of one batch, each labelled with what the averaged model takes for its caption.
    fn sheet(&self) -> Result<Option<Picture>> {
        let size = self.config.data.size;
        let pairs = self.loader.load(0)?;
        let model = self.trainee.averaged();
        let count = self.config.run.batch;
        let plain = self.compute.inference();
        let captions = pairs.captions(count);
        let width = pairs.ids.len() / captions;
        let pictures = plain.tensor(pairs.pictures.clone(), [count, 3, size, size]);
        let ids = plain.ids(&pairs.ids, [captions, width]);
        let scores = model.scores(pictures, model.text.forward(ids).pooled);
        let scores = to_host(scores).0;
        let length = 3 * size * size;
        let mut pictures = Vec::new();
        for index in 0..count.min(24) {
            let row = &scores[index * captions..][..count];
            let best = (0..count)
                .max_by(|&a, &b| row[a].total_cmp(&row[b]))
                .unwrap_or(index);
            let text = self
                .loader
                .tokenizer
                .decode(&pairs.ids[best * width..(best + 1) * width]);
            let picture = &pairs.pictures[index * length..(index + 1) * length];
            // Twice as large, so that the words below it fit.
            let picture = Picture::from_f32_nchw(picture, size, size)?;
            pictures.push((text, picture.resize(2 * size, 2 * size, Filter::Triangle)?));
        }
        let cells: Vec<(&str, &Picture)> = pictures
            .iter()
            .map(|(text, picture)| (text.as_str(), picture))
            .collect();
        Ok(Some(Sheet::default().draw_labelled(&cells)?))
    }

    fn export(&self, folder: &Path) -> Result<()> {
        let model = self.trainee.averaged();
        model.text.save(&folder.join("text_encoder"))?;
        let tower = folder.join("image_tower");
        model.image.save(&tower)?;
        write_preprocessor(&tower, self.config.data.size, &self.config.opposites)?;
        Ok(self.loader.tokenizer.save(&folder.join("tokenizer"))?)
    }
}
