//! The network that text encoders are trained against, and that judges pictures: pictures into the space of texts.

use std::path::Path;

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use latent_formats::Dtype;
use latent_nn::layers::{Conv2d, GroupNorm, Linear};
use latent_nn::{Compute, Init, ops};

use super::config::ImageTowerConfig;
use crate::config::{self, ModelConfig};
use crate::error::Result;
use crate::files::FileSource;
use crate::resample::Downsample;
use crate::residual::{ResBlock, ResBlockOptions};
use crate::weights::{self, Layout};

const EPS: f64 = 1e-5;
/// Start of the scores' scale, `1 / 0.07`, and its limit. Source: Radford et al. 2021 (arXiv:2103.00020), section 2.5.
const FIRST_SCALE: f32 = 1.0 / 0.07;
const LARGEST_SCALE: f32 = 100.0;

/// A residual network over pictures of any size, with the projections and the scale of the contrastive loss.
///
/// Group norm, not batch norm: a picture's place must not depend on the batch it came in.
#[derive(Module, Debug)]
pub struct ImageTower {
    conv_in: Conv2d,
    levels: Vec<Level>,
    norm_out: GroupNorm,
    /// Pictures into the shared space.
    visual_projection: Linear,
    /// Texts into the shared space.
    text_projection: Linear,
    /// Logarithm of what cosines are multiplied by.
    logit_scale: Param<Tensor<1>>,
    #[module(skip)]
    config: ImageTowerConfig,
}

/// Residual blocks at one size; the first level's picture is not halved before it.
#[derive(Module, Debug)]
struct Level {
    downsample: Option<Downsample>,
    blocks: Vec<ResBlock>,
}

impl ImageTower {
    /// A tower with new weights, for a text encoder whose pooled states have width `text_hidden_size`.
    ///
    /// # Errors
    /// [`crate::ModelError::Config`] if the sizes do not fit together.
    pub fn new(
        config: &ImageTowerConfig,
        text_hidden_size: usize,
        init: &mut Init,
    ) -> Result<Self> {
        let config = ImageTowerConfig {
            text_hidden_size: Some(text_hidden_size),
            ..config.clone()
        };
        config.checked()?;
        let options = ResBlockOptions {
            groups: config.norm_num_groups,
            eps: EPS,
            time_width: None,
        };
        let mut channels_in = config.channels[0];
        let conv_in = Conv2d::new([3, channels_in], 3, init).with_stride(config.stem_stride);
        let mut levels = Vec::new();
        for (index, &channels) in config.channels.iter().enumerate() {
            let downsample = (index > 0).then(|| Downsample::new(channels_in, init));
            let mut blocks = Vec::new();
            for _ in 0..config.blocks_per_level {
                blocks.push(ResBlock::new([channels_in, channels], options, init));
                channels_in = channels;
            }
            levels.push(Level { downsample, blocks });
        }
        Ok(Self {
            conv_in,
            levels,
            norm_out: GroupNorm::new(config.norm_num_groups, channels_in, EPS, init),
            visual_projection: Linear::new([channels_in, config.projection_dim], init)
                .without_bias(),
            text_projection: Linear::new([text_hidden_size, config.projection_dim], init)
                .without_bias(),
            logit_scale: init.constant([1], FIRST_SCALE.ln()),
            config,
        })
    }

    /// The tower in an `image_tower/` folder.
    ///
    /// # Errors
    /// [`crate::ModelError`]: a file or tensor is missing or does not fit.
    pub fn load(folder: &Path, compute: &Compute) -> Result<Self> {
        Self::open(&FileSource::folder(folder), compute)
    }

    /// [`ImageTower::load`] from files anywhere.
    ///
    /// # Errors
    /// As [`ImageTower::load`].
    pub fn open(files: &FileSource, compute: &Compute) -> Result<Self> {
        let config: ImageTowerConfig = config::read(files)?;
        let width = config.text_hidden_size.unwrap_or(0);
        let model = Self::new(&config, width, &mut Init::empty(compute))?;
        weights::load(model, files, weights::TRANSFORMERS)
    }

    /// Writes `config.json` and the weights in f32.
    ///
    /// # Errors
    /// [`crate::ModelError::Format`] if the folder cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        weights::save(
            self,
            &self.config,
            folder,
            (weights::TRANSFORMERS, Layout::default()),
            Dtype::F32,
        )
    }

    /// Its sizes.
    pub fn config(&self) -> &ImageTowerConfig {
        &self.config
    }

    /// Pictures `[n, 3, h, w]` in `[-1, 1]` to what each level makes of them, `[n, h', w', c]`, largest first.
    ///
    /// # Panics
    /// If the pictures have other channels.
    pub fn features(&self, pictures: Tensor<4>) -> Vec<Tensor<4>> {
        let mut x = self.conv_in.forward(ops::to_nhwc(pictures));
        let mut features = Vec::new();
        for level in &self.levels {
            if let Some(downsample) = &level.downsample {
                x = downsample.forward(x);
            }
            for block in &level.blocks {
                x = block.forward(x, None);
            }
            features.push(x.clone());
        }
        features
    }

    /// Pictures `[n, 3, h, w]` in `[-1, 1]` to vectors of length 1, `[n, projection_dim]`.
    ///
    /// # Panics
    /// If the pictures have other channels.
    pub fn embed(&self, pictures: Tensor<4>) -> Tensor<2> {
        let features = self.features(pictures);
        let last = features[features.len() - 1].clone();
        let [n, h, w, c] = last.dims();
        let positions = self.norm_out.forward_silu(last).reshape([n, h * w, c]);
        let mean = positions.mean_dim(1).reshape([n, c]);
        unit_length(self.visual_projection.forward(mean))
    }

    /// A text encoder's pooled states `[n, text_hidden_size]` to vectors of length 1, `[n, projection_dim]`.
    ///
    /// # Panics
    /// If the states have another width.
    pub fn project_text(&self, pooled: Tensor<2>) -> Tensor<2> {
        unit_length(self.text_projection.forward(pooled))
    }

    /// What cosines are multiplied by, `[1]`: at most 100.
    pub fn scale(&self) -> Tensor<1> {
        self.logit_scale.val().clamp_max(LARGEST_SCALE.ln()).exp()
    }
}

/// Rows `[n, c]` scaled to length 1.
fn unit_length(x: Tensor<2>) -> Tensor<2> {
    // The small number keeps the gradient finite at zero.
    let length = x
        .clone()
        .powf_scalar(2.0)
        .sum_dim(1)
        .add_scalar(1e-12)
        .sqrt();
    x / length
}
