//! What a stranger's words are given to, in files that networks are built from or pictures carry: one function a target of the fuzzer, and of the test that replays its corpus.
//!
//! None may panic, hang, or take memory that the size of its input does not justify.

use std::fs;
use std::path::{Path, PathBuf};

use latent::{Picture, Recipe, Request};
use latent_models::{
    ClipTokenizer, Clock, FileSource, Grammar, ModelFolder, Schedule, split_prompts,
};
use latent_sampling::SchedulerConfig;
use serde_json::Value;

/// A target's name and what it does with bytes.
type Target = (&'static str, fn(&[u8]));

/// Every target by name.
pub(crate) const ALL: &[Target] = &[
    ("tokenizer", tokenizer),
    ("recipe", recipe),
    ("prompt", prompt),
    ("config", config),
];

/// A folder of this process, for files that are only read from folders.
fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("latent-fuzz-{}-{name}", std::process::id()));
    fs::create_dir_all(&folder).expect("a temporary folder");
    folder
}

fn put(folder: &Path, name: &str, bytes: &[u8]) {
    let path = folder.join(name);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).expect("a temporary folder");
    }
    fs::write(path, bytes).expect("a temporary file");
}

/// `vocab.json`, `merges.txt`, `special_tokens_map.json` and a text, each but the last ended by a zero; or, where only two
/// come, `tokenizer.json` and a text.
pub(crate) fn tokenizer(bytes: &[u8]) {
    let parts: Vec<&[u8]> = bytes.split(|byte| *byte == 0).collect();
    let folder = folder("tokenizer");
    let names: &[&str] = match parts.len() {
        2 => &["tokenizer.json"],
        _ => &["vocab.json", "merges.txt", "special_tokens_map.json"],
    };
    for name in [
        "tokenizer.json",
        "vocab.json",
        "merges.txt",
        "special_tokens_map.json",
    ] {
        let _ = fs::remove_file(folder.join(name));
    }
    for (name, part) in names.iter().zip(&parts) {
        put(&folder, name, part);
    }
    let text = String::from_utf8_lossy(parts.last().copied().unwrap_or_default()).into_owned();
    let Ok(tokenizer) = ClipTokenizer::open(&folder, 77) else {
        return;
    };
    let encoded = tokenizer.encode(&text);
    assert_eq!(encoded.ids.len(), 77);
    let _ = tokenizer.decode(&encoded.ids);
    for grammar in [Grammar::Literal, Grammar::A1111, Grammar::ComfyUi] {
        for chunk in tokenizer.chunks(grammar, &text) {
            assert!(chunk.ids.len() <= 77 && !chunk.ids.is_empty());
        }
    }
}

/// A key and a text as pictures carry them, with a zero between.
pub(crate) fn recipe(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (key, text) = text.split_once('\0').unwrap_or(("parameters", &text));
    let mut picture = Picture::filled(8, 8, [0; 3]).expect("a picture");
    picture.set_text(key, text);
    let _ = Recipe::read(&picture, Path::new("a.png"));
}

/// Words with weights, changes, joins.
pub(crate) fn prompt(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for grammar in [Grammar::Literal, Grammar::A1111, Grammar::ComfyUi] {
        let _ = grammar.parts(&text);
    }
    let _ = latent::loras_in_prompt(&text);
    for prompt in split_prompts(&text) {
        let schedule = Schedule::read(&prompt.text);
        let clock = Clock::of(20);
        for step in schedule.stages(&clock) {
            let words = schedule.text_at(step, &clock);
            assert!(words.len() <= text.len() + 1, "a prompt grew");
        }
    }
}

/// The small files of a model folder, all of them sound.
const SOUND: &[(&str, &[u8])] = &[
    (
        "model_index.json",
        include_bytes!("../crates/latent-models/tests/fixtures/sd1-tiny/model_index.json"),
    ),
    (
        "unet/config.json",
        include_bytes!("../crates/latent-models/tests/fixtures/sd1-tiny/unet/config.json"),
    ),
    (
        "vae/config.json",
        include_bytes!("../crates/latent-models/tests/fixtures/sd1-tiny/vae/config.json"),
    ),
    (
        "text_encoder/config.json",
        include_bytes!("../crates/latent-models/tests/fixtures/sd1-tiny/text_encoder/config.json"),
    ),
    (
        "scheduler/scheduler_config.json",
        include_bytes!(
            "../crates/latent-models/tests/fixtures/sd1-tiny/scheduler/scheduler_config.json"
        ),
    ),
];

/// A number of a file of a model folder and what stands in it; behind the last, a request.
pub(crate) fn config(bytes: &[u8]) {
    let Some((which, content)) = bytes.split_first() else {
        return;
    };
    let _ = serde_json::from_slice::<Request>(content).map(|request| request.validate());
    if let Ok(text) = std::str::from_utf8(content) {
        let _ = toml::from_str::<Request>(text).map(|request| request.validate());
    }
    if let Ok(value) = serde_json::from_slice::<Value>(content) {
        let _ = SchedulerConfig::from_json(&value);
    }
    let (folder, which) = (folder("config"), usize::from(*which) % SOUND.len());
    for (index, (name, sound)) in SOUND.iter().enumerate() {
        put(&folder, name, if index == which { content } else { sound });
    }
    if let Ok(model) = ModelFolder::from_source(FileSource::folder(&folder)) {
        let _ = (model.size(), model.downsampling(), model.conditioning());
        if let Ok(scheduler) = model.scheduler_config() {
            let _ = SchedulerConfig::from_json(&scheduler);
        }
        // Without weights none of them can be opened, whatever sizes they ask for.
        let compute = latent::Compute::cpu(latent::Precision::F32);
        assert!(model.unet(&compute).is_err());
        assert!(model.autoencoder(&compute).is_err());
        assert!(!matches!(model.text_encoder(&compute), Ok(Some(_))));
    }
}
