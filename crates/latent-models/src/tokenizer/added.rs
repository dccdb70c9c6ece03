//! Words beyond the vocabulary, each of one id or several.

use std::sync::Arc;

use super::ClipTokenizer;
use crate::error::{ModelError, Result};

/// A word of its own ids.
#[derive(Clone, Debug)]
pub(super) struct Added {
    word: String,
    first: u32,
    count: usize,
}

/// A piece of a text.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) id: u32,
    pub(super) spelling: String,
    /// Its first byte in the text.
    pub(super) start: usize,
}

impl ClipTokenizer {
    /// This tokenizer with a word more, of `count` ids that follow those it has. It counts wherever it stands for
    /// itself in a text, in capitals or not.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] if it has that word already.
    pub fn with_word(mut self, word: &str, count: usize) -> Result<Self> {
        let taken = self
            .added
            .iter()
            .any(|known| known.word.eq_ignore_ascii_case(word));
        if taken {
            return Err(ModelError::Tokenizer {
                path: word.into(),
                reason: "is the word of two embeddings; give one another as FILE:TOKEN".to_owned(),
            });
        }
        let before: usize = self.added.iter().map(|known| known.count).sum();
        let mut added = self.added.as_ref().clone();
        added.push(Added {
            word: word.to_owned(),
            first: (self.vocab_size() + before) as u32,
            count,
        });
        self.added = Arc::new(added);
        Ok(self)
    }

    /// The pieces of a text, added words among them.
    pub(super) fn pieces(&self, text: &str) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let (mut at, mut plain) = (0, 0);
        while at < text.len() && !self.added.is_empty() {
            let Some(added) = self.word_at(text, at) else {
                at += text[at..].chars().next().map_or(1, char::len_utf8);
                continue;
            };
            if plain < at {
                pieces.extend(self.plain_pieces(&text[plain..at], plain));
            }
            pieces.extend((0..added.count).map(|number| Piece {
                id: added.first + number as u32,
                spelling: match number {
                    0 => added.word.clone(),
                    _ => format!("{}_{number}", added.word),
                },
                start: at,
            }));
            at += added.word.len();
            plain = at;
        }
        if plain < text.len() || plain == 0 {
            pieces.extend(self.plain_pieces(&text[plain..], plain));
        }
        pieces
    }

    /// The longest added word that begins at byte `at`. One that begins or ends with a letter or digit does not stand
    /// inside of a longer word.
    pub(super) fn word_at(&self, text: &str, at: usize) -> Option<&Added> {
        let stands = |added: &&Added| {
            let word = &added.word;
            let Some(found) = text.get(at..at + word.len()) else {
                return false;
            };
            let touches = |inside: Option<char>, outside: Option<char>| {
                inside.is_some_and(char::is_alphanumeric)
                    && outside.is_some_and(char::is_alphanumeric)
            };
            found.eq_ignore_ascii_case(word)
                && !touches(word.chars().next(), text[..at].chars().next_back())
                && !touches(
                    word.chars().next_back(),
                    text[at + word.len()..].chars().next(),
                )
        };
        let found = self.added.iter().filter(stands);
        found.max_by_key(|added| added.word.len())
    }
}
