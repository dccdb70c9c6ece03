//! Whole runs that are led by pictures, against what diffusers computed with the same tiny models: IP-Adapters, and
//! ControlNets and inpainting of Stable Diffusion XL.
//!
//! `tools/make_adapter_values.py` says how the values were made. Final latents agree to 1e-3 of the largest in f32.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::furthest;
use latent::{Builder, Control, Generated, ImagePrompt, Picture, Pipeline, Precision, Request};
use latent_formats::{Dtype, SafetensorsWriter, Weights};
use serde_json::Value;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../latent-models/tests/fixtures")
        .join(name)
}

fn builder() -> Builder {
    Pipeline::builder().device("cpu").precision(Precision::F32)
}

/// What a folder of fixtures holds.
struct Expected {
    cases: Value,
    values: Weights,
}

impl Expected {
    fn open(name: &str) -> Self {
        let text = fs::read_to_string(fixture(name).join("case.json")).expect("settings");
        Self {
            cases: serde_json::from_str(&text).expect("JSON"),
            values: Weights::open(&fixture(name).join("expected.safetensors")).expect("values"),
        }
    }

    fn run(&self, name: &str) -> &Value {
        &self.cases["runs"][name]
    }

    /// A stored picture `[h, w, 3]`, or a mask `[h, w]` in white.
    fn picture(&self, name: &str) -> Picture {
        let shape = self.values.describe(name).expect(name).1.to_vec();
        let levels = self.values.read_f32(name).expect(name);
        let rgb = match shape.len() {
            3 => levels.into_iter().map(|level| level as u8).collect(),
            _ => levels.iter().flat_map(|&v| [v as u8 * 255; 3]).collect(),
        };
        Picture::new(shape[1], shape[0], rgb).expect("a picture")
    }

    fn request(&self, name: &str) -> Request {
        let run = self.run(name);
        let call = &run["call"];
        let mut config = run["scheduler_config"].clone();
        config["_class_name"] = run["scheduler_class"].clone();
        let word = |key: &str| call[key].as_str().unwrap_or_default().to_owned();
        let size = |key: &str| call[key].as_u64().map(|side| side as usize);
        Request {
            prompt: word("prompt"),
            negative_prompt: word("negative_prompt"),
            width: size("width"),
            height: size("height"),
            steps: run["steps"].as_u64().map(|steps| steps as usize),
            guidance: call["guidance_scale"].as_f64().map(|value| value as f32),
            seeds: vec![run["seeds"][0].as_u64().expect("a seed")],
            scheduler_config: Some(config),
            ..Request::default()
        }
    }

    /// Fails unless the latents are those of the run.
    #[track_caller]
    fn check(&self, name: &str, drawn: &Generated) {
        let latents = self.values.read_f32(&format!("run/{name}/latents_final"));
        let apart = furthest(drawn.latents.values(), &latents.expect("latents"));
        assert!(apart <= 1e-3, "{name}: {apart:e} of the largest value");
    }
}

/// The adapters of a run and the pictures they look at.
fn image_prompts(expected: &Expected, run: &Value, ending: &str) -> Vec<ImagePrompt> {
    let list = |key: &str| run[key].as_array().expect(key).clone();
    let (adapters, pictures) = (list("adapters"), list("pictures"));
    let picture = |name: &Value| {
        let name = name.as_str().expect("a name");
        expected.picture(&format!("seen/{name}"))
    };
    let each = adapters.iter().zip(list("scales")).enumerate();
    each.map(|(index, (adapter, scale))| {
        let name = format!("ip-adapter/{}.{ending}", adapter.as_str().expect("a name"));
        let own = match adapters.len() {
            1 => pictures.iter().map(picture).collect(),
            _ => vec![picture(&pictures[index])],
        };
        let window = |k: usize| run["window"][k].as_f64();
        ImagePrompt {
            strength: scale.as_f64().expect("a strength") as f32,
            start: window(0).unwrap_or(0.0),
            end: window(1).unwrap_or(1.0),
            ..ImagePrompt::new(fixture(&name), own)
        }
    })
    .collect()
}

fn looking(prompts: Vec<ImagePrompt>) -> Builder {
    prompts.into_iter().fold(builder(), Builder::image_prompt)
}

fn model_of(run: &str) -> PathBuf {
    fixture(if run.starts_with("sdxl") {
        "sdxl-tiny"
    } else {
        "sd1-tiny"
    })
}

#[test]
fn every_run_with_image_prompts_equals_diffusers() {
    let expected = Expected::open("ip-adapter");
    for (name, run) in expected.cases["runs"].as_object().expect("runs") {
        let prompts = image_prompts(&expected, run, "safetensors");
        let pipeline = looking(prompts).open(model_of(name)).expect("opens");
        let drawn = pipeline.generate(&expected.request(name)).expect("drawn");
        expected.check(name, &drawn);
    }
}

