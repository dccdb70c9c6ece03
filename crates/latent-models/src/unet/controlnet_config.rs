//! Sizes of a ControlNet, in diffusers' keys.

use latent_formats::Weights;
use serde::{Deserialize, Serialize};

use super::config::{AdditionEmbedType, DownBlockType, MidBlockType, UNet2dConditionConfig};
use crate::config::{Counts, Depths, Fault, ModelConfig, need, need_sizes};

/// `config.json` of a `ControlNetModel`; absent keys have diffusers' defaults.
///
/// Source: diffusers' `ControlNetModel.__init__`, whose keys these are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ControlNetConfig {
    /// Channels of the noisy latents.
    pub in_channels: usize,
    /// Channels of the picture that steers.
    pub conditioning_channels: usize,
    /// Channels on that picture's way to the size of the latents; all but the first halve it.
    pub conditioning_embedding_out_channels: Vec<usize>,
    /// The timestep's cosines come before its sines.
    pub flip_sin_to_cos: bool,
    /// Subtracted from the number of the timestep's frequencies in the exponent's denominator.
    pub freq_shift: f64,
    /// The levels.
    pub down_block_types: Vec<DownBlockType>,
    /// What follows them.
    pub mid_block_type: Option<MidBlockType>,
    /// Channels of each level, from the largest picture to the smallest.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks of a level.
    pub layers_per_block: usize,
    /// Groups of every group norm.
    pub norm_num_groups: usize,
    /// Added to the variance in the residual blocks' group norms.
    pub norm_eps: f64,
    /// Width of the text states.
    pub cross_attention_dim: usize,
    /// Transformer layers after each residual block.
    pub transformer_layers_per_block: Depths,
    /// **Number of heads** of each level, misnamed as in the U-Net's config.
    pub attention_head_dim: Counts,
    /// The transformers' first and last layers are stored as linear layers.
    pub use_linear_projection: bool,
    /// What else is added to the timestep's embedding, as in the U-Net's config.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addition_embed_type: Option<AdditionEmbedType>,
    /// Width of the sinusoids of each added number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addition_time_embed_dim: Option<usize>,
    /// Width of the pooled text and the sinusoids of all added numbers together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub projection_class_embeddings_input_dim: Option<usize>,
}

impl Default for ControlNetConfig {
    fn default() -> Self {
        Self::beside(&UNet2dConditionConfig::default())
    }
}

impl ControlNetConfig {
    /// A copy of a U-Net's encoder.
    pub(crate) fn beside(unet: &UNet2dConditionConfig) -> Self {
        Self {
            in_channels: unet.in_channels,
            conditioning_channels: 3,
            conditioning_embedding_out_channels: vec![16, 32, 96, 256],
            flip_sin_to_cos: unet.flip_sin_to_cos,
            freq_shift: unet.freq_shift,
            down_block_types: unet.down_block_types.clone(),
            mid_block_type: unet.mid_block_type,
            block_out_channels: unet.block_out_channels.clone(),
            layers_per_block: unet.layers_per_block,
            norm_num_groups: unet.norm_num_groups,
            norm_eps: unet.norm_eps,
            cross_attention_dim: unet.cross_attention_dim,
            transformer_layers_per_block: unet.transformer_layers_per_block.clone(),
            attention_head_dim: unet.attention_head_dim.clone(),
            use_linear_projection: unet.use_linear_projection,
            addition_embed_type: unet.addition_embed_type,
            addition_time_embed_dim: unet.addition_time_embed_dim,
            projection_class_embeddings_input_dim: unet.projection_class_embeddings_input_dim,
        }
    }

