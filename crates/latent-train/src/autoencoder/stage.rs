//! One update of an autoencoder, and of the discriminator against it.

use std::path::Path;
use std::sync::Arc;

use burn::tensor::Tensor;
use latent_formats::{Picture, Sheet, psnr};
use latent_models::{AutoencoderKl, SimpleAutoencoder, VqModel};
use latent_nn::training::{Grads, SideBySide, StepReport, with_own_leaves};
use latent_nn::{Compute, Exported, parameter_count, to_host};

use super::codes::Codebook;
use super::discriminator::PatchDiscriminator;
use super::loader::PictureLoader;
use super::perceptual::Perceptual;
use super::reconstruct::{Reconstruct, UsedCodes};
use super::scaling::statistics;
use crate::checkpoint::Saved;
use crate::config::AutoencoderConfig;
use crate::error::Result;
use crate::pictures::Change;
use crate::random::{Draws, Stream};
use crate::run::{Stage, Update};
use crate::trainee::{Found, Trainee};

/// Pictures of a sample sheet: each beside its reconstruction.
const SHEET: usize = 12;

/// The discriminator and when and how much it counts.
pub(super) struct Adversary {
    pub(super) trainee: Trainee<PatchDiscriminator>,
    pub(super) start: u64,
    pub(super) weight: f32,
}

pub(super) struct AutoencoderStage<M> {
    pub(super) generator: Trainee<M>,
    pub(super) adversary: Option<Adversary>,
    pub(super) perceptual: Option<Perceptual>,
    pub(super) codebook: Codebook,
    /// The scaling factor of an encoder that stays as it is.
    pub(super) kept_factor: Option<f64>,
    pub(super) loader: Arc<PictureLoader>,
    pub(super) config: AutoencoderConfig,
    pub(super) compute: Compute,
    pub(super) side_by_side: SideBySide,
}

/// Writing a trained autoencoder as a folder that diffusers (our own kind: that we) open.
pub(crate) trait ExportAutoencoder: Sized {
    /// Writes `folder/config.json` and the weights, with the scaling factor where the layout has a place for it.
    fn export(&self, folder: &Path, scaling_factor: f64) -> Result<()>;
}

impl ExportAutoencoder for AutoencoderKl {
    fn export(&self, folder: &Path, scaling_factor: f64) -> Result<()> {
        Ok(self.with_scaling_factor(scaling_factor).save(folder)?)
    }
}

impl ExportAutoencoder for VqModel {
    fn export(&self, folder: &Path, scaling_factor: f64) -> Result<()> {
        Ok(self.with_scaling_factor(scaling_factor).save(folder)?)
    }
}

impl ExportAutoencoder for SimpleAutoencoder {
    fn export(&self, folder: &Path, scaling_factor: f64) -> Result<()> {
        Ok(self.with_scaling_factor(scaling_factor).save(folder)?)
    }
}

/// The reconstruction's error, its gradient, and what it is made of.
struct Judged {
    loss: f64,
    parts: Vec<(&'static str, f64)>,
    gradient: Tensor<4>,
}

/// What one pass found, its share of the update already taken.
struct Pass {
    loss: f64,
    parts: Vec<(&'static str, f64)>,
    gradients: Grads,
    codes: Option<UsedCodes>,
    /// The batch and its reconstructions, without gradients.
    seen: (Tensor<4>, Tensor<4>),
}

/// What an update of several passes adds up.
#[derive(Default)]
struct Sums {
    loss: f64,
    parts: Vec<(&'static str, f64)>,
    gradients: Grads,
    codes: Vec<UsedCodes>,
    seen: Vec<(Tensor<4>, Tensor<4>)>,
}

impl Sums {
    fn add(&mut self, pass: Pass) {
        self.loss += pass.loss;
        for (name, value) in pass.parts {
            self.part(name, value);
        }
        self.gradients.add(pass.gradients);
        self.codes.extend(pass.codes);
        self.seen.push(pass.seen);
    }

