//! Adapters' networks and files against what Python's diffusers computes.

mod common;

use std::path::Path;

use burn::tensor::Tensor;
use common::{Expected, close, compute, fixture};
use latent_formats::{Dtype, SafetensorsWriter, Weights};
use latent_models::{
    AutoencoderTiny, ControlNet, Embedding, FileKind, Layout, Leading, Lora, ModelFolder,
    PredictionType, Residuals, Strength, TinyDecoder, UNet2dCondition, UNetCondition, recognise,
};
use latent_nn::{export_parameters, ops, to_host};

fn base() -> ModelFolder {
    ModelFolder::open(&fixture("sd1-tiny")).unwrap()
}

#[test]
fn the_tiny_autoencoder_meets_diffusers_both_ways_and_its_decoder_alone() {
    let expected = Expected::open("adapters");
    let folder = fixture("adapters/taesd");
    let model = AutoencoderTiny::load(&folder, &compute()).unwrap();
    let (pixels, shape) = expected.values("taesd/picture_u8");
    let picture = pixels
        .iter()
        .map(|value| value / 255.0 * 2.0 - 1.0)
        .collect();
    let picture: Tensor<4> = compute().tensor(picture, shape.try_into().unwrap());
    expected.check("taesd/latents", model.encode(picture));
    expected.check(
        "taesd/decoded",
        model.decode(expected.tensor("taesd/decode_in")),
    );
    let decoder = TinyDecoder::load(&folder, &compute()).unwrap();
    expected.check(
        "taesd/decoded",
        decoder.decode(expected.tensor("taesd/decode_in")),
    );
}

#[test]
fn a_tiny_autoencoder_written_again_has_the_names_of_diffusers() {
    let place = tempfile::tempdir().unwrap();
    let model = AutoencoderTiny::load(&fixture("adapters/taesd"), &compute()).unwrap();
    model.save(place.path()).unwrap();
    let file = "diffusion_pytorch_model.safetensors";
    let [before, after] = [fixture("adapters/taesd"), place.path().to_path_buf()]
        .map(|folder| Weights::open(&folder.join(file)).unwrap());
    assert!(before.names().eq(after.names()));
    for name in before.names() {
        assert_eq!(
            before.read_f32(name).unwrap(),
            after.read_f32(name).unwrap(),
            "{name}"
        );
    }
}

#[test]
fn the_decoder_in_its_authors_names_is_the_same() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("taesd_decoder.safetensors");
    let weights = Weights::open(&fixture(
        "adapters/taesd/diffusion_pytorch_model.safetensors",
    ))
    .unwrap();
    // Published with three blocks a level; this one has two, so the names tell and the sizes do not fit.
    let mut tensors = Vec::new();
    for name in weights.names() {
        if let Some(rest) = name.strip_prefix("decoder.layers.") {
            let (number, rest) = rest.split_once('.').unwrap();
            let number: usize = number.parse().unwrap();
            let shape = weights.describe(name).unwrap().1.to_vec();
            tensors.push((
                format!("{}.{rest}", number + 1),
                shape,
                weights.read_f32(name).unwrap(),
            ));
        }
    }
    let mut writer = SafetensorsWriter::new();
    for (name, shape, values) in &tensors {
        writer = writer.f32(name, shape, values, Dtype::F32).unwrap();
    }
    writer.write(&file).unwrap();
    assert_eq!(
        recognise(&Weights::open(&file).unwrap()),
        Some(FileKind::TinyAutoencoder)
    );
    let message = TinyDecoder::load(&file, &compute())
        .unwrap_err()
        .to_string();
    assert!(message.contains("taesd_decoder.safetensors"), "{message}");
}

fn residuals(network: &ControlNet, expected: &Expected) -> Residuals {
    let (pixels, shape) = expected.values("controlnet/cond_u8");
    let picture = pixels.iter().map(|value| value / 255.0).collect();
    let picture: Tensor<4> = compute().tensor(picture, shape.try_into().unwrap());
    let text: Tensor<3> = expected.tensor("controlnet/encoder_hidden_states");
    let context = network.prepare(picture, &UNetCondition::Text(text));
    let context = context.expect("told words");
    let timesteps = expected.values("controlnet/timestep").0;
    let found = network.forward(expected.tensor("controlnet/sample"), &timesteps, &context);
    let count = found.count();
    found.scaled(&vec![0.8; count])
}

