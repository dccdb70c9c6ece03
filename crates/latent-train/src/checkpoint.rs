//! A run's state on disk: `RUN/checkpoint-<step>/`, which appears whole or not at all.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use latent_formats::{Dtype, SafetensorsWriter, Weights, read_json, write_json};
use latent_nn::Exported;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Result, TrainError};

/// Checkpoints that stay when a newer one is written.
const KEPT: usize = 2;
const PREFIX: &str = "checkpoint-";
const PARTIAL: &str = "partial-";
const TENSORS: &str = "state.safetensors";
const ABOUT: &str = "checkpoint.json";

/// Keys that may differ between a checkpoint's config and the one it is resumed with: they say how long, how often
/// and how fast, not what is trained on what.
const MAY_CHANGE: &[&str] = &[
    "run.folder",
    "run.steps",
    "run.batch",
    "run.checkpoint_every",
    "run.sample_every",
    "run.log_every",
    "run.init",
    "data.memory",
    "optimizer.learning_rate",
    "samples",
    "cache",
    "name",
    "save_as",
];

/// `checkpoint.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct About {
    stage: String,
    step: u64,
    config: Value,
}

/// What a run is, beside its step: a checkpoint of another one is refused.
pub(crate) struct Identity {
    pub(crate) stage: &'static str,
    pub(crate) config: Value,
}

/// Writes the checkpoint of `step`, then removes all but the last two.
///
/// The tensors go into a folder of another name, which is renamed when everything in it is on disk: a run killed at
/// any moment leaves either the whole checkpoint or none of that name.
pub(crate) fn save(
    run: &Path,
    identity: &Identity,
    step: u64,
    state: &[Exported],
) -> Result<PathBuf> {
    let path = run.join(format!("{PREFIX}{step:08}"));
    let partial = run.join(format!("{PARTIAL}{step:08}"));
    remove(&partial)?;
    fs::create_dir_all(&partial).map_err(TrainError::io(&partial))?;
    let mut writer = SafetensorsWriter::new();
    for tensor in state {
        writer = writer.f32(&tensor.path, &tensor.shape, &tensor.values, Dtype::F32)?;
    }
    writer.write(&partial.join(TENSORS))?;
    let about = About {
        stage: identity.stage.to_string(),
        step,
        config: identity.config.clone(),
    };
    write_json(&partial.join(ABOUT), &about)?;
    remove(&path)?;
    fs::rename(&partial, &path).map_err(TrainError::io(&path))?;
    sync_folder(run);
    for (_, old) in list(run)?.into_iter().rev().skip(KEPT) {
        remove(&old)?;
    }
    Ok(path)
}

/// The run's checkpoints, by step.
pub(crate) fn list(run: &Path) -> Result<BTreeMap<u64, PathBuf>> {
    let mut found = BTreeMap::new();
    let entries = match fs::read_dir(run) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(TrainError::io(run)(error)),
    };
    for entry in entries {
        let entry = entry.map_err(TrainError::io(run))?;
        let name = entry.file_name();
        let step = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX)?.parse().ok());
        if let Some(step) = step {
            found.insert(step, entry.path());
        }
    }
    Ok(found)
}

/// The newest checkpoint of this run: its step and tensors; `None` if there is none.
///
/// # Errors
/// It is of another stage or config (says which key differs), or its files are damaged.
pub(crate) fn latest(run: &Path, identity: &Identity) -> Result<Option<(u64, Saved)>> {
    let Some((step, path)) = list(run)?.into_iter().next_back() else {
        return Ok(None);
    };
    let about: About = read_json(&path.join(ABOUT))?;
    if about.stage != identity.stage {
        let message = format!(
            "is a checkpoint of stage `{}`, this run is stage `{}`; choose another `run.folder`",
            about.stage, identity.stage
        );
        return Err(TrainError::checkpoint(&path, message));
    }
    if let Some(difference) = difference("", &about.config, &identity.config) {
        let message = format!(
            "was made with another config: {difference}; put the config back, choose another `run.folder` \
             (with `run.init` to start from these weights), or start afresh with `--fresh`"
        );
        return Err(TrainError::checkpoint(&path, message));
    }
    let weights = Weights::open(&path.join(TENSORS))?;
    Ok(Some((step.min(about.step), Saved { path, weights })))
}

/// Removes what a killed run left half-written.
pub(crate) fn sweep(run: &Path) -> Result<()> {
    for entry in fs::read_dir(run).map_err(TrainError::io(run))? {
        let path = entry.map_err(TrainError::io(run))?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if name.is_some_and(|name| name.starts_with(PARTIAL)) {
            remove(&path)?;
        }
    }
    Ok(())
}

/// Removes every checkpoint of a run that starts afresh.
pub(crate) fn clear(run: &Path) -> Result<()> {
    for path in list(run)?.into_values() {
        remove(&path)?;
    }
    Ok(())
}

/// The tensors of a checkpoint.
pub(crate) struct Saved {
    path: PathBuf,
    weights: Weights,
}

