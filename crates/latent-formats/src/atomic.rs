//! Files that appear whole or not at all.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::FormatError;

/// Writes a file that appears at `path` whole or not at all.
///
/// The bytes go into a temporary file in the same folder, are brought to the disk, and then take the name.
/// A reader or a killed process never meets half a file; a failure leaves what was there before.
/// A target that is no regular file (`/dev/stdout`, a pipe) is written into instead, for replacing it would
/// destroy it.
///
/// # Errors
/// [`FormatError::Io`] if the folder is missing or closed to us, the disk is full, or `write` fails.
pub fn write_atomic(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), FormatError> {
    let fail = |source| FormatError::io("write", path, source);
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => {
            return Err(fail(io::Error::other(
                "a folder has that name; choose another",
            )));
        }
        Ok(found) if !found.is_file() => return write_into(path, write).map_err(fail),
        _ => {}
    }
    let target = resolve_link(path);
    replace(&target, write).map_err(|source| explain(path, source))
}

/// [`write_atomic`] for bytes that are ready.
///
/// # Errors
/// Those of [`write_atomic`].
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<(), FormatError> {
    write_atomic(path, |writer| writer.write_all(bytes))
}

/// A link stays a link; what it points at is replaced.
fn resolve_link(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf())
}

fn write_into(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut writer = BufWriter::new(File::options().write(true).open(path)?);
    write(&mut writer)?;
    writer.flush()
}

fn replace(target: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let folder = folder_of(target);
    let mut builder = tempfile::Builder::new();
    builder.prefix(".unfinished-");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // A temporary file is private by default; ours will be an ordinary one, so the user's mask decides.
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    let file = builder.tempfile_in(folder)?;
    let mut writer = BufWriter::with_capacity(1 << 20, file);
    write(&mut writer)?;
    let file = writer
        .into_inner()
        .map_err(io::IntoInnerError::into_error)?;
    file.as_file().sync_all()?;
    if let Ok(before) = fs::metadata(target) {
        file.as_file().set_permissions(before.permissions())?;
    }
    file.persist(target).map_err(|failed| failed.error)?;
    // The name itself reaches the disk with its folder; not every file system can do this, and the file is whole
    // either way.
    #[cfg(unix)]
    let _ = File::open(folder).and_then(|folder| folder.sync_all());
    Ok(())
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn explain(path: &Path, source: io::Error) -> FormatError {
    let folder = folder_of(path).display();
    let hint = match source.kind() {
        io::ErrorKind::NotFound => format!("the folder `{folder}` does not exist; make it first"),
        io::ErrorKind::PermissionDenied => format!("the folder `{folder}` is closed to writing"),
        io::ErrorKind::StorageFull => {
            format!("the disk of `{folder}` is full; nothing was written")
        }
        _ => return FormatError::io("write", path, source),
    };
    FormatError::io("write", path, io::Error::new(source.kind(), hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn a_file_is_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        write_bytes(&path, b"long old text").unwrap();
        write_bytes(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(folder.path()), ["a.txt"]);
    }

    #[test]
    fn a_failure_keeps_the_old_file_and_leaves_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        write_bytes(&path, b"old").unwrap();
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let failed = write_atomic(&path, |writer| {
            writer.write_all(b"half")?;
            Err(full)
        });
        assert!(failed.unwrap_err().to_string().contains("is full"));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["a.txt"]);
    }

    #[test]
    fn a_missing_folder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("no/a.txt");
        let message = write_bytes(&path, b"x").unwrap_err().to_string();
        assert!(message.contains("does not exist"), "{message}");
    }

    #[test]
    fn a_folder_in_the_way_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let message = write_bytes(folder.path(), b"x").unwrap_err().to_string();
        assert!(message.contains("a folder has that name"), "{message}");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_device_is_a_clear_error_and_stays_a_device() {
        let message = write_bytes(Path::new("/dev/full"), b"x")
            .unwrap_err()
            .to_string();
        assert!(message.starts_with("cannot write `/dev/full`"), "{message}");
        assert!(!fs::metadata("/dev/full").unwrap().is_file());
    }

    #[test]
    #[cfg(unix)]
    fn a_link_stays_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, b"old").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        write_bytes(&link, b"new").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }

    #[test]
    #[cfg(unix)]
    fn a_new_file_is_as_readable_as_any_other() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let (ours, theirs) = (folder.path().join("ours"), folder.path().join("theirs"));
        write_bytes(&ours, b"x").unwrap();
        fs::write(&theirs, b"x").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&ours), mode(&theirs));
    }
}