#[test]
fn a_controlnet_of_a_folder_and_of_one_file_meets_diffusers_and_so_does_the_unet_it_steers() {
    let expected = Expected::open("adapters");
    let folder = base();
    for name in ["controlnet", "controlnet_orig.safetensors"] {
        let path = fixture("adapters").join(name);
        let network = ControlNet::load(&path, folder.unet_config(), &compute()).unwrap();
        let found = residuals(&network, &expected);
        for (index, tensor) in found.tensors().enumerate() {
            let name = if index + 1 < found.count() {
                format!("controlnet/down.{index:02}")
            } else {
                "controlnet/mid".to_owned()
            };
            expected.check(&name, ops::to_nchw(tensor.clone()));
        }
        let unet = UNet2dCondition::load(&fixture("sd1-tiny/unet"), &compute()).unwrap();
        let text = UNetCondition::Text(expected.tensor("controlnet/encoder_hidden_states"));
        let context = unet.prepare(text, 2);
        let timesteps = expected.values("controlnet/timestep").0;
        let sample = expected.tensor("controlnet/sample");
        let leading = Leading {
            residuals: Some(&found),
            ..Leading::default()
        };
        let out = unet.forward_steered(sample, &timesteps, &context, leading);
        expected.check("controlnet/unet_out", out);
    }
}

#[test]
fn a_controlnet_for_another_unet_is_refused() {
    let other = ModelFolder::open(&fixture("sd2-tiny")).unwrap();
    let path = fixture("adapters/controlnet");
    let message = ControlNet::load(&path, other.unet_config(), &compute())
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("is a ControlNet for U-Nets with levels of"),
        "{message}"
    );
    let file = fixture("adapters/lora_kohya.safetensors");
    let message = ControlNet::load(&file, other.unet_config(), &compute())
        .unwrap_err()
        .to_string();
    assert!(message.contains("is no ControlNet"), "{message}");
}

#[test]
fn an_embedding_of_each_container_gives_the_states_of_diffusers() {
    let expected = Expected::open("adapters");
    let folder = base();
    let encoder = folder.text_encoder(&compute()).unwrap().unwrap();
    let tokenizer = folder.tokenizer().unwrap().unwrap();
    let width = encoder.config().hidden_size;
    let files = [
        ("embedding_a1111.pt", "my-style"),
        ("embedding_a1111.safetensors", "embedding_a1111"),
        ("embedding_diffusers.safetensors", "<my-style>"),
    ];
    for (name, word) in files {
        let path = fixture("adapters").join(name);
        assert_eq!(Embedding::open(&path, None).unwrap().token(), word);
        let embedding = Embedding::open(&path, Some("<my-style>")).unwrap();
        let vectors = embedding.vectors(width).unwrap();
        let tokenizer = tokenizer.clone().with_word(embedding.token(), 3).unwrap();
        let encoded = tokenizer.encode("a fox in <my-style> style");
        let ids = [712, 320, 69, 78, 343, 530, 714, 715, 716, 522, 88, 579, 713];
        assert_eq!(encoded.ids[..ids.len()], ids);
        let pieces = &encoded.pieces[5..8];
        assert_eq!(pieces, ["<my-style>", "<my-style>_1", "<my-style>_2"]);
        let encoder = encoder
            .clone()
            .with_added_vectors(vectors, tokenizer.vocab_size());
        let ids = compute().ids(&encoded.ids, [1, 77]);
        expected.check("ti/prompt_embeds", encoder.forward(ids).last);
    }
}

#[test]
fn an_added_word_counts_where_it_stands_for_itself_only() {
    let tokenizer = base().tokenizer().unwrap().unwrap();
    let plain = tokenizer.clone();
    let tokenizer = tokenizer
        .with_word("fox", 2)
        .unwrap()
        .with_word("fox-like", 1)
        .unwrap();
    let added = |text: &str| {
        let encoded = tokenizer.encode(text).ids;
        let first = plain.vocab_size() as u32;
        encoded
            .into_iter()
            .filter(|&id| id >= first)
            .map(|id| id - first)
            .collect::<Vec<_>>()
    };
    assert_eq!(added("a FOX, two"), [0, 1]);
    assert_eq!(added("foxes and a firefox"), [] as [u32; 0]);
    assert_eq!(added("a fox-like fox"), [2, 0, 1]);
    assert_eq!(tokenizer.encode("foxes").ids, plain.encode("foxes").ids);
    assert!(tokenizer.with_word("Fox", 1).is_err());
}

