//! `latent generate` with a tiny Stable Diffusion folder.

use std::fs;
use std::path::Path;

use latent_formats::Picture;
use serde_json::Value;

use crate::support::{self, Said, names, run, said, tensor, text, tiny_model, tiny_runs};

/// Largest difference, as a share of the largest expected value, of whole runs in f32.
const TOLERANCE: f32 = 1e-3;

/// One run of diffusers.
struct Run {
    name: String,
    settings: Value,
}

/// The runs of one picture, whose names `wanted` picks.
fn runs(wanted: impl Fn(&str) -> bool) -> Vec<Run> {
    let text = fs::read_to_string(tiny_runs().join("case.json")).expect("the settings");
    let cases: Value = serde_json::from_str(&text).expect("JSON");
    let runs = cases["runs"].as_object().expect("runs").clone();
    runs.into_iter()
        .filter(|(name, _)| wanted(name))
        .map(|(name, settings)| Run { name, settings })
        .collect()
}

impl Run {
    /// The flags of the command.
    fn flags(&self, latents: &Path, picture: &Path) -> Vec<String> {
        let call = &self.settings["call"];
        let word = |value: &Value| {
            value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned)
        };
        let mut flags = vec![
            "generate".into(),
            word(&call["prompt"]),
            "--model".into(),
            text(&tiny_model()).into(),
        ];
        let mut flag = |name: &str, value: String| flags.extend([format!("--{name}"), value]);
        flag(
            "negative",
            call["negative_prompt"].as_str().unwrap_or("").to_owned(),
        );
        flag("seed", self.settings["seeds"][0].to_string());
        flag("steps", self.settings["steps"].to_string());
        flag("guidance", call["guidance_scale"].to_string());
        flag("width", call["width"].to_string());
        flag("height", call["height"].to_string());
        flag("precision", "f32".into());
        flag("device", "cpu".into());
        flag("save-latents", text(latents).into());
        if !call["eta"].is_null() {
            flag("eta", call["eta"].to_string());
        }
        flags.extend(["-o".into(), text(picture).into()]);
        flags
    }

    /// Runs the command with `more` flags and compares its latents with those of diffusers.
    fn check(&self, more: &[&str]) -> Result<(), String> {
        let folder = tempfile::tempdir().expect("a folder");
        let (latents, picture) = (
            folder.path().join("out.safetensors"),
            folder.path().join("out.png"),
        );
        let Said { code, stderr, .. } = said(
            support::latent()
                .args(self.flags(&latents, &picture))
                .args(more),
        );
        if code != 0 {
            return Err(format!("{}: {stderr}", self.name));
        }
        let (found, shape) = tensor(&latents, "latents");
        let expected = format!("run/{}/latents_final", self.name);
        let (expected, expected_shape) =
            tensor(&tiny_runs().join("expected.safetensors"), &expected);
        let scale = expected
            .iter()
            .fold(0.0_f32, |most, value| most.max(value.abs()));
        let differences = found
            .iter()
            .zip(&expected)
            .map(|(a, b)| (a - b).abs() / scale);
        let worst = differences.fold(0.0, f32::max);
        Picture::open(&picture).map_err(|error| error.to_string())?;
        if shape == expected_shape && worst <= TOLERANCE {
            Ok(())
        } else {
            Err(format!("{}: {worst}", self.name))
        }
    }
}

fn check_all(runs: &[Run], more: impl Fn(&Run) -> Vec<String>) {
    let check = |run: &Run| {
        let more = more(run);
        run.check(&more.iter().map(String::as_str).collect::<Vec<_>>())
            .err()
    };
    let failed: Vec<String> = runs.iter().filter_map(check).collect();
    assert!(
        failed.is_empty(),
        "{} of {} runs differ:\n{}",
        failed.len(),
        runs.len(),
        failed.join("\n")
    );
}

#[test]
fn every_sampler_asked_for_by_name_equals_diffusers() {
    let named = [
        "ddim",
        "euler",
        "euler_a",
        "dpmpp_2m_karras",
        "pndm",
        "unipc",
        "ddpm",
        "heun",
    ];
    let runs = runs(|name| named.contains(&name));
    assert_eq!(runs.len(), named.len());
    check_all(&runs, |run| vec!["--sampler".into(), run.name.clone()]);
}

#[test]
fn a_scheduler_config_in_place_of_the_folders_equals_diffusers() {
    let folder = tempfile::tempdir().expect("a folder");
    let runs = runs(|name| ["ddim_g1", "ddim_eta1", "euler_wide"].contains(&name));
    assert_eq!(runs.len(), 3);
    check_all(&runs, |run| {
        let mut config = run.settings["scheduler_config"].clone();
        config["_class_name"] = run.settings["scheduler_class"].clone();
        let path = folder.path().join(format!("{}.json", run.name));
        fs::write(&path, config.to_string()).expect("written");
        vec!["--scheduler-config".into(), text(&path).into()]
    });
}

