//! `latent plan`, `--max-memory` and `--profile`.

use std::fs;

use crate::support::{run, text, tiny_model};

/// The flags of a small picture of the tiny model.
fn flags<'a>(command: &'a str, model: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut flags = vec![command, "a fox", "--model", model, "--device", "cpu"];
    flags.extend(["--steps", "2", "--sampler", "ddim"]);
    if !more.contains(&"--width") {
        flags.extend(["--width", "64", "--height", "64"]);
    }
    flags.extend(more);
    flags
}

#[test]
fn a_plan_names_each_network_with_its_runs_and_writes_nothing() {
    let model = tiny_model();
    let said = run(flags("plan", text(&model), &["--rate", "100", "--json"])).fine();
    let lines = said.json();
    let stage = |name: &str| {
        let found = lines.iter().find(|line| line["stage"] == name);
        found.unwrap_or_else(|| panic!("no {name} in {}", said.stdout))
    };
    assert_eq!(stage("U-Net")["runs"], 2);
    assert_eq!(stage("decoder")["runs"], 1);
    assert!(stage("text encoder")["flops"].as_f64() > Some(0.0));
    let ways: Vec<_> = lines
        .iter()
        .filter(|line| line["way"].is_string())
        .collect();
    assert!(ways.len() >= 4, "{}", said.stdout);
    assert!(
        ways.iter()
            .all(|way| way["peak_bytes"].as_u64() > Some(1 << 20))
    );
}

#[test]
fn twice_the_rate_is_half_the_time_of_products_and_twice_the_steps_twice_the_work() {
    let model = tiny_model();
    let of = |more: &[&str]| {
        let said = run(flags("plan", text(&model), more)).fine();
        let lines = said.json();
        let unet = lines.iter().find(|line| line["stage"] == "U-Net").unwrap();
        (
            unet["flops"].as_f64().unwrap(),
            unet["seconds_each"].as_f64().unwrap(),
        )
    };
    let (flops, slow) = of(&["--rate", "0.001", "--json"]);
    let (same, quick) = of(&["--rate", "0.002", "--json"]);
    assert!(
        flops > 0.0 && (flops - same).abs() < 1.0,
        "{flops} and {same}"
    );
    assert!((slow / quick - 2.0).abs() < 0.01, "{slow} and {quick}");
    let mut twice = flags("plan", text(&model), &["--rate", "1", "--json"]);
    let steps = twice.iter().position(|flag| *flag == "2").unwrap();
    twice[steps] = "4";
    let lines = run(twice).fine().json();
    let unet = lines.iter().find(|line| line["stage"] == "U-Net").unwrap();
    let more = unet["flops"].as_f64().unwrap() / flops;
    // The text's keys and values are made once.
    assert!((1.8..2.0).contains(&more), "{more}");
}

/// A picture of the built-in model, in whose networks there is something to spare.
fn own<'a>(command: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut flags = vec![
        command,
        "a red apple",
        "--device",
        "cpu",
        "--precision",
        "f32",
    ];
    flags.extend(["--steps", "1", "--width", "256", "--height", "256"]);
    flags.extend(more);
    flags
}

#[test]
fn a_picture_in_little_memory_has_the_bytes_of_one_in_much_and_what_it_does_without_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let draw = |name: &str, more: &[&str]| {
        let path = folder.path().join(name);
        let mut all = vec!["-o", text(&path)];
        all.extend(more);
        let said = run(own("generate", &all)).fine();
        (fs::read(&path).unwrap(), said.stderr)
    };
    let (much, said) = draw("much.png", &["--max-memory", "8GiB"]);
    assert!(
        said.contains("memory: ") && !said.contains("released"),
        "{said}"
    );
    // Between what it takes and the least that the plan says is possible.
    let lines = run(own("plan", &["--rate", "1", "--json"])).fine().json();
    let peaks: Vec<u64> = lines
        .iter()
        .filter(|line| line["way"].is_string())
        .map(|line| line["peak_bytes"].as_u64().unwrap())
        .collect();
    let (first, last) = (peaks[0], peaks[peaks.len() - 1]);
    assert!(last < first, "{last} is not less than {first}");
    let less = ((first + last) / 2).to_string();
    let (little, said) = draw("little.png", &["--max-memory", &less]);
    assert!(said.contains("each network released after use"), "{said}");
    assert_eq!(little, much);
}

