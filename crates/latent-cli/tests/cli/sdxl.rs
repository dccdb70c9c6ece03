//! Stable Diffusion XL and its refiner on the command line.

use std::path::PathBuf;

use crate::support::{Said, names, run, text};

fn fixture(name: &str) -> PathBuf {
    let fixtures = "../latent-models/tests/fixtures";
    std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(fixtures)
        .join(name)
}

/// Draws with a model and `more` flags.
fn draw(model: &str, more: &[&str], output: &str) -> Said {
    let model = fixture(model);
    let flags = [
        "generate",
        "a fox",
        "--model",
        text(&model),
        "--steps",
        "4",
        "--width",
        "32",
        "--height",
        "32",
        "--device",
        "cpu",
        "--precision",
        "f32",
        "-o",
        output,
    ];
    run(flags.iter().chain(more))
}

/// The picture's bytes without the text that holds its settings.
fn pixels(path: &std::path::Path) -> Vec<u8> {
    latent_formats::Picture::open(path)
        .expect("a picture")
        .rgb()
        .to_vec()
}

#[test]
fn every_flag_of_stable_diffusion_xl_changes_the_picture() {
    let place = tempfile::tempdir().expect("a folder");
    let refiner = fixture("sdxl-refiner-tiny");
    let flags: [&[&str]; 9] = [
        &[],
        &["--prompt-2", "a cat"],
        &["--negative", ""],
        &["--negative", "fog"],
        &["--negative", "fog", "--negative-2", "rain"],
        &["--original-size", "512x768"],
        &["--crop", "16,32", "--target-size", "64x64"],
        &["--refiner", text(&refiner)],
        &[
            "--refiner",
            text(&refiner),
            "--refine-at",
            "0.3",
            "--aesthetic-score",
            "9",
        ],
    ];
    let mut seen = Vec::new();
    for (k, more) in flags.iter().enumerate() {
        let path = place.path().join(format!("{k}.png"));
        let said = draw("sdxl-tiny", more, text(&path)).fine();
        assert!(!said.stderr.contains("no effect"), "{}", said.stderr);
        let pixels = pixels(&path);
        assert!(!seen.contains(&pixels), "{more:?} changed nothing");
        seen.push(pixels);
    }
}

#[test]
fn wrong_sizes_shares_and_predictions_are_refused() {
    let place = tempfile::tempdir().expect("a folder");
    let output = place.path().join("a.png");
    let refiner = fixture("sdxl-refiner-tiny");
    let other = fixture("sd1-tiny");
    let cases: [(&[&str], i32, &str); 7] = [
        (&["--original-size", "512"], 2, "1024x768"),
        (&["--crop", "a,b"], 2, "0,128"),
        (&["--refine-at", "0.5"], 2, "--refiner"),
        (
            &["--refiner", text(&refiner), "--refine-at", "1.5"],
            2,
            "denoising_end",
        ),
        (&["--refiner", text(&other)], 2, "sd1-tiny"),
        (&["--prediction", "x"], 2, "epsilon"),
        (&["--prediction", "v"], 2, "checkpoint of one file"),
    ];
    for (more, code, word) in cases {
        let said = draw("sdxl-tiny", more, text(&output));
        assert_eq!(said.code, code, "{more:?}: {}", said.stderr);
        assert!(said.stderr.contains(word), "{more:?}: {}", said.stderr);
    }
    assert!(names(place.path()).is_empty());
}

#[test]
fn base_refiner_and_their_checkpoints_of_one_file_are_shown() {
    for (model, file, parts) in [
        ("sdxl-tiny", "model_sgm.safetensors", 4),
        ("sdxl-refiner-tiny", "model_sgm.ckpt", 3),
    ] {
        let folder = fixture(model);
        let shown = run(["inspect", text(&folder), "--json"]).fine().json();
        let family = model.trim_end_matches("-tiny");
        let file = folder.join(file);
        let single = ["inspect", text(&file), "--config", text(&folder), "--json"];
        let single = run(single).fine().json();
        for shown in [&shown[0], &single[0]] {
            assert_eq!(shown["family"], family);
            assert_eq!(shown["prompt_tokens"], 75);
            assert_eq!(
                shown["parts"].as_array().map(Vec::len),
                Some(parts),
                "{shown}"
            );
        }
    }
    let file = fixture("sd2-tiny/model_ldm.safetensors");
    let said = run(["inspect", text(&file), "--prediction", "v", "--json"]).fine();
    assert_eq!(
        said.json()[0]["scheduler"]["prediction_type"],
        "v_prediction"
    );
}

#[test]
fn a_prompt_is_shown_as_the_refiner_reads_it() {
    let folder = fixture("sdxl-refiner-tiny");
    let said = run(["prompt", "a fox", "--model", text(&folder), "--json"]).fine();
    let ids = &said.json()[0]["ids"];
    assert_eq!((&ids[0], &ids[76]), (&712.into(), &0.into()), "{ids}");
}