#[test]
fn an_embedding_for_another_text_encoder_is_refused_with_both_widths() {
    let path = fixture("adapters/embedding_a1111.safetensors");
    let message = Embedding::open(&path, None)
        .unwrap()
        .vectors(768)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("width 32") && message.contains("width 768"),
        "{message}"
    );
}

fn merged(name: &str, strength: Strength) -> (ModelFolder, usize, usize) {
    let lora = Lora::open(&fixture("adapters").join(name)).unwrap();
    let (folder, reports) = Lora::merge(&[(lora, strength)], base()).unwrap();
    (folder, reports[0].matched, reports[0].total)
}

#[test]
fn two_dialects_of_one_lora_give_the_same_weights_and_every_tensor_matches() {
    let (kohya, matched, total) = merged("lora_kohya.safetensors", Strength::all(1.0));
    assert_eq!((matched, total), (456, 456));
    let (peft, matched, total) = merged("lora_peft.safetensors", Strength::all(1.0));
    assert_eq!((matched, total), (304, 304));
    let [one, other] = [kohya, peft].map(|folder| folder.unet(&compute()).unwrap());
    for (a, b) in export_parameters(&one)
        .iter()
        .zip(export_parameters(&other))
    {
        close(&a.path, &a.values, &b.values, 1e-6);
    }
}

/// The kohya file under other names.
fn in_dialect(rename: impl Fn(&str) -> String, place: &std::path::Path) -> Lora {
    let file = Weights::open(&fixture("adapters/lora_kohya.safetensors")).unwrap();
    let mut tensors = Vec::new();
    for name in file.names() {
        let shape = file.describe(name).unwrap().1.to_vec();
        tensors.push((rename(name), shape, file.read_f32(name).unwrap()));
    }
    let mut writer = SafetensorsWriter::new();
    for (name, shape, values) in &tensors {
        writer = writer.f32(name, shape, values, Dtype::F32).unwrap();
    }
    let path = place.join("dialect.safetensors");
    writer.write(&path).unwrap();
    Lora::open(&path).unwrap()
}

#[test]
fn the_names_of_files_for_two_text_encoders_and_of_the_authors_layout_are_understood() {
    let place = tempfile::tempdir().unwrap();
    let (expected, ..) = merged("lora_kohya.safetensors", Strength::all(1.0));
    let expected = export_parameters(&expected.unet(&compute()).unwrap());
    let published = |name: &str| {
        name.replace("lora_te_", "lora_te1_")
            .replace(
                "lora_unet_down_blocks_0_attentions_0_",
                "lora_unet_input_blocks_1_1_",
            )
            .replace(
                "lora_unet_mid_block_attentions_0_",
                "lora_unet_middle_block_1_",
            )
            .replace(
                "lora_unet_down_blocks_1_resnets_0_conv1.",
                "lora_unet_input_blocks_4_0_in_layers_2.",
            )
    };
    let lora = in_dialect(published, place.path());
    let (folder, reports) = Lora::merge(&[(lora, Strength::all(1.0))], base()).unwrap();
    assert_eq!(reports[0].warning(), None);
    let found = export_parameters(&folder.unet(&compute()).unwrap());
    assert_eq!(found, expected);
}

