//! Every part of Stable Diffusion XL and of distilled models against what Python computes.

mod common;

use burn::tensor::Tensor;
use common::{Expected, compute, fixture};
use latent_formats::Weights;
use latent_models::{
    AutoencoderKl, ClipTextModel, ModelFolder, TextTime, UNet2dCondition, UNetCondition,
};
use latent_nn::{export_parameters, ops};
use serde_json::Value;

const MODELS: [&str; 2] = ["sdxl-tiny", "sdxl-refiner-tiny"];

/// The text encoders of a model: folder, tokenizer, and the names of their values.
fn encoders(model: &str) -> Vec<(&'static str, &'static str, &'static str)> {
    let mut encoders = vec![("text_encoder_2", "tokenizer_2", "2")];
    if model == MODELS[0] {
        encoders.insert(0, ("text_encoder", "tokenizer", "1"));
    }
    encoders
}

#[test]
fn text_states_meet_transformers() {
    for model in MODELS {
        let expected = Expected::open(model);
        for (folder, _, number) in encoders(model) {
            let encoder = ClipTextModel::load(&fixture(model).join(folder), &compute()).unwrap();
            let name = |kind: &str| format!("text{number}/{kind}");
            let ids = compute().ids(&expected.integers(&name("ids")), [4, 77]);
            let states = encoder.forward(ids.clone());
            expected.check(&name("last"), states.last);
            expected.check(&name("penultimate"), states.penultimate);
            expected.check(&name("penultimate"), encoder.forward_hidden(ids, 1));
            let pooled = if number == "1" {
                "pooled"
            } else {
                "pooled_projected"
            };
            expected.check(&name(pooled), states.pooled);
        }
    }
}

#[test]
fn each_tokenizer_has_its_own_padding() {
    for model in MODELS {
        let folder = ModelFolder::open(&fixture(model)).unwrap();
        let cases = std::fs::read_to_string(fixture(model).join("texts.json")).unwrap();
        let cases: Value = serde_json::from_str(&cases).unwrap();
        for (_, part, number) in encoders(model) {
            let tokenizer = match part {
                "tokenizer" => folder.tokenizer(),
                _ => folder.tokenizer_2(),
            };
            let tokenizer = tokenizer.unwrap().unwrap();
            let texts = cases["texts"].as_array().unwrap();
            let ids = cases[format!("ids_{number}")].as_array().unwrap();
            for (text, ids) in texts.iter().zip(ids) {
                let found = tokenizer.encode(text.as_str().unwrap()).ids;
                assert_eq!(
                    serde_json::to_value(found).unwrap(),
                    *ids,
                    "{model} {part} {text}"
                );
            }
        }
    }
}

#[test]
fn the_unet_and_each_of_its_levels_meet_diffusers() {
    for model in MODELS {
        let expected = Expected::open(model);
        let unet = UNet2dCondition::load(&fixture(model).join("unet"), &compute()).unwrap();
        let told = UNetCondition::TextTime(TextTime {
            text: expected.tensor("unet/encoder_hidden_states"),
            pooled: expected.tensor("unet/text_embeds"),
            numbers: expected.values("unet/time_ids").0,
        });
        let context = unet.prepare(told, 2);
        let timesteps = expected.values("unet/timestep").0;
        let sample = expected.tensor("unet/sample");
        let mut seen = 0;
        let out = unet.forward_watched(sample, &timesteps, &context, &mut |name, x| {
            expected.check(&format!("unet/trace/{name}"), ops::to_nchw(x.clone()));
            seen += 1;
        });
        expected.check("unet/out", out);
        assert_eq!(seen, 8, "conv_in, three levels down, the middle, three up");
    }
}

