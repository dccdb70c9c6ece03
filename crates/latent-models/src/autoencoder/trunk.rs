//! Encoder and decoder that the two residual autoencoders share.

use std::io;

use burn::module::Module;
use burn::tensor::Tensor;
use latent_nn::layers::{Conv2d, GroupNorm, Linear};
use latent_nn::ops::AttentionOptions;
use latent_nn::{Bands, Canvas, Init, Precision, Scale, ops};

use super::config::{DownEncoderBlockType, Trunk, UpDecoderBlockType};
use crate::resample::{Downsample, Upsample};
use crate::residual::{ResBlock, ResBlockOptions};

/// Added to the variance in every group norm of an autoencoder.
const EPS: f64 = 1e-6;

fn residual(channels: [usize; 2], trunk: Trunk<'_>, init: &mut Init) -> ResBlock {
    let options = ResBlockOptions {
        groups: trunk.groups,
        eps: EPS,
        time_width: None,
    };
    ResBlock::new(channels, options, init)
}

/// Pictures to latents.
///
/// Source: Rombach et al. 2022 (arXiv:2112.10752), appendix G; fields are named as in diffusers' checkpoints.
#[derive(Module, Debug)]
pub(super) struct Encoder {
    conv_in: Conv2d,
    down_blocks: Vec<DownEncoderBlock>,
    mid_block: MidBlock,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Encoder {
    /// Channels of the pictures, and of what comes out.
    pub(super) fn new([pictures, out]: [usize; 2], trunk: Trunk<'_>, init: &mut Init) -> Self {
        let last = trunk.channels.len() - 1;
        let mut channels_in = trunk.channels[0];
        let conv_in = Conv2d::new([pictures, channels_in], 3, init);
        let mut down_blocks = Vec::new();
        for (level, kind) in trunk.down.iter().enumerate() {
            let channels = [channels_in, trunk.channels[level]];
            let mut block = DownEncoderBlock::new(channels, *kind, trunk, init);
            if level < last {
                block
                    .downsamplers
                    .push(Downsample::asymmetric(channels[1], init));
            }
            down_blocks.push(block);
            channels_in = channels[1];
        }
        Self {
            conv_in,
            down_blocks,
            mid_block: MidBlock::new(channels_in, trunk, init),
            conv_norm_out: GroupNorm::new(trunk.groups, channels_in, EPS, init),
            conv_out: Conv2d::new([channels_in, out], 3, init),
        }
    }

    /// `x [n, h, w, c]` to `[n, h/f, w/f, out]`.
    pub(super) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let mut x = self.conv_in.forward(x);
        for block in &self.down_blocks {
            x = block.forward(x);
        }
        x = self.mid_block.forward(x);
        self.conv_out.forward(self.conv_norm_out.forward_silu(x))
    }

    /// [`Encoder::forward`] of one picture, a band of lines at a time down to the middle.
    pub(super) fn forward_bands(&self, x: Tensor<4>, bands: Bands) -> io::Result<Tensor<4>> {
        let x = Canvas::of(x, bands)?;
        let mut x = x.through(Scale::Same(1), |lines, _| Ok(self.conv_in.forward(lines)))?;
        for block in &self.down_blocks {
            x = through_bands(&block.resnets, &block.attentions, x)?;
            if let Some(downsampler) = block.downsamplers.first() {
                x = downsampler.forward_bands(&x)?;
            }
        }
        let x = self.mid_block.forward(x.whole()?);
        Ok(self.conv_out.forward(self.conv_norm_out.forward_silu(x)))
    }
}

/// Latents to pictures.
///
/// Source: Rombach et al. 2022 (arXiv:2112.10752), appendix G; fields are named as in diffusers' checkpoints.
#[derive(Module, Debug)]
pub(super) struct Decoder {
    conv_in: Conv2d,
    mid_block: MidBlock,
    up_blocks: Vec<UpDecoderBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Decoder {
    /// Channels of the latents, and of the pictures.
    pub(super) fn new([latents, pictures]: [usize; 2], trunk: Trunk<'_>, init: &mut Init) -> Self {
        let last = trunk.channels.len() - 1;
        let mut channels_in = trunk.channels[last];
        let conv_in = Conv2d::new([latents, channels_in], 3, init);
        let mid_block = MidBlock::new(channels_in, trunk, init);
        let mut up_blocks = Vec::new();
        for (kind, level) in trunk.up.iter().zip((0..=last).rev()) {
            let channels = [channels_in, trunk.channels[level]];
            let mut block = UpDecoderBlock::new(channels, *kind, trunk, init);
            if level > 0 {
                block.upsamplers.push(Upsample::new(channels[1], init));
            }
            up_blocks.push(block);
            channels_in = channels[1];
        }
        Self {
            conv_in,
            mid_block,
            up_blocks,
            conv_norm_out: GroupNorm::new(trunk.groups, channels_in, EPS, init),
            conv_out: Conv2d::new([channels_in, pictures], 3, init),
        }
    }

    /// `x [n, h, w, latents]` to `[n, h*f, w*f, pictures]`.
    pub(super) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let mut x = self.mid_block.forward(self.conv_in.forward(x));
        for block in &self.up_blocks {
            x = block.forward(x);
        }
        self.conv_out.forward(self.conv_norm_out.forward_silu(x))
    }