#[test]
fn a_lora_for_two_text_encoders_changes_both_and_the_unet() {
    let place = tempfile::tempdir().unwrap();
    let folder = || {
        let config = fixture("sdxl-tiny");
        ModelFolder::open_file(&config.join("model_sgm.safetensors"), Some(&config)).unwrap()
    };
    let layers = [
        ("lora_te1_text_model_encoder_layers_0_mlp_fc1", 24, 48),
        ("lora_te2_text_model_encoder_layers_0_mlp_fc1", 32, 64),
        (
            "lora_te2_text_model_encoder_layers_1_self_attn_v_proj",
            32,
            32,
        ),
        ("lora_te2_text_projection", 32, 40),
        ("lora_unet_time_embedding_linear_1", 8, 32),
    ];
    let mut tensors = Vec::new();
    for (layer, width, out) in layers {
        tensors.push((format!("{layer}.lora_down.weight"), [1, width]));
        tensors.push((format!("{layer}.lora_up.weight"), [out, 1]));
    }
    let ones = vec![1.0; 64];
    let mut writer = SafetensorsWriter::new();
    for (name, shape) in &tensors {
        let values = &ones[..shape[0] * shape[1]];
        writer = writer.f32(name, shape, values, Dtype::F32).unwrap();
    }
    let path = place.path().join("lora.safetensors");
    writer.write(&path).unwrap();
    let lora = Lora::open(&path).unwrap();
    let (merged, reports) = Lora::merge(&[(lora, Strength::all(0.5))], folder()).unwrap();
    assert_eq!(reports[0].warning(), None);
    for (part, layer) in [
        ("text_encoder", "text_model.encoder.layers.0.mlp.fc1"),
        ("text_encoder_2", "text_model.encoder.layers.0.mlp.fc1"),
        (
            "text_encoder_2",
            "text_model.encoder.layers.1.self_attn.v_proj",
        ),
        ("text_encoder_2", "text_projection"),
        ("unet", "time_embedding.linear_1"),
    ] {
        let [before, after] = [&folder(), &merged].map(|folder| {
            let weights = folder.part_weights(part).unwrap().unwrap();
            weights.read_f32(&format!("{layer}.weight")).unwrap()
        });
        let apart = before.iter().zip(&after).map(|(a, b)| b - a);
        for difference in apart {
            assert!((difference - 0.5).abs() < 1e-5, "{part}/{layer}");
        }
    }
    merged.text_encoder_2(&compute()).unwrap().unwrap();
}

#[test]
fn merging_leaves_what_the_file_does_not_name_and_strength_zero_changes_nothing() {
    let (folder, ..) = merged("lora_kohya.safetensors", Strength::all(0.0));
    let [found, before] = [folder, base()].map(|folder| folder.unet(&compute()).unwrap());
    assert_eq!(export_parameters(&found), export_parameters(&before));
}

#[test]
fn a_lora_for_another_model_is_refused_with_what_it_looks_made_for() {
    let place = tempfile::tempdir().unwrap();
    let other = |name: &str| {
        name.replace("lora_unet_", "lora_unet_double_blocks_")
            .replace("lora_te_", "lora_te3_")
    };
    let lora = in_dialect(other, place.path());
    let message = Lora::merge(&[(lora, Strength::all(1.0))], base())
        .unwrap_err()
        .to_string();
    assert!(message.contains("looks made for FLUX"), "{message}");
    // Names of Stable Diffusion, shapes of another size.
    let lora = Lora::open(&fixture("adapters/lora_kohya.safetensors")).unwrap();
    let other = ModelFolder::open(&fixture("sd2-tiny")).unwrap();
    let message = Lora::merge(&[(lora, Strength::all(1.0))], other)
        .unwrap_err()
        .to_string();
    assert!(message.contains("does not fit this model"), "{message}");
}

#[test]
fn every_file_is_recognised_and_says_how_it_is_used() {
    let cases = [
        (
            "lora_kohya.safetensors",
            "a LoRA (LoRA, rank 4) for a model with text states of width 32",
            "--lora",
        ),
        ("lora_peft.safetensors", "a LoRA (LoRA, rank 4)", "--lora"),
        ("loha.safetensors", "a LoRA (LoHa, rank 2)", "--lora"),
        ("lokr.safetensors", "a LoRA (LoKr)", "--lora"),
        ("dora_kohya.safetensors", "a LoRA (DoRA, rank 4)", "--lora"),
        (
            "embedding_a1111.pt",
            "a textual inversion of 3 vectors",
            "--embedding",
        ),
        (
            "embedding_a1111.safetensors",
            "a textual inversion of 3 vectors",
            "--embedding",
        ),
        (
            "embedding_diffusers.safetensors",
            "a textual inversion of 3 vectors",
            "--embedding",
        ),
        ("controlnet_orig.safetensors", "a ControlNet", "--control"),
        (
            "controlnet/diffusion_pytorch_model.safetensors",
            "a ControlNet",
            "--control",
        ),
        (
            "taesd/diffusion_pytorch_model.safetensors",
            "a tiny autoencoder",
            "--taesd",
        ),
        (
            "../sd1-tiny/unet/diffusion_pytorch_model.safetensors",
            "a U-Net",
            "--unet",
        ),
        (
            "../sd1-tiny/vae/diffusion_pytorch_model.safetensors",
            "an autoencoder",
            "--vae",
        ),
        (
            "../sd1-tiny/text_encoder/model.safetensors",
            "a text encoder",
            "--text-encoder",
        ),
    ];
    for (name, words, flag) in cases {
        let weights = Weights::open(&fixture("adapters").join(name)).unwrap();
        let kind = recognise(&weights).unwrap_or_else(|| panic!("{name}"));
        assert!(kind.to_string().contains(words), "{name}: {kind}");
        assert!(kind.use_with().contains(flag), "{name}");
    }
}

