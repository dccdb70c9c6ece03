//! Configs that ask for more than any file holds: refused before anything is built, or at the first tensor that does not fit.

mod common;

use std::fs;
use std::path::Path;

use common::{compute, fixture};
use latent_models::{FileSource, ModelFolder};
use serde_json::{Value, json};

/// Why the tiny model does not open once `part`'s config has other values.
fn refused(part: &str, changes: Value) -> String {
    let folder = tempfile::tempdir().unwrap();
    for name in ["", "unet", "vae", "text_encoder", "scheduler"] {
        fs::create_dir_all(folder.path().join(name)).unwrap();
        for entry in fs::read_dir(fixture("sd1-tiny").join(name)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                fs::copy(
                    &path,
                    folder.path().join(name).join(path.file_name().unwrap()),
                )
                .unwrap();
            }
        }
    }
    change(&folder.path().join(part).join("config.json"), changes);
    let model = match ModelFolder::from_source(FileSource::folder(folder.path())) {
        Ok(model) => model,
        Err(error) => return error.to_string(),
    };
    let error = match part {
        "unet" => model.unet(&compute()).map(drop),
        "vae" => model.autoencoder(&compute()).map(drop),
        _ => model.text_encoder(&compute()).map(drop),
    };
    error.unwrap_err().to_string()
}

fn change(path: &Path, changes: Value) {
    let mut config: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    for (key, value) in changes.as_object().unwrap() {
        assert!(config.get(key).is_some(), "{key}");
        config[key] = value.clone();
    }
    fs::write(path, config.to_string()).unwrap();
}

/// The largest size that a config may have.
const VAST: usize = 1 << 20;

#[test]
fn counts_of_layers_that_no_model_has_are_refused_by_their_key() {
    for (part, changes, key) in [
        (
            "unet",
            json!({"layers_per_block": VAST}),
            "layers_per_block",
        ),
        (
            "unet",
            json!({"transformer_layers_per_block": VAST}),
            "transformer_layers_per_block",
        ),
        // Each within its limit, and together not.
        (
            "unet",
            json!({"layers_per_block": 256, "transformer_layers_per_block": 256}),
            "transformer_layers_per_block",
        ),
        ("vae", json!({"layers_per_block": VAST}), "layers_per_block"),
        (
            "text_encoder",
            json!({"num_hidden_layers": VAST}),
            "num_hidden_layers",
        ),
    ] {
        let message = refused(part, changes);
        assert!(message.contains(&format!("`{key}`")), "{message}");
        assert!(message.contains("can be built"), "{message}");
    }
}

#[test]
fn sizes_beyond_any_memory_are_refused_by_the_first_tensor_that_is_smaller() {
    // Levels are of other widths where they are in the file, so that the tensors have the same names.
    for (part, changes, tensor) in [
        (
            "unet",
            json!({"block_out_channels": [VAST, VAST / 2, VAST / 2]}),
            "conv_in.weight",
        ),
        (
            "vae",
            json!({"block_out_channels": [VAST, VAST / 2, VAST / 2, VAST / 2]}),
            "conv_in.weight",
        ),
        (
            "text_encoder",
            json!({"intermediate_size": VAST, "vocab_size": VAST}),
            "embed",
        ),
    ] {
        let message = refused(part, changes);
        assert!(message.contains(tensor), "{message}");
        assert!(message.contains("1048576"), "{message}");
    }
}
