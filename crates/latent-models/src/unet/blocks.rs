//! The levels of a U-Net.

use burn::module::Module;
use burn::tensor::Tensor;
use latent_nn::{Init, ops};

use super::config::{DownBlockType, MidBlockType, UNet2dConditionConfig};
use super::transformer::{Seen, Transformer2d, TransformerOptions};
use crate::adapters::layers::layers;
use crate::resample::{Downsample, Upsample};
use crate::residual::{ResBlock, ResBlockOptions};

/// What a level is told beside the picture: the timestep's embedding `[n, t]` after SiLU, and what attention layers see
/// in the text.
pub(super) struct Told<'a> {
    pub(super) time: Tensor<2>,
    pub(super) text: Seen<'a>,
}

/// Keeps what comes to the layer on the way up that takes the skip at a depth.
pub(super) struct Kept {
    /// Skips that are left there; 0 keeps nothing.
    depth: usize,
    pub(super) found: Option<Tensor<4>>,
}

impl Kept {
    pub(super) fn at(depth: usize) -> Self {
        Self { depth, found: None }
    }

    pub(super) fn nothing() -> Self {
        Self::at(0)
    }
}

/// Builds the parts of levels from the config.
pub(super) struct Builder<'a> {
    pub(super) config: &'a UNet2dConditionConfig,
    pub(super) init: &'a mut Init,
}

impl Builder<'_> {
    /// The way down and the middle, which a U-Net and its ControlNets share; each result on the way down adds its
    /// width to `skips`.
    pub(super) fn encoder(&mut self, skips: &mut Vec<usize>) -> (Vec<DownBlock>, Option<MidBlock>) {
        let config = self.config;
        let mut down_blocks = Vec::new();
        for (level, kind) in config.down_block_types.iter().enumerate() {
            let attends = *kind == DownBlockType::CrossAttention;
            down_blocks.push(DownBlock::new(level, attends, skips, self));
        }
        let mid_block = config
            .mid_block_type
            .map(|kind| MidBlock::new(kind == MidBlockType::CrossAttention, self));
        (down_blocks, mid_block)
    }

    fn residual(&mut self, channels: [usize; 2]) -> ResBlock {
        let options = ResBlockOptions {
            groups: self.config.norm_num_groups,
            eps: self.config.norm_eps,
            time_width: Some(self.config.time_width()),
        };
        ResBlock::new(channels, options, self.init)
    }

    /// A transformer of a level, counted from the largest picture, with `layers` layers.
    fn transformer(&mut self, level: usize, layers: usize) -> Transformer2d {
        let config = self.config;
        let options = TransformerOptions {
            channels: config.block_out_channels[level],
            heads: config.attention_head_dim.at(level),
            layers,
            text_width: config.cross_attention_dim,
            groups: config.norm_num_groups,
        };
        Transformer2d::new(options, self.init)
    }
}

/// A level on the way down: residual blocks, with transformers where it looks at text, and a halving.
#[derive(Module, Debug)]
pub(super) struct DownBlock {
    resnets: Vec<ResBlock>,
    /// As many as `resnets`, or none.
    attentions: Vec<Transformer2d>,
    /// One, or none on the last level.
    downsamplers: Vec<Downsample>,
}

layers!(DownBlock {
    resnets,
    attentions,
    downsamplers
});

impl DownBlock {
    /// `channels_in` from the level before; appends the channels of each skip to `skips`.
    pub(super) fn new(
        level: usize,
        attends: bool,
        skips: &mut Vec<usize>,
        builder: &mut Builder<'_>,
    ) -> Self {
        let config = builder.config;
        let channels = config.block_out_channels[level];
        let halves = level + 1 < config.block_out_channels.len();
        let mut channels_in = skips.last().copied().unwrap_or(channels);
        let mut block = Self {
            resnets: Vec::new(),
            attentions: Vec::new(),
            downsamplers: Vec::new(),
        };
        for index in 0..config.layers_per_block {
            block
                .resnets
                .push(builder.residual([channels_in, channels]));
            if attends {
                let layers = config.transformer_layers_per_block.at(level, index);
                block.attentions.push(builder.transformer(level, layers));
            }
            channels_in = channels;
            skips.push(channels);
        }
        if halves {
            block
                .downsamplers
                .push(Downsample::new(channels, builder.init));
            skips.push(channels);
        }
        block
    }

    pub(super) fn attentions(&self) -> &[Transformer2d] {
        &self.attentions
    }

