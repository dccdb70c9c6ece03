//! Writing files so that they appear whole or not at all.

use std::io;
use std::path::{Path, PathBuf};

use latent_formats::{Picture, PictureFormat};

use crate::fault::Fault;
use crate::stop;

/// Refuses a path that cannot be written before minutes of work go into it.
///
/// # Errors
/// When the folder is absent, or the path names a folder.
pub(crate) fn check_writable(path: &Path) -> Result<(), Fault> {
    let folder = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    if path.is_dir() {
        return Err(
            Fault::output(format!("`{}` is a folder", path.display())).hint("name a file in it")
        );
    }
    match folder.metadata() {
        Ok(metadata) if !metadata.is_dir() => Err(Fault::output(format!(
            "`{}` is not a folder",
            folder.display()
        ))),
        Ok(metadata) if metadata.permissions().readonly() => Err(Fault::output(format!(
            "`{}` is read-only",
            folder.display()
        ))),
        Ok(_) => Ok(()),
        Err(e) => Err(
            Fault::output(format!("cannot write to `{}`: {e}", folder.display()))
                .hint(format!("make it with `mkdir -p {}`", folder.display())),
        ),
    }
}

/// Runs `write` while Ctrl-C waits.
///
/// # Errors
/// What `write` returns.
pub(crate) fn whole<T>(write: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    let _whole = stop::writing();
    write()
}

/// Refuses a picture's path that cannot be written, or whose ending names no kind of picture.
///
/// # Errors
/// As [`check_writable`], and for an unknown ending.
pub(crate) fn check_picture(path: &Path) -> Result<(), Fault> {
    PictureFormat::of_path(path).map_err(|error| Fault::usage(error.to_string()))?;
    check_writable(path)
}

/// Writes `bytes` to `path`.
///
/// # Errors
/// When the path cannot be written; nothing half-written is left.
pub(crate) fn bytes(path: &Path, bytes: &[u8]) -> Result<(), Fault> {
    let _whole = stop::writing();
    Ok(latent_formats::write_bytes(path, bytes)?)
}

/// Writes `picture` as its path's ending says.
///
/// # Errors
/// As [`bytes`], and when the format cannot hold the picture.
pub(crate) fn picture(path: &Path, picture: &Picture) -> Result<(), Fault> {
    bytes(path, &picture.encode(PictureFormat::of_path(path)?)?)
}

/// Checks a folder that is to be made: it must be absent or empty.
///
/// # Errors
/// When something is already there.
pub(crate) fn check_new_folder(path: &Path) -> Result<PathBuf, Fault> {
    match path.read_dir() {
        Ok(mut entries) => match entries.next() {
            None => Ok(path.to_owned()),
            Some(_) => Err(Fault::output(format!("`{}` is not empty", path.display()))
                .hint("name a new folder")),
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(path.to_owned()),
        Err(e) => Err(Fault::output(format!(
            "cannot write to `{}`: {e}",
            path.display()
        ))),
    }
}
