//! Image to image and inpainting against what diffusers computed with the same tiny models.
//!
//! `fixtures/cut.py` says where the values come from. Tolerances are those of `sd1_tiny.rs`.

use std::fs;
use std::path::{Path, PathBuf};

use latent::{Generated, MicroConditioning, Picture, Pipeline, Precision, Request};
use serde_json::Value;

fn fixtures(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

fn open(folder: &Path) -> Pipeline {
    let builder = Pipeline::builder().device("cpu").precision(Precision::F32);
    builder.open(folder).expect("the tiny model opens")
}

/// A tiny model of `latent-models`.
fn model(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../latent-models/tests/fixtures")
        .join(name)
}

fn sd1() -> Pipeline {
    open(&model("sd1-tiny"))
}

/// What a folder of fixtures holds.
struct Expected {
    cases: Value,
    tensors: Vec<u8>,
}

impl Expected {
    fn open(name: &str) -> Self {
        let text = fs::read_to_string(fixtures(name).join("case.json")).expect("settings");
        // Python writes an infinity that JSON does not know.
        let text = text.replace("-Infinity", "\"-Infinity\"");
        Self {
            cases: serde_json::from_str(&text).expect("JSON"),
            tensors: fs::read(fixtures(name).join("expected.safetensors")).expect("values"),
        }
    }

    fn bytes(&self, key: &str) -> Option<Vec<u8>> {
        let file = safetensors::SafeTensors::deserialize(&self.tensors).expect("safetensors");
        file.tensor(key).ok().map(|tensor| tensor.data().to_vec())
    }

    fn f32(&self, key: &str) -> Vec<f32> {
        let bytes = self.bytes(key).expect(key);
        let value = |b: &[u8]| f32::from_le_bytes(b.try_into().expect("4 bytes"));
        bytes.chunks_exact(4).map(value).collect()
    }

    fn f64(&self, key: &str) -> Vec<f64> {
        let bytes = self.bytes(key).expect(key);
        let value = |b: &[u8]| f64::from_le_bytes(b.try_into().expect("8 bytes"));
        bytes.chunks_exact(8).map(value).collect()
    }

    /// `[1, 3, side, side]` as a picture.
    fn picture(&self) -> Picture {
        let planes = self.bytes("i2i/picture_u8").expect("the picture");
        let plane = planes.len() / 3;
        let rgb = (0..plane).flat_map(|at| [0, 1, 2].map(|c| planes[c * plane + at]));
        Picture::new(plane.isqrt(), plane.isqrt(), rgb.collect()).expect("a picture")
    }

    fn mask(&self) -> Picture {
        let mask = self.bytes("i2i/mask").expect("the mask");
        let rgb = mask.iter().flat_map(|&white| [white * 255; 3]).collect();
        Picture::new(mask.len().isqrt(), mask.len().isqrt(), rgb).expect("a mask")
    }

    /// The request of picture `k` of a run.
    fn request(&self, name: &str, k: usize) -> Request {
        let run = &self.cases["runs"][name];
        let call = &run["call"];
        let text = |key: &str| match &call[key] {
            Value::Array(list) => list[k].as_str().unwrap_or_default().to_owned(),
            other => other.as_str().unwrap_or_default().to_owned(),
        };
        let mut config = run["scheduler_config"].clone();
        config["_class_name"] = run["scheduler_class"].clone();
        let picture = match (name, k) {
            // The fixture's second picture is the first one mirrored.
            ("i2i_ddim_batch2", 1) => self.picture().flip_horizontal(),
            _ => self.picture(),
        };
        let masked = run["tensor_args"]
            .as_array()
            .is_some_and(|args| args.contains(&"mask_image".into()));
        let score = |key: &str| call[key].as_f64().map(|score| score as f32);
        Request {
            micro_conditioning: MicroConditioning {
                aesthetic_score: score("aesthetic_score"),
                negative_aesthetic_score: score("negative_aesthetic_score"),
                ..MicroConditioning::default()
            },
            prompt: text("prompt"),
            negative_prompt: text("negative_prompt"),
            steps: run["steps"].as_u64().map(|steps| steps as usize),
            guidance: call["guidance_scale"].as_f64().map(|scale| scale as f32),
            seeds: run["seeds"][k].as_u64().into_iter().collect(),
            scheduler_config: Some(config),
            strength: call["strength"].as_f64(),
            mask: masked.then(|| self.mask().into()),
            keep_unmasked: masked.then_some(false),
            ..Request::default()
        }
        .init(picture)
    }

    /// Compares picture `k` of a run; the error is the sentence of a failure.
    fn check(&self, name: &str, k: usize, found: &Generated) -> Result<(), String> {
        let timesteps = self.f64(&format!("run/{name}/timesteps_f64"));
        let walked = &timesteps[timesteps.len() - found.timesteps.len()..];
        let same = |(a, b): (&f64, &f64)| (a - b).abs() <= 2e-7 * b.abs();
        if !found.timesteps.iter().zip(walked).all(same) {
            return Err(format!("{name}: timesteps {:?}", found.timesteps));
        }
        let latents = self.f32(&format!("run/{name}/latents_final"));
        let values = found.latents.values();
        let largest = latents.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
        let expected = &latents[k * values.len()..(k + 1) * values.len()];
        let apart = values.iter().zip(expected).map(|(a, b)| (a - b).abs());
        let worst = apart.fold(0.0, f32::max) / largest;
        if worst.is_nan() || worst > 1e-3 {
            return Err(format!("{name}, picture {k}: {worst:e} apart"));
        }
        let Some(pixels) = self.bytes(&format!("run/{name}/image_u8")) else {
            return Ok(());
        };
        let levels = found.pictures[0].rgb().iter().zip(&pixels);
        match levels.map(|(a, b)| a.abs_diff(*b)).max() {
            Some(0 | 1) => Ok(()),
            other => Err(format!("{name}: a pixel differs by {other:?} levels")),
        }
    }
}

/// Checks picture `k` of every run for which `pictures` names it.
fn check_all(expected: &Expected, pipeline: &Pipeline, pictures: impl Fn(&str) -> usize) {
    let runs = expected.cases["runs"].as_object().expect("runs");
    let mut failed = Vec::new();
    for name in runs.keys() {
        for k in 0..pictures(name) {
            let found = pipeline.generate(&expected.request(name, k));
            let found = found.unwrap_or_else(|error| panic!("{name}: {error}"));
            failed.extend(expected.check(name, k, &found).err());
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn image_to_image_and_inpainting_equal_diffusers() {
    let expected = Expected::open("sd1-tiny-modes");
    check_all(&expected, &sd1(), |name| {
        1 + usize::from(name.ends_with("batch2"))
    });
}

#[test]
fn stable_diffusion_xl_and_its_refiner_start_from_pictures_as_diffusers_does() {
    for name in ["sdxl-tiny", "sdxl-refiner-tiny"] {
        let expected = Expected::open(&format!("{name}-modes"));
        check_all(&expected, &open(&model(name)), |_| 1);
    }
}

/// The second pass is image to image, and told the larger size.
#[test]
fn a_second_pass_of_stable_diffusion_xl_is_told_its_own_size() {
    let pipeline = open(&model("sdxl-tiny"));
    let small = Request::new("a fox").steps(2).size(32, 32);
    let large = small.clone().hires(latent::Hires::new(2.0));
    let drawn = |request: &Request| pipeline.generate(request).expect("drawn");
    let own = drawn(&large);
    assert_eq!((own.pictures[0].width(), own.latents.shape()[2]), (64, 16));
    let told = |size| {
        let mut request = large.clone();
        request.micro_conditioning.original_size = Some(size);
        request.micro_conditioning.target_size = Some(size);
        drawn(&request).latents
    };
    assert_ne!(own.latents, told([32, 32]));
}

/// The base draws over the picture, the refiner ends the same run.
#[test]
fn a_refiner_goes_on_from_image_to_image_and_is_refused_with_masks_and_second_passes() {
    let both = || {
        let base = open(&model("sdxl-tiny"));
        let refiner = open(&model("sdxl-refiner-tiny"));
        base.with_refiner(refiner).expect("they fit")
    };
    let expected = Expected::open("sdxl-tiny-modes");
    let request = Request::new("a fox").steps(10);
    let started = request.clone().init(expected.picture()).strength(0.6);
    let drawn = both().generate(&started).expect("drawn");
    assert_eq!(drawn.timesteps.len(), 6);
    let falls = |pair: &[f64]| pair[0] > pair[1];
    assert!(
        drawn.timesteps.windows(2).all(falls),
        "{:?}",
        drawn.timesteps
    );
    let masked = started.mask(expected.mask());
    for (request, word) in [
        (masked, "mask"),
        (
            request.size(32, 32).hires(latent::Hires::new(2.0)),
            "larger size",
        ),
    ] {
        let error = both().generate(&request).unwrap_err().to_string();
        assert!(error.contains(word) && error.contains("refiner"), "{error}");
    }
}

/// Of a batch diffusers draws the masked picture's latents from the first picture's generator for all of them; here
/// each picture is what it is alone, so only the first can be compared.
#[test]
fn an_inpainting_model_equals_diffusers() {
    let expected = Expected::open("sd1-inpaint-tiny");
    check_all(&expected, &open(&fixtures("sd1-inpaint-tiny")), |_| 1);
}

#[test]
fn an_inpainting_checkpoint_of_one_file_draws_what_its_folder_draws_to_the_bit() {
    let folder = fixtures("sd1-inpaint-tiny");
    let single = Pipeline::builder()
        .device("cpu")
        .precision(Precision::F32)
        .config(&folder)
        .open(folder.join("twin/model_ldm.ckpt"))
        .expect("the checkpoint opens");
    let request = Expected::open("sd1-inpaint-tiny").request("ddim_s075", 0);
    let drawn = |pipeline: &Pipeline| pipeline.generate(&request).expect("drawn").latents;
    assert_eq!(drawn(&single), drawn(&open(&folder)));
}

#[test]
fn an_inpainting_model_draws_from_words_alone_as_with_a_white_mask() {
    let pipeline = open(&fixtures("sd1-inpaint-tiny"));
    let words = Request::new("a fox").seed(3).steps(2).size(64, 64);
    let white = Picture::filled(64, 64, [255; 3]).expect("a mask");
    let masked = words.clone().init(white.clone()).mask(white);
    let drawn = |request: &Request| pipeline.generate(request).expect("drawn");
    assert_eq!(drawn(&words).latents, drawn(&masked).latents);
    let large = words.hires(latent::Hires::new(1.5));
    assert_eq!(drawn(&large).pictures[0].width(), 96);
}

#[test]
fn latents_outside_a_mask_are_the_pictures_own() {
    let (pipeline, expected) = (sd1(), Expected::open("sd1-tiny-modes"));
    let request = Request::new("x")
        .init(expected.picture())
        .mask(expected.mask())
        .seed(5)
        .steps(3);
    let found = pipeline.generate(&request).expect("drawn").latents;
    let own = pipeline
        .encode_sampled(&expected.picture(), 5)
        .expect("encoded");
    assert_eq!(
        found.values()[..8],
        own.values()[..8],
        "the first row is kept"
    );
    assert_ne!(found.values(), own.values());
}
