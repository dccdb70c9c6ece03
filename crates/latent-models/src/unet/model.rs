//! The network that finds the noise in latents.

use std::path::Path;

use burn::module::Module;
use burn::tensor::Tensor;
use latent_formats::Dtype;
use latent_nn::layers::{
    Conv2d, Embedding, GroupNorm, Sinusoid, TimestepEmbedding, sinusoid_values, timestep_sinusoid,
};
use latent_nn::ops::{Part, beside, evaluation};
use latent_nn::{Compute, Init, ops};

use super::blocks::{Builder, DownBlock, Kept, MidBlock, Told, UpBlock};
use super::condition::{UNetCondition, host};
use super::config::{UNet2dConditionConfig, UpBlockType};
use super::controlnet::Residuals;
use super::ip_adapter::IpAdapter;
use super::merging::TokenMerging;
use super::transformer::{KeysValues, Seen};
use crate::adapters::layers::layers;
use crate::config::{self, ModelConfig};
use crate::error::Result;
use crate::files::FileSource;
use crate::weights::{self, Layout};

/// The U-Net of Stable Diffusion 1, 2 and XL: `UNet2DConditionModel`.
///
/// Source: Rombach et al. 2022 (arXiv:2112.10752); fields are named as in diffusers' checkpoints.
#[derive(Module, Debug)]
pub struct UNet2dCondition {
    pub(super) conv_in: Conv2d,
    time_embedding: TimestepEmbedding,
    /// One vector per class, added to the timestep's.
    class_embedding: Option<Embedding>,
    /// Pooled text and sizes of the picture, added to the timestep's.
    add_embedding: Option<TimestepEmbedding>,
    pub(super) down_blocks: Vec<DownBlock>,
    pub(super) mid_block: Option<MidBlock>,
    pub(super) up_blocks: Vec<UpBlock>,
    pub(super) conv_norm_out: GroupNorm,
    pub(super) conv_out: Conv2d,
    #[module(skip)]
    config: UNet2dConditionConfig,
}

/// A condition, prepared once for all steps: the text's keys and values of each attention layer, and what is added to
/// the timestep.
#[derive(Clone, Debug)]
pub struct Context {
    pub(super) text: Vec<KeysValues>,
    /// Of a class or of pooled text and sizes, `[n, t]`; added to the timestep's embedding.
    added: Option<Tensor<2>>,
    /// Of the strength of guidance, `[n, c]`; added to the timestep's sinusoids.
    guidance: Option<Tensor<2>>,
}

layers!(UNet2dCondition {
    down_blocks,
    mid_block,
    up_blocks
});

/// What leads a U-Net beside its condition, at one evaluation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Leading<'a> {
    /// What ControlNets add to its skips and its middle.
    pub residuals: Option<&'a Residuals>,
    /// Shares of what it sees in the pictures of its context, an adapter after the other; 0 for one that rests.
    pub pictures: &'a [f32],
    /// Positions of its largest level that self-attention takes together.
    pub merging: Option<TokenMerging>,
}

impl Context {
    /// This context with the tokens `[n, l, cross_attention_dim]` that `adapter` made of a picture; see
    /// [`Leading::pictures`].
    ///
    /// # Panics
    /// If the adapter is for another U-Net.
    #[must_use]
    pub fn with_picture(mut self, adapter: &IpAdapter, tokens: &Tensor<3>) -> Self {
        assert_eq!(
            self.text.len(),
            adapter.layers(),
            "layers that look at text"
        );
        for (text, seen) in self.text.iter_mut().zip(adapter.keys_values(tokens)) {
            text.add_picture(seen);
        }
        self
    }
}

