//! Sizes of the autoencoders, in diffusers' keys.

use serde::{Deserialize, Serialize};

use crate::config::{Fault, ModelConfig, need, need_layers, need_sizes};
use crate::error::Result;

/// A level of an encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DownEncoderBlockType {
    /// Residual blocks.
    #[serde(rename = "DownEncoderBlock2D")]
    Plain,
    /// Residual blocks, each followed by self-attention.
    #[serde(rename = "AttnDownEncoderBlock2D")]
    Attention,
}

/// A level of a decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpDecoderBlockType {
    /// Residual blocks.
    #[serde(rename = "UpDecoderBlock2D")]
    Plain,
    /// Residual blocks, each followed by self-attention.
    #[serde(rename = "AttnUpDecoderBlock2D")]
    Attention,
}

/// `vae/config.json` of an `AutoencoderKL`; absent keys have diffusers' defaults, but for `scaling_factor`.
///
/// Source: diffusers' `AutoencoderKL.__init__`, whose keys these are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AutoencoderKlConfig {
    /// Channels of the pictures.
    pub in_channels: usize,
    /// Channels of the reconstructions.
    pub out_channels: usize,
    /// The encoder's levels.
    pub down_block_types: Vec<DownEncoderBlockType>,
    /// The decoder's levels.
    pub up_block_types: Vec<UpDecoderBlockType>,
    /// Channels of each level, from the largest picture to the smallest.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks of an encoder's level; a decoder's has one more.
    pub layers_per_block: usize,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Groups of every group norm.
    pub norm_num_groups: usize,
    /// Height and width of the pictures it was trained on.
    pub sample_size: usize,
    /// One over the latents' standard deviation; `None` where nobody measured it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scaling_factor: Option<f64>,
    /// Subtracted from the latents before they are scaled.
    pub shift_factor: Option<f64>,
    /// Mean of each latent channel.
    pub latents_mean: Option<Vec<f64>>,
    /// Standard deviation of each latent channel.
    pub latents_std: Option<Vec<f64>>,
    /// The decoder must not run in f16. Ours never does.
    pub force_upcast: bool,
    /// A 1x1 convolution after the encoder.
    pub use_quant_conv: bool,
    /// A 1x1 convolution before the decoder.
    pub use_post_quant_conv: bool,
    /// Self-attention between encoder and decoder levels.
    pub mid_block_add_attention: bool,
}

impl Default for AutoencoderKlConfig {
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            down_block_types: vec![DownEncoderBlockType::Plain],
            up_block_types: vec![UpDecoderBlockType::Plain],
            block_out_channels: vec![64],
            layers_per_block: 1,
            latent_channels: 4,
            norm_num_groups: 32,
            sample_size: 32,
            scaling_factor: None,
            shift_factor: None,
            latents_mean: None,
            latents_std: None,
            force_upcast: true,
            use_quant_conv: true,
            use_post_quant_conv: true,
            mid_block_add_attention: true,
        }
    }
}

impl AutoencoderKlConfig {
    /// Refuses sizes that do not fit together.
    ///
    /// # Errors
    /// [`crate::ModelError::Config`] with the key.
    pub fn check(&self) -> Result<()> {
        self.checked()
    }

    pub(super) fn trunk(&self) -> Trunk<'_> {
        Trunk {
            down: &self.down_block_types,
            up: &self.up_block_types,
            channels: &self.block_out_channels,
            layers: self.layers_per_block,
            groups: self.norm_num_groups,
            attention: self.mid_block_add_attention,
        }
    }
}

