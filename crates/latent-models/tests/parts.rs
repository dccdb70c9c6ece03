//! Every part of a model against what Python's diffusers computes.

mod common;

use burn::tensor::Tensor;
use common::{Expected, compute, fixture};
use latent_models::{
    Autoencoder, AutoencoderKl, ClipTextModel, ModelFolder, UNet2dCondition, UNetCondition, VqModel,
};
use latent_nn::{export_parameters, ops};

const STABLE_DIFFUSION: [&str; 2] = ["sd1-tiny", "sd2-tiny"];

#[test]
fn text_states_meet_transformers() {
    for model in STABLE_DIFFUSION {
        let expected = Expected::open(model);
        let encoder =
            ClipTextModel::load(&fixture(model).join("text_encoder"), &compute()).unwrap();
        let ids = compute().ids(&expected.integers("text/ids"), [4, 77]);
        let states = encoder.forward(ids.clone());
        expected.check("text/last", states.last);
        expected.check("text/penultimate", states.penultimate.clone());
        expected.check("text/pooled", states.pooled);
        expected.check("text/last", encoder.forward_skip(ids, 0));
    }
}

#[test]
fn a_skipped_layer_leaves_the_penultimate_states_normalised() {
    let expected = Expected::open("sd1-tiny");
    let encoder = ClipTextModel::load(&fixture("sd1-tiny/text_encoder"), &compute()).unwrap();
    let ids = compute().ids(&expected.integers("text/ids"), [4, 77]);
    let (skipped, _) = latent_nn::to_host(encoder.forward_skip(ids, 1));
    // The norm's definition, with the file's weights, on transformers' penultimate states.
    let weights =
        latent_formats::Weights::open(&fixture("sd1-tiny/text_encoder/model.safetensors")).unwrap();
    let gamma = weights
        .read_f32("text_model.final_layer_norm.weight")
        .unwrap();
    let beta = weights
        .read_f32("text_model.final_layer_norm.bias")
        .unwrap();
    let mut normed = Vec::new();
    for row in expected
        .values("text/penultimate")
        .0
        .chunks_exact(gamma.len())
    {
        let mean = row.iter().sum::<f32>() / row.len() as f32;
        let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / row.len() as f32;
        let values = row.iter().zip(gamma.iter().zip(&beta));
        normed.extend(values.map(|(x, (g, b))| (x - mean) / (variance + 1e-5).sqrt() * g + b));
    }
    common::close("skipped", &skipped, &normed, 1e-4);
}

#[test]
fn the_unet_and_each_of_its_levels_meet_diffusers() {
    for model in STABLE_DIFFUSION {
        let expected = Expected::open(model);
        let unet = UNet2dCondition::load(&fixture(model).join("unet"), &compute()).unwrap();
        let timesteps = expected.values("unet/timestep").0;
        let text = UNetCondition::Text(expected.tensor("unet/encoder_hidden_states"));
        let context = unet.prepare(text, 2);
        let mut seen = Vec::new();
        let sample = expected.tensor("unet/sample");
        let out = unet.forward_watched(sample, &timesteps, &context, &mut |name, x| {
            expected.check(&format!("unet/trace/{name}"), ops::to_nchw(x.clone()));
            seen.push(name.to_owned());
        });
        expected.check("unet/out", out);
        assert_eq!(
            seen.len(),
            8,
            "conv_in, three levels down, the middle, three up: {seen:?}"
        );
    }
}

#[test]
fn a_unet_told_classes_meets_diffusers_at_odd_sizes() {
    let expected = Expected::open("class-tiny");
    let unet = UNet2dCondition::load(&fixture("class-tiny/unet"), &compute()).unwrap();
    let labels = compute().ids(&expected.integers("labels"), [2, 1]);
    let timesteps = expected.values("timestep").0;
    let out = unet.forward(
        expected.tensor("sample"),
        &timesteps,
        UNetCondition::Class(labels),
    );
    expected.check("out", out);
}