impl UNet2dCondition {
    /// A network with new weights.
    ///
    /// # Errors
    /// [`crate::ModelError::Config`] if the sizes do not fit together.
    pub fn new(config: &UNet2dConditionConfig, init: &mut Init) -> Result<Self> {
        config.checked()?;
        let channels = &config.block_out_channels;
        let time_width = config.time_width();
        let conv_in = Conv2d::new([config.in_channels, channels[0]], 3, init);
        let mut time_embedding = TimestepEmbedding::new([channels[0], time_width], init);
        if let Some(width) = config.time_cond_proj_dim {
            time_embedding = time_embedding.with_condition(width, init);
        }
        let class_embedding = config
            .num_class_embeds
            .map(|count| Embedding::new([count, time_width], init));
        let added_width = config
            .addition_embed_type
            .and(config.projection_class_embeddings_input_dim);
        let add_embedding =
            added_width.map(|width| TimestepEmbedding::new([width, time_width], init));
        let mut skips = vec![channels[0]];
        let mut builder = Builder { config, init };
        let (down_blocks, mid_block) = builder.encoder(&mut skips);
        let mut up_blocks = Vec::new();
        let mut channels_in = channels[channels.len() - 1];
        for (kind, level) in config.up_block_types.iter().zip((0..channels.len()).rev()) {
            let attends = *kind == UpBlockType::CrossAttention;
            up_blocks.push(UpBlock::new(
                level,
                channels_in,
                attends,
                &mut skips,
                &mut builder,
            ));
            channels_in = channels[level];
        }
        Ok(Self {
            conv_in,
            time_embedding,
            class_embedding,
            add_embedding,
            down_blocks,
            mid_block,
            up_blocks,
            conv_norm_out: GroupNorm::new(
                config.norm_num_groups,
                channels[0],
                config.norm_eps,
                init,
            ),
            conv_out: Conv2d::new([channels[0], config.out_channels], 3, init),
            config: config.clone(),
        })
    }

    /// The network in a `unet/` folder.
    ///
    /// # Errors
    /// [`crate::ModelError`]: a file or tensor is missing or does not fit, the config asks for what is not built here.
    pub fn load(folder: &Path, compute: &Compute) -> Result<Self> {
        Self::open(&FileSource::folder(folder), compute)
    }

    /// [`UNet2dCondition::load`] from files anywhere.
    ///
    /// # Errors
    /// As [`UNet2dCondition::load`].
    pub fn open(files: &FileSource, compute: &Compute) -> Result<Self> {
        let config: UNet2dConditionConfig = config::read(files)?;
        let model = Self::new(&config, &mut Init::empty(compute))?;
        weights::load(model, files, weights::DIFFUSERS)
    }

