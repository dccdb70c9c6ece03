//! The commands that show something: samplers, devices, prompts, folders, help.

use std::fs;

use crate::support::{run, text, tiny_model, tiny_runs};

#[test]
fn every_sampler_has_a_line_and_a_json_line() {
    let (lines, json) = (
        run(["samplers"]).fine().stdout,
        run(["samplers", "--json"]).fine().json(),
    );
    let rows = latent_sampling::SAMPLERS.len() + latent_sampling::SCHEDULES.len();
    assert_eq!(json.len(), rows);
    // A sampler's second line says its order, cost and other names.
    assert_eq!(
        lines.lines().count(),
        rows + latent_sampling::SAMPLERS.len()
    );
    assert!(lines.contains("A1111 \"DPM++ 2S a\", ComfyUI dpmpp_2s_ancestral"));
    let euler = json.iter().find(|line| line["name"] == "euler_a");
    let euler = euler.expect("the row");
    assert_eq!(euler["class"], "EulerAncestralDiscreteScheduler");
    assert!(euler["stochastic"] == true && euler["order"] == 1);
    let schedules = euler["schedules"].as_array().expect("schedules");
    assert!(schedules.iter().any(|name| name == "sgm_uniform"));
    let only = run(["samplers", "--schedules"]).fine().stdout;
    assert_eq!(only.lines().count(), latent_sampling::SCHEDULES.len());
    let names: Vec<&str> = json
        .iter()
        .filter_map(|line| line["name"].as_str())
        .collect();
    for name in [
        "ddim",
        "ddpm",
        "pndm",
        "euler",
        "euler_a",
        "heun",
        "dpmpp_2m",
        "dpmpp_2m_karras",
        "unipc",
    ] {
        assert!(names.contains(&name), "{name}");
    }
}

#[test]
fn a_prompt_is_shown_as_the_tiny_model_reads_it() {
    let model = tiny_model();
    let texts: serde_json::Value =
        serde_json::from_slice(&fs::read(model.join("texts.json")).expect("texts")).expect("JSON");
    for (words, ids) in texts["texts"]
        .as_array()
        .expect("texts")
        .iter()
        .zip(texts["ids"].as_array().expect("ids"))
    {
        let words = words.as_str().expect("a text");
        let line = &run(["prompt", words, "--model", text(&model), "--json"])
            .fine()
            .json()[0];
        assert_eq!(&line["ids"], ids, "{words}");
    }
    let shown = run(["prompt", "a red fox", "--model", text(&model)])
        .fine()
        .stdout;
    assert!(shown.contains("fox") || shown.contains("x</w>"), "{shown}");
    assert!(shown.trim_end().ends_with("of 75 tokens used"), "{shown}");
}

#[test]
fn what_does_not_fit_into_a_prompt_is_shown() {
    let model = tiny_model();
    let words = "a red fox in the snow ".repeat(12) + "and an owl";
    let line = &run(["prompt", &words, "--model", text(&model), "--json"])
        .fine()
        .json()[0];
    assert!(
        line["cut"]
            .as_str()
            .is_some_and(|cut| cut.ends_with("and an owl")),
        "{line}"
    );
}

#[test]
fn the_cpu_is_listed_and_computes_as_the_cpu() {
    let listed = run(["devices", "--json"]).fine().json();
    assert!(listed.iter().any(|line| line["device"] == "cpu"));
    let checked = run(["devices", "--check", "cpu", "--json"]).fine().json();
    assert!(checked.len() > 10 && checked.iter().all(|line| line["max_difference"] == 0.0));
}

#[test]
fn a_folder_is_shown_with_its_parts() {
    let model = tiny_model();
    let report = &run(["inspect", text(&model), "--json"]).fine().json()[0];
    assert_eq!(
        (
            report["family"].as_str(),
            report["latent_channels"].as_u64()
        ),
        (Some("sd1"), Some(4))
    );
    assert_eq!(report["scheduler"]["_class_name"], "PNDMScheduler");
    let parts = report["parts"].as_array().expect("parts");
    let of = |name: &str| {
        parts
            .iter()
            .find(|part| part["name"] == name)
            .expect("the part")
    };
    for name in ["unet", "vae", "text_encoder"] {
        assert!(
            of(name)["parameters"]
                .as_u64()
                .is_some_and(|count| count > 1000),
            "{name}"
        );
    }
    let shown = run(["inspect", text(&model)]).fine().stdout;
    assert!(
        shown.contains("UNet2DConditionModel") && shown.contains("up to 75 tokens"),
        "{shown}"
    );
}

