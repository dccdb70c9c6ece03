//! One part of a model in a file of its own, in any published layout, under diffusers' names.

use std::path::Path;

use latent_formats::{Renamed, Weights};

use super::ldm::{self, AUTOENCODER, Sizes, TEXT_ENCODER, UNET};
use super::open_clip::{self, OpenClip};
use crate::error::{ModelError, Result};
use crate::weights::canonical_name;

/// How a file may hold one part: the part, a tensor that tells, and what stands before or must be put before its
/// names so that they are those of a whole checkpoint. Rows without such a beginning are in diffusers' layout.
struct Spelling {
    part: &'static str,
    tells: &'static str,
    cut: &'static str,
    put: Option<&'static str>,
}

const SPELLINGS: &[Spelling] = &[
    Spelling {
        part: "unet",
        tells: "conv_in.weight",
        cut: "",
        put: None,
    },
    Spelling {
        part: "unet",
        tells: ldm::FIRST,
        cut: "",
        put: Some(""),
    },
    Spelling {
        part: "unet",
        tells: "input_blocks.0.0.weight",
        cut: "",
        put: Some(UNET),
    },
    Spelling {
        part: "unet",
        tells: "diffusion_model.input_blocks.0.0.weight",
        cut: "diffusion_model.",
        put: Some(UNET),
    },
    Spelling {
        part: "vae",
        tells: "encoder.down_blocks.0.resnets.0.conv1.weight",
        cut: "",
        put: None,
    },
    Spelling {
        part: "vae",
        tells: "first_stage_model.encoder.conv_in.weight",
        cut: "",
        put: Some(""),
    },
    Spelling {
        part: "vae",
        tells: "encoder.down.0.block.0.conv1.weight",
        cut: "",
        put: Some(AUTOENCODER),
    },
    Spelling {
        part: "vae",
        tells: "vae.encoder.down.0.block.0.conv1.weight",
        cut: "vae.",
        put: Some(AUTOENCODER),
    },
    Spelling {
        part: "text_encoder",
        tells: "text_model.final_layer_norm.weight",
        cut: "",
        put: None,
    },
    Spelling {
        part: "text_encoder",
        tells: "final_layer_norm.weight",
        cut: "",
        put: None,
    },
    Spelling {
        part: "text_encoder",
        tells: "cond_stage_model.transformer.text_model.final_layer_norm.weight",
        cut: TEXT_ENCODER,
        put: None,
    },
    Spelling {
        part: "text_encoder",
        tells: "cond_stage_model.model.ln_final.weight",
        cut: "",
        put: Some(""),
    },
    Spelling {
        part: "text_encoder",
        tells: "transformer.resblocks.0.ln_1.weight",
        cut: "",
        put: Some(open_clip::PREFIX),
    },
];

/// Tensors that files of parts hold beside the part: projections that Stable Diffusion does not read.
const BESIDE: &[&str] = &["text_projection.weight", "logit_scale"];

/// The weights of `part` in a file, under diffusers' names.
///
/// # Errors
/// [`ModelError::Format`]; [`ModelError::Adapter`] if it holds no such part.
pub(crate) fn loose_part(path: &Path, part: &str) -> Result<Weights> {
    let weights = Weights::open(path)?;
    let spelling = SPELLINGS
        .iter()
        .find(|row| row.part == part && weights.contains(row.tells));
    let Some(Spelling { cut, put, .. }) = spelling else {
        let other = SPELLINGS.iter().find(|row| weights.contains(row.tells));
        let what = other.map_or("no part of a model that Latent knows", |row| {
            part_name(row.part)
        });
        return Err(ModelError::Adapter {
            path: path.to_path_buf(),
            reason: format!("holds {what}, and {} is needed", part_name(part)),
        });
    };
    let Some(put) = put else {
        return Ok(weights.renamed(|key| {
            let name = key.strip_prefix(cut).filter(|name| !BESIDE.contains(name));
            let name = name.map(|name| Renamed::whole(canonical_name(part, name)));
            name.into_iter().collect()
        }));
    };
    let whole = weights.renamed(|key| {
        let name = key.strip_prefix(cut).map(|name| format!("{put}{name}"));
        name.map(Renamed::whole).into_iter().collect()
    });
    if part == "text_encoder" {
        let text = OpenClip::of(&whole, open_clip::PREFIX, false);
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
        .map(|row| row.part)
        .collect();
    parts.dedup();
    match parts.as_slice() {
        [part] => Some(part),
        _ => None,
    }
}
