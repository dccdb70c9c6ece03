//! A whole diffusers folder from the trained U-Net and the models it was trained on.

use std::fs;
use std::path::Path;

use latent::{DEFAULTS_FILE, Defaults, VOCABULARY_FILE};
use latent_data::DataSet;
use latent_formats::{ModelIndex, PartClass, write_json};
use latent_models::UNet2dCondition;
use serde_json::{Map, Value, json};

use super::frozen::Frozen;
use crate::config::{DiffusionConfig, NoiseSchedule};
use crate::error::{Result, TrainError};
use crate::words::vocabulary;

/// `scheduler_config.json`: DDIM over this run's noise schedule.
///
/// Trailing spacing starts at the last timestep, the only one that is pure noise where the schedule was rescaled
/// (arXiv:2305.08891, section 3.3).
pub(super) fn scheduler_config(config: &DiffusionConfig) -> Value {
    let NoiseSchedule {
        beta_schedule,
        beta_start,
        beta_end,
        steps,
        zero_terminal_snr,
    } = &config.noise;
    json!({
        "_class_name": "DDIMScheduler",
        "beta_end": beta_end,
        "beta_schedule": beta_schedule.diffusers_name(),
        "beta_start": beta_start,
        "clip_sample": false,
        "num_train_timesteps": steps,
        "prediction_type": config.loss.prediction.diffusers_name(),
        "rescale_betas_zero_snr": zero_terminal_snr,
        "set_alpha_to_one": true,
        "steps_offset": 0,
        "timestep_spacing": "trailing",
    })
}

/// Writes `unet/`, copies the frozen parts, and names them in `model_index.json`.
pub(super) fn pipeline(
    folder: &Path,
    unet: &UNet2dCondition,
    frozen: &Frozen,
    scheduler: &Value,
    defaults: &Defaults,
    data: &DataSet,
) -> Result<()> {
    unet.save(&folder.join("unet"))?;
    write_json(&folder.join(DEFAULTS_FILE), defaults)?;
    if frozen.text.is_some() {
        vocabulary(data).write(&folder.join(VOCABULARY_FILE))?;
    }
    copy(&frozen.autoencoder_folder, &folder.join("vae"))?;
    let scheduler_folder = folder.join("scheduler");
    fs::create_dir_all(&scheduler_folder).map_err(TrainError::io(&scheduler_folder))?;
    write_json(&scheduler_folder.join("scheduler_config.json"), scheduler)?;
    let mut parts = vec![
        ("scheduler", "diffusers", "DDIMScheduler"),
        ("unet", "diffusers", "UNet2DConditionModel"),
        ("vae", "diffusers", frozen.autoencoder.class_name()),
    ];
    if let Some(text) = &frozen.text {
        copy(&text.encoder_folder, &folder.join("text_encoder"))?;
        copy(&text.tokenizer_folder, &folder.join("tokenizer"))?;
        parts.push(("text_encoder", "transformers", "CLIPTextModel"));
        parts.push(("tokenizer", "transformers", "CLIPTokenizer"));
    }
    parts.sort_unstable();
    let part = |&(name, library, class): &(&str, &str, &str)| {
        let class = PartClass {
            library: library.into(),
            class: class.into(),
        };
        (name.to_string(), Some(class))
    };
    let mut all: Vec<_> = parts.iter().map(part).collect();
    all.extend(["feature_extractor", "safety_checker"].map(|name| (name.to_string(), None)));
    let mut options = Map::new();
    options.insert("requires_safety_checker".into(), Value::Bool(false));
    let index = ModelIndex {
        class_name: "StableDiffusionPipeline".into(),
        diffusers_version: Some("0.42.1".into()),
        parts: all,
        options,
    };
    Ok(index.write(folder)?)
}

/// Copies a folder's files.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).map_err(TrainError::io(to))?;
    for entry in fs::read_dir(from).map_err(TrainError::io(from))? {
        let path = entry.map_err(TrainError::io(from))?.path();
        if let Some(name) = path.file_name().filter(|_| path.is_file()) {
            fs::copy(&path, to.join(name)).map_err(TrainError::io(&path))?;
        }
    }
    Ok(())
}
