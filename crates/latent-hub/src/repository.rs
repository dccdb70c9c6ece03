//! A repository of the hub, or what the cache holds of it.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use crate::cache::{Folder, io_error, make_folder_of};
use crate::client::Client;
use crate::transfer::Transfer;
use crate::{HubError, HubFile, HubName, Settings, is_weights};

/// How far a fetch is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// What is fetched.
    pub repository: &'a HubName,
    /// The file that comes now.
    pub file: &'a str,
    /// Bytes that are here of all files of this fetch that were not before.
    pub done: u64,
    /// Bytes they have.
    pub total: u64,
}

/// Told how far a fetch is; [`ControlFlow::Break`] stops it, and what came is kept.
pub type Watch<'a> = dyn FnMut(&Progress<'_>) -> ControlFlow<()> + 'a;

/// A hub, and the cache of its files.
#[derive(Clone, Debug)]
pub struct Hub {
    settings: Settings,
}

impl Hub {
    /// Of these settings; nothing is asked yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings }
    }

    /// Asks what a repository holds. Offline, or while the hub cannot be reached, it is what the cache holds.
    ///
    /// # Errors
    /// [`HubError::NoSuchModel`], [`HubError::NoSuchRevision`], [`HubError::Token`] or [`HubError::Gated`] if the hub
    /// says no; [`HubError::NotCached`] offline and [`HubError::Unreachable`] else, if the cache has nothing either.
    pub fn open(&self, name: &HubName) -> Result<Repository, HubError> {
        let cache = Folder::new(&self.settings, name);
        let client = Client::new(&self.settings, name);
        let mut repository = Repository {
            name: name.clone(),
            settings: self.settings.clone(),
            commit: String::new(),
            files: Vec::new(),
            cache,
            source: Source::Cache(None),
        };
        if self.settings.offline {
            return repository.cached(None);
        }
        match client.list() {
            Ok((commit, files)) => {
                (repository.commit, repository.files) = (commit, files);
                repository.source = Source::Hub(Box::new(client));
                Ok(repository)
            }
            Err(HubError::Unreachable { reason, .. }) => {
                let found = repository.cached(Some(reason.clone()))?;
                tracing::warn!(
                    "cannot reach {}: {reason}; taking what the cache holds of `{name}`",
                    self.settings.endpoint
                );
                Ok(found)
            }
            Err(error) => Err(error),
        }
    }
}

/// Where files come from.
enum Source {
    Hub(Box<Client>),
    /// The cache alone, and why the hub cannot be asked where it should be.
    Cache(Option<String>),
}

/// One revision of a repository.
pub struct Repository {
    name: HubName,
    settings: Settings,
    cache: Folder,
    commit: String,
    files: Vec<HubFile>,
    source: Source,
}

impl std::fmt::Debug for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Repository")
            .field("name", &self.name)
            .field("commit", &self.commit)
            .field("files", &self.files.len())
            .finish_non_exhaustive()
    }
}

impl Repository {
    /// The files of the cache in the place of the hub's.
    fn cached(mut self, unreachable: Option<String>) -> Result<Self, HubError> {
        self.source = Source::Cache(unreachable);
        let Some(commit) = self.cache.commit() else {
            return Err(self.lacks(&format!("`{}`", self.name)));
        };
        let here = self.cache.files(&commit);
        self.files = here
            .into_iter()
            .map(|(name, size)| HubFile {
                name,
                size: Some(size),
                etag: None,
            })
            .collect();
        self.commit = commit;
        Ok(self)
    }

    /// The files that it has; of a cached one, those that are here.
    pub fn files(&self) -> &[HubFile] {
        &self.files
    }

    /// The commit that its revision is.
    pub fn commit(&self) -> &str {
        &self.commit
    }

    /// Whether only the cache is asked.
    pub fn is_cached(&self) -> bool {
        matches!(self.source, Source::Cache(_))
    }

    /// The folder that fetched files appear in.
    pub fn folder(&self) -> PathBuf {
        self.cache.snapshot(&self.commit)
    }

    /// Why `what` cannot be had of a repository that the cache holds in part only.
    pub fn lacks(&self, what: &str) -> HubError {
        match &self.source {
            Source::Cache(Some(reason)) => HubError::Unreachable {
                host: self.settings.endpoint.clone(),
                reason: format!("{reason} (and the cache does not hold {what})"),
            },
            _ => HubError::NotCached {
                folder: self.settings.cache.clone(),
                what: what.to_owned(),
            },
        }
    }

