//! The cache folder, laid out as `huggingface_hub` has it: `models--owner--name` with `blobs`, `snapshots` and `refs`.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use hf_hub::{Cache, CacheRepo, Repo, RepoType};

use crate::file::is_plain;
use crate::name::stays_inside;
use crate::{HubError, HubName, Settings};

/// Folders within folders of a snapshot that are looked into.
const DEPTH: usize = 4;

/// One repository's folder.
pub(crate) struct Folder {
    repo: CacheRepo,
    revision: String,
    locks: PathBuf,
    refs: PathBuf,
}

impl Folder {
    pub(crate) fn new(settings: &Settings, name: &HubName) -> Self {
        let revision = name.revision().to_owned();
        let repository = name.repository().to_owned();
        let repo = Repo::with_revision(repository, RepoType::Model, revision.clone());
        let folder = repo.folder_name();
        Self {
            locks: settings.cache.join(".locks").join(&folder),
            refs: settings.cache.join(&folder).join("refs").join(&revision),
            repo: Cache::new(settings.cache.clone()).repo(repo),
            revision,
        }
    }

    /// The commit that the revision was when it was fetched last.
    pub(crate) fn commit(&self) -> Option<String> {
        let stated = fs::read_to_string(&self.refs).ok();
        let commit = stated.map_or(self.revision.clone(), |commit| commit.trim().to_owned());
        (is_plain(&commit) && self.snapshot(&commit).is_dir()).then_some(commit)
    }

    /// The folder that shows the files of a commit.
    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.repo.pointer_path(commit)
    }

    /// The file of a content.
    pub(crate) fn blob(&self, etag: &str) -> PathBuf {
        self.repo.blob_path(etag)
    }

    /// Has the revision mean this commit from now on.
    pub(crate) fn remember(&self, commit: &str) -> Result<(), HubError> {
        if self.revision == commit {
            return Ok(());
        }
        self.repo
            .create_ref(commit)
            .map_err(io_error("write", &self.refs))
    }

    /// The files of a commit that are here, with their sizes.
    pub(crate) fn files(&self, commit: &str) -> Vec<(String, u64)> {
        let mut found = Vec::new();
        gather(&self.snapshot(commit), "", DEPTH, &mut found);
        found.sort();
        found
    }

    /// Shows a blob as a file of a commit.
    pub(crate) fn show(&self, etag: &str, commit: &str, file: &str) -> Result<(), HubError> {
        debug_assert!(stays_inside(file));
        let (blob, place) = (self.blob(etag), self.snapshot(commit).join(file));
        let fail = io_error("write", &place);
        make_folder_of(&place)?;
        match fs::remove_file(&place) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail(error)),
            _ => {}
        }
        // From `snapshots/COMMIT/a/b` it is four up to the folder of `blobs`.
        let up = "../".repeat(2 + file.matches('/').count());
        link(&format!("{up}blobs/{etag}"), &blob, &place).map_err(fail)
    }

    /// Keeps other programs from fetching the same content while the file is open.
    pub(crate) fn lock(&self, etag: &str) -> Result<File, HubError> {
        let path = self.locks.join(format!("{etag}.lock"));
        make_folder_of(&path)?;
        let file = File::options().create(true).append(true).open(&path);
        let file = file.map_err(io_error("write", &path))?;
        match file.lock() {
            // Some network file systems have no locks; two programs at once then do the work twice.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(file),
            done => done.map(|()| file).map_err(io_error("lock", &path)),
        }
    }
}

/// Puts a path and what was tried beside the system's error.
pub(crate) fn io_error(action: &'static str, path: &Path) -> impl Fn(io::Error) -> HubError {
    let path = path.to_path_buf();
    move |source| HubError::Io {
        action,
        path: path.clone(),
        source,
    }
}

pub(crate) fn make_folder_of(path: &Path) -> Result<(), HubError> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).map_err(io_error("make", folder))
}

#[cfg(unix)]
fn link(target: &str, _: &Path, place: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, place)
}

/// Where links need rights that the user lacks, the file itself moves, as with `huggingface_hub`.
#[cfg(not(unix))]
fn link(target: &str, blob: &Path, place: &Path) -> io::Result<()> {
    #[cfg(windows)]
    if std::os::windows::fs::symlink_file(target.replace('/', "\\"), place).is_ok() {
        return Ok(());
    }
    let _ = target;
    fs::rename(blob, place)
}

fn gather(folder: &Path, prefix: &str, depth: usize, found: &mut Vec<(String, u64)>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        // Follows links; one whose content is gone is no file.
        match fs::metadata(entry.path()) {
            Ok(data) if data.is_file() => found.push((name, data.len())),
            Ok(data) if data.is_dir() && depth > 0 => {
                gather(&entry.path(), &format!("{name}/"), depth - 1, found);
            }
            _ => {}
        }
    }
}
