//! Opens the model that the flags name.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use latent::models::{ClipTokenizer, ModelFolder};
use latent::{Pipeline, Precision};

use crate::args::{Compute, Model, PrecisionFlag, PredictionFlag, Source};
use crate::fault::Fault;
use crate::terminal::{Opening, Terminal};

/// The pipeline of `--model`, `--device` and `--precision`; says which device was taken where that was left open.
///
/// # Errors
/// When the model or the device cannot be opened.
pub(crate) fn pipeline(model: &Model, terminal: &Terminal) -> Result<Pipeline, Fault> {
    pipeline_with(model, terminal, Ok)
}

/// [`pipeline`] with what `lay` lays over the model.
///
/// # Errors
/// As [`pipeline`], and those of `lay`.
pub(crate) fn pipeline_with(
    model: &Model,
    terminal: &Terminal,
    lay: impl FnOnce(latent::Builder) -> Result<latent::Builder, Fault>,
) -> Result<Pipeline, Fault> {
    let pipeline = again(model, terminal, lay)?;
    if model.compute.device == "auto" {
        terminal.note(format_args!("device: {}", pipeline.device_name()));
    }
    Ok(pipeline)
}

/// [`pipeline_with`] for a model that was opened before, in another precision: its device is known.
///
/// # Errors
/// As [`pipeline_with`].
pub(crate) fn again(
    model: &Model,
    terminal: &Terminal,
    lay: impl FnOnce(latent::Builder) -> Result<latent::Builder, Fault>,
) -> Result<Pipeline, Fault> {
    let opening = Opening::new(terminal, "opening the model");
    let mut builder = lay(builder(model, &opening))?;
    if let Some(config) = &model.config {
        builder = builder.config(config);
    }
    if let Some(prediction) = model.prediction {
        builder = builder.prediction(prediction.into());
    }
    let opened = match &model.model {
        Some(folder) => builder.open(folder),
        None => builder.builtin(),
    };
    opening.end();
    Ok(opened?)
}

/// With the model's own LoRA for few steps where that is wanted; `None` leaves it to the model.
pub(crate) fn perhaps_fast(builder: latent::Builder, fast: Option<bool>) -> latent::Builder {
    match fast {
        Some(true) => builder.few_steps(),
        Some(false) => builder,
        None => builder.few_steps_by_default(),
    }
}

/// A second pipeline beside that of `model`, on the same device.
///
/// # Errors
/// When it cannot be opened.
pub(crate) fn beside(model: &Model, path: &Path, terminal: &Terminal) -> Result<Pipeline, Fault> {
    let opening = Opening::new(terminal, "opening the refiner");
    let opened = builder(model, &opening).open(path);
    opening.end();
    Ok(opened?)
}

fn builder(model: &Model, opening: &Arc<Opening>) -> latent::Builder {
    let builder = sourced(Pipeline::builder(), &model.source, opening);
    let builder = builder.device(&model.compute.device);
    match precision(model.compute.precision) {
        Some(precision) => builder.precision(precision),
        None => builder,
    }
}

/// With where a model's files come from, and what shows how they come.
fn sourced(
    mut builder: latent::Builder,
    source: &Source,
    opening: &Arc<Opening>,
) -> latent::Builder {
    if let Some(variant) = &source.variant {
        builder = builder.variant(variant);
    }
    #[cfg(feature = "hub")]
    {
        if source.offline {
            builder = builder.offline();
        }
        let opening = opening.clone();
        builder = builder.on_download(move |progress| {
            opening.at(progress);
            std::ops::ControlFlow::Continue(())
        });
    }
    #[cfg(not(feature = "hub"))]
    let _ = opening;
    builder
}

/// `None` leaves the choice to the hardware.
pub(crate) fn precision(flag: PrecisionFlag) -> Option<Precision> {
    match flag {
        PrecisionFlag::Auto => None,
        PrecisionFlag::F32 => Some(Precision::F32),
        PrecisionFlag::Bf16 => Some(Precision::Bf16),
        PrecisionFlag::Int8 => Some(Precision::Int8),
    }
}

/// The model that `path` names, or the built-in one, and where its files are.
///
/// # Errors
/// When there is none, or it is broken.
pub(crate) fn folder(
    (path, config): (Option<&Path>, Option<&Path>),
    prediction: Option<PredictionFlag>,
    source: &Source,
    terminal: &Terminal,
) -> Result<ModelFolder, Fault> {
    let Some(path) = path else {
        return Ok(latent::builtin_folder()?);
    };
    let opening = Opening::new(terminal, "opening the model");
    let mut builder = sourced(Pipeline::builder(), source, &opening);
    if let Some(config) = config {
        builder = builder.config(config);
    }
    if let Some(prediction) = prediction {
        builder = builder.prediction(prediction.into());
    }
    let opened = builder.open_folder(path);
    opening.end();
    Ok(opened?)
}

/// Where the files are that `path` names, fetched if need be.
///
/// # Errors
/// When the hub does not have them.
pub(crate) fn located(path: &Path, source: &Source, terminal: &Terminal) -> Result<PathBuf, Fault> {
    let opening = Opening::new(terminal, "looking for the model");
    let found = sourced(Pipeline::builder(), source, &opening).locate(path);
    opening.end();
    Ok(found?)
}

/// The files of `--model` and its tokenizer, without opening its networks.
///
/// # Errors
/// When the model cannot be opened or reads no words.
pub(crate) fn words(
    model: &Model,
    terminal: &Terminal,
) -> Result<(ModelFolder, ClipTokenizer), Fault> {
    let folder = folder(
        (model.model.as_deref(), model.config.as_deref()),
        model.prediction,
        &model.source,
        terminal,
    )?;
    let tokenizer = folder.tokenizer()?;
    match tokenizer.or(folder.tokenizer_2()?) {
        Some(tokenizer) => Ok((folder, tokenizer)),
        None => {
            let what = format!("`{}` reads no words", folder.files().path().display());
            Err(Fault::input(what).hint("name a model with a text encoder with `--model PATH`"))
        }
    }
}

/// Device and precision of the flags, for networks outside a pipeline, and the device's name.
///
/// # Errors
/// When the device cannot be had.
pub(crate) fn compute(flags: &Compute) -> Result<(latent::Compute, String), Fault> {
    let selected = latent_nn::select_device(&flags.device)?;
    let precision = precision(flags.precision).unwrap_or_else(|| selected.best_precision());
    Ok((
        latent::Compute {
            device: selected.device,
            precision,
        },
        selected.name,
    ))
}
