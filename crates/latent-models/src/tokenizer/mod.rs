//! CLIP's tokenizer: text to ids, exactly as transformers does it.

mod added;
mod alphabet;
mod chunks;
mod files;
mod pieces;
mod train;

pub use chunks::Chunk;
pub(crate) use files::max_length;
pub use train::train_tokenizer;

use std::path::Path;
use std::sync::Arc;

use tokenizers::Tokenizer;

use crate::error::Result;
use crate::files::FileSource;
use crate::text::ClipTextConfig;
use added::{Added, Piece};
use files::Vocabulary;

/// What ends a word in the vocabulary's spelling of a piece.
const END_OF_WORD: &str = "</w>";

/// Turns texts into ids of a fixed number. Cheap to clone.
///
/// Source: Radford et al. 2021 (arXiv:2103.00020), section 2.4; steps as in transformers 5's `CLIPTokenizer`.
#[derive(Clone, Debug)]
pub struct ClipTokenizer {
    inner: Arc<Inner>,
    length: usize,
    /// Words beyond the vocabulary, such as those of embeddings.
    added: Arc<Vec<Added>>,
}

#[derive(Debug)]
struct Inner {
    tokenizer: Tokenizer,
    vocabulary: Vocabulary,
    bos: u32,
    eos: u32,
    pad: u32,
}

/// A text as the text encoder sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// Start, pieces, end, padding: always the tokenizer's length.
    pub ids: Vec<u32>,
    /// The vocabulary's spelling of the pieces, without start, end and padding.
    pub pieces: Vec<String>,
    /// The end of the text, where it did not fit.
    pub cut: Option<String>,
}

impl ClipTokenizer {
    /// The tokenizer in a `tokenizer/` folder, for texts of `length` ids with start and end.
    ///
    /// Reads `vocab.json` with `merges.txt`, or `tokenizer.json`; special tokens from `special_tokens_map.json` or
    /// `tokenizer_config.json`.
    ///
    /// # Errors
    /// [`crate::ModelError`]: a file is missing or broken, or they do not fit together.
    pub fn open(folder: &Path, length: usize) -> Result<Self> {
        Self::from_source(&FileSource::folder(folder), length)
    }

    /// [`ClipTokenizer::open`] from files anywhere.
    ///
    /// # Errors
    /// As [`ClipTokenizer::open`].
    pub fn from_source(files: &FileSource, length: usize) -> Result<Self> {
        Self::build(Vocabulary::read(files)?, length, files.path())
    }

    /// `place` is where the vocabulary came from, for messages.
    fn build(vocabulary: Vocabulary, length: usize, place: &Path) -> Result<Self> {
        let tokenizer = pieces::tokenizer(&vocabulary, place)?;
        let special = &vocabulary.special;
        let id = |token: &files::SpecialToken| vocabulary.id_of(token, place);
        let (bos, eos, pad) = (id(&special.bos)?, id(&special.eos)?, id(&special.pad)?);
        // What is no piece becomes it, wherever a text has that.
        id(&special.unk)?;
        if length < 3 {
            let reason = format!("texts of {length} ids hold no word; 3 is the least");
            return Err(files::fault(place, reason));
        }
        Ok(Self {
            inner: Arc::new(Inner {
                tokenizer,
                vocabulary,
                bos,
                eos,
                pad,
            }),
            length,
            added: Arc::default(),
        })
    }

    /// Writes the files that transformers' `CLIPTokenizer` reads.
    ///
    /// # Errors
    /// [`crate::ModelError::Format`] if the folder cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        self.inner.vocabulary.write(folder, self.length)
    }

    /// Ids of `text`: start, pieces, end, padding up to [`ClipTokenizer::length`].
    pub fn encode(&self, text: &str) -> Encoded {
        let inner = &self.inner;
        let pieces = self.pieces(text);
        let room = self.length - 2;
        let kept = pieces.len().min(room);
        let mut ids = vec![inner.bos];
        ids.extend(pieces[..kept].iter().map(|piece| piece.id));
        ids.push(inner.eos);
        ids.resize(self.length, inner.pad);
        let cut = pieces.get(room).map(|piece| {
            let start = (0..=piece.start.min(text.len()))
                .rev()
                .find(|&at| text.is_char_boundary(at));
            text[start.unwrap_or(0)..].trim().to_owned()
        });
        let pieces = pieces.into_iter().take(kept);
        Encoded {
            ids,
            pieces: pieces.map(|piece| piece.spelling).collect(),
            cut,
        }
    }

    /// The pieces of a text without added words, which begins at byte `start` of a longer one.
    fn plain_pieces(&self, text: &str, start: usize) -> Vec<Piece> {
        // Every piece is in the vocabulary or is its unknown token, which was checked when it was built.
        let encoding = match self.inner.tokenizer.encode(text, false) {
            Ok(encoding) => encoding,
            Err(error) => unreachable!("a checked vocabulary encodes every text: {error}"),
        };
        let places = encoding.get_offsets().iter();
        let spelled = encoding.get_ids().iter().zip(encoding.get_tokens());
        spelled
            .zip(places)
            .map(|((&id, spelling), &(from, _))| Piece {
                id,
                spelling: spelling.clone(),
                start: start + from,
            })
            .collect()
    }

    /// The text that ids stand for, without start, end and padding; bytes that are no UTF-8 become `�`.
    pub fn decode(&self, ids: &[u32]) -> String {
        let inner = &self.inner;
        let special = [inner.bos, inner.eos, inner.pad];
        let mut bytes = Vec::new();
        for id in ids.iter().filter(|id| !special.contains(id)) {
            let Some(piece) = inner.vocabulary.piece(*id) else {
                continue;
            };
            let word_ends = piece.ends_with(END_OF_WORD);
            let letters = piece.strip_suffix(END_OF_WORD).unwrap_or(piece);
            bytes.extend(letters.chars().filter_map(alphabet::byte_of));
            if word_ends {
                bytes.push(b' ');
            }
        }
        String::from_utf8_lossy(&bytes).trim().to_owned()
    }

    /// `config` with this tokenizer's number of pieces and special ids.
    #[must_use]
    pub fn fitted(&self, config: &ClipTextConfig) -> ClipTextConfig {
        ClipTextConfig {
            vocab_size: self.vocab_size(),
            bos_token_id: Some(self.bos()),
            eos_token_id: self.eos(),
            pad_token_id: Some(self.pad()),
            ..config.clone()
        }
    }

    /// Ids of a text, with start, end and padding.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Number of pieces.
    pub fn vocab_size(&self) -> usize {
        self.inner.vocabulary.len()
    }

    /// Id that starts a text.
    pub fn bos(&self) -> u32 {
        self.inner.bos
    }

    /// Id that ends a text.
    pub fn eos(&self) -> u32 {
        self.inner.eos
    }

    /// Id that fills a short text.
    pub fn pad(&self) -> u32 {
        self.inner.pad
    }
}
