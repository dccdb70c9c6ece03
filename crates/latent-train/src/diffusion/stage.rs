//! One update of the U-Net.

use std::path::Path;
use std::sync::Arc;

use burn::tensor::Tensor;
use latent::{Defaults, Parts, Pipeline, Request};
use latent_formats::{Picture, Sheet};
use latent_models::{UNet2dCondition, UNetCondition};
use latent_nn::training::{Grads, SideBySide};
use latent_nn::{Compute, Exported, parameter_count};
use serde_json::Value;

use super::export;
use super::frozen::Frozen;
use super::loader::{Noised, NoisedLoader};
use crate::checkpoint::Saved;
use crate::config::{Condition, DiffusionConfig};
use crate::error::Result;
use crate::run::{Stage, Update};
use crate::trainee::{Found, Trainee};

/// Parts of the range of timesteps whose losses are logged apart, since their mean hides what each learns.
const BUCKETS: [&str; 8] = ["t0", "t1", "t2", "t3", "t4", "t5", "t6", "t7"];
/// Pictures of a sheet without prompts.
const SHEET: usize = 16;

pub(super) struct DiffusionStage {
    pub(super) trainee: Trainee<UNet2dCondition>,
    pub(super) loader: Arc<NoisedLoader>,
    pub(super) frozen: Frozen,
    pub(super) scheduler: Value,
    pub(super) config: DiffusionConfig,
    pub(super) compute: Compute,
    pub(super) side_by_side: SideBySide,
}

/// The weighted loss of a batch, each picture's own error, and the gradients.
struct Pass {
    loss: f64,
    errors: Vec<f32>,
    timesteps: Vec<usize>,
    gradients: Grads,
}

impl DiffusionStage {
    /// What the network is told, in the order in which [`DiffusionStage::found`] takes it.
    fn inputs(&self, batch: Noised) -> (Vec<usize>, Vec<Vec<f32>>) {
        let numbers = |ids: Vec<u32>| ids.into_iter().map(|id| id as f32).collect();
        let timesteps = batch.timesteps.iter().map(|&timestep| timestep as f32);
        let waves = self.trainee.model().waves(&timesteps.collect::<Vec<_>>());
        let mut inputs = vec![batch.noisy, batch.target, batch.weights, waves];
        match (&self.frozen.text, batch.ids.is_empty()) {
            (Some(_), true) => inputs.push(batch.states),
            (Some(_), false) => inputs.push(numbers(batch.ids)),
            (None, _) if !batch.labels.is_empty() => inputs.push(numbers(batch.labels)),
            (None, _) => {}
        }
        (batch.timesteps, inputs)
    }

    fn pass(&self, batch: Noised) -> Pass {
        let (timesteps, inputs) = self.inputs(batch);
        let frozen = &self.frozen;
        let found = |model: &_, inputs: &[_]| found(frozen, model, inputs);
        let (loss, errors, gradients) = self.trainee.pass(inputs, &self.compute, found);
        Pass {
            loss,
            errors: errors.concat(),
            timesteps,
            gradients,
        }
    }

    /// An update by one pass, which a GPU takes as a whole.
    fn update_at_once(&mut self, step: u64, batch: Noised) -> Update {
        let (timesteps, inputs) = self.inputs(batch);
        let Self {
            trainee,
            frozen,
            compute,
            ..
        } = self;
        let learned = trainee.learn(step, inputs, compute, |model, inputs| {
            found(frozen, model, inputs)
        });
        let errors = learned.shown.concat();
        Update {
            loss: learned.loss,
            parts: by_timestep(timesteps.into_iter().zip(errors), self.config.noise.steps),
            report: learned.report,
        }
    }

    fn pipeline(&self) -> Result<Pipeline> {
        let plain = self.compute.inference();
        Ok(Pipeline::from_parts(
            Parts {
                autoencoder: self.frozen.autoencoder.clone(),
                unet: self.trainee.averaged(),
                text_encoder: self.frozen.text.as_ref().map(|text| text.encoder.clone()),
                tokenizer: self.frozen.text.as_ref().map(|text| text.tokenizer.clone()),
                scheduler_config: self.scheduler.clone(),
                defaults: self.defaults(),
            },
            plain,
        )?)
    }

    fn defaults(&self) -> Defaults {
        let samples = &self.config.samples;
        Defaults {
            steps: samples.steps,
            guidance: samples.guidance,
            sampler: Some(samples.sampler.clone()),
            schedule: None,
            classes: self.loader.pictures.data().classes().to_vec(),
            few_steps: None,
        }
    }
}

