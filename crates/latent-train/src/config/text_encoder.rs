//! Config of the text-encoder stage.

use std::collections::BTreeSet;
use std::path::PathBuf;

use latent_models::{ClipTextConfig, ImageTowerConfig};
use serde::{Deserialize, Serialize};

use super::{Augment, Data, Fault, Optimization, Run, StageConfig, need};
use crate::text_encoder::bare;

/// `latent train text-encoder`: a text transformer and an image tower that learn to find each other's pairs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextEncoderConfig {
    /// Where, how long, how often.
    pub run: Run,
    /// Training pictures, each with a caption.
    pub data: Data,
    /// Optimiser of both networks.
    pub optimizer: Optimization,
    /// Flips and shifts.
    #[serde(default)]
    pub augment: Augment,
    /// Odds that a caption's last part, which names the style, is left out.
    #[serde(default)]
    pub style_dropout: f64,
    /// Groups of words that exclude one another. A caption with one of them gets a twin with another in its place,
    /// which its picture must not choose: a batch drawn at random rarely holds captions that differ in one word.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub opposites: Vec<Vec<String>>,
    /// The tokenizer.
    pub tokenizer: TokenizerConfig,
    /// The text transformer, in transformers' keys; `vocab_size` and the special ids come from the tokenizer.
    pub text: ClipTextConfig,
    /// The image tower.
    pub image: ImageTowerConfig,
}

/// `[tokenizer]`: trained on the captions, or taken from a folder.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerConfig {
    /// Pieces of a tokenizer trained on the data's captions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vocab_size: Option<usize>,
    /// A folder with `vocab.json` and `merges.txt` to use instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
}

impl StageConfig for TextEncoderConfig {
    fn run(&self) -> &Run {
        &self.run
    }

    fn check(&self) -> Result<(), Fault> {
        self.run.check()?;
        self.data.check()?;
        self.optimizer.check()?;
        self.augment.check(self.data.size)?;
        need(self.run.batch >= 2, "run.batch", || {
            "must be at least 2: a caption is told apart from the others of its batch".into()
        })?;
        need(self.run.accumulation == 1, "run.accumulation", || {
            "must be 1: the contrastive loss needs its whole batch at once".into()
        })?;
        need(
            (0.0..=1.0).contains(&self.style_dropout),
            "style_dropout",
            || "must lie between 0 and 1".into(),
        )?;
        need(
            self.opposites.iter().all(|group| group.len() >= 2),
            "opposites",
            || "needs at least two words in each group".into(),
        )?;
        let words: Vec<&String> = self.opposites.iter().flatten().collect();
        let single =
            |word: &&String| !word.is_empty() && bare(word) == **word && !word.contains(' ');
        let different: BTreeSet<&String> = words.iter().copied().collect();
        need(
            words.iter().all(single) && different.len() == words.len(),
            "opposites",
            || "needs single words without punctuation behind them, each in one group".into(),
        )?;
        let TokenizerConfig { vocab_size, path } = &self.tokenizer;
        need(vocab_size.is_some() != path.is_some(), "tokenizer", || {
            "needs either `vocab_size` (train one) or `path` (take one)".into()
        })?;
        need(
            vocab_size.is_none_or(|size| size >= 514),
            "tokenizer.vocab_size",
            || {
                "must be at least 514: 256 bytes, as many at the end of a word, and two marks"
                    .into()
            },
        )
    }
}
