//! Pictures in a folder, with captions beside them or in `metadata.jsonl`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use super::data_set::{Example, Found, Place};
use super::metadata::{Fields, captions_of_text};
use crate::DataError;

/// The file that describes a folder's pictures.
pub(super) const METADATA: &str = "metadata.jsonl";

/// Endings of pictures.
const PICTURES: &[&str] = &["png", "jpg", "jpeg", "webp"];

/// Folders within folders, above which a link must lead in a circle.
const DEPTH: usize = 32;

pub(super) fn is_picture_ending(ending: &str) -> bool {
    PICTURES.contains(&ending.to_ascii_lowercase().as_str())
}

fn is_picture(path: &Path) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str());
    ending.is_some_and(is_picture_ending)
}

/// Every picture below `root`, with the `.txt` beside it.
pub(super) fn read_pictures(root: &Path) -> Result<Found, DataError> {
    let mut files = Vec::new();
    walk(root, 0, &mut files)?;
    let mut examples: BTreeMap<String, Example> = BTreeMap::new();
    for path in files.into_iter().filter(|path| is_picture(path)) {
        let below = path.strip_prefix(root).unwrap_or(&path);
        let key = key_of(&below.with_extension(""));
        let mut fields = Fields {
            captions: captions_beside(&path)?,
            ..Fields::default()
        };
        fields.class = key.split_once('/').map(|(class, _)| class.to_string());
        let example = Example::new(key.clone(), fields, file_place(path.clone())?);
        if examples.insert(key, example).is_some() {
            let stem = path.with_extension("");
            let reason = format!(
                "two pictures are called `{}`; their caption would be the same, rename one",
                stem.display()
            );
            return Err(DataError::conflict(root, reason));
        }
    }
    Ok(Found {
        examples: examples.into_values().collect(),
        shards: Vec::new(),
        looked_for: "`NAME.txt` beside each `NAME.png` (an empty one means no words), and `metadata.jsonl`",
    })
}

/// Files below a folder; hidden ones are left out.
fn walk(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), DataError> {
    if depth > DEPTH {
        let reason =
            format!("folders are nested deeper than {DEPTH}; is there a link in a circle?");
        return Err(DataError::conflict(folder, reason));
    }
    let fail = |source| DataError::io("read", folder, source);
    for entry in fs::read_dir(folder).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if path.is_dir() {
            walk(&path, depth + 1, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// A path as a key: the same on every system.
fn key_of(path: &Path) -> String {
    let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
    parts.join("/")
}

fn captions_beside(picture: &Path) -> Result<Vec<super::Caption>, DataError> {
    let path = picture.with_extension("txt");
    match fs::read(&path) {
        Ok(bytes) => captions_of_text(&bytes).map_err(|reason| DataError::Metadata {
            path,
            line: reason.line,
            reason: reason.text,
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(DataError::io("read", &path, error)),
    }
}

fn file_place(path: PathBuf) -> Result<Place, DataError> {
    let kind = fs::metadata(&path).map_err(|source| DataError::io("read", &path, source))?;
    let len = kind.len();
    Ok(Place::File { path, len })
}

/// The pictures that a `.jsonl` file names, in its order; paths count from its folder.
pub(super) fn read_lines(path: &Path) -> Result<Found, DataError> {
    let text = fs::read(path).map_err(|source| DataError::io("read", path, source))?;
    let root = path.parent().unwrap_or(Path::new(""));
    let mut examples = Vec::new();
    for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let fault = |reason: String| DataError::Metadata {
            path: path.to_path_buf(),
            line: index + 1,
            reason,
        };
        let mut fields = Fields::parse(line).map_err(fault)?;
        let file = fields.file.take().ok_or_else(|| {
            fault("it has no `file_name` that says which picture it describes".to_string())
        })?;
        let below = inside(&file).ok_or_else(|| {
            fault(format!(
                "`{file}` must lie in the folder of this file or below it"
            ))
        })?;
        let place = file_place(root.join(below)).map_err(|error| fault(error.to_string()))?;
        let key = key_of(&below.with_extension(""));
        examples.push(Example::new(key, fields, place));
    }
    Ok(Found {
        examples,
        shards: Vec::new(),
        looked_for: "`text`, `caption`, `captions`, `en` or `ko` in each line",
    })
}

/// A path that does not leave its folder.
fn inside(file: &str) -> Option<&Path> {
    let path = Path::new(file);
    let stays = path
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    (stays && !file.is_empty()).then_some(path)
}
