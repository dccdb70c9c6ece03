//! One part of a model in a file of its own, in any published layout, under diffusers' names.

use std::path::Path;

use latent_formats::{Renamed, Weights};

use super::ldm::{self, AUTOENCODER, Sizes, TEXT_ENCODER, UNET};
use super::open_clip::{self, OpenClip};
use crate::error::{ModelError, Result};
use crate::weights::canonical_name;

/// How a file may hold one part: the parts it may be, commonest first, a tensor that tells, and what stands before or must
/// be put before its names so that they are those of a whole checkpoint. Rows without such a beginning are in diffusers'
/// layout.
struct Spelling {
    parts: &'static [&'static str],
    tells: &'static str,
    cut: &'static str,
    put: Option<&'static str>,
}

/// A text encoder of a layout that the second one of Stable Diffusion XL may have as well.
const TEXTS: &[&str] = &["text_encoder", "text_encoder_2"];
const SECOND_TEXT: &[&str] = &["text_encoder_2"];

const SPELLINGS: &[Spelling] = &[
    Spelling {
        parts: &["unet"],
        tells: "conv_in.weight",
        cut: "",
        put: None,
    },
    Spelling {
        parts: &["unet"],
        tells: ldm::FIRST,
        cut: "",
        put: Some(""),
    },
    Spelling {
        parts: &["unet"],
        tells: "input_blocks.0.0.weight",
        cut: "",
        put: Some(UNET),
    },
    Spelling {
        parts: &["unet"],
        tells: "diffusion_model.input_blocks.0.0.weight",
        cut: "diffusion_model.",
        put: Some(UNET),
    },
    Spelling {
        parts: &["vae"],
        tells: "encoder.down_blocks.0.resnets.0.conv1.weight",
        cut: "",
        put: None,
    },
    Spelling {
        parts: &["vae"],
        tells: "first_stage_model.encoder.conv_in.weight",
        cut: "",
        put: Some(""),
    },
    Spelling {
        parts: &["vae"],
        tells: "encoder.down.0.block.0.conv1.weight",
        cut: "",
        put: Some(AUTOENCODER),
    },
    Spelling {
        parts: &["vae"],
        tells: "vae.encoder.down.0.block.0.conv1.weight",
        cut: "vae.",
        put: Some(AUTOENCODER),
    },
    Spelling {
        parts: TEXTS,
        tells: "text_model.final_layer_norm.weight",
        cut: "",
        put: None,
    },
    Spelling {
        parts: TEXTS,
        tells: "final_layer_norm.weight",
        cut: "",
        put: None,
    },
    Spelling {
        parts: &["text_encoder"],
        tells: "cond_stage_model.transformer.text_model.final_layer_norm.weight",
        cut: TEXT_ENCODER,
        put: None,
    },
    Spelling {
        parts: &["text_encoder"],
        tells: "cond_stage_model.model.ln_final.weight",
        cut: "",
        put: Some(""),
    },
    Spelling {
        parts: &["text_encoder"],
        tells: "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight",
        cut: "conditioner.embedders.0.transformer.",
        put: None,
    },
    Spelling {
        parts: SECOND_TEXT,
        tells: "conditioner.embedders.1.model.ln_final.weight",
        cut: "conditioner.embedders.1.model.",
        put: Some(open_clip::PREFIX),
    },
    Spelling {
        parts: SECOND_TEXT,
        tells: "conditioner.embedders.0.model.ln_final.weight",
        cut: "conditioner.embedders.0.model.",
        put: Some(open_clip::PREFIX),
    },
    Spelling {
        parts: TEXTS,
        tells: "transformer.resblocks.0.ln_1.weight",
        cut: "",
        put: Some(open_clip::PREFIX),
    },
];

/// Tensors that files of parts hold beside the part.
const BESIDE: &[&str] = &["text_projection.weight", "logit_scale"];
/// One of them, which is of the part where that is Stable Diffusion XL's second text encoder.
const PROJECTION: &str = "text_projection.weight";

/// The weights of `part` in a file, under diffusers' names.
///
/// # Errors
/// [`ModelError::Format`]; [`ModelError::Adapter`] if it holds no such part.
pub(crate) fn loose_part(path: &Path, part: &str) -> Result<Weights> {
    let weights = Weights::open(path)?;
    let spelling = SPELLINGS
        .iter()
        .find(|row| row.parts.contains(&part) && weights.contains(row.tells));
    let projects = part == "text_encoder_2";
    let Some(Spelling { cut, put, .. }) = spelling else {
        let other = SPELLINGS.iter().find(|row| weights.contains(row.tells));
        let what = other.map_or("no part of a model that Latent knows", |row| {
            part_name(row.parts[0])
        });
        return Err(ModelError::Adapter {
            path: path.to_path_buf(),
            reason: format!("holds {what}, and {} is needed", part_name(part)),
        });
    };
    let Some(put) = put else {
        return Ok(weights.renamed(|key| {
            let is_own = |name: &&str| !BESIDE.contains(name) || projects && *name == PROJECTION;
            let name = key.strip_prefix(cut).filter(is_own);
            let name = name.map(|name| Renamed::whole(canonical_name(part, name)));
            name.into_iter().collect()
        }));
    };
    let whole = weights.renamed(|key| {
        let name = key.strip_prefix(cut).map(|name| format!("{put}{name}"));
        name.map(Renamed::whole).into_iter().collect()
    });
    if part.starts_with("text_encoder") {
        let text = OpenClip::of(&whole, open_clip::PREFIX, projects);
        return Ok(whole.renamed(|key| text.transformers_names(key)));
    }
    let sizes = Sizes::of(&whole);
    Ok(whole.renamed(|key| {
        let name = sizes.diffusers_name(part, key);
        // Checkpoints of an autoencoder's training hold its discriminator as well.
        let name = name.filter(|name| part != "vae" || is_autoencoder(name));
        name.map(Renamed::whole).into_iter().collect()
    }))
}

fn is_autoencoder(name: &str) -> bool {
    let half = name.split('.').next().unwrap_or_default();
    ["encoder", "decoder", "quant_conv", "post_quant_conv"].contains(&half)
}

/// A part in words.
pub(crate) fn part_name(part: &str) -> &'static str {
    match part {
        "unet" => "a U-Net",
        "vae" => "an autoencoder",
        _ => "a text encoder",
    }
}

/// Which part of a model a file holds alone; `None` if it holds none, or several.
pub(crate) fn part_in(weights: &Weights) -> Option<&'static str> {
    let mut parts: Vec<&str> = SPELLINGS
        .iter()
        .filter(|row| weights.contains(row.tells))
        .map(|row| row.parts[0])
        .collect();
    parts.dedup();
    match parts.as_slice() {
        [part] => Some(part),
        _ => None,
    }
}