impl Saved {
    /// All tensors below `prefix` (with its dot), their paths without it.
    pub(crate) fn below(&self, prefix: &str) -> Result<Vec<Exported>> {
        let names: Vec<&str> = self
            .weights
            .names()
            .filter(|name| name.starts_with(prefix))
            .collect();
        names
            .into_iter()
            .map(|name| {
                Ok(Exported {
                    path: name[prefix.len()..].to_string(),
                    shape: self.weights.tensor(name)?.shape.to_vec(),
                    values: self.weights.read_f32(name)?,
                })
            })
            .collect()
    }

    /// One tensor of the given shape.
    pub(crate) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        self.weights.read_f32_shaped(name, shape).map_err(|error| {
            TrainError::checkpoint(&self.path, format!("is of another model: {error}"))
        })
    }

    pub(crate) fn refuse(&self, message: impl Into<String>) -> TrainError {
        TrainError::checkpoint(&self.path, message)
    }
}

/// The first key whose values differ and must not, as a sentence.
fn difference(path: &str, then: &Value, now: &Value) -> Option<String> {
    if then == now || MAY_CHANGE.contains(&path) {
        return None;
    }
    if let (Value::Object(then), Value::Object(now)) = (then, now) {
        let mut keys: Vec<&String> = then.keys().chain(now.keys()).collect();
        keys.sort();
        return keys.into_iter().find_map(|key| {
            let below = if path.is_empty() {
                key.clone()
            } else {
                format!("{path}.{key}")
            };
            let nothing = Value::Null;
            let of =
                |map: &serde_json::Map<String, Value>| map.get(key).unwrap_or(&nothing).clone();
            difference(&below, &of(then), &of(now))
        });
    }
    Some(format!(
        "`{path}` was {}, now it is {}",
        shown(then),
        shown(now)
    ))
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "absent".into(),
        value => format!("`{value}`"),
    }
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(TrainError::io(folder)(error))
        }
        _ => Ok(()),
    }
}

/// Makes a rename durable where the system can; elsewhere a power cut may lose the newest checkpoint only.
fn sync_folder(folder: &Path) {
    if let Ok(folder) = fs::File::open(folder)
        && let Err(error) = folder.sync_all()
    {
        tracing::debug!(%error, "the folder's entry could not be forced to disk");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn identity(seed: u64, every: u64) -> Identity {
        Identity {
            stage: "diffusion",
            config: json!({"run": {"seed": seed, "checkpoint_every": every}}),
        }
    }

    fn tensor(value: f32) -> Vec<Exported> {
        vec![Exported {
            path: "model.w".into(),
            shape: vec![2],
            values: vec![value, -0.0],
        }]
    }

    #[test]
    fn the_newest_checkpoint_is_found_and_two_are_kept() {
        let run = tempfile::tempdir().expect("a folder");
        for step in [5, 10, 15] {
            save(run.path(), &identity(1, 5), step, &tensor(step as f32)).expect("saved");
        }
        let steps: Vec<u64> = list(run.path()).expect("listed").into_keys().collect();
        assert_eq!(steps, [10, 15]);
        let (step, saved) = latest(run.path(), &identity(1, 5))
            .expect("read")
            .expect("one");
        assert_eq!(step, 15);
        assert_eq!(saved.tensor("model.w", &[2]).expect("there"), [15.0, 0.0]);
    }

    #[test]
    fn a_checkpoint_of_another_config_is_refused_with_the_key_that_differs() {
        let run = tempfile::tempdir().expect("a folder");
        save(run.path(), &identity(1, 5), 5, &tensor(0.0)).expect("saved");
        let error = latest(run.path(), &identity(2, 5))
            .err()
            .expect("refused")
            .to_string();
        assert!(
            error.contains("`run.seed` was `1`, now it is `2`"),
            "{error}"
        );
    }

    #[test]
    fn how_often_a_checkpoint_is_written_may_change() {
        let run = tempfile::tempdir().expect("a folder");
        save(run.path(), &identity(1, 5), 5, &tensor(0.0)).expect("saved");
        assert!(
            latest(run.path(), &identity(1, 7))
                .expect("accepted")
                .is_some()
        );
    }

    #[test]
    fn a_checkpoint_of_another_shape_is_refused() {
        let run = tempfile::tempdir().expect("a folder");
        save(run.path(), &identity(1, 5), 5, &tensor(0.0)).expect("saved");
        let (_, saved) = latest(run.path(), &identity(1, 5))
            .expect("read")
            .expect("one");
        let error = saved
            .tensor("model.w", &[3])
            .expect_err("refused")
            .to_string();
        assert!(error.contains("is of another model"), "{error}");
    }

    #[test]
    fn a_half_written_checkpoint_is_not_a_checkpoint() {
        let run = tempfile::tempdir().expect("a folder");
        fs::create_dir(run.path().join("partial-00000005")).expect("made");
        assert!(latest(run.path(), &identity(1, 5)).expect("read").is_none());
        sweep(run.path()).expect("swept");
        assert_eq!(fs::read_dir(run.path()).expect("listed").count(), 0);
    }
}
