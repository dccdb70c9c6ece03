//! The autoencoder with a codebook: `VQModel`.

use std::io;
use std::path::Path;

use burn::module::Module;
use burn::tensor::{FloatDType, Int, Tensor, TensorData};
use latent_formats::Dtype;
use latent_nn::layers::{Conv2d, Embedding};
use latent_nn::{Bands, Compute, Init, ops, to_host};

use super::config::VqModelConfig;
use super::trunk::{Decoder, Encoder};
use crate::config::{self, ModelConfig};
use crate::error::Result;
use crate::files::FileSource;
use crate::weights::{self, Layout};

/// Pictures to vectors of a codebook, and back.
///
/// Source: Esser et al. 2021 (arXiv:2012.09841), section 3.1; fields are named as in diffusers' checkpoints.
#[derive(Module, Debug)]
pub struct VqModel {
    encoder: Encoder,
    quant_conv: Conv2d,
    quantize: Codebook,
    post_quant_conv: Conv2d,
    decoder: Decoder,
    #[module(skip)]
    config: VqModelConfig,
}

#[derive(Module, Debug)]
struct Codebook {
    embedding: Embedding,
}

/// Latents with each vector replaced by the nearest of the codebook.
#[derive(Clone, Debug)]
pub struct Quantized {
    /// `[n, c, h, w]`; its gradient passes to the encoder as if nothing had been replaced.
    pub quantized: Tensor<4>,
    /// Mean squared distance that draws the codebook to the latents.
    pub codebook_loss: Tensor<1>,
    /// Mean squared distance that keeps the latents near the codebook.
    pub commitment_loss: Tensor<1>,
    /// The chosen vectors, in the order `[n, h, w]`.
    pub indices: Vec<u32>,
}

impl VqModel {
    /// An autoencoder with new weights.
    ///
    /// # Errors
    /// [`crate::ModelError::Config`] if the sizes do not fit together.
    pub fn new(config: &VqModelConfig, init: &mut Init) -> Result<Self> {
        config.checked()?;
        let (latents, width, count) = (
            config.latent_channels,
            config.embed_dim(),
            config.num_vq_embeddings,
        );
        Ok(Self {
            encoder: Encoder::new([config.in_channels, latents], config.trunk(), init),
            quant_conv: Conv2d::new([latents, width], 1, init),
            quantize: Codebook {
                embedding: Embedding {
                    // Source: CompVis' taming-transformers, `VectorQuantizer`.
                    weight: init.uniform([count, width], (count as f32).recip()),
                },
            },
            post_quant_conv: Conv2d::new([width, latents], 1, init),
            decoder: Decoder::new([latents, config.out_channels], config.trunk(), init),
            config: config.clone(),
        })
    }

    /// The autoencoder in a `vae/` folder.
    ///
    /// # Errors
    /// [`crate::ModelError`]: a file or tensor is missing or does not fit, the config asks for what is not built here.
    pub fn load(folder: &Path, compute: &Compute) -> Result<Self> {
        Self::open(&FileSource::folder(folder), compute)
    }

