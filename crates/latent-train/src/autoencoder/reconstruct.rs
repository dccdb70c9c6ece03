//! The kinds of autoencoder as training sees them: pictures in, reconstructions and a regularisation out.

use burn::module::Module;
use burn::tensor::Tensor;
use latent_models::{AutoencoderKl, Moments, SimpleAutoencoder, VqModel};

use crate::config::AutoencoderConfig;

/// A pass through an autoencoder.
pub(crate) struct Reconstruction {
    /// `[n, 3, h, w]`.
    pub(crate) pictures: Tensor<4>,
    /// What is minimised beside the reconstruction's error, weights included.
    pub(crate) regularisation: Tensor<1>,
    /// Its parts by name, before their weights.
    pub(crate) parts: Vec<(&'static str, Tensor<1>)>,
    /// Which codes stood for which vectors, where there is a codebook.
    pub(crate) codes: Option<UsedCodes>,
}

/// Codes of a batch.
pub(crate) struct UsedCodes {
    /// Code of each position.
    pub(crate) indices: Vec<u32>,
    /// The encoder's vectors `[n, c, h, w]`, without gradients.
    pub(crate) vectors: Tensor<4>,
}

/// An autoencoder that can be trained.
pub(crate) trait Reconstruct: Module + Sync {
    /// Encodes, draws latents where the encoder gives a distribution, and decodes.
    ///
    /// `noise` gives N(0, 1) numbers of a shape.
    fn reconstruct(
        &self,
        pictures: Tensor<4>,
        noise: &mut dyn FnMut([usize; 4]) -> Tensor<4>,
        config: &AutoencoderConfig,
    ) -> Reconstruction;

    /// `[c, h, w]` of the latents of a picture of `size` whose noise is all that a pass draws; `None` where a pass looks at
    /// what it found, as with a codebook.
    fn drawn_shape(&self, _size: usize) -> Option<[usize; 3]> {
        None
    }

    /// The most likely reconstruction, without noise.
    fn most_likely(&self, pictures: Tensor<4>) -> Tensor<4>;

    /// Codes of the codebook; 0 without one.
    fn code_count(&self) -> usize {
        0
    }

    /// The same model with the codes `dead` replaced by `vectors [dead, c]`.
    fn revive(self, _dead: &[usize], _vectors: &[f32]) -> Self {
        self
    }

    /// Mean and standard deviation of the latents `[n, c, h, w]`; `None` for no deviation.
    fn latents(&self, pictures: Tensor<4>) -> (Tensor<4>, Option<Tensor<4>>);
}

/// KL divergence from N(0, 1), averaged over all latents.
///
/// Source: Kingma & Welling 2014 (arXiv:1312.6114), appendix B.
pub(crate) fn kl_divergence(moments: &Moments) -> Tensor<1> {
    let (mean, logvar) = (moments.mean.clone(), moments.logvar.clone());
    let kl = mean.clone() * mean + logvar.clone().exp() - logvar - 1.0;
    kl.mean() * 0.5
}

/// The weight of the mean KL beside a mean pixel error that equals weight `kl` of the sum beside a sum.
pub(crate) fn mean_kl_weight(kl: f32, latents: usize, pixels: usize) -> f32 {
    kl * latents as f32 / pixels as f32
}

/// `mean + exp(logvar / 2) * noise`.
fn draw(moments: &Moments, noise: Tensor<4>) -> Tensor<4> {
    moments.mean.clone() + moments.logvar.clone().mul_scalar(0.5).exp() * noise
}

fn deviation(moments: &Moments) -> Tensor<4> {
    moments.logvar.clone().mul_scalar(0.5).exp()
}

/// The two kinds whose encoder gives a distribution.
fn reconstruct_drawn(
    moments: Moments,
    numbers: usize,
    noise: &mut dyn FnMut([usize; 4]) -> Tensor<4>,
    config: &AutoencoderConfig,
    decode: impl FnOnce(Tensor<4>) -> Tensor<4>,
) -> Reconstruction {
    let moments = match config.freeze_encoder {
        true => Moments {
            mean: moments.mean.detach(),
            logvar: moments.logvar.detach(),
        },
        false => moments,
    };
    let shape = moments.mean.dims();
    let latents = shape[1] * shape[2] * shape[3];
    let kl = kl_divergence(&moments);
    let drawn = draw(&moments, noise(shape));
    Reconstruction {
        pictures: decode(drawn),
        regularisation: kl.clone() * mean_kl_weight(config.loss.kl, latents, numbers),
        parts: vec![("kl", kl)],
        codes: None,
    }
}

fn numbers_per_picture(pictures: &Tensor<4>) -> usize {
    let [_, c, h, w] = pictures.dims();
    c * h * w
}

impl Reconstruct for AutoencoderKl {
    fn reconstruct(
        &self,
        pictures: Tensor<4>,
        noise: &mut dyn FnMut([usize; 4]) -> Tensor<4>,
        config: &AutoencoderConfig,
    ) -> Reconstruction {
        let numbers = numbers_per_picture(&pictures);
        reconstruct_drawn(self.encode(pictures), numbers, noise, config, |z| {
            self.decode(z)
        })
    }

