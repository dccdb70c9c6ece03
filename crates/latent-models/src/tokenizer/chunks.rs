//! Prompts of any length, cut into chunks that the text encoder reads one by one.

use std::borrow::Cow;

use super::ClipTokenizer;
use super::added::Piece;
use crate::prompt::{Grammar, Part};

/// Tokens between the last comma and the end of a full chunk that move to the next one, at most.
///
/// Source: AUTOMATIC1111 stable-diffusion-webui, the default of `comma_padding_backtrack`.
const BACKTRACK: usize = 20;
/// Tokens from which on ComfyUI cuts text of one weight; shorter text moves to the next chunk whole.
///
/// Source: ComfyUI, `SDTokenizer.max_word_length`.
const LONG: usize = 8;
/// What ComfyUI has before the name of an embedding.
const EMBEDDING: &str = "embedding:";

/// As much of a prompt as the text encoder reads at once.
#[derive(Clone, Debug, PartialEq)]
pub struct Chunk {
    /// Start, tokens, end, padding: always the tokenizer's length.
    pub ids: Vec<u32>,
    /// The weight of each id; 1 for start, end and padding.
    pub weights: Vec<f32>,
    /// The vocabulary's spelling of the tokens, without start, end and padding.
    pub pieces: Vec<String>,
}

/// A token with its weight.
struct Token {
    piece: Piece,
    weight: f32,
}

impl ClipTokenizer {
    /// All of a prompt in which nothing is scheduled any more, one chunk at least; a [`Grammar::Literal`] one is one chunk,
    /// the rest of it cut.
    pub fn chunks(&self, grammar: Grammar, text: &str) -> Vec<Chunk> {
        if grammar == Grammar::Literal {
            let encoded = self.encode(text);
            return vec![Chunk {
                weights: vec![1.0; encoded.ids.len()],
                ids: encoded.ids,
                pieces: encoded.pieces,
            }];
        }
        let mut cutter = Cutter {
            tokenizer: self,
            room: self.length() - 2,
            comma: self.inner.vocabulary.id(",</w>"),
            chunks: Vec::new(),
            open: Vec::new(),
            last_comma: None,
        };
        for part in grammar.parts(text) {
            match part {
                Part::Break => cutter.close(),
                Part::Text { text, weight } => {
                    let text = match grammar {
                        Grammar::ComfyUi => self.without_prefixes(&text),
                        _ => Cow::Borrowed(text.as_str()),
                    };
                    let units = self.units(&text, weight as f32);
                    match grammar {
                        Grammar::ComfyUi => cutter.take_whole(units),
                        _ => units.into_iter().for_each(|unit| cutter.take(unit)),
                    }
                }
            }
        }
        cutter.finish()
    }

    /// The chunk without words.
    pub fn empty_chunk(&self) -> Chunk {
        self.chunk(Vec::new())
    }

    fn chunk(&self, tokens: Vec<Token>) -> Chunk {
        let mut chunk = Chunk {
            ids: vec![self.bos()],
            weights: vec![1.0],
            pieces: Vec::new(),
        };
        for Token { piece, weight } in tokens {
            chunk.ids.push(piece.id);
            chunk.weights.push(weight);
            chunk.pieces.push(piece.spelling);
        }
        chunk.ids.push(self.eos());
        chunk.ids.resize(self.length(), self.pad());
        chunk.weights.resize(self.length(), 1.0);
        chunk
    }

    /// The tokens of a text, those of one added word together.
    fn units(&self, text: &str, weight: f32) -> Vec<Vec<Token>> {
        let first_added = self.vocab_size() as u32;
        let mut units: Vec<Vec<Token>> = Vec::new();
        for piece in self.pieces(text) {
            let goes_on = |unit: &&mut Vec<Token>| {
                let added = piece.id >= first_added;
                added && unit.last().is_some_and(|t| t.piece.start == piece.start)
            };
            match units.last_mut().filter(goes_on) {
                Some(unit) => unit.push(Token { piece, weight }),
                None => units.push(vec![Token { piece, weight }]),
            }
        }
        units
    }

    /// A text without `embedding:` before the words that are added.
    fn without_prefixes<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut found = text.match_indices(EMBEDDING).filter(|(at, _)| {
            let begins = text[..*at]
                .chars()
                .next_back()
                .is_none_or(char::is_whitespace);
            begins && self.word_at(text, at + EMBEDDING.len()).is_some()
        });
        let Some((first, _)) = found.next() else {
            return Cow::Borrowed(text);
        };
        let (mut kept, mut from) = (text[..first].to_owned(), first + EMBEDDING.len());
        for (at, _) in found {
            kept.push_str(&text[from..at]);
            from = at + EMBEDDING.len();
        }
        kept.push_str(&text[from..]);
        Cow::Owned(kept)
    }
}

/// Fills chunks.
struct Cutter<'a> {
    tokenizer: &'a ClipTokenizer,
    /// Tokens of a chunk between start and end.
    room: usize,
    comma: Option<u32>,
    chunks: Vec<Chunk>,
    open: Vec<Token>,
    last_comma: Option<usize>,
}

impl Cutter<'_> {
    /// Ends the chunk, full or not.
    fn close(&mut self) {
        let tokens = std::mem::take(&mut self.open);
        self.chunks.push(self.tokenizer.chunk(tokens));
        self.last_comma = None;
    }

    /// AUTOMATIC1111's rule: a full chunk ends behind its last comma, if that is near enough.
    fn take(&mut self, unit: Vec<Token>) {
        let full = self.open.len() == self.room;
        if unit.first().map(|token| token.piece.id) == self.comma {
            self.last_comma = Some(self.open.len());
        } else if let Some(comma) = self.last_comma
            && full
            && self.room - comma <= BACKTRACK
        {
            let moved = self.open.split_off(comma + 1);
            self.close();
            self.open = moved;
        }
        if self.open.len() == self.room {
            self.close();
        }
        if !self.open.is_empty() && self.open.len() + unit.len() > self.room {
            self.close();
        }
        self.fill(unit);
    }

    /// ComfyUI's rule: text of one weight is cut where a chunk is full if it is long, and else moves whole.
    fn take_whole(&mut self, units: Vec<Vec<Token>>) {
        let first_added = self.tokenizer.vocab_size() as u32;
        let mut plain = Vec::new();
        for unit in units {
            if unit
                .first()
                .is_some_and(|token| token.piece.id >= first_added)
            {
                self.take_group(std::mem::take(&mut plain));
                self.take_group(unit);
            } else {
                plain.extend(unit);
            }
        }
        self.take_group(plain);
    }

    fn take_group(&mut self, group: Vec<Token>) {
        let fits = self.open.len() + group.len() <= self.room;
        if !fits && group.len() < LONG.min(self.room) {
            self.close();
        }
        self.fill(group);
    }

    /// Appends tokens, over as many chunks as they take.
    fn fill(&mut self, tokens: Vec<Token>) {
        for token in tokens {
            if self.open.len() == self.room {
                self.close();
            }
            self.open.push(token);
        }
    }

    fn finish(mut self) -> Vec<Chunk> {
        if !self.open.is_empty() || self.chunks.is_empty() {
            self.close();
        }
        self.chunks
    }
}
