//! The tiny autoencoder that decodes in a fraction of the time: `AutoencoderTiny`, known as TAESD.

use std::path::Path;

use burn::module::Module;
use burn::tensor::{Tensor, activation::relu};
use latent_formats::{Dtype, Renamed, Weights};
use latent_nn::layers::Conv2d;
use latent_nn::{Compute, Init, ops};
use serde::{Deserialize, Serialize};

use crate::config::{self, Fault, ModelConfig, need, need_layers, need_sizes};
use crate::error::{ModelError, Result};
use crate::files::FileSource;
use crate::weights::{self, Layout};

/// `config.json` of an `AutoencoderTiny`; absent keys have diffusers' defaults.
///
/// Source: diffusers' `AutoencoderTiny.__init__`, whose keys these are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AutoencoderTinyConfig {
    /// Channels of the pictures.
    pub in_channels: usize,
    /// Channels of the reconstructions.
    pub out_channels: usize,
    /// Channels of the encoder's levels, all the same.
    pub encoder_block_out_channels: Vec<usize>,
    /// Channels of the decoder's levels, all the same.
    pub decoder_block_out_channels: Vec<usize>,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Blocks of each level of the encoder.
    pub num_encoder_blocks: Vec<usize>,
    /// Blocks of each level of the decoder.
    pub num_decoder_blocks: Vec<usize>,
    /// What latents are multiplied by for diffusion; they are scaled as they come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scaling_factor: Option<f64>,
}

impl Default for AutoencoderTinyConfig {
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            encoder_block_out_channels: vec![64; 4],
            decoder_block_out_channels: vec![64; 4],
            latent_channels: 4,
            num_encoder_blocks: vec![1, 3, 3, 3],
            num_decoder_blocks: vec![3, 3, 3, 1],
            scaling_factor: Some(1.0),
        }
    }
}

impl AutoencoderTinyConfig {
    /// Pixels of a picture per latent, in each direction.
    pub(crate) fn downsampling(&self) -> usize {
        1 << (self.num_decoder_blocks.len() - 1)
    }
}

impl ModelConfig for AutoencoderTinyConfig {
    const CLASS: &'static str = "AutoencoderTiny";
    const IDENTITY: &'static [(&'static str, &'static str)] = &[("_class_name", Self::CLASS)];
    const FIXED: &'static [(&'static str, &'static [&'static str])] = &[
        ("act_fn", &["\"relu\""]),
        ("shift_factor", &["0"]),
        ("upsample_fn", &["\"nearest\""]),
        ("upsampling_scaling_factor", &["2"]),
    ];
    const WRITTEN: &'static [(&'static str, &'static str)] = &[("act_fn", "\"relu\"")];
    // How other programs store latents in bytes; and the precision of the decoder, which is f32 here.
    const IGNORED: &'static [&'static str] = &[
        "_diffusers_version",
        "_name_or_path",
        "block_out_channels",
        "force_upcast",
        "latent_magnitude",
        "latent_shift",
    ];

    fn check_sizes(&self) -> Result<(), Fault> {
        need_sizes(&[
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("latent_channels", self.latent_channels),
        ])?;
        let halves = [
            (
                ("encoder_block_out_channels", "num_encoder_blocks"),
                &self.encoder_block_out_channels,
                &self.num_encoder_blocks,
            ),
            (
                ("decoder_block_out_channels", "num_decoder_blocks"),
                &self.decoder_block_out_channels,
                &self.num_decoder_blocks,
            ),
        ];
        for ((key, blocks_key), channels, blocks) in halves {
            need((1..=16).contains(&channels.len()), key, || {
                format!(
                    "has {} levels; between 1 and 16 can be built",
                    channels.len()
                )
            })?;
            need(channels.len() == blocks.len(), key, || {
                format!(
                    "has {} levels, and the blocks have {}",
                    channels.len(),
                    blocks.len()
                )
            })?;
            need(
                channels.iter().all(|&width| width == channels[0]),
                key,
                || "has levels of several widths; Latent supports one".into(),
            )?;
            need_sizes(&[(key, channels[0])])?;
            let layers = |&count: &usize| need_layers(&[(blocks_key, count)]);
            blocks.iter().try_for_each(layers)?;
        }
        let levels = self.num_decoder_blocks.len();
        need(
            self.num_encoder_blocks.len() == levels,
            "num_encoder_blocks",
            || format!("has other levels than `num_decoder_blocks`, which has {levels}"),
        )
    }
}

