//! Sizes of a U-Net, in diffusers' keys.

use serde::{Deserialize, Serialize};

use crate::config::{Counts, Depths, Fault, ModelConfig, need, need_layers, need_sizes};
use crate::error::Result;

/// `unet/config.json` of a `UNet2DConditionModel`; absent keys have diffusers' defaults.
///
/// Source: diffusers' `UNet2DConditionModel.__init__`, whose keys these are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UNet2dConditionConfig {
    /// Height and width of the latents it was trained on.
    pub sample_size: usize,
    /// Channels of the noisy latents.
    pub in_channels: usize,
    /// Channels of the prediction.
    pub out_channels: usize,
    /// The timestep's cosines come before its sines.
    pub flip_sin_to_cos: bool,
    /// Subtracted from the number of the timestep's frequencies in the exponent's denominator.
    pub freq_shift: f64,
    /// The levels on the way down.
    pub down_block_types: Vec<DownBlockType>,
    /// What lies between down and up; `None` for nothing.
    pub mid_block_type: Option<MidBlockType>,
    /// The levels on the way up.
    pub up_block_types: Vec<UpBlockType>,
    /// Channels of each level, from the largest picture to the smallest.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks of a level on the way down; one more on the way up.
    pub layers_per_block: usize,
    /// Groups of every group norm.
    pub norm_num_groups: usize,
    /// Added to the variance in the residual blocks' group norms.
    pub norm_eps: f64,
    /// Width of the text states.
    pub cross_attention_dim: usize,
    /// Transformer layers after each residual block.
    pub transformer_layers_per_block: Depths,
    /// The same on the way up, in the order of `up_block_types`; `None` for those of the way down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reverse_transformer_layers_per_block: Option<Depths>,
    /// **Number of heads** of each level, whatever the name says: it was misnamed once and kept for files' sake.
    pub attention_head_dim: Counts,
    /// The transformers' first and last layers are stored as linear layers, not as 1x1 convolutions.
    pub use_linear_projection: bool,
    /// Number of class embeddings, for a class-conditional model.
    pub num_class_embeds: Option<usize>,
    /// What else is added to the timestep's embedding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addition_embed_type: Option<AdditionEmbedType>,
    /// Width of the sinusoids of each added number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addition_time_embed_dim: Option<usize>,
    /// Width of the pooled text and the sinusoids of all added numbers together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub projection_class_embeddings_input_dim: Option<usize>,
    /// Width of the guidance's embedding, for a model that was distilled over strengths of guidance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_cond_proj_dim: Option<usize>,
}

/// What is added to the timestep's embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AdditionEmbedType {
    /// The pooled text and sizes of the picture. Source: Podell et al. 2023 (arXiv:2307.01952), section 2.2.
    #[serde(rename = "text_time")]
    TextTime,
}

/// A level on the way down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DownBlockType {
    /// Residual blocks.
    #[serde(rename = "DownBlock2D")]
    Plain,
    /// Residual blocks, each followed by a transformer.
    #[serde(rename = "CrossAttnDownBlock2D")]
    CrossAttention,
}

/// What lies between down and up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MidBlockType {
    /// One residual block.
    #[serde(rename = "UNetMidBlock2D")]
    Plain,
    /// Two residual blocks with a transformer between.
    #[serde(rename = "UNetMidBlock2DCrossAttn")]
    CrossAttention,
}

/// A level on the way up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpBlockType {
    /// Residual blocks.
    #[serde(rename = "UpBlock2D")]
    Plain,
    /// Residual blocks, each followed by a transformer.
    #[serde(rename = "CrossAttnUpBlock2D")]
    CrossAttention,
}

impl Default for UNet2dConditionConfig {
    fn default() -> Self {
        use {DownBlockType as Down, UpBlockType as Up};
        Self {
            sample_size: 64,
            in_channels: 4,
            out_channels: 4,
            flip_sin_to_cos: true,
            freq_shift: 0.0,
            down_block_types: vec![
                Down::CrossAttention,
                Down::CrossAttention,
                Down::CrossAttention,
                Down::Plain,
            ],
            mid_block_type: Some(MidBlockType::CrossAttention),
            up_block_types: vec![
                Up::Plain,
                Up::CrossAttention,
                Up::CrossAttention,
                Up::CrossAttention,
            ],
            block_out_channels: vec![320, 640, 1280, 1280],
            layers_per_block: 2,
            norm_num_groups: 32,
            norm_eps: 1e-5,
            cross_attention_dim: 1280,
            transformer_layers_per_block: Depths::Same(1),
            reverse_transformer_layers_per_block: None,
            attention_head_dim: Counts::Same(8),
            use_linear_projection: false,
            num_class_embeds: None,
            addition_embed_type: None,
            addition_time_embed_dim: None,
            projection_class_embeddings_input_dim: None,
            time_cond_proj_dim: None,
        }
    }
}

