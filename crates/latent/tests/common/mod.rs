//! Whole runs against what diffusers computed, for every tiny model.
//!
//! `fixtures/make_fixtures.py` of `latent-models` says how the values were made. Tolerances are time steps exact,
//! final latents 1e-3 of the largest expected value in f32, pictures at most one level off.
#![allow(dead_code, reason = "each test file uses its own part of this")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use latent::{Generated, MicroConditioning, Pipeline, Precision, Request};
use serde_json::Value;

/// A tiny model, and what diffusers drew with it.
#[derive(Clone, Copy)]
pub(crate) struct Tiny(pub(crate) &'static str);

impl Tiny {
    pub(crate) fn folder(self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../latent-models/tests/fixtures")
            .join(self.0)
    }

    pub(crate) fn values(self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fixtures")
            .join(format!("{}-runs", self.0))
    }

    pub(crate) fn cases(self) -> BTreeMap<String, Value> {
        let text = fs::read_to_string(self.values().join("case.json")).expect("the settings");
        let cases: Value = serde_json::from_str(&text).expect("JSON");
        let runs = cases["runs"].as_object().expect("runs");
        runs.clone().into_iter().collect()
    }

    pub(crate) fn pipeline(self) -> Pipeline {
        Pipeline::builder()
            .device("cpu")
            .precision(Precision::F32)
            .open(self.folder())
            .expect("the tiny model opens")
    }

    /// A checkpoint of one file that has the sizes of this model's folder.
    pub(crate) fn single(self, file: &Path) -> Pipeline {
        Pipeline::builder()
            .device("cpu")
            .precision(Precision::F32)
            .config(self.folder())
            .open(file)
            .expect("the checkpoint opens")
    }

    /// The bytes of one expected tensor.
    pub(crate) fn data(self, key: &str) -> Option<Vec<u8>> {
        let path = self.values().join("expected.safetensors");
        let bytes = fs::read(path).expect("expected values");
        let file = safetensors::SafeTensors::deserialize(&bytes).expect("a safetensors file");
        file.tensor(key).ok().map(|tensor| tensor.data().to_vec())
    }

    /// Runs every case from words and compares it with diffusers.
    pub(crate) fn check_all(self, pipeline: &Pipeline) {
        let runs = self.cases();
        let failed: Vec<String> = runs
            .iter()
            .filter_map(|(name, run)| self.compare(name, run, &generate(pipeline, run)).err())
            .collect();
        assert!(
            failed.is_empty(),
            "{} of {} runs differ:\n{}",
            failed.len(),
            runs.len(),
            failed.join("\n")
        );
    }

    /// Runs every case that is named as its sampler by that name alone: the rest of the schedule is the folder's. Not those
    /// of `other`, which state more than the folder does.
    pub(crate) fn check_names(self, pipeline: &Pipeline, other: &[&str]) {
        let mut failed = Vec::new();
        for (name, run) in self.cases() {
            if run["scheduler"] != *name || other.contains(&name.as_str()) {
                continue;
            }
            let mut request = request(&run, 0, seeds(&run));
            request.scheduler_config = None;
            request.sampler = Some(name.clone());
            let drawn = pipeline.generate(&request).expect("drawn");
            failed.extend(self.compare(&name, &run, &[drawn]).err());
        }
        assert!(failed.is_empty(), "{}", failed.join("\n"));
    }

    /// What differs between diffusers' values of a run and `got`.
    pub(crate) fn compare(self, name: &str, run: &Value, got: &[Generated]) -> Result<(), String> {
        let data = |key: &str| self.data(&format!("run/{name}/{key}"));
        let timesteps = made(run, &doubles(&data("timesteps_f64").expect("timesteps")));
        for part in got {
            if !same_timesteps(&part.timesteps, &timesteps) {
                return Err(format!(
                    "{name}: timesteps {:?} are not {timesteps:?}",
                    part.timesteps
                ));
            }
        }
        let latents: Vec<f32> = got
            .iter()
            .flat_map(|part| part.latents.values().iter().copied())
            .collect();
        let expected = floats(&data("latents_final").expect("latents"));
        let worst = furthest(&latents, &expected);
        if worst.is_nan() || worst > 1e-3 {
            return Err(format!(
                "{name}: latents differ by {worst:e} of their largest value"
            ));
        }
        let Some(picture) = data("image_u8") else {
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

    /// One run from the checkpoint in `file` and from the folder, which must give the same bits, and one encoding.
    pub(crate) fn draws_what_its_folder_draws(self, file: &Path, case: &str) {
        let (single, whole) = (self.single(file), self.pipeline());
        let run = &self.cases()[case];
        let request = request(run, 0, seeds(run));
        let (found, expected) = (single.generate(&request), whole.generate(&request));
        let (found, expected) = (found.expect("drawn"), expected.expect("drawn"));
        assert_eq!(found.latents, expected.latents);
        assert_eq!(found.pictures[0].rgb(), expected.pictures[0].rgb());
        let picture = &expected.pictures[0];
        let encoded = |pipeline: &Pipeline| pipeline.encode(picture).expect("encoded");
        assert_eq!(encoded(&single), encoded(&whole));
    }
}

pub(crate) fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes(b.try_into().expect("4 bytes")))
        .collect()
}

fn doubles(bytes: &[u8]) -> Vec<f64> {
    bytes
        .chunks_exact(8)
        .map(|b| f64::from_le_bytes(b.try_into().expect("8 bytes")))
        .collect()
}

/// The largest difference, relative to the largest expected value; NaN where there are more or fewer values.
pub(crate) fn furthest(found: &[f32], expected: &[f32]) -> f32 {
    if found.len() != expected.len() {
        return f32::NAN;
    }
    let scale = expected.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
    let off = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    // `f32::max` would pass over a NaN.
    off.fold(0.0, |m, v| if v > m || v.is_nan() { v } else { m }) / scale
}

/// The timesteps at which a run calls its network: those before or after the share that another model does.
fn made(run: &Value, timesteps: &[f64]) -> Vec<f64> {
    let after = |key: &str| {
        run["call"][key]
            .as_f64()
            .map(|share| 1000.0 - share * 1000.0)
    };
    let (start, end) = (after("denoising_start"), after("denoising_end"));
    timesteps
        .iter()
        .copied()
        .filter(|time| start.is_none_or(|start| *time < start.round()))
        .filter(|time| end.is_none_or(|end| *time >= end.round()))
        .collect()
}

/// Whole ones are exact; those between two, which torch interpolates in f32, agree to its last digit.
fn same_timesteps(found: &[f64], needed: &[f64]) -> bool {
    let same = |(a, b): (&f64, &f64)| a == b || b.fract() != 0.0 && (a - b).abs() <= 2e-7 * b.abs();
    found.len() == needed.len() && found.iter().zip(needed).all(same)
}

/// The text of picture `k`: one string for all, or a list.
fn text_of(call: &Value, key: &str, k: usize) -> String {
    match &call[key] {
        Value::Array(list) => list[k].as_str().unwrap_or_default().to_owned(),
        other => other.as_str().unwrap_or_default().to_owned(),
    }
}

pub(crate) fn seeds(run: &Value) -> Vec<u64> {
    let seeds = run["seeds"].as_array().expect("seeds");
    seeds.iter().filter_map(Value::as_u64).collect()
}

/// The sizes of a call, whose pairs have the height first.
fn sizes(call: &Value) -> MicroConditioning {
    let pair = |key: &str| {
        let number = |k: usize| call[key][k].as_u64().map(|v| v as usize);
        Some([number(1)?, number(0)?])
    };
    MicroConditioning {
        original_size: pair("original_size"),
        crop: pair("crops_coords_top_left"),
        target_size: pair("target_size"),
        negative_original_size: pair("negative_original_size"),
        negative_crop: pair("negative_crops_coords_top_left"),
        negative_target_size: pair("negative_target_size"),
        aesthetic_score: call["aesthetic_score"].as_f64().map(|v| v as f32),
        negative_aesthetic_score: call["negative_aesthetic_score"].as_f64().map(|v| v as f32),
    }
}

pub(crate) fn request(run: &Value, k: usize, seeds: Vec<u64>) -> Request {
    let call = &run["call"];
    let mut config = run["scheduler_config"].clone();
    config["_class_name"] = run["scheduler_class"].clone();
    Request {
        prompt: text_of(call, "prompt", k),
        negative_prompt: text_of(call, "negative_prompt", k),
        prompt_2: text_of(call, "prompt_2", k),
        negative_prompt_2: text_of(call, "negative_prompt_2", k),
        // diffusers takes zeros for a missing negative prompt only, not for an empty one.
        force_zeros_for_empty_prompt: call.get("negative_prompt").map(|_| false),
        micro_conditioning: sizes(call),
        denoising_start: call["denoising_start"].as_f64(),
        denoising_end: call["denoising_end"].as_f64(),
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

/// Runs a case: as one batch where all pictures share the prompt, else a picture at a time.
pub(crate) fn generate(pipeline: &Pipeline, run: &Value) -> Vec<Generated> {
    let seeds = seeds(run);
    if run["call"]["prompt"].is_array() {
        let each = seeds.iter().enumerate();
        each.map(|(k, seed)| {
            pipeline
                .generate(&request(run, k, vec![*seed]))
                .expect("a picture")
        })
        .collect()
    } else {
        let request = request(run, 0, seeds);
        vec![pipeline.generate(&request).expect("pictures")]
    }
}