    fn part(&mut self, name: &'static str, value: f64) {
        match self.parts.iter_mut().find(|(known, _)| *known == name) {
            Some((_, sum)) => *sum += value,
            None => self.parts.push((name, value)),
        }
    }
}

impl<M: Reconstruct + ExportAutoencoder> AutoencoderStage<M> {
    fn tensor(&self, batch: Vec<f32>) -> Tensor<4> {
        let size = self.config.data.size;
        let count = batch.len() / (3 * size * size);
        self.compute.tensor(batch, [count, 3, size, size])
    }

    /// Forward and backward of one of an update's batches.
    fn pass(&self, step: u64, pass: usize, batch: Vec<f32>, share: f64) -> Pass {
        let pictures = self.tensor(batch);
        let model = with_own_leaves(self.generator.model());
        let index = step * self.config.run.accumulation as u64 + pass as u64;
        let mut draws = Draws::new(self.config.run.seed, Stream::Posterior, index);
        let mut noise = |shape: [usize; 4]| {
            self.compute
                .tensor(draws.normal(shape.iter().product()), shape)
        };
        let found = model.reconstruct(pictures.clone(), &mut noise, &self.config);
        let judged = self.judge(step, pictures.clone(), found.pictures.clone());
        let reconstructions = found.pictures.clone().detach();
        // The gradient at the picture is known; this product carries it, and only it, into the autoencoder.
        let carrier = (found.pictures * judged.gradient).sum() + found.regularisation.clone();
        let mut gradients = Grads::of(carrier, &model);
        gradients.scale(share as f32);
        let mut parts = judged.parts;
        let regularisations = found.parts.into_iter();
        parts.extend(regularisations.map(|(name, value)| (name, scalar(value))));
        for (_, value) in &mut parts {
            *value *= share;
        }
        Pass {
            loss: share * (judged.loss + scalar(found.regularisation)),
            parts,
            gradients,
            codes: found.codes,
            seen: (pictures, reconstructions),
        }
    }

    /// The reconstruction's error and its gradient with respect to the reconstruction.
    ///
    /// Stopping at the picture lets the discriminator's part be scaled against the rest without a second way back
    /// through the autoencoder: its weight is the ratio of the two gradients' lengths **at the picture** (in
    /// Esser et al. 2021, Eq. 7: at the last layer's weights).
    fn judge(&self, step: u64, pictures: Tensor<4>, reconstructions: Tensor<4>) -> Judged {
        let leaf = reconstructions.detach().require_grad();
        let loss = &self.config.loss;
        let difference = leaf.clone() - pictures.clone();
        let mut parts = Vec::new();
        let mut total: Option<Tensor<1>> = None;
        let mut add = |name, value: Tensor<1>, weight: f32| {
            parts.push((name, value.clone()));
            let value = value * weight;
            total = Some(match total.take() {
                Some(sum) => sum + value,
                None => value,
            });
        };
        if loss.l1 > 0.0 {
            add("l1", difference.clone().abs().mean(), loss.l1);
        }
        if loss.l2 > 0.0 {
            add("l2", (difference.clone() * difference).mean(), loss.l2);
        }
        if let Some(perceptual) = &self.perceptual {
            add(
                "perceptual",
                perceptual.distance(pictures, leaf.clone()),
                loss.perceptual,
            );
        }
        let Some(total) = total else {
            unreachable!("the config was checked: `l1` or `l2` counts")
        };
        let value = scalar(total.clone());
        let mut parts: Vec<_> = parts
            .into_iter()
            .map(|(name, value)| (name, scalar(value)))
            .collect();
        let mut gradient = gradient_at(&leaf, total);
        if let Some(adversary) = self
            .adversary
            .as_ref()
            .filter(|adversary| step >= adversary.start)
        {
            let (part, added) = fooling(adversary, &leaf, &gradient);
            parts.push(("fooling", part));
            gradient = gradient + added;
        }
        Judged {
            loss: value,
            parts,
            gradient,
        }
    }

    /// `[c, h, w]` of the latents' noise where an update can be taken by a GPU as a whole: one pass in which nothing depends
    /// on what it finds.
    fn at_once(&self, passes: usize) -> Option<[usize; 3]> {
        let plain = passes == 1 && self.adversary.is_none() && self.perceptual.is_none();
        let shape = self.generator.model().drawn_shape(self.config.data.size);
        shape.filter(|_| plain && !self.compute.is_cpu())
    }

