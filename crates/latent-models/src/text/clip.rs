//! CLIP's text transformer: `CLIPTextModel`, `CLIPTextModelWithProjection`.

use std::path::Path;

use burn::module::Module;
use burn::tensor::{Int, Tensor, TensorData};
use latent_formats::Dtype;
use latent_nn::layers::{Embedding, LayerNorm, Linear};
use latent_nn::ops::{Part, evaluation};
use latent_nn::{Compute, Init, Precision};

use super::config::ClipTextConfig;
use super::layers::{ClipLayer, LayerOptions};
use crate::adapters::layers::layers;
use crate::config::{self, ModelConfig};
use crate::error::Result;
use crate::files::FileSource;
use crate::weights::{self, Layout};

/// Token ids to states.
///
/// Source: Radford et al. 2021 (arXiv:2103.00020), section 2.4; fields are named as in transformers' checkpoints.
#[derive(Module, Debug)]
pub struct ClipTextModel {
    text_model: TextTransformer,
    /// Of the pooled state, without bias.
    text_projection: Option<Linear>,
    #[module(skip)]
    config: ClipTextConfig,
}

/// What a text encoder knows of texts.
#[derive(Clone, Debug)]
pub struct TextStates {
    /// After the last layer and the final norm: `[n, l, c]`.
    pub last: Tensor<3>,
    /// After the last layer but one, not normalised: `[n, l, c]`.
    pub penultimate: Tensor<3>,
    /// The last state at each text's end token, projected where the config says so: `[n, c]`.
    pub pooled: Tensor<2>,
}

#[derive(Module, Debug)]
struct TextTransformer {
    embeddings: TextEmbeddings,
    encoder: TextEncoder,
    final_layer_norm: LayerNorm,
}

#[derive(Module, Debug)]
struct TextEmbeddings {
    token_embedding: Embedding,
    position_embedding: Embedding,
    #[module(skip)]
    added: Option<AddedVectors>,
}

/// Vectors of tokens beyond the vocabulary.
#[derive(Clone, Debug)]
struct AddedVectors {
    /// Behind one of zeros, which stands for none: `[1 + count, c]`.
    table: Tensor<2>,
    /// The first one's id.
    first: usize,
}

#[derive(Module, Debug)]
struct TextEncoder {
    layers: Vec<ClipLayer>,
}

layers!(ClipTextModel { text_model });
layers!(TextTransformer { encoder });
layers!(TextEncoder { layers });

impl ClipTextModel {
    /// An encoder with new weights.
    ///
    /// # Errors
    /// [`crate::ModelError::Config`] if the sizes do not fit together.
    pub fn new(config: &ClipTextConfig, init: &mut Init) -> Result<Self> {
        config.checked()?;
        let width = config.hidden_size;
        let embeddings = TextEmbeddings {
            token_embedding: Embedding::new([config.vocab_size, width], init),
            position_embedding: Embedding::new([config.max_position_embeddings, width], init),
            added: None,
        };
        let options = LayerOptions {
            width,
            inner: config.intermediate_size,
            heads: config.num_attention_heads,
            eps: config.layer_norm_eps,
            activation: config.hidden_act,
            causal: true,
        };
        let layers = (0..config.num_hidden_layers)
            .map(|_| ClipLayer::new(options, init))
            .collect();
        Ok(Self {
            text_model: TextTransformer {
                embeddings,
                encoder: TextEncoder { layers },
                final_layer_norm: LayerNorm::new(width, config.layer_norm_eps, init),
            },
            text_projection: config
                .projects()
                .then(|| Linear::new([width, config.projection_dim], init).without_bias()),
            config: config.clone(),
        })
    }

    /// The encoder in a `text_encoder/` folder.
    ///
    /// # Errors
    /// [`crate::ModelError`]: a file or tensor is missing or does not fit, the config asks for what is not built here.
    pub fn load(folder: &Path, compute: &Compute) -> Result<Self> {
        Self::open(&FileSource::folder(folder), compute)
    }

    /// [`ClipTextModel::load`] from files anywhere.
    ///
    /// # Errors
    /// As [`ClipTextModel::load`].
    pub fn open(files: &FileSource, compute: &Compute) -> Result<Self> {
        let config: ClipTextConfig = config::read(files)?;
        let model = Self::new(&config, &mut Init::empty(compute))?;
        weights::load(model, files, weights::TRANSFORMERS)
    }

