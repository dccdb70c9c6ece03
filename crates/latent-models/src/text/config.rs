//! Sizes of the text encoder and of the image tower it is trained with.

use serde::{Deserialize, Serialize};

use crate::config::{Fault, ModelConfig, need, need_layers, need_sizes};
use crate::error::Result;

/// `text_encoder/config.json` of a `CLIPTextModel`; absent keys have transformers' defaults.
///
/// Source: transformers' `CLIPTextConfig`, whose keys these are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClipTextConfig {
    /// Pieces of the tokenizer.
    pub vocab_size: usize,
    /// Width of the states.
    pub hidden_size: usize,
    /// Width inside the feed-forward layers.
    pub intermediate_size: usize,
    /// Width of the space shared with pictures, and of the projected pooled state.
    pub projection_dim: usize,
    /// Transformer layers.
    pub num_hidden_layers: usize,
    /// Attention heads of a layer.
    pub num_attention_heads: usize,
    /// Longest text, in tokens.
    pub max_position_embeddings: usize,
    /// Inside the feed-forward layers.
    pub hidden_act: HiddenActivation,
    /// Added to the variance in layer norms.
    pub layer_norm_eps: f64,
    /// First token of a text, as the tokenizer's files say better.
    pub bos_token_id: Option<u32>,
    /// Token whose state is the pooled one. 2 is what old files say by mistake: there the largest id's position counts.
    pub eos_token_id: u32,
    /// Fills a short text, as the tokenizer's files say better.
    pub pad_token_id: Option<u32>,
    /// Which of transformers' classes it is; `None` is `CLIPTextModel`.
    pub architectures: Option<[TextArchitecture; 1]>,
}

/// A class of transformers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TextArchitecture {
    /// The pooled state is the last one at the end token.
    #[serde(rename = "CLIPTextModel")]
    Plain,
    /// The pooled state is projected to `projection_dim`.
    #[serde(rename = "CLIPTextModelWithProjection")]
    WithProjection,
}

/// What stands between the two layers of a feed-forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HiddenActivation {
    /// `x * sigmoid(1.702 x)`.
    QuickGelu,
    /// `x * P(X <= x)` for a normal `X`.
    Gelu,
}

impl Default for ClipTextConfig {
    fn default() -> Self {
        Self {
            vocab_size: 49408,
            hidden_size: 512,
            intermediate_size: 2048,
            projection_dim: 512,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            hidden_act: HiddenActivation::QuickGelu,
            layer_norm_eps: 1e-5,
            bos_token_id: Some(49406),
            eos_token_id: 49407,
            pad_token_id: Some(1),
            architectures: Some([TextArchitecture::Plain]),
        }
    }
}

impl ClipTextConfig {
    /// Refuses sizes that do not fit together.
    ///
    /// # Errors
    /// [`crate::ModelError::Config`] with the key.
    pub fn check(&self) -> Result<()> {
        self.checked()
    }

    /// Whether the pooled state is projected.
    pub fn projects(&self) -> bool {
        self.architectures == Some([TextArchitecture::WithProjection])
    }

    /// Width of the pooled state.
    pub fn pooled_width(&self) -> usize {
        if self.projects() {
            self.projection_dim
        } else {
            self.hidden_size
        }
    }
}

/// A fault where the sizes of a transformer's layers do not fit together.
pub(super) fn need_heads(width: usize, heads: usize, eps: f64) -> Result<(), Fault> {
    need(width.is_multiple_of(heads), "num_attention_heads", || {
        format!("is {heads}, which does not divide `hidden_size`, {width}")
    })?;
    need(eps > 0.0, "layer_norm_eps", || "must be above 0".into())
}

impl ModelConfig for ClipTextConfig {
    const CLASS: &'static str = "CLIPTextModel";
    const IDENTITY: &'static [(&'static str, &'static str)] = &[("model_type", "clip_text_model")];
    const FIXED: &'static [(&'static str, &'static [&'static str])] = &[];
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
        "use_cache",
    ];

    fn check_sizes(&self) -> Result<(), Fault> {
        need_sizes(&[
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("projection_dim", self.projection_dim),
            ("num_attention_heads", self.num_attention_heads),
            ("max_position_embeddings", self.max_position_embeddings),
        ])?;
        need_layers(&[("num_hidden_layers", self.num_hidden_layers)])?;
        need_heads(
            self.hidden_size,
            self.num_attention_heads,
            self.layer_norm_eps,
        )?;
        let (eos, vocab) = (self.eos_token_id, self.vocab_size);
        need((eos as usize) < vocab, "eos_token_id", || {
            format!("is {eos}, which is no token of `vocab_size`, {vocab}")
        })
    }
}

/// `image_tower/config.json`: the network that text encoders are trained against. This project's own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImageTowerConfig {
    /// Channels of each level, from the largest picture to the smallest.
    pub channels: Vec<usize>,
    /// Residual blocks of each level.
    pub blocks_per_level: usize,
    /// 1 or 2: whether the first convolution halves the picture.
    pub stem_stride: usize,
    /// Groups of every group norm.
    pub norm_num_groups: usize,
    /// Width of the space shared with texts.
    pub projection_dim: usize,
    /// Width of the text encoder's pooled state; taken from the text encoder where `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_hidden_size: Option<usize>,
}

impl Default for ImageTowerConfig {
    fn default() -> Self {
        Self {
            channels: vec![32, 64, 128, 256],
            blocks_per_level: 1,
            stem_stride: 2,
            norm_num_groups: 8,
            projection_dim: 256,
            text_hidden_size: None,
        }
    }
}

impl ImageTowerConfig {
    /// Refuses sizes that do not fit together.
    ///
    /// # Errors
    /// [`crate::ModelError::Config`] with the key.
    pub fn check(&self) -> Result<()> {
        self.checked()
    }
}

impl ModelConfig for ImageTowerConfig {
    const CLASS: &'static str = "ImageTower";
    const IDENTITY: &'static [(&'static str, &'static str)] = &[("_class_name", Self::CLASS)];
    const FIXED: &'static [(&'static str, &'static [&'static str])] = &[];
    const IGNORED: &'static [&'static str] = &[];

    fn check_sizes(&self) -> Result<(), Fault> {
        need((1..=12).contains(&self.channels.len()), "channels", || {
            format!(
                "has {} levels; between 1 and 12 can be built",
                self.channels.len()
            )
        })?;
        need_sizes(&[
            ("norm_num_groups", self.norm_num_groups),
            ("projection_dim", self.projection_dim),
            ("text_hidden_size", self.text_hidden_size.unwrap_or(1)),
        ])?;
        need_layers(&[("blocks_per_level", self.blocks_per_level)])?;
        need([1, 2].contains(&self.stem_stride), "stem_stride", || {
            format!("is {}; it must be 1 or 2", self.stem_stride)
        })?;
        for &channels in &self.channels {
            need_sizes(&[("channels", channels)])?;
            need(
                channels.is_multiple_of(self.norm_num_groups),
                "channels",
                || {
                    format!(
                        "has {channels}, which is no multiple of `norm_num_groups`, {}",
                        self.norm_num_groups
                    )
                },
            )?;
        }
        Ok(())
    }
}
