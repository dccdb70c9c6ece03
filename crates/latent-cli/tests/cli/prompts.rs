//! Prompts of other programs, shown and drawn.

use crate::support::{run, text, tiny_model};

#[test]
fn weights_chunks_and_steps_of_a_prompt_are_shown() {
    let model = tiny_model();
    let prompt = "a (red:1.3) fox BREAK in [rain:snow:0.5] AND a cat :0.7 <lora:fur:0.5>";
    let flags = [
        "--compat",
        "a1111",
        "--steps",
        "20",
        "--model",
        text(&model),
    ];
    let arguments = || ["prompt", prompt].into_iter().chain(flags);
    let line = &run(arguments().chain(["--json"])).fine().json()[0];
    assert_eq!(
        (&line["grammar"], &line["loras"][0]),
        (&"a1111".into(), &"fur".into())
    );
    let prompts = line["prompts"].as_array().expect("prompts");
    assert_eq!(
        (prompts.len(), prompts[1]["share"].as_f64()),
        (2, Some(0.7))
    );
    let stages = prompts[0]["stages"].as_array().expect("stages");
    let steps: Vec<String> = stages
        .iter()
        .map(|stage| stage["steps"].to_string())
        .collect();
    assert_eq!(steps, ["[1,11]", "[12,20]"]);
    assert_eq!(stages[1]["text"], "a (red:1.3) fox BREAK in snow");
    let chunks = stages[0]["chunks"].as_array().expect("chunks");
    assert_eq!(chunks.len(), 2);
    let weights = chunks[0]["weights"].as_array().expect("weights");
    let tokens = chunks[0]["tokens"].as_array().expect("tokens");
    assert_eq!(weights.len(), tokens.len());
    assert_eq!(weights[0], 1.0);
    assert!((weights[1].as_f64().expect("a number") - 1.3).abs() < 1e-6);
    let shown = run(arguments()).fine().stdout;
    for words in [
        "prompt 2, share 0.7",
        "steps 12 to 20 of 20: a (red:1.3) fox BREAK in snow",
        "chunk 2",
        "× 1.3000",
        "lora fur: 0.5",
    ] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    let unweighted = run(arguments().chain(["--weights", "none"])).fine().stdout;
    assert!(!unweighted.contains('×'), "{unweighted}");
    assert!(unweighted.contains("chunk 2"), "{unweighted}");
}

#[test]
fn a_literal_prompt_shows_its_brackets_and_what_was_cut() {
    let model = tiny_model();
    let shown = run([
        "prompt",
        "a (red:1.3) fox",
        "--model",
        text(&model),
        "--json",
    ])
    .fine();
    let line = &shown.json()[0];
    assert_eq!(line["grammar"], "literal");
    let tokens = line["tokens"].to_string();
    assert!(tokens.contains('(') && tokens.contains(':'), "{tokens}");
    let long = "a red fox ".repeat(30) + "and an owl";
    let shown = run(["prompt", &long, "--model", text(&model)])
        .fine()
        .stdout;
    assert!(
        shown.contains("and an owl") && shown.contains("--weights a1111"),
        "{shown}"
    );
    let all = run([
        "prompt",
        &long,
        "--model",
        text(&model),
        "--weights",
        "comfyui",
    ])
    .fine();
    assert!(all.stdout.contains("chunks of 75"), "{}", all.stdout);
    // What is read otherwise than a person may think is said.
    let odd = run([
        "prompt",
        "16:9",
        "--model",
        text(&model),
        "--compat",
        "a1111",
    ])
    .fine();
    assert!(odd.stderr.contains("last colon, 9"), "{}", odd.stderr);
}

#[test]
fn a_long_prompt_is_drawn_whole_or_its_cut_words_are_named() {
    let (model, place) = (tiny_model(), tempfile::tempdir().expect("a folder"));
    let picture = place.path().join("a.png");
    let long = "a red fox ".repeat(30) + "and an owl";
    let drawn = |flags: &[&str]| {
        let sizes = ["--steps", "2", "--width", "64", "--height", "64", "--json"];
        let all = [
            "generate",
            &long,
            "--model",
            text(&model),
            "-o",
            text(&picture),
        ];
        run(all.into_iter().chain(sizes).chain(flags.iter().copied())).fine()
    };
    let cut = drawn(&[]);
    assert!(
        cut.stderr.contains("this end was cut") && cut.stderr.contains("and an owl"),
        "{}",
        cut.stderr
    );
    for compat in ["a1111", "comfyui"] {
        let whole = drawn(&["--compat", compat, "--sampler", "euler"]);
        assert!(!whole.stderr.contains("cut"), "{}", whole.stderr);
        let line = &whole.json()[0];
        let generator = if compat == "a1111" {
            "philox"
        } else {
            "comfyui"
        };
        assert_eq!(
            (&line["generator"], &line["schedule"]),
            (&generator.into(), &"normal".into())
        );
    }
}

#[test]
fn a_program_or_rule_that_is_not_known_is_refused_with_those_that_are() {
    for (flag, known) in [("--compat", "a1111"), ("--weights", "comfyui")] {
        let refused = run(["generate", "a fox", flag, "webui"]);
        assert_eq!(refused.code, 2, "{}", refused.stderr);
        assert!(refused.stderr.contains(known), "{}", refused.stderr);
    }
    let help = run(["generate", "--help"]).fine().stdout;
    assert!(help.contains("--compat sets what is left open"), "{help}");
}
