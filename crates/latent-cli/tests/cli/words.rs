//! Words a model knows and words it does not: hints, surprises, and the list they come from.

use std::fs;

use crate::support::{Said, copied, latent, names, run, said, text, tiny_model};

/// A list as training writes it.
const LIST: &str = r#"{"words":["a","apple","dragonfly","helicopter","red","style","3d","사과","빨간","헬리콥터","잠자리","스타일"],
    "styles":["3d style","3D 스타일"],
    "things":{"a dragonfly":[0],"a helicopter":[0],"a red apple":[0],"빨간 사과":[1]}}"#;

/// Runs `latent generate` with the tiny model and this list in its folder.
fn generate(list: Option<&str>, flags: &[&str], language: &str) -> Said {
    let folder = tempfile::tempdir().expect("a folder");
    let model = folder.path().join("model");
    copied(&tiny_model(), &model);
    if let Some(list) = list {
        fs::write(model.join("latent-words.json"), list).expect("written");
    }
    let picture = folder.path().join("out.png");
    let mut command = latent();
    command.env("LC_ALL", language);
    command.args([
        "generate",
        "--model",
        text(&model),
        "--steps",
        "1",
        "-o",
        text(&picture),
    ]);
    said(command.args(flags))
}

#[test]
fn a_word_that_the_model_does_not_know_brings_near_ones_and_is_no_error() {
    let said = generate(Some(LIST), &["a dragonfly-helicopter, 3d style"], "C").fine();
    let hint = "the model does not know `dragonfly-helicopter`; near: dragonfly, helicopter";
    assert!(
        said.stderr.lines().any(|line| line == hint),
        "{}",
        said.stderr
    );
    let said = generate(Some(LIST), &["잠자리헬리콥터를 탄 빨간 사과"], "C").fine();
    assert!(said.stderr.contains("모델이 모르는 말"), "{}", said.stderr);
    assert!(said.stderr.contains("잠자리, 헬리콥터"), "{}", said.stderr);
    let said = generate(Some(LIST), &["a red apple", "--negative", "aple"], "C").fine();
    assert!(
        said.stderr.contains("`aple`; near: apple"),
        "{}",
        said.stderr
    );
}

#[test]
fn known_words_quiet_and_models_without_a_list_bring_no_hint() {
    for (list, flags) in [
        (Some(LIST), &["the red apple, 3D style"][..]),
        (Some(LIST), &["a xylophone", "--quiet"]),
        (None, &["a xylophone"]),
    ] {
        let said = generate(list, flags, "C").fine();
        assert!(!said.stderr.contains("does not know"), "{}", said.stderr);
    }
}

#[test]
fn a_broken_list_is_named_with_its_line() {
    let said = generate(Some("{\"words\": [\"a\",\n 3]}"), &["a fox"], "C");
    assert_eq!(said.code, 3, "{}", said.stderr);
    assert!(
        said.stderr.contains("latent-words.json") && said.stderr.contains("line 2"),
        "{}",
        said.stderr
    );
}

#[test]
fn no_prompt_draws_something_of_the_list_and_says_how_to_repeat_it() {
    let said = generate(Some(LIST), &["--seed", "5"], "C").fine();
    let told = said
        .stderr
        .lines()
        .find(|line| line.ends_with(" --seed 5"))
        .expect("the prompt");
    let prompt = told
        .strip_suffix(" --seed 5")
        .expect("a seed")
        .trim_matches('"');
    let things = [
        "a dragonfly, 3d style",
        "a helicopter, 3d style",
        "a red apple, 3d style",
    ];
    assert!(things.contains(&prompt), "{prompt}");
    let said = generate(Some(LIST), &["--seed", "5"], "ko_KR.UTF-8").fine();
    assert!(
        said.stderr.contains("\"빨간 사과, 3D 스타일\" --seed 5"),
        "{}",
        said.stderr
    );
    let said = generate(Some(LIST), &[], "C").fine();
    assert!(
        said.stderr
            .lines()
            .any(|line| line.contains("style\" --seed ")),
        "{}",
        said.stderr
    );
    let said = generate(None, &[], "C");
    assert_eq!(said.code, 2, "{}", said.stderr);
    assert!(said.stderr.contains("needs a prompt"), "{}", said.stderr);
}

#[test]
fn the_list_of_a_data_set_holds_its_captions() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    fs::create_dir(&data).expect("a folder");
    crate::support::picture(16, 16, 0)
        .save(&data.join("one.png"))
        .expect("written");
    fs::write(
        data.join("one.txt"),
        "a teapot, ink style\n찻주전자, 먹 스타일\n",
    )
    .expect("written");
    let list = folder.path().join("list.json");
    run(["data", "words", text(&data), "-o", text(&list)]).fine();
    let found = fs::read_to_string(&list).expect("a list");
    let wanted = r#"{"words":["a","ink","style","teapot","먹","스타일","찻주전자"],"styles":["ink style","먹 스타일"],"things":{"a teapot":[0],"찻주전자":[1]}}"#;
    assert_eq!(found.trim_end(), wanted);
}

#[test]
fn the_model_inside_the_program_lists_its_words_and_its_surprises_are_made_of_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = folder.path().join("model");
    run(["export", text(&model)]).fine();
    assert!(names(&model).contains(&"latent-words.json".to_owned()));
    for language in ["C", "ko_KR.UTF-8"] {
        let picture = folder.path().join("out.png");
        let mut command = latent();
        command.env("LC_ALL", language);
        let flags = [
            "generate",
            "--seed",
            "3",
            "--steps",
            "1",
            "-o",
            text(&picture),
        ];
        let said = said(command.args(flags)).fine();
        assert!(said.stderr.contains("\" --seed 3"), "{}", said.stderr);
        let words = ["does not know", "모르는 말"];
        assert!(
            !words.iter().any(|word| said.stderr.contains(word)),
            "{}",
            said.stderr
        );
    }
}