/// A quick picture of the tiny model into `folder`, with `more` flags.
fn quick(folder: &Path, output: &str, more: &[&str]) -> Said {
    let output = folder.join(output);
    let model = tiny_model();
    let flags = [
        "generate",
        "a red fox",
        "--model",
        text(&model),
        "--steps",
        "3",
        "--device",
        "cpu",
        "-o",
        text(&output),
    ];
    said(support::latent().args(flags).args(more))
}

#[test]
fn threads_do_not_change_a_byte() {
    let folder = tempfile::tempdir().expect("a folder");
    let bytes = |threads: &str| {
        let name = format!("{threads}.png");
        quick(
            folder.path(),
            &name,
            &["--threads", threads, "--width", "128", "--height", "96"],
        )
        .fine();
        fs::read(folder.path().join(name)).expect("the picture")
    };
    let one = bytes("1");
    assert!(one == bytes("2") && one == bytes("5"));
}

#[test]
fn a_picture_of_many_is_the_picture_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let many = quick(
        folder,
        "many.png",
        &["--seed", "7", "--count", "3", "--sampler", "euler_a"],
    )
    .fine();
    let paths: Vec<&str> = many.stdout.lines().collect();
    assert_eq!(paths.len(), 3);
    for (k, path) in paths.iter().enumerate() {
        let seed = (7 + k).to_string();
        quick(
            folder,
            "alone.png",
            &["--seed", &seed, "--sampler", "euler_a"],
        )
        .fine();
        let alone = fs::read(folder.join("alone.png")).expect("the picture");
        assert!(fs::read(path).expect("the picture") == alone, "picture {k}");
    }
    quick(
        folder,
        "listed.png",
        &["--seed", "9,7", "--sampler", "euler_a"],
    )
    .fine();
    let listed = fs::read(folder.join("listed-2.png")).expect("the picture");
    assert!(listed == fs::read(paths[0]).expect("the picture"));
}

#[test]
fn names_of_three_programs_draw_the_same_picture() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let draw = |flags: &[&str]| {
        quick(folder, "a.png", flags).fine();
        fs::read(folder.join("a.png")).expect("the picture")
    };
    let joined = draw(&["--sampler", "DPM++ 2M Karras"]);
    let apart = draw(&[
        "--sampler",
        "DPMSolverMultistepScheduler",
        "--schedule",
        "Karras",
    ]);
    assert!(joined == apart && joined == draw(&["--sampler", "dpmpp_2m", "--schedule", "karras"]));
    assert!(joined != draw(&["--sampler", "dpmpp_2m", "--schedule", "kl_optimal"]));
}

#[test]
fn every_sampler_of_image_tools_draws_and_says_so_in_the_picture() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in [
        "DPM++ SDE",
        "DPM++ 2S a",
        "DPM++ 3M SDE",
        "Restart",
        "er_sde",
        "sa_solver",
    ] {
        quick(
            folder.path(),
            "a.png",
            &["--sampler", name, "--generator", "philox"],
        )
        .fine();
        let picture = Picture::open(&folder.path().join("a.png")).expect("the picture");
        let (_, settings) = picture
            .text()
            .iter()
            .find(|(key, _)| key == "parameters")
            .expect("settings");
        assert!(settings.contains(&format!("Sampler: {name}")), "{settings}");
        assert!(settings.contains("RNG: NV"), "{settings}");
    }
    let flags = [
        "--sampler",
        "DPM++ 3M SDE",
        "--schedule",
        "simple",
        "--json",
    ];
    let line = &quick(folder.path(), "a.png", &flags).fine().json()[0];
    assert_eq!(line["schedule"], "simple");
    assert_eq!(line["generator"], "torch");
}

#[test]
fn the_noise_of_a_gpu_is_another_picture_and_alone_as_among_others() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let draw = |flags: &[&str]| {
        let said = quick(folder, "a.png", flags).fine();
        let last = said.stdout.lines().last().expect("a path").to_owned();
        fs::read(last).expect("the picture")
    };
    let gpu = draw(&[
        "--seed",
        "6",
        "--sampler",
        "dpmpp_sde",
        "--generator",
        "philox",
    ]);
    let many = [
        "--seed",
        "5",
        "--count",
        "2",
        "--sampler",
        "dpmpp_sde",
        "--generator",
        "philox",
    ];
    assert!(gpu == draw(&many));
    assert!(gpu != draw(&["--seed", "6", "--sampler", "dpmpp_sde"]));
}

#[test]
fn a_picture_carries_its_settings_and_json_tells_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let lines = quick(folder.path(), "fox.png", &["--seed", "5", "--json"])
        .fine()
        .json();
    assert_eq!(
        (lines[0]["seed"].as_u64(), lines[0]["steps"].as_u64()),
        (Some(5), Some(3))
    );
    let picture = Picture::open(&folder.path().join("fox.png")).expect("the picture");
    let (_, settings) = picture
        .text()
        .iter()
        .find(|(key, _)| key == "parameters")
        .expect("the settings");
    assert!(
        settings.starts_with("a red fox\nSteps: 3, ") && settings.contains("Seed: 5"),
        "{settings}"
    );
}