#[test]
fn a_pickled_adapter_and_a_named_encoder_draw_the_same_bits() {
    let expected = Expected::open("ip-adapter");
    let run = expected.run("sd1_plain");
    let draw = |builder: Builder| {
        let pipeline = builder.open(model_of("sd1_plain")).expect("opens");
        pipeline
            .generate(&expected.request("sd1_plain"))
            .expect("drawn")
    };
    let plain = draw(looking(image_prompts(&expected, run, "safetensors")));
    let encoder = fixture("ip-adapter/image_encoder/model.safetensors");
    let pickled = looking(image_prompts(&expected, run, "bin")).image_encoder(encoder);
    assert_eq!(draw(pickled).latents, plain.latents);
    assert_eq!(
        plain.settings[0].adapters,
        ["ip-adapter ip-adapter_sd15:0.6"]
    );
}

#[test]
fn a_window_is_named_in_the_settings_and_pictures_of_a_batch_are_those_drawn_alone() {
    let expected = Expected::open("ip-adapter");
    let prompts = image_prompts(&expected, expected.run("sd1_window"), "safetensors");
    let pipeline = looking(prompts)
        .open(model_of("sd1_window"))
        .expect("opens");
    let draw = |seeds: &[u64]| {
        let request = Request {
            seeds: seeds.to_vec(),
            ..expected.request("sd1_window")
        };
        pipeline.generate(&request).expect("drawn")
    };
    let (together, alone) = (draw(&[3, 11]), draw(&[11]));
    assert_eq!(together.pictures[1].rgb(), alone.pictures[0].rgb());
    expected.check("sd1_window", &alone);
    let text = alone.settings[0].parameters();
    assert!(
        text.contains("ip-adapter ip-adapter_sd15:0.9 from 0.2 to 0.7"),
        "{text}"
    );
}

/// Words of different lengths are shown to the network apart, and change on the way.
#[test]
fn image_prompts_go_with_changing_prompts_second_passes_and_without_guidance() {
    let expected = Expected::open("ip-adapter");
    let prompts = image_prompts(&expected, expected.run("sd1_plus"), "safetensors");
    let pipeline = looking(prompts).open(model_of("sd1_plus")).expect("opens");
    let plain = builder().open(model_of("sd1_plus")).expect("opens");
    let long = format!("a fox [in snow:in fog:0.5] {}", "and more ".repeat(50));
    let compat = latent::sampling::Compat::A1111;
    for request in [
        Request {
            compat,
            ..Request::new(long)
        },
        Request::new("a fox").hires(latent::Hires::new(1.5)),
        Request {
            guidance: Some(1.0),
            ..Request::new("a fox")
        },
    ] {
        let request = request.steps(3).size(64, 64).seed(5);
        let seen = pipeline.generate(&request).expect("drawn");
        let blind = plain.generate(&request).expect("drawn");
        assert_ne!(seen.latents, blind.latents);
    }
}

#[test]
fn image_prompts_that_cannot_be_seen_are_refused_with_what_to_do() {
    let expected = Expected::open("ip-adapter");
    let picture = || vec![expected.picture("seen/square")];
    let adapter = fixture("ip-adapter/ip-adapter_sd15.safetensors");
    let refused = |builder: Builder, model: &str| {
        let opened = builder.open(fixture(model));
        opened.expect_err("refused").to_string()
    };
    let place = tempfile::tempdir().expect("a folder");
    let alone = place.path().join("ip-adapter_sd15.safetensors");
    fs::copy(&adapter, &alone).expect("copied");
    let message = refused(
        looking(vec![ImagePrompt::new(alone, picture())]),
        "sd1-tiny",
    );
    assert!(message.contains("--image-encoder"), "{message}");
    let shown = || ImagePrompt::new(&adapter, picture());
    let message = refused(looking(vec![shown()]), "sdxl-tiny");
    assert!(message.contains("is an IP-Adapter for"), "{message}");
    let message = refused(builder().image_encoder("a"), "sd1-tiny");
    assert!(message.contains("--ip-adapter"), "{message}");
    let none = ImagePrompt::new(&adapter, Vec::new());
    let message = refused(looking(vec![none]), "sd1-tiny");
    assert!(message.contains("no picture"), "{message}");
    for (strength, start, end) in [(f32::NAN, 0.0, 1.0), (1.0, 0.5, 0.5), (1.0, -0.1, 1.0)] {
        let prompt = ImagePrompt {
            strength,
            start,
            end,
            ..shown()
        };
        let message = refused(looking(vec![prompt]), "sd1-tiny");
        assert!(message.contains("IP-Adapter"), "{message}");
    }
}

#[test]
fn controlnets_of_stable_diffusion_xl_equal_diffusers() {
    let expected = Expected::open("sdxl-adapters");
    let check = |name: &str, builder: Builder| {
        let pipeline = builder.open(fixture("sdxl-tiny")).expect("opens");
        let drawn = pipeline.generate(&expected.request(name)).expect("drawn");
        expected.check(name, &drawn);
    };
    for model in ["controlnet", "controlnet_sgm.safetensors"] {
        let control = |picture: &str| {
            let path = fixture("sdxl-adapters").join(model);
            Control::new(path, expected.picture(&format!("seen/{picture}")))
        };
        check("controlnet", builder().control(control("a")));
        let window = Control {
            strength: 0.6,
            start: 0.2,
            end: 0.7,
            ..control("a")
        };
        check("controlnet_window", builder().control(window));
        let guess = Control {
            guess: true,
            ..control("a")
        };
        check("controlnet_guess", builder().control(guess));
        let [first, second] = [("a", 0.5), ("b", 0.8)].map(|(name, strength)| Control {
            strength,
            ..control(name)
        });
        check("controlnet_two", builder().control(first).control(second));
    }
}

