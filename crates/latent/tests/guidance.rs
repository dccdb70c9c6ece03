//! Guidance beside the plain one, and deep features kept between steps, against what diffusers, DeepCache and the published
//! formulas give.
//!
//! `tools/make_guidance_values.py` made the values. Final latents are within 1e-3 of the largest expected value in f32.
mod common;

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use common::{Tiny, floats, furthest};
use latent::sampling::guidance::{Apg, Interval, Method, Pag, Thresholding};
use latent::{Pipeline, Precision, Request};
use serde_json::Value;

const SD1: Tiny = Tiny("sd1-tiny");

fn values() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/guidance")
}

/// Draws every case whose name begins with one of these, and compares its latents.
fn meets(beginnings: &[&str]) {
    let text = fs::read_to_string(values().join("case.json")).expect("the cases");
    let cases: BTreeMap<String, Value> = serde_json::from_str(&text).expect("JSON");
    let bytes = fs::read(values().join("expected.safetensors")).expect("expected values");
    let expected = safetensors::SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let mut pipelines: BTreeMap<&'static str, Pipeline> = BTreeMap::new();
    let (mut met, mut failed) = (0, Vec::new());
    for (name, case) in cases {
        if !beginnings.iter().any(|one| name.starts_with(one)) {
            continue;
        }
        let models = ["sd1-tiny", "sd2-tiny", "sdxl-tiny"];
        let model = models.into_iter().find(|one| case["model"] == *one);
        let model = model.expect("a tiny model");
        let pipeline = pipelines
            .entry(model)
            .or_insert_with(|| Tiny(model).pipeline());
        let request = Request::from_json(&case["request"].to_string()).expect("a request");
        let found = pipeline.generate(&request).expect("drawn");
        let expected = floats(expected.tensor(&name).expect("latents").data());
        let off = furthest(found.latents.values(), &expected);
        if off.is_nan() || off > 1e-3 {
            failed.push(format!("{name}: {off:e}"));
        }
        met += 1;
    }
    assert!(met > 0, "no case begins with {beginnings:?}");
    assert!(failed.is_empty(), "{} of {met}: {failed:?}", failed.len());
}

#[test]
fn perturbed_attention_equals_diffusers() {
    meets(&["pag"]);
}

#[test]
fn an_interval_equals_diffusers_and_its_paper() {
    meets(&["interval"]);
}

#[test]
fn adaptive_projected_guidance_equals_diffusers() {
    meets(&["apg"]);
}

#[test]
fn cfg_plus_plus_equals_its_paper() {
    meets(&["plus_plus"]);
}

#[test]
fn thresholding_equals_its_formulas() {
    meets(&["mimic", "imagen"]);
}

#[test]
fn zeros_and_words_that_change_stand_for_what_is_unwanted() {
    meets(&["zeros", "negative"]);
}

#[test]
fn deep_features_are_kept_as_deepcache_keeps_them() {
    meets(&["cache"]);
}

fn base() -> Request {
    Request::new("a fox")
        .seed(3)
        .steps(6)
        .guidance(5.0)
        .sampler("ddim")
}

#[test]
fn what_changes_nothing_leaves_every_bit() {
    let pipeline = SD1.pipeline();
    let latents = |request: &Request| pipeline.generate(request).expect("drawn").latents;
    let plain = latents(&base());
    for same in [
        base().pag(0.0),
        base().guidance_interval(0.0, 1.0),
        base().cache_interval(1),
        base().guidance_method(Method::Cfg),
    ] {
        assert_eq!(latents(&same), plain);
    }
}

#[test]
fn every_picture_of_a_batch_is_the_one_it_is_alone() {
    let pipeline = SD1.pipeline();
    let request = Request {
        apg: Some(Apg::default()),
        thresholding: Some(Thresholding {
            percentile: 0.95,
            mimic: Some(3.0),
        }),
        ..base()
            .guidance_method(Method::Apg)
            .pag(2.0)
            .guidance_interval(0.2, 0.8)
            .cache_interval(2)
    };
    let both = pipeline
        .generate(&request.clone().with_seeds([3, 4]))
        .expect("drawn");
    for (index, seed) in [3, 4].into_iter().enumerate() {
        let alone = pipeline.generate(&request.clone().seed(seed));
        let alone = alone.expect("drawn");
        assert_eq!(alone.pictures[0].rgb(), both.pictures[index].rgb());
    }
}

#[test]
fn prompts_at_once_are_perturbed_each() {
    let pipeline = SD1.pipeline();
    let of = |prompt: &str| {
        let request = Request {
            prompt: prompt.into(),
            weights: Some(latent::models::Weights::A1111),
            ..base().pag(3.0)
        };
        pipeline.generate(&request).expect("drawn").latents
    };
    // Halves of the same make a whole one.
    let (one, two) = (of("a fox"), of("a fox :0.5 AND a fox :0.5"));
    assert!(furthest(one.values(), two.values()) < 1e-4);
    assert!(furthest(of("a fox AND a cat").values(), one.values()) > 1e-2);
}

