//! CLIP's transformer of pictures: `CLIPVisionModelWithProjection`.

use std::path::Path;

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use latent_formats::{Filter, Picture, Renamed, Weights};
use latent_nn::layers::{Conv2d, Embedding, LayerNorm, Linear};
use latent_nn::{Compute, Init, ops};

use super::layers::{ClipLayer, LayerOptions};
use super::vision_config::ClipVisionConfig;
use crate::config::{self, ModelConfig};
use crate::error::{ModelError, Result};
use crate::files::FileSource;
use crate::weights;

/// Mean and standard deviation of the channels that CLIP was trained on.
///
/// Source: Radford et al. 2021 (arXiv:2103.00020), their released code's `_transform`.
const MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const DEVIATION: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// Pictures into the space of texts.
///
/// Source: Radford et al. 2021 (arXiv:2103.00020), section 2.4, of a vision transformer; fields are named as in
/// transformers' checkpoints.
#[derive(Module, Debug)]
pub struct ClipVisionModel {
    vision_model: VisionTransformer,
    /// Of the pooled state, without bias.
    visual_projection: Linear,
    #[module(skip)]
    config: ClipVisionConfig,
}

/// What the encoder knows of pictures.
#[derive(Clone, Debug)]
pub struct ImageStates {
    /// After the last layer but one, not normalised: `[n, tokens, c]`.
    pub penultimate: Tensor<3>,
    /// In the space of texts: `[n, projection_dim]`.
    pub embeds: Tensor<2>,
}

#[derive(Module, Debug)]
struct VisionTransformer {
    embeddings: VisionEmbeddings,
    /// Misspelt once, and kept for files' sake.
    pre_layrnorm: LayerNorm,
    encoder: VisionEncoder,
    post_layernorm: LayerNorm,
}

#[derive(Module, Debug)]
struct VisionEmbeddings {
    /// `[c]`, of the token that stands for the whole.
    class_embedding: Param<Tensor<1>>,
    patch_embedding: Conv2d,
    position_embedding: Embedding,
}

#[derive(Module, Debug)]
struct VisionEncoder {
    layers: Vec<ClipLayer>,
}

impl ClipVisionModel {
    /// An encoder with new weights.
    ///
    /// # Errors
    /// [`ModelError::Config`] if the sizes do not fit together.
    pub fn new(config: &ClipVisionConfig, init: &mut Init) -> Result<Self> {
        config.checked()?;
        let (width, eps, patch) = (config.hidden_size, config.layer_norm_eps, config.patch_size);
        let patches = Conv2d::new([3, width], patch, init).with_stride(patch);
        let embeddings = VisionEmbeddings {
            class_embedding: init.normal([width], (width as f32).sqrt().recip()),
            patch_embedding: patches.with_padding([0; 4]).without_bias(),
            position_embedding: Embedding::new([config.tokens(), width], init),
        };
        let options = LayerOptions {
            width,
            inner: config.intermediate_size,
            heads: config.num_attention_heads,
            eps,
            activation: config.hidden_act,
            causal: false,
        };
        let layers = (0..config.num_hidden_layers)
            .map(|_| ClipLayer::new(options, init))
            .collect();
        Ok(Self {
            vision_model: VisionTransformer {
                embeddings,
                pre_layrnorm: LayerNorm::new(width, eps, init),
                encoder: VisionEncoder { layers },
                post_layernorm: LayerNorm::new(width, eps, init),
            },
            visual_projection: Linear::new([width, config.projection_dim], init).without_bias(),
            config: config.clone(),
        })
    }

