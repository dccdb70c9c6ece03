//! Names of the files that pictures go to.

use std::path::{Path, PathBuf};

/// Letters of a prompt that a default name keeps.
const LONGEST_NAME: usize = 48;

/// A file name from a prompt and a seed: `a-red-apple-3d-style-7.png`.
pub(crate) fn from_prompt(prompt: &str, seed: u64) -> PathBuf {
    let mut name = String::new();
    for letter in prompt.chars().flat_map(char::to_lowercase) {
        if name.chars().count() >= LONGEST_NAME {
            break;
        }
        if letter.is_alphanumeric() {
            name.push(letter);
        } else if !name.is_empty() && !name.ends_with('-') {
            name.push('-');
        }
    }
    let name = name.trim_matches('-');
    PathBuf::from(if name.is_empty() {
        format!("picture-{seed}.png")
    } else {
        format!("{name}-{seed}.png")
    })
}

/// The names of `count` pictures: `path` itself for one, else `path` with `-1`, `-2`, … before its extension.
///
/// Numbers have equal widths, so that names sort as the pictures do.
pub(crate) fn numbered(path: &Path, count: usize) -> Vec<PathBuf> {
    if count == 1 {
        return vec![path.to_owned()];
    }
    let digits = count.to_string().len();
    let stem = path
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let extension = path
        .extension()
        .map(|e| format!(".{}", e.to_string_lossy()))
        .unwrap_or_default();
    (1..=count)
        .map(|k| path.with_file_name(format!("{stem}-{k:0digits$}{extension}")))
        .collect()
}

/// `path` with `word` before its extension: `out.png` and `preview` give `out.preview.png`.
pub(crate) fn beside(path: &Path, word: &str) -> PathBuf {
    let stem = path
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    path.with_file_name(format!("{stem}.{word}.png"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_becomes_a_plain_name() {
        assert_eq!(
            from_prompt("A red apple, 3D style!", 7),
            Path::new("a-red-apple-3d-style-7.png")
        );
        assert_eq!(from_prompt("빨간 사과", 1), Path::new("빨간-사과-1.png"));
        assert_eq!(from_prompt("../..", 1), Path::new("picture-1.png"));
        assert!(from_prompt(&"x/".repeat(500), 1).to_string_lossy().len() < 64);
    }

    #[test]
    fn several_pictures_get_numbers_that_sort() {
        assert_eq!(numbered(Path::new("d/o.png"), 1), [Path::new("d/o.png")]);
        let names = numbered(Path::new("d/o.png"), 10);
        assert_eq!(
            (names[0].as_path(), names[9].as_path()),
            (Path::new("d/o-01.png"), Path::new("d/o-10.png"))
        );
    }

    #[test]
    fn the_preview_lies_beside_the_picture() {
        assert_eq!(
            beside(Path::new("d/o.png"), "preview"),
            Path::new("d/o.preview.png")
        );
    }
}