    /// Writes `config.json` and the weights in f32, as transformers reads them.
    ///
    /// # Errors
    /// [`crate::ModelError::Format`] if the folder cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        self.save_as(folder, Dtype::F32)
    }

    /// [`ClipTextModel::save`] with weights rounded to `dtype`: f32, bf16 or f16.
    ///
    /// # Errors
    /// As [`ClipTextModel::save`].
    pub fn save_as(&self, folder: &Path, dtype: Dtype) -> Result<()> {
        weights::save(
            self,
            &self.config,
            folder,
            (weights::TRANSFORMERS, Layout::default()),
            dtype,
        )
    }

    /// Its sizes.
    pub fn config(&self) -> &ClipTextConfig {
        &self.config
    }

    /// The encoder with the vectors `[count, c]` of added tokens, row after row, whose ids count from `first`.
    ///
    /// # Panics
    /// If the values are no whole number of vectors.
    #[must_use]
    pub fn with_added_vectors(mut self, vectors: &[f32], first: usize) -> Self {
        let width = self.config.hidden_size;
        let mut values = vec![0.0; width];
        values.extend_from_slice(vectors);
        let device = self.text_model.final_layer_norm.weight.device();
        let compute = Compute {
            device,
            precision: Precision::F32,
        };
        let count = values.len() / width;
        self.text_model.embeddings.added = Some(AddedVectors {
            table: compute.tensor(values, [count, width]),
            first,
        });
        self
    }

    /// Token ids `[n, l]`, `l` at most `max_position_embeddings`, to states.
    ///
    /// # Panics
    /// If the texts are longer, or an id is not below `vocab_size`.
    pub fn forward(&self, ids: Tensor<2, Int>) -> TextStates {
        let [count, length] = ids.dims();
        let values: Vec<u32> = ids.clone().into_data().iter::<u32>().collect();
        let rows = self.end_rows(&values, length);
        let rows = Tensor::from_data(TensorData::new(rows, [count]), &ids.device());
        self.forward_pooled_at(ids, rows)
    }

    /// [`ClipTextModel::forward`] with what [`ClipTextModel::end_rows`] says of the ids: nothing comes from the host.
    ///
    /// # Panics
    /// As [`ClipTextModel::forward`].
    pub fn forward_pooled_at(&self, ids: Tensor<2, Int>, end_rows: Tensor<1, Int>) -> TextStates {
        evaluation(Part::TextEncoder, || self.read(ids, end_rows))
    }

    fn read(&self, ids: Tensor<2, Int>, end_rows: Tensor<1, Int>) -> TextStates {
        let layers = self.text_model.encoder.layers.len();
        let penultimate = self.through(self.embed(ids), 0..layers - 1);
        let last = self.through(penultimate.clone(), layers - 1..layers);
        let last = self.text_model.final_layer_norm.forward(last);
        let [n, length, width] = last.dims();
        let pooled = last
            .clone()
            .reshape([n * length, width])
            .select(0, end_rows);
        TextStates {
            pooled: match &self.text_projection {
                Some(projection) => projection.forward(pooled),
                None => pooled,
            },
            penultimate,
            last,
        }
    }

    /// States `[n, l, c]` without the last `clip_skip` layers, after the final norm: 0 gives [`TextStates::last`].
    ///
    /// More than there are layers leaves the embeddings.
    ///
    /// # Panics
    /// As [`ClipTextModel::forward`].
    ///
    /// Source: diffusers' `StableDiffusionPipeline.encode_prompt`, whose counting this is.
    pub fn forward_skip(&self, ids: Tensor<2, Int>, clip_skip: usize) -> Tensor<3> {
        let states = self.forward_hidden(ids, clip_skip);
        self.text_model.final_layer_norm.forward(states)
    }

    /// States `[n, l, c]` without the last `skipped` layers and without the final norm: 1 gives
    /// [`TextStates::penultimate`].
    ///
    /// More than there are layers leaves the embeddings.
    ///
    /// # Panics
    /// As [`ClipTextModel::forward`].
    ///
    /// Source: transformers' `hidden_states[-(skipped + 1)]`.
    pub fn forward_hidden(&self, ids: Tensor<2, Int>, skipped: usize) -> Tensor<3> {
        let layers = self.text_model.encoder.layers.len();
        evaluation(Part::TextEncoder, || {
            self.through(self.embed(ids), 0..layers.saturating_sub(skipped))
        })
    }

    fn embed(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let embeddings = &self.text_model.embeddings;
        let length = ids.dims()[1];
        let tokens = match &embeddings.added {
            None => embeddings.token_embedding.forward(ids),
            Some(added) => embeddings.with_added(ids, added),
        };
        tokens + embeddings.position_embedding.first(length).unsqueeze()
    }

    fn through(&self, states: Tensor<3>, layers: std::ops::Range<usize>) -> Tensor<3> {
        let layers = &self.text_model.encoder.layers[layers];
        layers
            .iter()
            .fold(states, |states, layer| layer.forward(states))
    }

    /// Row of each text's end token among the rows of all texts of `ids [n, length]`.
    ///
    /// Files from before transformers 4.31 say `eos_token_id: 2`, which no text holds; their end token is the
    /// largest id. Source: transformers' `CLIPTextTransformer.forward`.
    pub fn end_rows(&self, ids: &[u32], length: usize) -> Vec<i32> {
        let end = |text: &[u32]| match self.config.eos_token_id {
            // Added tokens have ids above the end's.
            2 => (0..length).rev().max_by_key(|&position| {
                let id = text[position];
                let added = self.text_model.embeddings.added.as_ref();
                let known = added.is_none_or(|added| (id as usize) < added.first);
                if known { id } else { 0 }
            }),
            eos => text.iter().position(|&id| id == eos),
        };
        // A text without an end token is pooled at its start, as torch's `argmax` of zeros does.
        ids.chunks_exact(length)
            .enumerate()
            .map(|(index, text)| (index * length + end(text).unwrap_or(0)) as i32)
            .collect()
    }
}

impl TextEmbeddings {
    /// Vectors `[n, l, c]` of ids `[n, l]`, added tokens among them.
    fn with_added(&self, ids: Tensor<2, Int>, added: &AddedVectors) -> Tensor<3> {
        let first = added.first as i64;
        let is_added = ids.clone().greater_equal_elem(first);
        let known = ids.clone().mask_fill(is_added.clone(), 0);
        // Row 0 of the added ones stands for none.
        let extra = ids
            .sub_scalar(first - 1)
            .mask_fill(is_added.clone().bool_not(), 0);
        let known = self.token_embedding.forward(known);
        let extra = burn::tensor::module::embedding(added.table.clone(), extra);
        let shape = known.dims();
        let mask = is_added.unsqueeze_dim::<3>(2).expand(shape);
        known.mask_where(mask, extra)
    }
}