    /// [`Decoder::forward`] of one picture, a band of lines at a time from the middle on.
    pub(super) fn forward_bands(&self, x: Tensor<4>, bands: Bands) -> io::Result<Tensor<4>> {
        let mut x = Canvas::of(self.mid_block.forward(self.conv_in.forward(x)), bands)?;
        for block in &self.up_blocks {
            x = through_bands(&block.resnets, &block.attentions, x)?;
            if let Some(upsampler) = block.upsamplers.first() {
                x = upsampler.forward_bands(&x)?;
            }
        }
        let picture = x.through(Scale::Same(1), |lines, _| {
            let lines = x.normed(&self.conv_norm_out, lines, true);
            Ok(self.conv_out.forward(lines))
        })?;
        picture.whole()
    }
}

/// A level of the encoder: residual blocks, perhaps with attention, and a halving.
#[derive(Module, Debug)]
struct DownEncoderBlock {
    resnets: Vec<ResBlock>,
    /// As many as `resnets`, or none.
    attentions: Vec<SpatialAttention>,
    /// One, or none on the last level.
    downsamplers: Vec<Downsample>,
}

impl DownEncoderBlock {
    fn new(
        channels: [usize; 2],
        kind: DownEncoderBlockType,
        trunk: Trunk<'_>,
        init: &mut Init,
    ) -> Self {
        let attends = kind == DownEncoderBlockType::Attention;
        let (resnets, attentions) = layers(channels, trunk.layers, attends, trunk, init);
        Self {
            resnets,
            attentions,
            downsamplers: Vec::new(),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = through(&self.resnets, &self.attentions, x);
        match self.downsamplers.first() {
            Some(downsampler) => downsampler.forward(x),
            None => x,
        }
    }
}

/// A level of the decoder: residual blocks, perhaps with attention, and a doubling.
#[derive(Module, Debug)]
struct UpDecoderBlock {
    resnets: Vec<ResBlock>,
    /// As many as `resnets`, or none.
    attentions: Vec<SpatialAttention>,
    /// One, or none on the last level.
    upsamplers: Vec<Upsample>,
}

impl UpDecoderBlock {
    fn new(
        channels: [usize; 2],
        kind: UpDecoderBlockType,
        trunk: Trunk<'_>,
        init: &mut Init,
    ) -> Self {
        let attends = kind == UpDecoderBlockType::Attention;
        let (resnets, attentions) = layers(channels, trunk.layers + 1, attends, trunk, init);
        Self {
            resnets,
            attentions,
            upsamplers: Vec::new(),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = through(&self.resnets, &self.attentions, x);
        match self.upsamplers.first() {
            Some(upsampler) => upsampler.forward(x),
            None => x,
        }
    }
}

/// `count` residual blocks, each with attention behind it if the level `attends`.
fn layers(
    [mut channels_in, channels]: [usize; 2],
    count: usize,
    attends: bool,
    trunk: Trunk<'_>,
    init: &mut Init,
) -> (Vec<ResBlock>, Vec<SpatialAttention>) {
    let (mut resnets, mut attentions) = (Vec::new(), Vec::new());
    for _ in 0..count {
        resnets.push(residual([channels_in, channels], trunk, init));
        if attends {
            attentions.push(SpatialAttention::new(channels, trunk.groups, init));
        }
        channels_in = channels;
    }
    (resnets, attentions)
}

fn through(resnets: &[ResBlock], attentions: &[SpatialAttention], mut x: Tensor<4>) -> Tensor<4> {
    for (index, resnet) in resnets.iter().enumerate() {
        x = resnet.forward(x, None);
        if let Some(attention) = attentions.get(index) {
            x = attention.forward(x);
        }
    }
    x
}

/// [`through`] a band of lines at a time; attention, which sees all positions at once, runs whole.
fn through_bands(
    resnets: &[ResBlock],
    attentions: &[SpatialAttention],
    mut x: Canvas,
) -> io::Result<Canvas> {
    for (index, resnet) in resnets.iter().enumerate() {
        x = resnet.forward_bands(&x)?;
        if let Some(attention) = attentions.get(index) {
            x = Canvas::of(attention.forward(x.whole()?), x.bands())?;
        }
    }
    Ok(x)
}

/// Two residual blocks, with attention between unless the config leaves it out.
#[derive(Module, Debug)]
struct MidBlock {
    attentions: Vec<SpatialAttention>,
    resnets: Vec<ResBlock>,
}

impl MidBlock {
    fn new(channels: usize, trunk: Trunk<'_>, init: &mut Init) -> Self {
        let attention = trunk
            .attention
            .then(|| SpatialAttention::new(channels, trunk.groups, init));
        Self {
            attentions: attention.into_iter().collect(),
            resnets: (0..2)
                .map(|_| residual([channels; 2], trunk, init))
                .collect(),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        through(&self.resnets, &self.attentions, x)
    }
}

/// Attention of one head over all positions of a picture, plus the input.
#[derive(Module, Debug)]
struct SpatialAttention {
    group_norm: GroupNorm,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Vec<Linear>,
    #[module(skip)]
    precision: Precision,
}

impl SpatialAttention {
    fn new(channels: usize, groups: usize, init: &mut Init) -> Self {
        Self {
            group_norm: GroupNorm::new(groups, channels, EPS, init),
            to_q: Linear::new([channels; 2], init),
            to_k: Linear::new([channels; 2], init),
            to_v: Linear::new([channels; 2], init),
            to_out: vec![Linear::new([channels; 2], init)],
            precision: init.precision(),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [n, h, w, c] = x.dims();
        let x = x.reshape([n, h * w, c]);
        let normed = self.group_norm.forward(x.clone());
        let found = ops::attention(
            self.to_q.forward(normed.clone()),
            self.to_k.forward(normed.clone()),
            self.to_v.forward(normed),
            AttentionOptions::new(1, self.precision),
        );
        self.to_out[0]
            .forward_residual(found, x)
            .reshape([n, h, w, c])
    }
}
