//! `--model owner/name`, against a small server that speaks the hub's paths.

use std::fs;
use std::path::{Path, PathBuf};

use latent_formats::Picture;

use crate::support::{Said, copied, latent, names, run, said, text, tiny_model};

#[path = "../../../latent-hub/tests/server/mod.rs"]
mod server;
use server::Server;

/// What every run asks first.
const LIST: &str = "GET /api/models/owner/name/revision/main?blobs=true";
/// The largest file of the tiny model.
const UNET: &str = "unet/diffusion_pytorch_model.safetensors";

/// A hub with the tiny model and what else such repositories hold, an empty cache, a folder for pictures.
struct Case {
    server: Server,
    folder: tempfile::TempDir,
}

impl Case {
    fn new() -> Self {
        let server = Server::of_folder("owner/name", &tiny_model());
        for name in [
            "README.md",
            "model.ckpt",
            "safety_checker/model.safetensors",
            "unet/diffusion_pytorch_model.bin",
            "vae/flax_model.msgpack",
        ] {
            let rest = (name.to_owned(), vec![0; 5000]);
            server.state().files.extend([rest]);
        }
        Self {
            server,
            folder: tempfile::tempdir().expect("a folder"),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs the program with this hub, in the folder.
    fn run(&self, arguments: &[&str]) -> Said {
        let mut command = latent();
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env("HF_ENDPOINT", self.server.address())
            .env("HF_HOME", self.path("home"));
        said(&mut command)
    }

    /// Draws a quick picture with `model` and more flags.
    fn draw(&self, model: &str, output: &str, more: &[&str]) -> Said {
        let mut arguments = vec![
            "generate", "a fox", "--model", model, "--steps", "2", "--device", "cpu", "-o", output,
        ];
        arguments.extend(more);
        self.run(&arguments)
    }

    fn pixels(&self, name: &str) -> Vec<u8> {
        Picture::open(&self.path(name))
            .expect("a picture")
            .into_rgb()
    }

    /// The model of the cache, hidden in a folder of hexadecimal digits.
    fn cached(&self, file: &str) -> PathBuf {
        let snapshots = self.path("home/hub/models--owner--name/snapshots");
        snapshots.join(server::COMMIT).join(file)
    }
}

#[test]
fn a_model_of_the_hub_draws_what_its_folder_draws_and_is_fetched_once() {
    let case = Case::new();
    let local = tiny_model();
    case.draw(text(&local), "local.png", &[]).fine();
    assert!(case.server.asked().is_empty(), "a folder is here");
    case.draw("owner/name", "hub.png", &[]).fine();
    assert!(case.pixels("hub.png") == case.pixels("local.png"));
    let asked = case.server.asked();
    for needless in ["README", "ckpt", "safety_checker", ".bin", "flax"] {
        assert!(
            !asked.iter().any(|line| line.contains(needless)),
            "{needless}: {asked:?}"
        );
    }
    let picture = Picture::open(&case.path("hub.png")).expect("a picture");
    assert!(
        picture.text()[0].1.contains("Model: owner/name,"),
        "{:?}",
        picture.text()
    );
    case.draw("owner/name", "second.png", &[]).fine();
    assert_eq!(case.server.asked(), [LIST]);
    case.draw("owner/name", "offline.png", &["--offline"])
        .fine();
    assert!(case.server.asked().is_empty());
    let hub = fs::read(case.path("hub.png")).expect("a picture");
    assert!(hub == fs::read(case.path("offline.png")).expect("a picture"));
}

#[test]
fn offline_without_a_cache_is_an_error_that_says_what_to_do() {
    let case = Case::new();
    let refused = case.draw("owner/name", "a.png", &["--offline"]);
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    for words in ["`owner/name`", "home/hub", "without `--offline`"] {
        assert!(refused.stderr.contains(words), "{}", refused.stderr);
    }
    // Part of a model is none: its weights are gone from the cache.
    case.draw("owner/name", "a.png", &[]).fine();
    fs::remove_file(case.cached(UNET)).expect("removed");
    let refused = case.draw("owner/name", "b.png", &["--offline"]);
    assert!(
        refused.code == 3 && refused.stderr.contains("owner/name/unet"),
        "{}",
        refused.stderr
    );
    assert!(!case.path("b.png").exists());
}

#[test]
fn a_dropped_connection_is_taken_up_again_and_an_altered_file_refused() {
    let case = Case::new();
    case.server
        .state()
        .drops
        .insert(UNET.to_owned(), vec![4000]);
    case.draw("owner/name", "a.png", &[]).fine();
    assert!(
        case.server
            .asked()
            .iter()
            .any(|line| line.contains(UNET) && line.contains(" from "))
    );
    let case = Case::new();
    let mut bytes = case.server.state().files[UNET].clone();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    case.server.state().altered.insert(UNET.to_owned(), bytes);
    let refused = case.draw("owner/name", "a.png", &[]);
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    assert!(
        refused.stderr.contains(UNET) && refused.stderr.contains("checksum"),
        "{}",
        refused.stderr
    );
    assert!(!case.path("a.png").exists() && !case.cached(UNET).exists());
}

#[test]
fn what_the_hub_refuses_is_said_with_what_to_do() {
    let case = Case::new();
    let missing = case.draw("owner/nobody", "a.png", &[]);
    assert_eq!(missing.code, 3, "{}", missing.stderr);
    assert!(
        missing
            .stderr
            .contains("`owner/nobody` is no file or folder here"),
        "{}",
        missing.stderr
    );
    case.server.state().token = Some("hf_right".to_owned());
    let mut command = latent();
    command
        .args(["generate", "a fox", "--model", "owner/name", "-o", "a.png"])
        .current_dir(case.folder.path())
        .env("HF_ENDPOINT", case.server.address())
        .env("HF_HOME", case.path("home"))
        .env("HF_TOKEN", "hf_wrong");
    let refused = said(&mut command);
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("refuses the token"),
        "{}",
        refused.stderr
    );
    assert!(!refused.stderr.contains("hf_wrong"), "{}", refused.stderr);
    command.env("HF_ENDPOINT", "http://127.0.0.1:1");
    let unreachable = said(&mut command);
    assert_eq!(unreachable.code, 1, "{}", unreachable.stderr);
    assert!(
        unreachable
            .stderr
            .contains("cannot reach http://127.0.0.1:1"),
        "{}",
        unreachable.stderr
    );
    command.env("HF_ENDPOINT", "nonsense");
    assert_eq!(said(&mut command).code, 2);
}

#[test]
fn what_is_here_wins_and_what_is_no_name_never_asks() {
    let case = Case::new();
    fs::create_dir_all(case.path("owner")).expect("made");
    copied(&tiny_model(), &case.path("owner/name"));
    case.draw("owner/name", "a.png", &[]).fine();
    for path in [
        "./owner/nobody",
        "nobody",
        "owner/nobody.safetensors",
        "a/b/c",
    ] {
        let refused = case.draw(path, "b.png", &[]);
        assert_eq!(refused.code, 3, "{path}: {}", refused.stderr);
        assert!(
            refused
                .stderr
                .contains("holds no model in diffusers' layout"),
            "{path}: {}",
            refused.stderr
        );
    }
    assert!(case.server.asked().is_empty());
}

#[test]
fn half_precision_is_fetched_and_drawn_with_if_asked_for() {
    let case = Case::new();
    let converted = case.path("half");
    let local = tiny_model();
    run([
        "export",
        text(&converted),
        "--model",
        text(&local),
        "--weights",
        "f16",
    ])
    .fine();
    for (part, stem) in [
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ] {
        let half = converted.join(part);
        let bytes = fs::read(half.join(format!("{stem}.safetensors"))).expect("weights");
        let name = format!("{part}/{stem}.fp16.safetensors");
        case.server.state().files.insert(name, bytes);
    }
    case.draw(text(&converted), "folder.png", &[]).fine();
    case.server.asked();
    case.draw("owner/name", "half.png", &["--variant", "fp16"])
        .fine();
    let asked = case.server.asked();
    assert!(!asked.iter().any(|line| line.contains(UNET)), "{asked:?}");
    assert!(case.pixels("half.png") == case.pixels("folder.png"));
    // Both are there now; each is found again, from the cache too.
    case.draw("owner/name", "full.png", &[]).fine();
    case.draw(
        "owner/name",
        "half.png",
        &["--variant", "fp16", "--offline"],
    )
    .fine();
    assert!(case.pixels("half.png") == case.pixels("folder.png"));
    let refused = case.draw("owner/name", "b.png", &["--variant", "fp17"]);
    assert!(
        refused.code == 3 && refused.stderr.contains("`fp17`"),
        "{}",
        refused.stderr
    );
}

#[test]
fn parts_and_adapters_are_fetched_by_name_too() {
    let case = Case::new();
    let fixtures =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../latent-models/tests/fixtures/adapters");
    let lora = fs::read(fixtures.join("lora_kohya.safetensors")).expect("a LoRA");
    case.server
        .state()
        .files
        .insert("loras/snow.safetensors".to_owned(), lora);
    let local = tiny_model();
    case.draw(
        text(&local),
        "hub.png",
        &[
            "--lora",
            "owner/name/loras/snow.safetensors:0.5",
            "--vae",
            "owner/name",
        ],
    )
    .fine();
    let asked = case.server.asked();
    assert!(!asked.iter().any(|line| line.contains("unet")), "{asked:?}");
    let (lora, vae) = (
        format!("{}:0.5", fixtures.join("lora_kohya.safetensors").display()),
        local.join("vae"),
    );
    case.draw(
        text(&local),
        "local.png",
        &["--lora", &lora, "--vae", text(&vae)],
    )
    .fine();
    assert!(case.pixels("hub.png") == case.pixels("local.png"));
}

#[test]
fn a_repository_without_a_folder_of_parts_says_what_can_be_named() {
    let case = Case::new();
    let weights = case.server.state().files[UNET].clone();
    let files = [
        ("a.safetensors".to_owned(), weights.clone()),
        ("b.ckpt".to_owned(), weights),
    ];
    case.server.state().files = files.into_iter().collect();
    // Its one safetensors file is what is meant.
    let one = case.run(&["inspect", "owner/name"]).fine();
    assert!(one.stdout.contains("a.safetensors"), "{}", one.stdout);
    let file = case.server.state().files["b.ckpt"].clone();
    case.server
        .state()
        .files
        .insert("c.safetensors".to_owned(), file);
    let refused = case.draw("owner/name", "a.png", &[]);
    assert!(
        refused.code == 2 && refused.stderr.contains("`owner/name/a.safetensors`"),
        "{}",
        refused.stderr
    );
    let missing = case.draw("owner/name/d.safetensors", "a.png", &[]);
    assert!(
        missing.code == 3 && missing.stderr.contains("it has `a.safetensors`"),
        "{}",
        missing.stderr
    );
}

#[test]
fn a_pipeline_that_nothing_draws_with_is_refused_before_its_weights_come() {
    let case = Case::new();
    let index = case.server.state().files["model_index.json"].clone();
    let index = String::from_utf8(index).expect("text");
    let other = index.replace("StableDiffusionPipeline", "WordsToSmellPipeline");
    case.server
        .state()
        .files
        .insert("model_index.json".to_owned(), other.into_bytes());
    let refused = case.draw("owner/name", "a.png", &[]);
    assert!(
        refused.code == 3 && refused.stderr.contains("WordsToSmellPipeline"),
        "{}",
        refused.stderr
    );
    // A U-Net whose config asks for what is not built here stops it too.
    let case = Case::new();
    let config = case.server.state().files["unet/config.json"].clone();
    let config = String::from_utf8(config).expect("text");
    let broken = config.replacen("\"in_channels\": 4", "\"in_channels\": 5", 1);
    assert_ne!(broken, config);
    case.server
        .state()
        .files
        .insert("unet/config.json".to_owned(), broken.into_bytes());
    let refused = case.draw("owner/name", "a.png", &[]);
    assert!(
        refused.code == 3 && refused.stderr.contains("in_channels"),
        "{}",
        refused.stderr
    );
    let asked = case.server.asked();
    assert!(!asked.iter().any(|line| line.contains(UNET)), "{asked:?}");
    assert!(names(case.folder.path()).iter().all(|name| name != "a.png"));
}

#[test]
fn inspect_and_convert_take_names_of_the_hub() {
    let case = Case::new();
    let shown = case.run(&["inspect", "owner/name"]).fine();
    assert!(shown.stdout.contains("owner/name (sd1"), "{}", shown.stdout);
    let offline = case
        .run(&["convert", "owner/name", "one.safetensors", "--offline"])
        .fine();
    assert!(
        offline.stdout.contains("one.safetensors"),
        "{}",
        offline.stdout
    );
    // A tiny model's sizes are those of no family.
    let config = tiny_model();
    case.draw("one.safetensors", "one.png", &["--config", text(&config)])
        .fine();
    case.draw("owner/name", "hub.png", &[]).fine();
    assert!(case.pixels("one.png") == case.pixels("hub.png"));
}
