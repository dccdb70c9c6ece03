//! LoRA training: small factors beside the layers of a Stable Diffusion model, which stays as it is.

mod buckets;
mod loader;
mod metadata;
mod networks;
mod paths;
mod prior;
mod source;
mod stage;
mod texts;

use std::sync::Arc;

use latent::Pipeline;
use latent_data::{Captions, DataSet};
use latent_formats::Weights;
use latent_models::{LoraFiles, ModelFolder};
use latent_nn::Init;
use latent_nn::training::Rates;
use latent_sampling::NoiseSchedule;
use sha2::{Digest, Sha256};

use crate::config::LoraConfig;
use crate::diffusion::Noising;
use crate::error::{Result, TrainError};
use crate::events::{Event, Finished, Options};
use crate::run::{side_by_side, train};
use crate::trainee::Trainee;
use loader::{Lessons, LoraLoader, Pictures, Rules};
use networks::{Factors, Networks, reading};
use paths::Paths;
use source::{Source, check_sizes};
use stage::LoraStage;
use texts::Texts;

/// The families that LoRAs are trained for.
const FAMILIES: [&str; 3] = ["sd1", "sd2", "sdxl"];

/// Trains a LoRA on a model and writes it into `model/`, in kohya's dialect and in PEFT's.
///
/// # Errors
/// [`TrainError`]: the model, the data, sizes that do not fit the model, a checkpoint of another run, a loss that is not
/// finite.
pub fn train_lora(
    config: &LoraConfig,
    options: &Options,
    progress: &mut dyn FnMut(&Event),
) -> Result<Finished> {
    match opened(config, options, progress)? {
        Some((mut stage, device)) => train(&mut stage, config, options, device, progress),
        None => Ok(Finished {
            step: 0,
            complete: false,
            model: None,
            loss: None,
        }),
    }
}

/// The stage before its first update, and the device in words; `None` if it was stopped on the way.
fn opened(
    config: &LoraConfig,
    options: &Options,
    progress: &mut dyn FnMut(&Event),
) -> Result<Option<(LoraStage, String)>> {
    let device = latent_nn::select_device(&options.device)?;
    let mut builder = Pipeline::builder()
        .device(&options.device)
        .precision(config.run.precision.resolve(&device));
    if let Some(folder) = &config.model_config {
        builder = builder.config(folder);
    }
    if let Some(prediction) = config.stated_prediction() {
        builder = builder.prediction(prediction);
    }
    let folder = builder.open_folder(&config.model)?;
    check_model(&folder, config)?;
    let captions = match config.caption {
        Some(_) => Captions::Optional,
        None => Captions::Required,
    };
    let data = DataSet::open(&config.data.path, captions)?;
    let pipeline = builder.open(&config.model)?;
    let loader = loader(config, &folder, &pipeline, data, options, progress)?;
    let stage = loader.map(|loader| stage(config, &folder, pipeline, loader));
    Ok(stage.transpose()?.map(|stage| (stage, device.name)))
}

/// Refuses models that have no place for what training tells them.
fn check_model(folder: &ModelFolder, config: &LoraConfig) -> Result<()> {
    let name = folder.family().name;
    let refuse = |reason: &str| {
        Err(TrainError::Other(format!(
            "`{}` is of the family `{name}`, {reason}",
            config.model.display()
        )))
    };
    let reads = folder.text_encoder_config().is_some();
    match name {
        _ if FAMILIES.contains(&name) && reads => Ok(()),
        _ if FAMILIES.contains(&name) => {
            refuse("and is told no words; a LoRA is trained on a model with a text encoder")
        }
        "sd1-inpaint" | "sd2-inpaint" => refuse(
            "whose U-Net also sees a mask; train on the model it was made from: the LoRA fits both",
        ),
        "sdxl-refiner" => refuse("which finishes pictures; train on the base model"),
        "lcm" => refuse(
            "which was distilled over the strength of guidance; train on the model it was made from: the LoRA fits both",
        ),
        _ => refuse("for which no LoRAs are trained here"),
    }
}

/// What makes the batches, its caches built; `None` if that was stopped.
fn loader(
    config: &LoraConfig,
    folder: &ModelFolder,
    pipeline: &Pipeline,
    data: DataSet,
    options: &Options,
    progress: &mut dyn FnMut(&Event),
) -> Result<Option<LoraLoader>> {
    let encoders = sum_of(folder, &["text_encoder", "text_encoder_2"])?;
    let lessons = match &config.distillation {
        Some(distillation) => {
            let sum = sum_of(folder, &["unet"])? + &encoders;
            let (config, model) = ((config, distillation), (pipeline, sum.as_str()));
            let paths = Paths::build(&data, config, model, options, progress)?;
            paths.map(|paths| Lessons::Paths(Box::new(paths)))
        }
        None => {
            let pictures = pictures(config, folder, pipeline, data, options, progress)?;
            pictures.map(|pictures| Lessons::Pictures(Box::new(pictures)))
        }
    };
    let Some(lessons) = lessons else {
        return Ok(None);
    };
    let texts = texts_of(&lessons).chain([String::new()]);
    let frozen = (pipeline, reading(pipeline, config));
    let Some(texts) = Texts::build(texts, config, frozen, &encoders, options, progress)? else {
        return Ok(None);
    };
    let encoders: Vec<_> = pipeline.texts().into_iter().map(|(own, _)| own).collect();
    Ok(Some(LoraLoader {
        lessons,
        texts,
        pooled: texts::pooled_width(&encoders),
    }))
}