/// The weighted loss of a batch, and each picture's own error.
fn found(frozen: &Frozen, model: &UNet2dCondition, inputs: &[Tensor<1>]) -> Found {
    let [c, h, w] = frozen.latent_shape;
    let [noisy, target, weights, waves, told @ ..] = inputs else {
        unreachable!("`inputs` made them")
    };
    let count = weights.dims()[0];
    let latents = |values: &Tensor<1>| values.clone().reshape([count, c, h, w]);
    let condition = match (&frozen.text, told.first()) {
        (Some(text), Some(told)) => {
            let [length, width] = text.state_shape();
            UNetCondition::Text(match told.dims()[0] == count * length {
                // Ids are small whole numbers, exact in f32.
                true => {
                    let ids = told.clone().without_autodiff().int();
                    text.encode(ids.reshape([count, length])).autodiff()
                }
                false => told.clone().reshape([count, length, width]),
            })
        }
        (None, Some(labels)) => UNetCondition::Class(labels.clone().int().reshape([count, 1])),
        _ => UNetCondition::None,
    };
    let waves = waves.clone().reshape([count, waves.dims()[0] / count]);
    let predicted = model.forward_waves(latents(noisy), waves, condition);
    let difference = predicted - latents(target);
    let error = (difference.clone() * difference)
        .reshape([count, c * h * w])
        .mean_dim(1)
        .reshape([count]);
    Found {
        loss: (error.clone() * weights.clone()).mean(),
        shown: vec![error],
    }
}

/// Mean error of each bucket of timesteps, from errors with their timestep.
pub(crate) fn by_timestep(
    errors: impl Iterator<Item = (usize, f32)>,
    timesteps: usize,
) -> Vec<(&'static str, f64)> {
    let mut sums = [(0.0, 0u64); BUCKETS.len()];
    for (timestep, error) in errors {
        let (sum, count) = &mut sums[timestep * BUCKETS.len() / timesteps];
        *sum += f64::from(error);
        *count += 1;
    }
    BUCKETS
        .iter()
        .zip(sums)
        .filter(|(_, (_, count))| *count > 0)
        .map(|(&name, (sum, count))| (name, sum / count as f64))
        .collect()
}

impl Stage for DiffusionStage {
    const NAME: &'static str = "diffusion";
    type Loader = NoisedLoader;

    fn parameters(&self) -> usize {
        parameter_count(self.trainee.model())
    }

    fn examples(&self) -> usize {
        self.loader.pictures.data().len()
    }

    fn loader(&self) -> Arc<NoisedLoader> {
        self.loader.clone()
    }

    fn learning_rate(&self, step: u64) -> f64 {
        self.config
            .optimizer
            .learning_rate
            .at(step, self.config.run.steps)
    }

    fn update(&mut self, step: u64, mut batches: Vec<Noised>) -> Result<Update> {
        if batches.len() == 1 && !self.compute.is_cpu() {
            return Ok(self.update_at_once(step, batches.remove(0)));
        }
        let share = 1.0 / batches.len() as f32;
        let mut passes = self.side_by_side.run(batches, |_, batch| self.pass(batch));
        let mut gradients = Grads::default();
        for pass in &mut passes {
            let mut part = std::mem::take(&mut pass.gradients);
            if share != 1.0 {
                part.scale(share);
            }
            gradients.add(part);
        }
        let loss = passes.iter().map(|pass| pass.loss).sum::<f64>() * f64::from(share);
        let report = self.trainee.update(step, gradients);
        let errors = passes.iter().flat_map(|pass| {
            let timesteps = pass.timesteps.iter().copied();
            timesteps.zip(pass.errors.iter().copied())
        });
        Ok(Update {
            loss,
            parts: by_timestep(errors, self.config.noise.steps),
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
        let mut prompts: Vec<&str> = samples.prompts.iter().map(String::as_str).collect();
        if self.config.condition == Condition::None {
            prompts = vec![
                "";
                if prompts.is_empty() {
                    SHEET
                } else {
                    prompts.len()
                }
            ];
        }
        if prompts.is_empty() {
            return Ok(None);
        }
        let pipeline = self.pipeline()?;
        let mut pictures = Vec::new();
        for (index, prompt) in prompts.iter().enumerate() {
            let request = Request::new(*prompt)
                .seed(samples.seed + index as u64)
                .steps(samples.steps)
                .guidance(samples.guidance)
                .sampler(&samples.sampler);
            pictures.extend(pipeline.generate(&request)?.pictures);
        }
        let cells: Vec<(&str, &Picture)> = prompts.iter().copied().zip(&pictures).collect();
        Ok(Some(Sheet::default().draw_labelled(&cells)?))
    }

    fn export(&self, folder: &Path) -> Result<()> {
        export::pipeline(
            folder,
            &self.trainee.averaged(),
            &self.frozen,
            &self.scheduler,
            &self.defaults(),
            self.loader.pictures.data(),
        )
    }
}
