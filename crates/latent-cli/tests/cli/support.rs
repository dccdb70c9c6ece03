//! Starts the program, and makes what it is given.

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use latent_formats::{Picture, Weights};

/// The built program, without the caller's own settings.
pub(crate) fn latent() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_latent"));
    for variable in [
        "LATENT_MODEL",
        "LATENT_DEVICE",
        "LATENT_THREADS",
        "LATENT_LOG",
        "HF_ENDPOINT",
        "HF_HOME",
        "HF_HUB_CACHE",
        "HF_HUB_OFFLINE",
        "HF_TOKEN",
        "HUGGINGFACE_HUB_CACHE",
        "TRANSFORMERS_OFFLINE",
    ] {
        command.env_remove(variable);
    }
    command
}

/// What a run of the program gave.
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs `latent` with these arguments.
pub(crate) fn run<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> Said {
    said(latent().args(arguments))
}

/// Runs a command.
pub(crate) fn said(command: &mut Command) -> Said {
    let output = command.output().expect("the program starts");
    Said {
        code: output.status.code().expect("no signal ended it"),
        stdout: String::from_utf8(output.stdout).expect("UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

impl Said {
    /// The run, which must have gone well.
    #[track_caller]
    pub(crate) fn fine(self) -> Self {
        assert_eq!(self.code, 0, "{}", self.stderr);
        self
    }

    /// Standard output as one JSON value a line.
    pub(crate) fn json(&self) -> Vec<serde_json::Value> {
        self.stdout
            .lines()
            .map(|line| serde_json::from_str(line).expect("a line of JSON"))
            .collect()
    }
}

/// The tiny Stable Diffusion 1 folder.
pub(crate) fn tiny_model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../latent-models/tests/fixtures/sd1-tiny")
}

/// What diffusers drew with it.
pub(crate) fn tiny_runs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../latent/tests/fixtures/sd1-tiny-runs")
}

/// A copy of a folder, to be damaged.
pub(crate) fn copied(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder").flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copied(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copied");
        }
    }
}

/// The names in a folder, sorted.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder").flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// The tensor `name` of a weights file, with its shape.
pub(crate) fn tensor(path: &Path, name: &str) -> (Vec<f32>, Vec<usize>) {
    let weights = Weights::open(path).expect("a weights file");
    let shape = weights
        .describe(name)
        .unwrap_or_else(|| panic!("no `{name}`"))
        .1
        .to_vec();
    (weights.read_f32(name).expect("the tensor"), shape)
}

/// A picture of smooth colours, another for each `kind`.
pub(crate) fn picture(width: usize, height: usize, kind: usize) -> Picture {
    let value = |x: usize, y: usize, c: usize| (x * (3 + kind) + y * (5 - c) + 40 * c) % 256;
    let places = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
    let rgb = places
        .flat_map(|(x, y)| (0..3).map(move |c| value(x, y, c) as u8))
        .collect();
    Picture::new(width, height, rgb).expect("a picture")
}

/// The path as the arguments of a command.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}