/// A copy of a weights file with one tensor replaced.
fn with_tensor(from: &Path, name: &str, to: &Path) {
    let file = Weights::open(from).expect("weights");
    let other = fixture("sdxl-adapters/inpainting_conv_in.safetensors");
    let other = Weights::open(&other).expect("weights");
    let mut tensors = Vec::new();
    for key in file.names() {
        let (source, own) = match key == name {
            true => (&other, "conv_in.weight"),
            false => (&file, key),
        };
        let shape = source.describe(own).expect("there").1.to_vec();
        let values = source.read_f32(own).expect("values");
        tensors.push((key.to_owned(), shape, values));
    }
    let mut writer = SafetensorsWriter::new();
    for (key, shape, values) in &tensors {
        writer = writer
            .f32(key, shape, values, Dtype::F16)
            .expect("a tensor");
    }
    writer.write(to).expect("written");
}

/// The tiny model of Stable Diffusion XL as its inpainting model is published.
fn inpainting_folder(place: &Path) -> PathBuf {
    let (from, to) = (fixture("sdxl-tiny"), place.join("inpainting"));
    let parts = [
        "unet",
        "vae",
        "text_encoder",
        "text_encoder_2",
        "tokenizer",
        "tokenizer_2",
        "scheduler",
    ];
    for part in parts {
        fs::create_dir_all(to.join(part)).expect("a folder");
        for file in fs::read_dir(from.join(part)).expect("a folder").flatten() {
            fs::copy(file.path(), to.join(part).join(file.file_name())).expect("copied");
        }
    }
    let changed = |file: &str, old: &str, new: &str| {
        let text = fs::read_to_string(from.join(file)).expect("a config");
        assert!(text.contains(old), "{file}");
        fs::write(to.join(file), text.replace(old, new)).expect("written");
    };
    changed(
        "unet/config.json",
        "\"in_channels\": 4",
        "\"in_channels\": 9",
    );
    changed(
        "model_index.json",
        "StableDiffusionXLPipeline",
        "StableDiffusionXLInpaintPipeline",
    );
    let weights = "unet/diffusion_pytorch_model.safetensors";
    with_tensor(&from.join(weights), "conv_in.weight", &to.join(weights));
    to
}

fn inpainting(expected: &Expected, name: &str) -> Request {
    let request = Request {
        width: None,
        height: None,
        strength: expected.run(name)["call"]["strength"].as_f64(),
        mask: Some(expected.picture("inpaint/mask").into()),
        keep_unmasked: Some(false),
        ..expected.request(name)
    };
    request.init(expected.picture("inpaint/picture"))
}

#[test]
fn an_inpainting_model_of_stable_diffusion_xl_equals_diffusers_as_folder_and_as_file() {
    let place = tempfile::tempdir().expect("a folder");
    let (folder, expected) = (
        inpainting_folder(place.path()),
        Expected::open("sdxl-adapters"),
    );
    let file = place.path().join("inpainting.safetensors");
    let first = "model.diffusion_model.input_blocks.0.0.weight";
    with_tensor(&fixture("sdxl-tiny/model_sgm.safetensors"), first, &file);
    let whole = builder().open(&folder).expect("opens");
    let single = builder().config(&folder).open(&file).expect("opens");
    for name in ["inpaint_ddim", "inpaint_euler_full"] {
        let request = inpainting(&expected, name);
        let drawn = whole.generate(&request).expect("drawn");
        expected.check(name, &drawn);
        let same = single.generate(&request).expect("drawn");
        assert_eq!(same.latents, drawn.latents);
    }
}

/// A ControlNet beside it sees the noisy latents alone, as in diffusers' pipelines for both.
#[test]
fn a_controlnet_steers_an_inpainting_model() {
    let place = tempfile::tempdir().expect("a folder");
    let (folder, expected) = (
        inpainting_folder(place.path()),
        Expected::open("sdxl-adapters"),
    );
    let request = inpainting(&expected, "inpaint_ddim");
    let draw = |builder: Builder| {
        let pipeline = builder.open(&folder).expect("opens");
        pipeline.generate(&request).expect("drawn").latents
    };
    let control = Control::new(
        fixture("sdxl-adapters/controlnet"),
        expected.picture("seen/a"),
    );
    let nothing = Control {
        strength: 0.0,
        ..control.clone()
    };
    let plain = draw(builder());
    assert_eq!(draw(builder().control(nothing)), plain);
    assert_ne!(draw(builder().control(control)), plain);
}
