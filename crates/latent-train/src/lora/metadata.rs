//! What a LoRA's file says of itself: kohya's `ss_` keys, and Stability AI's ModelSpec.

use latent::{Pipeline, Precision};
use latent_models::{LayerKind, ModelFolder};
use serde_json::json;

use super::networks::Layers;
use super::source::Source;
use crate::config::LoraConfig;
use crate::error::Result;

/// Keys and values.
///
/// Source: kohya's sd-scripts, `train_network.py` and `library/sai_model_spec.py`; ModelSpec 1.0.0.
pub(super) fn of(
    config: &LoraConfig,
    (folder, pipeline): (&ModelFolder, &Pipeline),
    layers: &Layers,
    (own, class): (&Source, Option<&Source>),
) -> Result<Vec<(String, String)>> {
    let architecture = folder.architecture()?;
    let velocity = folder.predicts_velocity()?;
    let version = match folder.family().name {
        "sdxl" => "sdxl_base_v1-0",
        "sd2" if velocity => "sd_v2_v",
        "sd2" => "sd_v2",
        _ => "sd_v1",
    };
    let lora = &config.lora;
    let size = config.data.size;
    let convolutions = layers.count(LayerKind::Convolution) > 0;
    let arguments = if convolutions {
        json!({ "conv_dim": lora.rank.to_string(), "conv_alpha": lora.alpha().to_string() })
    } else {
        json!({})
    };
    let shapes = own.counts().into_iter().enumerate();
    let shapes: serde_json::Map<_, _> = shapes
        .map(|(place, (shape, count))| {
            let about = json!({ "resolution": shape, "count": count });
            (place.to_string(), about)
        })
        .collect();
    let rate = config.optimizer.learning_rate.peak;
    let text_rate = config.text_encoder.as_ref().map(|text| text.learning_rate);
    let optional = |value: Option<f64>| value.map_or_else(|| "None".to_owned(), |v| v.to_string());
    let precision = match pipeline.precision() {
        Precision::Bf16 => "bf16",
        _ => "no",
    };
    let prediction = if velocity { "v" } else { "epsilon" };
    let pairs = [
        ("ss_network_module", "networks.lora".to_owned()),
        ("ss_network_dim", lora.rank.to_string()),
        ("ss_network_alpha", lora.alpha().to_string()),
        ("ss_network_args", arguments.to_string()),
        ("ss_base_model_version", version.to_owned()),
        ("ss_v2", is(folder.family().name == "sd2")),
        ("ss_sd_model_name", pipeline.model_name().to_owned()),
        ("ss_output_name", config.title()),
        ("ss_learning_rate", rate.to_string()),
        ("ss_unet_lr", rate.to_string()),
        ("ss_text_encoder_lr", optional(text_rate)),
        ("ss_max_train_steps", config.run.steps.to_string()),
        ("ss_batch_size_per_device", config.run.batch.to_string()),
        (
            "ss_gradient_accumulation_steps",
            config.run.accumulation.to_string(),
        ),
        ("ss_seed", config.run.seed.to_string()),
        ("ss_mixed_precision", precision.to_owned()),
        ("ss_num_train_images", own.data().len().to_string()),
        (
            "ss_num_reg_images",
            class.map_or(0, |class| class.data().len()).to_string(),
        ),
        ("ss_resolution", format!("({size}, {size})")),
        ("ss_enable_bucket", is(config.buckets.enabled)),
        ("ss_bucket_info", json!({ "buckets": shapes }).to_string()),
        (
            "ss_caption_dropout_rate",
            config.caption_dropout.to_string(),
        ),
        (
            "ss_clip_skip",
            match config.clip_skip {
                0 => "None".to_owned(),
                // kohya counts the last layer too.
                skip => (skip + 1).to_string(),
            },
        ),
        ("ss_noise_offset", config.loss.noise_offset.to_string()),
        ("ss_min_snr_gamma", optional(config.loss.min_snr_gamma)),
        (
            "ss_prior_loss_weight",
            config.prior.as_ref().map_or(1.0, |p| p.weight).to_string(),
        ),
        ("modelspec.sai_model_spec", "1.0.0".to_owned()),
        ("modelspec.architecture", format!("{architecture}/lora")),
        (
            "modelspec.implementation",
            "https://github.com/Stability-AI/generative-models".to_owned(),
        ),
        ("modelspec.title", config.title()),
        ("modelspec.resolution", format!("{size}x{size}")),
        ("modelspec.prediction_type", prediction.to_owned()),
    ];
    let owned = pairs.into_iter();
    Ok(owned.map(|(key, value)| (key.to_owned(), value)).collect())
}

/// As Python says it.
fn is(holds: bool) -> String {
    if holds { "True" } else { "False" }.to_owned()
}
