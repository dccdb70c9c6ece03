//! A file of a repository, and what the hub promises of it.

use serde::Deserialize;

use crate::HubError;
use crate::name::stays_inside;

/// A file as the hub lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubFile {
    /// Its path in the repository, with `/`.
    pub name: String,
    /// Its size in bytes, where the hub's list says so.
    pub size: Option<u64>,
    /// What the hub names its content by: SHA-256 for large files, git's SHA-1 for small ones.
    pub etag: Option<String>,
}

/// The answer to `api/models/{name}/revision/{revision}?blobs=true`.
#[derive(Deserialize)]
pub(crate) struct Listing {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: Option<String>,
    size: Option<u64>,
}

impl Listing {
    /// The commit and its files, those left out whose names lead out of their folder.
    pub(crate) fn checked(self, url: &str) -> Result<(String, Vec<HubFile>), HubError> {
        if !is_plain(&self.sha) {
            let reason = format!("`{}` is no commit", self.sha);
            return Err(HubError::Answer {
                url: url.to_owned(),
                reason,
            });
        }
        let safe = self
            .siblings
            .into_iter()
            .filter(|file| stays_inside(&file.rfilename));
        let files = safe.map(Sibling::file).collect();
        Ok((self.sha, files))
    }
}

impl Sibling {
    fn file(self) -> HubFile {
        let (etag, size) = match self.lfs {
            Some(lfs) => (lfs.sha256, lfs.size.or(self.size)),
            None => (self.blob_id, self.size),
        };
        HubFile {
            name: self.rfilename,
            size,
            etag: etag.filter(|etag| is_plain(etag)),
        }
    }
}

/// Whether a text of the hub can name a file or a folder of the cache.
pub(crate) fn is_plain(text: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=128).contains(&text.len()) && text.bytes().all(inside) && !text.starts_with('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(json: &str) -> Result<(String, Vec<HubFile>), HubError> {
        serde_json::from_str::<Listing>(json).unwrap().checked("u")
    }

    #[test]
    fn large_files_are_named_by_their_content_and_small_ones_as_git_does() {
        let json = r#"{"sha": "c0ffee", "id": "a/b", "siblings": [
            {"rfilename": "a.safetensors", "size": 9, "blobId": "11", "lfs": {"sha256": "22", "size": 9, "pointerSize": 1}},
            {"rfilename": "b.json", "size": 3, "blobId": "33"}, {"rfilename": "c.json"}]}"#;
        let file = |name: &str, size, etag: Option<&str>| HubFile {
            name: name.into(),
            size,
            etag: etag.map(str::to_owned),
        };
        let (commit, files) = parsed(json).unwrap();
        assert_eq!(commit, "c0ffee");
        let expected = [
            file("a.safetensors", Some(9), Some("22")),
            file("b.json", Some(3), Some("33")),
            file("c.json", None, None),
        ];
        assert_eq!(files, expected);
    }

    #[test]
    fn names_that_lead_out_of_the_folder_are_not_taken() {
        let json = r#"{"sha": "c", "siblings": [{"rfilename": "../x"}, {"rfilename": "/x"}, {"rfilename": "a//b"},
            {"rfilename": "ok", "blobId": "../x"}]}"#;
        let (_, files) = parsed(json).unwrap();
        assert_eq!((files.len(), files[0].etag.as_deref()), (1, None));
        assert!(parsed(r#"{"sha": "../.."}"#).is_err());
    }
}