impl UNet2dConditionConfig {
    /// Refuses sizes that do not fit together.
    ///
    /// # Errors
    /// [`crate::ModelError::Config`] with the key.
    pub fn check(&self) -> Result<()> {
        self.checked()
    }

    /// Whether any level looks at text.
    pub fn has_cross_attention(&self) -> bool {
        self.down_block_types
            .contains(&DownBlockType::CrossAttention)
            || self.mid_block_type == Some(MidBlockType::CrossAttention)
            || self.up_block_types.contains(&UpBlockType::CrossAttention)
    }

    /// Numbers that are added beside a pooled text of width `pooled`; `None` unless they fill what is left of
    /// `projection_class_embeddings_input_dim`.
    pub fn added_numbers(&self, pooled: usize) -> Option<usize> {
        let (whole, each) = (
            self.projection_class_embeddings_input_dim?,
            self.addition_time_embed_dim?,
        );
        let left = whole.checked_sub(pooled)?;
        left.is_multiple_of(each).then_some(left / each)
    }

    /// Transformer layers after block `block` of a level on the way up; `level` counts from the largest picture.
    pub(crate) fn depth_up(&self, level: usize, block: usize) -> usize {
        match &self.reverse_transformer_layers_per_block {
            Some(depths) => depths.at(self.block_out_channels.len() - 1 - level, block),
            None => self.transformer_layers_per_block.at(level, block),
        }
    }

    /// Channels of each layer that looks at text: on the way down, in the middle, on the way up.
    pub(super) fn attention_channels(&self) -> [Vec<usize>; 3] {
        let channels = &self.block_out_channels;
        let last = channels.len() - 1;
        let (mut down, mut mid, mut up) = (Vec::new(), Vec::new(), Vec::new());
        for (level, kind) in self.down_block_types.iter().enumerate() {
            if *kind == DownBlockType::CrossAttention {
                let depth = |block| self.transformer_layers_per_block.at(level, block);
                let layers = (0..self.layers_per_block).map(depth).sum();
                down.extend(std::iter::repeat_n(channels[level], layers));
            }
        }
        if self.mid_block_type == Some(MidBlockType::CrossAttention) {
            let layers = self.transformer_layers_per_block.at(last, 0);
            mid.extend(std::iter::repeat_n(channels[last], layers));
        }
        for (kind, level) in self.up_block_types.iter().zip((0..=last).rev()) {
            if *kind == UpBlockType::CrossAttention {
                let layers = (0..=self.layers_per_block).map(|block| self.depth_up(level, block));
                up.extend(std::iter::repeat_n(channels[level], layers.sum()));
            }
        }
        [down, mid, up]
    }

    /// Width of the timestep's embedding.
    pub(crate) fn time_width(&self) -> usize {
        4 * self.block_out_channels[0]
    }
}

