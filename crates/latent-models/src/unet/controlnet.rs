//! A copy of a U-Net's encoder that looks at a picture and steers the U-Net: `ControlNetModel`.

use std::path::Path;

use burn::module::Module;
use burn::tensor::Tensor;
use latent_formats::Weights;
use latent_nn::layers::{Conv2d, Sinusoid, TimestepEmbedding, timestep_sinusoid};
use latent_nn::ops::{Part, beside, evaluation};
use latent_nn::{Compute, Init, ops};

use super::blocks::{Builder, DownBlock, MidBlock, Told};
use super::condition::{UNetCondition, host};
use super::config::UNet2dConditionConfig;
use super::controlnet_config::ControlNetConfig;
use super::controlnet_file::in_diffusers_names;
use super::model::Leading;
use super::transformer::{KeysValues, Seen};
use crate::config::{self, ModelConfig};
use crate::error::{ModelError, Result};
use crate::files::FileSource;
use crate::weights;

/// Tells a U-Net what a picture asks for, by what is added to its skips and its middle.
///
/// Source: Zhang et al. 2023 (arXiv:2302.05543); fields are named as in diffusers' checkpoints.
#[derive(Module, Debug)]
pub struct ControlNet {
    conv_in: Conv2d,
    time_embedding: TimestepEmbedding,
    /// Pooled text and sizes of the picture, added to the timestep's.
    add_embedding: Option<TimestepEmbedding>,
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

/// Condition and picture, prepared once for all steps.
#[derive(Clone, Debug)]
pub struct ControlNetContext {
    text: Vec<KeysValues>,
    /// Of pooled text and sizes, `[n, t]`; added to the timestep's embedding.
    added: Option<Tensor<2>>,
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
        let time_width = unet.time_width();
        let time_embedding = TimestepEmbedding::new([channels[0], time_width], init);
        let added_width = config
            .addition_embed_type
            .and(config.projection_class_embeddings_input_dim);
        let add_embedding =
            added_width.map(|width| TimestepEmbedding::new([width, time_width], init));
        let controlnet_cond_embedding = PictureEmbedding::new(config, init);
        let mut skips = vec![channels[0]];
        let mut builder = Builder { config: unet, init };
        let (down_blocks, mid_block) = builder.encoder(&mut skips);
        let mut plain = |width: usize| Conv2d::new([width; 2], 1, builder.init);
        Ok(Self {
            conv_in,
            time_embedding,
            add_embedding,
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

    /// Whether it fits the U-Net. One beside an inpainting U-Net sees the noisy latents alone.
    fn steers(&self, unet: &UNet2dConditionConfig) -> bool {
        let own = &self.config;
        let told = own.addition_embed_type.is_none()
            || own.addition_embed_type == unet.addition_embed_type
                && own.projection_class_embeddings_input_dim
                    == unet.projection_class_embeddings_input_dim
                && own.addition_time_embed_dim == unet.addition_time_embed_dim;
        told && own.block_out_channels == unet.block_out_channels
            && own.layers_per_block == unet.layers_per_block
            && own.cross_attention_dim == unet.cross_attention_dim
            && [unet.in_channels, unet.out_channels].contains(&own.in_channels)
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

    /// What does not change between steps: the picture `[1 or n, 3, h*f, w*f]` in `[0, 1]`, and what the U-Net is told;
    /// `None` if that is no text, which ControlNets look at.
    ///
    /// # Panics
    /// If a width is another.
    pub fn prepare(
        &self,
        picture: Tensor<4>,
        condition: &UNetCondition,
    ) -> Option<ControlNetContext> {
        beside(Part::ControlNet, || self.prepared(picture, condition))
    }

    fn prepared(&self, picture: Tensor<4>, condition: &UNetCondition) -> Option<ControlNetContext> {
        let text = condition.text()?;
        let added = match (condition, &self.add_embedding) {
            (UNetCondition::TextTime(told), Some(embedding)) => {
                let sinusoid = Sinusoid {
                    dim: self.config.addition_time_embed_dim.unwrap_or(0),
                    ..self.sinusoid()
                };
                Some(told.embed(embedding, &sinusoid))
            }
            _ => None,
        };
        let down = self.down_blocks.iter().flat_map(DownBlock::attentions);
        let mid = self.mid_block.iter().flat_map(MidBlock::attentions);
        Some(ControlNetContext {
            added,
            text: down
                .chain(mid)
                .flat_map(|attention| attention.keys_values(text))
                .collect(),
            picture: self
                .controlnet_cond_embedding
                .forward(ops::to_nhwc(picture)),
        })
    }

    /// How timesteps are spread.
    fn sinusoid(&self) -> Sinusoid {
        Sinusoid {
            dim: self.config.block_out_channels[0],
            flip_sin_to_cos: self.config.flip_sin_to_cos,
            freq_shift: self.config.freq_shift,
        }
    }

    /// What to add to the U-Net for `sample [n, c, h, w]` at `timesteps`, one per sample. Channels that it does not read
    /// may follow those it does.
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
        let waves = timestep_sinusoid(timesteps, &self.sinusoid(), &host(&sample.device()));
        let time = self.time_embedding.forward(waves);
        let time = match &context.added {
            Some(added) => time + added.clone(),
            None => time,
        };
        let mut told = Told {
            time: ops::silu(time),
            text: Seen::new(&context.text, Leading::default()),
        };
        let sample = sample.narrow(1, 0, self.config.in_channels);
        let mut x = self.conv_in.forward(ops::to_nhwc(sample)) + context.picture.clone();
        let mut skips = vec![x.clone()];
        for block in &self.down_blocks {
            x = block.forward(x, &mut told, (&mut skips, usize::MAX));
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