#[test]
fn encoding_and_decoding_meet_diffusers() {
    for model in MODELS {
        let expected = Expected::open(model);
        let autoencoder = AutoencoderKl::load(&fixture(model).join("vae"), &compute()).unwrap();
        let picture = expected.tensor::<4>("vae/picture_u8") / 255.0 * 2.0 - 1.0;
        let moments = autoencoder.encode(picture);
        let halves = vec![moments.mean.clone(), moments.logvar.clone()];
        expected.check("vae/moments", Tensor::cat(halves, 1));
        for size in ["", "_odd"] {
            let latents = expected.tensor(&format!("vae/latents{size}"));
            expected.check(&format!("vae/decoded{size}"), autoencoder.decode(latents));
        }
    }
}

/// The same weights under the names of the code that trained Stable Diffusion XL, the projection transposed.
#[test]
fn a_checkpoint_of_one_file_has_the_parameters_of_its_folder() {
    for model in MODELS {
        let folder = fixture(model);
        let file = folder.join("model_sgm.safetensors");
        let whole = ModelFolder::open(&folder).unwrap();
        let single = ModelFolder::open_file(&file, Some(&folder)).unwrap();
        let unets = [&whole, &single].map(|model| model.unet(&compute()).unwrap());
        assert_eq!(export_parameters(&unets[0]), export_parameters(&unets[1]));
        let texts = [&whole, &single].map(|model| model.text_encoder_2(&compute()).unwrap());
        let texts = texts.map(|text| export_parameters(&text.unwrap()));
        assert_eq!(texts[0], texts[1]);
        let firsts = [&whole, &single].map(|model| model.text_encoder(&compute()).unwrap());
        let firsts = firsts.map(|text| text.map(|text| export_parameters(&text)));
        assert_eq!(firsts[0], firsts[1]);
    }
}

#[test]
fn a_checkpoint_that_says_it_predicts_velocity_is_believed() {
    let file = fixture("sdxl-tiny/model_sgm.safetensors");
    let weights = Weights::open(&file).unwrap();
    let names: Vec<&str> = weights
        .names()
        .filter(|name| name.contains("0.0"))
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v.safetensors");
    let mark = |more: &str| {
        let mut tensors: Vec<(&str, Vec<usize>, Vec<f32>)> = weights
            .names()
            .filter(|name| {
                names.contains(name)
                    || name.contains("ln_final")
                    || name.contains("embedders.0")
                    || name.contains("first_stage")
            })
            .filter_map(|name| {
                Some((
                    name,
                    weights.describe(name)?.1.to_vec(),
                    weights.read_f32(name).ok()?,
                ))
            })
            .collect();
        tensors.push((more, vec![1], vec![1.0]));
        let mut writer = latent_formats::SafetensorsWriter::new();
        for (name, shape, values) in &tensors {
            writer = writer
                .f32(name, shape, values, latent_formats::Dtype::F32)
                .unwrap();
        }
        writer.write(&path).unwrap();
        ModelFolder::open_file(&path, None)
            .unwrap()
            .scheduler_config()
            .unwrap()
    };
    assert_eq!(mark("v_pred")["prediction_type"], "v_prediction");
    let up_to_noise = mark("ztsnr");
    assert_eq!(up_to_noise["rescale_betas_zero_snr"], true);
    assert_eq!(up_to_noise["prediction_type"], "epsilon");
}

/// `tools/make_unet_variants.py` made them.
#[test]
fn unets_of_distilled_models_meet_diffusers() {
    for model in ["ssd-tiny", "bk-sdm-tiny", "lcm-tiny"] {
        let expected = Expected::open(model);
        let unet = UNet2dCondition::load(&fixture(model).join("unet"), &compute()).unwrap();
        let text = expected.tensor("text");
        let told = match model {
            "ssd-tiny" => UNetCondition::TextTime(TextTime {
                text,
                pooled: expected.tensor("text_embeds"),
                numbers: expected.values("time_ids").0,
            }),
            _ => UNetCondition::Text(text),
        };
        let context = unet.with_guidance(unet.prepare(told, 2), 8.5, 2);
        let timesteps = expected.values("timestep").0;
        let out = unet.forward_prepared(expected.tensor("sample"), &timesteps, &context);
        expected.check("out", out);
    }
}
