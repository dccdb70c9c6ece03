//! One update of the text encoder and the image tower.

use std::path::Path;
use std::sync::Arc;

use burn::module::Module;
use latent_formats::{Filter, Picture, Sheet, Weights};
use latent_models::{ClipTextModel, ImageTower, read_parameter};
use latent_nn::training::Grads;
use latent_nn::{Compute, Exported, parameter_count, to_host};

use super::contrastive::{accuracy, loss};
use super::loader::{PairLoader, Pairs};
use crate::autoencoder::scalar;
use crate::checkpoint::Saved;
use crate::config::TextEncoderConfig;
use crate::error::Result;
use crate::eval::write_preprocessor;
use crate::run::{Load, Stage, Update};
use crate::trainee::Trainee;

/// Both networks, trained as one.
#[derive(Module, Debug)]
pub(super) struct Pair {
    pub(super) text: ClipTextModel,
    pub(super) image: ImageTower,
}

impl Pair {
    /// Scores `[n, captions]`, picture by caption: cosines times the learned scale.
    fn scores(&self, pairs: &Pairs, size: usize, compute: &Compute) -> burn::tensor::Tensor<2> {
        let count = pairs.pictures.len() / (3 * size * size);
        let pictures = compute.tensor(pairs.pictures.clone(), [count, 3, size, size]);
        let captions = pairs.captions(count);
        let ids = compute.ids(&pairs.ids, [captions, pairs.ids.len() / captions]);
        let image = self.image.embed(pictures);
        let text = self.image.project_text(self.text.forward(ids).pooled);
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
        let count = self.config.run.batch;
        let model = self.trainee.model();
        let scores = model.scores(&pairs, self.config.data.size, &self.compute)
            + self
                .compute
                .tensor(pairs.mask.clone(), [count, pairs.captions(count)]);
        let right = accuracy(&to_host(scores.clone()).0, pairs.captions(count));
        let loss = loss(scores);
        let value = scalar(loss.clone());
        let gradients = Grads::of(loss, model);
        let report = self.trainee.update(step, gradients);
        Ok(Update {
            loss: value,
            parts: vec![("accuracy", right)],
            report,
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
        let scores = to_host(model.scores(&pairs, size, &self.compute.inference())).0;
        let length = 3 * size * size;
        let captions = pairs.captions(count);
        let width = pairs.ids.len() / captions;
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
        write_preprocessor(&tower, self.config.data.size)?;
        Ok(self.loader.tokenizer.save(&folder.join("tokenizer"))?)
    }
}
