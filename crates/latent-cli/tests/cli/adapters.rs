//! LoRAs, embeddings, parts, ControlNets and the other layout, by the command's flags.

use std::fs;
use std::path::{Path, PathBuf};

use latent_formats::{Picture, Weights};

use crate::support::{Said, picture, run, tensor, text, tiny_model};

fn adapter(name: &str) -> PathBuf {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../latent-models/tests/fixtures");
    fixtures.join("adapters").join(name)
}

/// The run of diffusers' DDIM with the tiny model and `more` flags; writes `a.png` and `z.safetensors` into `folder`.
fn draw(folder: &Path, prompt: &str, more: &[&str]) -> Said {
    let (model, output, latents) = (
        tiny_model(),
        folder.join("a.png"),
        folder.join("z.safetensors"),
    );
    let flags = [
        "generate",
        prompt,
        "--model",
        text(&model),
        "--negative",
        "blurry, low quality",
        "--seed",
        "11",
        "--steps",
        "6",
        "--guidance",
        "7.5",
        "--sampler",
        "ddim",
        "--width",
        "64",
        "--height",
        "64",
        "--device",
        "cpu",
        "--precision",
        "f32",
        "-o",
        text(&output),
        "--save-latents",
        text(&latents),
    ];
    run(flags.iter().chain(more))
}

const PROMPT: &str = "a photo of an astronaut riding a horse on mars";

/// Draws, and compares the latents with those of the run `name`.
#[track_caller]
fn equals(name: &str, prompt: &str, more: &[&str]) -> Said {
    let folder = tempfile::tempdir().expect("a folder");
    let said = draw(folder.path(), prompt, more).fine();
    let (found, _) = tensor(&folder.path().join("z.safetensors"), "latents");
    let (expected, _) = tensor(
        &adapter("expected.safetensors"),
        &format!("run/{name}/latents_final"),
    );
    let scale = expected.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
    let worst = found
        .iter()
        .zip(&expected)
        .map(|(a, b)| (a - b).abs() / scale);
    let worst = worst.fold(0.0, f32::max);
    assert!(worst <= 1e-3, "{name}: {worst}");
    said
}

#[test]
fn a_lora_is_merged_by_flag_and_by_prompt_and_what_matched_is_said() {
    let file = adapter("lora_kohya.safetensors");
    let half = format!("{}:0.5", text(&file));
    let said = equals("lora_half_ddim", PROMPT, &["--lora", &half]);
    assert!(
        said.stderr.contains("456 of 456 tensors matched"),
        "{}",
        said.stderr
    );
    let only = format!("{}:1:0", text(&file));
    equals("lora_unet_only_ddim", PROMPT, &["--lora", &only]);
    let folder = adapter("");
    let prompt = format!("{PROMPT} <lora:lora_peft:0.5>");
    equals("lora_half_ddim", &prompt, &["--lora-dir", text(&folder)]);
}

#[test]
fn an_embedding_is_a_word_of_the_prompt() {
    let file = format!("{}:<my-style>", text(&adapter("embedding_a1111.pt")));
    equals(
        "ti_ddim",
        "a fox in <my-style> style",
        &["--embedding", &file],
    );
    let own = adapter("embedding_diffusers.safetensors");
    equals(
        "ti_ddim",
        "a fox in <my-style> style",
        &["--embedding", text(&own)],
    );
}

#[test]
fn a_controlnet_steers_by_a_picture_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let (planes, _) = tensor(&adapter("expected.safetensors"), "controlnet/cond_u8");
    let rgb =
        (0..64 * 64).flat_map(|at| [0, 1, 2].map(|channel| planes[channel * 64 * 64 + at] as u8));
    let seen = folder.path().join("seen.png");
    let picture = Picture::new(64, 64, rgb.collect()).expect("a picture");
    picture.save(&seen).expect("saved");
    let control =
        |strength: &str| format!("{}:{}{strength}", text(&adapter("controlnet")), text(&seen));
    equals("controlnet_ddim", PROMPT, &["--control", &control("")]);
    let window = [
        "--control",
        &control(":0.6"),
        "--control-start",
        "0.2",
        "--control-end",
        "0.7",
    ];
    equals("controlnet_scale06_window", PROMPT, &window);
    let edges = [
        "--control",
        &control(""),
        "--control-preprocess",
        "canny:50,100",
        "--control-guess",
    ];
    draw(folder.path(), PROMPT, &edges).fine();
}

#[test]
fn the_model_written_in_the_other_layout_gives_the_same_bytes() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let (model, file, back) = (tiny_model(), path("one.safetensors"), path("back"));
    run(["convert", text(&model), text(&file)]).fine();
    run([
        "convert",
        text(&file),
        text(&back),
        "--config",
        text(&model),
    ])
    .fine();
    let picture = |model: &Path, more: &[&str]| {
        let output = path("a.png");
        let flags = [
            "generate",
            "a fox",
            "--model",
            text(model),
            "--steps",
            "2",
            "--device",
            "cpu",
            "-o",
            text(&output),
        ];
        run(flags.iter().chain(more)).fine();
        Picture::open(&output).expect("a picture").into_rgb()
    };
    let expected = picture(&model, &[]);
    assert!(expected == picture(&file, &["--config", text(&model)]));
    assert!(expected == picture(&back, &[]));
    let half = path("half.safetensors");
    run(["convert", text(&model), text(&half), "--weights", "f16"]).fine();
    assert!(Weights::open(&half).expect("weights").len() > 600);
    let parts = [
        "--vae",
        text(&file),
        "--unet",
        text(&half),
        "--text-encoder",
        text(&model),
    ];
    let taesd = adapter("taesd");
    let tiny = picture(
        &model,
        &[&parts[..], &["--taesd", text(&taesd), "--preview"]].concat(),
    );
    assert!(expected != tiny);
}

