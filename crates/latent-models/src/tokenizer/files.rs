//! A tokenizer's files: `vocab.json`, `merges.txt`, `tokenizer.json`, special tokens.

use std::collections::BTreeMap;
use std::path::Path;

use latent_formats::{FormatError, parse_json, write_atomic, write_json};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::error::{ModelError, Result};
use crate::files::FileSource;

/// First line of `merges.txt`.
const VERSION: &str = "#version: 0.2";
const BOS: &str = "<|startoftext|>";
const EOS: &str = "<|endoftext|>";

/// Pieces, the order in which letters join to them, and the tokens with a meaning.
#[derive(Clone, Debug)]
pub(super) struct Vocabulary {
    /// By id.
    pieces: Vec<String>,
    ids: BTreeMap<String, u32>,
    pub(super) merges: Vec<(String, String)>,
    pub(super) special: SpecialTokens,
}

/// The tokens with a meaning.
#[derive(Clone, Debug)]
pub(super) struct SpecialTokens {
    pub(super) bos: SpecialToken,
    pub(super) eos: SpecialToken,
    pub(super) unk: SpecialToken,
    pub(super) pad: SpecialToken,
}

/// A token with a meaning, which counts as such where a text holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SpecialToken {
    pub(super) content: String,
    /// It is looked for after lower-casing.
    pub(super) normalized: bool,
}

impl SpecialToken {
    fn plain(content: &str) -> Self {
        Self {
            content: content.into(),
            normalized: false,
        }
    }
}

impl Default for SpecialTokens {
    fn default() -> Self {
        Self {
            bos: SpecialToken::plain(BOS),
            eos: SpecialToken::plain(EOS),
            unk: SpecialToken::plain(EOS),
            pad: SpecialToken::plain(EOS),
        }
    }
}

pub(super) fn fault(path: &Path, reason: impl Into<String>) -> ModelError {
    ModelError::Tokenizer {
        path: path.to_path_buf(),
        reason: reason.into(),
    }
}

impl Vocabulary {
    /// `place` is where the ids came from, for messages.
    pub(super) fn new(
        ids: BTreeMap<String, u32>,
        merges: Vec<(String, String)>,
        special: SpecialTokens,
        place: &Path,
    ) -> Result<Self> {
        let mut pieces = vec![None; ids.len()];
        for (piece, &id) in &ids {
            match pieces.get_mut(id as usize) {
                Some(place @ None) => *place = Some(piece.clone()),
                _ => {
                    let reason = format!(
                        "the id of `{piece}` is {id}; {} pieces need the ids from 0 to {}, each once",
                        ids.len(),
                        ids.len() - 1
                    );
                    return Err(fault(place, reason));
                }
            }
        }
        // The library that joins pieces takes it for granted.
        let unknown = |(first, second): &&(String, String)| {
            let joined = first.clone() + second;
            [first, second, &joined]
                .iter()
                .any(|piece| !ids.contains_key(*piece))
        };
        if let Some((first, second)) = merges.iter().find(unknown) {
            let reason = format!(
                "the merge of `{first}` and `{second}` needs these pieces and `{first}{second}` in the vocabulary; \
                 are vocabulary and merges of one tokenizer?"
            );
            return Err(fault(place, reason));
        }
        Ok(Self {
            pieces: pieces.into_iter().flatten().collect(),
            ids,
            merges,
            special,
        })
    }

    pub(super) fn read(files: &FileSource) -> Result<Self> {
        let special = read_special(files)?;
        if let Some(bytes) = files.read("vocab.json")? {
            let path = files.path().join("vocab.json");
            let ids = parse_json(&bytes, &path)?;
            return Self::new(ids, read_merges(files)?, special, &path);
        }
        let Some(bytes) = files.read("tokenizer.json")? else {
            return Err(files.missing("vocabulary", &["vocab.json", "tokenizer.json"]));
        };
        let path = files.path().join("tokenizer.json");
        let whole: TokenizerJson = parse_json(&bytes, &path)?;
        let merges = whole.model.merges(&path)?;
        Self::new(whole.model.vocab, merges, special, &path)
    }

