//! The two models that diffusion stands on and does not change.

use std::path::{Path, PathBuf};

use burn::tensor::{Int, Tensor};
use latent_models::{Autoencoder, ClipTextModel, ClipTokenizer};
use latent_nn::Compute;
use sha2::{Digest, Sha256};

use crate::config::{Condition, DiffusionConfig};
use crate::error::{Result, TrainError};
use crate::text_encoder::part_of;

/// Autoencoder, text encoder, and where their files are.
pub(crate) struct Frozen {
    pub(crate) compute: Compute,
    pub(crate) autoencoder: Autoencoder,
    pub(crate) autoencoder_folder: PathBuf,
    pub(crate) autoencoder_sum: String,
    pub(crate) scaling_factor: f64,
    /// `[c, h, w]` of the training pictures' latents.
    pub(crate) latent_shape: [usize; 3],
    pub(crate) text: Option<FrozenText>,
}

/// Text encoder and tokenizer.
pub(crate) struct FrozenText {
    pub(crate) compute: Compute,
    pub(crate) encoder: ClipTextModel,
    pub(crate) tokenizer: ClipTokenizer,
    pub(crate) encoder_folder: PathBuf,
    pub(crate) tokenizer_folder: PathBuf,
    pub(crate) sum: String,
}

impl Frozen {
    /// Opens both on a device without gradients.
    pub(crate) fn open(config: &DiffusionConfig, compute: &Compute) -> Result<Self> {
        let folder = part_of(&config.autoencoder, "vae");
        let autoencoder = Autoencoder::load(&folder, compute)?;
        let scaling_factor = autoencoder.scaling_factor().ok_or_else(|| {
            TrainError::Other(format!(
                "{}: has no `scaling_factor`; diffusion needs latents of size 1: train it with `latent train autoencoder`, \
                 which measures the factor, or write 1/std of its latents into its config",
                folder.join("config.json").display()
            ))
        })?;
        let (size, factor) = (config.data.size, autoencoder.downsampling());
        if size % factor != 0 {
            return Err(TrainError::Other(format!(
                "`data.size` is {size}, which the autoencoder cannot divide by {factor}"
            )));
        }
        let text = match (config.condition, &config.text_encoder) {
            (Condition::Text, Some(folder)) => Some(FrozenText::open(folder, compute)?),
            _ => None,
        };
        Ok(Self {
            compute: compute.clone(),
            autoencoder_sum: sum_of(&folder)?,
            latent_shape: [autoencoder.latent_channels(), size / factor, size / factor],
            autoencoder,
            autoencoder_folder: folder,
            scaling_factor,
            text,
        })
    }

    /// Mean and deviation of the latents, unscaled.
    pub(crate) fn moments(&self, pictures: Tensor<4>) -> (Tensor<4>, Option<Tensor<4>>) {
        self.autoencoder.latents(pictures)
    }
}

impl FrozenText {
    fn open(folder: &Path, compute: &Compute) -> Result<Self> {
        let encoder_folder = part_of(folder, "text_encoder");
        let tokenizer_folder = folder.join("tokenizer");
        let encoder = ClipTextModel::load(&encoder_folder, compute)?;
        let tokenizer =
            ClipTokenizer::open(&tokenizer_folder, encoder.config().max_position_embeddings)?;
        let sum = sum_of(&encoder_folder)? + &sum_of(&tokenizer_folder)?;
        Ok(Self {
            compute: compute.clone(),
            encoder,
            tokenizer,
            encoder_folder,
            tokenizer_folder,
            sum,
        })
    }

    /// Tokens of a caption, and numbers of a token's state.
    pub(crate) fn state_shape(&self) -> [usize; 2] {
        let config = self.encoder.config();
        [config.max_position_embeddings, config.hidden_size]
    }

    /// Last hidden states `[n, length, width]`.
    pub(crate) fn states(&self, texts: &[&str]) -> Tensor<3> {
        let ids: Vec<u32> = texts
            .iter()
            .flat_map(|text| self.tokenizer.encode(text).ids)
            .collect();
        let length = ids.len() / texts.len();
        self.encode(self.compute.ids(&ids, [texts.len(), length]))
    }

    /// Last hidden states `[n, length, width]` of token ids `[n, length]`.
    pub(crate) fn encode(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        self.encoder.forward_skip(ids, 0)
    }
}

/// Checksum of a folder's files, in order of their names.
fn sum_of(folder: &Path) -> Result<String> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
        .map_err(TrainError::io(folder))?;
    files.sort();
    let mut hash = Sha256::new();
    for file in files.iter().filter(|file| file.is_file()) {
        hash.update(std::fs::read(file).map_err(TrainError::io(file))?);
    }
    Ok(hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}
