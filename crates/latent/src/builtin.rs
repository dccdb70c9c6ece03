//! The model that travels inside the program.

use std::fs;
use std::path::Path;

use latent_formats::write_bytes;
use latent_models::ModelFolder;

use crate::Error;

/// Bytes that begin where numbers may: weights at an odd address would be copied, and memory hold them twice.
#[cfg(feature = "builtin")]
#[repr(C, align(64))]
struct Aligned<T>(T);

/// Every file of `model/`: its path below that folder with `/`, and its bytes. Empty in a build without one.
static FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/builtin_files.rs"));

/// Whether this build carries a built-in model.
#[must_use]
pub fn has_builtin() -> bool {
    FILES.iter().any(|(name, _)| *name == "model_index.json")
}

/// The built-in model as a folder in diffusers layout.
///
/// # Errors
/// [`Error::NoBuiltin`] if this build carries none.
pub fn builtin_folder() -> Result<ModelFolder, Error> {
    if has_builtin() {
        Ok(ModelFolder::from_memory(FILES)?)
    } else {
        Err(Error::NoBuiltin)
    }
}

/// Writes the built-in model into `folder`, which other programs open as well.
///
/// `model_index.json` comes last, so that a folder with one is complete.
///
/// # Errors
/// [`Error::NoBuiltin`] if this build carries none; [`Error::Format`] if a file cannot be written.
pub fn export_builtin(folder: impl AsRef<Path>) -> Result<(), Error> {
    if !has_builtin() {
        return Err(Error::NoBuiltin);
    }
    let (index, parts): (Vec<_>, Vec<_>) = FILES
        .iter()
        .partition(|(name, _)| *name == "model_index.json");
    for (name, bytes) in parts.into_iter().chain(index) {
        let path = folder.as_ref().join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|source| latent_formats::FormatError::Io {
                action: "make the folder",
                path: parent.to_owned(),
                source,
            })?;
        }
        write_bytes(&path, bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_begin_where_numbers_of_any_type_may() {
        for (name, bytes) in FILES {
            assert_eq!(bytes.as_ptr() as usize % 64, 0, "{name}");
        }
    }
}
