//! A copy of a U-Net's encoder that looks at a picture and steers the U-Net: `ControlNetModel`.

use std::path::Path;

use burn::module::Module;
use burn::tensor::Tensor;
use latent_formats::{Renamed, Weights};
use latent_nn::layers::{Conv2d, Sinusoid, TimestepEmbedding, timestep_sinusoid};
use latent_nn::ops::{Part, beside, evaluation};
use latent_nn::{Compute, Init, Precision, ops};

use super::blocks::{Builder, DownBlock, MidBlock, Told};
use super::config::UNet2dConditionConfig;
use super::controlnet_config::ControlNetConfig;
use super::transformer::KeysValues;
use crate::config::{self, ModelConfig};
use crate::error::{ModelError, Result};
use crate::files::FileSource;
use crate::single_file::{Sizes, replaced};
use crate::weights;

/// Tells a U-Net what a picture asks for, by what is added to its skips and its middle.
///
/// Source: Zhang et al. 2023 (arXiv:2302.05543); fields are named as in diffusers' checkpoints.
#[derive(Module, Debug)]
pub struct ControlNet {
    conv_in: Conv2d,
    time_embedding: TimestepEmbedding,
    controlnet_cond_embedding: PictureEmbedding,
    down_blocks: Vec<DownBlock>,
    controlnet_down_blocks: Vec<Conv2d>,
    mid_block: Option<MidBlock>,
    controlnet_mid_block: Conv2d,
    #[module(skip)]
    config: ControlNetConfig,
}

/// The picture's way to the size of the latents.
#[derive(Module, Debug)]
struct PictureEmbedding {
    conv_in: Conv2d,
    /// In pairs: one of the same width, one that widens and halves.
    blocks: Vec<Conv2d>,
    conv_out: Conv2d,
}

/// Text and picture, prepared once for all steps.
#[derive(Clone, Debug)]
pub struct ControlNetContext {
    text: Vec<KeysValues>,
    /// `[1 or n, h, w, c]`.
    picture: Tensor<4>,
}

/// What is added to a U-Net's skips and its middle, `[n, h, w, c]` each.
#[derive(Clone, Debug)]
pub struct Residuals {
    pub(super) down: Vec<Tensor<4>>,
    pub(super) mid: Tensor<4>,
}

impl Residuals {
    /// Both together.
    ///
    /// # Panics
    /// If they are of networks of different sizes.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let pairs = self.down.into_iter().zip(other.down);
        Self {
            down: pairs.map(|(a, b)| ops::add(a, b)).collect(),
            mid: ops::add(self.mid, other.mid),
        }
    }

    /// Each multiplied: the skips by the first ones of `factors`, the middle by the last.
    #[must_use]
    pub fn scaled(self, factors: &[f32]) -> Self {
        let last = factors.last().copied().unwrap_or(1.0);
        Self {
            down: self
                .down
                .into_iter()
                .zip(factors)
                .map(|(x, &factor)| x * factor)
                .collect(),
            mid: self.mid * last,
        }
    }

    /// Zeros for `n` samples in front of these.
    #[must_use]
    pub fn after_nothing(self, n: usize) -> Self {
        let padded = |x: Tensor<4>| {
            let [_, h, w, c] = x.dims();
            let nothing = Tensor::zeros([n, h, w, c], &x.device());
            Tensor::cat(vec![nothing, x], 0)
        };
        Self {
            down: self.down.into_iter().map(padded).collect(),
            mid: padded(self.mid),
        }
    }

    /// How many there are, the middle's counted.
    pub fn count(&self) -> usize {
        self.down.len() + 1
    }

    /// The skips' `[n, h, w, c]`, then the middle's.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor<4>> {
        self.down.iter().chain([&self.mid])
    }
}

impl PictureEmbedding {
    fn new(config: &ControlNetConfig, init: &mut Init) -> Self {
        let widths = &config.conditioning_embedding_out_channels;
        let blocks = widths.windows(2).flat_map(|pair| {
            [
                Conv2d::new([pair[0]; 2], 3, init),
                Conv2d::new([pair[0], pair[1]], 3, init).with_stride(2),
            ]
        });
        let blocks = blocks.collect();
        let last = widths[widths.len() - 1];
        Self {
            conv_in: Conv2d::new([config.conditioning_channels, widths[0]], 3, init),
            blocks,
            conv_out: Conv2d::new([last, config.block_out_channels[0]], 3, init),
        }
    }