#[test]
fn a_folder_written_as_one_file_and_back_has_the_same_tensors() {
    let place = tempfile::tempdir().unwrap();
    for model in ["sd1-tiny", "sd2-tiny"] {
        let file = place.path().join(format!("{model}.safetensors"));
        let back = place.path().join(model);
        let folder = ModelFolder::open(&fixture(model)).unwrap();
        folder.convert(&file, Layout::Single, None).unwrap();
        let config = fixture(model);
        let single = ModelFolder::open_file(&file, Some(&config)).unwrap();
        single.convert(&back, Layout::Diffusers, None).unwrap();
        let back = ModelFolder::open(&back).unwrap();
        for part in ["unet", "vae", "text_encoder"] {
            let [before, after] =
                [&folder, &back].map(|folder| folder.part_weights(part).unwrap().unwrap());
            assert!(before.names().eq(after.names()), "{model}/{part}");
            for name in before.names() {
                assert_eq!(before.describe(name), after.describe(name), "{name}");
                assert_eq!(
                    before.read_f32(name).unwrap(),
                    after.read_f32(name).unwrap(),
                    "{name}"
                );
            }
        }
        assert_eq!(
            folder.scheduler_config().unwrap(),
            back.scheduler_config().unwrap()
        );
        let metadata = Weights::open(&file).unwrap().metadata().clone();
        let velocity = if model == "sd2-tiny" { "v" } else { "epsilon" };
        assert_eq!(metadata["modelspec.prediction_type"], velocity);
    }
}

#[test]
fn a_checkpoint_of_stable_diffusion_xl_is_written_as_its_folder_and_back() {
    let place = tempfile::tempdir().unwrap();
    for (model, parts) in [
        (
            "sdxl-tiny",
            &["unet", "vae", "text_encoder", "text_encoder_2"][..],
        ),
        ("sdxl-refiner-tiny", &["unet", "vae", "text_encoder_2"][..]),
    ] {
        let config = fixture(model);
        let folder = ModelFolder::open(&config).unwrap();
        let file = config.join("model_sgm.safetensors");
        let single = ModelFolder::open_file(&file, Some(&config)).unwrap();
        let back = place.path().join(model);
        single.convert(&back, Layout::Diffusers, None).unwrap();
        let back = ModelFolder::open(&back).unwrap();
        back.tokenizer_2().unwrap().unwrap();
        for part in parts {
            let [before, after] =
                [&folder, &back].map(|folder| folder.part_weights(part).unwrap().unwrap());
            for name in after.names() {
                assert_eq!(
                    before.read_f32(name).unwrap(),
                    after.read_f32(name).unwrap(),
                    "{model}/{part}/{name}"
                );
            }
        }
        let one = place.path().join("one.safetensors");
        back.convert(&one, Layout::Single, None).unwrap();
        same_checkpoint(&file, &one);
    }
    // What a file predicts, said by who opens it, is in the folder's scheduler.
    let file = fixture("sd2-tiny/model_ldm.safetensors");
    let asked = Some(PredictionType::Epsilon);
    let single = ModelFolder::open_file_predicting(&file, Some(&fixture("sd2-tiny")), asked);
    let back = place.path().join("epsilon");
    single
        .unwrap()
        .convert(&back, Layout::Diffusers, None)
        .unwrap();
    let config = ModelFolder::open(&back).unwrap().scheduler_config();
    assert_eq!(config.unwrap()["prediction_type"], "epsilon");
}