    /// The encoder in a folder, or in a file; one without a `config.json` beside it has the sizes that its tensors tell.
    ///
    /// # Errors
    /// [`ModelError`]: a file or tensor is missing or does not fit; [`ModelError::Adapter`] if a file holds no such
    /// encoder.
    pub fn load(path: &Path, compute: &Compute) -> Result<Self> {
        let refuse = |reason: String| ModelError::Adapter {
            path: path.to_path_buf(),
            reason,
        };
        let (config, weights) = if path.is_dir() {
            let files = FileSource::folder(path);
            let config = config::read(&files)?;
            (config, weights::open(&files, weights::TRANSFORMERS)?)
        } else {
            let weights = Weights::open(path)?;
            let beside = FileSource::folder(path.parent().unwrap_or(Path::new("")));
            let config = match beside.has("config.json") {
                true => config::read(&beside)?,
                false => ClipVisionConfig::of_file(&weights).map_err(refuse)?,
            };
            (config, weights)
        };
        let model = Self::new(&config, &mut Init::empty(compute))?;
        weights::fill(model, own(&weights))
    }

    /// Its sizes.
    pub fn config(&self) -> &ClipVisionConfig {
        &self.config
    }

    /// A picture as it is shown to the encoder, `[1, 3, image_size, image_size]`: its shorter side scaled to that size,
    /// the middle cut out, each channel with mean 0 and deviation 1.
    ///
    /// # Errors
    /// [`ModelError::Format`] if the picture is too long and thin to be scaled.
    ///
    /// Source: transformers' `CLIPImageProcessor`.
    pub fn pixels(&self, picture: &Picture, compute: &Compute) -> Result<Tensor<4>> {
        let size = self.config.image_size;
        let (w, h) = (picture.width(), picture.height());
        let scaled = |side: usize| side * size / w.min(h);
        let scaled = picture.resize(scaled(w), scaled(h), Filter::Bicubic)?;
        let middle = scaled.center_crop(size, size)?;
        let plane = size * size;
        let mut values = vec![0.0; 3 * plane];
        for (at, pixel) in middle.rgb().chunks_exact(3).enumerate() {
            for (channel, &level) in pixel.iter().enumerate() {
                let value = f32::from(level) / 255.0;
                values[channel * plane + at] = (value - MEAN[channel]) / DEVIATION[channel];
            }
        }
        Ok(compute.tensor(values, [1, 3, size, size]))
    }

    /// Pictures `[n, 3, image_size, image_size]` as [`ClipVisionModel::pixels`] gives them to states.
    ///
    /// # Panics
    /// If they have another size.
    pub fn forward(&self, pictures: Tensor<4>) -> ImageStates {
        let model = &self.vision_model;
        let mut states = model
            .pre_layrnorm
            .forward(model.embeddings.forward(pictures));
        let mut penultimate = states.clone();
        for layer in &model.encoder.layers {
            penultimate = states.clone();
            states = layer.forward(states);
        }
        let [n, _, width] = states.dims();
        let whole = states.narrow(1, 0, 1).reshape([n, width]);
        let pooled = model.post_layernorm.forward(whole);
        ImageStates {
            penultimate,
            embeds: self.visual_projection.forward(pooled),
        }
    }
}

impl VisionEmbeddings {
    /// Pictures `[n, 3, h, w]` to tokens `[n, 1 + h w / patch^2, c]`.
    fn forward(&self, pictures: Tensor<4>) -> Tensor<3> {
        let patches = self.patch_embedding.forward(ops::to_nhwc(pictures));
        let [n, h, w, c] = patches.dims();
        let whole = self.class_embedding.val().reshape([1, 1, c]);
        let tokens = Tensor::cat(
            vec![whole.expand([n, 1, c]), patches.reshape([n, h * w, c])],
            1,
        );
        tokens + self.position_embedding.first(1 + h * w).unsqueeze()
    }
}

/// The encoder's tensors among those of a file, which may be of a whole CLIP; transformers 5 leaves out the model's name.
fn own(weights: &Weights) -> Weights {
    const BARE: [&str; 4] = [
        "embeddings.",
        "pre_layrnorm.",
        "encoder.",
        "post_layernorm.",
    ];
    weights.renamed(|key| {
        let named = ["vision_model.", "visual_projection."];
        if named.iter().any(|start| key.starts_with(start)) {
            return vec![Renamed::whole(key)];
        }
        let bare = BARE.iter().any(|start| key.starts_with(start));
        let name = bare.then(|| Renamed::whole(format!("vision_model.{key}")));
        name.into_iter().collect()
    })
}
