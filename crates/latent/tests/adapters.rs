//! Whole runs with adapters, against what diffusers computed with the same tiny Stable Diffusion 1 folder.
//!
//! Tolerances are time steps exact, final latents 1e-3 of the largest expected value in f32.

use std::fs;
use std::path::{Path, PathBuf};

use latent::models::{Layout, ModelFolder, Strength};
use latent::{Builder, Control, Generated, Picture, Pipeline, Precision, Request};
use latent_formats::{Dtype, SafetensorsWriter, Weights};
use serde_json::Value;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../latent-models/tests/fixtures")
}

fn tiny() -> PathBuf {
    fixtures().join("sd1-tiny")
}

fn adapter(name: &str) -> PathBuf {
    fixtures().join("adapters").join(name)
}

fn builder() -> Builder {
    Pipeline::builder().device("cpu").precision(Precision::F32)
}

fn run(name: &str) -> Value {
    let text = fs::read_to_string(adapter("case.json")).expect("the settings");
    let cases: Value = serde_json::from_str(&text).expect("JSON");
    cases["runs"][name].clone()
}

fn request(run: &Value) -> Request {
    let call = &run["call"];
    let mut config = run["scheduler_config"].clone();
    config["_class_name"] = run["scheduler_class"].clone();
    let word = |key: &str| call[key].as_str().unwrap_or_default().to_owned();
    Request {
        prompt: word("prompt"),
        negative_prompt: word("negative_prompt"),
        width: Some(64),
        height: Some(64),
        steps: run["steps"].as_u64().map(|steps| steps as usize),
        guidance: call["guidance_scale"].as_f64().map(|value| value as f32),
        seeds: vec![run["seeds"][0].as_u64().expect("a seed")],
        scheduler_config: Some(config),
        ..Request::default()
    }
}

/// Draws the run `name` with what `builder` lays over the tiny model, and compares its latents with those of diffusers.
#[track_caller]
fn equals_diffusers(name: &str, builder: Builder) -> Generated {
    let pipeline = builder.open(tiny()).expect("the tiny model opens");
    let drawn = pipeline.generate(&request(&run(name))).expect("a picture");
    let expected = Weights::open(&adapter("expected.safetensors")).expect("expected values");
    let latents = expected
        .read_f32(&format!("run/{name}/latents_final"))
        .expect("latents");
    let scale = latents
        .iter()
        .fold(0.0_f32, |most, value| most.max(value.abs()));
    let found = drawn.latents.values();
    assert_eq!(found.len(), latents.len());
    let off = found
        .iter()
        .zip(&latents)
        .map(|(a, b)| (a - b).abs() / scale);
    let worst = off.fold(0.0, f32::max);
    assert!(worst <= 1e-3, "{name}: {worst:e} of the largest value");
    drawn
}

#[test]
fn an_embedding_of_stable_diffusion_xl_is_read_by_both_text_encoders() {
    let place = tempfile::tempdir().expect("a folder");
    let file = place.path().join("style.safetensors");
    let vectors = vec![0.5; 64];
    SafetensorsWriter::new()
        .f32("clip_l", &[2, 24], &vectors[..48], Dtype::F32)
        .and_then(|writer| writer.f32("clip_g", &[2, 32], &vectors, Dtype::F32))
        .expect("tensors")
        .write(&file)
        .expect("a file");
    let model = fixtures().join("sdxl-tiny");
    let pipeline = builder().embedding(&file, None).open(&model).expect("open");
    let (_, tokenizer) = pipeline.second_text().expect("a second encoder");
    let first = pipeline.tokenizer().expect("a first tokenizer");
    for tokenizer in [first, tokenizer] {
        assert_eq!(tokenizer.encode("style").pieces, ["style", "style_1"]);
    }
    let request = Request::new("style").steps(2).size(32, 32);
    let with = pipeline.generate(&request).expect("drawn");
    let plain = builder().open(&model).expect("open").generate(&request);
    assert_ne!(with.latents, plain.expect("drawn").latents);
    let lone = builder().embedding(adapter("embedding_a1111.pt"), None);
    assert!(lone.open(&model).is_err(), "vectors of one width");
}

#[test]
fn a_lora_of_each_dialect_and_strength_equals_diffusers() {
    equals_diffusers("base_ddim", builder());
    for file in ["lora_kohya.safetensors", "lora_peft.safetensors"] {
        let lora = |strength| builder().lora(adapter(file), strength);
        equals_diffusers("lora_full_ddim", lora(1.0));
        equals_diffusers("lora_half_ddim", lora(0.5));
        // Half and half again is the whole.
        equals_diffusers("lora_full_ddim", lora(0.5).lora(adapter(file), 0.5));
        let unet = Strength {
            unet: 1.0,
            text: 0.0,
        };
        equals_diffusers(
            "lora_unet_only_ddim",
            builder().lora_with(adapter(file), unet),
        );
    }
}

