//! What leads a U-Net by pictures, part by part: CLIP's image encoder, IP-Adapters, ControlNets for Stable Diffusion XL.
//!
//! `tools/make_adapter_values.py` says how the values were made. Tolerances are those of `parts.rs`; pixels are exact.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Tensor;
use common::{Expected, compute, fixture};
use latent_formats::{Dtype, Picture, SafetensorsWriter, Weights};
use latent_models::{
    ClipVisionModel, ControlNet, FileKind, IpAdapter, ModelFolder, Reads, recognise,
};
use latent_nn::to_host;

fn of_adapter(name: &str) -> PathBuf {
    fixture("ip-adapter").join(name)
}

fn encoder() -> ClipVisionModel {
    ClipVisionModel::load(&of_adapter("image_encoder"), &compute()).unwrap()
}

fn seen(expected: &Expected, name: &str) -> Picture {
    let (levels, shape) = expected.values(&format!("seen/{name}"));
    let rgb = levels.into_iter().map(|level| level as u8).collect();
    Picture::new(shape[1], shape[0], rgb).unwrap()
}

fn unet(model: &str) -> latent_models::UNet2dConditionConfig {
    ModelFolder::open(&fixture(model))
        .unwrap()
        .unet_config()
        .clone()
}

const PICTURES: [&str; 4] = ["wide", "tall", "small", "square"];

#[test]
fn pictures_are_shown_to_the_encoder_as_transformers_shows_them() {
    let (expected, encoder) = (Expected::open("ip-adapter"), encoder());
    for name in PICTURES {
        let pixels = encoder.pixels(&seen(&expected, name), &compute()).unwrap();
        let (values, shape) = expected.values(&format!("pixels/{name}"));
        assert_eq!(pixels.dims().to_vec(), shape);
        // A level is 1 / (255 * 0.27) here; numpy rounds the last digit otherwise.
        let found = to_host(pixels).0;
        let apart = found.iter().zip(&values).map(|(a, b)| (a - b).abs());
        assert!(apart.fold(0.0, f32::max) < 1e-5, "{name}");
    }
}

#[test]
fn the_image_encoder_of_a_folder_and_of_a_file_gives_transformers_values() {
    let expected = Expected::open("ip-adapter");
    let file = of_adapter("image_encoder/model.safetensors");
    for encoder in [encoder(), ClipVisionModel::load(&file, &compute()).unwrap()] {
        for name in PICTURES {
            let states = encoder.forward(expected.tensor(&format!("pixels/{name}")));
            expected.check(&format!("embeds/{name}"), states.embeds);
            expected.check(&format!("states/{name}"), states.penultimate);
        }
    }
}

#[test]
fn the_activation_of_openai_s_encoders_gives_transformers_values() {
    let place = tempfile::tempdir().unwrap();
    let config = fs::read_to_string(of_adapter("image_encoder/config.json")).unwrap();
    let config = config.replace("\"gelu\"", "\"quick_gelu\"");
    fs::write(place.path().join("config.json"), config).unwrap();
    let weights = of_adapter("image_encoder/model.safetensors");
    fs::copy(weights, place.path().join("model.safetensors")).unwrap();
    let encoder = ClipVisionModel::load(place.path(), &compute()).unwrap();
    let expected = Expected::open("ip-adapter");
    let states = encoder.forward(expected.tensor("pixels/wide"));
    expected.check("embeds_quick/wide", states.embeds);
}

/// A file of an encoder of states of this width, of which only sizes matter.
fn encoder_file(place: &Path, width: usize) -> PathBuf {
    let path = place.join("encoder.safetensors");
    let shapes = [
        (
            "vision_model.embeddings.patch_embedding.weight",
            vec![width, 3, 14, 14],
        ),
        (
            "vision_model.embeddings.position_embedding.weight",
            vec![257, width],
        ),
        (
            "vision_model.encoder.layers.0.layer_norm1.weight",
            vec![width],
        ),
        (
            "vision_model.encoder.layers.0.mlp.fc1.weight",
            vec![4 * width, width],
        ),
        ("visual_projection.weight", vec![1024, width]),
    ];
    let values = vec![0.0; 1024 * width + 4 * width * width];
    let mut writer = SafetensorsWriter::new();
    for (name, shape) in &shapes {
        let count: usize = shape.iter().product();
        writer = writer
            .f32(name, shape, &values[..count], Dtype::F16)
            .unwrap();
    }
    writer.write(&path).unwrap();
    path
}