#[test]
fn what_cannot_be_guided_so_is_refused_with_what_to_do() {
    let pipeline = SD1.pipeline();
    let layers = |name: &str| Request {
        pag: Some(Pag {
            layers: vec![name.into()],
            ..Pag::default()
        }),
        ..base()
    };
    let joined = Request {
        prompt: "a fox AND snow".into(),
        weights: Some(latent::models::Weights::A1111),
        ..base().guidance_interval(0.2, 0.8)
    };
    let branch = Request {
        cache: Some(latent::FeatureCache {
            interval: 2,
            branch: 9,
        }),
        ..base()
    };
    let plus_plus = base()
        .guidance_method(Method::CfgPlusPlus)
        .guidance(0.6)
        .sampler("dpmpp_2m");
    let cases = [
        (
            layers("down.2"),
            "down_blocks.0, down_blocks.1, mid_block, up_blocks.1",
        ),
        (layers("middle"), "`middle`"),
        (joined, "AND"),
        (branch, "branches 0 to 8"),
        (plus_plus, "`ddim`, `euler` or `euler_a`"),
    ];
    for (request, words) in cases {
        let error = pipeline.generate(&request).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn without_guidance_it_is_said_what_has_no_effect() {
    let pipeline = SD1.pipeline();
    let request = base()
        .guidance(1.0)
        .guidance_method(Method::Apg)
        .guidance_interval(0.2, 0.8);
    let warnings = pipeline.generate(&request).expect("drawn").warnings;
    for name in ["guidance_method", "guidance_interval"] {
        assert!(
            warnings.iter().any(|one| one.contains(name)),
            "{warnings:?}"
        );
    }
    let perturbed = base().guidance(1.0).pag(3.0).guidance_interval(0.2, 0.8);
    let warnings = pipeline.generate(&perturbed).expect("drawn").warnings;
    assert_eq!(warnings, Vec::<String>::new());
}

#[test]
fn a_model_with_guidance_built_in_refuses_other_guidance() {
    let folder = tempfile::tempdir().expect("a folder");
    let distilled = distilled(folder.path());
    let pipeline = Pipeline::builder()
        .device("cpu")
        .precision(Precision::F32)
        .open(&distilled)
        .expect("opens");
    pipeline.generate(&base()).expect("drawn");
    pipeline
        .generate(&base().cache_interval(2))
        .expect("drawn, features being no guidance");
    let interval = Interval::from_text("0.2:0.8").expect("an interval");
    for request in [
        base().pag(3.0),
        base().guidance_method(Method::Apg),
        base().guidance_method(Method::CfgPlusPlus).guidance(0.6),
        Request {
            guidance_interval: Some(interval),
            ..base()
        },
        Request {
            thresholding: Some(Thresholding::default()),
            ..base()
        },
    ] {
        let error = pipeline.generate(&request).unwrap_err().to_string();
        assert!(error.contains("built in"), "{error}");
    }
}

/// A copy of the tiny model whose U-Net is told the strength of guidance, by a layer of zeros.
fn distilled(folder: &Path) -> PathBuf {
    let to = folder.join("distilled");
    copy(&SD1.folder(), &to);
    let config = to.join("unet/config.json");
    let text = fs::read_to_string(&config).expect("a config");
    let mut value: Value = serde_json::from_str(&text).expect("JSON");
    value["time_cond_proj_dim"] = 4.into();
    fs::write(&config, value.to_string()).expect("written");
    let file = to.join("unet/diffusion_pytorch_model.safetensors");
    let bytes = fs::read(&file).expect("weights");
    let weights = safetensors::SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let zeros = vec![0u8; 8 * 4 * 4];
    let layer = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![8, 4], &zeros);
    let mut tensors: Vec<(String, safetensors::tensor::TensorView<'_>)> = weights.tensors();
    tensors.push((
        "time_embedding.cond_proj.weight".into(),
        layer.expect("a layer"),
    ));
    let bytes = safetensors::serialize(tensors, None).expect("written");
    fs::write(&file, bytes).expect("written");
    to
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    for entry in fs::read_dir(from).expect("a folder").flatten() {
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &target),
            false => fs::write(&target, fs::read(entry.path()).expect("read")).expect("written"),
        }
    }
}

#[test]
fn outside_its_interval_a_run_does_not_look_at_what_is_unwanted() {
    let pipeline = SD1.pipeline();
    let mut latents = Vec::new();
    for negative in ["fog", "rain"] {
        let request = base().negative_prompt(negative).guidance_interval(0.5, 1.0);
        let mut first = None;
        let stopped = pipeline.generate_with(&request, |progress| {
            first.get_or_insert(progress.latents());
            match progress.done {
                3 => {
                    latents.push(progress.latents());
                    ControlFlow::Continue(())
                }
                4 => {
                    latents.push(progress.latents());
                    ControlFlow::Break(())
                }
                _ => ControlFlow::Continue(()),
            }
        });
        assert!(stopped.is_err(), "it was stopped");
    }
    assert_eq!(latents[0], latents[2]);
    assert_ne!(latents[1], latents[3]);
}