/// Fails unless `written` has every tensor of a published checkpoint that a model reads, and no other.
#[track_caller]
fn same_checkpoint(published: &Path, written: &Path) {
    let [published, written] = [published, written].map(|path| Weights::open(path).unwrap());
    let needless = ["denoiser.sigmas", "position_ids", "logit_scale"];
    let read = |name: &&str| !needless.iter().any(|end| name.ends_with(end));
    assert!(published.names().filter(read).eq(written.names()));
    for name in written.names() {
        let shape = |weights: &Weights| weights.describe(name).unwrap().1.to_vec();
        assert_eq!(shape(&published), shape(&written), "{name}");
        let values = |weights: &Weights| weights.read_f32(name).unwrap();
        assert_eq!(values(&published), values(&written), "{name}");
    }
    let architecture = &written.metadata()["modelspec.architecture"];
    assert!(
        architecture.starts_with("stable-diffusion-xl-v1"),
        "{architecture}"
    );
}

#[test]
fn text_encoders_of_stable_diffusion_xl_are_taken_from_folders_files_and_checkpoints() {
    let xl = || ModelFolder::open(&fixture("sdxl-tiny")).unwrap();
    let place = tempfile::tempdir().unwrap();
    let whole = fixture("sdxl-tiny/model_sgm.safetensors");
    // Alone and under OpenCLIP's own names.
    let file = Weights::open(&whole).unwrap();
    let mut tensors = Vec::new();
    for name in file.names() {
        if let Some(inside) = name.strip_prefix("conditioner.embedders.1.model.") {
            let shape = file.describe(name).unwrap().1.to_vec();
            tensors.push((inside, shape, file.read_f32(name).unwrap()));
        }
    }
    let mut writer = SafetensorsWriter::new();
    for (name, shape, values) in &tensors {
        writer = writer.f32(name, shape, values, Dtype::F32).unwrap();
    }
    let bare = place.path().join("clip_g.safetensors");
    writer.write(&bare).unwrap();
    let cases = [
        ("text_encoder_2", fixture("sdxl-tiny/text_encoder_2")),
        ("text_encoder_2", fixture("sdxl-tiny")),
        (
            "text_encoder_2",
            fixture("sdxl-tiny/text_encoder_2/model.safetensors"),
        ),
        ("text_encoder_2", whole.clone()),
        ("text_encoder_2", bare),
        ("text_encoder", whole),
    ];
    for (part, path) in cases {
        let folder = xl().with_part(part, &path).unwrap();
        let [before, after] = [xl(), folder].map(|folder| {
            let model = match part {
                "text_encoder" => folder.text_encoder(&compute()),
                _ => folder.text_encoder_2(&compute()),
            };
            export_parameters(&model.unwrap().unwrap())
        });
        assert_eq!(before, after, "{part} {}", path.display());
    }
    let message = base()
        .with_part("text_encoder_2", &fixture("sdxl-tiny"))
        .unwrap_err();
    assert!(
        message.to_string().contains("this model has none"),
        "{message}"
    );
}

#[test]
fn weights_are_rounded_when_asked_and_the_factor_of_the_latents_is_not() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("half.safetensors");
    base()
        .convert(&file, Layout::Single, Some(Dtype::F16))
        .unwrap();
    let weights = Weights::open(&file).unwrap();
    for name in weights.names() {
        let (dtype, _) = weights.describe(name).unwrap();
        let expected = if name == "scale_factor" {
            Dtype::F32
        } else {
            Dtype::F16
        };
        assert_eq!(dtype, expected, "{name}");
    }
}

#[test]
fn a_stored_factor_of_the_latents_is_honoured() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("a.safetensors");
    base().convert(&file, Layout::Single, None).unwrap();
    let weights = Weights::open(&file).unwrap();
    let mut tensors = Vec::new();
    for name in weights.names() {
        let values = match name {
            "scale_factor" => vec![0.25],
            _ => weights.read_f32(name).unwrap(),
        };
        tensors.push((name, weights.describe(name).unwrap().1.to_vec(), values));
    }
    let mut writer = SafetensorsWriter::new();
    for (name, shape, values) in &tensors {
        writer = writer.f32(name, shape, values, Dtype::F32).unwrap();
    }
    let changed = place.path().join("b.safetensors");
    writer.write(&changed).unwrap();
    let config = fixture("sd1-tiny");
    let folder = ModelFolder::open_file(&changed, Some(&config)).unwrap();
    assert_eq!(
        folder.autoencoder(&compute()).unwrap().scaling_factor(),
        Some(0.25)
    );
    let back = place.path().join("back");
    folder.convert(&back, Layout::Diffusers, None).unwrap();
    let back = ModelFolder::open(&back).unwrap();
    assert_eq!(
        back.autoencoder(&compute()).unwrap().scaling_factor(),
        Some(0.25)
    );
}

