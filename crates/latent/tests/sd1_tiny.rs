//! Whole runs against what diffusers computed with the same tiny Stable Diffusion 1 folder.
//!
//! `fixtures/make_fixtures.py` of `latent-models` says how the values were made. Tolerances are time steps exact,
//! final latents 1e-3 of the largest expected value in f32, pictures at most one level off.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use latent::{Generated, Pipeline, Precision, Request};
use serde_json::Value;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../latent-models/tests/fixtures/sd1-tiny")
}

fn values() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sd1-tiny-runs")
}

fn cases() -> BTreeMap<String, Value> {
    let text = fs::read_to_string(values().join("case.json")).expect("the fixture's settings");
    let cases: Value = serde_json::from_str(&text).expect("JSON");
    cases["runs"]
        .as_object()
        .expect("runs")
        .clone()
        .into_iter()
        .collect()
}

fn pipeline() -> Pipeline {
    Pipeline::builder()
        .device("cpu")
        .precision(Precision::F32)
        .open(folder())
        .expect("the tiny model opens")
}

/// The text of picture `k`: one string for all, or a list.
fn text_of(call: &Value, key: &str, k: usize) -> String {
    match &call[key] {
        Value::Array(list) => list[k].as_str().unwrap_or_default().to_owned(),
        other => other.as_str().unwrap_or_default().to_owned(),
    }
}

fn request(run: &Value, k: usize, seeds: Vec<u64>) -> Request {
    let call = &run["call"];
    let mut config = run["scheduler_config"].clone();
    config["_class_name"] = run["scheduler_class"].clone();
    Request {
        prompt: text_of(call, "prompt", k),
        negative_prompt: text_of(call, "negative_prompt", k),
        width: call["width"].as_u64().map(|v| v as usize),
        height: call["height"].as_u64().map(|v| v as usize),
        steps: run["steps"].as_u64().map(|v| v as usize),
        guidance: call["guidance_scale"].as_f64().map(|v| v as f32),
        guidance_rescale: call["guidance_rescale"].as_f64().unwrap_or(0.0) as f32,
        seeds,
        eta: call["eta"].as_f64(),
        scheduler_config: Some(config),
        clip_skip: call["clip_skip"].as_u64().map(|v| v as usize),
        ..Request::default()
    }
}

/// Expected tensors of one run.
struct Expected {
    timesteps: Vec<f64>,
    latents: Vec<f32>,
    picture: Option<Vec<u8>>,
}

fn expected(name: &str) -> Expected {
    let bytes = fs::read(values().join("expected.safetensors")).expect("expected values");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let data = |key: &str| {
        file.tensor(&format!("run/{name}/{key}"))
            .ok()
            .map(|t| t.data().to_vec())
    };
    let timesteps = data("timesteps_f64").expect("timesteps");
    let latents = data("latents_final").expect("latents");
    Expected {
        timesteps: timesteps
            .chunks_exact(8)
            .map(|b| f64::from_le_bytes(b.try_into().expect("8 bytes")))
            .collect(),
        latents: latents
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().expect("4 bytes")))
            .collect(),
        picture: data("image_u8"),
    }
}

/// Runs a case: as one batch where all pictures share the prompt, else a picture at a time.
fn generate(pipeline: &Pipeline, run: &Value) -> Vec<Generated> {
    let seeds: Vec<u64> = run["seeds"]
        .as_array()
        .expect("seeds")
        .iter()
        .filter_map(Value::as_u64)
        .collect();
    if run["call"]["prompt"].is_array() {
        seeds
            .iter()
            .enumerate()
            .map(|(k, seed)| {
                pipeline
                    .generate(&request(run, k, vec![*seed]))
                    .expect("a picture")
            })
            .collect()
    } else {
        vec![
            pipeline
                .generate(&request(run, 0, seeds))
                .expect("pictures"),
        ]
    }
}