    /// [`ControlNetConfig::beside`] with what the tensors of a file tell, which are under diffusers' names: the widths of
    /// the picture's way, the levels that look at text, the channels and the text that are read, and whether something
    /// is added to the timestep.
    pub(crate) fn of_file(unet: &UNet2dConditionConfig, weights: &Weights) -> Self {
        let width = |name: &str, axis: usize| weights.describe(name)?.1.get(axis).copied();
        let has = |start: &str| weights.names().any(|name| name.starts_with(start));
        let mut config = Self::beside(unet);
        let first = width("controlnet_cond_embedding.conv_in.weight", 0);
        // Every second convolution widens.
        let wider = |index: usize| {
            let name = format!("controlnet_cond_embedding.blocks.{}.weight", 2 * index + 1);
            width(&name, 0)
        };
        if let Some(first) = first {
            let channels = std::iter::once(first).chain((0..).map_while(wider));
            config.conditioning_embedding_out_channels = channels.collect();
        }
        config.in_channels = width("conv_in.weight", 1).unwrap_or(config.in_channels);
        let keys = weights
            .names()
            .find(|name| name.ends_with(".attn2.to_k.weight"));
        let read = keys.and_then(|name| width(name, 1));
        config.cross_attention_dim = read.unwrap_or(config.cross_attention_dim);
        for (level, kind) in config.down_block_types.iter_mut().enumerate() {
            *kind = match has(&format!("down_blocks.{level}.attentions.")) {
                true => DownBlockType::CrossAttention,
                false => DownBlockType::Plain,
            };
        }
        if !has("mid_block.attentions.") {
            config.mid_block_type = has("mid_block.").then_some(MidBlockType::Plain);
        }
        if !has("add_embedding.") {
            config.addition_embed_type = None;
        }
        config
    }

    /// The config of the U-Net whose encoder it copies; what it does not say makes no difference to that.
    pub(super) fn unet(&self) -> UNet2dConditionConfig {
        UNet2dConditionConfig {
            in_channels: self.in_channels,
            flip_sin_to_cos: self.flip_sin_to_cos,
            freq_shift: self.freq_shift,
            up_block_types: vec![super::UpBlockType::Plain; self.down_block_types.len()],
            down_block_types: self.down_block_types.clone(),
            mid_block_type: self.mid_block_type,
            block_out_channels: self.block_out_channels.clone(),
            layers_per_block: self.layers_per_block,
            norm_num_groups: self.norm_num_groups,
            norm_eps: self.norm_eps,
            cross_attention_dim: self.cross_attention_dim,
            transformer_layers_per_block: self.transformer_layers_per_block.clone(),
            attention_head_dim: self.attention_head_dim.clone(),
            use_linear_projection: self.use_linear_projection,
            addition_embed_type: self.addition_embed_type,
            addition_time_embed_dim: self.addition_time_embed_dim,
            projection_class_embeddings_input_dim: self.projection_class_embeddings_input_dim,
            ..UNet2dConditionConfig::default()
        }
    }

    /// Pixels of the picture per latent, in each direction.
    pub(crate) fn downsampling(&self) -> usize {
        1 << (self.conditioning_embedding_out_channels.len() - 1)
    }
}

impl ModelConfig for ControlNetConfig {
    const CLASS: &'static str = "ControlNetModel";
    const IDENTITY: &'static [(&'static str, &'static str)] = &[("_class_name", Self::CLASS)];
    const FIXED: &'static [(&'static str, &'static [&'static str])] = &[
        ("act_fn", &["\"silu\"", "\"swish\""]),
        ("class_embed_type", &["null"]),
        ("controlnet_conditioning_channel_order", &["\"rgb\""]),
        ("downsample_padding", &["1"]),
        ("encoder_hid_dim", &["null"]),
        ("encoder_hid_dim_type", &["null"]),
        ("global_pool_conditions", &["false"]),
        ("mid_block_scale_factor", &["1"]),
        ("num_attention_heads", &["null"]),
        ("num_class_embeds", &["null"]),
        ("only_cross_attention", &["false"]),
        ("resnet_time_scale_shift", &["\"default\""]),
    ];
    const IGNORED: &'static [&'static str] = &[
        "_diffusers_version",
        "_name_or_path",
        "addition_embed_type_num_heads",
        "upcast_attention",
    ];

    fn check_sizes(&self) -> Result<(), Fault> {
        let widths = &self.conditioning_embedding_out_channels;
        let key = "conditioning_embedding_out_channels";
        need((1..=16).contains(&widths.len()), key, || {
            format!("has {} widths; between 1 and 16 can be built", widths.len())
        })?;
        widths
            .iter()
            .try_for_each(|&width| need_sizes(&[(key, width)]))?;
        need_sizes(&[("conditioning_channels", self.conditioning_channels)])?;
        self.unet().check_sizes()
    }
}
