//! Lists the files of `model/` so that `builtin.rs` can embed them.
//!
//! The folder may be absent (a checkout without trained weights): the list is then empty, and opening
//! the built-in model says so.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("model");
    // Watching an absent path makes cargo run this again once it appears.
    println!("cargo:rerun-if-changed={}", root.display());
    let mut files = Vec::new();
    if env::var_os("CARGO_FEATURE_BUILTIN").is_some() {
        collect(&root, &mut files);
    }
    files.sort();
    let mut code = String::from("&[\n");
    for file in &files {
        println!("cargo:rerun-if-changed={}", file.display());
        let name = file.strip_prefix(&root).expect("below the root");
        let name = name
            .to_str()
            .expect("names of model files are UTF-8")
            .replace('\\', "/");
        writeln!(
            code,
            "    ({name:?}, &Aligned(*include_bytes!({:?})).0),",
            file.display().to_string()
        )
        .expect("a String");
    }
    code.push_str("]\n");
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets it")).join("builtin_files.rs");
    fs::write(out, code).expect("the build folder can be written");
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            collect(&path, files);
        } else {
            files.push(path);
        }
    }
}
