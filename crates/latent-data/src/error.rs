//! The one error of this crate.

use std::io;
use std::path::{Path, PathBuf};

/// Why training data cannot be read or made. Each sentence names the file and says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
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
    /// A picture or a JSON file is broken.
    #[error(transparent)]
    Format(#[from] latent_formats::FormatError),
    /// There is no data where it was looked for.
    #[error("no training data at `{}`: {reason}", path.display())]
    NotFound {
        /// Where it was looked for.
        path: PathBuf,
        /// What was looked for.
        reason: String,
    },
    /// Pictures lack captions that training needs.
    #[error("`{}` lacks captions: {reason}", path.display())]
    NoCaptions {
        /// The data set.
        path: PathBuf,
        /// Which pictures, and where captions were looked for.
        reason: String,
    },
    /// A line of a `.jsonl` file, or the `.json` of a shard's member, is broken.
    #[error("`{}`, line {line}: {reason}", path.display())]
    Metadata {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong, and what is allowed.
        reason: String,
    },
    /// A tar file is broken or was cut.
    #[error("shard `{}` is broken at byte {offset}: {reason}", path.display())]
    Shard {
        /// The file.
        path: PathBuf,
        /// Where reading ended, counted in the unpacked file.
        offset: u64,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// Examples contradict each other.
    #[error("`{}`: {reason}", path.display())]
    Conflict {
        /// The data set.
        path: PathBuf,
        /// Which examples, and what to do.
        reason: String,
    },
    /// Sampling weights from which nothing can be drawn.
    #[error("sampling weights: {0}")]
    Weights(String),
    /// A word for something else than what is offered.
    #[error("`{found}` is no {what}; choose one of {allowed}")]
    Choice {
        /// What was chosen, as in "profile".
        what: &'static str,
        /// The word.
        found: String,
        /// The words that are known.
        allowed: String,
    },
    /// Settings that leave no picture.
    #[error(
        "profile `{profile}` has no picture of kind `{kinds}` with {scenes} scenes; ask for other kinds, or more scenes"
    )]
    NothingToBuild {
        /// The profile's word.
        profile: &'static str,
        /// The kinds' words.
        kinds: String,
        /// Scenes that were tried.
        scenes: u32,
    },
    /// A package of drawings cannot be had.
    #[error("package `{package}`: {reason}")]
    Package {
        /// As npm names it.
        package: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// A source drawing cannot be drawn.
    #[error("drawing `{drawing}`: {reason}")]
    Drawing {
        /// Style and name.
        drawing: String,
        /// What is wrong.
        reason: String,
    },
    /// The work was asked to stop; what is finished is kept.
    #[error("stopped; the same command goes on from here")]
    Stopped,
}

impl DataError {
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_path_buf(),
            source,
        }
    }

    pub(crate) fn choice<const N: usize>(
        what: &'static str,
        found: &str,
        allowed: [&str; N],
    ) -> Self {
        Self::Choice {
            what,
            found: found.to_string(),
            allowed: allowed.map(|word| format!("`{word}`")).join(", "),
        }
    }

    pub(crate) fn conflict(path: &Path, reason: impl Into<String>) -> Self {
        Self::Conflict {
            path: path.to_path_buf(),
            reason: reason.into(),
        }
    }
}