#[test]
fn a_file_without_a_config_is_known_by_the_width_of_published_encoders() {
    let place = tempfile::tempdir().unwrap();
    let refused = |width| {
        let file = encoder_file(place.path(), width);
        let encoder = ClipVisionModel::load(&file, &compute());
        encoder.unwrap_err().to_string()
    };
    // Known, and then found incomplete.
    let known = refused(1280);
    assert!(
        known.contains("lacks") && known.contains("tensors"),
        "{known}"
    );
    let unknown = refused(20);
    assert!(
        unknown.contains("put its `config.json` beside it"),
        "{unknown}"
    );
    let lora = fixture("adapters/lora_kohya.safetensors");
    let message = ClipVisionModel::load(&lora, &compute())
        .unwrap_err()
        .to_string();
    assert!(message.contains("is no image encoder"), "{message}");
    let kind = recognise(&Weights::open(&encoder_file(place.path(), 1280)).unwrap());
    assert_eq!(kind, Some(FileKind::ImageEncoder));
}

#[test]
fn the_tokens_of_every_kind_of_adapter_are_diffusers_own() {
    let (expected, encoder) = (Expected::open("ip-adapter"), encoder());
    let cases = [
        ("ip-adapter_sd15", "safetensors", "sd1-tiny", "wide"),
        ("ip-adapter_sd15", "bin", "sd1-tiny", "wide"),
        ("ip-adapter-plus_sd15", "safetensors", "sd1-tiny", "tall"),
        ("ip-adapter-full_sd15", "safetensors", "sd1-tiny", "small"),
        ("ip-adapter_sdxl", "safetensors", "sdxl-tiny", "wide"),
        ("ip-adapter-plus_sdxl", "safetensors", "sdxl-tiny", "tall"),
    ];
    for (name, ending, model, picture) in cases {
        let file = of_adapter(&format!("{name}.{ending}"));
        let adapter = IpAdapter::load(&file, &unet(model), &compute()).unwrap();
        assert_eq!(adapter.misfit(encoder.config()), None);
        let pixels: Tensor<4> = expected.tensor(&format!("pixels/{picture}"));
        let [wanted, nothing] = adapter.tokens(&encoder, &[pixels]);
        // diffusers has the unwanted ones first.
        let both: Tensor<4> = Tensor::cat(vec![nothing, wanted], 0).unsqueeze_dim(1);
        expected.check(&format!("tokens/{name}"), both);
    }
}

#[test]
fn adapters_for_another_unet_or_encoder_and_files_of_other_kinds_are_refused_by_name() {
    let refused = |file: PathBuf, model: &str| {
        let adapter = IpAdapter::load(&file, &unet(model), &compute());
        adapter.unwrap_err().to_string()
    };
    let message = refused(of_adapter("ip-adapter_sdxl.safetensors"), "sd1-tiny");
    assert!(
        message.contains("is an IP-Adapter for a model with text states of width 56")
            && message.contains("width 32"),
        "{message}"
    );
    let message = refused(fixture("adapters/lora_kohya.safetensors"), "sd1-tiny");
    assert!(
        message.contains("is no IP-Adapter but a LoRA") && message.contains("--lora"),
        "{message}"
    );
    let message = refused(of_adapter("image_encoder"), "sd1-tiny");
    assert!(message.contains("is a folder"), "{message}");
    let message = refused(of_adapter("image_encoder/model.safetensors"), "sd1-tiny");
    assert!(message.contains("--image-encoder"), "{message}");
    let file = of_adapter("ip-adapter_sd15.safetensors");
    let adapter = IpAdapter::load(&file, &unet("sd1-tiny"), &compute()).unwrap();
    assert_eq!(adapter.reads(), Reads::Embeds(12));
    let other = latent_models::ClipVisionConfig::default();
    let reason = adapter.misfit(&other).unwrap();
    assert!(
        reason.contains("width 12") && reason.contains("512"),
        "{reason}"
    );
    let kind = recognise(&Weights::open(&file).unwrap()).unwrap();
    assert_eq!(kind.name(), "ip-adapter");
}