#[test]
fn lycoris_kinds_equal_their_formulas() {
    equals_diffusers(
        "loha_ddim",
        builder().lora(adapter("loha.safetensors"), 1.0),
    );
    equals_diffusers(
        "lokr_ddim",
        builder().lora(adapter("lokr.safetensors"), 1.0),
    );
    equals_diffusers(
        "dora_ddim",
        builder().lora(adapter("dora_kohya.safetensors"), 1.0),
    );
}

#[test]
fn a_textual_inversion_of_each_container_equals_diffusers() {
    for file in [
        "embedding_a1111.pt",
        "embedding_a1111.safetensors",
        "embedding_diffusers.safetensors",
    ] {
        let word = Some("<my-style>".to_owned());
        let drawn = equals_diffusers("ti_ddim", builder().embedding(adapter(file), word));
        assert_eq!(drawn.settings[0].adapters, ["embedding <my-style>"]);
    }
}

/// The picture that the ControlNet looked at.
fn seen() -> Picture {
    let expected = Weights::open(&adapter("expected.safetensors")).expect("expected values");
    let planes = expected
        .read_f32("controlnet/cond_u8")
        .expect("the picture");
    let rgb =
        (0..64 * 64).flat_map(|at| [0, 1, 2].map(|channel| planes[channel * 64 * 64 + at] as u8));
    Picture::new(64, 64, rgb.collect()).expect("a picture")
}

#[test]
fn a_controlnet_with_a_window_and_by_guessing_equals_diffusers() {
    for model in ["controlnet", "controlnet_orig.safetensors"] {
        let control = Control::new(adapter(model), seen());
        equals_diffusers("controlnet_ddim", builder().control(control.clone()));
        let window = Control {
            strength: 0.6,
            start: 0.2,
            end: 0.7,
            ..control.clone()
        };
        equals_diffusers("controlnet_scale06_window", builder().control(window));
        let half = Control {
            strength: 0.5,
            ..control.clone()
        };
        equals_diffusers(
            "controlnet_ddim",
            builder().control(half.clone()).control(half),
        );
        let guess = Control {
            guess: true,
            ..control
        };
        equals_diffusers("controlnet_guess", builder().control(guess));
    }
}

#[test]
fn a_picture_that_is_steered_does_not_depend_on_its_neighbours() {
    let control = Control::new(adapter("controlnet"), seen());
    let pipeline = builder().control(control).open(tiny()).expect("opens");
    let draw = |seeds: &[u64]| {
        let request = Request {
            seeds: seeds.to_vec(),
            ..request(&run("controlnet_ddim"))
        };
        pipeline.generate(&request).expect("pictures").pictures
    };
    let (together, alone) = (draw(&[3, 11]), draw(&[11]));
    assert_eq!(together[1].rgb(), alone[0].rgb());
}

#[test]
fn the_tiny_decoder_draws_what_its_latents_are() {
    let pipeline = builder()
        .tiny_decoder(adapter("taesd"))
        .open(tiny())
        .expect("opens");
    let request = request(&run("base_ddim"));
    let mut previews = 0;
    let drawn = pipeline.generate_with(&request, |progress| {
        previews += usize::from(progress.preview(64).is_ok());
        std::ops::ControlFlow::Continue(())
    });
    let drawn = drawn.expect("a picture");
    assert_eq!(previews, 6);
    let plain = builder().open(tiny()).expect("opens");
    let plain = plain.generate(&request).expect("a picture");
    assert_eq!(drawn.latents, plain.latents);
    assert_ne!(drawn.pictures[0].rgb(), plain.pictures[0].rgb());
    assert_eq!(drawn.pictures[0].width(), 64);
}

/// A copy of the kohya file with one tensor more.
fn with_a_stranger(place: &Path) -> PathBuf {
    let file = Weights::open(&adapter("lora_kohya.safetensors")).expect("a LoRA");
    let mut tensors = vec![("lora_unet_nowhere.alpha".to_owned(), Vec::new(), vec![1.0])];
    for name in file.names() {
        let shape = file.describe(name).expect("there").1.to_vec();
        tensors.push((name.to_owned(), shape, file.read_f32(name).expect("values")));
    }
    let mut writer = SafetensorsWriter::new();
    for (name, shape, values) in &tensors {
        writer = writer
            .f32(name, shape, values, Dtype::F32)
            .expect("a tensor");
    }
    let path = place.join("stranger.safetensors");
    writer.write(&path).expect("written");
    path
}