impl ModelConfig for AutoencoderKlConfig {
    const CLASS: &'static str = "AutoencoderKL";
    const IDENTITY: &'static [(&'static str, &'static str)] = &[("_class_name", Self::CLASS)];
    const FIXED: &'static [(&'static str, &'static [&'static str])] =
        &[("act_fn", &["\"silu\"", "\"swish\""])];
    const WRITTEN: &'static [(&'static str, &'static str)] = &[("act_fn", "\"silu\"")];
    const IGNORED: &'static [&'static str] = &["_diffusers_version", "_name_or_path"];

    fn check_sizes(&self) -> Result<(), Fault> {
        self.trunk().check()?;
        need_sizes(&[
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("latent_channels", self.latent_channels),
            ("sample_size", self.sample_size),
        ])?;
        check_factor("scaling_factor", self.scaling_factor)?;
        for (key, values) in [
            ("latents_mean", &self.latents_mean),
            ("latents_std", &self.latents_std),
        ] {
            let count = values.as_ref().map_or(self.latent_channels, Vec::len);
            need(count == self.latent_channels, key, || {
                format!(
                    "has {count} numbers, and `latent_channels` is {}",
                    self.latent_channels
                )
            })?;
        }
        need(
            self.latents_mean.is_some() == self.latents_std.is_some(),
            "latents_mean",
            || "and `latents_std` go together; one of them is missing".into(),
        )?;
        let stds = self.latents_std.iter().flatten();
        stds.into_iter()
            .try_for_each(|&std| check_factor("latents_std", Some(std)))
    }
}

/// `vae/config.json` of a `VQModel`; absent keys have diffusers' defaults, but for `scaling_factor`.
///
/// Source: diffusers' `VQModel.__init__`, whose keys these are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VqModelConfig {
    /// Channels of the pictures.
    pub in_channels: usize,
    /// Channels of the reconstructions.
    pub out_channels: usize,
    /// The encoder's levels.
    pub down_block_types: Vec<DownEncoderBlockType>,
    /// The decoder's levels.
    pub up_block_types: Vec<UpDecoderBlockType>,
    /// Channels of each level, from the largest picture to the smallest.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks of an encoder's level; a decoder's has one more.
    pub layers_per_block: usize,
    /// Channels between encoder and codebook.
    pub latent_channels: usize,
    /// Height and width of the pictures it was trained on.
    pub sample_size: usize,
    /// Vectors of the codebook.
    pub num_vq_embeddings: usize,
    /// Groups of every group norm.
    pub norm_num_groups: usize,
    /// Width of the codebook's vectors; `latent_channels` if `None`.
    pub vq_embed_dim: Option<usize>,
    /// One over the latents' standard deviation; `None` where nobody measured it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scaling_factor: Option<f64>,
    /// Self-attention between encoder and decoder levels.
    pub mid_block_add_attention: bool,
    /// The decoder must not run in f16. Ours never does.
    pub force_upcast: bool,
}

impl Default for VqModelConfig {
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            down_block_types: vec![DownEncoderBlockType::Plain],
            up_block_types: vec![UpDecoderBlockType::Plain],
            block_out_channels: vec![64],
            layers_per_block: 1,
            latent_channels: 3,
            sample_size: 32,
            num_vq_embeddings: 256,
            norm_num_groups: 32,
            vq_embed_dim: None,
            scaling_factor: None,
            mid_block_add_attention: true,
            force_upcast: false,
        }
    }
}

impl VqModelConfig {
    /// Refuses sizes that do not fit together.
    ///
    /// # Errors
    /// [`crate::ModelError::Config`] with the key.
    pub fn check(&self) -> Result<()> {
        self.checked()
    }

    /// Width of the codebook's vectors.
    pub fn embed_dim(&self) -> usize {
        self.vq_embed_dim.unwrap_or(self.latent_channels)
    }

    pub(super) fn trunk(&self) -> Trunk<'_> {
        Trunk {
            down: &self.down_block_types,
            up: &self.up_block_types,
            channels: &self.block_out_channels,
            layers: self.layers_per_block,
            groups: self.norm_num_groups,
            attention: self.mid_block_add_attention,
        }
    }
}

impl ModelConfig for VqModelConfig {
    const CLASS: &'static str = "VQModel";
    const IDENTITY: &'static [(&'static str, &'static str)] = &[("_class_name", Self::CLASS)];
    const FIXED: &'static [(&'static str, &'static [&'static str])] = &[
        ("act_fn", &["\"silu\"", "\"swish\""]),
        ("lookup_from_codebook", &["false"]),
        ("norm_type", &["\"group\""]),
    ];
    const WRITTEN: &'static [(&'static str, &'static str)] = &[("act_fn", "\"silu\"")];
    const IGNORED: &'static [&'static str] = &["_diffusers_version", "_name_or_path"];

    fn check_sizes(&self) -> Result<(), Fault> {
        self.trunk().check()?;
        need_sizes(&[
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("latent_channels", self.latent_channels),
            ("sample_size", self.sample_size),
            ("num_vq_embeddings", self.num_vq_embeddings),
            ("vq_embed_dim", self.embed_dim()),
        ])?;
        check_factor("scaling_factor", self.scaling_factor)
    }
}