/// The pictures with their latents; `None` if encoding or drawing them was stopped.
fn pictures(
    config: &LoraConfig,
    folder: &ModelFolder,
    pipeline: &Pipeline,
    data: DataSet,
    options: &Options,
    progress: &mut dyn FnMut(&Event),
) -> Result<Option<Pictures>> {
    check_sizes(config, pipeline)?;
    let autoencoder = sum_of(folder, &["vae"])?;
    let frozen = (pipeline, autoencoder.as_str());
    let mut class = None;
    if let Some(prior) = &config.prior {
        let Some(pictures) = prior::class_pictures(config, prior, pipeline, options, progress)?
        else {
            return Ok(None);
        };
        let Some(source) = Source::build(pictures, config, frozen, options, progress)? else {
            return Ok(None);
        };
        class = Some((source, prior.prompt.clone()));
    }
    let Some(own) = Source::build(data, config, frozen, options, progress)? else {
        return Ok(None);
    };
    progress(&Event::Note(shapes_in_words(&own)));
    let scheduler = pipeline.scheduler();
    let prediction = scheduler.settings().prediction_type;
    Ok(Some(Pictures {
        own,
        class,
        caption: config.caption.clone(),
        noising: Noising::of(
            NoiseSchedule::new(scheduler)?,
            prediction,
            config.loss.min_snr_gamma,
        ),
        rules: Rules::of(config),
    }))
}

/// Every text that may be told.
fn texts_of(lessons: &Lessons) -> Box<dyn Iterator<Item = String> + '_> {
    match lessons {
        Lessons::Paths(paths) => Box::new(paths.captions().cloned()),
        Lessons::Pictures(pictures) => {
            let examples = pictures.own.data().examples().iter();
            let captions = examples.flat_map(|example| &example.captions);
            let captions = captions.map(|caption| caption.text.clone());
            let prompt = pictures.class.iter().map(|(_, prompt)| prompt.clone());
            let caption = pictures.caption.iter().cloned();
            Box::new(captions.chain(caption).chain(prompt))
        }
    }
}

fn stage(
    config: &LoraConfig,
    folder: &ModelFolder,
    pipeline: Pipeline,
    loader: LoraLoader,
) -> Result<LoraStage> {
    let networks = Networks::new(&pipeline, config);
    let files = LoraFiles::of(pipeline.unet());
    let model = (folder, &pipeline);
    let metadata = metadata::of(config, model, &networks.layers, &loader.lessons)?;
    Ok(LoraStage {
        trainee: trainee(config, &networks, &files)?,
        side_by_side: side_by_side(&config.run, &networks.compute)?,
        networks,
        pipeline,
        loader: Arc::new(loader),
        config: config.clone(),
        files,
        metadata,
    })
}

/// The factors to train: new ones, or those of the LoRA `run.init`.
fn trainee(
    config: &LoraConfig,
    networks: &Networks,
    files: &LoraFiles,
) -> Result<Trainee<Factors>> {
    let mut init = Init::seeded(&networks.compute, config.run.seed);
    let mut factors = Factors::new(&networks.layers, &config.lora, &mut init);
    if let Some(path) = &config.run.init {
        factors = factors.read(&networks.layers, files, &Weights::open(path)?)?;
    }
    let settings = &config.optimizer;
    // An average that keeps nothing is the weights themselves.
    let averages = settings.ema.decay > 0.0;
    let trainee = Trainee::new("lora", factors, settings, config.run.steps, averages);
    let ratio = |rate: f64| (rate / settings.learning_rate.peak) as f32;
    Ok(match &config.text_encoder {
        Some(text) => trainee.with_rates(Rates(vec![(
            "text_encoder".to_owned(),
            ratio(text.learning_rate),
        )])),
        None => trainee,
    })
}

/// How many pictures have which size.
fn shapes_in_words(source: &Source) -> String {
    let counts = source.counts().into_iter();
    let counts = counts.map(|([width, height], count)| format!("{count} of {width}x{height}"));
    let counts: Vec<String> = counts.collect();
    format!("pictures by size: {}", counts.join(", "))
}

/// Checksum of the weights of some parts.
fn sum_of(folder: &ModelFolder, parts: &[&str]) -> Result<String> {
    let mut hash = Sha256::new();
    for part in parts {
        let Some(weights) = folder.part_weights(part)? else {
            continue;
        };
        for name in weights.names() {
            hash.update(name);
            hash.update(&weights.tensor(name)?.bytes);
        }
    }
    Ok(hex(hash))
}

/// The first eight bytes of a checksum.
fn hex(hash: Sha256) -> String {
    let bytes = hash.finalize();
    let start = bytes.iter().take(8);
    start.map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
