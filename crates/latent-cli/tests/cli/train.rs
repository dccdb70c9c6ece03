//! `latent train`: the three stages on eight pictures, killed and stopped runs, and what comes of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use latent_formats::Picture;

use crate::support::{Said, names, run, said, text};

/// Side of the pictures.
const SIZE: usize = 32;

/// Eight squares with captions in two languages.
fn squares(folder: &Path) {
    fs::create_dir_all(folder).expect("a folder");
    let colours = [
        ([200, 30, 30], "red"),
        ([30, 160, 40], "green"),
        ([40, 60, 210], "파란"),
        ([230, 200, 40], "노란"),
    ];
    for index in 0..8 {
        let (colour, word) = colours[index / 2];
        let (from, place) = if index % 2 == 0 {
            (3, "left")
        } else {
            (17, "right")
        };
        let inside = |x: usize, y: usize| (from..from + 12).contains(&x) && (10..22).contains(&y);
        let pixels = (0..SIZE * SIZE).map(|i| {
            if inside(i % SIZE, i / SIZE) {
                colour
            } else {
                [255; 3]
            }
        });
        let picture = Picture::new(SIZE, SIZE, pixels.flatten().collect()).expect("a picture");
        picture
            .save(&folder.join(format!("{index}.png")))
            .expect("saved");
        fs::write(
            folder.join(format!("{index}.txt")),
            format!("a {word} square on the {place}"),
        )
        .expect("written");
    }
}

/// What every stage's config has.
fn head(root: &Path, name: &str, steps: usize) -> String {
    format!(
        "[run]\nfolder = {:?}\nsteps = {steps}\nbatch = 4\nseed = 5\nprecision = \"f32\"\ncheckpoint_every = 3\n\
         sample_every = 4\nlog_every = 1\n[data]\npath = {:?}\nsize = {SIZE}\n\
         [optimizer]\nlearning_rate = {{ peak = 3e-3, warmup = 2, decay = \"cosine\" }}\nclip = 1.0\nema = {{ decay = 0.9 }}\n",
        root.join(name),
        root.join("data"),
    )
}

const OPPOSITES: &str = "opposites = [[\"red\", \"green\"], [\"left\", \"right\"]]\n";

const TEXT_ENCODER: &str = r#"
[tokenizer]
vocab_size = 560
[text]
hidden_size = 32
intermediate_size = 64
num_hidden_layers = 1
num_attention_heads = 2
max_position_embeddings = 24
[image]
channels = [16, 32]
norm_num_groups = 4
projection_dim = 16
"#;

const AUTOENCODER: &str = r#"
[autoencoder_kl]
in_channels = 3
out_channels = 3
latent_channels = 4
sample_size = 32
block_out_channels = [16, 32]
down_block_types = ["DownEncoderBlock2D", "DownEncoderBlock2D"]
up_block_types = ["UpDecoderBlock2D", "UpDecoderBlock2D"]
layers_per_block = 1
norm_num_groups = 4
"#;

const DIFFUSION: &str = r#"
[samples]
prompts = ["a red square on the left"]
steps = 2
[unet]
sample_size = 16
in_channels = 4
out_channels = 4
block_out_channels = [16, 32]
down_block_types = ["DownBlock2D", "CrossAttnDownBlock2D"]
up_block_types = ["CrossAttnUpBlock2D", "UpBlock2D"]
layers_per_block = 1
attention_head_dim = 2
cross_attention_dim = 32
norm_num_groups = 4
"#;

/// Writes a stage's config and gives its path.
fn config(root: &Path, name: &str, steps: usize, stage: &str) -> PathBuf {
    let top = match stage {
        DIFFUSION => format!(
            "autoencoder = {:?}\ntext_encoder = {:?}\n",
            root.join("autoencoder/model"),
            root.join("text/model")
        ),
        TEXT_ENCODER => OPPOSITES.to_owned(),
        _ => String::new(),
    };
    let path = root.join(format!("{name}.toml"));
    fs::write(&path, top + &head(root, name, steps) + stage).expect("written");
    path
}

fn train(stage: &str, config: &Path) -> Said {
    run(["train", stage, text(config), "--device", "cpu"])
}

/// The three stages in `root`, one after the other.
fn all_stages(root: &Path) {
    squares(&root.join("data"));
    let stages = [
        ("text-encoder", "text", TEXT_ENCODER),
        ("autoencoder", "autoencoder", AUTOENCODER),
        ("diffusion", "diffusion", DIFFUSION),
    ];
    for (stage, name, rest) in stages {
        let heard = train(stage, &config(root, name, 6, rest)).fine();
        let model = root.join(name).join("model");
        assert_eq!(heard.stdout.trim(), text(&model));
        assert!(
            heard.stderr.contains("pictures/s") && heard.stderr.contains("loss"),
            "{}",
            heard.stderr
        );
        assert!(
            root.join(name).join("metrics.jsonl").is_file()
                && root.join(name).join("loss.png").is_file()
        );
    }
}

