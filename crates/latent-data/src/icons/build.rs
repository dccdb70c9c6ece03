//! Writes the set as WebDataset shards; a build that was stopped goes on where it was.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use latent_formats::{Picture, PictureFormat, read_json, write_atomic, write_json};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::artist::Artist;
use super::config::{BuildConfig, caption_checksum, drawn_styles};
use super::packages::Sources;
use super::recipe::Recipe;
use super::{Progress, Watcher, tell};
use crate::DataError;

/// Pictures of a shard: some megabytes, so that little is lost when a build is stopped.
const PER_SHARD: usize = 1000;

/// The file that says what a folder holds.
const RECORD: &str = "dataset.json";

/// The subfolders, one for each side of the split.
const SPLITS: [&str; 2] = ["train", "heldout"];

/// What a build made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Pictures in `OUT/train`.
    pub train: usize,
    /// Pictures in `OUT/heldout`.
    pub held_out: usize,
    /// How many of them were drawn now, not by an earlier run.
    pub drawn: usize,
    /// Shards of both.
    pub shards: usize,
}

/// What `dataset.json` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    profile: String,
    kinds: Vec<String>,
    scenes: u32,
    size: usize,
    train: usize,
    heldout: usize,
    captions_sha256: String,
    complete: bool,
}

impl Record {
    fn new(config: &BuildConfig, recipes: &[Recipe]) -> Self {
        let heldout = recipes.iter().filter(|recipe| recipe.held_out).count();
        Self {
            profile: config.profile.name().to_string(),
            kinds: config
                .kinds()
                .iter()
                .map(|kind| kind.name().to_string())
                .collect(),
            scenes: config.scenes,
            size: config.size,
            train: recipes.len() - heldout,
            heldout,
            captions_sha256: caption_checksum(recipes).1,
            complete: false,
        }
    }

    /// Refuses a folder that holds something else.
    fn check(&self, out: &Path) -> Result<(), DataError> {
        let path = out.join(RECORD);
        if !path.is_file() {
            return check_empty(out);
        }
        let complete = self.complete;
        let found = Self {
            complete,
            ..read_json(&path)?
        };
        if found == *self {
            return Ok(());
        }
        let described = |record: &Self| {
            let (profile, kinds) = (&record.profile, record.kinds.join(","));
            format!(
                "profile {profile}, kinds {kinds}, {} scenes, {} px",
                record.scenes, record.size
            )
        };
        let reason = format!(
            "it holds a set of other settings or another version ({}; asked for: {}); choose another folder, or delete this one",
            described(&found),
            described(self)
        );
        Err(DataError::conflict(out, reason))
    }
}

fn check_empty(out: &Path) -> Result<(), DataError> {
    for split in SPLITS {
        let folder = out.join(split);
        if fs::read_dir(&folder).is_ok_and(|mut entries| entries.next().is_some()) {
            let reason = format!(
                "it holds files, and no `{RECORD}` beside `{split}` says which; choose another folder"
            );
            return Err(DataError::conflict(&folder, reason));
        }
    }
    Ok(())
}

/// A file of the set.
struct Shard<'a> {
    path: PathBuf,
    recipes: Vec<&'a Recipe>,
}

fn shards<'a>(recipes: &'a [Recipe], out: &Path) -> Vec<Shard<'a>> {
    let of_split = |split: &'static str| {
        let of_split = recipes.iter().filter(|recipe| recipe.split() == split);
        let of_split: Vec<&Recipe> = of_split.collect();
        let shard = |(number, recipes): (usize, &[&'a Recipe])| Shard {
            path: out.join(split).join(format!("shard-{number:05}.tar")),
            recipes: recipes.to_vec(),
        };
        of_split
            .chunks(PER_SHARD)
            .enumerate()
            .map(shard)
            .collect::<Vec<_>>()
    };
    SPLITS.into_iter().flat_map(of_split).collect()
}

/// Builds the set into `out`, from packages in the folder `packages`, which are fetched if they are missing.
///
/// `out/train` and `out/heldout` get shards of 1,000 pictures as PNG, each with its captions and what else is known
/// as JSON; `out/dataset.json` says what was built. Shards appear whole; those that are there are not drawn again.
///
/// # Errors
/// [`DataError`] if the settings leave no picture, `out` holds another set, a package cannot be had, the disk is full,
/// or `watcher` says stop.
pub fn build(
    config: &BuildConfig,
    packages: &Path,
    out: &Path,
    watcher: Watcher<'_>,
) -> Result<Summary, DataError> {
    let recipes = config.recipes()?;
    let styles = drawn_styles(&recipes);
    let sources = || Sources::open(packages, &styles, watcher);
    build_from(config, &recipes, sources, out, watcher)
}

fn build_from(
    config: &BuildConfig,
    recipes: &[Recipe],
    sources: impl FnOnce() -> Result<Sources, DataError>,
    out: &Path,
    watcher: Watcher<'_>,
) -> Result<Summary, DataError> {
    let mut record = Record::new(config, recipes);
    record.check(out)?;
    let shards = shards(recipes, out);
    let (done, missing): (Vec<&Shard>, Vec<&Shard>) =
        shards.iter().partition(|shard| shard.path.is_file());
    let count = |shards: &[&Shard]| {
        shards
            .iter()
            .map(|shard| shard.recipes.len())
            .sum::<usize>()
    };
    if !missing.is_empty() {
        for split in SPLITS {
            let folder = out.join(split);
            let fail = |error| DataError::io("make the folder", &folder, error);
            fs::create_dir_all(&folder).map_err(fail)?;
        }
        write_json(&out.join(RECORD), &record)?;
        let press = Press {
            artist: Artist::new(sources()?)?,
            size: config.size,
            done: AtomicUsize::new(count(&done)),
            total: recipes.len(),
            watcher,
        };
        missing.iter().try_for_each(|shard| press.print(shard))?;
    }
    record.complete = true;
    write_json(&out.join(RECORD), &record)?;
    Ok(Summary {
        train: record.train,
        held_out: record.heldout,
        drawn: count(&missing),
        shards: shards.len(),
    })
}