impl ModelConfig for UNet2dConditionConfig {
    const CLASS: &'static str = "UNet2DConditionModel";
    const IDENTITY: &'static [(&'static str, &'static str)] = &[("_class_name", Self::CLASS)];
    const FIXED: &'static [(&'static str, &'static [&'static str])] = &[
        ("act_fn", &["\"silu\"", "\"swish\""]),
        ("attention_type", &["\"default\""]),
        ("center_input_sample", &["false"]),
        ("class_embed_type", &["null"]),
        ("class_embeddings_concat", &["false"]),
        ("conv_in_kernel", &["3"]),
        ("conv_out_kernel", &["3"]),
        ("cross_attention_norm", &["null"]),
        ("downsample_padding", &["1"]),
        ("dropout", &["0"]),
        ("dual_cross_attention", &["false"]),
        ("encoder_hid_dim", &["null"]),
        ("encoder_hid_dim_type", &["null"]),
        ("mid_block_only_cross_attention", &["null", "false"]),
        ("mid_block_scale_factor", &["1"]),
        ("num_attention_heads", &["null"]),
        ("only_cross_attention", &["false"]),
        ("resnet_out_scale_factor", &["1"]),
        ("resnet_skip_time_act", &["false"]),
        ("resnet_time_scale_shift", &["\"default\""]),
        ("time_embedding_act_fn", &["null"]),
        ("time_embedding_dim", &["null"]),
        ("time_embedding_type", &["\"positional\""]),
        ("timestep_post_act", &["null"]),
    ];
    const WRITTEN: &'static [(&'static str, &'static str)] = &[("act_fn", "\"silu\"")];
    const IGNORED: &'static [&'static str] = &[
        "_diffusers_version",
        "_name_or_path",
        // Of kinds of `addition_embed_type` that are refused.
        "addition_embed_type_num_heads",
        // Attention's softmax is f32 in any case.
        "upcast_attention",
    ];

    fn check_sizes(&self) -> Result<(), Fault> {
        let levels = self.block_out_channels.len();
        need((1..=16).contains(&levels), "block_out_channels", || {
            format!("has {levels} levels; between 1 and 16 can be built")
        })?;
        need(
            self.down_block_types.len() == levels,
            "down_block_types",
            || {
                format!(
                    "has {} levels, and `block_out_channels` has {levels}",
                    self.down_block_types.len()
                )
            },
        )?;
        need(
            self.up_block_types.len() == levels,
            "up_block_types",
            || {
                format!(
                    "has {} levels, and `block_out_channels` has {levels}",
                    self.up_block_types.len()
                )
            },
        )?;
        need_layers(&[("layers_per_block", self.layers_per_block)])?;
        need_sizes(&[
            ("sample_size", self.sample_size),
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("norm_num_groups", self.norm_num_groups),
            ("cross_attention_dim", self.cross_attention_dim),
            ("num_class_embeds", self.num_class_embeds.unwrap_or(1)),
        ])?;
        self.attention_head_dim
            .check("attention_head_dim", levels)?;
        self.check_depths()?;
        self.check_added()?;
        need(self.norm_eps > 0.0, "norm_eps", || "must be above 0".into())?;
        for (level, &channels) in self.block_out_channels.iter().enumerate() {
            need_sizes(&[("block_out_channels", channels)])?;
            let (groups, heads) = (self.norm_num_groups, self.attention_head_dim.at(level));
            need(
                channels.is_multiple_of(groups),
                "block_out_channels",
                || format!("has {channels}, which is no multiple of `norm_num_groups`, {groups}"),
            )?;
            need(channels.is_multiple_of(heads), "attention_head_dim", || {
                format!(
                    "is {heads} heads, which do not divide the {channels} channels of level {level}"
                )
            })?;
        }
        let (half, shift) = (self.block_out_channels[0] / 2, self.freq_shift);
        need(half as f64 > shift && shift >= 0.0, "freq_shift", || {
            format!("is {shift}; it must be at least 0 and below {half}")
        })
    }
}

/// Transformer layers of a whole U-Net at most; Stable Diffusion XL has 70.
const MOST_TRANSFORMERS: usize = 4096;

impl UNet2dConditionConfig {
    fn check_depths(&self) -> Result<(), Fault> {
        const DOWN: &str = "transformer_layers_per_block";
        const UP: &str = "reverse_transformer_layers_per_block";
        let down = self.down_block_types.iter();
        let down = down
            .map(|kind| (*kind == DownBlockType::CrossAttention).then_some(self.layers_per_block));
        self.transformer_layers_per_block
            .check(DOWN, &down.collect::<Vec<_>>())?;
        let last = self.block_out_channels.len() - 1;
        if self.mid_block_type == Some(MidBlockType::CrossAttention) {
            need_layers(&[(DOWN, self.transformer_layers_per_block.at(last, 0))])?;
        }
        let up = self.up_block_types.iter();
        let up: Vec<_> = up
            .map(|kind| (*kind == UpBlockType::CrossAttention).then_some(self.layers_per_block + 1))
            .collect();
        match &self.reverse_transformer_layers_per_block {
            Some(depths) => depths.check(UP, &up),
            None => {
                need(
                    !self.transformer_layers_per_block.lists_blocks(),
                    UP,
                    || format!("is missing; a `{DOWN}` that lists blocks needs it"),
                )?;
                let attending = up.iter().zip((0..=last).rev());
                attending
                    .filter(|(blocks, _)| blocks.is_some())
                    .try_for_each(|(_, level)| need_layers(&[(DOWN, self.depth_up(level, 0))]))
            }
        }?;
        let transformers: usize = self.attention_channels().iter().map(Vec::len).sum();
        need(transformers <= MOST_TRANSFORMERS, DOWN, || {
            format!(
                "makes {transformers} layers in all blocks; {MOST_TRANSFORMERS} at most can be built"
            )
        })
    }

    fn check_added(&self) -> Result<(), Fault> {
        if let Some(width) = self.time_cond_proj_dim {
            need_sizes(&[("time_cond_proj_dim", width)])?;
            need(width >= 4, "time_cond_proj_dim", || {
                format!("is {width}; at least 4 numbers are needed")
            })?;
        }
        if self.addition_embed_type.is_none() {
            return Ok(());
        }
        for (key, width) in [
            ("addition_time_embed_dim", self.addition_time_embed_dim),
            (
                "projection_class_embeddings_input_dim",
                self.projection_class_embeddings_input_dim,
            ),
        ] {
            need_sizes(&[(key, width.unwrap_or(0))])?;
        }
        Ok(())
    }
}
