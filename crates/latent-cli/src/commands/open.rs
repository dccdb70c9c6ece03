//! Opens the model that the flags name.

use std::path::Path;

use latent::models::{ClipTokenizer, ModelFolder};
use latent::{Pipeline, Precision};

use crate::args::{Compute, Model, PrecisionFlag, PredictionFlag};
use crate::fault::Fault;
use crate::terminal::Terminal;

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
    let mut builder = lay(builder(&model.compute))?;
    let spinner = terminal.spinner("opening the model");
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
    spinner.finish_and_clear();
    let pipeline = opened?;
    if model.compute.device == "auto" {
        terminal.note(format_args!("device: {}", pipeline.device_name()));
    }
    Ok(pipeline)
}

/// A second pipeline beside that of `model`, on the same device.
///
/// # Errors
/// When it cannot be opened.
pub(crate) fn beside(model: &Model, path: &Path, terminal: &Terminal) -> Result<Pipeline, Fault> {
    let spinner = terminal.spinner("opening the refiner");
    let opened = builder(&model.compute).open(path);
    spinner.finish_and_clear();
    Ok(opened?)
}

fn builder(compute: &Compute) -> latent::Builder {
    let builder = Pipeline::builder().device(&compute.device);
    match precision(compute.precision) {
        Some(precision) => builder.precision(precision),
        None => builder,
    }
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

/// The model at `path`, or the built-in one.
///
/// # Errors
/// When there is none, or it is broken.
pub(crate) fn folder(
    path: Option<&Path>,
    config: Option<&Path>,
    prediction: Option<PredictionFlag>,
) -> Result<ModelFolder, Fault> {
    match path {
        Some(path) => Ok(latent::open_folder_predicting(
            path,
            config,
            prediction.map(Into::into),
        )?),
        None => Ok(latent::builtin_folder()?),
    }
}

/// The files of `--model` and its tokenizer, without opening its networks.
///
/// # Errors
/// When the model cannot be opened or reads no words.
pub(crate) fn words(model: &Model) -> Result<(ModelFolder, ClipTokenizer), Fault> {
    let folder = folder(
        model.model.as_deref(),
        model.config.as_deref(),
        model.prediction,
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