#[test]
fn files_are_recognised() {
    let file = adapter("lora_kohya.safetensors");
    let line = &run(["inspect", text(&file), "--json"]).fine().json()[0];
    assert_eq!(
        (line["kind"].as_str(), line["tensors"].as_u64()),
        (Some("lora"), Some(456))
    );
    let shown = run(["inspect", text(&adapter("controlnet_orig.safetensors"))])
        .fine()
        .stdout;
    assert!(
        shown.contains("is a ControlNet for") && shown.contains("--control"),
        "{shown}"
    );
}

/// Runs, and checks the exit code and the words of the one error.
#[track_caller]
fn refused(said: Said, code: i32, words: &[&str]) {
    assert_eq!(said.code, code, "{}", said.stderr);
    let errors = said
        .stderr
        .lines()
        .filter(|line| line.starts_with("error: "));
    assert_eq!(errors.count(), 1, "{}", said.stderr);
    for word in words {
        assert!(
            said.stderr.contains(word),
            "no `{word}` in: {}",
            said.stderr
        );
    }
}

/// Flags, the exit code, and words of the error.
type Case<'a> = (&'a [&'a str], i32, &'a [&'a str]);

#[track_caller]
fn all_refused(place: &Path, cases: &[Case<'_>]) {
    for (more, code, words) in cases {
        refused(draw(place, "a fox", more), *code, words);
    }
}

#[test]
fn adapters_and_parts_that_do_not_fit_are_refused_with_what_they_are() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path();
    let lora = adapter("lora_kohya.safetensors");
    let vae = tiny_model().join("vae/diffusion_pytorch_model.safetensors");
    let (lora, vae) = (text(&lora), text(&vae));
    let infinite = format!("{lora}:inf");
    let needs_vae = ["an autoencoder is needed"];
    let cases: [Case<'_>; 8] = [
        (&["--lora", "nowhere.safetensors"], 3, &["nowhere"]),
        (
            &["--lora", vae],
            3,
            &["no LoRA but an autoencoder", "--vae"],
        ),
        (&["--lora", &infinite], 2, &["strength"]),
        (&["--embedding", lora], 3, &["but a LoRA", "--lora"]),
        (&["--vae", lora], 3, &needs_vae),
        (
            &["--unet", vae],
            3,
            &["an autoencoder", "a U-Net is needed"],
        ),
        (&["--taesd", lora], 3, &["no tiny autoencoder"]),
        (&["--ema"], 3, &["moving average", "draw without it"]),
    ];
    all_refused(place, &cases);
    refused(
        draw(place, "<lora:snow> a fox", &[]),
        2,
        &["`snow`", "--lora-dir"],
    );
    let here = adapter("");
    let said = draw(place, "<lora:snow> a fox", &["--lora-dir", text(&here)]);
    refused(said, 3, &["no LoRA `snow`", "lora_kohya"]);
}

#[test]
fn controlnets_that_do_not_fit_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let seen = folder.path().join("seen.png");
    picture(64, 64, 0).save(&seen).expect("saved");
    let vae = tiny_model().join("vae/diffusion_pytorch_model.safetensors");
    let nothing = text(&vae);
    let other = format!("{nothing}:{}", text(&seen));
    let fits = format!("{}:{}", text(&adapter("controlnet")), text(&seen));
    let late = [
        "--control",
        &fits,
        "--control-start",
        "0.9",
        "--control-end",
        "0.1",
    ];
    let cases: [Case<'_>; 5] = [
        (
            &["--control", nothing],
            2,
            &["names no picture", "MODEL:PICTURE"],
        ),
        (&["--control", &other], 3, &["no ControlNet"]),
        (&late, 2, &["the start before the end"]),
        (
            &["--control", &fits, "--control-preprocess", "depth"],
            2,
            &["canny"],
        ),
        (&["--control-start", "0.1"], 2, &["--control"]),
    ];
    all_refused(folder.path(), &cases);
}

#[test]
fn a_layout_that_cannot_be_written_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let model = tiny_model();
    fs::create_dir(path("full")).expect("made");
    fs::write(path("full/a"), "x").expect("written");
    refused(
        run(["convert", text(&model), text(&path("full"))]),
        4,
        &["full"],
    );
    let said = run([
        "convert",
        text(&model),
        text(&path("a.bin")),
        "--layout",
        "single",
    ]);
    refused(said, 2, &[".safetensors"]);
    let nowhere = path("nowhere");
    refused(
        run(["convert", text(&nowhere), text(&path("b"))]),
        3,
        &["nowhere"],
    );
    let lora = adapter("lora_kohya.safetensors");
    refused(
        run(["convert", text(&lora), text(&path("c"))]),
        3,
        &["lora_kohya"],
    );
    assert!(!path("b").exists() && !path("c").exists());
}