    fn forward(&self, picture: Tensor<4>) -> Tensor<4> {
        let mut x = ops::silu(self.conv_in.forward(picture));
        for block in &self.blocks {
            x = ops::silu(block.forward(x));
        }
        self.conv_out.forward(x)
    }
}

impl ControlNet {
    /// A network with new weights.
    ///
    /// # Errors
    /// [`ModelError::Config`] if the sizes do not fit together.
    pub fn new(config: &ControlNetConfig, init: &mut Init) -> Result<Self> {
        config.checked()?;
        let unet = &config.unet();
        let channels = &config.block_out_channels;
        let conv_in = Conv2d::new([config.in_channels, channels[0]], 3, init);
        let time_embedding = TimestepEmbedding::new([channels[0], unet.time_width()], init);
        let controlnet_cond_embedding = PictureEmbedding::new(config, init);
        let mut skips = vec![channels[0]];
        let mut builder = Builder { config: unet, init };
        let (down_blocks, mid_block) = builder.encoder(&mut skips);
        let mut plain = |width: usize| Conv2d::new([width; 2], 1, builder.init);
        Ok(Self {
            conv_in,
            time_embedding,
            controlnet_cond_embedding,
            down_blocks,
            controlnet_down_blocks: skips.into_iter().map(&mut plain).collect(),
            mid_block,
            controlnet_mid_block: plain(channels[channels.len() - 1]),
            config: config.clone(),
        })
    }

    /// The network in a folder in diffusers' layout, or in a file in that or its authors' layout. Files have the sizes
    /// of `unet`, which the network is to steer.
    ///
    /// # Errors
    /// [`ModelError`]: a file or tensor is missing or does not fit; [`ModelError::Adapter`] if it is no ControlNet, or
    /// one for another U-Net.
    pub fn load(path: &Path, unet: &UNet2dConditionConfig, compute: &Compute) -> Result<Self> {
        let refuse = |reason: String| ModelError::Adapter {
            path: path.to_path_buf(),
            reason,
        };
        if unet.addition_embed_type.is_some() {
            return Err(refuse(
                "was named to steer Stable Diffusion XL, whose ControlNets Latent does not build yet; leave it out, or draw \
                 with a Stable Diffusion 1.x or 2.x model".into(),
            ));
        }
        let (config, weights) = if path.is_dir() {
            let files = FileSource::folder(path);
            let config: ControlNetConfig = config::read(&files)?;
            (config, weights::open(&files, weights::DIFFUSERS)?)
        } else {
            let weights = in_diffusers_names(&Weights::open(path)?).map_err(refuse)?;
            (ControlNetConfig::of_file(unet, &weights), weights)
        };
        let model = Self::new(&config, &mut Init::empty(compute))?;
        if !model.steers(unet) {
            return Err(refuse(format!(
                "is a ControlNet for U-Nets with levels of {:?} channels that read text of width {}, and this model's has \
                 {:?} and {}; name one made for this kind of model",
                config.block_out_channels,
                config.cross_attention_dim,
                unet.block_out_channels,
                unet.cross_attention_dim
            )));
        }
        weights::fill(model, weights)
    }

    fn steers(&self, unet: &UNet2dConditionConfig) -> bool {
        let own = &self.config;
        own.block_out_channels == unet.block_out_channels
            && own.layers_per_block == unet.layers_per_block
            && own.cross_attention_dim == unet.cross_attention_dim
            && own.in_channels == unet.in_channels
            && own.mid_block_type.is_some() == unet.mid_block_type.is_some()
    }

    /// Its sizes.
    pub fn config(&self) -> &ControlNetConfig {
        &self.config
    }

    /// Pixels of the picture per latent, in each direction.
    pub fn downsampling(&self) -> usize {
        self.config.downsampling()
    }

    /// What does not change between steps: the picture `[1 or n, 3, h*f, w*f]` in `[0, 1]`, and text states
    /// `[n, l, cross_attention_dim]`.
    ///
    /// # Panics
    /// If a width is another.
    pub fn prepare(&self, picture: Tensor<4>, text: &Tensor<3>) -> ControlNetContext {
        beside(Part::ControlNet, || self.prepared(picture, text))
    }

    fn prepared(&self, picture: Tensor<4>, text: &Tensor<3>) -> ControlNetContext {
        let down = self.down_blocks.iter().flat_map(DownBlock::attentions);
        let mid = self.mid_block.iter().flat_map(MidBlock::attentions);
        ControlNetContext {
            text: down
                .chain(mid)
                .flat_map(|attention| attention.keys_values(text))
                .collect(),
            picture: self
                .controlnet_cond_embedding
                .forward(ops::to_nhwc(picture)),
        }
    }