/// `config.json` of the small autoencoder without residual blocks. This project's own; Python has no such class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SimpleAutoencoderConfig {
    /// Channels of the pictures.
    pub in_channels: usize,
    /// Channels after each halving.
    pub channels: Vec<usize>,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// One over the latents' standard deviation; `None` where nobody measured it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scaling_factor: Option<f64>,
}

impl Default for SimpleAutoencoderConfig {
    fn default() -> Self {
        Self {
            in_channels: 3,
            channels: vec![64, 128, 256],
            latent_channels: 4,
            scaling_factor: None,
        }
    }
}

impl SimpleAutoencoderConfig {
    /// Refuses sizes that do not fit together.
    ///
    /// # Errors
    /// [`crate::ModelError::Config`] with the key.
    pub fn check(&self) -> Result<()> {
        self.checked()
    }
}

impl SimpleAutoencoderConfig {
    /// Pixels of a picture per latent, in each direction.
    pub(super) fn downsampling(&self) -> usize {
        1 << self.channels.len()
    }
}

impl ModelConfig for SimpleAutoencoderConfig {
    const CLASS: &'static str = "SimpleAutoencoder";
    const IDENTITY: &'static [(&'static str, &'static str)] = &[("_class_name", Self::CLASS)];
    const FIXED: &'static [(&'static str, &'static [&'static str])] = &[];
    const IGNORED: &'static [&'static str] = &[];

    fn check_sizes(&self) -> Result<(), Fault> {
        need((1..=8).contains(&self.channels.len()), "channels", || {
            format!(
                "has {} levels; between 1 and 8 can be built",
                self.channels.len()
            )
        })?;
        self.channels
            .iter()
            .try_for_each(|&width| need_sizes(&[("channels", width)]))?;
        need_sizes(&[
            ("in_channels", self.in_channels),
            ("latent_channels", self.latent_channels),
        ])?;
        check_factor("scaling_factor", self.scaling_factor)
    }
}

fn check_factor(key: &str, factor: Option<f64>) -> Result<(), Fault> {
    need(
        factor.is_none_or(|factor| factor.is_finite() && factor > 0.0),
        key,
        || format!("is {}; it must be above 0", factor.unwrap_or_default()),
    )
}

/// What encoder and decoder of the two residual autoencoders are built from.
#[derive(Clone, Copy)]
pub(super) struct Trunk<'a> {
    pub(super) down: &'a [DownEncoderBlockType],
    pub(super) up: &'a [UpDecoderBlockType],
    pub(super) channels: &'a [usize],
    pub(super) layers: usize,
    pub(super) groups: usize,
    pub(super) attention: bool,
}

impl Trunk<'_> {
    fn check(&self) -> Result<(), Fault> {
        let levels = self.channels.len();
        need((1..=16).contains(&levels), "block_out_channels", || {
            format!("has {levels} levels; between 1 and 16 can be built")
        })?;
        for (key, count) in [
            ("down_block_types", self.down.len()),
            ("up_block_types", self.up.len()),
        ] {
            need(count == levels, key, || {
                format!("has {count} levels, and `block_out_channels` has {levels}")
            })?;
        }
        need_layers(&[("layers_per_block", self.layers)])?;
        need_sizes(&[("norm_num_groups", self.groups)])?;
        for &channels in self.channels {
            need_sizes(&[("block_out_channels", channels)])?;
            need(
                channels.is_multiple_of(self.groups),
                "block_out_channels",
                || {
                    format!(
                        "has {channels}, which is no multiple of `norm_num_groups`, {}",
                        self.groups
                    )
                },
            )?;
        }
        Ok(())
    }

    /// Pixels of a picture per latent, in each direction.
    pub(super) fn downsampling(&self) -> usize {
        1 << (self.channels.len() - 1)
    }
}