/// Draws shards and writes them.
struct Press<'a> {
    artist: Artist,
    size: usize,
    done: AtomicUsize,
    total: usize,
    watcher: Watcher<'a>,
}

impl Press<'_> {
    fn print(&self, shard: &Shard) -> Result<(), DataError> {
        let pictures = shard.recipes.par_iter().map(|recipe| self.picture(recipe));
        let pictures: Vec<Vec<u8>> = pictures.collect::<Result<_, DataError>>()?;
        write_atomic(&shard.path, |file| {
            let mut archive = tar::Builder::new(file);
            for (recipe, picture) in shard.recipes.iter().zip(&pictures) {
                // A reader takes everything behind a dot for the ending.
                let stem = recipe.key.replace('.', "_");
                append(&mut archive, &format!("{stem}.png"), picture)?;
                let metadata = serde_json::to_vec(&recipe.metadata())?;
                append(&mut archive, &format!("{stem}.json"), &metadata)?;
            }
            archive.finish()
        })?;
        Ok(())
    }

    fn picture(&self, recipe: &Recipe) -> Result<Vec<u8>, DataError> {
        let pixels = self.artist.draw(recipe)?.at_side(self.size);
        let png = Picture::new(self.size, self.size, pixels)?.encode(PictureFormat::Png)?;
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        let total = self.total;
        tell(self.watcher, Progress::Drawing { done, total })?;
        Ok(png)
    }
}

/// A member whose header depends on nothing but its name and length, so that equal sets are equal files.
fn append(
    archive: &mut tar::Builder<&mut dyn io::Write>,
    name: &str,
    bytes: &[u8],
) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    header.set_mtime(0);
    archive.append_data(&mut header, name, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::icons::fixtures;
    use crate::{Captions, DataSet};
    use std::ops::ControlFlow;

    fn go_on(_: Progress<'_>) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn built(size: usize, out: &Path, watcher: Watcher<'_>) -> Result<Summary, DataError> {
        let config = BuildConfig {
            size,
            ..BuildConfig::default()
        };
        let sources = || Ok(fixtures::sources());
        build_from(&config, &fixtures::recipes(), sources, out, watcher)
    }

    #[test]
    fn a_built_set_opens_with_all_that_training_needs() {
        let folder = tempfile::tempdir().unwrap();
        let summary = built(64, folder.path(), &go_on).unwrap();
        assert_eq!(summary.train + summary.held_out, fixtures::KEYS.len());
        let recipes = fixtures::recipes();
        for split in SPLITS {
            let set = DataSet::open(&folder.path().join(split), Captions::Required).unwrap();
            let expected: Vec<_> = recipes.iter().filter(|r| r.split() == split).collect();
            assert_eq!(set.len(), expected.len());
            for (place, (example, recipe)) in set.examples().iter().zip(expected).enumerate() {
                assert_eq!(example.key, format!("shard-00000/{}", recipe.key));
                assert_eq!(
                    (example.weight, example.flip),
                    (recipe.weight(), recipe.may_flip())
                );
                let of = |language: &str| {
                    let captions = example.captions.iter();
                    let of = captions.filter(|c| c.language.as_deref() == Some(language));
                    of.map(|caption| caption.text.clone()).collect::<Vec<_>>()
                };
                assert_eq!((of("en"), of("ko")), (recipe.en.clone(), recipe.ko.clone()));
                assert_eq!(example.attributes["kind"], recipe.kind.name());
                let id = recipe.objects[0].concept.id;
                assert_eq!(example.attributes["objects"][0]["id"], id);
                assert_eq!(set.load(place).unwrap().width(), 64);
            }
        }
    }

    #[test]
    fn a_build_that_was_stopped_goes_on_and_makes_the_same_files() {
        let folder = tempfile::tempdir().unwrap();
        let whole = tempfile::tempdir().unwrap();
        built(64, whole.path(), &go_on).unwrap();
        let stop = |progress: Progress<'_>| match progress {
            Progress::Drawing { done, total } if done == total => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        };
        let error = built(64, folder.path(), &stop).unwrap_err();
        assert!(matches!(error, DataError::Stopped));
        let rest = built(64, folder.path(), &go_on).unwrap();
        assert!(
            rest.drawn > 0 && rest.drawn < fixtures::KEYS.len(),
            "{rest:?}"
        );
        for split in SPLITS {
            let file = |root: &Path| fs::read(root.join(split).join("shard-00000.tar")).unwrap();
            assert!(file(folder.path()) == file(whole.path()), "{split}");
        }
        assert_eq!(built(64, folder.path(), &go_on).unwrap().drawn, 0);
    }

    #[test]
    fn a_folder_with_another_set_is_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        built(64, folder.path(), &go_on).unwrap();
        let message = built(128, folder.path(), &go_on).unwrap_err().to_string();
        assert!(
            message.contains("64 px") && message.contains("128 px"),
            "{message}"
        );
        fs::remove_file(folder.path().join(RECORD)).unwrap();
        let message = built(64, folder.path(), &go_on).unwrap_err().to_string();
        assert!(message.contains("no `dataset.json`"), "{message}");
    }
}