    fn drawn_shape(&self, size: usize) -> Option<[usize; 3]> {
        let side = size / self.downsampling();
        Some([self.config().latent_channels, side, side])
    }

    fn most_likely(&self, pictures: Tensor<4>) -> Tensor<4> {
        self.decode(self.encode(pictures).mean)
    }

    fn latents(&self, pictures: Tensor<4>) -> (Tensor<4>, Option<Tensor<4>>) {
        let moments = self.encode(pictures);
        let deviation = deviation(&moments);
        (moments.mean, Some(deviation))
    }
}

impl Reconstruct for SimpleAutoencoder {
    fn reconstruct(
        &self,
        pictures: Tensor<4>,
        noise: &mut dyn FnMut([usize; 4]) -> Tensor<4>,
        config: &AutoencoderConfig,
    ) -> Reconstruction {
        let numbers = numbers_per_picture(&pictures);
        reconstruct_drawn(self.encode(pictures), numbers, noise, config, |z| {
            self.decode(z)
        })
    }

    fn drawn_shape(&self, size: usize) -> Option<[usize; 3]> {
        let side = size / self.downsampling();
        Some([self.config().latent_channels, side, side])
    }

    fn most_likely(&self, pictures: Tensor<4>) -> Tensor<4> {
        self.decode(self.encode(pictures).mean)
    }

    fn latents(&self, pictures: Tensor<4>) -> (Tensor<4>, Option<Tensor<4>>) {
        let moments = self.encode(pictures);
        let deviation = deviation(&moments);
        (moments.mean, Some(deviation))
    }
}

impl Reconstruct for VqModel {
    fn reconstruct(
        &self,
        pictures: Tensor<4>,
        _noise: &mut dyn FnMut([usize; 4]) -> Tensor<4>,
        config: &AutoencoderConfig,
    ) -> Reconstruction {
        let encoded = self.encode(pictures);
        let vectors = encoded.clone().detach();
        let found = self.quantize(encoded);
        let regularisation = found.codebook_loss.clone() * config.loss.codebook
            + found.commitment_loss.clone() * config.loss.commitment;
        Reconstruction {
            pictures: self.decode_quantized(found.quantized),
            regularisation,
            parts: vec![("codebook", found.codebook_loss)],
            codes: Some(UsedCodes {
                indices: found.indices,
                vectors,
            }),
        }
    }

    fn code_count(&self) -> usize {
        self.config().num_vq_embeddings
    }

    fn revive(self, dead: &[usize], vectors: &[f32]) -> Self {
        Self::revive(self, dead, vectors)
    }

    fn most_likely(&self, pictures: Tensor<4>) -> Tensor<4> {
        self.decode(self.encode(pictures))
    }

    fn latents(&self, pictures: Tensor<4>) -> (Tensor<4>, Option<Tensor<4>>) {
        (self.encode(pictures), None)
    }
}