#[test]
fn a_checkpoint_of_one_file_is_shown_and_draws_with_the_sizes_of_a_folder() {
    let place = tempfile::tempdir().expect("a folder");
    let (config, picture) = (tiny_model(), place.path().join("a.png"));
    for name in ["model_ldm.safetensors", "model_ldm.ckpt"] {
        let file = tiny_runs().join(name);
        let shown = run(["inspect", text(&file), "--config", text(&config), "--json"]).fine();
        let parts = shown.json()[0]["parts"].as_array().map(Vec::len);
        assert_eq!(parts, Some(3), "{name}");
        let drawn = run([
            "generate",
            "a cat",
            "--model",
            text(&file),
            "--config",
            text(&config),
            "--steps",
            "2",
            "--width",
            "64",
            "--height",
            "64",
            "-o",
            text(&picture),
        ]);
        drawn.fine();
        assert!(picture.is_file(), "{name}");
    }
    // Without the folder it is taken for the size that people have, and the first tensor that is not is named.
    let file = tiny_runs().join("model_ldm.safetensors");
    let refused = run([
        "generate",
        "a cat",
        "--model",
        text(&file),
        "-o",
        text(&picture),
    ]);
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("model_ldm.safetensors"),
        "{}",
        refused.stderr
    );
}

#[test]
fn a_weights_file_is_shown_tensor_by_tensor() {
    let path = tiny_model().join("expected.safetensors");
    let lines = run(["inspect", text(&path), "--json"]).fine().json();
    let unet = lines
        .iter()
        .find(|line| line["name"] == "unet/out")
        .expect("the tensor");
    assert_eq!(unet["shape"], serde_json::json!([2, 4, 8, 10]));
}

#[test]
fn shells_get_completions_for_every_command() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = run(["completions", shell]).fine().stdout;
        assert!(
            script.contains("reconstruct") && script.contains("guidance-rescale"),
            "{shell}"
        );
    }
}

#[test]
fn about_names_the_licence_and_the_authors_of_the_pictures() {
    let shown = run(["about"]).fine().stdout;
    assert!(
        shown.contains("MIT OR Apache-2.0") && shown.contains("Twemoji"),
        "{shown}"
    );
    assert!(
        run(["about", "--json"]).fine().json()[0]["notice"]
            .as_str()
            .is_some_and(|notice| notice.len() > 100)
    );
}

#[test]
fn help_lists_every_command_with_examples_and_exit_codes() {
    let help = run(["--help"]).fine().stdout;
    let commands = [
        "generate",
        "encode",
        "decode",
        "reconstruct",
        "demo",
        "train",
        "data",
        "eval",
        "export",
        "inspect",
        "convert",
        "prompt",
        "samplers",
        "devices",
        "bench",
        "completions",
        "about",
    ];
    for command in commands {
        assert!(help.contains(&format!("\n  {command}")), "{command}");
        assert!(
            run([command, "--help"]).fine().stdout.contains("Examples:"),
            "{command}"
        );
    }
    assert!(help.contains("Exit codes:"));
}

#[test]
fn the_captions_are_the_published_ones() {
    let lines = run(["data", "captions", "--json"]).fine().json();
    assert!(lines.len() == 3 && lines.iter().all(|line| line["as_published"] == true));
    assert_eq!(
        lines[0]["sha256"],
        "85b0a91db1d4c83bc6488efe0e72f26b96aec658c9576b95b4dffea25216b8b8"
    );
}

#[test]
fn a_step_in_latents_is_less_work_than_one_in_pixels() {
    let flags = [
        "bench",
        "pixel-vs-latent",
        "--size",
        "64",
        "--repeat",
        "1",
        "--device",
        "cpu",
        "--json",
    ];
    let report = &run(flags).fine().json()[0];
    assert_eq!(report["numbers_ratio"], 48.0);
    assert!(
        report["flop_ratio"]
            .as_f64()
            .is_some_and(|ratio| ratio > 48.0),
        "{report}"
    );
    assert!(
        report["seconds_ratio"]
            .as_f64()
            .is_some_and(|ratio| ratio > 1.0),
        "{report}"
    );
}