#[test]
fn three_commands_train_a_model_that_draws_is_inspected_and_measured() {
    let root = tempfile::tempdir().expect("a folder");
    let root = root.path();
    all_stages(root);
    let (model, data, judge) = (
        root.join("diffusion/model"),
        root.join("data"),
        root.join("text/model"),
    );
    draws(&model, &root.join("square.png"));
    let inspected = &run(["inspect", text(&model), "--json"]).fine().json()[0];
    assert_eq!(inspected["size"], serde_json::json!([SIZE, SIZE]));
    reconstruction_is_measured(&model, &data, &judge);
    generation_is_measured(&model, &data, &judge);
}

fn draws(model: &Path, output: &Path) {
    let flags = ["generate", "a red square", "--model", text(model)];
    run(flags
        .into_iter()
        .chain(["--steps", "2", "-o", text(output)]))
    .fine();
    let drawn = Picture::open(output).expect("a picture");
    assert_eq!((drawn.width(), drawn.height()), (SIZE, SIZE));
}

fn reconstruction_is_measured(model: &Path, data: &Path, judge: &Path) {
    let flags = ["eval", "reconstruction", "--size", "32", "--json"];
    let folders = [
        "--model",
        text(model),
        "--data",
        text(data),
        "--judge",
        text(judge),
    ];
    let report = &run(flags.into_iter().chain(folders)).fine().json()[0];
    assert_eq!(report["all"]["count"], 8);
    let above =
        |value: &serde_json::Value, least: f64| value.as_f64().is_some_and(|value| value > least);
    assert!(above(&report["all"]["psnr"], 3.0), "{report}");
    assert!(above(&report["frechet_distance"], 0.0), "{report}");
}

fn generation_is_measured(model: &Path, data: &Path, judge: &Path) {
    let measured = |flags: &[&str]| {
        let asked = ["eval", "generation", "--count", "4", "--steps", "2"];
        let [model, data, judge] = [model, data, judge].map(text);
        let folders = [
            "--model",
            model,
            "--data",
            data,
            "--training",
            data,
            "--judge",
            judge,
        ];
        run(asked.iter().chain(&folders).chain(flags)).fine()
    };
    things_are_listed(data);
    let report = &measured(&["--json"]).json()[0];
    // Four captions: red, green, and two in Korean words; each on a side.
    let names = [
        &report["named"],
        &report["named_of_data"],
        &report["named_by_kind"]["square"],
    ];
    assert!(names.iter().all(|hits| hits["of"] == 4), "{report}");
    for (list, of) in [("red", 2), ("left", 4)] {
        let words = &report["worded"][list];
        let counted = [&words["drawn"], &words["of_data"]];
        assert!(counted.iter().all(|hits| hits["of"] == of), "{report}");
        // The first caption has no other before it.
        assert_eq!(words["of_others"]["of"], of - 1, "{report}");
    }
    let heard = measured(&[]);
    for figure in [
        "named right",
        "word told right",
        "right concept",
        "the data's own pictures",
        "near copies",
    ] {
        assert!(
            heard.stdout.contains(figure),
            "no {figure}:\n{}",
            heard.stdout
        );
    }
    assert!(!heard.stderr.contains("opposites"), "{}", heard.stderr);
    // As judges were exported before they listed words.
    let file = judge.join("image_tower/preprocessor_config.json");
    fs::write(file, format!("{{\"size\": {SIZE}}}")).expect("written");
    let heard = measured(&["--json"]);
    assert!(heard.json()[0]["worded"].is_null() && heard.json()[0]["named"]["of"] == 4);
    let said = "words are not scored: the judge was exported without `opposites`";
    assert!(heard.stderr.contains(said), "{}", heard.stderr);
}

/// Says of each square what thing it shows: its colour.
fn things_are_listed(data: &Path) {
    let line = |index: usize| {
        let caption = fs::read_to_string(data.join(format!("{index}.txt"))).expect("a caption");
        let colour = ["red", "green", "blue", "yellow"][index / 2];
        serde_json::json!({
            "file_name": format!("{index}.png"), "text": caption, "kind": "square", "objects": [{ "id": colour }],
        })
    };
    let lines: Vec<String> = (0..8).map(|index| line(index).to_string()).collect();
    fs::write(data.join("metadata.jsonl"), lines.join("\n")).expect("written");
}

/// Starts a training run that writes to nobody.
fn started(stage: &str, config: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_latent"))
        .args(["train", stage, text(config), "--device", "cpu"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts")
}

/// Waits until `done`, or until the run has ended by itself.
fn wait_until(child: &mut Child, done: impl Fn() -> bool) {
    let began = Instant::now();
    while !done() && child.try_wait().expect("a child").is_none() {
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "the run does not come so far"
        );
        sleep(Duration::from_millis(2));
    }
}

/// Lines of the run's metrics.
fn lines(run: &Path) -> usize {
    fs::read_to_string(run.join("metrics.jsonl")).map_or(0, |text| text.lines().count())
}

/// Every file below a folder with its bytes, and what the metrics say of losses.
fn outcome(run: &Path) -> (Vec<(String, Vec<u8>)>, Vec<serde_json::Value>) {
    let model = run.join("model");
    let mut files = Vec::new();
    let mut folders = vec![model];
    while let Some(folder) = folders.pop() {
        for name in names(&folder) {
            let path = folder.join(&name);
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push((name, fs::read(path).expect("a file")));
            }
        }
    }
    let metrics = fs::read_to_string(run.join("metrics.jsonl")).expect("metrics");
    let losses = metrics
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
    (files, losses.map(|line| line["loss"].clone()).collect())
}

