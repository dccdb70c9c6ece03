//! Sizes of the encoder of pictures, in transformers' keys.

use latent_formats::Weights;
use serde::{Deserialize, Serialize};

use super::config::{HiddenActivation, need_heads};
use crate::config::{Fault, ModelConfig, need, need_layers, need_sizes};

/// `image_encoder/config.json` of a `CLIPVisionModelWithProjection`; absent keys have transformers' defaults.
///
/// Source: transformers' `CLIPVisionConfig`, whose keys these are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClipVisionConfig {
    /// Width of the states.
    pub hidden_size: usize,
    /// Width inside the feed-forward layers.
    pub intermediate_size: usize,
    /// Width of the space shared with texts.
    pub projection_dim: usize,
    /// Transformer layers.
    pub num_hidden_layers: usize,
    /// Attention heads of a layer.
    pub num_attention_heads: usize,
    /// Height and width of the pictures.
    pub image_size: usize,
    /// Height and width of the squares that become one token each.
    pub patch_size: usize,
    /// Inside the feed-forward layers.
    pub hidden_act: HiddenActivation,
    /// Added to the variance in layer norms.
    pub layer_norm_eps: f64,
}

impl Default for ClipVisionConfig {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            intermediate_size: 3072,
            projection_dim: 512,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            image_size: 224,
            patch_size: 32,
            hidden_act: HiddenActivation::QuickGelu,
            layer_norm_eps: 1e-5,
        }
    }
}

/// Published encoders by the width of their states: heads, and what stands in the feed-forward layers; neither shows in
/// the tensors.
///
/// Source: the configs of OpenAI's ViT-B and ViT-L, and of LAION's ViT-H and ViT-bigG.
const PUBLISHED: &[(usize, usize, HiddenActivation)] = &[
    (768, 12, HiddenActivation::QuickGelu),
    (1024, 16, HiddenActivation::QuickGelu),
    (1280, 16, HiddenActivation::Gelu),
    (1664, 16, HiddenActivation::Gelu),
];

impl ClipVisionConfig {
    /// Tokens of a picture: one a square, and one for the whole before them.
    pub fn tokens(&self) -> usize {
        let side = self.image_size / self.patch_size;
        side * side + 1
    }

    /// The sizes that the tensors of a file tell, under transformers' names.
    ///
    /// # Errors
    /// The reason why they do not tell all.
    pub(super) fn of_file(weights: &Weights) -> std::result::Result<Self, String> {
        let shape = |name: &str| Some(weights.describe(name)?.1);
        let sizes = || {
            let layers = (0..).take_while(|layer| {
                let name = format!("vision_model.encoder.layers.{layer}.layer_norm1.weight");
                weights.contains(&name)
            });
            let &[width, 3, patch, _] = shape("vision_model.embeddings.patch_embedding.weight")?
            else {
                return None;
            };
            // Of matrices as wide as the states.
            let rows = |name: &str| match shape(name)? {
                &[rows, columns] if columns == width => Some(rows),
                _ => None,
            };
            let positions = rows("vision_model.embeddings.position_embedding.weight")?;
            Some(Self {
                hidden_size: width,
                intermediate_size: rows("vision_model.encoder.layers.0.mlp.fc1.weight")?,
                projection_dim: rows("visual_projection.weight")?,
                num_hidden_layers: layers.count(),
                image_size: positions.saturating_sub(1).isqrt().checked_mul(patch)?,
                patch_size: patch,
                ..Self::default()
            })
        };
        let Some(sizes) = sizes() else {
            return Err("is no image encoder; needed is a `CLIPVisionModelWithProjection`, such as the folder \
                        `models/image_encoder` beside published IP-Adapters"
                .to_owned());
        };
        let width = sizes.hidden_size;
        match PUBLISHED.iter().find(|(known, ..)| *known == width) {
            Some(&(_, num_attention_heads, hidden_act)) => Ok(Self {
                num_attention_heads,
                hidden_act,
                ..sizes
            }),
            None => Err(format!(
                "is an image encoder of width {width}, which is none of the published ones, so its heads are not known; put \
                 its `config.json` beside it"
            )),
        }
    }
}

impl ModelConfig for ClipVisionConfig {
    const CLASS: &'static str = "CLIPVisionModelWithProjection";
    const IDENTITY: &'static [(&'static str, &'static str)] =
        &[("model_type", "clip_vision_model")];
    const FIXED: &'static [(&'static str, &'static [&'static str])] = &[
        ("architectures", &["[\"CLIPVisionModelWithProjection\"]"]),
        ("num_channels", &["3"]),
    ];
    const IGNORED: &'static [&'static str] = &[
        "_name_or_path",
        "transformers_version",
        // The dtype of the file, which the file itself says.
        "torch_dtype",
        "dtype",
        // Of training.
        "attention_dropout",
        "dropout",
        "initializer_factor",
        "initializer_range",
    ];

    fn check_sizes(&self) -> Result<(), Fault> {
        need_sizes(&[
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("projection_dim", self.projection_dim),
            ("num_attention_heads", self.num_attention_heads),
            ("image_size", self.image_size),
            ("patch_size", self.patch_size),
        ])?;
        need_layers(&[("num_hidden_layers", self.num_hidden_layers)])?;
        need_heads(
            self.hidden_size,
            self.num_attention_heads,
            self.layer_norm_eps,
        )?;
        let (image, patch) = (self.image_size, self.patch_size);
        need(image <= 4096 && patch <= image, "image_size", || {
            format!("is {image}; it must be between `patch_size`, {patch}, and 4096")
        })
    }
}