/// Three convolutions with ReLU, plus the input, and ReLU.
#[derive(Module, Debug)]
struct Block {
    conv: Vec<Conv2d>,
}

impl Block {
    fn new(width: usize, init: &mut Init) -> Self {
        Self {
            conv: (0..3).map(|_| Conv2d::new([width; 2], 3, init)).collect(),
        }
    }

    /// `x [n, h, w, c]` to the same shape.
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let h = relu(self.conv[0].forward(x.clone()));
        let h = relu(self.conv[1].forward(h));
        relu(self.conv[2].forward_residual(h, x))
    }
}

/// A convolution that comes before the blocks of an encoder's level, or after those of a decoder's.
#[derive(Module, Debug)]
struct Level {
    conv: Conv2d,
    blocks: Vec<Block>,
}

/// Pictures to latents.
#[derive(Module, Debug)]
struct TinyEncoder {
    levels: Vec<Level>,
    conv_out: Conv2d,
}

impl TinyEncoder {
    fn new(config: &AutoencoderTinyConfig, init: &mut Init) -> Self {
        let width = config.encoder_block_out_channels[0];
        let levels = config.num_encoder_blocks.iter().enumerate();
        let level = |(index, &blocks): (usize, &usize)| Level {
            conv: match index {
                0 => Conv2d::new([config.in_channels, width], 3, init),
                _ => Conv2d::new([width; 2], 3, init)
                    .with_stride(2)
                    .without_bias(),
            },
            blocks: (0..blocks).map(|_| Block::new(width, init)).collect(),
        };
        Self {
            levels: levels.map(level).collect(),
            conv_out: Conv2d::new([width, config.latent_channels], 3, init),
        }
    }

    fn forward(&self, mut x: Tensor<4>) -> Tensor<4> {
        for level in &self.levels {
            x = level.conv.forward(x);
            x = level.blocks.iter().fold(x, |x, block| block.forward(x));
        }
        self.conv_out.forward(x)
    }
}

/// Latents to pictures, without the way back.
///
/// Source: madebyollin's `taesd`; layers as in diffusers' `DecoderTiny`.
#[derive(Module, Debug)]
pub struct TinyDecoder {
    conv_in: Conv2d,
    levels: Vec<Level>,
    #[module(skip)]
    config: AutoencoderTinyConfig,
}

impl TinyDecoder {
    fn new(config: &AutoencoderTinyConfig, init: &mut Init) -> Self {
        let width = config.decoder_block_out_channels[0];
        let last = config.num_decoder_blocks.len() - 1;
        let conv_in = Conv2d::new([config.latent_channels, width], 3, init);
        let levels = config.num_decoder_blocks.iter().enumerate();
        let level = |(index, &blocks): (usize, &usize)| Level {
            blocks: (0..blocks).map(|_| Block::new(width, init)).collect(),
            conv: if index == last {
                Conv2d::new([width, config.out_channels], 3, init)
            } else {
                Conv2d::new([width; 2], 3, init).without_bias()
            },
        };
        Self {
            conv_in,
            levels: levels.map(level).collect(),
            config: config.clone(),
        }
    }

    /// The decoder in a folder of an `AutoencoderTiny`, or in a file of one: diffusers' names, or those of
    /// `taesd_decoder`.
    ///
    /// # Errors
    /// [`ModelError`]: a file or tensor is missing or does not fit.
    pub fn load(path: &Path, compute: &Compute) -> Result<Self> {
        let (config, weights) = if path.is_dir() {
            let files = FileSource::folder(path);
            (
                config::read::<AutoencoderTinyConfig>(&files)?,
                weights::open(&files, weights::DIFFUSERS)?,
            )
        } else {
            let weights = Weights::open(path)?;
            (stated_by(&weights)?, weights)
        };
        let model = Self::new(&config, &mut Init::empty(compute));
        weights::fill(model, decoder_weights(&weights, &config))
    }

    /// Its sizes.
    pub fn config(&self) -> &AutoencoderTinyConfig {
        &self.config
    }

