//! What a weights file is for, told by its tensors.

use std::fmt;

use latent_formats::Weights;

use super::embedding;
use crate::single_file::{part_in, part_name};

/// What a file without a whole model holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// Factors that change a model: the method, and the family they look made for.
    Lora {
        /// `LoRA`, `LoHa`, `LoKr`, `DoRA` or `differences`.
        method: &'static str,
        /// The rank, where it is one for all.
        rank: Option<usize>,
        /// The family.
        family: String,
    },
    /// Vectors of a word.
    Embedding {
        /// How many.
        vectors: usize,
        /// The family that has a text encoder of their width.
        family: String,
    },
    /// A network that steers a U-Net by a picture.
    ControlNet {
        /// The family of the U-Net.
        family: String,
    },
    /// What lets a U-Net look at pictures as at words.
    IpAdapter {
        /// The family of the U-Net.
        family: String,
    },
    /// CLIP's encoder of pictures, which IP-Adapters read.
    ImageEncoder,
    /// The tiny autoencoder, or its decoder.
    TinyAutoencoder,
    /// A part of a model: `unet`, `vae` or `text_encoder`.
    Part(&'static str),
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lora {
                method,
                rank,
                family,
            } => {
                write!(f, "a LoRA ({method}")?;
                if let Some(rank) = rank {
                    write!(f, ", rank {rank}")?;
                }
                write!(f, ") for {family}")
            }
            Self::Embedding { vectors, family } => write!(
                f,
                "a textual inversion of {vectors} vector{} for {family}",
                if *vectors == 1 { "" } else { "s" }
            ),
            Self::ControlNet { family } => write!(f, "a ControlNet for {family}"),
            Self::IpAdapter { family } => write!(f, "an IP-Adapter for {family}"),
            Self::ImageEncoder => write!(f, "an image encoder (CLIP)"),
            Self::TinyAutoencoder => write!(f, "a tiny autoencoder (TAESD)"),
            Self::Part(part) => write!(f, "{}", part_name(part)),
        }
    }
}

impl FileKind {
    /// One word for it, as JSON has it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Lora { .. } => "lora",
            Self::Embedding { .. } => "embedding",
            Self::ControlNet { .. } => "controlnet",
            Self::IpAdapter { .. } => "ip-adapter",
            Self::ImageEncoder => "image_encoder",
            Self::TinyAutoencoder => "taesd",
            Self::Part(part) => part,
        }
    }

    /// How it is used.
    pub fn use_with(&self) -> &'static str {
        match self {
            Self::Lora { .. } => "pass it with `--lora`",
            Self::Embedding { .. } => "pass it with `--embedding`",
            Self::ControlNet { .. } => "pass it with `--control FILE:PICTURE`",
            Self::IpAdapter { .. } => "pass it with `--ip-adapter` and a picture with `--ip-image`",
            Self::ImageEncoder => "pass it with `--image-encoder`, beside an IP-Adapter",
            Self::TinyAutoencoder => "pass it with `--taesd`",
            Self::Part("unet") => "pass it with `--unet`",
            Self::Part("vae") => "pass it with `--vae`",
            Self::Part(_) => "pass it with `--text-encoder`",
        }
    }
}

/// What a file holds; `None` if that is not known, or it holds a whole model.
pub fn recognise(weights: &Weights) -> Option<FileKind> {
    let names_start = |start: &str| weights.names().any(|name| name.starts_with(start));
    // Before LoRAs, which some of them hold beside.
    if names_start("image_proj.") && names_start("ip_adapter.") {
        return Some(FileKind::IpAdapter {
            family: made_for(weights),
        });
    }
    if let Some(kind) = lora(weights) {
        return Some(kind);
    }
    if names_start("vision_model.embeddings.") && !names_start("text_model.") {
        return Some(FileKind::ImageEncoder);
    }
    if names_start("control_model.")
        || names_start("controlnet_cond_embedding.")
        || names_start("input_hint_block.")
    {
        return Some(FileKind::ControlNet {
            family: made_for(weights),
        });
    }
    if crate::autoencoder::is_tiny(weights) {
        return Some(FileKind::TinyAutoencoder);
    }
    if let Some((names, _)) = embedding::tensors_of(weights) {
        let (_, shape) = weights.describe(names[0])?;
        let vectors = if shape.len() < 2 { 1 } else { shape[0] };
        let family = match names.len() {
            1 => family_of_width(*shape.last()?),
            _ => family_of_width(SDXL_WIDTH),
        };
        return Some(FileKind::Embedding { vectors, family });
    }
    part_in(weights).map(FileKind::Part)
}

