//! Where a model's files come from: a folder on disk, or the program itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use latent_formats::{Bytes, Weights};
use serde_json::{Map, Value};

use crate::error::{ModelError, Result};
use crate::single_file::SingleFile;

/// A folder's files, on disk or embedded in the program.
#[derive(Clone, Debug)]
pub struct FileSource {
    /// The folder; for embedded files their name in messages.
    path: PathBuf,
    /// Embedded files by path, and the folder inside them that this source shows.
    embedded: Option<(Embedded, String)>,
    /// A checkpoint whose weights stand in for all of the folder's, and the part whose folder this is.
    single: Option<(Arc<SingleFile>, String)>,
    /// Sources that stand in for folders inside this one, such as another model's autoencoder.
    parts: BTreeMap<String, FileSource>,
    /// Weights that stand in for those among these files, such as those with adapters merged in.
    weights: Option<Arc<Weights>>,
    /// Which of several published precisions is taken, as `fp16`; none for the fullest.
    variant: Option<Arc<str>>,
}

/// Files by path with `/`, as in `unet/config.json`.
type Embedded = &'static [(&'static str, &'static [u8])];

impl FileSource {
    /// The files of a folder on disk.
    pub fn folder(path: &Path) -> Self {
        Self {
            path: path.to_path_buf(),
            embedded: None,
            single: None,
            parts: BTreeMap::new(),
            weights: None,
            variant: None,
        }
    }

    /// Files in the program, by path with `/`; `name` stands for their folder in messages.
    pub fn memory(files: &'static [(&'static str, &'static [u8])], name: &str) -> Self {
        Self {
            path: PathBuf::from(name),
            embedded: Some((files, String::new())),
            single: None,
            parts: BTreeMap::new(),
            weights: None,
            variant: None,
        }
    }

    /// These files, of which the weights of a `variant` such as `fp16` are taken where they have it.
    #[must_use]
    pub fn preferring(self, variant: Option<&str>) -> Self {
        Self {
            variant: variant.map(Arc::from),
            ..self
        }
    }

    /// The precision that is asked for.
    pub(crate) fn variant(&self) -> Option<&str> {
        self.variant.as_deref()
    }

    /// These files with the weights of a whole model in one file.
    #[must_use]
    pub(crate) fn with_weights(self, file: SingleFile) -> Self {
        Self {
            single: Some((Arc::new(file), String::new())),
            ..self
        }
    }

    /// These files with another source for the folder `name` inside.
    #[must_use]
    pub(crate) fn with_part(mut self, name: &str, source: Self) -> Self {
        self.parts.insert(name.to_owned(), source);
        self
    }

    /// These files with other weights.
    #[must_use]
    pub(crate) fn with_own_weights(self, weights: Weights) -> Self {
        Self {
            weights: Some(Arc::new(weights)),
            ..self
        }
    }

    /// The checkpoint that has the weights of the whole model, if one has.
    pub(crate) fn single_file(&self) -> Option<&SingleFile> {
        self.single.as_ref().map(|(file, _)| file.as_ref())
    }

    /// The weights of this part, where one file has those of the whole model, or others stand in for its own.
    pub fn single_file_weights(&self) -> Option<Weights> {
        if let Some(weights) = &self.weights {
            return Some(weights.as_ref().clone());
        }
        let (file, part) = self.single.as_ref()?;
        Some(file.part(part))
    }

    /// Keys of the scheduler's config that a whole model in one file, or who opened it, states.
    pub(crate) fn stated_schedule(&self) -> Map<String, Value> {
        let file = self.single.as_ref().map(|(file, _)| file.schedule());
        file.unwrap_or_default()
    }

    /// The files of a folder inside this one.
    #[must_use]
    pub fn below(&self, name: &str) -> Self {
        if let Some(part) = self.parts.get(name) {
            return part.clone();
        }
        let embedded = self.embedded.as_ref();
        Self {
            path: self.path.join(name),
            embedded: embedded.map(|(files, prefix)| (*files, format!("{prefix}{name}/"))),
            single: self
                .single
                .as_ref()
                .map(|(file, _)| (file.clone(), name.to_owned())),
            parts: BTreeMap::new(),
            weights: None,
            variant: self.variant.clone(),
        }
    }

    /// The folder, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder on disk, if it is there.
    pub(crate) fn on_disk(&self) -> Option<&Path> {
        self.embedded.is_none().then_some(&self.path)
    }

    /// Whether there is a file of this name.
    pub fn has(&self, name: &str) -> bool {
        match &self.embedded {
            Some(_) => self.find_embedded(name).is_some(),
            None => self.path.join(name).is_file(),
        }
    }

    /// The file's bytes; `None` if there is none.
    ///
    /// # Errors
    /// [`ModelError::Format`] if it is there and cannot be read.
    pub fn read(&self, name: &str) -> Result<Option<Bytes>> {
        if self.embedded.is_some() {
            return Ok(self.find_embedded(name).map(Bytes::from_static));
        }
        if !self.has(name) {
            return Ok(None);
        }
        Ok(Some(Bytes::map(&self.path.join(name))?))
    }

    /// The bytes of a file that must be there; `what` says what it would hold.
    pub(crate) fn need(&self, name: &str, what: &'static str) -> Result<Bytes> {
        self.read(name)?.ok_or_else(|| self.missing(what, &[name]))
    }

    pub(crate) fn missing(&self, what: &'static str, looked_for: &[&str]) -> ModelError {
        ModelError::MissingFile {
            folder: self.path.clone(),
            what,
            looked_for: looked_for.iter().map(|&name| name.to_owned()).collect(),
        }
    }

    fn find_embedded(&self, name: &str) -> Option<&'static [u8]> {
        let (files, prefix) = self.embedded.as_ref()?;
        let whole = format!("{prefix}{name}");
        let (_, bytes) = files.iter().find(|(path, _)| *path == whole)?;
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: Embedded = &[("a.json", b"1"), ("unet/config.json", b"{}")];

    #[test]
    fn embedded_files_are_found_below_their_folder() {
        let files = FileSource::memory(FILES, "built-in");
        assert_eq!(&files.read("a.json").unwrap().unwrap()[..], b"1");
        let unet = files.below("unet");
        assert_eq!(&unet.read("config.json").unwrap().unwrap()[..], b"{}");
        assert!(unet.read("a.json").unwrap().is_none());
        assert_eq!(unet.path(), Path::new("built-in/unet"));
    }

    #[test]
    fn a_file_that_must_be_there_is_named_with_its_folder() {
        let files = FileSource::memory(FILES, "built-in");
        let message = files
            .need("vocab.json", "vocabulary")
            .unwrap_err()
            .to_string();
        assert_eq!(
            message,
            "`built-in` holds no vocabulary; looked for `vocab.json`"
        );
    }
}