#[test]
fn a_preview_leaves_only_the_picture_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let heard = quick(folder.path(), "fox.webp", &["--preview"]).fine();
    assert!(heard.stderr.contains("fox.preview.png"), "{}", heard.stderr);
    assert_eq!(names(folder.path()), ["fox.webp"]);
}

#[test]
fn a_prompt_that_is_too_long_is_drawn_and_what_was_cut_is_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = folder.path().join("long.png");
    let prompt = format!(
        "{}the very last words",
        "a red fox in the snow, ".repeat(20)
    );
    let model = tiny_model();
    let heard = run([
        "generate",
        &prompt,
        "--model",
        text(&model),
        "--steps",
        "2",
        "-o",
        text(&output),
    ])
    .fine();
    let warning = heard
        .stderr
        .lines()
        .find(|line| line.starts_with("warning: "))
        .expect("a warning");
    assert!(warning.contains("the very last words"), "{warning}");
    assert!(output.is_file());
}

#[test]
fn a_request_file_draws_what_flags_draw() {
    let folder = tempfile::tempdir().expect("a folder");
    let request = folder.path().join("request.toml");
    fs::write(&request, "prompt = \"a red fox\"\nsteps = 9\nseeds = [4]\n").expect("written");
    let (model, output) = (tiny_model(), folder.path().join("file.png"));
    let flags = [
        "generate",
        "--request",
        text(&request),
        "--steps",
        "3",
        "--model",
        text(&model),
        "-o",
        text(&output),
    ];
    run(flags).fine();
    quick(folder.path(), "flags.png", &["--seed", "4"]).fine();
    let bytes = |name: &str| fs::read(folder.path().join(name)).expect("the picture");
    assert!(bytes("file.png") == bytes("flags.png"));
}

#[test]
fn quiet_leaves_nothing_on_stderr_and_the_path_on_stdout() {
    let folder = tempfile::tempdir().expect("a folder");
    let heard = quick(folder.path(), "fox.png", &["--quiet"]).fine();
    assert_eq!(
        (heard.stderr.as_str(), heard.stdout.trim()),
        ("", text(&folder.path().join("fox.png")))
    );
}

#[test]
#[cfg(unix)]
fn ctrl_c_stops_a_picture_and_leaves_no_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let (output, model) = (folder.path().join("fox.png"), tiny_model());
    let flags = [
        "generate",
        "a fox",
        "--model",
        text(&model),
        "--steps",
        "1000",
        "--width",
        "512",
        "--height",
        "512",
    ];
    let child = std::process::Command::new(env!("CARGO_BIN_EXE_latent"))
        .args(flags)
        .args(["--device", "cpu", "--preview", "-o", text(&output)])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("the program starts");
    // The preview tells that steps are being made.
    let began = std::time::Instant::now();
    while names(folder.path()).is_empty() {
        assert!(began.elapsed().as_secs() < 30, "no preview appears");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let id = child.id().to_string();
    assert!(
        std::process::Command::new("kill")
            .args(["-INT", &id])
            .status()
            .expect("`kill` is there")
            .success()
    );
    let ended = child.wait_with_output().expect("ended");
    let heard = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(130), "{heard}");
    assert!(heard.contains("nothing half-written is left"), "{heard}");
    assert!(
        names(folder.path()).is_empty(),
        "{:?}",
        names(folder.path())
    );
}

#[test]
fn the_built_in_model_draws_without_a_word_and_as_its_exported_folder_does() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let (inside, outside, exported) = (path("inside.png"), path("outside.png"), path("model"));
    let flags = ["--steps", "2", "--seed", "3", "--device", "cpu", "-o"];
    if !latent::has_builtin() {
        let heard = run(["export", text(&exported)]);
        assert!(
            heard.code == 2 && heard.stderr.contains("no model of its own"),
            "{}",
            heard.stderr
        );
        assert!(!exported.exists());
        return;
    }
    run(["export", text(&exported)]).fine();
    let surprise = run(["generate"]
        .iter()
        .chain(&flags)
        .copied()
        .chain([text(&inside)]))
    .fine();
    let prompt = surprise
        .stderr
        .lines()
        .next()
        .and_then(|line| line.split('"').nth(1))
        .expect("the words")
        .to_owned();
    let model = ["generate", &prompt, "--model", text(&exported)];
    run(model.iter().chain(&flags).copied().chain([text(&outside)])).fine();
    let pixels = |path: &Path| Picture::open(path).expect("a picture").into_rgb();
    assert!(pixels(&inside) == pixels(&outside), "`{prompt}`");
    assert_eq!(
        run(["export", text(&exported)]).code,
        4,
        "a folder that holds something is left alone"
    );
}
