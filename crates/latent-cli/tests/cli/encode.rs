//! `latent encode`, `decode` and `reconstruct`.

use std::fs;

use latent_formats::Picture;

use crate::support::{names, picture, run, tensor, text, tiny_model};

#[test]
fn a_picture_becomes_latents_and_comes_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    picture(64, 48, 0).save(&path("in.png")).expect("saved");
    let model = tiny_model();
    let (input, latents, output) = (path("in.png"), path("z.safetensors"), path("out.png"));
    let heard = run([
        "encode",
        text(&input),
        "--model",
        text(&model),
        "--device",
        "cpu",
        "-o",
        text(&latents),
    ])
    .fine();
    assert_eq!(heard.stdout.trim(), text(&latents));
    assert_eq!(tensor(&latents, "latents").1, [1, 4, 6, 8]);
    run([
        "decode",
        text(&latents),
        "--model",
        text(&model),
        "--device",
        "cpu",
        "-o",
        text(&output),
    ])
    .fine();
    let back = Picture::open(&output).expect("a picture");
    assert_eq!((back.width(), back.height()), (64, 48));
}

#[test]
fn a_drawn_latent_depends_on_its_seed_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let input = folder.path().join("in.png");
    picture(32, 32, 1).save(&input).expect("saved");
    let model = tiny_model();
    let latents = |seed: &str, name: &str| {
        let output = folder.path().join(name);
        let flags = [
            "encode",
            text(&input),
            "--model",
            text(&model),
            "--sample",
            "--seed",
            seed,
            "-o",
            text(&output),
        ];
        run(flags).fine();
        fs::read(output).expect("the latents")
    };
    let first = latents("3", "a.safetensors");
    assert!(first == latents("3", "b.safetensors"));
    assert!(first != latents("4", "c.safetensors"));
}

#[test]
fn a_side_that_cannot_be_halved_is_cut_and_said_to_be() {
    let folder = tempfile::tempdir().expect("a folder");
    let (input, output) = (
        folder.path().join("in.png"),
        folder.path().join("z.safetensors"),
    );
    picture(37, 43, 0).save(&input).expect("saved");
    let model = tiny_model();
    let heard = run([
        "encode",
        text(&input),
        "--model",
        text(&model),
        "-o",
        text(&output),
    ])
    .fine();
    assert!(
        heard.stderr.contains("cut from 37x43 to 32x40"),
        "{}",
        heard.stderr
    );
    assert_eq!(tensor(&output, "latents").1, [1, 4, 5, 4]);
}

#[test]
fn a_sheet_stands_originals_beside_reconstructions_with_their_scores() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    picture(64, 64, 0).save(&path("a.png")).expect("saved");
    picture(64, 64, 1).save(&path("b.webp")).expect("saved");
    let model = tiny_model();
    let (a, b, sheet) = (path("a.png"), path("b.webp"), path("sheet.png"));
    let lines = run([
        "reconstruct",
        text(&a),
        text(&b),
        "--model",
        text(&model),
        "-o",
        text(&sheet),
        "--json",
    ])
    .fine()
    .json();
    assert_eq!(lines.len(), 3);
    for line in &lines[..2] {
        assert!(
            line["psnr"]
                .as_f64()
                .is_some_and(|psnr| psnr > 3.0 && psnr < 60.0),
            "{line}"
        );
        assert!(line["ssim"].as_f64().is_some(), "{line}");
    }
    let drawn = Picture::open(&sheet).expect("the sheet");
    assert!(drawn.width() > 2 * 64 && drawn.height() > 2 * 64);
    assert_eq!(names(folder.path()), ["a.png", "b.webp", "sheet.png"]);
}