    /// An update by one pass with noise of `[c, h, w]` a picture.
    fn update_at_once(&mut self, step: u64, batch: Vec<f32>, [c, h, w]: [usize; 3]) -> Update {
        let size = self.config.data.size;
        let count = batch.len() / (3 * size * size);
        let noise =
            Draws::new(self.config.run.seed, Stream::Posterior, step).normal(count * c * h * w);
        let Self {
            generator,
            compute,
            config,
            ..
        } = self;
        let weights = &config.loss;
        let learned = generator.learn(step, vec![batch, noise], compute, |model, inputs| {
            let [pictures, noise] = inputs else {
                unreachable!("two were given")
            };
            let pictures = pictures.clone().reshape([count, 3, size, size]);
            let noise = noise.clone().reshape([count, c, h, w]);
            let found = model.reconstruct(pictures.clone(), &mut |_| noise.clone(), config);
            let difference = found.pictures - pictures;
            let l1 = difference.clone().abs().mean();
            let l2 = (difference.clone() * difference).mean();
            Found {
                loss: l1.clone() * weights.l1 + l2.clone() * weights.l2 + found.regularisation,
                shown: [l1, l2]
                    .into_iter()
                    .chain(found.parts.into_iter().map(|(_, part)| part))
                    .collect(),
            }
        });
        let values = learned.shown.iter().map(|value| f64::from(value[0]));
        Update {
            loss: learned.loss,
            parts: ["l1", "l2", "kl"].into_iter().zip(values).collect(),
            report: learned.report,
        }
    }

    /// Trains the discriminator on what was just made.
    fn teach_adversary(&mut self, step: u64, sums: &mut Sums) -> Option<StepReport> {
        let adversary = self
            .adversary
            .as_mut()
            .filter(|adversary| step >= adversary.start)?;
        let seen = std::mem::take(&mut sums.seen);
        let share = 1.0 / seen.len() as f64;
        let trainee = &adversary.trainee;
        let passes = self.side_by_side.run(seen, |_, (pictures, made)| {
            let model = with_own_leaves(trainee.model());
            let loss = model.loss(pictures, made);
            let value = share * scalar(loss.clone());
            let mut gradients = Grads::of(loss, &model);
            gradients.scale(share as f32);
            (value, gradients)
        });
        let mut gradients = Grads::default();
        for (value, pass) in passes {
            sums.part("discriminator", value);
            gradients.add(pass);
        }
        Some(adversary.trainee.update(step, gradients))
    }

    /// Counts the codes that were used, and moves those that never are.
    fn tend_codes(&mut self, step: u64, sums: &mut Sums) {
        let codes = std::mem::take(&mut sums.codes);
        codes.iter().for_each(|codes| self.codebook.count(codes));
        if let Some(last) = codes.last() {
            sums.part("codes_used", self.codebook.used());
            self.codebook
                .revive(&mut self.generator, last, self.config.run.seed, step);
        }
    }

    fn reconstructed(&self, model: &M, examples: &[usize]) -> Result<Vec<(Picture, Picture)>> {
        let size = self.config.data.size;
        let chosen: Vec<_> = examples
            .iter()
            .map(|&index| (index, Change::default()))
            .collect();
        let pictures = self.loader.pictures.tensor(&chosen)?;
        let plain = self.compute.inference();
        let made = model.most_likely(plain.tensor(pictures.clone(), [chosen.len(), 3, size, size]));
        let made = to_host(made).0;
        let length = 3 * size * size;
        pictures
            .chunks_exact(length)
            .zip(made.chunks_exact(length))
            .map(|(real, made)| {
                Ok((
                    Picture::from_f32_nchw(real, size, size)?,
                    Picture::from_f32_nchw(made, size, size)?,
                ))
            })
            .collect()
    }
}

/// How far the discriminator is from taking the reconstruction for a picture, and that part's scaled gradient.
fn fooling(adversary: &Adversary, leaf: &Tensor<4>, beside: &Tensor<4>) -> (f64, Tensor<4>) {
    let leaf = leaf.clone().detach().require_grad();
    let model = with_own_leaves(adversary.trainee.model());
    let loss = -model.forward(leaf.clone()).mean();
    let value = scalar(loss.clone());
    let gradient = gradient_at(&leaf, loss);
    let ratio = length(beside) / (length(&gradient) + 1e-10);
    let weight = ratio.clamp(0.0, 1e4) as f32 * adversary.weight;
    (value, gradient * weight)
}

fn gradient_at(leaf: &Tensor<4>, loss: Tensor<1>) -> Tensor<4> {
    let gradients = loss.backward();
    match leaf.grad(&gradients) {
        Some(gradient) => gradient,
        None => leaf.clone().detach() * 0.0,
    }
}

/// Euclidean length of all values.
fn length(tensor: &Tensor<4>) -> f64 {
    latent_kernels::sum_of_squares(&to_host(tensor.clone()).0).sqrt()
}

pub(crate) fn scalar(tensor: Tensor<1>) -> f64 {
    f64::from(to_host(tensor).0[0])
}

impl<M: Reconstruct + ExportAutoencoder> Stage for AutoencoderStage<M> {
    const NAME: &'static str = "autoencoder";
    type Loader = PictureLoader;

