//! What `ARCHITECTURE.md` promises about the sources, read off the sources.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

mod rust_source;
use rust_source::{Source, functions};

/// The rooms and what each may import. Only arrows that point down this list exist.
const ROOMS: &[(&str, &[&str])] = &[
    ("latent-kernels", &[]),
    ("latent-formats", &[]),
    ("latent-data", &["latent-formats"]),
    ("latent-hub", &[]),
    ("latent-sampling", &[]),
    ("latent-nn", &["latent-kernels"]),
    ("latent-models", &["latent-nn", "latent-formats"]),
    (
        "latent",
        &[
            "latent-hub",
            "latent-models",
            "latent-sampling",
            "latent-formats",
            "latent-nn",
        ],
    ),
    (
        "latent-train",
        &[
            "latent",
            "latent-data",
            "latent-formats",
            "latent-kernels",
            "latent-models",
            "latent-nn",
            "latent-sampling",
        ],
    ),
    (
        "latent-cli",
        &[
            "latent",
            "latent-train",
            "latent-data",
            "latent-formats",
            "latent-kernels",
            "latent-models",
            "latent-nn",
            "latent-sampling",
        ],
    ),
];

/// Longest file, in lines, and longest function, in lines.
const FILE_LINES: usize = 800;
const FUNCTION_LINES: usize = 60;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ lies in the workspace")
        .to_path_buf()
}

/// Every Rust file of the rooms, vendored stand-ins left out.
fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    for folder in ["crates", "tests", "examples"] {
        walk(&root().join(folder), &mut found);
    }
    found.sort();
    found
        .iter()
        .map(|path| Source::read(&root(), path))
        .collect()
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder)
        .expect("a folder of the workspace")
        .flatten()
    {
        let path = entry.path();
        if path.is_dir() {
            if path.file_name().is_none_or(|name| name != "target") {
                walk(&path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn fail_on(offences: Vec<String>, rule: &str) {
    assert!(offences.is_empty(), "{rule}:\n  {}", offences.join("\n  "));
}

#[test]
fn every_room_imports_only_along_the_arrows() {
    let mut offences = Vec::new();
    for (room, allowed) in ROOMS {
        let path = root().join("crates").join(room).join("Cargo.toml");
        let manifest =
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let dependencies = manifest
            .split("[dev-dependencies]")
            .next()
            .unwrap_or_default();
        let dependencies = dependencies
            .split("[dependencies]")
            .nth(1)
            .unwrap_or_default();
        for line in dependencies.lines() {
            let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
            let ours = name == "latent" || name.starts_with("latent-");
            if ours && !allowed.contains(&name) {
                offences.push(format!("{room} imports {name}"));
            }
        }
    }
    fail_on(
        offences,
        "an arrow points the wrong way (ARCHITECTURE.md, rooms)",
    );
}

#[test]
fn no_room_is_missing_from_the_map() {
    let known: BTreeMap<_, _> = ROOMS
        .iter()
        .map(|(room, _)| (room.to_string(), ()))
        .collect();
    let offences = fs::read_dir(root().join("crates"))
        .expect("crates/")
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| !known.contains_key(name))
        .collect();
    fail_on(
        offences,
        "a crate that this test and ARCHITECTURE.md do not know",
    );
}

#[test]
fn unsafe_code_lives_in_the_kernels_the_memory_map_and_recordings_only() {
    let offences = sources()
        .iter()
        .filter(|source| !source.path.starts_with("crates/latent-kernels/"))
        .filter(|source| source.path != "crates/latent-formats/src/mapped.rs")
        .filter(|source| source.path != "crates/latent-nn/src/training/recorded.rs")
        .flat_map(|source| source.lines_with_word("unsafe"))
        .collect();
    fail_on(offences, "`unsafe` outside its rooms");
}

#[test]
fn every_unsafe_block_says_what_makes_it_sound() {
    let offences = sources()
        .iter()
        .flat_map(Source::unsafe_blocks_without_reason)
        .collect();
    fail_on(
        offences,
        "an `unsafe` block without a `SAFETY:` line above it",
    );
}

#[test]
fn only_the_command_line_and_the_examples_print() {
    let offences = sources()
        .iter()
        .filter(|source| source.path.contains("/src/"))
        .filter(|source| !source.path.starts_with("crates/latent-cli/"))
        .flat_map(|source| {
            ["println!", "eprintln!", "print!", "eprint!", "dbg!"]
                .into_iter()
                .flat_map(|word| source.lines_with(word))
                .collect::<Vec<_>>()
        })
        .collect();
    fail_on(offences, "a library prints; it should use `tracing`");
}

#[test]
fn no_device_is_chosen_behind_the_users_back() {
    let offences = sources()
        .iter()
        .filter(|source| source.path.contains("/src/"))
        .flat_map(|source| source.lines_with("Device::default("))
        .collect();
    fail_on(
        offences,
        "`Device::default()` takes the best compiled backend, present or not",
    );
}

#[test]
fn files_and_functions_stay_readable() {
    let mut offences = Vec::new();
    for source in sources() {
        if source.line_count() > FILE_LINES {
            offences.push(format!(
                "{}: {} lines, at most {FILE_LINES}",
                source.path,
                source.line_count()
            ));
        }
        for function in functions(&source) {
            if function.lines > FUNCTION_LINES {
                offences.push(format!(
                    "{}:{}: `{}` has {} lines, at most {FUNCTION_LINES}",
                    source.path, function.line, function.name, function.lines
                ));
            }
        }
    }
    fail_on(offences, "too long to read in one go");
}

#[test]
fn nothing_is_left_unfinished() {
    let marks = [
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("FIX", "ME"),
        concat!("#[ign", "ore"),
    ];
    let offences = sources()
        .iter()
        .flat_map(|source| {
            marks
                .iter()
                .flat_map(|mark| source.lines_with(mark))
                .collect::<Vec<_>>()
        })
        .collect();
    fail_on(offences, "unfinished code or a test that is not run");
}

#[test]
fn the_project_stands_alone() {
    let outside = [
        concat!("../", "shared"),
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
    ];
    let offences = sources()
        .iter()
        .flat_map(|source| {
            outside
                .iter()
                .flat_map(|place| source.raw_lines_with(place))
                .collect::<Vec<_>>()
        })
        .collect();
    fail_on(offences, "a path of one machine, or outside the project");
}
