//! The fuzzer's corpus through the fuzzer's entry points, on every run of the tests.

use std::fs;
use std::path::Path;

#[path = "../fuzz/bytes.rs"]
mod bytes;
#[path = "../fuzz/words.rs"]
mod words;

/// A target's name, its entry, and what it is given.
type Given = (&'static str, fn(&[u8]), Vec<Vec<u8>>);

/// Every target with the files of its corpus.
fn corpus() -> Vec<Given> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    let targets = bytes::ALL.iter().chain(words::ALL);
    targets
        .map(|(name, entry)| {
            let files = fs::read_dir(corpus.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
            let files = files
                .flatten()
                .map(|file| fs::read(file.path()).expect("a file"));
            (*name, *entry, files.collect())
        })
        .collect()
}

#[test]
fn no_reader_panics_on_any_file_of_the_corpus_whole_or_cut() {
    for (name, entry, files) in corpus() {
        assert!(files.len() >= 3, "{name} has {} files", files.len());
        for file in files {
            for eighth in 0..=8 {
                entry(&file[..file.len() * eighth / 8]);
            }
        }
    }
}
