//! Pictures that are looked at beside the words, by the command's flags.

use std::fs;
use std::path::{Path, PathBuf};

use latent_formats::Picture;

use crate::support::{Said, picture, run, tensor, text, tiny_model};

fn of_adapter(name: &str) -> PathBuf {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../latent-models/tests/fixtures");
    fixtures.join("ip-adapter").join(name)
}

/// The run of diffusers' DDIM with the tiny model and `more` flags; writes `a.png` and `z.safetensors` into `folder`.
fn draw(folder: &Path, more: &[&str]) -> Said {
    let (model, output) = (tiny_model(), folder.join("a.png"));
    let latents = folder.join("z.safetensors");
    let words = "a photo of an astronaut riding a horse on mars";
    let flags = format!(
        "--negative|blurry, low quality|--seed|11|--steps|6|--guidance|7.5|--sampler|ddim|--width|64|--height|64|--device|cpu|\
         --precision|f32|--model|{}|-o|{}|--save-latents|{}",
        text(&model),
        text(&output),
        text(&latents)
    );
    let flags = flags.split('|').chain(more.iter().copied());
    run(["generate", words].into_iter().chain(flags))
}

/// A stored picture as a file.
fn seen(folder: &Path, name: &str) -> PathBuf {
    let key = format!("seen/{name}");
    let (levels, shape) = tensor(&of_adapter("expected.safetensors"), &key);
    let rgb = levels.into_iter().map(|level| level as u8).collect();
    let picture = Picture::new(shape[1], shape[0], rgb).expect("a picture");
    let path = folder.join(format!("{name}.png"));
    picture.save(&path).expect("saved");
    path
}

#[track_caller]
fn equals(folder: &Path, run: &str) {
    let (found, _) = tensor(&folder.join("z.safetensors"), "latents");
    let key = format!("run/{run}/latents_final");
    let (expected, _) = tensor(&of_adapter("expected.safetensors"), &key);
    let largest = expected.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
    let apart = found.iter().zip(&expected).map(|(a, b)| (a - b).abs());
    let worst = apart.fold(0.0, f32::max) / largest;
    assert!(worst <= 1e-3, "{run}: {worst}");
}

#[test]
fn an_adapter_looks_at_one_picture_or_several_and_two_at_one_each() {
    let place = tempfile::tempdir().expect("a folder");
    let folder = place.path();
    let [wide, square] = ["wide", "square"].map(|name| seen(folder, name));
    let file = of_adapter("ip-adapter_sd15.safetensors");
    let adapter = |strength: &str| format!("{}:{strength}", text(&file));
    let encoder = of_adapter("image_encoder");
    let flags = ["--ip-adapter", &adapter("0.6"), "--ip-image", text(&wide)];
    draw(
        folder,
        &[&flags[..], &["--image-encoder", text(&encoder)]].concat(),
    )
    .fine();
    equals(folder, "sd1_plain");
    // The encoder beside the adapter is found.
    let both = ["--ip-image", text(&wide), "--ip-image", text(&square)];
    draw(
        folder,
        &[&["--ip-adapter", &adapter("0.8")], &both[..]].concat(),
    )
    .fine();
    equals(folder, "sd1_pictures");
    let plus = format!(
        "{}:0.7",
        text(&of_adapter("ip-adapter-plus_sd15.safetensors"))
    );
    let two = ["--ip-adapter", &adapter("0.5"), "--ip-adapter", &plus];
    let pictures = ["--ip-image", text(&square), "--ip-image", text(&wide)];
    draw(folder, &[two, pictures].concat()).fine();
    equals(folder, "sd1_two");
    let drawn = Picture::open(&folder.join("a.png")).expect("a picture");
    let settings = drawn.text().iter().find(|(key, _)| key == "parameters");
    let settings = &settings.expect("settings").1;
    let named = "ip-adapter ip-adapter_sd15:0.5, ip-adapter ip-adapter-plus_sd15:0.7";
    assert!(settings.contains(named), "{settings}");
    let window = [
        "--ip-start",
        "0.2",
        "--ip-end",
        "0.7",
        "--ip-image",
        text(&wide),
    ];
    draw(
        folder,
        &[&["--ip-adapter", &adapter("0.9")], &window[..]].concat(),
    )
    .fine();
    equals(folder, "sd1_window");
    let png = folder.join("a.png");
    let said = run([
        "reproduce",
        text(&png),
        "--model",
        text(&tiny_model()),
        "--dry-run",
    ]);
    assert!(
        said.stderr.contains("the IP-Adapter `ip-adapter_sd15:0.9"),
        "{}",
        said.stderr
    );
}

#[test]
fn flags_and_files_that_do_not_fit_are_refused_with_what_to_do() {
    let place = tempfile::tempdir().expect("a folder");
    let folder = place.path();
    let shown = folder.join("shown.png");
    picture(40, 30, 0).save(&shown).expect("saved");
    let fits = of_adapter("ip-adapter_sd15.safetensors");
    let other = of_adapter("ip-adapter_sdxl.safetensors");
    let alone = folder.join("alone.safetensors");
    fs::copy(&fits, &alone).expect("copied");
    let lora = of_adapter("../adapters/lora_kohya.safetensors");
    let (fits, shown, lora) = (text(&fits), text(&shown), text(&lora));
    let cases: [(&[&str], i32, &[&str]); 9] = [
        (&["--ip-adapter", fits], 2, &["--ip-image"]),
        (&["--ip-image", shown], 2, &["--ip-adapter"]),
        (&["--image-encoder", fits], 2, &["--ip-adapter"]),
        (
            &[
                "--ip-adapter",
                fits,
                "--ip-adapter",
                fits,
                "--ip-image",
                shown,
            ],
            2,
            &["2 IP-Adapters and 1 pictures", "one `--ip-image`"],
        ),
        (
            &["--ip-adapter", text(&other), "--ip-image", shown],
            3,
            &["is an IP-Adapter for", "name one made for this kind"],
        ),
        (
            &["--ip-adapter", text(&alone), "--ip-image", shown],
            2,
            &["--image-encoder", "CLIPVisionModelWithProjection"],
        ),
        (
            &["--ip-adapter", lora, "--ip-image", shown],
            3,
            &["no IP-Adapter but a LoRA", "--lora"],
        ),
        (
            &[
                "--ip-adapter",
                fits,
                "--ip-image",
                shown,
                "--image-encoder",
                lora,
            ],
            3,
            &["is no image encoder"],
        ),
        (
            &[
                "--ip-adapter",
                fits,
                "--ip-image",
                shown,
                "--ip-start",
                "0.9",
                "--ip-end",
                "0.1",
            ],
            2,
            &["the start before the end"],
        ),
    ];
    for (more, code, words) in cases {
        let said = draw(folder, more);
        assert_eq!(said.code, code, "{more:?}: {}", said.stderr);
        for word in words {
            assert!(
                said.stderr.contains(word),
                "no `{word}` in: {}",
                said.stderr
            );
        }
    }
}

#[test]
fn adapters_and_encoders_are_recognised() {
    for (file, word) in [
        ("ip-adapter-plus_sd15.safetensors", "--ip-adapter"),
        ("image_encoder/model.safetensors", "--image-encoder"),
    ] {
        let shown = run(["inspect", text(&of_adapter(file))]).fine().stdout;
        assert!(shown.contains(word), "{shown}");
    }
}