#[test]
fn a_killed_run_goes_on_to_the_same_bits() {
    let root = tempfile::tempdir().expect("a folder");
    let root = root.path();
    squares(&root.join("data"));
    train("autoencoder", &config(root, "whole", 24, AUTOENCODER)).fine();
    let killed = config(root, "killed", 24, AUTOENCODER);
    let folder = root.join("killed");
    // In the middle of steps and, as often as not, of files.
    for (line, wait) in [(2, 0), (7, 3), (12, 7), (17, 1)] {
        let mut child = started("autoencoder", &killed);
        wait_until(&mut child, || lines(&folder) >= line);
        sleep(Duration::from_millis(wait));
        // SIGKILL: nothing of ours runs after it.
        child.kill().expect("killed");
        child.wait().expect("ended");
    }
    assert!(
        !folder.join("model").exists(),
        "the run was killed too late to show anything"
    );
    let heard = train("autoencoder", &killed).fine();
    assert!(
        heard.stderr.contains("going on after step"),
        "{}",
        heard.stderr
    );
    let (whole, killed) = (outcome(&root.join("whole")), outcome(&folder));
    assert!(whole.0 == killed.0, "the weights differ");
    assert_eq!(whole.1, killed.1);
    assert!(
        names(&folder)
            .iter()
            .all(|name| !name.starts_with(".unfinished") && !name.starts_with("partial"))
    );
}

#[test]
#[cfg(unix)]
fn ctrl_c_writes_a_checkpoint_and_the_same_command_goes_on() {
    let root = tempfile::tempdir().expect("a folder");
    let root = root.path();
    squares(&root.join("data"));
    let config = config(root, "run", 40, AUTOENCODER);
    let folder = root.join("run");
    let mut child = started("autoencoder", &config);
    wait_until(&mut child, || lines(&folder) >= 4);
    let kill = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .expect("`kill` is there");
    assert!(kill.success());
    assert_eq!(child.wait().expect("ended").code(), Some(130));
    assert!(
        names(&folder)
            .iter()
            .any(|name| name.starts_with("checkpoint-"))
            && !folder.join("model").exists()
    );
    train("autoencoder", &config).fine();
    assert!(folder.join("model").is_dir());
}

#[test]
fn a_fresh_run_starts_at_step_0_and_a_finished_one_has_nothing_left_to_do() {
    let root = tempfile::tempdir().expect("a folder");
    let root = root.path();
    squares(&root.join("data"));
    let config = config(root, "run", 3, AUTOENCODER);
    train("autoencoder", &config).fine();
    let again = train("autoencoder", &config).fine();
    assert!(
        again.stderr.contains("going on after step 3"),
        "{}",
        again.stderr
    );
    let mut fresh = crate::support::latent();
    let fresh = said(fresh.args([
        "train",
        "autoencoder",
        text(&config),
        "--device",
        "cpu",
        "--fresh",
    ]))
    .fine();
    assert!(!fresh.stderr.contains("going on"), "{}", fresh.stderr);
}

#[test]
fn a_lora_is_trained_by_one_command_and_drawn_with_by_another() {
    let root = tempfile::tempdir().expect("a folder");
    let root = root.path();
    squares(&root.join("data"));
    let model = crate::support::tiny_model();
    let top = format!("model = {:?}\nname = \"squares\"\n", text(&model));
    let tables = "[buckets]\nstep = 8\n[lora]\nrank = 2\n";
    let path = root.join("lora.toml");
    fs::write(&path, top.clone() + &head(root, "lora", 3) + tables).expect("written");
    let heard = train("lora", &path).fine();
    let folder = root.join("lora/model");
    assert_eq!(heard.stdout.trim(), text(&folder));
    assert!(heard.stderr.contains("8 pictures"), "{}", heard.stderr);
    for name in ["squares", "pytorch_lora_weights"] {
        let file = folder.join(format!("{name}.safetensors"));
        let inspected = &run(["inspect", text(&file), "--json"]).fine().json()[0];
        assert_eq!(inspected["kind"], "lora");
        let output = root.join(format!("{name}.png"));
        let flags = ["generate", "a red square", "--model", text(&model)];
        let more = ["--lora", text(&file), "--strict", "--steps", "2"];
        let size = ["--width", "32", "--height", "32", "-o", text(&output)];
        let drawn = run(flags.into_iter().chain(more).chain(size)).fine();
        assert!(drawn.stderr.contains("tensors matched"), "{}", drawn.stderr);
    }
    let wrong = top + &head(root, "wrong", 3) + "[lora]\nrank = 2\nalhpa = 1.0\n";
    fs::write(&path, wrong).expect("written");
    let refused = train("lora", &path);
    assert!(
        refused.code != 0 && refused.stderr.contains("unknown field `alhpa`"),
        "{}",
        refused.stderr
    );
}
