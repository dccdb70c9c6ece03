//! `latent reproduce`: pictures of this program byte by byte, those of others as far as they can be matched.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{Said, copied, latent, picture, run, said, text, tiny_model};

/// A picture of the tiny model, drawn with `flags`.
fn drawn(folder: &Path, name: &str, flags: &[&str]) -> PathBuf {
    let (output, model) = (folder.join(name), tiny_model());
    let common = [
        "generate",
        "--model",
        text(&model),
        "--device",
        "cpu",
        "-o",
        text(&output),
    ];
    said(latent().args(common).args(flags)).fine();
    output
}

/// `latent reproduce` of a picture with the tiny model.
fn again(file: &Path, output: &Path, more: &[&str]) -> Said {
    let model = tiny_model();
    let common = [
        "reproduce",
        text(file),
        "--model",
        text(&model),
        "-o",
        text(output),
    ];
    said(latent().args(common).args(more).env("LATENT_DEVICE", "cpu"))
}

#[track_caller]
fn assert_same(one: &Path, other: &Path) {
    assert!(
        fs::read(one).expect("a picture") == fs::read(other).expect("a picture"),
        "{} and {} differ",
        one.display(),
        other.display()
    );
}

/// The tiny model in a folder of its own, with a LoRA for two steps that is its default or is not.
fn with_few_steps(model: &Path, default: bool) {
    copied(&tiny_model(), model);
    let lora = tiny_model().join("../adapters/lora_kohya.safetensors");
    fs::copy(lora, model.join("few.safetensors")).expect("copied");
    let defaults = format!(
        r#"{{"steps": 5, "few_steps": {{"lora": "few.safetensors", "steps": 2, "default": {default}}}}}"#
    );
    fs::write(model.join("latent.json"), defaults).expect("written");
}

#[test]
fn a_picture_drawn_fast_is_drawn_fast_again() {
    let place = tempfile::tempdir().expect("a folder");
    let [model, first, second] = ["model", "first.png", "second.png"].map(|n| place.path().join(n));
    with_few_steps(&model, false);
    let common = ["--model", text(&model), "-o"];
    let generate = ["generate", "a red fox", "--fast", "--device", "cpu"];
    let drawn = latent().args(generate).args(common).arg(&first).output();
    assert!(drawn.expect("runs").status.success());
    let mut again = latent();
    again
        .args(["reproduce", text(&first)])
        .args(common)
        .arg(&second);
    said(again.env("LATENT_DEVICE", "cpu")).fine();
    assert_same(&first, &second);
}

#[test]
fn a_model_that_likes_few_steps_takes_them_where_nothing_says_how_to_draw() {
    let place = tempfile::tempdir().expect("a folder");
    let model = place.path().join("model");
    let drawn = |likes: bool, flags: &[&str]| {
        if model.exists() {
            fs::remove_dir_all(&model).expect("removed");
        }
        with_few_steps(&model, likes);
        let picture = place.path().join("fox.png");
        let mut command = latent();
        command.args(["generate", "a red fox", "--device", "cpu"]);
        command.args(["--model", text(&model), "-o"]).arg(&picture);
        let said = said(command.args(flags)).fine();
        let told = said.stderr.contains("2 steps, as this model likes");
        assert_eq!(told, likes && flags.is_empty(), "{}", said.stderr);
        fs::read(&picture).expect("a picture")
    };
    let (few, many) = (drawn(false, &["--fast"]), drawn(false, &[]));
    assert!(few != many, "the LoRA changes the picture");
    assert!(drawn(true, &[]) == few, "its default");
    assert!(drawn(true, &["--fast=false"]) == many, "told not to");
    for named in [["--steps", "5"], ["--guidance", "7.5"]] {
        assert!(drawn(true, &named) == many, "{named:?} says how to draw");
    }
}