    /// Writes `config.json` and the weights in f32, as diffusers reads them.
    ///
    /// # Errors
    /// [`crate::ModelError::Format`] if the folder cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        self.save_as(folder, Dtype::F32)
    }

    /// [`UNet2dCondition::save`] with weights rounded to `dtype`: f32, bf16 or f16.
    ///
    /// # Errors
    /// As [`UNet2dCondition::save`].
    pub fn save_as(&self, folder: &Path, dtype: Dtype) -> Result<()> {
        let layout = Layout {
            linear_projections: self.config.use_linear_projection,
        };
        weights::save(
            self,
            &self.config,
            folder,
            (weights::DIFFUSERS, layout),
            dtype,
        )
    }

    /// Its sizes.
    pub fn config(&self) -> &UNet2dConditionConfig {
        &self.config
    }

    /// What depends on the condition alone, so that steps need not compute it again; `batch` is `n` of the calls.
    ///
    /// Levels that look at text look at one zero token where the condition is no text, which is what diffusers
    /// computes from `encoder_hidden_states = zeros(n, 1, cross_attention_dim)`.
    ///
    /// # Panics
    /// If the condition is not of this network: a width other than `cross_attention_dim`, a class where the config
    /// has none, or [`UNetCondition::TextTime`] where it has no `addition_embed_type`, or another where it has.
    pub fn prepare(&self, condition: UNetCondition, batch: usize) -> Context {
        beside(Part::UNet, || self.prepared(condition, batch))
    }

    fn prepared(&self, condition: UNetCondition, batch: usize) -> Context {
        let added = self.embed_condition(&condition, batch);
        let text = match condition {
            UNetCondition::Text(text) => text,
            UNetCondition::TextTime(told) => told.text,
            UNetCondition::Class(_) | UNetCondition::None => {
                let device = self.conv_in.weight.val().device();
                Tensor::zeros([batch, 1, self.config.cross_attention_dim], &device)
            }
        };
        Context {
            text: self
                .attentions()
                .flat_map(|attention| attention.keys_values(&text))
                .collect(),
            added,
            guidance: None,
        }
    }

    /// What a condition adds to the timestep's embedding, `[n, t]`.
    fn embed_condition(&self, condition: &UNetCondition, batch: usize) -> Option<Tensor<2>> {
        match (condition, &self.class_embedding, &self.add_embedding) {
            (UNetCondition::Class(labels), Some(embedding), None) => {
                let vectors = embedding.forward(labels.clone());
                Some(vectors.reshape([batch, self.config.time_width()]))
            }
            (UNetCondition::TextTime(told), _, Some(embedding)) => {
                let sinusoid = Sinusoid {
                    dim: self.config.addition_time_embed_dim.unwrap_or(0),
                    ..self.sinusoid()
                };
                Some(told.embed(embedding, &sinusoid))
            }
            (UNetCondition::Text(_) | UNetCondition::None, _, None) => None,
            _ => panic!("the condition is of another kind than this U-Net's config"),
        }
    }

    /// `context` with the strength of classifier-free guidance, for networks with `time_cond_proj_dim`, which were
    /// distilled over strengths; for others it stays as it is.
    ///
    /// Source: Meng et al. 2023 (arXiv:2210.03142); diffusers' `get_guidance_scale_embedding`.
    #[must_use]
    pub fn with_guidance(&self, context: Context, strength: f32, batch: usize) -> Context {
        let Some(dim) = self.config.time_cond_proj_dim else {
            return context;
        };
        let sinusoid = Sinusoid {
            dim,
            flip_sin_to_cos: false,
            freq_shift: 1.0,
        };
        let compute = host(&self.conv_in.weight.val().device());
        let strengths = vec![(strength - 1.0) * 1000.0; batch];
        let embedded = timestep_sinusoid(&strengths, &sinusoid, &compute);
        Context {
            guidance: self.time_embedding.project(embedded),
            ..context
        }
    }

    /// Predicts the noise (or velocity) in `sample [n, c, h, w]` at `timesteps`, one per sample: `[n, c, h, w]`.
    ///
    /// # Panics
    /// If the shapes do not fit together; see [`UNet2dCondition::prepare`].
    pub fn forward(
        &self,
        sample: Tensor<4>,
        timesteps: &[f32],
        condition: UNetCondition,
    ) -> Tensor<4> {
        let context = self.prepare(condition, sample.dims()[0]);
        self.forward_prepared(sample, timesteps, &context)
    }

    /// The sines and cosines `[n, c]` that stand for `timesteps`.
    pub fn waves(&self, timesteps: &[f32]) -> Vec<f32> {
        sinusoid_values(timesteps, &self.sinusoid())
    }

    /// [`UNet2dCondition::forward`] with the timesteps as [`UNet2dCondition::waves`] on the device: nothing comes from the
    /// host.
    ///
    /// # Panics
    /// If the shapes do not fit together.
    pub fn forward_waves(
        &self,
        sample: Tensor<4>,
        waves: Tensor<2>,
        condition: UNetCondition,
    ) -> Tensor<4> {
        let context = self.prepare(condition, sample.dims()[0]);
        let parts = (&context, Leading::default(), &mut Kept::nothing());
        self.run((sample, waves), parts, &mut |_, _| ())
    }

    /// [`UNet2dCondition::forward`] with what [`UNet2dCondition::prepare`] gave.
    ///
    /// # Panics
    /// If the shapes do not fit together.
    pub fn forward_prepared(
        &self,
        sample: Tensor<4>,
        timesteps: &[f32],
        context: &Context,
    ) -> Tensor<4> {
        self.forward_watched(sample, timesteps, context, &mut |_, _| ())
    }

    /// [`UNet2dCondition::forward_prepared`], showing the result `[n, h, w, c]` of each part by its name in files to
    /// `watch`.
    ///
    /// # Panics
    /// If the shapes do not fit together.
    pub fn forward_watched(
        &self,
        sample: Tensor<4>,
        timesteps: &[f32],
        context: &Context,
        watch: &mut dyn FnMut(&str, &Tensor<4>),
    ) -> Tensor<4> {
        evaluation(Part::UNet, || {
            let waves = self.waves_of(timesteps, &sample);
            let parts = (context, Leading::default(), &mut Kept::nothing());
            self.run((sample, waves), parts, watch)
        })
    }

    /// [`UNet2dCondition::forward_prepared`] led by pictures.
    ///
    /// # Panics
    /// If the shapes do not fit together.
    pub fn forward_steered(
        &self,
        sample: Tensor<4>,
        timesteps: &[f32],
        context: &Context,
        leading: Leading<'_>,
    ) -> Tensor<4> {
        evaluation(Part::UNet, || {
            let waves = self.waves_of(timesteps, &sample);
            let parts = (context, leading, &mut Kept::nothing());
            self.run((sample, waves), parts, &mut |_, _| ())
        })
    }

    pub(super) fn run(
        &self,
        (sample, waves): (Tensor<4>, Tensor<2>),
        (context, leading, kept): (&Context, Leading<'_>, &mut Kept),
        watch: &mut dyn FnMut(&str, &Tensor<4>),
    ) -> Tensor<4> {
        let mut told = Told {
            time: ops::silu(self.embed_time(waves, context)),
            text: Seen::new(&context.text, leading),
        };
        let mut x = self.conv_in.forward(ops::to_nhwc(sample));
        watch("conv_in", &x);
        let mut skips = vec![x.clone()];
        for (index, block) in self.down_blocks.iter().enumerate() {
            x = block.forward(x, &mut told, (&mut skips, usize::MAX));
            watch(&format!("down_blocks.{index}"), &x);
        }
        if let Some(block) = &self.mid_block {
            x = block.forward(x, &mut told);
            watch("mid_block", &x);
        }
        if let Some(residuals) = leading.residuals {
            x = ops::add(x, residuals.mid.clone());
            for (skip, residual) in skips.iter_mut().zip(&residuals.down) {
                *skip = ops::add(skip.clone(), residual.clone());
            }
        }
        for (index, block) in self.up_blocks.iter().enumerate() {
            x = block.forward(x, &mut told, &mut skips, (0, &mut *kept));
            watch(&format!("up_blocks.{index}"), &x);
        }
        ops::to_nchw(self.conv_out.forward(self.conv_norm_out.forward_silu(x)))
    }

    pub(super) fn waves_of(&self, timesteps: &[f32], sample: &Tensor<4>) -> Tensor<2> {
        timestep_sinusoid(timesteps, &self.sinusoid(), &host(&sample.device()))
    }

    /// The timesteps' embedding `[n, t]`, with what the condition adds.
    pub(super) fn embed_time(&self, waves: Tensor<2>, context: &Context) -> Tensor<2> {
        let waves = match &context.guidance {
            Some(guidance) => waves + guidance.clone(),
            None => waves,
        };
        let time = self.time_embedding.forward(waves);
        match &context.added {
            Some(added) => time + added.clone(),
            None => time,
        }
    }

    /// How timesteps are spread.
    fn sinusoid(&self) -> Sinusoid {
        Sinusoid {
            dim: self.config.block_out_channels[0],
            flip_sin_to_cos: self.config.flip_sin_to_cos,
            freq_shift: self.config.freq_shift,
        }
    }
}
