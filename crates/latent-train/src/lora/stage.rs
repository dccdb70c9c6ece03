//! One update of the factors.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::Tensor;
use latent::{Pipeline, Request};
use latent_formats::{Picture, Sheet};
use latent_models::{LoraDialect, LoraFiles};
use latent_nn::training::{Grads, SideBySide, with_own_leaves};
use latent_nn::{Exported, parameter_count, to_host};

use super::loader::{LoraLoader, Pair, Told};
use super::networks::{Factors, Networks};
use crate::autoencoder::scalar;
use crate::checkpoint::Saved;
use crate::config::LoraConfig;
use crate::diffusion::by_timestep;
use crate::error::Result;
use crate::run::{Stage, Update};
use crate::trainee::Trainee;

/// The name of the file in PEFT's dialect, which diffusers looks for in a folder.
const PEFT_FILE: &str = "pytorch_lora_weights.safetensors";

pub(super) struct LoraStage {
    pub(super) trainee: Trainee<Factors>,
    pub(super) networks: Networks,
    /// The model as it is: draws, and reads captions where text encoders do not train.
    pub(super) pipeline: Pipeline,
    pub(super) loader: Arc<LoraLoader>,
    pub(super) config: LoraConfig,
    pub(super) files: LoraFiles,
    /// What the files say of themselves.
    pub(super) metadata: Vec<(String, String)>,
    pub(super) side_by_side: SideBySide,
}

/// The weighted loss of a pair of batches, the subject's own errors, and the gradients.
pub(super) struct Pass {
    pub(super) loss: f64,
    /// Of the class's pictures, before its weight.
    prior: Option<f64>,
    /// By timestep.
    errors: Vec<(usize, f32)>,
    pub(super) gradients: Grads,
}

impl LoraStage {
    pub(super) fn pass(&self, pair: &Pair) -> Pass {
        let factors = with_own_leaves(self.trainee.model());
        let (own, errors) = self.loss(&factors, &pair.own);
        let weight = self.config.prior.as_ref().map_or(1.0, |prior| prior.weight);
        let (loss, prior) = match &pair.class {
            Some(class) => {
                let (prior, _) = self.loss(&factors, class);
                let value = prior.clone().without_autodiff();
                (own + prior * weight, Some(value))
            }
            None => (own, None),
        };
        // Read after the way back, so that a GPU is not left waiting between the two.
        let value = loss.clone().without_autodiff();
        let gradients = Grads::of(loss, &factors);
        let timesteps = pair.own.timesteps.iter().copied();
        Pass {
            loss: scalar(value),
            prior: prior.map(scalar),
            errors: timesteps.zip(to_host(errors).0).collect(),
            gradients,
        }
    }

    /// The mean of the weighted squared errors, and each picture's own.
    fn loss(&self, factors: &Factors, told: &Told) -> (Tensor<1>, Tensor<2>) {
        let compute = &self.networks.compute;
        let [count, c, h, w] = told.shape;
        let predicted = self.networks.predict(factors, told, &self.pipeline);
        let difference = predicted - compute.tensor(told.target.clone(), told.shape);
        let error = (difference.clone() * difference)
            .reshape([count, c * h * w])
            .mean_dim(1);
        let weights = compute.tensor(told.weights.clone(), [count, 1]);
        ((error.clone() * weights).mean(), error.without_autodiff())
    }

    /// Where the file of a dialect goes.
    fn file(&self, folder: &Path, dialect: LoraDialect) -> PathBuf {
        match dialect {
            LoraDialect::Kohya => folder.join(format!("{}.safetensors", self.config.title())),
            LoraDialect::Peft => folder.join(PEFT_FILE),
        }
    }
}

impl Stage for LoraStage {
    const NAME: &'static str = "lora";
    type Loader = LoraLoader;

    fn parameters(&self) -> usize {
        parameter_count(self.trainee.model())
    }

    fn examples(&self) -> usize {
        self.loader.examples()
    }

    fn loader(&self) -> Arc<LoraLoader> {
        self.loader.clone()
    }

    fn learning_rate(&self, step: u64) -> f64 {
        self.config
            .optimizer
            .learning_rate
            .at(step, self.config.run.steps)
    }

    fn update(&mut self, step: u64, batches: Vec<Pair>) -> Result<Update> {
        let share = 1.0 / batches.len() as f32;
        let mut passes = self.side_by_side.run(batches, |_, pair| self.pass(&pair));
        let mut gradients = Grads::default();
        for pass in &mut passes {
            let mut part = std::mem::take(&mut pass.gradients);
            if share != 1.0 {
                part.scale(share);
            }
            gradients.add(part);
        }
        let loss = passes.iter().map(|pass| pass.loss).sum::<f64>() * f64::from(share);
        let errors = passes.iter().flat_map(|pass| pass.errors.iter().copied());
        let mut parts = by_timestep(errors, self.loader.timesteps());
        let priors: Vec<f64> = passes.iter().filter_map(|pass| pass.prior).collect();
        if !priors.is_empty() {
            parts.push(("prior", priors.iter().sum::<f64>() / priors.len() as f64));
        }
        let report = self.trainee.update(step, gradients);
        Ok(Update {
            loss,
            parts,
            report,
        })
    }

    fn state(&self) -> Vec<Exported> {
        self.trainee.state()
    }

    fn restore(&mut self, saved: &Saved) -> Result<()> {
        self.trainee.restore(saved)
    }

    fn sheet(&self) -> Result<Option<Picture>> {
        let samples = &self.config.samples;
        if samples.prompts.is_empty() {
            return Ok(None);
        }
        let pipeline = self
            .networks
            .drawing(&self.pipeline, &self.trainee.averaged());
        let mut pictures = Vec::new();
        for (index, prompt) in samples.prompts.iter().enumerate() {
            let mut request = Request::new(prompt)
                .seed(samples.seed + index as u64)
                .steps(samples.steps)
                .guidance(samples.guidance)
                .sampler(&samples.sampler)
                .size(self.config.data.size, self.config.data.size);
            request.clip_skip = Some(self.config.clip_skip);
            pictures.extend(pipeline.generate(&request)?.pictures);
        }
        let prompts = samples.prompts.iter().map(String::as_str);
        let cells: Vec<(&str, &Picture)> = prompts.zip(&pictures).collect();
        Ok(Some(Sheet::default().draw_labelled(&cells)?))
    }

    fn export(&self, folder: &Path) -> Result<()> {
        let factors = self.trainee.averaged();
        let layers = self.networks.layers.with(&factors);
        for dialect in [LoraDialect::Kohya, LoraDialect::Peft] {
            let path = self.file(folder, dialect);
            let dtype = self.config.save_as.dtype();
            self.files
                .write(&path, dialect, &layers, &self.metadata, dtype)?;
        }
        Ok(())
    }
}
