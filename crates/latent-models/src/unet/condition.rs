//! What a U-Net and the ControlNets beside it are told of the picture.

use burn::tensor::{Device, Int, Tensor};
use latent_nn::layers::{Sinusoid, TimestepEmbedding, timestep_sinusoid};
use latent_nn::{Compute, Precision};

/// What the U-Net is told of the picture.
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "one value a run, which holds handles of tensors"
)]
pub enum UNetCondition {
    /// Text states `[n, l, cross_attention_dim]`.
    Text(Tensor<3>),
    /// Text states with what `addition_embed_type: text_time` asks for.
    TextTime(TextTime),
    /// Class labels `[n, 1]`, below `num_class_embeds`.
    Class(Tensor<2, Int>),
    /// Nothing.
    None,
}

/// What Stable Diffusion XL's U-Net is told.
#[derive(Clone, Debug)]
pub struct TextTime {
    /// Text states `[n, l, cross_attention_dim]`.
    pub text: Tensor<3>,
    /// The pooled text `[n, p]`.
    pub pooled: Tensor<2>,
    /// Sizes of the picture `[n, k]`, row after row; `p + k * addition_time_embed_dim` is
    /// `projection_class_embeddings_input_dim`.
    pub numbers: Vec<f32>,
}

impl UNetCondition {
    /// The text states, if it is told words.
    pub fn text(&self) -> Option<&Tensor<3>> {
        match self {
            Self::Text(states) => Some(states),
            Self::TextTime(told) => Some(&told.text),
            Self::Class(_) | Self::None => None,
        }
    }

    /// What the last `rows` of the samples are told.
    ///
    /// # Panics
    /// If there are fewer.
    #[must_use]
    pub fn last(&self, rows: usize) -> Self {
        match self {
            Self::Text(text) => Self::Text(last(text, rows)),
            Self::TextTime(told) => {
                let each = told.numbers.len() / told.pooled.dims()[0].max(1);
                Self::TextTime(TextTime {
                    text: last(&told.text, rows),
                    pooled: last(&told.pooled, rows),
                    numbers: told.numbers[told.numbers.len() - rows * each..].to_vec(),
                })
            }
            Self::Class(labels) => {
                let [n, width] = labels.dims();
                Self::Class(labels.clone().slice([n - rows..n, 0..width]))
            }
            Self::None => Self::None,
        }
    }
}

impl TextTime {
    /// What is added to the timestep's embedding, `[n, t]`, with sinusoids of the numbers as `sinusoid` says.
    pub(super) fn embed(&self, embedding: &TimestepEmbedding, sinusoid: &Sinusoid) -> Tensor<2> {
        let compute = host(&self.pooled.device());
        let numbers = timestep_sinusoid(&self.numbers, sinusoid, &compute);
        let batch = self.pooled.dims()[0];
        let width = self.numbers.len() / batch * sinusoid.dim;
        let numbers = numbers.reshape([batch, width]);
        embedding.forward(Tensor::cat(vec![self.pooled.clone(), numbers], 1))
    }
}

/// The last rows of a tensor.
fn last<const D: usize>(x: &Tensor<D>, rows: usize) -> Tensor<D> {
    let n = x.dims()[0];
    x.clone().narrow(0, n - rows, rows)
}

/// Where sinusoids go. No product is computed of them here; layers have their own precision.
pub(super) fn host(device: &Device) -> Compute {
    Compute {
        device: device.clone(),
        precision: Precision::F32,
    }
}
