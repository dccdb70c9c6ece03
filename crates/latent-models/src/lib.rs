//! Architectures, their configs, weight names and tokenizers.
//!
//! A model is a diffusers folder: `model_index.json`, `unet/`, `vae/`, `text_encoder/`, `tokenizer/`, `scheduler/`,
//! configs in diffusers' own keys, weights in safetensors; or a checkpoint of one file, whose tensors are renamed. What this crate writes opens in Python, what Python writes
//! opens here.
//!
//! ```no_run
//! use latent_models::ModelFolder;
//! use latent_nn::{Compute, Precision};
//!
//! let folder = ModelFolder::open("stable-diffusion-v1-5".as_ref())?;
//! let unet = folder.unet(&Compute::cpu(Precision::F32))?;
//! println!("{} channels in", unet.config().in_channels);
//! # Ok::<(), latent_models::ModelError>(())
//! ```

mod adapters;
mod autoencoder;
mod choice;
mod config;
mod convert;
mod error;
mod families;
mod files;
mod folder;
mod prompt;
mod resample;
mod residual;
mod single_file;
mod text;
mod tokenizer;
mod unet;
mod weights;

pub use adapters::{
    Embedding, FileKind, LayerKind, Lora, LoraDialect, LoraFiles, LoraLayer, LoraReport, Strength,
    recognise,
};
pub use autoencoder::{
    Autoencoder, AutoencoderKl, AutoencoderKlConfig, AutoencoderTiny, AutoencoderTinyConfig,
    DownEncoderBlockType, Moments, Quantized, Scaling, SimpleAutoencoder, SimpleAutoencoderConfig,
    TinyDecoder, UpDecoderBlockType, VqModel, VqModelConfig, autoencoder_weights,
};
pub use choice::{Needed, needed_files, needed_part_files};
pub use config::{Counts, Depths};
pub use convert::Layout;
pub use error::ModelError;
pub use families::{FAMILIES, Family};
pub use files::FileSource;
pub use folder::{Conditioning, ModelFolder};
pub use prompt::{ChunkStates, Clock, Grammar, Part, Schedule, SubPrompt, Weights, split_prompts};
pub use single_file::PredictionType;
pub use text::{
    ClipTextConfig, ClipTextModel, ClipVisionConfig, ClipVisionModel, HiddenActivation,
    ImageStates, ImageTower, ImageTowerConfig, TextArchitecture, TextStates,
};
pub use tokenizer::{Chunk, ClipTokenizer, Encoded, train_tokenizer};
pub use unet::{
    AdditionEmbedType, Context, ControlNet, ControlNetConfig, ControlNetContext, DeepFeatures,
    DownBlockType, IpAdapter, Leading, MidBlockType, Reads, Residuals, TextTime, TokenMerging,
    UNet2dCondition, UNet2dConditionConfig, UNetCondition, UpBlockType,
};
pub use weights::{read_parameter, written_name};