    /// [`VqModel::load`] from files anywhere.
    ///
    /// # Errors
    /// As [`VqModel::load`].
    pub fn open(files: &FileSource, compute: &Compute) -> Result<Self> {
        let config: VqModelConfig = config::read(files)?;
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

    /// [`VqModel::save`] with weights rounded to `dtype`: f32, bf16 or f16.
    ///
    /// # Errors
    /// As [`VqModel::save`].
    pub fn save_as(&self, folder: &Path, dtype: Dtype) -> Result<()> {
        weights::save(
            self,
            &self.config,
            folder,
            (weights::DIFFUSERS, Layout::default()),
            dtype,
        )
    }

    /// Its sizes.
    pub fn config(&self) -> &VqModelConfig {
        &self.config
    }

    /// The same autoencoder with a measured `scaling_factor` in its config.
    #[must_use]
    pub fn with_scaling_factor(&self, factor: f64) -> Self {
        let mut model = self.clone();
        model.config.scaling_factor = Some(factor);
        model
    }

    /// Pixels per latent, in each direction.
    pub fn downsampling(&self) -> usize {
        self.config.trunk().downsampling()
    }

    /// Pictures `[n, 3, h, w]` in `[-1, 1]` to latents `[n, c, h/f, w/f]` before quantisation, which is what
    /// diffusion works on.
    ///
    /// # Panics
    /// If the pictures have other channels, or are smaller than one latent.
    pub fn encode(&self, pictures: Tensor<4>) -> Tensor<4> {
        let x = self.encoder.forward(ops::to_nhwc(pictures));
        ops::to_nchw(self.quant_conv.forward(x))
    }

    /// [`VqModel::encode`] of one picture, to the same bits, with a band of lines at a time in memory.
    pub(super) fn encode_bands(&self, picture: Tensor<4>, bands: Bands) -> io::Result<Tensor<4>> {
        let x = self.encoder.forward_bands(ops::to_nhwc(picture), bands)?;
        Ok(ops::to_nchw(self.quant_conv.forward(x)))
    }

    /// [`VqModel::decode`] of one picture, to the same bits, with a band of lines at a time in memory.
    pub(super) fn decode_bands(&self, latents: Tensor<4>, bands: Bands) -> io::Result<Tensor<4>> {
        let quantized = ops::to_nhwc(self.quantize(latents).quantized);
        let z = self.post_quant_conv.forward(quantized);
        Ok(ops::to_nchw(self.decoder.forward_bands(z, bands)?))
    }

    /// Replaces each vector of `latents [n, c, h, w]` by the nearest of the codebook.
    ///
    /// # Panics
    /// If the latents have other channels.
    ///
    /// Source: van den Oord et al. 2017 (arXiv:1711.00937), Eq. 1 to 3.
    pub fn quantize(&self, latents: Tensor<4>) -> Quantized {
        let z = ops::to_nhwc(latents);
        let [n, h, w, c] = z.dims();
        let (chosen, indices) = self.nearest(z.clone().detach().reshape([n * h * w, c]));
        let codes = self
            .quantize
            .embedding
            .forward(chosen)
            .reshape([n, h, w, c]);
        let mean_square = |difference: Tensor<4>| difference.powf_scalar(2.0).mean();
        let codebook_loss = mean_square(codes.clone() - z.clone().detach());
        let commitment_loss = mean_square(codes.clone().detach() - z.clone());
        let quantized = z.clone() + (codes - z).detach();
        Quantized {
            quantized: ops::to_nchw(quantized),
            codebook_loss,
            commitment_loss,
            indices,
        }
    }

    /// Index of the nearest code of each row of `z [m, c]`, as a tensor `[1, m]` and on the host.
    fn nearest(&self, z: Tensor<2>) -> (Tensor<2, Int>, Vec<u32>) {
        let rows = z.dims()[0];
        let codes = self
            .quantize
            .embedding
            .weight
            .val()
            .detach()
            .cast(FloatDType::F32);
        // |z - e|^2 without |z|^2, which is the same for all codes of a row.
        let lengths = codes.clone().powf_scalar(2.0).sum_dim(1).transpose();
        let distances = lengths - z.matmul(codes.transpose()).mul_scalar(2.0);
        let chosen = distances.argmin(1).reshape([1, rows]);
        let indices = chosen.clone().into_data().iter::<u32>().collect();
        (chosen, indices)
    }

    /// Latents `[n, c, h, w]` before quantisation to pictures `[n, 3, h*f, w*f]`.
    ///
    /// # Panics
    /// If the latents have other channels.
    pub fn decode(&self, latents: Tensor<4>) -> Tensor<4> {
        self.decode_quantized(self.quantize(latents).quantized)
    }

    /// Quantised latents `[n, c, h, w]` to pictures `[n, 3, h*f, w*f]`.
    ///
    /// # Panics
    /// If the latents have other channels.
    pub fn decode_quantized(&self, quantized: Tensor<4>) -> Tensor<4> {
        let z = self.post_quant_conv.forward(ops::to_nhwc(quantized));
        ops::to_nchw(self.decoder.forward(z))
    }

    /// The codes that `usage`, counts per code, found in no latent: they get no gradient and stay unused for ever
    /// unless [`VqModel::revive`] moves them.
    pub fn dead_codes(usage: &[u64]) -> Vec<usize> {
        let unused = usage.iter().enumerate().filter(|(_, count)| **count == 0);
        unused.map(|(index, _)| index).collect()
    }

    /// Puts vectors of the latents in the place of codes that are never chosen: `vectors [dead.len(), c]`.
    ///
    /// # Panics
    /// If the vectors do not fit the codes, or a code is beyond the codebook.
    ///
    /// Source: Dhariwal et al. 2020 (arXiv:2005.00341), section 3.1.
    #[must_use]
    pub fn revive(mut self, dead: &[usize], vectors: &[f32]) -> Self {
        let width = self.config.embed_dim();
        assert_eq!(
            vectors.len(),
            dead.len() * width,
            "revive: one vector of {width} per code"
        );
        self.quantize.embedding.weight = self.quantize.embedding.weight.map(|codes| {
            let (tracked, device) = (codes.is_require_grad(), codes.device());
            let (mut values, shape) = to_host(codes);
            for (&code, vector) in dead.iter().zip(vectors.chunks_exact(width)) {
                values[code * width..(code + 1) * width].copy_from_slice(vector);
            }
            let codes = Tensor::from_data(TensorData::new(values, shape), &device);
            if tracked { codes.require_grad() } else { codes }
        });
        self
    }
}
