//! A model folder written again with its weights rounded.

use std::fs;
use std::path::{Path, PathBuf};

use latent_formats::{Dtype, FormatError, SafetensorsWriter, Weights, write_bytes};
use latent_models::ModelFolder;

use crate::Error;

/// Writes the model folder `model` into `folder` with every floating-point weight stored as `dtype` (f32, bf16, f16).
///
/// Configs and tokenizers are copied as they are; `model_index.json` comes last, so that a folder with one is complete.
///
/// # Errors
/// [`Error::Model`] if `model` is no model folder; [`Error::Format`] if a file is broken or cannot be written.
pub fn export_as(model: &Path, folder: &Path, dtype: Dtype) -> Result<(), Error> {
    ModelFolder::open(model)?;
    let mut parts = vec![PathBuf::new()];
    parts.extend(
        names(model)?
            .into_iter()
            .filter(|name| model.join(name).is_dir()),
    );
    for part in parts.into_iter().rev() {
        make(&folder.join(&part))?;
        for name in names(&model.join(&part))? {
            let path = part.join(name);
            if model.join(&path).is_file() {
                file(&model.join(&path), &folder.join(&path), dtype)?;
            }
        }
    }
    Ok(())
}

/// Names in a folder, sorted, `model_index.json` last.
fn names(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let fault = |source| FormatError::Io {
        action: "read the folder",
        path: folder.to_owned(),
        source,
    };
    let entries = fs::read_dir(folder).map_err(fault)?;
    let found: Result<Vec<PathBuf>, _> = entries
        .map(|entry| entry.map(|e| e.file_name().into()))
        .collect();
    let mut names = found.map_err(fault)?;
    names.sort_by_key(|name: &PathBuf| (name == Path::new("model_index.json"), name.clone()));
    Ok(names)
}

fn make(folder: &Path) -> Result<(), Error> {
    let fault = |source| FormatError::Io {
        action: "make the folder",
        path: folder.to_owned(),
        source,
    };
    Ok(fs::create_dir_all(folder).map_err(fault)?)
}

fn file(from: &Path, to: &Path, dtype: Dtype) -> Result<(), Error> {
    if from
        .extension()
        .is_some_and(|ending| ending == "safetensors")
    {
        return rounded(from, to, dtype);
    }
    let fault = |source| FormatError::Io {
        action: "read",
        path: from.to_owned(),
        source,
    };
    Ok(write_bytes(to, &fs::read(from).map_err(fault)?)?)
}

fn rounded(from: &Path, to: &Path, dtype: Dtype) -> Result<(), Error> {
    let weights = Weights::open(from)?;
    let mut tensors = Vec::new();
    for name in weights.names() {
        let tensor = weights.tensor(name)?;
        tensors.push((name, tensor.shape.to_vec(), tensor.to_f32()));
    }
    let mut file = SafetensorsWriter::new();
    for (key, value) in weights.metadata() {
        file = file.metadata(key, value);
    }
    for (name, shape, values) in &tensors {
        file = file.f32(name, shape, values, dtype)?;
    }
    Ok(file.write(to)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiny() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../latent-models/tests/fixtures/sd1-tiny")
    }

    #[test]
    fn a_folder_written_again_holds_the_same_weights_rounded() {
        let folder = tempfile::tempdir().expect("a folder");
        let half = folder.path().join("half");
        export_as(&tiny(), &half, Dtype::Bf16).expect("written");
        let file = "unet/diffusion_pytorch_model.safetensors";
        let [before, after] =
            [tiny(), half.clone()].map(|model| Weights::open(&model.join(file)).expect("weights"));
        assert!(before.names().eq(after.names()));
        for name in before.names() {
            let (before, after) = (
                before.tensor(name).expect("there"),
                after.tensor(name).expect("there"),
            );
            assert_eq!((after.dtype, after.shape), (Dtype::Bf16, before.shape));
            for (a, b) in before.to_f32().into_iter().zip(after.to_f32()) {
                assert!((a - b).abs() <= a.abs() / 256.0, "{name}: {a} became {b}");
            }
        }
        ModelFolder::open(&half).expect("the copy opens");
    }

    #[test]
    fn a_folder_that_is_no_model_is_refused_and_nothing_is_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let to = folder.path().join("to");
        assert!(export_as(folder.path(), &to, Dtype::Bf16).is_err());
        assert!(!to.exists());
    }
}
