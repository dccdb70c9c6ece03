//! Several files by one name: `shard-*.tar`, `shard-{000..012}.tar`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::DataError;

/// Files of a folder that `accept` takes, sorted; hidden ones are left out.
pub(super) fn files_of(
    folder: &Path,
    accept: impl Fn(&Path) -> bool,
) -> Result<Vec<PathBuf>, DataError> {
    let fail = |source| DataError::io("read", folder, source);
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if !hidden && accept(&entry.path()) {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

/// The files that a pattern in the last part of `path` means, sorted.
///
/// `*` stands for any letters, `?` for one, `{000..012}` for each number, written as wide as the first.
pub(super) fn matching(path: &Path) -> Result<Vec<PathBuf>, DataError> {
    let missing = |reason: String| DataError::NotFound {
        path: path.to_path_buf(),
        reason,
    };
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.filter(|name| name.contains(['*', '?', '{']));
    let name = name.ok_or_else(|| missing("there is no such file or folder".to_string()))?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut files = Vec::new();
    for pattern in expand(name).map_err(missing)? {
        if !pattern.contains(['*', '?']) {
            // Every number of a range must be there: a hole is a lost shard.
            files.push(folder.join(pattern));
            continue;
        }
        let accept = |path: &Path| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| matches(pattern.as_bytes(), name.as_bytes()))
        };
        files.extend(files_of(folder, accept)?);
    }
    if files.is_empty() {
        return Err(missing(format!(
            "no file of `{}` matches the pattern",
            folder.display()
        )));
    }
    files.sort();
    files.dedup();
    Ok(files)
}

/// Replaces the first `{from..to}` by each of its numbers.
fn expand(name: &str) -> Result<Vec<String>, String> {
    const LARGEST: u64 = 1_000_000;
    let Some((before, rest)) = name.split_once('{') else {
        return Ok(vec![name.to_string()]);
    };
    let parts = rest.split_once('}').and_then(|(range, after)| {
        let (from, to) = range.split_once("..")?;
        Some((
            from,
            to,
            from.parse::<u64>().ok()?,
            to.parse::<u64>().ok()?,
            after,
        ))
    });
    match parts {
        Some((text, _, from, to, after))
            if from <= to && to - from < LARGEST && !after.contains('{') =>
        {
            let width = text.len();
            Ok((from..=to)
                .map(|number| format!("{before}{number:0width$}{after}"))
                .collect())
        }
        _ => Err(format!(
            "the pattern `{name}` needs one range such as `{{000..012}}`"
        )),
    }
}

/// Whether the whole name fits; `*` tries every length.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    // The last star and the name's place it was tried at; going back to it alone is enough.
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(&letter) if letter == b'?' || letter == name[n] => (p, n) = (p + 1, n + 1),
            _ => match star {
                Some((place, tried)) => {
                    star = Some((place, tried + 1));
                    (p, n) = (place + 1, tried + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&letter| letter == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_question_marks_stand_for_letters() {
        for (pattern, name, fits) in [
            ("*.tar", "a.tar", true),
            ("*.tar", "a.tar.gz", false),
            ("shard-??.tar", "shard-01.tar", true),
            ("shard-??.tar", "shard-1.tar", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-b-b-", false),
            ("*", "", true),
        ] {
            assert_eq!(
                matches(pattern.as_bytes(), name.as_bytes()),
                fits,
                "{pattern} {name}"
            );
        }
    }

    #[test]
    fn a_range_names_every_file() {
        assert_eq!(
            expand("s-{08..11}.tar").unwrap(),
            ["s-08.tar", "s-09.tar", "s-10.tar", "s-11.tar"]
        );
        for broken in [
            "{",
            "{1..}",
            "{3..1}",
            "{a..b}",
            "{1..2}{1..2}",
            "{0..99999999}",
        ] {
            assert!(expand(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn a_pattern_that_matches_nothing_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let message = matching(&folder.path().join("*.tar"))
            .unwrap_err()
            .to_string();
        assert!(message.contains("matches the pattern"), "{message}");
        let message = matching(&folder.path().join("a.tar"))
            .unwrap_err()
            .to_string();
        assert!(message.contains("no such file or folder"), "{message}");
    }
}