/// A copy of an adapter's file without some tensors, or with others.
fn changed(place: &Path, change: impl Fn(&str) -> Option<String>) -> PathBuf {
    let file = Weights::open(&of_adapter("ip-adapter_sd15.safetensors")).unwrap();
    let path = place.join("changed.safetensors");
    let tensors: Vec<_> = file
        .names()
        .filter_map(|name| {
            let shape = file.describe(name).unwrap().1.to_vec();
            Some((change(name)?, shape, file.read_f32(name).unwrap()))
        })
        .collect();
    let mut writer = SafetensorsWriter::new();
    for (name, shape, values) in &tensors {
        writer = writer.f32(name, shape, values, Dtype::F32).unwrap();
    }
    writer.write(&path).unwrap();
    path
}

#[test]
fn incomplete_adapters_and_those_for_faces_are_refused() {
    let place = tempfile::tempdir().unwrap();
    let refused = |change: &dyn Fn(&str) -> Option<String>| {
        let file = changed(place.path(), change);
        let adapter = IpAdapter::load(&file, &unet("sd1-tiny"), &compute());
        adapter.unwrap_err().to_string()
    };
    let message = refused(&|name| (!name.contains(".21.")).then(|| name.to_owned()));
    assert!(message.contains("layers that look at text"), "{message}");
    let message =
        refused(&|name| Some(name.replace("image_proj.proj.weight", "image_proj.proj.0.weight")));
    assert!(message.contains("FaceID"), "{message}");
    let message = refused(&|name| (!name.contains("norm")).then(|| name.to_owned()));
    assert!(message.contains("lacks 2 of"), "{message}");
    let message = refused(&|name| {
        (!name.contains("image_proj.p")).then(|| name.replace("image_proj.norm", "image_proj.x"))
    });
    assert!(
        message.contains("of a kind that Latent does not know"),
        "{message}"
    );
}

#[test]
fn a_controlnet_for_stable_diffusion_xl_is_the_same_from_a_folder_and_from_files_of_both_layouts() {
    let config = unet("sdxl-tiny");
    let folder = fixture("sdxl-adapters");
    let load = |name: &str| ControlNet::load(&folder.join(name), &config, &compute()).unwrap();
    let whole = load("controlnet");
    let files = [
        "controlnet/diffusion_pytorch_model.safetensors",
        "controlnet_sgm.safetensors",
    ];
    for file in files {
        let single = load(file);
        assert_eq!(single.config(), whole.config());
        let values = |network: &ControlNet| latent_nn::export_parameters(network);
        assert_eq!(values(&single), values(&whole));
    }
    for (path, model) in [
        (folder.join("controlnet_sgm.safetensors"), "sd1-tiny"),
        (folder.join("controlnet"), "sd1-tiny"),
        (fixture("adapters/controlnet_orig.safetensors"), "sdxl-tiny"),
    ] {
        let network = ControlNet::load(&path, &unet(model), &compute());
        let message = network.unwrap_err().to_string();
        assert!(message.contains("is a ControlNet for U-Nets"), "{message}");
    }
    let place = tempfile::tempdir().unwrap();
    let file = changed(place.path(), |name| {
        Some(name.replace("image_proj.norm.bias", "lora_controlnet"))
    });
    let message = ControlNet::load(&file, &config, &compute())
        .unwrap_err()
        .to_string();
    assert!(message.contains("fetch the whole ControlNet"), "{message}");
}
