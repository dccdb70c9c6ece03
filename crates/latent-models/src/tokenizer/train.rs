//! Training a tokenizer on captions, in any language.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use super::files::{SpecialTokens, Vocabulary};
use super::pieces::Words;
use super::{ClipTokenizer, END_OF_WORD, alphabet};
use crate::error::{ModelError, Result};

/// 256 bytes, as many at the end of a word, and two special tokens.
const LEAST: usize = 514;
/// A pair met once says nothing about other texts.
const LEAST_COUNT: i64 = 2;

/// Trains a byte-level tokenizer of at most `vocab_size` pieces on `texts`, for texts of `length` ids.
///
/// The same texts give the same tokenizer, in whatever order they come. It holds fewer pieces where no pair is left
/// that the texts have twice.
///
/// # Errors
/// [`ModelError::TokenizerTraining`] if `vocab_size` is below 514 or there is no text, [`ModelError::Tokenizer`] if
/// `length` is below 3.
///
/// Source: Sennrich et al. 2016 (arXiv:1508.07909), Algorithm 1, over bytes; the vocabulary's order is CLIP's.
pub fn train_tokenizer<T: AsRef<str>>(
    texts: impl IntoIterator<Item = T>,
    vocab_size: usize,
    length: usize,
) -> Result<ClipTokenizer> {
    if vocab_size < LEAST {
        let reason = format!(
            "`vocab_size` is {vocab_size}; {LEAST} is the least: all bytes, twice, and two marks"
        );
        return Err(ModelError::TokenizerTraining(reason));
    }
    let failed = |error| ModelError::TokenizerTraining(format!("{error}"));
    let words = Words::new().map_err(failed)?;
    let mut counts: BTreeMap<String, i64> = BTreeMap::new();
    for text in texts {
        words
            .of(text.as_ref(), |word| {
                *counts.entry(word.to_owned()).or_default() += 1
            })
            .map_err(failed)?;
    }
    if counts.is_empty() {
        return Err(ModelError::TokenizerTraining(
            "there is no word in the texts".into(),
        ));
    }
    let mut trainer = Trainer::new(&counts);
    // Two ids are kept for the special tokens.
    while trainer.pieces.len() + 2 < vocab_size && trainer.merge_commonest() {}
    let special = SpecialTokens::default();
    let mut pieces = trainer.pieces;
    pieces.extend([special.bos.content.clone(), special.eos.content.clone()]);
    let ids = pieces.into_iter().zip(0..).collect();
    let place = Path::new("the trained tokenizer");
    let vocabulary = Vocabulary::new(ids, trainer.merges, special, place)?;
    ClipTokenizer::build(vocabulary, length, place)
}

/// Ids of two neighbours in a word.
type Pair = (u32, u32);

struct Trainer {
    /// By id.
    pieces: Vec<String>,
    ids: HashMap<String, u32>,
    /// Each different word as ids, and how often it was met.
    words: Vec<(Vec<u32>, i64)>,
    /// How often each pair is met, and in which words.
    pairs: HashMap<Pair, (i64, BTreeSet<usize>)>,
    merges: Vec<(String, String)>,
}

impl Trainer {
    fn new(counts: &BTreeMap<String, i64>) -> Self {
        let letters = alphabet::letters();
        let mut pieces: Vec<String> = letters.iter().map(char::to_string).collect();
        pieces.extend(
            letters
                .iter()
                .map(|letter| format!("{letter}{END_OF_WORD}")),
        );
        let ids: HashMap<String, u32> = pieces.iter().cloned().zip(0..).collect();
        let mut trainer = Self {
            pieces,
            ids,
            words: Vec::new(),
            pairs: HashMap::new(),
            merges: Vec::new(),
        };
        for (word, &count) in counts {
            let mut letters: Vec<String> = word.chars().map(|letter| letter.to_string()).collect();
            if let Some(last) = letters.last_mut() {
                last.push_str(END_OF_WORD);
            }
            let ids = letters
                .iter()
                .filter_map(|letter| trainer.ids.get(letter).copied())
                .collect();
            trainer.words.push((ids, count));
        }
        for word in 0..trainer.words.len() {
            trainer.count_pairs(word, 1);
        }
        trainer
    }

    /// Adds (`sign` 1) or takes away (-1) a word's pairs.
    fn count_pairs(&mut self, word: usize, sign: i64) {
        let (ids, count) = &self.words[word];
        for pair in ids.windows(2) {
            let (total, words) = self.pairs.entry((pair[0], pair[1])).or_default();
            *total += sign * count;
            if sign > 0 {
                words.insert(word);
            } else {
                words.remove(&word);
            }
        }
    }

    /// Joins the commonest pair wherever it is; `false` if none is common.
    fn merge_commonest(&mut self) -> bool {
        // Of equally common pairs the one with the lower ids, so that no order of a hash map shows.
        let commonest = self
            .pairs
            .iter()
            .map(|(&pair, (count, _))| (*count, std::cmp::Reverse(pair)))
            .max();
        let Some((count, std::cmp::Reverse(pair))) = commonest else {
            return false;
        };
        if count < LEAST_COUNT {
            return false;
        }
        let [first, second] = [pair.0, pair.1].map(|id| self.pieces[id as usize].clone());
        let joined = self.id_of(format!("{first}{second}"));
        self.merges.push((first, second));
        let words = self
            .pairs
            .get(&pair)
            .map(|(_, words)| words.clone())
            .unwrap_or_default();
        for word in words {
            self.count_pairs(word, -1);
            self.words[word].0 = join(&self.words[word].0, pair, joined);
            self.count_pairs(word, 1);
        }
        self.pairs.retain(|_, (count, _)| *count > 0);
        true
    }

    /// The piece's id; two ways of joining may lead to the same piece.
    fn id_of(&mut self, piece: String) -> u32 {
        if let Some(&id) = self.ids.get(&piece) {
            return id;
        }
        let id = self.pieces.len() as u32;
        self.pieces.push(piece.clone());
        self.ids.insert(piece, id);
        id
    }
}

/// `ids` with `joined` in the place of each `pair`, from the left.
fn join(ids: &[u32], pair: Pair, joined: u32) -> Vec<u32> {
    let mut out = Vec::with_capacity(ids.len());
    let mut at = 0;
    while at < ids.len() {
        if ids[at..].starts_with(&[pair.0, pair.1]) {
            out.push(joined);
            at += 2;
        } else {
            out.push(ids[at]);
            at += 1;
        }
    }
    out
}
