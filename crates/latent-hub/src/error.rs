//! The one error of this crate.

use std::io;
use std::path::PathBuf;

/// Why a file could not be had. Each sentence says where, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The hub cannot be reached, or stopped answering.
    #[error(
        "cannot reach {host}: {reason}; look at the network, or go without it with `--offline`"
    )]
    Unreachable {
        /// Its address.
        host: String,
        /// What the system or the library says.
        reason: String,
    },
    /// The hub has no such repository, or does not show it to this user.
    #[error("{}", no_such_model(name, *had_token))]
    NoSuchModel {
        /// What was asked for.
        name: String,
        /// Whether a token was sent.
        had_token: bool,
    },
    /// The repository has no such branch, tag or commit.
    #[error(
        "`{repository}` has no revision `{revision}`; look at its branches and tags on the hub"
    )]
    NoSuchRevision {
        /// `owner/name`.
        repository: String,
        /// What was asked for.
        revision: String,
    },
    /// The repository has no such file.
    #[error("`{repository}` has no file `{file}`; {has}")]
    NoSuchFile {
        /// `owner/name`.
        repository: String,
        /// What was asked for.
        file: String,
        /// What it has.
        has: String,
    },
    /// The token is not accepted.
    #[error(
        "the hub refuses the token of `HF_TOKEN` or `HF_HOME` (401{}); make a new one at {page}",
        in_words(said)
    )]
    Token {
        /// The hub's own words.
        said: String,
        /// Where tokens are made.
        page: String,
    },
    /// The repository is shown to those only who accepted its terms.
    #[error(
        "`{repository}` is open only to those who accepted its terms; accept them at {page}, and set `HF_TOKEN` to a token of yours{}",
        in_words(said)
    )]
    Gated {
        /// `owner/name`.
        repository: String,
        /// Where its terms are.
        page: String,
        /// The hub's own words, which name a token's lack where there is one; empty if it had none.
        said: String,
    },
    /// Another answer than the one hoped for.
    #[error(
        "the hub answered {status} to {url}{}; try again later",
        in_words(said)
    )]
    Status {
        /// HTTP's number.
        status: u16,
        /// What was asked.
        url: String,
        /// The hub's own words.
        said: String,
    },
    /// An answer that means nothing.
    #[error("{url} gave an answer that is not a hub's: {reason}; look at `HF_ENDPOINT`")]
    Answer {
        /// What was asked.
        url: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// A download broke off again and again.
    #[error(
        "`{file}` of `{repository}` broke off at {done} of {size} bytes: {reason}; what came is kept, and the same command goes on there"
    )]
    Dropped {
        /// `owner/name`.
        repository: String,
        /// The file.
        file: String,
        /// Bytes that came.
        done: u64,
        /// Bytes it has.
        size: u64,
        /// What happened last.
        reason: String,
    },
    /// A file came with other bytes than the hub promised.
    #[error(
        "`{file}` of `{repository}` is not the file that the hub promised: {reason}; it was not kept, so try again, and if it stays so, do not trust this connection"
    )]
    Altered {
        /// `owner/name`.
        repository: String,
        /// The file.
        file: String,
        /// What was found against what was promised.
        reason: String,
    },
    /// The network may not be used, and the cache does not hold what is needed.
    #[error("the network may not be used, and the cache `{}` does not hold {what}; run once without `--offline` and `HF_HUB_OFFLINE`", folder.display())]
    NotCached {
        /// The cache.
        folder: PathBuf,
        /// What was looked for.
        what: String,
    },
    /// The cache cannot be read or written.
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io {
        /// What was tried, as in "write".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's own word.
        source: io::Error,
    },
    /// The environment says something that cannot be.
    #[error("{0}")]
    Settings(String),
    /// The caller's progress function said stop.
    #[error("stopped")]
    Stopped,
}

fn no_such_model(name: &str, had_token: bool) -> String {
    let more = if had_token {
        "or is not shown to your token"
    } else {
        "or it is private, and `HF_TOKEN` is not set"
    };
    format!(
        "`{name}` is no file or folder here, and the hub has no model of this name, {more}; look at how it is written"
    )
}

fn in_words(said: &str) -> String {
    if said.is_empty() {
        String::new()
    } else {
        format!(": {said}")
    }
}
