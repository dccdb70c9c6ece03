//! The autoencoder stage: pictures to latents and back, with little lost.

mod codes;
mod discriminator;
mod loader;
mod perceptual;
mod reconstruct;
mod scaling;
mod stage;

pub(crate) use stage::scalar;

pub(crate) use loader::PictureLoader;
pub(crate) use reconstruct::Reconstruct;
pub use scaling::{LatentStatistics, measure_scaling_factor};

use std::sync::Arc;

use latent_data::Captions;
use latent_models::{
    Autoencoder, AutoencoderKl, ImageTower, SimpleAutoencoder, VqModel, read_parameter,
};
use latent_nn::training::Rates;
use latent_nn::{Compute, Init};

use crate::config::{AutoencoderConfig, AutoencoderKind};
use crate::error::{Result, TrainError};
use crate::events::{Event, Finished, Options};
use crate::pictures::Pictures;
use crate::run::{side_by_side, train};
use crate::text_encoder::part_of;
use crate::trainee::Trainee;
use codes::Codebook;
use discriminator::PatchDiscriminator;
use perceptual::Perceptual;
use stage::{Adversary, AutoencoderStage, ExportAutoencoder};

/// Trains an autoencoder and exports it as `model/vae`, in diffusers' layout.
///
/// # Errors
/// [`TrainError`]: the data, the config's models, a checkpoint of another run, a loss that is not finite.
pub fn train_autoencoder(
    config: &AutoencoderConfig,
    options: &Options,
    progress: &mut dyn FnMut(&Event),
) -> Result<Finished> {
    let selected = latent_nn::select_device(&options.device)?;
    let compute = Compute {
        precision: config.run.precision.resolve(&selected),
        device: selected.device,
    };
    let stretch = Stretch {
        config,
        options,
        device: selected.name,
        compute: compute.autodiff(),
    };
    let mut init = Init::seeded(&stretch.compute, config.run.seed);
    let kind = config
        .kind()
        .map_err(|fault| TrainError::Other(fault.to_string()))?;
    match kind {
        AutoencoderKind::Kl(kl) => stretch.go(AutoencoderKl::new(&kl, &mut init)?, progress),
        AutoencoderKind::Vq(vq) => stretch.go(VqModel::new(&vq, &mut init)?, progress),
        AutoencoderKind::Simple(simple) => {
            stretch.go(SimpleAutoencoder::new(&simple, &mut init)?, progress)
        }
    }
}

/// What the three kinds of autoencoder have in common before the first update.
struct Stretch<'a> {
    config: &'a AutoencoderConfig,
    options: &'a Options,
    device: String,
    compute: Compute,
}

impl Stretch<'_> {
    fn go<M: Reconstruct + ExportAutoencoder>(
        self,
        model: M,
        progress: &mut dyn FnMut(&Event),
    ) -> Result<Finished> {
        let config = self.config;
        let run = &config.run;
        let loader = PictureLoader {
            pictures: Pictures::open(&config.data, Captions::Optional, run.seed)?,
            augment: config.augment.clone(),
            batch: run.batch,
            seed: run.seed,
        };
        let mut generator = Trainee::new("autoencoder", model, &config.optimizer, run.steps, true);
        if config.freeze_encoder {
            // Without gradients weights still decay.
            let still = ["encoder", "quant_conv"].map(|part| (part.to_owned(), 0.0));
            generator = generator.with_rates(Rates(still.into()));
        }
        if let Some(folder) = &run.init {
            let weights = latent_models::autoencoder_weights(folder)?;
            generator.start_from(|path, shape| Ok(read_parameter(&weights, path, shape)?))?;
        }
        let kept_factor = match &run.init {
            Some(folder) if config.freeze_encoder => {
                let folder = part_of(folder, "vae");
                Autoencoder::load(&folder, &self.compute.inference())?.scaling_factor()
            }
            _ => None,
        };
        let codebook = Codebook::new(generator.model().code_count());
        let mut stage = AutoencoderStage {
            generator,
            adversary: self.adversary(),
            perceptual: self.perceptual()?,
            codebook,
            kept_factor,
            loader: Arc::new(loader),
            config: config.clone(),
            compute: self.compute.clone(),
            side_by_side: side_by_side(run, &self.compute)?,
        };
        train(&mut stage, config, self.options, self.device, progress)
    }

    fn adversary(&self) -> Option<Adversary> {
        let config = self.config.discriminator.as_ref()?;
        // A seed of its own, so that the generator's weights do not depend on there being a discriminator.
        let mut init = Init::seeded(&self.compute, self.config.run.seed.wrapping_add(1));
        let model = PatchDiscriminator::new(config.channels, &mut init);
        Some(Adversary {
            trainee: Trainee::new(
                "discriminator",
                model,
                &self.config.optimizer,
                self.config.run.steps,
                false,
            ),
            start: config.start,
            weight: config.weight,
        })
    }

    fn perceptual(&self) -> Result<Option<Perceptual>> {
        let loss = &self.config.loss;
        match &loss.image_tower {
            Some(folder) if loss.perceptual > 0.0 => Ok(Some(Perceptual::new(ImageTower::load(
                folder,
                &self.compute,
            )?))),
            _ => Ok(None),
        }
    }
}