    /// Latents `[n, c, h, w]` as diffusion has them to pictures `[n, 3, h*f, w*f]`, mostly in `[-1, 1]`.
    ///
    /// # Panics
    /// If the latents have other channels.
    pub fn decode(&self, latents: Tensor<4>) -> Tensor<4> {
        // Softly bounded, as in training: what lies beyond 3 is an outlier.
        let bounded = (latents / 3.0).tanh() * 3.0;
        let mut x = relu(self.conv_in.forward(ops::to_nhwc(bounded)));
        for (index, level) in self.levels.iter().enumerate() {
            x = level.blocks.iter().fold(x, |x, block| block.forward(x));
            x = if index + 1 < self.levels.len() {
                level.conv.clone().with_upsample().forward(x)
            } else {
                level.conv.forward(x)
            };
        }
        ops::to_nchw(x * 2.0 - 1.0)
    }
}

/// Pictures to latents and back, by few and narrow layers.
///
/// Source: madebyollin's `taesd`; diffusers' `AutoencoderTiny`.
#[derive(Module, Debug)]
pub struct AutoencoderTiny {
    encoder: TinyEncoder,
    decoder: TinyDecoder,
}

impl AutoencoderTiny {
    /// The autoencoder in a folder.
    ///
    /// # Errors
    /// [`ModelError`]: a file or tensor is missing or does not fit.
    pub fn load(folder: &Path, compute: &Compute) -> Result<Self> {
        Self::open(&FileSource::folder(folder), compute)
    }

    /// [`AutoencoderTiny::load`] from files anywhere.
    ///
    /// # Errors
    /// As [`AutoencoderTiny::load`].
    pub fn open(files: &FileSource, compute: &Compute) -> Result<Self> {
        let config: AutoencoderTinyConfig = config::read(files)?;
        let init = &mut Init::empty(compute);
        let model = Self {
            encoder: TinyEncoder::new(&config, init),
            decoder: TinyDecoder::new(&config, init),
        };
        let all = weights::open(files, weights::DIFFUSERS)?;
        weights::fill(model, all.renamed(|key| named(ours(key, &config))))
    }

    /// Writes `config.json` and the weights in f32, as diffusers reads them.
    ///
    /// # Errors
    /// [`ModelError::Format`] if the folder cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let config = self.config();
        weights::save_renamed(
            self,
            config,
            folder,
            (weights::DIFFUSERS, Layout::default()),
            Dtype::F32,
            &|path| theirs(path, config),
        )
    }

    /// Its sizes.
    pub fn config(&self) -> &AutoencoderTinyConfig {
        &self.decoder.config
    }

    /// The same autoencoder with another `scaling_factor` in its config.
    #[must_use]
    pub fn with_scaling_factor(&self, factor: f64) -> Self {
        let mut model = self.clone();
        model.decoder.config.scaling_factor = Some(factor);
        model
    }

    /// Pixels per latent, in each direction.
    pub fn downsampling(&self) -> usize {
        self.config().downsampling()
    }

    /// Pictures `[n, 3, h, w]` in `[-1, 1]` to latents `[n, c, h/f, w/f]`, scaled for diffusion.
    ///
    /// # Panics
    /// If the pictures have other channels.
    pub fn encode(&self, pictures: Tensor<4>) -> Tensor<4> {
        let x = ops::to_nhwc((pictures + 1.0) / 2.0);
        ops::to_nchw(self.encoder.forward(x))
    }

    /// [`TinyDecoder::decode`].
    ///
    /// # Panics
    /// If the latents have other channels.
    pub fn decode(&self, latents: Tensor<4>) -> Tensor<4> {
        self.decoder.decode(latents)
    }
}

/// The sequence of layers in diffusers' order: our path without its half, at each of its numbers; `None` for layers
/// without weights.
fn sequence(half: &str, config: &AutoencoderTinyConfig) -> Vec<Option<String>> {
    let mut layers = Vec::new();
    if half == "encoder" {
        for (level, &blocks) in config.num_encoder_blocks.iter().enumerate() {
            layers.push(Some(format!("levels.{level}.conv")));
            layers.extend((0..blocks).map(|block| Some(format!("levels.{level}.blocks.{block}"))));
        }
        layers.push(Some("conv_out".to_owned()));
        return layers;
    }
    layers.extend([Some("conv_in".to_owned()), None]);
    let last = config.num_decoder_blocks.len() - 1;
    for (level, &blocks) in config.num_decoder_blocks.iter().enumerate() {
        layers.extend((0..blocks).map(|block| Some(format!("levels.{level}.blocks.{block}"))));
        if level < last {
            layers.push(None);
        }
        layers.push(Some(format!("levels.{level}.conv")));
    }
    layers
}

