//! What the name of a model leads to: a file or folder that is here, or one that a hub has.

use std::path::{Path, PathBuf};

use crate::Error;

/// How names are followed. What is here always comes first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    /// Which of several published precisions is taken.
    pub(crate) variant: Option<String>,
    #[cfg(feature = "hub")]
    pub(crate) hub: from_hub::Asking,
}

impl Names {
    /// `path` itself if something is there, or if a hub could not have a model of that name; else the folder or file
    /// that the hub's files were put into. Of a whole model only `part` is needed, if one is named.
    pub(crate) fn follow(&self, path: &Path, part: Option<&str>) -> Result<PathBuf, Error> {
        if path.exists() {
            return Ok(path.to_path_buf());
        }
        self.elsewhere(path, part)
    }

    #[cfg(not(feature = "hub"))]
    #[expect(clippy::unused_self, reason = "with the feature `hub` it is")]
    fn elsewhere(&self, path: &Path, _: Option<&str>) -> Result<PathBuf, Error> {
        Ok(path.to_path_buf())
    }

    #[cfg(feature = "hub")]
    fn elsewhere(&self, path: &Path, part: Option<&str>) -> Result<PathBuf, Error> {
        match path.to_str().and_then(latent_hub::HubName::parse) {
            Some(name) => self.hub.fetch(&name, part, self.variant.as_deref()),
            None => Ok(path.to_path_buf()),
        }
    }

    /// What pictures say they were drawn with: the file's or folder's name, or a model's on the hub.
    pub(crate) fn title(path: &Path) -> String {
        #[cfg(feature = "hub")]
        if !path.exists()
            && let Some(name) = path.to_str().and_then(latent_hub::HubName::parse)
        {
            return name.to_string();
        }
        let whole = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let name = whole.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }
}

/// What only the feature `hub` has.
#[cfg(feature = "hub")]
pub(crate) mod from_hub {
    use std::fmt;
    use std::ops::ControlFlow;
    use std::path::{Path, PathBuf};
    use std::sync::Arc;

    use latent_formats::ModelIndex;
    use latent_hub::{Hub, HubError, HubName, Progress, Repository, Settings};
    use latent_models::{ModelError, ModelFolder, Needed, needed_files, needed_part_files};

    use crate::Error;

    const INDEX: &str = "model_index.json";

    /// Told how far a download is.
    type Told = dyn Fn(&Progress<'_>) -> ControlFlow<()> + Send + Sync;

    /// How a hub is asked.
    #[derive(Clone, Default)]
    pub(crate) struct Asking {
        pub(crate) offline: bool,
        pub(crate) told: Option<Arc<Told>>,
    }

    impl fmt::Debug for Asking {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("Asking")
                .field("offline", &self.offline)
                .finish_non_exhaustive()
        }
    }

    impl Asking {
        /// Has what is needed of a repository here, and returns where.
        pub(crate) fn fetch(
            &self,
            name: &HubName,
            part: Option<&str>,
            variant: Option<&str>,
        ) -> Result<PathBuf, Error> {
            let mut settings = Settings::from_env()?;
            settings.offline |= self.offline;
            let mut repository = Hub::new(settings).open(name)?;
            let listed: Vec<String> = repository.files().iter().map(|f| f.name.clone()).collect();
            let listed: Vec<&str> = listed.iter().map(String::as_str).collect();
            let place = if let Some(file) = name.file().or(only_weights(&listed)) {
                self.get(&mut repository, &[file])?.join(file)
            } else if listed.contains(&INDEX) {
                let folder = self.get(&mut repository, &[INDEX])?;
                let needed = match part.filter(|part| has_folder(&listed, part)) {
                    Some(part) => needed_part_files(part, &listed, variant, &told_of(name)),
                    None => {
                        let index = ModelIndex::read(&folder)?;
                        needed_files(&index, &listed, variant, &told_of(name))
                    }
                };
                self.get_needed(&mut repository, needed, part.is_none())?
            } else if listed.contains(&"config.json") {
                let needed = needed_part_files("", &listed, variant, &told_of(name));
                self.get_needed(&mut repository, needed, false)?
            } else {
                return Err(without_model(name, &repository, &listed));
            };
            repository.remember()?;
            Ok(place)
        }

        /// Small files first: they say whether the weights are worth fetching.
        fn get_needed(
            &self,
            repository: &mut Repository,
            needed: Result<Needed, ModelError>,
            is_whole: bool,
        ) -> Result<PathBuf, Error> {
            let needed = match needed {
                // The cache lists what it happens to hold.
                Err(ModelError::MissingFile { folder, .. }) if repository.is_cached() => {
                    return Err(repository
                        .lacks(&format!("the weights of `{}`", folder.display()))
                        .into());
                }
                needed => needed?,
            };
            let folder = self.get(repository, &needed.configs)?;
            if is_whole {
                ModelFolder::open(&folder)?;
            }
            Ok(self.get(repository, &needed.weights)?)
        }

        fn get(
            &self,
            repository: &mut Repository,
            files: &[impl AsRef<str>],
        ) -> Result<PathBuf, HubError> {
            repository.fetch(files, &mut |progress| match &self.told {
                Some(told) => told(progress),
                None => ControlFlow::Continue(()),
            })
        }
    }

    /// The name as errors have it in the place of a folder.
    fn told_of(name: &HubName) -> PathBuf {
        PathBuf::from(name.repository())
    }

    fn has_folder(listed: &[&str], part: &str) -> bool {
        let config = format!("{part}/config.json");
        listed.contains(&config.as_str())
    }

    /// The file of a repository that holds one file of weights and no configs, as LoRAs and checkpoints are published.
    fn only_weights<'a>(listed: &[&'a str]) -> Option<&'a str> {
        if listed.contains(&INDEX) || listed.contains(&"config.json") {
            return None;
        }
        let is_weights = |name: &&&str| {
            Path::new(name)
                .extension()
                .is_some_and(|end| end == "safetensors")
        };
        let mut all = listed.iter().filter(is_weights);
        all.next().filter(|_| all.next().is_none()).copied()
    }

    fn without_model(name: &HubName, repository: &Repository, listed: &[&str]) -> Error {
        if repository.is_cached() {
            return repository.lacks(&format!("a model of `{name}`")).into();
        }
        let files = listed.iter().filter(|file| latent_hub::is_weights(file));
        let files: Vec<String> = files.map(|file| format!("`{}/{file}`", name)).collect();
        Error::Request(match files.len() {
            0 => {
                format!("`{name}` holds no model that is known here; look at its files on the hub")
            }
            count => format!(
                "`{name}` holds no model in diffusers' layout, but {count} files of weights; name one of them, as {}",
                files[..count.min(5)].join(", ")
            ),
        })
    }
}