    /// Writes the files that `CLIPTokenizer` reads.
    pub(super) fn write(&self, folder: &Path, length: usize) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(|source| FormatError::Io {
            action: "create",
            path: folder.to_path_buf(),
            source,
        })?;
        let ids: Map<String, Value> = self
            .pieces()
            .map(|(id, piece)| (piece.into(), id.into()))
            .collect();
        write_json(&folder.join("vocab.json"), &ids)?;
        write_atomic(&folder.join("merges.txt"), |writer| {
            writeln!(writer, "{VERSION}")?;
            self.merges
                .iter()
                .try_for_each(|(first, second)| writeln!(writer, "{first} {second}"))
        })?;
        let SpecialTokens { bos, eos, unk, pad } = &self.special;
        let special = json!({
            "bos_token": bos.content,
            "eos_token": eos.content,
            "pad_token": pad.content,
            "unk_token": unk.content,
        });
        write_json(&folder.join("special_tokens_map.json"), &special)?;
        let mut config = json!({
            "add_prefix_space": false,
            "do_lower_case": true,
            "errors": "replace",
            "model_max_length": length,
            "tokenizer_class": "CLIPTokenizer",
        });
        if let (Value::Object(config), Value::Object(special)) = (&mut config, special) {
            config.extend(special);
        }
        Ok(write_json(&folder.join("tokenizer_config.json"), &config)?)
    }

    pub(super) fn len(&self) -> usize {
        self.pieces.len()
    }

    pub(super) fn piece(&self, id: u32) -> Option<&str> {
        self.pieces.get(id as usize).map(String::as_str)
    }

    pub(super) fn id(&self, piece: &str) -> Option<u32> {
        self.ids.get(piece).copied()
    }

    /// All pieces with their ids, in order.
    pub(super) fn pieces(&self) -> impl Iterator<Item = (u32, &str)> {
        (0..).zip(self.pieces.iter().map(String::as_str))
    }

    /// The id of a token that must be there.
    pub(super) fn id_of(&self, token: &SpecialToken, place: &Path) -> Result<u32> {
        self.ids.get(&token.content).copied().ok_or_else(|| {
            let reason = format!(
                "the special token `{}` is not in the vocabulary",
                token.content
            );
            fault(place, reason)
        })
    }
}

/// `model_max_length` of `tokenizer_config.json`, if it is there and a sensible number.
pub(crate) fn max_length(files: &FileSource) -> Result<Option<usize>> {
    let Some(bytes) = files.read("tokenizer_config.json")? else {
        return Ok(None);
    };
    let config: Map<String, Value> =
        parse_json(&bytes, &files.path().join("tokenizer_config.json"))?;
    // transformers writes 1e30 for "no limit".
    let length = config.get("model_max_length").and_then(Value::as_u64);
    Ok(length.and_then(|length| usize::try_from(length).ok()))
}

fn read_merges(files: &FileSource) -> Result<Vec<(String, String)>> {
    let path = files.path().join("merges.txt");
    let bytes = files.need("merges.txt", "merges")?;
    let text = std::str::from_utf8(&bytes)
        .map_err(|error| fault(&path, format!("is no UTF-8: {error}")))?;
    let mut merges = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_end_matches('\r');
        if line.is_empty() || (index == 0 && line.starts_with("#version")) {
            continue;
        }
        match line.split_once(' ') {
            Some((first, second)) if !second.contains(' ') => {
                merges.push((first.into(), second.into()))
            }
            _ => {
                let reason = format!(
                    "line {} is `{line}`; two pieces with a space between are needed",
                    index + 1
                );
                return Err(fault(&path, reason));
            }
        }
    }
    Ok(merges)
}

/// Special tokens as the files have them; absent ones have CLIP's.
fn read_special(files: &FileSource) -> Result<SpecialTokens> {
    let mut all = Map::new();
    for name in ["tokenizer_config.json", "special_tokens_map.json"] {
        if let Some(bytes) = files.read(name)? {
            all.extend(parse_json::<Map<String, Value>>(
                &bytes,
                &files.path().join(name),
            )?);
        }
    }
    let mut special = SpecialTokens::default();
    for (key, token) in [
        ("bos_token", &mut special.bos),
        ("eos_token", &mut special.eos),
        ("unk_token", &mut special.unk),
        ("pad_token", &mut special.pad),
    ] {
        match all.get(key) {
            Some(Value::String(content)) => *token = SpecialToken::plain(content),
            Some(Value::Object(entry)) => {
                let Some(content) = entry.get("content").and_then(Value::as_str) else {
                    let reason = format!("`{key}` has no `content`");
                    return Err(fault(files.path(), reason));
                };
                *token = SpecialToken {
                    content: content.into(),
                    normalized: entry
                        .get("normalized")
                        .and_then(Value::as_bool)
                        .unwrap_or(false),
                };
            }
            Some(Value::Null) | None => {}
            Some(other) => {
                let reason = format!("`{key}` is {other}; a token's text is needed");
                return Err(fault(files.path(), reason));
            }
        }
    }
    Ok(special)
}

/// What we need of the file that transformers 5 writes instead of `vocab.json` and `merges.txt`.
#[derive(Deserialize)]
struct TokenizerJson {
    model: BpeJson,
}

#[derive(Deserialize)]
struct BpeJson {
    vocab: BTreeMap<String, u32>,
    merges: Vec<MergeJson>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum MergeJson {
    Pair(String, String),
    /// As older releases wrote it.
    Joined(String),
}

impl BpeJson {
    fn merges(&self, path: &Path) -> Result<Vec<(String, String)>> {
        let pair = |merge: &MergeJson| match merge {
            MergeJson::Pair(first, second) => Ok((first.clone(), second.clone())),
            MergeJson::Joined(line) => line
                .split_once(' ')
                .map(|(first, second)| (first.into(), second.into()))
                .ok_or_else(|| fault(path, format!("the merge `{line}` is no pair"))),
        };
        self.merges.iter().map(pair).collect()
    }
}