fn named(name: Option<String>) -> Vec<Renamed> {
    name.map(Renamed::whole).into_iter().collect()
}

/// Our path of the tensor that diffusers calls `HALF.layers.NUMBER.REST`.
fn ours(key: &str, config: &AutoencoderTinyConfig) -> Option<String> {
    let (half, rest) = key.split_once(".layers.")?;
    let (number, rest) = rest.split_once('.')?;
    let layers = sequence(half, config);
    let layer = layers.get(number.parse::<usize>().ok()?)?.as_ref()?;
    // Inside a block, diffusers counts the ReLUs between the convolutions.
    let rest = match rest.strip_prefix("conv.") {
        Some(inside) => {
            let (number, kind) = inside.split_once('.')?;
            format!("conv.{}.{kind}", number.parse::<usize>().ok()? / 2)
        }
        None => rest.to_owned(),
    };
    Some(format!("{half}.{layer}.{rest}"))
}

/// The inverse of [`ours`].
fn theirs(path: &str, config: &AutoencoderTinyConfig) -> Option<String> {
    let (half, inside) = path.split_once('.')?;
    let layers = sequence(half, config);
    let starts = |layer: &str| inside.strip_prefix(layer)?.strip_prefix('.');
    let (number, rest) = layers
        .iter()
        .enumerate()
        .find_map(|(number, layer)| Some((number, starts(layer.as_ref()?)?)))?;
    let rest = match rest.strip_prefix("conv.") {
        Some(inside) => {
            let (number, kind) = inside.split_once('.')?;
            format!("conv.{}.{kind}", number.parse::<usize>().ok()? * 2)
        }
        None => rest.to_owned(),
    };
    Some(format!("{half}.layers.{number}.{rest}"))
}

/// The decoder's tensors under our paths: from diffusers' names, or from those of `taesd_decoder`, which count the
/// bounding of the latents as layer 0.
fn decoder_weights(weights: &Weights, config: &AutoencoderTinyConfig) -> Weights {
    let original = is_original(weights);
    weights.renamed(|key| {
        let key = if original {
            let shifted = key.split_once('.').and_then(|(number, rest)| {
                let number = number.parse::<usize>().ok()?.checked_sub(1)?;
                Some(format!("decoder.layers.{number}.{rest}"))
            });
            shifted.unwrap_or_default()
        } else {
            key.to_owned()
        };
        let path = ours(&key, config);
        named(path.and_then(|path| path.strip_prefix("decoder.").map(str::to_owned)))
    })
}

/// Whether a file holds a tiny autoencoder, or the decoder of one.
pub(crate) fn is_tiny(weights: &Weights) -> bool {
    is_original(weights) || weights.contains("decoder.layers.0.weight")
}

/// Whether the names are those of `taesd_decoder`.
fn is_original(weights: &Weights) -> bool {
    weights.contains("1.weight") && weights.contains("3.conv.0.weight")
}

/// The sizes of the decoder in a file without a config: blocks as published, widths as the tensors have them.
fn stated_by(weights: &Weights) -> Result<AutoencoderTinyConfig> {
    let first = if is_original(weights) {
        "1.weight"
    } else {
        "decoder.layers.0.weight"
    };
    match weights.describe(first) {
        Some((_, &[width, latents, 3, 3])) => Ok(AutoencoderTinyConfig {
            decoder_block_out_channels: vec![width; 4],
            encoder_block_out_channels: vec![width; 4],
            latent_channels: latents,
            ..AutoencoderTinyConfig::default()
        }),
        _ => Err(ModelError::Adapter {
            path: weights.path().to_path_buf(),
            reason: "is no tiny autoencoder; needed is a folder of an `AutoencoderTiny`, or a file `taesd_decoder`"
                .to_owned(),
        }),
    }
}
