//! The text-encoder stage: a text transformer and an image tower that learn to find each other's pairs.

mod contrastive;
mod loader;
mod stage;
mod twins;

pub(crate) use loader::PairLoader;
pub(crate) use twins::{Opposites, bare};

use std::path::Path;
use std::sync::Arc;

use latent_data::Captions;
use latent_models::{ClipTextModel, ClipTokenizer, ImageTower, train_tokenizer};
use latent_nn::{Compute, Init};

use crate::config::TextEncoderConfig;
use crate::error::Result;
use crate::events::{Event, Finished, Options, Resume};
use crate::pictures::{CaptionChoice, Pictures};
use crate::run::train;
use crate::trainee::Trainee;
use stage::{Exports, Pair, TextEncoderStage};

/// Trains a text encoder with an image tower and exports `text_encoder/`, `tokenizer/` and `image_tower/` into
/// `model/`.
///
/// # Errors
/// [`crate::TrainError`]: the data or its captions, the config's models, a checkpoint of another run, a loss that is
/// not finite.
pub fn train_text_encoder(
    config: &TextEncoderConfig,
    options: &Options,
    progress: &mut dyn FnMut(&Event),
) -> Result<Finished> {
    let run = &config.run;
    let selected = latent_nn::select_device(&options.device)?;
    let compute = Compute {
        precision: run.precision.resolve(&selected),
        device: selected.device,
    }
    .autodiff();
    let pictures = Pictures::open(&config.data, Captions::Required, run.seed)?;
    let tokenizer = Arc::new(tokenizer(config, &pictures, options, progress)?);
    let text_config = tokenizer.fitted(&config.text);
    let mut init = Init::seeded(&compute, run.seed);
    let model = Pair {
        text: ClipTextModel::new(&text_config, &mut init)?,
        image: ImageTower::new(&config.image, text_config.hidden_size, &mut init)?,
    };
    let mut trainee = Trainee::new("text_encoder", model, &config.optimizer, run.steps, true);
    if let Some(folder) = &run.init {
        let exports = Exports::open(folder)?;
        trainee.start_from(|path, shape| exports.read(path, shape))?;
    }
    let loader = PairLoader {
        pictures,
        augment: config.augment.clone(),
        choice: CaptionChoice {
            languages: config.data.languages,
            style_dropout: config.style_dropout,
        },
        opposites: Opposites::new(config.opposites.clone()),
        tokenizer: tokenizer.clone(),
        batch: run.batch,
        seed: run.seed,
    };
    let mut stage = TextEncoderStage {
        trainee,
        loader: Arc::new(loader),
        config: config.clone(),
        compute,
    };
    train(&mut stage, config, options, selected.name, progress)
}

/// The tokenizer: the config's, the one this run trained before, or one trained now on all captions.
fn tokenizer(
    config: &TextEncoderConfig,
    pictures: &Pictures,
    options: &Options,
    progress: &mut dyn FnMut(&Event),
) -> Result<ClipTokenizer> {
    let length = config.text.max_position_embeddings;
    if let Some(path) = &config.tokenizer.path {
        return Ok(ClipTokenizer::open(path, length)?);
    }
    let folder = config.run.folder.join("tokenizer");
    if options.resume == Resume::Auto && folder.join("merges.txt").exists() {
        return Ok(ClipTokenizer::open(&folder, length)?);
    }
    progress(&Event::Preparing {
        what: "tokenizer",
        done: 0,
        total: 1,
    });
    let captions = pictures
        .data()
        .examples()
        .iter()
        .flat_map(|example| &example.captions);
    let texts = captions.map(|caption| caption.text.as_str());
    let size = config.tokenizer.vocab_size.unwrap_or(0);
    let tokenizer = train_tokenizer(texts, size, length)?;
    tokenizer.save(&folder)?;
    progress(&Event::Preparing {
        what: "tokenizer",
        done: 1,
        total: 1,
    });
    Ok(tokenizer)
}

/// Folder of a part below a model's folder, or the folder itself if it is that part.
pub(crate) fn part_of(folder: &Path, part: &str) -> std::path::PathBuf {
    let below = folder.join(part);
    if below.is_dir() {
        below
    } else {
        folder.to_path_buf()
    }
}
