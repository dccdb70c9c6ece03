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

/// The plain adapter of the tiny model with a strength.
fn adapter(strength: &str) -> String {
    let file = of_adapter("ip-adapter_sd15.safetensors");
    format!("{}:{strength}", text(&file))
}

#[test]
fn an_adapter_looks_at_one_picture_or_several() {
    let place = tempfile::tempdir().expect("a folder");
    let folder = place.path();
    let [wide, square] = ["wide", "square"].map(|name| seen(folder, name));
    let encoder = of_adapter("image_encoder");
    let flags = ["--ip-adapter", &adapter("0.6"), "--ip-image", text(&wide)];
    let named = ["--image-encoder", text(&encoder)];
    draw(folder, &[&flags[..], &named].concat()).fine();
    equals(folder, "sd1_plain");
    // The encoder beside the adapter is found.
    let flags = ["--ip-adapter", &adapter("0.8"), "--ip-image", text(&wide)];
    let another = ["--ip-image", text(&square)];
    draw(folder, &[&flags[..], &another].concat()).fine();
    equals(folder, "sd1_pictures");
}

#[test]
fn two_adapters_look_at_a_picture_each_and_settings_name_them() {
    let place = tempfile::tempdir().expect("a folder");
    let folder = place.path();
    let [wide, square] = ["wide", "square"].map(|name| seen(folder, name));
    let plus = of_adapter("ip-adapter-plus_sd15.safetensors");
    let plus = format!("{}:0.7", text(&plus));
    let two = ["--ip-adapter", &adapter("0.5"), "--ip-adapter", &plus];
    let pictures = ["--ip-image", text(&square), "--ip-image", text(&wide)];
    draw(folder, &[two, pictures].concat()).fine();
    equals(folder, "sd1_two");
    let drawn = Picture::open(&folder.join("a.png")).expect("a picture");
    let settings = drawn.text().iter().find(|(key, _)| key == "parameters");
    let settings = &settings.expect("settings").1;
    let named = "ip-adapter ip-adapter_sd15:0.5, ip-adapter ip-adapter-plus_sd15:0.7";
    assert!(settings.contains(named), "{settings}");
}

#[test]
fn an_adapter_looks_for_a_part_of_the_steps_and_reproducing_asks_for_it() {
    let place = tempfile::tempdir().expect("a folder");
    let folder = place.path();
    let wide = seen(folder, "wide");
    let flags = ["--ip-adapter", &adapter("0.9"), "--ip-image", text(&wide)];
    let window = ["--ip-start", "0.2", "--ip-end", "0.7"];
    draw(folder, &[&flags[..], &window].concat()).fine();
    equals(folder, "sd1_window");
    let (png, model) = (folder.join("a.png"), tiny_model());
    let said = run([
        "reproduce",
        text(&png),
        "--model",
        text(&model),
        "--dry-run",
    ]);
    let wanted = "the IP-Adapter `ip-adapter_sd15:0.9";
    assert!(said.stderr.contains(wanted), "{}", said.stderr);
}

/// Draws with an adapter and `more` flags, and checks the exit code and words of the error.
#[track_caller]
fn refused(folder: &Path, more: &[&str], code: i32, words: &[&str]) {
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

#[test]
fn flags_that_do_not_fit_together_are_refused_with_what_to_do() {
    let place = tempfile::tempdir().expect("a folder");
    let folder = place.path();
    let shown = folder.join("shown.png");
    picture(40, 30, 0).save(&shown).expect("saved");
    let fits = adapter("1");
    let image = ["--ip-image", text(&shown)];
    refused(folder, &["--ip-adapter", &fits], 2, &["--ip-image"]);
    refused(folder, &image, 2, &["--ip-adapter"]);
    refused(folder, &["--image-encoder", "a"], 2, &["--ip-adapter"]);
    let two = ["--ip-adapter", &fits, "--ip-adapter", &fits];
    let words = ["2 IP-Adapters and 1 pictures", "one `--ip-image`"];
    refused(folder, &[&two[..], &image].concat(), 2, &words);
    let window = [
        "--ip-adapter",
        &fits,
        "--ip-start",
        "0.9",
        "--ip-end",
        "0.1",
    ];
    let words = ["the start before the end"];
    refused(folder, &[&window[..], &image].concat(), 2, &words);
}

#[test]
fn files_that_do_not_fit_are_refused_with_what_they_are() {
    let place = tempfile::tempdir().expect("a folder");
    let folder = place.path();
    let shown = folder.join("shown.png");
    picture(40, 30, 0).save(&shown).expect("saved");
    let alone = folder.join("alone.safetensors");
    fs::copy(of_adapter("ip-adapter_sd15.safetensors"), &alone).expect("copied");
    let other = of_adapter("ip-adapter_sdxl.safetensors");
    let lora = of_adapter("../adapters/lora_kohya.safetensors");
    let cases: [(&Path, i32, &[&str]); 3] = [
        (
            &other,
            3,
            &["is an IP-Adapter for", "name one made for this kind"],
        ),
        (
            &alone,
            2,
            &["--image-encoder", "CLIPVisionModelWithProjection"],
        ),
        (&lora, 3, &["no IP-Adapter but a LoRA", "--lora"]),
    ];
    for (file, code, words) in cases {
        let flags = ["--ip-adapter", text(file), "--ip-image", text(&shown)];
        refused(folder, &flags, code, words);
    }
    let fits = adapter("1");
    let flags = ["--ip-adapter", &fits, "--ip-image", text(&shown)];
    let wrong = ["--image-encoder", text(&lora)];
    let words = ["is no image encoder"];
    refused(folder, &[&flags[..], &wrong].concat(), 3, &words);
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