    /// Has these files in [`Repository::folder`], whole and verified, and returns the folder; those that are there
    /// already are not asked for.
    ///
    /// # Errors
    /// [`HubError::NoSuchFile`] for a file that the repository has not; [`HubError::Dropped`] if a download breaks off
    /// again and again; [`HubError::Altered`] if a file is not what the hub promised; [`HubError::Stopped`].
    pub fn fetch(
        &mut self,
        files: &[impl AsRef<str>],
        watch: &mut Watch<'_>,
    ) -> Result<PathBuf, HubError> {
        let mut wanted = Vec::new();
        for file in files {
            wanted.push(self.known(file.as_ref())?);
        }
        let Source::Hub(client) = &self.source else {
            return Ok(self.folder());
        };
        let folder = self.folder();
        wanted.retain(|file| !is_whole(&folder.join(&file.name), file.size));
        let total = wanted.iter().filter_map(|file| file.size).sum();
        let mut before = 0;
        for file in &wanted {
            let mut report = |done: u64| {
                let progress = Progress {
                    repository: &self.name,
                    file: &file.name,
                    done: before + done,
                    total,
                };
                match watch(&progress) {
                    ControlFlow::Continue(()) => Ok(()),
                    ControlFlow::Break(()) => Err(HubError::Stopped),
                }
            };
            self.have(client, file, &mut report)?;
            before += file.size.unwrap_or(0);
        }
        Ok(folder)
    }

    /// Has the revision mean this commit for runs that cannot ask the hub. To be called once all files are here, so
    /// that an older whole commit is not hidden by half of a newer one.
    ///
    /// # Errors
    /// [`HubError::Io`].
    pub fn remember(&self) -> Result<(), HubError> {
        match &self.source {
            Source::Hub(_) => self.cache.remember(&self.commit),
            Source::Cache(_) => Ok(()),
        }
    }

    /// A file with its size and sum.
    fn known(&self, name: &str) -> Result<HubFile, HubError> {
        let found = self.files.iter().find(|file| file.name == name);
        let repository = self.name.repository().to_owned();
        let Some(found) = found else {
            if self.is_cached() {
                return Err(self.lacks(&format!("`{name}` of `{repository}`")));
            }
            return Err(HubError::NoSuchFile {
                repository,
                file: name.to_owned(),
                has: self.weights(),
            });
        };
        match &self.source {
            Source::Hub(client) if found.size.is_none() || found.etag.is_none() => {
                let described = client.describe(&self.commit, name)?;
                if described.size.is_some() && described.etag.is_some() {
                    return Ok(described);
                }
                Err(HubError::Answer {
                    url: format!("{}/{repository}", self.settings.endpoint),
                    reason: format!("it does not say the size and the `ETag` of `{name}`"),
                })
            }
            _ => Ok(found.clone()),
        }
    }

    /// The weights that a repository has, as a sentence's end.
    fn weights(&self) -> String {
        let mut names: Vec<String> = self
            .files
            .iter()
            .filter(|file| is_weights(&file.name))
            .map(|file| format!("`{}`", file.name))
            .collect();
        let more = names.len().saturating_sub(8);
        names.truncate(8);
        match (names.is_empty(), more) {
            (true, _) => "it has no weights at all".to_owned(),
            (false, 0) => format!("it has {}", names.join(", ")),
            (false, more) => format!("it has {} and {more} more", names.join(", ")),
        }
    }

    /// Has one file in the snapshot.
    fn have(
        &self,
        client: &Client,
        file: &HubFile,
        report: &mut dyn FnMut(u64) -> Result<(), HubError>,
    ) -> Result<(), HubError> {
        let (Some(size), Some(etag)) = (file.size, file.etag.as_deref()) else {
            return Err(self.lacks(&format!("`{}`", file.name)));
        };
        let blob = self.cache.blob(etag);
        if !is_whole(&blob, file.size) {
            make_folder_of(&blob)?;
            let _lock = self.cache.lock(etag)?;
            // Another program may have fetched it meanwhile.
            if !is_whole(&blob, file.size) {
                let part = blob.with_file_name(format!("{etag}.incomplete"));
                let transfer = Transfer {
                    client,
                    repository: self.name.repository(),
                    commit: &self.commit,
                    file: &file.name,
                    size,
                    etag,
                    pause: self.settings.pause,
                };
                transfer.run(&part, report)?;
                fs::rename(&part, &blob).map_err(io_error("write", &blob))?;
            }
        }
        self.cache.show(etag, &self.commit, &file.name)?;
        report(size)
    }
}

/// Whether a file is here with all its bytes.
fn is_whole(path: &Path, size: Option<u64>) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && Some(found.len()) == size)
}