    fn parameters(&self) -> usize {
        parameter_count(self.generator.model())
    }

    fn examples(&self) -> usize {
        self.loader.pictures.data().len()
    }

    fn loader(&self) -> Arc<PictureLoader> {
        self.loader.clone()
    }

    fn learning_rate(&self, step: u64) -> f64 {
        self.config
            .optimizer
            .learning_rate
            .at(step, self.config.run.steps)
    }

    fn update(&mut self, step: u64, mut batches: Vec<Vec<f32>>) -> Result<Update> {
        if let Some(shape) = self.at_once(batches.len()) {
            return Ok(self.update_at_once(step, batches.remove(0), shape));
        }
        let share = 1.0 / batches.len() as f64;
        let passes = self
            .side_by_side
            .run(batches, |index, batch| self.pass(step, index, batch, share));
        let mut sums = Sums::default();
        passes.into_iter().for_each(|pass| sums.add(pass));
        let mut report = self
            .generator
            .update(step, std::mem::take(&mut sums.gradients));
        self.tend_codes(step, &mut sums);
        if let Some(adversary) = self.teach_adversary(step, &mut sums) {
            report.finite &= adversary.finite;
        }
        Ok(Update {
            loss: sums.loss,
            parts: sums.parts,
            report,
        })
    }

    fn state(&self) -> Vec<Exported> {
        let mut state = self.generator.state();
        state.extend(self.codebook.state());
        if let Some(adversary) = &self.adversary {
            state.extend(adversary.trainee.state());
        }
        state
    }

    fn restore(&mut self, saved: &Saved) -> Result<()> {
        self.generator.restore(saved)?;
        self.codebook.restore(saved)?;
        match &mut self.adversary {
            Some(adversary) => adversary.trainee.restore(saved),
            None => Ok(()),
        }
    }

    fn sheet(&self) -> Result<Option<Picture>> {
        let all = self.loader.pictures.data().len();
        let count = SHEET.min(all);
        let examples: Vec<usize> = (0..count).map(|index| index * all / count).collect();
        let pairs = self.reconstructed(&self.generator.averaged(), &examples)?;
        let labels: Vec<String> = pairs
            .iter()
            .map(|(real, made)| Ok(format!("{:.1} dB", psnr(real, made)?)))
            .collect::<Result<_>>()?;
        let mut cells: Vec<(&str, &Picture)> = Vec::new();
        for ((real, made), label) in pairs.iter().zip(&labels) {
            cells.push(("", real));
            cells.push((label, made));
        }
        let sheet = Sheet {
            columns: 6,
            ..Sheet::default()
        };
        Ok(Some(sheet.draw_labelled(&cells)?))
    }

    fn export(&self, folder: &Path) -> Result<()> {
        let model = self.generator.averaged();
        let found = statistics(
            |batch| model.latents(batch),
            &self.loader.pictures,
            &self.compute.inference(),
        )?;
        let factor = self.kept_factor.unwrap_or_else(|| found.scaling_factor());
        model.export(&folder.join("vae"), factor)?;
        latent_formats::write_json(&folder.join("latents.json"), &found)?;
        Ok(())
    }
}
