//! What a model is called on a hub.

use std::fmt;

/// Endings of files that can be asked for alone.
const WEIGHTS: [&str; 5] = ["safetensors", "ckpt", "pt", "pth", "bin"];
/// The longest owner or name, as the hub has it.
const LONGEST: usize = 96;

/// `owner/name`, with `@revision` if not the newest one is meant, with `/file` if one file of weights is.
///
/// ```
/// let name = latent_hub::HubName::parse("owner/name@v1/snow.safetensors").expect("a name");
/// assert_eq!((name.repository(), name.revision(), name.file()), ("owner/name", "v1", Some("snow.safetensors")));
/// assert_eq!(latent_hub::HubName::parse("./folder"), None);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubName {
    repository: String,
    revision: Option<String>,
    file: Option<String>,
}

impl HubName {
    /// Reads a name; `None` if the text has not the shape of one.
    pub fn parse(text: &str) -> Option<Self> {
        let (owner, rest) = text.split_once('/')?;
        let end = rest.find(['/', '@']).unwrap_or(rest.len());
        let (name, behind) = rest.split_at(end);
        if !is_word(owner) || !is_word(name) {
            return None;
        }
        let (revision, file) = match behind.split_at_checked(1) {
            Some(("/", file)) => (None, Some(file)),
            Some((_, revision)) if is_weights(revision) => {
                let (revision, file) = revision.split_once('/')?;
                (Some(revision), Some(file))
            }
            Some((_, revision)) => (Some(revision), None),
            // More likely a file on this machine, misspelt.
            None if is_weights(name) => return None,
            None => (None, None),
        };
        if file.is_some_and(|file| !is_weights(file) || !stays_inside(file)) {
            return None;
        }
        if revision.is_some_and(|revision| !is_revision(revision)) {
            return None;
        }
        Some(Self {
            repository: format!("{owner}/{name}"),
            revision: revision.map(str::to_owned),
            file: file.map(str::to_owned),
        })
    }

    /// `owner/name`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The branch, tag or commit; `main` where none is named.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }

    /// The one file that is meant.
    pub fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }
}

impl fmt::Display for HubName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository)?;
        if let Some(revision) = &self.revision {
            write!(f, "@{revision}")?;
        }
        match &self.file {
            Some(file) => write!(f, "/{file}"),
            None => Ok(()),
        }
    }
}

/// Letters, digits, `.`, `_` and `-`, none of the marks at an end.
///
/// Source: `huggingface_hub`'s `validate_repo_id`.
fn is_word(text: &str) -> bool {
    let inside = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
    let marks = ['.', '-'];
    (1..=LONGEST).contains(&text.len())
        && text.chars().all(inside)
        && !text.starts_with(marks)
        && !text.ends_with(marks)
        && !text.contains("..")
}

fn is_revision(text: &str) -> bool {
    let inside = |letter: char| letter.is_ascii_alphanumeric() || "._-/".contains(letter);
    text.chars().all(inside) && stays_inside(text)
}

/// Whether a file's ending is one of weights.
pub fn is_weights(file: &str) -> bool {
    let ending = file.rsplit_once('.').map(|(_, ending)| ending);
    ending.is_some_and(|ending| WEIGHTS.contains(&ending))
}

/// Whether a path with `/` names something below its folder on every system.
pub(crate) fn stays_inside(path: &str) -> bool {
    !path.contains(['\\', ':', '\0'])
        && path
            .split('/')
            .all(|part| !part.is_empty() && part != "." && part != "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> Option<(String, String, Option<String>)> {
        let name = HubName::parse(text)?;
        assert_eq!(name.to_string(), text);
        Some((
            name.repository().to_owned(),
            name.revision().to_owned(),
            name.file().map(str::to_owned),
        ))
    }

    #[test]
    fn a_name_may_have_a_revision_and_a_file() {
        let of = |repository: &str, revision: &str, file: Option<&str>| {
            Some((
                repository.to_owned(),
                revision.to_owned(),
                file.map(str::to_owned),
            ))
        };
        assert_eq!(parts("a/b"), of("a/b", "main", None));
        assert_eq!(
            parts("stabilityai/sd-vae_1.5"),
            of("stabilityai/sd-vae_1.5", "main", None)
        );
        assert_eq!(parts("a/b@refs/pr/1"), of("a/b", "refs/pr/1", None));
        assert_eq!(
            parts("a/b/c/d.safetensors"),
            of("a/b", "main", Some("c/d.safetensors"))
        );
        assert_eq!(parts("a/b@v1.0/d.ckpt"), of("a/b", "v1.0", Some("d.ckpt")));
    }

    #[test]
    fn what_looks_like_a_path_of_this_machine_is_no_name() {
        for text in [
            "",
            "a",
            "./a",
            "../a",
            "/a/b",
            "~/a",
            "a/",
            "a/b/",
            "a/b/c",
            "a/b/c/d",
            "a\\b",
            "C:/a",
            "a/b.safetensors",
            "a/.b",
            "a/b-",
            "a/b..c",
            "a b/c",
            "a/b@",
            "a/b@/x.bin",
            "a/b@x/../y",
            "a/b/../c.bin",
            "a/b//c.bin",
            "a/b/c\\d.bin",
            "a/빨강",
        ] {
            assert_eq!(parts(text), None, "{text}");
        }
        assert_eq!(parts(&format!("a/{}", "b".repeat(97))), None);
    }
}
