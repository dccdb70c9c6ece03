//! Bytes of a file without reading it: the one memory-map call of the project.

use std::fs::File;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

use crate::FormatError;

/// Bytes that a file, the program itself or memory holds. Cloning is cheap.
#[derive(Clone)]
pub struct Bytes(Source);

#[derive(Clone)]
enum Source {
    Mapped(Arc<memmap2::Mmap>),
    Static(&'static [u8]),
    Owned(Arc<Vec<u8>>),
}

impl Bytes {
    /// Maps a file into memory; only the pages that are looked at are read.
    ///
    /// # Errors
    /// [`FormatError::Io`] if the file cannot be opened or is no regular file.
    pub fn map(path: &Path) -> Result<Self, FormatError> {
        let fail = |source| FormatError::io("read", path, source);
        let file = File::open(path).map_err(fail)?;
        let metadata = file.metadata().map_err(fail)?;
        if !metadata.is_file() {
            let reason = if metadata.is_dir() {
                "it is a folder, a file is needed"
            } else {
                "it is not a regular file"
            };
            return Err(fail(std::io::Error::other(reason)));
        }
        if metadata.len() == 0 {
            return Ok(Self::from_static(&[]));
        }
        Self::map_file(&file).map_err(fail)
    }

    /// Maps a file that is open already, as one that has no name.
    ///
    /// # Errors
    /// The system's, and an empty file's: it cannot be mapped.
    pub fn map_file(file: &File) -> std::io::Result<Self> {
        // SAFETY: the map is read-only and private to this process. Whoever shortens the file while we read it can
        // end the process by SIGBUS, as with every program that maps its weights; our own writers never change a
        // file in place, they put a new one in its stead (`write_atomic`).
        #[expect(unsafe_code, reason = "weights are mapped, not read; see SAFETY")]
        let map = unsafe { memmap2::Mmap::map(file) }?;
        Ok(Self(Source::Mapped(Arc::new(map))))
    }

    /// Gives the memory of a part back to the system, which reads it from the file again if it is looked at again.
    /// Only mapped files have such memory; everything else stays.
    pub fn release(&self, part: Range<usize>) {
        #[cfg(unix)]
        if let Source::Mapped(map) = &self.0
            && part.end <= map.len()
            && !part.is_empty()
        {
            // SAFETY: the map is of a file, read-only and never written through, so a page that is dropped comes back
            // from the file with the same bytes. A refusal changes nothing.
            #[expect(unsafe_code, reason = "one more call on the map; see SAFETY")]
            let _ = unsafe {
                map.unchecked_advise_range(
                    memmap2::UncheckedAdvice::DontNeed,
                    part.start,
                    part.len(),
                )
            };
        }
        #[cfg(not(unix))]
        let _ = part;
    }

    /// Bytes that are part of the program.
    pub fn from_static(bytes: &'static [u8]) -> Self {
        Self(Source::Static(bytes))
    }

    /// Bytes in memory.
    pub fn from_vec(bytes: Vec<u8>) -> Self {
        Self(Source::Owned(Arc::new(bytes)))
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Source::Mapped(map) => map,
            Source::Static(bytes) => bytes,
            Source::Owned(bytes) => bytes,
        }
    }
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bytes({})", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_file_reads_like_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, b"some bytes").unwrap();
        assert_eq!(&*Bytes::map(&path).unwrap(), b"some bytes");
    }

    #[test]
    fn a_part_that_was_released_reads_as_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let content: Vec<u8> = (0..50_000u32).map(|i| (i * 7) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let bytes = Bytes::map(&path).unwrap();
        assert_eq!(&*bytes, content);
        bytes.release(100..30_000);
        bytes.release(49_999..60_000);
        assert_eq!(&*bytes, content);
    }

    #[test]
    fn an_empty_file_is_no_error_here() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, b"").unwrap();
        assert!(Bytes::map(&path).unwrap().is_empty());
    }

    #[test]
    fn a_folder_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let message = Bytes::map(folder.path()).unwrap_err().to_string();
        assert!(message.contains("it is a folder"), "{message}");
    }

    #[test]
    fn a_missing_file_is_named() {
        let message = Bytes::map(Path::new("no/such.safetensors"))
            .unwrap_err()
            .to_string();
        assert!(message.contains("`no/such.safetensors`"), "{message}");
    }
}