#[test]
fn the_moving_average_of_a_checkpoint_is_its_unet_when_asked_for() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("a.safetensors");
    base().convert(&file, Layout::Single, None).unwrap();
    let weights = Weights::open(&file).unwrap();
    let mut tensors = Vec::new();
    for name in weights.names() {
        let shape = weights.describe(name).unwrap().1.to_vec();
        let values = weights.read_f32(name).unwrap();
        if let Some(inside) = name.strip_prefix("model.") {
            let halved = values.iter().map(|value| value / 2.0).collect();
            tensors.push((
                format!("model_ema.{}", inside.replace('.', "")),
                shape.clone(),
                halved,
            ));
        }
        tensors.push((name.to_owned(), shape, values));
    }
    let mut writer = SafetensorsWriter::new();
    for (name, shape, values) in &tensors {
        writer = writer.f32(name, shape, values, Dtype::F32).unwrap();
    }
    let both = place.path().join("both.safetensors");
    writer.write(&both).unwrap();
    let open = |path| ModelFolder::open_file(path, Some(&fixture("sd1-tiny"))).unwrap();
    let plain = export_parameters(&open(&both).unet(&compute()).unwrap());
    let averaged = open(&both).with_averaged_unet().unwrap();
    let averaged = export_parameters(&averaged.unet(&compute()).unwrap());
    for (a, b) in plain.iter().zip(&averaged) {
        assert!(
            a.values.iter().zip(&b.values).all(|(a, b)| a / 2.0 == *b),
            "{}",
            a.path
        );
    }
    let message = open(&file).with_averaged_unet().unwrap_err().to_string();
    assert!(message.contains("holds no moving average"), "{message}");
}

#[test]
fn a_loose_part_of_each_layout_stands_in_and_another_part_or_size_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("whole.safetensors");
    base().convert(&file, Layout::Single, None).unwrap();
    // An autoencoder alone, without the beginnings of its names, as `vae-ft-mse` has them.
    let whole = Weights::open(&file).unwrap();
    let mut tensors = Vec::new();
    for name in whole.names() {
        if let Some(inside) = name.strip_prefix("first_stage_model.") {
            let shape = whole.describe(name).unwrap().1.to_vec();
            tensors.push((inside.to_owned(), shape, whole.read_f32(name).unwrap()));
        }
    }
    tensors.push(("loss.logvar".to_owned(), vec![1], vec![0.0]));
    let mut writer = SafetensorsWriter::new();
    for (name, shape, values) in &tensors {
        writer = writer.f32(name, shape, values, Dtype::F32).unwrap();
    }
    let vae = place.path().join("vae.safetensors");
    writer.write(&vae).unwrap();
    let tiny = fixture("sd1-tiny");
    let cases = [
        ("vae", vae.clone()),
        ("vae", tiny.join("vae")),
        ("vae", tiny.clone()),
        ("vae", file.clone()),
        ("unet", file.clone()),
        (
            "unet",
            tiny.join("unet/diffusion_pytorch_model.safetensors"),
        ),
        ("text_encoder", file.clone()),
        ("text_encoder", tiny.join("text_encoder/model.safetensors")),
    ];
    for (part, path) in cases {
        let folder = base().with_part(part, &path).unwrap();
        let [before, after] = [base(), folder].map(|folder| match part {
            "unet" => export_parameters(&folder.unet(&compute()).unwrap()),
            "vae" => match folder.autoencoder(&compute()).unwrap() {
                latent_models::Autoencoder::Kl(model) => export_parameters(&model),
                other => panic!("{other:?}"),
            },
            _ => export_parameters(&folder.text_encoder(&compute()).unwrap().unwrap()),
        });
        assert_eq!(before, after, "{part} {}", path.display());
    }
    let message = base().with_part("unet", &vae).unwrap_err().to_string();
    assert!(
        message.contains("holds an autoencoder, and a U-Net is needed"),
        "{message}"
    );
    let other = fixture("sd2-tiny/unet/diffusion_pytorch_model.safetensors");
    let folder = base().with_part("unet", &other).unwrap();
    assert!(folder.unet(&compute()).is_err());
    let decoded = base().autoencoder(&compute()).unwrap();
    let (values, _) = to_host(decoded.decode(compute().tensor(vec![0.0; 16], [1, 4, 2, 2])));
    assert!(values.iter().all(|value| value.is_finite()));
}