/// Wishes as flags of `latent generate`.
const CASES: [&[&str]; 8] = [
    &["a red fox", "--steps", "3"],
    &[
        "빨간 여우, \"quoted\"\nin two lines",
        "--negative",
        "fog,\nrain",
        "--seed",
        "18446744073709551615",
        "--steps",
        "3",
        "--guidance",
        "3.3",
        "--width",
        "56",
        "--height",
        "72",
    ],
    &[
        "a fox",
        "--steps",
        "3",
        "--sampler",
        "Euler a",
        "--schedule",
        "sgm_uniform",
        "--generator",
        "philox",
        "--clip-skip",
        "1",
    ],
    &[
        "a fox",
        "--steps",
        "3",
        "--sampler",
        "ddim",
        "--eta",
        "0.3",
        "--guidance-rescale",
        "0.4",
        "--precision",
        "f32",
    ],
    &[
        "a fox",
        "--steps",
        "3",
        "--variation-seed",
        "5",
        "--variation-strength",
        "0.25",
        "--sampler",
        "DPM++ 2M Karras",
    ],
    &[
        "a fox",
        "--steps",
        "3",
        "--hires-scale",
        "1.5",
        "--hires-steps",
        "2",
        "--hires-strength",
        "0.6",
        "--hires-upscaler",
        "lanczos",
    ],
    &[
        "a fox",
        "--steps",
        "4",
        "--guidance",
        "9",
        "--guidance-method",
        "apg",
        "--apg-eta",
        "0.25",
        "--apg-momentum",
        "-0.75",
        "--pag",
        "2.5",
        "--pag-layers",
        "mid,up.1",
        "--guidance-interval",
        "0.2:0.8",
        "--mimic",
        "5",
        "--threshold-percentile",
        "0.995",
        "--cache-interval",
        "2",
    ],
    &[
        "a fox",
        "--steps",
        "3",
        "--sampler",
        "euler",
        "--guidance-method",
        "cfg++",
        "--guidance",
        "0.7",
        "--empty-negative",
        "zeros",
    ],
];

#[test]
fn what_latent_drew_comes_out_byte_by_byte() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    for (k, flags) in CASES.iter().enumerate() {
        for ending in ["png", "jpg", "webp"] {
            // One kind of file is enough for most.
            if k > 1 && ending != ["png", "jpg", "webp"][k % 3] {
                continue;
            }
            let first = drawn(folder, &format!("{k}.{ending}"), flags);
            let second = folder.join(format!("{k}-again.{ending}"));
            let said = again(&first, &second, &["--strict"]).fine();
            assert!(!said.stderr.contains("cannot match"), "{}", said.stderr);
            assert_same(&first, &second);
        }
    }
}

#[test]
fn what_was_drawn_over_a_picture_is_drawn_over_it_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let (init, mask) = (folder.join("init.png"), folder.join("mask.png"));
    picture(64, 48, 0).save(&init).expect("saved");
    latent_formats::Picture::filled(64, 48, [255; 3])
        .expect("a picture")
        .save(&mask)
        .expect("saved");
    let over = [
        "a fox",
        "--steps",
        "4",
        "--init",
        text(&init),
        "--strength",
        "0.5",
    ];
    let first = drawn(folder, "over.png", &over);
    let second = folder.join("over-again.png");
    let refused = again(&first, &second, &[]);
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("-- --init PICTURE") && !second.exists(),
        "{}",
        refused.stderr
    );
    again(&first, &second, &["--strict", "--", "--init", text(&init)]).fine();
    assert_same(&first, &second);
    let around = [
        "a fox",
        "--steps",
        "3",
        "--init",
        text(&init),
        "--mask",
        text(&mask),
        "--outpaint",
        "8,0,16,8",
        "--mask-grow",
        "2",
        "--keep-unmasked",
        "false",
    ];
    let first = drawn(folder, "around.png", &around);
    again(
        &first,
        &second,
        &[
            "--strict",
            "--",
            "--init",
            text(&init),
            "--mask",
            text(&mask),
        ],
    )
    .fine();
    assert_same(&first, &second);
}

#[test]
fn loras_are_found_by_name_and_one_that_is_not_is_listed() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let loras =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../latent-models/tests/fixtures/adapters");
    let lora = loras.join("lora_kohya.safetensors");
    let with = format!("{}:0.5:0.25", lora.display());
    let first = drawn(
        folder,
        "lora.png",
        &["a fox", "--steps", "2", "--lora", &with],
    );
    let second = folder.join("again.png");
    again(&first, &second, &["--strict", "--lora-dir", text(&loras)]).fine();
    assert_same(&first, &second);
    let without = again(&first, &second, &[]).fine();
    let words = "cannot match the LoRA `lora_kohya`; name the folder";
    assert!(without.stderr.contains(words), "{}", without.stderr);
    let strict = again(&first, &second, &["--strict"]);
    assert_eq!(strict.code, 3, "{}", strict.stderr);
}

#[test]
fn a_model_that_only_the_picture_names_is_asked_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = drawn(folder.path(), "a.png", &["a fox", "--steps", "2"]);
    let refused = run(["reproduce", text(&first)]);
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("`sd1-tiny`") && refused.stderr.contains("--model PATH"),
        "{}",
        refused.stderr
    );
    assert!(!folder.path().join("a.again.png").exists());
}