/// Endings of factors, and the method they tell; the first row that is met counts.
const METHODS: &[(&[&str], &str)] = &[
    (
        &[
            ".dora_scale",
            ".lora_magnitude_vector",
            ".lora_magnitude_vector.weight",
        ],
        "DoRA",
    ),
    (&[".hada_w1_a"], "LoHa"),
    (&[".lokr_w1", ".lokr_w1_a"], "LoKr"),
    (
        &[
            ".lora_down.weight",
            ".lora_A.weight",
            ".lora_A.default.weight",
            "lora.down.weight",
            ".lora_linear_layer.down.weight",
        ],
        "LoRA",
    ),
    (&[".diff"], "differences"),
];

fn lora(weights: &Weights) -> Option<FileKind> {
    let ends = |endings: &[&str]| {
        weights
            .names()
            .any(|name| endings.iter().any(|ending| name.ends_with(ending)))
    };
    let &(_, method) = METHODS.iter().find(|(endings, _)| ends(endings))?;
    let downs = [
        ".lora_down.weight",
        ".lora_A.weight",
        ".down.weight",
        ".hada_w1_b",
    ];
    let mut ranks: Vec<usize> = weights
        .names()
        .filter(|name| downs.iter().any(|down| name.ends_with(down)))
        .filter_map(|name| weights.describe(name)?.1.first().copied())
        .collect();
    ranks.dedup();
    Some(FileKind::Lora {
        method,
        rank: (ranks.len() == 1).then(|| ranks[0]),
        family: made_for(weights),
    })
}

/// Width of the text states that SDXL's U-Net reads.
const SDXL_WIDTH: usize = 2048;

/// Families by the width of the text states that their U-Net reads.
const WIDTHS: &[(usize, &str)] = &[
    (768, "Stable Diffusion 1.x"),
    (1024, "Stable Diffusion 2.x"),
    (1280, "the SDXL refiner"),
    (SDXL_WIDTH, "SDXL"),
];

/// The family whose text states have this width.
pub(crate) fn family_of_width(width: usize) -> String {
    let known = WIDTHS.iter().find(|(known, _)| *known == width);
    known.map_or_else(
        || format!("a model with text states of width {width}"),
        |(_, family)| (*family).to_owned(),
    )
}

/// Parts of names that only one family has.
const TELLING: &[(&str, &str)] = &[
    ("single_transformer_blocks", "FLUX"),
    ("single_blocks", "FLUX"),
    ("double_blocks", "FLUX"),
    ("joint_blocks", "Stable Diffusion 3"),
    ("attn_add_k_proj", "Stable Diffusion 3"),
    ("attn.add_k_proj", "Stable Diffusion 3"),
    ("lora_te2_", "SDXL"),
    ("text_encoder_2.", "SDXL"),
    ("transformer_blocks_1_", "SDXL"),
    ("transformer_blocks.1.", "SDXL"),
];

/// The family that the names or the shapes of a file tell.
pub(super) fn made_for(weights: &Weights) -> String {
    for (part, family) in TELLING {
        if weights.names().any(|name| name.contains(part)) {
            return (*family).to_owned();
        }
    }
    // What makes keys of the text states is as wide as these.
    let key = |name: &&str| {
        let keys = name.contains("attn2_to_k") || name.contains("attn2.to_k");
        let values = name.contains("attn2_to_v") || name.contains("attn2.to_v");
        let down = ["down.weight", "lora_A.weight", "hada_w1_b", "to_k.weight"];
        (keys || values) && down.iter().any(|ending| name.ends_with(ending))
    };
    let adapter = |name: &&str| name.ends_with(".to_k_ip.weight");
    let width = weights
        .names()
        .find(|name| key(name) || adapter(name))
        .and_then(|name| weights.describe(name)?.1.get(1).copied())
        .or_else(|| kronecker_width(weights));
    match width {
        Some(width) => family_of_width(width),
        None => "another kind of model".to_owned(),
    }
}

/// The width of the text states by the factors of a LoKr, which is the product of theirs.
fn kronecker_width(weights: &Weights) -> Option<usize> {
    let width = |name: String| weights.describe(&name)?.1.get(1).copied();
    let layers = weights.names().filter(|name| name.contains("attn2_to_v"));
    let mut layers = layers.filter_map(|name| name.rsplit_once(".lokr_"));
    let (layer, _) = layers.next()?;
    let either = |whole: &str, last: &str| {
        width(format!("{layer}.lokr_{whole}")).or_else(|| width(format!("{layer}.lokr_{last}")))
    };
    Some(either("w1", "w1_b")? * either("w2", "w2_b")?)
}