#[test]
fn tensors_without_a_place_are_told_of_and_refused_when_strict() {
    let place = tempfile::tempdir().expect("a folder");
    let path = with_a_stranger(place.path());
    let pipeline = builder().lora(&path, 1.0).open(tiny()).expect("opens");
    let report = &pipeline.lora_reports()[0];
    assert_eq!((report.matched, report.total), (456, 457));
    let warning = report.warning().expect("a warning");
    assert!(
        warning.contains("1 of 457") && warning.contains("lora_unet_nowhere.alpha"),
        "{warning}"
    );
    let refused = builder()
        .lora(&path, 1.0)
        .strict()
        .open(tiny())
        .unwrap_err();
    assert!(
        refused.to_string().contains("lora_unet_nowhere.alpha"),
        "{refused}"
    );
}

#[test]
fn a_model_written_in_the_other_layout_draws_the_same_picture_to_the_bit() {
    let place = tempfile::tempdir().expect("a folder");
    let (file, back) = (
        place.path().join("a.safetensors"),
        place.path().join("back"),
    );
    let folder = ModelFolder::open(&tiny()).expect("opens");
    folder
        .convert(&file, Layout::Single, None)
        .expect("written");
    let single = ModelFolder::open_file(&file, Some(&tiny())).expect("opens");
    single
        .convert(&back, Layout::Diffusers, None)
        .expect("written");
    let request = request(&run("base_ddim"));
    let draw = |pipeline: Pipeline| pipeline.generate(&request).expect("a picture");
    let expected = draw(builder().open(tiny()).expect("opens"));
    for drawn in [
        draw(builder().config(tiny()).open(&file).expect("opens")),
        draw(builder().open(&back).expect("opens")),
    ] {
        assert_eq!(drawn.latents, expected.latents);
        assert_eq!(drawn.pictures[0].rgb(), expected.pictures[0].rgb());
    }
}

/// The tiny model in a folder of its own, whose `latent.json` names a LoRA for few steps.
fn with_few_steps(place: &Path, named: &str) -> PathBuf {
    for entry in walk(&tiny()) {
        let to = place.join(entry.strip_prefix(tiny()).expect("inside"));
        fs::create_dir_all(to.parent().expect("a folder")).expect("made");
        fs::copy(&entry, to).expect("copied");
    }
    let lora = place.join("few-steps.safetensors");
    fs::copy(adapter("lora_kohya.safetensors"), lora).expect("copied");
    let defaults = format!(
        r#"{{"steps": 9, "guidance": 4.0, "sampler": "ddim", "few_steps": {{"lora": "{named}", "steps": 2}}}}"#
    );
    fs::write(place.join("latent.json"), defaults).expect("written");
    place.to_path_buf()
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let below = |path: PathBuf| match path.is_dir() {
        true => walk(&path),
        false => vec![path],
    };
    paths.flat_map(below).collect()
}

#[test]
fn a_model_with_a_lora_for_few_steps_draws_with_it_only_when_asked() {
    let place = tempfile::tempdir().expect("a folder");
    let model = with_few_steps(place.path(), "few-steps.safetensors");
    let request = || Request::new("a fox").seed(3).size(64, 64);
    let drawn = |builder: Builder, request: Request| {
        let drawn = builder.open(&model).expect("opens").generate(&request);
        drawn.expect("a picture")
    };
    let fast = drawn(builder().few_steps(), request());
    let told = &fast.settings[0];
    assert_eq!((told.steps, told.guidance), (2, 1.0));
    let file = adapter("lora_kohya.safetensors");
    let by_hand = request().steps(2).guidance(1.0);
    let by_hand = by_hand.sampler("ddim").schedule("trailing");
    let by_hand = drawn(builder().lora(file, 1.0), by_hand);
    assert_eq!(fast.latents, by_hand.latents);
    let usual = drawn(builder(), request());
    assert_eq!(
        (usual.settings[0].steps, usual.settings[0].guidance),
        (9, 4.0)
    );
    let own = drawn(builder().few_steps(), request().steps(3).guidance(2.0));
    assert_eq!((own.settings[0].steps, own.settings[0].guidance), (3, 2.0));
}

#[test]
fn a_model_without_a_lora_for_few_steps_says_what_it_lacks() {
    let place = tempfile::tempdir().expect("a folder");
    let message = |model: &Path| {
        let opened = builder().few_steps().open(model);
        opened.expect_err("refused").to_string()
    };
    let plain = message(&tiny());
    assert!(plain.contains("has no LoRA for few steps"), "{plain}");
    let missing = message(&with_few_steps(place.path(), "other.safetensors"));
    assert!(missing.contains("names `other.safetensors`"), "{missing}");
    let outside = message(&with_few_steps(place.path(), "../few-steps.safetensors"));
    assert!(
        outside.contains("names `../few-steps.safetensors`"),
        "{outside}"
    );
}
