//! The one error of this crate.

use std::io;
use std::path::{Path, PathBuf};

/// Why a file could not be read or written. Each sentence names the file and says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The operating system refused.
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io {
        /// What was tried, as in "read".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's own word.
        source: io::Error,
    },
    /// A weights file as a whole is not what it should be.
    #[error("`{}` is not a usable weights file: {reason}", path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// One tensor's entry in a file is broken.
    #[error("`{}`: the entry of tensor `{name}` is broken: {reason}", path.display())]
    TensorEntry {
        /// The file.
        path: PathBuf,
        /// The tensor's key.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// A file lacks a tensor that was asked for.
    #[error(
        "`{}` has no tensor `{name}`{}", path.display(),
        nearest.as_ref().map_or(String::new(), |near| format!("; the nearest name in it is `{near}`"))
    )]
    MissingTensor {
        /// The file.
        path: PathBuf,
        /// What was asked for.
        name: String,
        /// The name in the file that is closest to it.
        nearest: Option<String>,
    },
    /// A tensor has another shape than its reader needs.
    #[error("`{}`: tensor `{name}` has shape {found:?}, needed {needed:?}; the file belongs to a model of another size", path.display())]
    TensorShape {
        /// The file.
        path: PathBuf,
        /// The tensor's key.
        name: String,
        /// Its shape in the file.
        found: Vec<usize>,
        /// The shape that was needed.
        needed: Vec<usize>,
    },
    /// Tensors that cannot be put into a file.
    #[error("cannot write tensor `{name}`: {reason}")]
    TensorToWrite {
        /// The tensor's key.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A JSON file does not say what it should.
    #[error("`{}`, line {line}, column {column}{}: {reason}", path.display(),
        key.as_ref().map_or(String::new(), |key| format!(", key `{key}`")))]
    Json {
        /// The file.
        path: PathBuf,
        /// Line of the fault, from 1.
        line: usize,
        /// Column of the fault, from 1.
        column: usize,
        /// The key at that place, with dots, where there is one.
        key: Option<String>,
        /// What was found and what is allowed.
        reason: String,
    },
    /// A value of a config is none we know.
    #[error("`{}`: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The key, what was found and what is allowed.
        reason: String,
    },
    /// A picture file cannot be read.
    #[error("cannot read the picture `{}`: {reason}", path.display())]
    Picture {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// Pictures that do not fit what is asked of them.
    #[error("{0}")]
    PictureSize(String),
    /// A picture cannot be encoded.
    #[error("cannot encode a picture of {width}x{height} as {format}: {reason}")]
    Encode {
        /// Width in pixels.
        width: usize,
        /// Height in pixels.
        height: usize,
        /// The format's name.
        format: &'static str,
        /// What is wrong.
        reason: String,
    },
}

impl FormatError {
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_path_buf(),
            source,
        }
    }

    pub(crate) fn weights(path: &Path, reason: impl Into<String>) -> Self {
        Self::Weights {
            path: path.to_path_buf(),
            reason: reason.into(),
        }
    }

    pub(crate) fn entry(path: &Path, name: &str, reason: impl Into<String>) -> Self {
        Self::TensorEntry {
            path: path.to_path_buf(),
            name: name.to_string(),
            reason: reason.into(),
        }
    }

    pub(crate) fn picture(path: &Path, reason: impl Into<String>) -> Self {
        Self::Picture {
            path: path.to_path_buf(),
            reason: reason.into(),
        }
    }
}
