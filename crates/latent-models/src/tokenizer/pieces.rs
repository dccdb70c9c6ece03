//! How a text becomes pieces: normalising, splitting, joining letters.

use std::path::Path;

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{
    Lowercase, NFC, NormalizerWrapper, Replace, Sequence as Normalizers,
};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{
    AddedToken, NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString,
    PreTokenizer, SplitDelimiterBehavior, Tokenizer,
};

use super::END_OF_WORD;
use super::files::{self, Vocabulary};
use crate::error::Result;

/// Words: CLIP's special tokens, English contractions, runs of letters, single digits, runs of anything else.
/// Source: transformers 5's `CLIPTokenizer`.
const WORDS: &str =
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

type Boxed = Box<dyn std::error::Error + Send + Sync>;

fn normalizer() -> std::result::Result<Normalizers, Boxed> {
    let spaces = Replace::new(ReplacePattern::Regex(r"\s+".into()), " ")?;
    Ok(Normalizers::new(vec![
        NormalizerWrapper::NFC(NFC),
        NormalizerWrapper::Replace(spaces),
        NormalizerWrapper::Lowercase(Lowercase),
    ]))
}

fn pre_tokenizer() -> std::result::Result<PreTokenizers, Boxed> {
    let pattern = SplitPattern::Regex(WORDS.into());
    let split = Split::new(pattern, SplitDelimiterBehavior::Removed, true)?;
    let bytes = ByteLevel::default().add_prefix_space(false);
    Ok(PreTokenizers::new(vec![split.into(), bytes.into()]))
}

/// The whole tokenizer over a vocabulary; `place` is where that came from, for messages.
pub(super) fn tokenizer(vocabulary: &Vocabulary, place: &Path) -> Result<Tokenizer> {
    build(vocabulary).map_err(|error| {
        files::fault(
            place,
            format!("vocabulary and merges do not fit together: {error}"),
        )
    })
}

fn build(vocabulary: &Vocabulary) -> std::result::Result<Tokenizer, Boxed> {
    let special = &vocabulary.special;
    let ids: Vocab = vocabulary
        .pieces()
        .map(|(id, piece)| (piece.to_owned(), id))
        .collect();
    let model = BPE::builder()
        .vocab_and_merges(ids, vocabulary.merges.clone())
        .unk_token(special.unk.content.clone())
        .end_of_word_suffix(END_OF_WORD.into())
        .build()?;
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_normalizer(Some(normalizer()?))?;
    tokenizer.with_pre_tokenizer(Some(pre_tokenizer()?));
    let added = [&special.bos, &special.eos, &special.unk, &special.pad]
        .map(|token| AddedToken::from(token.content.clone(), true).normalized(token.normalized));
    tokenizer.add_special_tokens(added)?;
    Ok(tokenizer)
}

/// The words of a text in the vocabulary's letters, to train on.
pub(super) struct Words {
    normalizer: Normalizers,
    pre_tokenizer: PreTokenizers,
}

impl Words {
    pub(super) fn new() -> std::result::Result<Self, Boxed> {
        Ok(Self {
            normalizer: normalizer()?,
            pre_tokenizer: pre_tokenizer()?,
        })
    }

    /// Calls `each` with every word of `text`.
    pub(super) fn of(
        &self,
        text: &str,
        mut each: impl FnMut(&str),
    ) -> std::result::Result<(), Boxed> {
        let mut normalized = NormalizedString::from(text);
        self.normalizer.normalize(&mut normalized)?;
        let mut words = PreTokenizedString::from(normalized);
        self.pre_tokenizer.pre_tokenize(&mut words)?;
        for (word, _, _) in words.get_splits(OffsetReferential::Normalized, OffsetType::None) {
            each(word);
        }
        Ok(())
    }
}
