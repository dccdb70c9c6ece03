//! Token ids against transformers', and tokenizers of our own.

mod common;

use std::path::{Path, PathBuf};

use common::fixture;
use latent_models::{ClipTokenizer, ModelFolder, train_tokenizer};
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    text: String,
    ids: Vec<u32>,
}

#[derive(Deserialize)]
struct Texts {
    texts: Vec<String>,
    ids: Vec<Vec<u32>>,
}

/// CLIP's own files, which the program carries for checkpoints that have none.
fn clip() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/sd1/tokenizer")
}

fn json<T: serde::de::DeserializeOwned>(name: &str) -> T {
    serde_json::from_slice(&std::fs::read(fixture(name)).unwrap()).unwrap()
}

#[test]
fn every_text_has_the_ids_of_clips_own_vocabulary() {
    let tokenizer = ClipTokenizer::open(&clip(), 77).unwrap();
    for Case { text, ids } in json::<Vec<Case>>("tokenizer/cases.json") {
        let kept = ids.len().min(75);
        let mut padded = vec![49406];
        padded.extend(&ids[..kept]);
        padded.resize(77, 49407);
        let found = tokenizer.encode(&text);
        assert_eq!(found.ids, padded, "{text:?}");
        assert_eq!(found.cut.is_some(), ids.len() > 75, "{text:?}");
    }
}

#[test]
fn the_tokenizers_of_model_folders_pad_as_their_files_say() {
    for model in ["sd1-tiny", "sd2-tiny"] {
        let tokenizer = ModelFolder::open(&fixture(model))
            .unwrap()
            .tokenizer()
            .unwrap()
            .unwrap();
        let Texts { texts, ids } = json(&format!("{model}/texts.json"));
        for (text, ids) in texts.iter().zip(ids) {
            assert_eq!(tokenizer.encode(text).ids, ids, "{model}: {text:?}");
        }
    }
}

#[test]
fn special_tokens_in_a_text_count_as_such() {
    // Ids from transformers 5.23: `CLIPTokenizer.from_pretrained(..)(text)`.
    let tokenizer = |model| ClipTokenizer::open(&fixture(model).join("tokenizer"), 8).unwrap();
    let sd1 = tokenizer("sd1-tiny").encode("x <|endoftext|> y<|startoftext|>z");
    assert_eq!(sd1.ids, [712, 343, 713, 344, 712, 345, 713, 713]);
    // `!` pads in Stable Diffusion 2, so it is special there, and only there.
    assert_eq!(
        tokenizer("sd2-tiny").encode("a!b ! c").ids,
        [712, 320, 0, 321, 0, 322, 713, 0]
    );
    assert_eq!(
        tokenizer("sd1-tiny").encode("a!b ! c").ids,
        [712, 320, 256, 321, 256, 322, 713, 713]
    );
}

#[test]
fn what_does_not_fit_is_told() {
    let tokenizer = ClipTokenizer::open(&clip(), 7).unwrap();
    let found = tokenizer.encode("a photo of a  cat ON a mat");
    assert_eq!(
        found.pieces,
        ["a</w>", "photo</w>", "of</w>", "a</w>", "cat</w>"]
    );
    assert_eq!(found.cut.as_deref(), Some("ON a mat"));
    assert_eq!(tokenizer.encode("a cat").cut, None);
    // A letter of three bytes is not torn apart.
    assert_eq!(
        tokenizer.encode("a b c d 한국").cut.as_deref(),
        Some("한국")
    );
}

const CAPTIONS: [&str; 6] = [
    "a red apple, 3D style",
    "a green apple and a red fish",
    "빨간 사과, 3D 스타일",
    "초록 사과와 빨간 물고기",
    "the apple's leaf",
    "a red, red fish",
];

#[test]
fn a_trained_tokenizer_gives_back_its_captions_in_any_language() {
    let tokenizer = train_tokenizer(CAPTIONS, 600, 64).unwrap();
    for caption in CAPTIONS {
        let found = tokenizer.encode(caption);
        let text = tokenizer.decode(&found.ids);
        let bare = |text: &str| text.to_lowercase().replace(' ', "");
        assert_eq!(bare(&text), bare(caption));
    }
    let pieces = tokenizer.encode("빨간 apple").pieces.len();
    assert_eq!(pieces, 2, "words that are met often are one piece");
}

#[test]
fn training_depends_on_the_captions_alone_and_not_on_their_order() {
    let mut reversed = CAPTIONS;
    reversed.reverse();
    let folders = [CAPTIONS, reversed].map(|captions| {
        let folder = tempfile::tempdir().unwrap();
        train_tokenizer(captions, 560, 32)
            .unwrap()
            .save(folder.path())
            .unwrap();
        folder
    });
    for file in [
        "vocab.json",
        "merges.txt",
        "special_tokens_map.json",
        "tokenizer_config.json",
    ] {
        let [first, second] = folders
            .each_ref()
            .map(|folder| std::fs::read(folder.path().join(file)).unwrap());
        assert_eq!(first, second, "{file}");
    }
}

#[test]
fn a_saved_tokenizer_opens_again_with_the_same_ids() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = train_tokenizer(CAPTIONS, 560, 32).unwrap();
    tokenizer.save(folder.path()).unwrap();
    let again = ClipTokenizer::open(folder.path(), 32).unwrap();
    for text in CAPTIONS.iter().chain(&["unseen words ¿?", "한글", ""]) {
        assert_eq!(tokenizer.encode(text), again.encode(text));
    }
    assert_eq!(
        (again.bos(), again.eos()),
        (again.vocab_size() as u32 - 2, again.vocab_size() as u32 - 1)
    );
}

#[test]
fn the_vocabulary_has_clips_order() {
    let folder = tempfile::tempdir().unwrap();
    train_tokenizer(CAPTIONS, 560, 32)
        .unwrap()
        .save(folder.path())
        .unwrap();
    let read = |path: std::path::PathBuf| -> serde_json::Map<String, serde_json::Value> {
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    };
    let (ours, clip) = (
        read(folder.path().join("vocab.json")),
        read(clip().join("vocab.json")),
    );
    for (piece, id) in clip.iter().filter(|(_, id)| id.as_u64() < Some(512)) {
        assert_eq!(ours.get(piece), Some(id), "{piece}");
    }
}

#[test]
fn a_vocabulary_without_room_for_all_bytes_is_refused() {
    let message = train_tokenizer(CAPTIONS, 513, 32).unwrap_err().to_string();
    assert!(
        message.contains("513") && message.contains("514"),
        "{message}"
    );
    let message = train_tokenizer([" "], 514, 32).unwrap_err().to_string();
    assert!(message.contains("no word"), "{message}");
}

#[test]
fn a_special_token_that_is_no_piece_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let vocabulary = r#"{"a": 0, "a</w>": 1, "<|startoftext|>": 2, "<|endoftext|>": 3}"#;
    write("vocab.json", vocabulary);
    write("merges.txt", "#version: 0.2\n");
    write("special_tokens_map.json", "{}");
    assert!(ClipTokenizer::open(folder.path(), 77).is_ok());
    for key in ["bos_token", "eos_token", "unk_token", "pad_token"] {
        write(
            "special_tokens_map.json",
            &format!(r#"{{"{key}": "<|nowhere|>"}}"#),
        );
        let error = ClipTokenizer::open(folder.path(), 77).unwrap_err();
        assert!(error.to_string().contains("<|nowhere|>"), "{key}: {error}");
    }
}