    /// `x [n, h, w, c]` to the next level; every result is pushed onto the skips, and no more than so many are wanted.
    pub(super) fn forward(
        &self,
        mut x: Tensor<4>,
        told: &mut Told<'_>,
        (skips, wanted): (&mut Vec<Tensor<4>>, usize),
    ) -> Tensor<4> {
        for (index, resnet) in self.resnets.iter().enumerate() {
            if skips.len() == wanted {
                return x;
            }
            x = resnet.forward(x, Some(&told.time));
            if let Some(attention) = self.attentions.get(index) {
                x = attention.forward(x, &mut told.text);
            }
            skips.push(x.clone());
        }
        if let Some(downsampler) = self.downsamplers.first().filter(|_| skips.len() < wanted) {
            x = downsampler.forward(x);
            skips.push(x.clone());
        }
        x
    }
}

/// What lies between down and up: a residual block, and where it looks at text a transformer and another one.
#[derive(Module, Debug)]
pub(super) struct MidBlock {
    attentions: Vec<Transformer2d>,
    resnets: Vec<ResBlock>,
}

layers!(MidBlock {
    attentions,
    resnets
});

impl MidBlock {
    pub(super) fn new(attends: bool, builder: &mut Builder<'_>) -> Self {
        let last = builder.config.block_out_channels.len() - 1;
        let channels = builder.config.block_out_channels[last];
        let attentions: Vec<_> = attends
            .then(|| {
                let layers = builder.config.transformer_layers_per_block.at(last, 0);
                builder.transformer(last, layers)
            })
            .into_iter()
            .collect();
        Self {
            resnets: (0..=attentions.len())
                .map(|_| builder.residual([channels; 2]))
                .collect(),
            attentions,
        }
    }

    pub(super) fn attentions(&self) -> &[Transformer2d] {
        &self.attentions
    }

    /// `x [n, h, w, c]` to the same shape.
    pub(super) fn forward(&self, mut x: Tensor<4>, told: &mut Told<'_>) -> Tensor<4> {
        for (index, resnet) in self.resnets.iter().enumerate() {
            x = resnet.forward(x, Some(&told.time));
            if let Some(attention) = self.attentions.get(index) {
                x = attention.forward(x, &mut told.text);
            }
        }
        x
    }
}

/// A level on the way up: residual blocks over the skips, with transformers where it looks at text, and a doubling.
#[derive(Module, Debug)]
pub(super) struct UpBlock {
    resnets: Vec<ResBlock>,
    /// As many as `resnets`, or none.
    attentions: Vec<Transformer2d>,
    /// One, or none on the last level.
    upsamplers: Vec<Upsample>,
}

layers!(UpBlock {
    resnets,
    attentions,
    upsamplers
});

impl UpBlock {
    /// `level` counts from the largest picture; takes the channels of its skips from `skips`.
    pub(super) fn new(
        level: usize,
        mut channels_in: usize,
        attends: bool,
        skips: &mut Vec<usize>,
        builder: &mut Builder<'_>,
    ) -> Self {
        let channels = builder.config.block_out_channels[level];
        let mut block = Self {
            resnets: Vec::new(),
            attentions: Vec::new(),
            upsamplers: Vec::new(),
        };
        for index in 0..=builder.config.layers_per_block {
            let skip = skips.pop().unwrap_or(0);
            block
                .resnets
                .push(builder.residual([channels_in + skip, channels]));
            if attends {
                let layers = builder.config.depth_up(level, index);
                block.attentions.push(builder.transformer(level, layers));
            }
            channels_in = channels;
        }
        if level > 0 {
            block.upsamplers.push(Upsample::new(channels, builder.init));
        }
        block
    }

    pub(super) fn attentions(&self) -> &[Transformer2d] {
        &self.attentions
    }

    /// Layers that take a skip each.
    pub(super) fn layers(&self) -> usize {
        self.resnets.len()
    }

    /// `x [n, h, w, c]` and the skips popped from `skips` to the next level, from the layer `first` on.
    pub(super) fn forward(
        &self,
        mut x: Tensor<4>,
        told: &mut Told<'_>,
        skips: &mut Vec<Tensor<4>>,
        (first, kept): (usize, &mut Kept),
    ) -> Tensor<4> {
        for (index, resnet) in self.resnets.iter().enumerate().skip(first) {
            if skips.len() == kept.depth {
                kept.found = Some(x.clone());
            }
            if let Some(skip) = skips.pop() {
                x = ops::concat(x, skip);
            }
            x = resnet.forward(x, Some(&told.time));
            if let Some(attention) = self.attentions.get(index) {
                x = attention.forward(x, &mut told.text);
            }
        }
        match (self.upsamplers.first(), skips.last()) {
            (Some(upsampler), Some(next)) => {
                let [_, h, w, _] = next.dims();
                upsampler.forward_to(x, [h, w])
            }
            _ => x,
        }
    }
}