#[test]
fn a_unet_told_nothing_meets_diffusers_at_odd_sizes() {
    let expected = Expected::open("unconditional-tiny");
    let unet = UNet2dCondition::load(&fixture("unconditional-tiny/unet"), &compute()).unwrap();
    let timesteps = expected.values("timestep").0;
    expected.check(
        "out",
        unet.forward(expected.tensor("sample"), &timesteps, UNetCondition::None),
    );
}

/// The fixtures' picture as `[-1, 1]`.
fn picture(expected: &Expected) -> Tensor<4> {
    expected.tensor::<4>("vae/picture_u8") / 255.0 * 2.0 - 1.0
}

#[test]
fn encoding_meets_diffusers() {
    for model in STABLE_DIFFUSION {
        let expected = Expected::open(model);
        let autoencoder = AutoencoderKl::load(&fixture(model).join("vae"), &compute()).unwrap();
        let moments = autoencoder.encode(picture(&expected));
        expected.check(
            "vae/moments",
            Tensor::cat(vec![moments.mean.clone(), moments.logvar.clone()], 1),
        );
        expected.check("vae/std", moments.std());
        // The noise that diffusers drew, from its own sample.
        let noise = (expected.tensor::<4>("vae/sample") - expected.tensor("vae/mean"))
            / expected.tensor("vae/std");
        expected.check("vae/sample", moments.sample(noise));
        expected.check("vae/mean", moments.mean);
    }
}

#[test]
fn decoding_meets_diffusers_at_even_and_odd_sizes() {
    for model in STABLE_DIFFUSION {
        let expected = Expected::open(model);
        let autoencoder = Autoencoder::load(&fixture(model).join("vae"), &compute()).unwrap();
        assert_eq!(
            (autoencoder.downsampling(), autoencoder.latent_channels()),
            (8, 4)
        );
        for size in ["", "_odd"] {
            let latents = expected.tensor(&format!("vae/latents{size}"));
            expected.check(&format!("vae/decoded{size}"), autoencoder.decode(latents));
        }
    }
}

#[test]
fn the_autoencoder_with_a_codebook_meets_diffusers() {
    let expected = Expected::open("vq-tiny");
    let model = VqModel::load(&fixture("vq-tiny/vae"), &compute()).unwrap();
    let latents = model.encode(expected.tensor("x"));
    expected.check("latents", latents.clone());
    let found = model.quantize(latents.clone());
    assert_eq!(found.indices, expected.integers("indices"));
    expected.check("quantized", found.quantized);
    expected.check("decoded", model.decode(latents));
}

/// The same weights under the names and in the packing of the code that trained Stable Diffusion 2, one text layer more.
#[test]
fn a_checkpoint_of_stable_diffusion_2_has_the_parameters_of_its_folder() {
    let folder = fixture("sd2-tiny");
    let whole = ModelFolder::open(&folder).unwrap();
    let single =
        ModelFolder::open_file(&folder.join("model_ldm.safetensors"), Some(&folder)).unwrap();
    let texts = [&whole, &single].map(|model| model.text_encoder(&compute()).unwrap().unwrap());
    assert_eq!(export_parameters(&texts[0]), export_parameters(&texts[1]));
    let unets = [&whole, &single].map(|model| model.unet(&compute()).unwrap());
    assert_eq!(export_parameters(&unets[0]), export_parameters(&unets[1]));
    let latents = [&whole, &single].map(|model| {
        let autoencoder = model.autoencoder(&compute()).unwrap();
        let picture = compute().tensor(vec![0.25; 3 * 32 * 32], [1, 3, 32, 32]);
        latent_nn::to_host(autoencoder.latents(picture).0)
    });
    assert_eq!(latents[0], latents[1]);
}

#[test]
fn a_checkpoint_of_stable_diffusion_2_is_not_drawn_with_on_a_guess() {
    let file = fixture("sd2-tiny").join("model_ldm.safetensors");
    let message = ModelFolder::open_file(&file, None).unwrap_err().to_string();
    assert!(
        message.contains("noise or velocity") && message.contains("--config"),
        "{message}"
    );
}