#[test]
fn the_device_is_said_once_however_many_ways_are_tried() {
    let model = tiny_model();
    let mut flags = flags("plan", text(&model), &["--rate", "1", "--json"]);
    flags.retain(|flag| !["--device", "cpu"].contains(flag));
    let said = run(flags.clone()).fine();
    let ways = said.json();
    let tried: std::collections::BTreeSet<_> = ways
        .iter()
        .filter_map(|line| line["precision"].as_str().map(str::to_owned))
        .collect();
    assert!(tried.len() > 1, "no other precision was tried: {tried:?}");
    assert_eq!(
        said.stderr.matches("device: ").count(),
        1,
        "{}",
        said.stderr
    );
    // The smallest of all needs the last way.
    flags[0] = "generate";
    flags.retain(|flag| !["--rate", "1", "--json"].contains(flag));
    flags.extend(["--max-memory", "1MiB"]);
    let said = run(flags);
    assert_eq!(
        (said.code, said.stderr.matches("device: ").count()),
        (2, 1),
        "{}",
        said.stderr
    );
}

#[test]
fn what_cannot_fit_is_refused_with_what_would() {
    let model = tiny_model();
    let said = run(flags("generate", text(&model), &["--max-memory", "1MiB"]));
    assert_eq!(said.code, 2, "{}", said.stderr);
    assert!(
        said.stderr.contains("--max-memory allows 1 MiB"),
        "{}",
        said.stderr
    );
    assert!(said.stderr.contains("allow "), "{}", said.stderr);
    let said = run(flags(
        "plan",
        text(&model),
        &["--max-memory", "1MiB", "--rate", "9"],
    ));
    assert_eq!(said.code, 2, "{}", said.stderr);
    let said = run(flags("plan", text(&model), &["-o", "fox.png"]));
    assert_eq!(said.code, 2);
    assert!(said.stderr.contains("--output"), "{}", said.stderr);
}

#[test]
fn a_profile_has_every_network_and_kind_of_operation_and_the_same_picture() {
    let (model, folder) = (tiny_model(), tempfile::tempdir().unwrap());
    let draw = |name: &str, more: &[&str]| {
        let path = folder.path().join(name);
        let mut all = vec!["-o", text(&path)];
        all.extend(more);
        let said = run(flags("generate", text(&model), &all)).fine();
        (fs::read(&path).unwrap(), said)
    };
    let (plain, _) = draw("plain.png", &[]);
    let (profiled, said) = draw("profiled.png", &["--profile", "--json"]);
    assert_eq!(plain, profiled);
    let lines = said.json();
    let kinds = |part: &str| -> Vec<String> {
        let of = lines.iter().filter(|line| line["profile"] == part);
        of.map(|line| line["operation"].as_str().unwrap().to_owned())
            .collect()
    };
    for (part, kind) in [
        ("text encoder", "linear"),
        ("U-Net", "convolution"),
        ("U-Net", "attention"),
        ("U-Net", "norm"),
        ("decoder", "convolution"),
    ] {
        let found = kinds(part);
        assert!(
            found.iter().any(|k| k.starts_with(kind)),
            "{part}: {found:?}"
        );
    }
    let unet = lines.iter().find(|l| l["profile"] == "U-Net").unwrap();
    assert_eq!(unet["calls"], 2);
    let (_, said) = draw("spoken.png", &["--profile"]);
    assert!(said.stderr.contains("GFLOP/s"), "{}", said.stderr);
}
