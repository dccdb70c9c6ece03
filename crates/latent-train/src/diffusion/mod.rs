//! The diffusion stage: a U-Net learns to take noise from the latents of the frozen autoencoder.

mod export;
mod frozen;
mod latents;
mod loader;
mod noise;
mod stage;
mod texts;

use std::sync::Arc;

use latent_data::Captions;
use latent_models::{UNet2dCondition, read_parameter};
use latent_nn::{Compute, Init};
use latent_sampling::{NoiseSchedule, SchedulerConfig};

use crate::config::{Condition, DiffusionConfig};
use crate::error::{Result, TrainError};
use crate::events::{Event, Finished, Options};
use crate::pictures::Pictures;
use crate::run::{side_by_side, train};
use crate::text_encoder::part_of;
use crate::trainee::Trainee;
use frozen::Frozen;
use latents::LatentCache;
use loader::{Conditions, NoisedLoader};
use stage::DiffusionStage;
use texts::TextCache;

pub(crate) use noise::{Noising, stratified_timesteps};
pub(crate) use stage::by_timestep;

/// Trains a U-Net and exports a whole pipeline folder as `model/`.
///
/// # Errors
/// [`TrainError`]: the data, the frozen models, the config's sizes against theirs, a checkpoint of another run, a
/// loss that is not finite.
pub fn train_diffusion(
    config: &DiffusionConfig,
    options: &Options,
    progress: &mut dyn FnMut(&Event),
) -> Result<Finished> {
    let run = &config.run;
    let selected = latent_nn::select_device(&options.device)?;
    let plain = Compute {
        precision: run.precision.resolve(&selected),
        device: selected.device,
    };
    let captions = match config.condition {
        Condition::Text => Captions::Required,
        Condition::Class | Condition::None => Captions::Optional,
    };
    let pictures = Pictures::open(&config.data, captions, run.seed)?;
    let frozen = Frozen::open(config, &plain)?;
    fits(config, &frozen, &pictures)?;
    let compute = plain.autodiff();
    let trainee = trainee(config, &compute)?;
    let stopped = Finished {
        step: 0,
        complete: false,
        model: None,
        loss: None,
    };
    let Some(latents) = LatentCache::build(config, &pictures, &frozen, options, progress)? else {
        return Ok(stopped);
    };
    let Some(conditions) = conditions(config, &pictures, &frozen, options, progress)? else {
        return Ok(stopped);
    };
    let scheduler = export::scheduler_config(config);
    let schedule = NoiseSchedule::new(&SchedulerConfig::from_json(&scheduler)?)?;
    let loader = NoisedLoader {
        pictures: Arc::new(pictures),
        latents,
        conditions,
        noising: Noising::new(schedule, &config.loss),
        batch: run.batch,
        seed: run.seed,
    };
    let side_by_side = side_by_side(run, &compute)?;
    let mut stage = DiffusionStage {
        trainee,
        loader: Arc::new(loader),
        frozen,
        scheduler,
        config: config.clone(),
        compute,
        side_by_side,
    };
    train(&mut stage, config, options, selected.name, progress)
}

/// The U-Net to train, with new weights or those of the folder `run.init`.
fn trainee(config: &DiffusionConfig, compute: &Compute) -> Result<Trainee<UNet2dCondition>> {
    let run = &config.run;
    let model = UNet2dCondition::new(&config.unet, &mut Init::seeded(compute, run.seed))?;
    let mut trainee = Trainee::new("unet", model, &config.optimizer, run.steps, true);
    if let Some(folder) = &run.init {
        let path = part_of(folder, "unet").join("diffusion_pytorch_model.safetensors");
        let weights = latent_formats::Weights::open(&path)?;
        trainee.start_from(|path, shape| Ok(read_parameter(&weights, path, shape)?))?;
    }
    Ok(trainee)
}

/// What the U-Net will be told; `None` if the build of a cache was stopped.
fn conditions(
    config: &DiffusionConfig,
    pictures: &Pictures,
    frozen: &Frozen,
    options: &Options,
    progress: &mut dyn FnMut(&Event),
) -> Result<Option<Conditions>> {
    Ok(match (config.condition, &frozen.text) {
        (Condition::Text, Some(text)) => {
            TextCache::build(config, pictures, text, options, progress)?.map(Conditions::Texts)
        }
        (Condition::Class, _) => Some(Conditions::Classes {
            labels: labels(pictures)?,
            none: pictures.data().classes().len() as u32,
            dropout: config.caption_dropout,
        }),
        _ => Some(Conditions::Nothing),
    })
}

/// Label of each example.
fn labels(pictures: &Pictures) -> Result<Vec<u32>> {
    let classes = pictures.data().classes();
    let label = |example: &latent_data::Example| {
        let place = example
            .class
            .as_ref()
            .and_then(|class| classes.iter().position(|known| known == class));
        place.map(|place| place as u32).ok_or_else(|| {
            TrainError::Other(format!(
                "{}: example `{}` has no class; with `condition = \"class\"` each needs one",
                pictures.data().path().display(),
                example.key
            ))
        })
    };
    pictures.data().examples().iter().map(label).collect()
}

/// An error if the U-Net's sizes do not fit the latents, the text states or the classes.
fn fits(config: &DiffusionConfig, frozen: &Frozen, pictures: &Pictures) -> Result<()> {
    let unet = &config.unet;
    let mut needed = vec![
        ("unet.in_channels", unet.in_channels, frozen.latent_shape[0]),
        (
            "unet.out_channels",
            unet.out_channels,
            frozen.latent_shape[0],
        ),
        ("unet.sample_size", unet.sample_size, frozen.latent_shape[1]),
    ];
    if let Some(text) = &frozen.text {
        needed.push((
            "unet.cross_attention_dim",
            unet.cross_attention_dim,
            text.state_shape()[1],
        ));
    }
    if config.condition == Condition::Class {
        let classes = pictures.data().classes().len() + 1;
        needed.push((
            "unet.num_class_embeds",
            unet.num_class_embeds.unwrap_or(0),
            classes,
        ));
    }
    for (key, found, needed) in needed {
        if found != needed {
            return Err(TrainError::Other(format!(
                "`{key}` is {found}; the autoencoder, text encoder and data of this config need {needed}"
            )));
        }
    }
    Ok(())
}
