//! What a LoRA's file says of itself: kohya's `ss_` keys, and Stability AI's ModelSpec.

use latent::{Pipeline, Precision};
use latent_models::{LayerKind, ModelFolder};
use serde_json::{Map, json};

use super::loader::{Lessons, Pictures};
use super::networks::Layers;
use crate::config::{Distillation, LoraConfig};
use crate::error::Result;

/// A key and its value.
type Said = (&'static str, String);

/// Keys and values.
///
/// Source: kohya's sd-scripts, `train_network.py` and `library/sai_model_spec.py`; ModelSpec 1.0.0.
pub(super) fn of(
    config: &LoraConfig,
    (folder, pipeline): (&ModelFolder, &Pipeline),
    layers: &Layers,
    lessons: &Lessons,
) -> Result<Vec<(String, String)>> {
    let all = [
        of_factors(config, layers),
        of_model(config, folder, pipeline)?,
        of_run(config, pipeline),
        match lessons {
            Lessons::Pictures(pictures) => of_pictures(config, pictures),
            Lessons::Paths(_) => of_paths(config),
        },
    ];
    let all = all.into_iter().flatten();
    Ok(all.map(|(key, value)| (key.to_owned(), value)).collect())
}

fn of_factors(config: &LoraConfig, layers: &Layers) -> Vec<Said> {
    let lora = &config.lora;
    let (rank, alpha) = (lora.rank.to_string(), lora.alpha().to_string());
    let arguments = if layers.count(LayerKind::Convolution) > 0 {
        json!({ "conv_dim": rank, "conv_alpha": alpha })
    } else {
        json!({})
    };
    vec![
        ("ss_network_module", "networks.lora".to_owned()),
        ("ss_network_dim", rank),
        ("ss_network_alpha", alpha),
        ("ss_network_args", arguments.to_string()),
        ("ss_output_name", config.title()),
    ]
}

fn of_model(config: &LoraConfig, folder: &ModelFolder, pipeline: &Pipeline) -> Result<Vec<Said>> {
    let (family, velocity) = (folder.family().name, folder.predicts_velocity()?);
    let version = match family {
        "sdxl" => "sdxl_base_v1-0",
        "sd2" if velocity => "sd_v2_v",
        "sd2" => "sd_v2",
        _ => "sd_v1",
    };
    let size = config.data.size;
    let prediction = if velocity { "v" } else { "epsilon" };
    Ok(vec![
        ("ss_base_model_version", version.to_owned()),
        ("ss_v2", is(family == "sd2")),
        ("ss_sd_model_name", pipeline.model_name().to_owned()),
        ("modelspec.sai_model_spec", "1.0.0".to_owned()),
        (
            "modelspec.architecture",
            format!("{}/lora", folder.architecture()?),
        ),
        (
            "modelspec.implementation",
            "https://github.com/Stability-AI/generative-models".to_owned(),
        ),
        ("modelspec.title", config.title()),
        ("modelspec.resolution", format!("{size}x{size}")),
        ("modelspec.prediction_type", prediction.to_owned()),
    ])
}

fn of_run(config: &LoraConfig, pipeline: &Pipeline) -> Vec<Said> {
    let run = &config.run;
    let rate = config.optimizer.learning_rate.peak.to_string();
    let text_rate = config.text_encoder.as_ref().map(|text| text.learning_rate);
    let precision = match pipeline.precision() {
        Precision::Bf16 => "bf16",
        _ => "no",
    };
    // kohya counts the last layer too.
    let skip = (config.clip_skip > 0).then_some((config.clip_skip + 1) as f64);
    let prior = config.prior.as_ref().map_or(1.0, |prior| prior.weight);
    vec![
        ("ss_learning_rate", rate.clone()),
        ("ss_unet_lr", rate),
        ("ss_text_encoder_lr", or_none(text_rate)),
        ("ss_max_train_steps", run.steps.to_string()),
        ("ss_batch_size_per_device", run.batch.to_string()),
        (
            "ss_gradient_accumulation_steps",
            run.accumulation.to_string(),
        ),
        ("ss_seed", run.seed.to_string()),
        ("ss_mixed_precision", precision.to_owned()),
        ("ss_clip_skip", or_none(skip)),
        (
            "ss_caption_dropout_rate",
            config.caption_dropout.to_string(),
        ),
        ("ss_noise_offset", config.loss.noise_offset.to_string()),
        ("ss_min_snr_gamma", or_none(config.loss.min_snr_gamma)),
        ("ss_prior_loss_weight", prior.to_string()),
    ]
}

fn of_pictures(config: &LoraConfig, pictures: &Pictures) -> Vec<Said> {
    let size = config.data.size;
    let shapes = pictures.own.counts().into_iter().enumerate();
    let shapes: Map<_, _> = shapes
        .map(|(place, (shape, count))| {
            let about = json!({ "resolution": shape, "count": count });
            (place.to_string(), about)
        })
        .collect();
    let class = pictures.class.as_ref();
    let of_class = class.map_or(0, |(class, _)| class.data().len());
    vec![
        ("ss_num_train_images", pictures.own.data().len().to_string()),
        ("ss_num_reg_images", of_class.to_string()),
        ("ss_resolution", format!("({size}, {size})")),
        ("ss_enable_bucket", is(config.buckets.enabled)),
        ("ss_bucket_info", json!({ "buckets": shapes }).to_string()),
    ]
}

/// How a LoRA for few steps came about, and how it is used.
fn of_paths(config: &LoraConfig) -> Vec<Said> {
    let Some(distillation) = &config.distillation else {
        return Vec::new();
    };
    let Distillation {
        steps,
        teacher_steps,
        guidance,
        paths,
    } = distillation;
    let size = config.data.size;
    vec![
        ("ss_resolution", format!("({size}, {size})")),
        (
            "modelspec.description",
            format!(
                "Draws in {steps} steps of DDIM with trailing timesteps and without guidance; distilled from {paths} paths of \
                 {teacher_steps} steps with guidance {guidance}."
            ),
        ),
        (
            "modelspec.usage_hint",
            format!("{steps} steps, guidance 1, sampler ddim, schedule trailing"),
        ),
    ]
}

/// As Python says it.
fn is(holds: bool) -> String {
    if holds { "True" } else { "False" }.to_owned()
}

/// The same.
fn or_none(value: Option<f64>) -> String {
    value.map_or_else(|| "None".to_owned(), |value| value.to_string())
}