#[test]
fn the_built_in_models_picture_needs_no_model_and_goes_beside_the_first() {
    if !latent::has_builtin() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let first = folder.path().join("apple.webp");
    run([
        "generate",
        "a red apple, 3d style",
        "--steps",
        "2",
        "--device",
        "cpu",
        "-o",
        text(&first),
    ])
    .fine();
    said(latent().args([
        "reproduce",
        text(&first),
        "--strict",
        "--",
        "--device",
        "cpu",
    ]))
    .fine();
    assert_same(&first, &folder.path().join("apple.again.webp"));
}

#[test]
fn a_dry_run_prints_a_command_that_draws_the_same() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let first = drawn(
        folder,
        "a.png",
        &["it's a fox", "--steps", "2", "--seed", "7"],
    );
    let second = folder.join("b.png");
    let printed = again(&first, &second, &["--dry-run"]).fine();
    assert!(
        printed
            .stdout
            .starts_with("latent generate 'it'\\''s a fox' --seed 7 --steps 2 "),
        "{}",
        printed.stdout
    );
    assert!(!second.exists());
    let line = &again(&first, &second, &["--dry-run", "--json"])
        .fine()
        .json()[0];
    assert_eq!(line["tool"], "Latent");
    let command = line["command"].as_array().expect("words");
    let words: Vec<&str> = command.iter().filter_map(|word| word.as_str()).collect();
    run(words).fine();
    assert_same(&first, &second);
}

#[test]
fn pictures_of_other_tools_are_drawn_and_what_does_not_match_is_listed() {
    let folder = tempfile::tempdir().expect("a folder");
    let fixtures =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../latent/tests/fixtures/tool-pictures");
    let cases = [
        ("a1111.png", "Seed: 3141592653", "v1-5-pruned-emaonly"),
        ("a1111.jpg", "Seed: 3141592653", "v1-5-pruned-emaonly"),
        (
            "comfyui.webp",
            "Seed: 156680208700286",
            "v1-5-pruned-emaonly",
        ),
        ("invokeai.png", "Seed: 4294967295", "LoRA `snow`"),
    ];
    for (name, seed, unmatched) in cases {
        let output = folder.path().join("out.png");
        let said = again(&fixtures.join(name), &output, &[]).fine();
        let found = said
            .stderr
            .lines()
            .any(|line| line.contains("cannot match") && line.contains(unmatched));
        assert!(found, "{name}: {}", said.stderr);
        let picture = latent_formats::Picture::open(&output).expect("the picture");
        let (_, settings) = &picture.text()[0];
        assert!(
            settings.contains(seed) && settings.contains("Size: 64x96"),
            "{settings}"
        );
    }
}

#[test]
fn a_model_file_with_another_hash_is_listed_and_the_right_one_is_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let (model, file) = (
        folder.path().join("m.safetensors"),
        folder.path().join("a.png"),
    );
    fs::write(&model, b"abc").expect("written");
    // FIPS 180-4's example: SHA-256 of "abc".
    for (hash, matches) in [("ba7816bf8f", true), ("0123456789", false)] {
        let mut picture = picture(8, 8, 0);
        picture.set_text(
            "parameters",
            format!("a fox\nSteps: 2, Sampler: Euler, Seed: 1, Model hash: {hash}, Model: x"),
        );
        picture.save(&file).expect("saved");
        let said = run([
            "reproduce",
            text(&file),
            "--model",
            text(&model),
            "--dry-run",
        ])
        .fine();
        assert_eq!(
            !said.stderr.contains("has ba7816bf8f"),
            matches,
            "{}",
            said.stderr
        );
    }
}

#[test]
fn a_picture_without_settings_and_flags_that_do_not_exist_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let bare = folder.path().join("bare.png");
    picture(8, 8, 0).save(&bare).expect("saved");
    let refused = run(["reproduce", text(&bare)]);
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("holds no settings"),
        "{}",
        refused.stderr
    );
    let first = drawn(folder.path(), "a.png", &["a fox", "--steps", "2"]);
    let wrong = again(
        &first,
        &folder.path().join("b.png"),
        &["--", "--stepz", "3"],
    );
    assert_eq!(wrong.code, 2, "{}", wrong.stderr);
    assert!(wrong.stderr.contains("--stepz"), "{}", wrong.stderr);
}