    /// What to add to the U-Net for `sample [n, c, h, w]` at `timesteps`, one per sample.
    ///
    /// # Panics
    /// If the shapes do not fit together.
    pub fn forward(
        &self,
        sample: Tensor<4>,
        timesteps: &[f32],
        context: &ControlNetContext,
    ) -> Residuals {
        evaluation(Part::ControlNet, || self.run(sample, timesteps, context))
    }

    fn run(&self, sample: Tensor<4>, timesteps: &[f32], context: &ControlNetContext) -> Residuals {
        let sinusoid = Sinusoid {
            dim: self.config.block_out_channels[0],
            flip_sin_to_cos: self.config.flip_sin_to_cos,
            freq_shift: self.config.freq_shift,
        };
        let host = Compute {
            device: sample.device(),
            // No product is computed here; the layer below has its own precision.
            precision: Precision::F32,
        };
        let time = timestep_sinusoid(timesteps, &sinusoid, &host);
        let mut told = Told {
            time: ops::silu(self.time_embedding.forward(time)),
            text: context.text.iter(),
        };
        let mut x = self.conv_in.forward(ops::to_nhwc(sample)) + context.picture.clone();
        let mut skips = vec![x.clone()];
        for block in &self.down_blocks {
            x = block.forward(x, &mut told, &mut skips);
        }
        if let Some(block) = &self.mid_block {
            x = block.forward(x, &mut told);
        }
        Residuals {
            down: skips
                .into_iter()
                .zip(&self.controlnet_down_blocks)
                .map(|(skip, conv)| conv.forward(skip))
                .collect(),
            mid: self.controlnet_mid_block.forward(x),
        }
    }
}

/// The authors' name outside the encoder's copy that has no number.
const MIDDLE: (&str, &str) = ("middle_block_out.0.", "controlnet_mid_block.");

/// The tensors of a file of either layout under diffusers' names.
///
/// Source: lllyasviel's `cldm.py`; diffusers' `convert_controlnet_checkpoint` maps the same way.
fn in_diffusers_names(weights: &Weights) -> std::result::Result<Weights, String> {
    if weights.contains("controlnet_cond_embedding.conv_in.weight") {
        return Ok(weights.clone());
    }
    if weights.contains("difference") {
        return Err(
            "stores differences to its base model, which Latent does not read; fetch the whole ControlNet".into(),
        );
    }
    let bare = |key: &str| key.strip_prefix("control_model.").unwrap_or(key).to_owned();
    // As the encoder of a checkpoint of one file.
    let whole = weights.renamed(|key| {
        vec![Renamed::whole(format!(
            "model.diffusion_model.{}",
            bare(key)
        ))]
    });
    let last_hint = (0..)
        .step_by(2)
        .take_while(|number| {
            whole.contains(&format!(
                "model.diffusion_model.input_hint_block.{number}.weight"
            ))
        })
        .last();
    let Some(last_hint) = last_hint else {
        return Err("is no ControlNet; needed is a folder or file of a `ControlNetModel`, or a file with `control_model.`".into());
    };
    let sizes = Sizes::of(&whole);
    Ok(weights.renamed(|key| {
        let name = bare(key);
        let renamed = hint(&name, last_hint)
            .or_else(|| replaced(&name, &[MIDDLE]))
            .or_else(|| zero_conv(&name))
            .or_else(|| sizes.diffusers_name("unet", &format!("model.diffusion_model.{name}")));
        renamed.map(Renamed::whole).into_iter().collect()
    }))
}

/// The picture's convolutions are counted with the SiLUs between them.
fn hint(name: &str, last: usize) -> Option<String> {
    let (number, kind) = name.strip_prefix("input_hint_block.")?.split_once('.')?;
    let number: usize = number.parse().ok()?;
    Some(match number {
        0 => format!("controlnet_cond_embedding.conv_in.{kind}"),
        _ if number == last => format!("controlnet_cond_embedding.conv_out.{kind}"),
        _ => format!("controlnet_cond_embedding.blocks.{}.{kind}", number / 2 - 1),
    })
}

fn zero_conv(name: &str) -> Option<String> {
    let (number, rest) = name.strip_prefix("zero_convs.")?.split_once('.')?;
    let kind = rest.strip_prefix("0.")?;
    Some(format!("controlnet_down_blocks.{number}.{kind}"))
}