/// Whole ones are exact; those between two, which torch interpolates in f32, agree to its last digit.
fn same_timesteps(found: &[f64], needed: &[f64]) -> bool {
    let same = |(a, b): (&f64, &f64)| a == b || b.fract() != 0.0 && (a - b).abs() <= 2e-7 * b.abs();
    found.len() == needed.len() && found.iter().zip(needed).all(same)
}

fn check(name: &str, run: &Value, pipeline: &Pipeline) -> Result<(), String> {
    let want = expected(name);
    let got = generate(pipeline, run);
    for part in &got {
        if !same_timesteps(&part.timesteps, &want.timesteps) {
            return Err(format!(
                "{name}: timesteps {:?} are not {:?}",
                part.timesteps, want.timesteps
            ));
        }
    }
    let latents: Vec<f32> = got
        .iter()
        .flat_map(|part| part.latents.values().iter().copied())
        .collect();
    let scale = want.latents.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
    let worst = latents
        .iter()
        .zip(&want.latents)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
        / scale;
    if latents.len() != want.latents.len() || worst.is_nan() || worst > 1e-3 {
        return Err(format!(
            "{name}: latents differ by {worst:e} of their largest value"
        ));
    }
    let Some(picture) = want.picture else {
        return Ok(());
    };
    let rgb: Vec<u8> = got
        .iter()
        .flat_map(|part| &part.pictures)
        .flat_map(|p| p.rgb().iter().copied())
        .collect();
    let worst = rgb.iter().zip(&picture).map(|(a, b)| a.abs_diff(*b)).max();
    match worst {
        Some(0 | 1) if rgb.len() == picture.len() => Ok(()),
        _ => Err(format!(
            "{name}: a pixel differs by {worst:?} levels, or the size does"
        )),
    }
}

#[test]
fn every_run_equals_diffusers() {
    let pipeline = pipeline();
    let runs = cases();
    let failed: Vec<String> = runs
        .iter()
        .filter_map(|(name, run)| check(name, run, &pipeline).err())
        .collect();
    assert!(
        failed.is_empty(),
        "{} of {} runs differ:\n{}",
        failed.len(),
        runs.len(),
        failed.join("\n")
    );
}

/// The checkpoint of the same weights in the layout that Stable Diffusion 1 was published in, half precision; every
/// weight fits in half precision, so the numbers are the same.
#[test]
fn a_checkpoint_of_one_file_draws_what_its_folder_draws_to_the_bit() {
    for name in ["model_ldm.safetensors", "model_ldm.ckpt"] {
        draws_what_its_folder_draws(&values().join(name));
    }
}

fn draws_what_its_folder_draws(file: &Path) {
    let single = Pipeline::builder()
        .device("cpu")
        .precision(Precision::F32)
        .config(folder())
        .open(file)
        .expect("the checkpoint opens");
    let whole = pipeline();
    let run = &cases()["ddim"];
    let request = request(run, 0, vec![42]);
    let (found, expected) = (single.generate(&request), whole.generate(&request));
    let (found, expected) = (found.expect("drawn"), expected.expect("drawn"));
    assert_eq!(found.latents, expected.latents);
    assert_eq!(found.pictures[0].rgb(), expected.pictures[0].rgb());
    let picture = &expected.pictures[0];
    let encoded = |pipeline: &Pipeline| pipeline.encode(picture).expect("encoded");
    assert_eq!(encoded(&single), encoded(&whole));
}

#[test]
fn a_checkpoint_with_the_sizes_of_another_model_is_refused_with_the_tensor() {
    let file = values().join("model_ldm.safetensors");
    let error = Pipeline::builder().device("cpu").open(&file).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("model_ldm.safetensors"), "{message}");
    let error = Pipeline::builder()
        .config(folder())
        .open(folder())
        .unwrap_err();
    assert!(error.to_string().contains("config folder"), "{error}");
}

#[test]
fn a_file_that_is_no_whole_model_says_what_to_name_instead() {
    let part = folder().join("unet/diffusion_pytorch_model.safetensors");
    let message = Pipeline::from_pretrained(part).unwrap_err().to_string();
    assert!(
        message.contains("name the folder of the whole model"),
        "{message}"
    );
}
