//! The one error of this crate.

use std::path::PathBuf;

use latent_formats::FormatError;

pub(crate) type Result<T, E = ModelError> = std::result::Result<T, E>;

/// Why a model could not be built, read or written. Each sentence says where, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A file is broken or cannot be read or written.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A folder lacks a file.
    #[error("`{}` holds no {what}; looked for {}", folder.display(), quoted(looked_for))]
    MissingFile {
        /// Where it should be.
        folder: PathBuf,
        /// What the file would hold.
        what: &'static str,
        /// The names it may have.
        looked_for: Vec<String>,
    },
    /// A checkpoint of one file is of no kind that is opened.
    #[error("`{}` {reason}", path.display())]
    SingleFile {
        /// The file.
        path: PathBuf,
        /// What it is, and what to do.
        reason: String,
    },
    /// A file that changes or replaces a part of a model does not fit it.
    #[error("`{}` {reason}", path.display())]
    Adapter {
        /// The file.
        path: PathBuf,
        /// What it is, what was needed, and what to do.
        reason: String,
    },
    /// A config asks for something that is not built here, or that cannot be.
    #[error("{place}: `{key}` {reason}")]
    Config {
        /// The file, or the model where there is none.
        place: String,
        /// The key.
        key: String,
        /// What was found and what is needed.
        reason: String,
    },
    /// A name of layers that the model does not have.
    #[error("the model has no self-attention in `{wanted}`; it has some in: {known}")]
    Layers {
        /// The name.
        wanted: String,
        /// Names that it has.
        known: String,
    },
    /// A weights file lacks tensors of the model.
    #[error(
        "`{}` lacks {count} of the model's {total} tensors, the first is `{first}` of shape {needed:?}; \
         its config belongs to another model, or the file is incomplete", path.display()
    )]
    MissingTensors {
        /// The weights file.
        path: PathBuf,
        /// How many are missing.
        count: usize,
        /// How many the model has.
        total: usize,
        /// Name of the first missing one.
        first: String,
        /// Its shape.
        needed: Vec<usize>,
    },
    /// A weights file holds tensors that the model has no place for.
    #[error(
        "`{}` holds {count} tensors that the model of its config does not have, the first is `{first}`; \
         the config belongs to another model", path.display()
    )]
    UnexpectedTensors {
        /// The weights file.
        path: PathBuf,
        /// How many.
        count: usize,
        /// Name of the first.
        first: String,
    },
    /// A tokenizer's files do not make a tokenizer.
    #[error("`{}`: {reason}", path.display())]
    Tokenizer {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// A tokenizer cannot be trained.
    #[error("cannot train a tokenizer: {0}")]
    TokenizerTraining(String),
}

fn quoted(names: &[String]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    quoted.join(", ")
}
