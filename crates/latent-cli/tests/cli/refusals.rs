//! Bad input: one clear sentence, the right exit code, no half-written file.

use std::fs;
use std::path::Path;

use latent_formats::{Dtype, SafetensorsWriter, Weights};

use crate::support::{copied, latent, names, picture, run, said, text, tiny_model};

/// Runs the command, and checks its exit code, that it says one error, and that the error has these words.
#[track_caller]
fn refuses(arguments: &[&str], code: i32, words: &[&str]) {
    let said = run(arguments);
    assert_eq!(said.code, code, "{arguments:?}: {}", said.stderr);
    assert_eq!(said.stdout, "", "{arguments:?}");
    let errors: Vec<&str> = said
        .stderr
        .lines()
        .filter(|line| line.starts_with("error: "))
        .collect();
    assert_eq!(errors.len(), 1, "{arguments:?}: {}", said.stderr);
    assert!(!said.stderr.contains("panicked"), "{}", said.stderr);
    for word in words {
        assert!(
            said.stderr.contains(word),
            "{arguments:?} does not say `{word}`: {}",
            said.stderr
        );
    }
}

/// `latent generate` of the tiny model into `folder`, with `more` flags.
fn draw<'a>(folder: &'a str, model: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec![
        "generate", "a fox", "--model", model, "--device", "cpu", "-o", folder,
    ];
    arguments.extend(more);
    arguments
}

#[test]
fn wrong_flags_are_refused_by_name_before_any_work() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = folder.path().join("a.png");
    let (output, model) = (text(&output), tiny_model());
    let cases: [(&[&str], &[&str]); 18] = [
        (&["--sampler", "dpmpp_2n"], &["dpmpp_2n", "`dpmpp_2m`"]),
        (&["--sampler", "DPM++ 2M Kerras"], &["Kerras", "dpmpp_2m"]),
        (&["--schedule", "kerras"], &["kerras", "`karras`"]),
        (
            &["--sampler", "ddim", "--schedule", "simple"],
            &["ddim", "simple", "trailing"],
        ),
        (&["--generator", "dice"], &["dice", "torch", "philox"]),
        (&["--steps", "0"], &["steps", "1 to 1000"]),
        (&["--width", "8193"], &["width", "1 to 8192"]),
        (&["--guidance", "-2"], &["guidance"]),
        (&["--eta", "1.5"], &["eta"]),
        (&["--count", "0"], &["count"]),
        (&["--seed", "1,2", "--count", "3"], &["count", "seeds"]),
        (&["--device", "gpu"], &["`gpu` is no device", "cpu"]),
        (&["--sampler", "euler", "--eta", "0.5"], &["eta", "euler"]),
        (&["--guidance-method", "cfg-"], &["cfg-", "`apg`"]),
        (&["--guidance-interval", "0.8"], &["0.8", "0.2:0.8"]),
        (
            &["--pag", "3", "--pag-layers", "down.9"],
            &["down.9", "mid_block"],
        ),
        (&["--guidance-method", "cfg++"], &["cfg++", "`euler`"]),
        (
            &["--cache-interval", "2", "--cache-branch", "99"],
            &["99", "branches 0 to"],
        ),
    ];
    for (more, words) in cases {
        let mut arguments = draw(output, text(&model), &[]);
        // The device of a case stands in for the usual one.
        if more[0] == "--device" {
            arguments.retain(|word| !["--device", "cpu"].contains(word));
        }
        arguments.extend(more);
        refuses(&arguments, 2, words);
    }
    assert!(names(folder.path()).is_empty());
}

#[test]
fn a_flag_of_a_gpu_that_is_not_in_this_build_says_how_to_get_one() {
    if cfg!(any(feature = "cuda", feature = "metal", feature = "vulkan")) {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let (output, model) = (folder.path().join("a.png"), tiny_model());
    let arguments = [
        "generate",
        "a fox",
        "--model",
        text(&model),
        "--device",
        "vulkan",
        "-o",
        text(&output),
    ];
    refuses(&arguments, 2, &["no `vulkan` support", "--features vulkan"]);
}

#[test]
fn outputs_that_cannot_be_written_are_refused_before_any_work() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    fs::write(path("file"), "x").expect("written");
    fs::create_dir(path("folder.png")).expect("made");
    let model = tiny_model();
    let cases = [
        ("missing/a.png", "mkdir -p"),
        ("file/a.png", "file"),
        ("folder.png", "is a folder"),
    ];
    for (name, word) in cases {
        refuses(&draw(text(&path(name)), text(&model), &[]), 4, &[word]);
    }
    refuses(
        &draw(text(&path("a.gif")), text(&model), &[]),
        2,
        &[".gif", ".png"],
    );
    let latents = path("missing/z.safetensors");
    refuses(
        &draw(
            text(&path("a.png")),
            text(&model),
            &["--save-latents", text(&latents)],
        ),
        4,
        &["missing"],
    );
    assert_eq!(names(folder.path()), ["file", "folder.png"]);
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_said_to_be_full() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = folder.path().join("full.png");
    std::os::unix::fs::symlink("/dev/full", &output).expect("a link");
    refuses(
        &draw(text(&output), text(&tiny_model()), &["--steps", "1"]),
        4,
        &["cannot write", "full.png"],
    );
}

#[test]
fn broken_pictures_are_named_with_what_is_wrong() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    for name in ["a.png", "a.jpg", "a.webp"] {
        picture(64, 64, 0).save(&path(name)).expect("saved");
        let whole = fs::read(path(name)).expect("read");
        fs::write(path(&format!("cut-{name}")), &whole[..whole.len() * 2 / 3]).expect("written");
    }
    fs::write(path("empty.png"), "").expect("written");
    fs::write(path("words.png"), "this is no picture").expect("written");
    picture(4, 4, 0).save(&path("tiny.png")).expect("saved");
    let (model, output) = (tiny_model(), path("z.safetensors"));
    let cases = [
        ("cut-a.png", "cut-a.png"),
        ("cut-a.jpg", "cut"),
        ("cut-a.webp", "cut"),
        ("empty.png", "empty"),
        ("words.png", "none of PNG, JPEG or WebP"),
        ("absent.png", "cannot read"),
        ("tiny.png", "smaller than"),
    ];
    for (name, word) in cases {
        let input = path(name);
        refuses(
            &[
                "encode",
                text(&input),
                "--model",
                text(&model),
                "-o",
                text(&output),
            ],
            3,
            &[word],
        );
    }
    let (good, bad, sheet) = (path("a.png"), path("cut-a.png"), path("sheet.png"));
    refuses(
        &[
            "reconstruct",
            text(&good),
            text(&bad),
            "--model",
            text(&model),
            "-o",
            text(&sheet),
        ],
        3,
        &["cut-a.png"],
    );
    assert!(!output.exists() && !sheet.exists());
}

#[test]
fn a_picture_of_a_hundred_megapixels_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let (input, output) = (
        folder.path().join("large.png"),
        folder.path().join("z.safetensors"),
    );
    fs::write(&input, png_header(10_000, 10_000)).expect("written");
    let model = tiny_model();
    refuses(
        &[
            "encode",
            text(&input),
            "--model",
            text(&model),
            "-o",
            text(&output),
        ],
        3,
        &["large.png", "megapixels"],
    );
    fs::write(&input, png_header(0, 10)).expect("written");
    refuses(
        &[
            "encode",
            text(&input),
            "--model",
            text(&model),
            "-o",
            text(&output),
        ],
        3,
        &["large.png"],
    );
}

/// A PNG that claims a size: signature, `IHDR` with a right checksum, and the start of its pixels.
fn png_header(width: u32, height: u32) -> Vec<u8> {
    let mut chunk = b"IHDR".to_vec();
    chunk.extend(width.to_be_bytes());
    chunk.extend(height.to_be_bytes());
    chunk.extend([8, 2, 0, 0, 0]);
    let crc = crc32(&chunk);
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\x0d".to_vec();
    png.extend(chunk);
    png.extend(crc.to_be_bytes());
    png.extend(b"\0\0\0\x04IDAT\x78\x9c\x01\0");
    png
}

/// Source: PNG specification (W3C 2003), annex D.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        let crc = crc ^ u32::from(*byte);
        (0..8).fold(crc, |crc, _| {
            if crc & 1 == 1 {
                crc >> 1 ^ 0xedb8_8320
            } else {
                crc >> 1
            }
        })
    })
}

/// A copy of the tiny model in `root`, whose U-Net's file `change` rewrites tensor by tensor.
fn damaged(root: &Path, change: impl Fn(usize, &mut Vec<f32>, &mut Vec<usize>) -> bool) {
    copied(&tiny_model(), root);
    let path = root.join("unet/diffusion_pytorch_model.safetensors");
    let weights = Weights::open(&path).expect("weights");
    let mut kept = Vec::new();
    for (place, name) in weights.names().enumerate() {
        let mut shape = weights.describe(name).expect("known").1.to_vec();
        let mut values = weights.read_f32(name).expect("values");
        if change(place, &mut values, &mut shape) {
            kept.push((name, shape, values));
        }
    }
    let mut writer = SafetensorsWriter::new();
    for (name, shape, values) in &kept {
        writer = writer
            .f32(name, shape, values, Dtype::F32)
            .expect("a tensor");
    }
    let bytes = writer.to_bytes().expect("a file");
    drop(weights);
    fs::write(path, bytes).expect("written");
}

#[test]
fn damaged_models_are_named_with_what_is_wrong() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = |name: &str| folder.path().join(name);
    let output = root("a.png");
    damaged(&root("missing"), |place, _, _| place != 5);
    damaged(&root("misshapen"), |place, values, shape| {
        if place == 5 {
            values.push(0.0);
            *shape = vec![values.len()];
        }
        true
    });
    copied(&tiny_model(), &root("cut"));
    let weights = root("cut").join("vae/diffusion_pytorch_model.safetensors");
    let whole = fs::read(&weights).expect("read");
    fs::write(&weights, &whole[..whole.len() / 2]).expect("written");
    copied(&tiny_model(), &root("unknown"));
    let config = root("unknown").join("unet/config.json");
    let text_of = fs::read_to_string(&config).expect("read");
    fs::write(&config, text_of.replacen('{', "{\n  \"surprise\": 7,", 1)).expect("written");
    fs::create_dir(root("empty")).expect("made");
    let cases: [(&str, &[&str]); 6] = [
        ("missing", &["lacks 1 of the model's", "unet"]),
        ("misshapen", &["shape", "unet"]),
        ("cut", &["vae", "diffusion_pytorch_model.safetensors"]),
        ("unknown", &["surprise", "unet", "line 2"]),
        ("empty", &["model_index.json"]),
        ("absent", &["absent"]),
    ];
    for (name, words) in cases {
        refuses(&draw(text(&output), text(&root(name)), &[]), 3, words);
    }
    assert!(!output.exists());
}

#[test]
fn latents_of_another_kind_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let write = |name: &str, tensor: &str, shape: &[usize]| {
        let values = vec![0.5; shape.iter().product()];
        let file = SafetensorsWriter::new()
            .f32(tensor, shape, &values, Dtype::F32)
            .expect("a tensor");
        fs::write(path(name), file.to_bytes().expect("a file")).expect("written");
    };
    write("named.safetensors", "latent", &[1, 4, 8, 8]);
    write("flat.safetensors", "latents", &[4, 8, 8]);
    write("wide.safetensors", "latents", &[1, 7, 8, 8]);
    fs::write(path("words.safetensors"), "no tensors").expect("written");
    let (model, output) = (tiny_model(), path("a.png"));
    let cases = [
        ("named.safetensors", "latents"),
        ("flat.safetensors", "[n, c, h, w]"),
        ("wide.safetensors", "7"),
        ("words.safetensors", "words"),
    ];
    for (name, word) in cases {
        let input = path(name);
        let said = run([
            "decode",
            text(&input),
            "--model",
            text(&model),
            "-o",
            text(&output),
        ]);
        assert!(
            [2, 3].contains(&said.code),
            "{name}: {} {}",
            said.code,
            said.stderr
        );
        assert!(said.stderr.contains(word), "{name}: {}", said.stderr);
    }
    assert!(!output.exists());
}

#[test]
fn requests_and_scheduler_configs_are_refused_with_their_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    fs::write(path("r.json"), "{\"prompt\": \"x\",\n \"step\": 3}").expect("written");
    fs::write(
        path("s.json"),
        "{\"_class_name\": \"DDIMScheduler\", \"beta_begin\": 1}",
    )
    .expect("written");
    let (request, scheduler, output, model) =
        (path("r.json"), path("s.json"), path("a.png"), tiny_model());
    refuses(
        &["generate", "--request", text(&request), "-o", text(&output)],
        2,
        &["`step`", "line 2"],
    );
    refuses(
        &draw(
            text(&output),
            text(&model),
            &["--scheduler-config", text(&scheduler)],
        ),
        3,
        &["beta_begin"],
    );
}

/// A config of an autoencoder, whole but for what `change` does to its text.
fn autoencoder(root: &Path, data: &Path, change: impl Fn(String) -> String) -> String {
    let config = format!(
        "[run]\nfolder = {:?}\nsteps = 2\nbatch = 2\n[data]\npath = {data:?}\nsize = 32\n\
         [optimizer]\nlearning_rate = {{ peak = 1e-3 }}\n\
         [simple]\n",
        root.join("run")
    );
    let path = root.join("config.toml");
    fs::write(&path, change(config)).expect("written");
    text(&path).to_owned()
}

#[test]
fn training_configs_are_refused_with_their_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    let data = root.join("data");
    let cases: [(&str, &str, &[&str]); 4] = [
        ("steps = 2", "stepps = 2", &["config.toml:3", "stepps"]),
        (
            "batch = 2",
            "batch = 0",
            &["config.toml:4", "run.batch", "at least 1"],
        ),
        ("steps = 2\n", "", &["config.toml:1", "steps"]),
        ("size = 32", "size = \"big\"", &["config.toml:7"]),
    ];
    for (good, bad, words) in cases {
        let config = autoencoder(root, &data, |text| text.replacen(good, bad, 1));
        refuses(
            &["train", "autoencoder", &config, "--device", "cpu"],
            2,
            words,
        );
    }
    let absent = root.join("absent.toml");
    refuses(
        &["train", "autoencoder", text(&absent), "--device", "cpu"],
        3,
        &["absent.toml"],
    );
    assert!(!root.join("run").exists());
}

#[test]
fn a_checkpoint_of_another_model_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    let data = root.join("data");
    fs::create_dir(&data).expect("made");
    fs::write(data.join("shard-00000.tar"), shard(4)).expect("written");
    let config = autoencoder(root, &data, |text| text);
    run(["train", "autoencoder", &config, "--device", "cpu"]).fine();
    let before = names(&root.join("run"));
    let other = autoencoder(root, &data, |text| text + "latent_channels = 6\n");
    refuses(
        &["train", "autoencoder", &other, "--device", "cpu"],
        3,
        &["checkpoint-00000002", "latent_channels"],
    );
    assert_eq!(names(&root.join("run")), before);
}

#[test]
fn a_loss_that_is_not_finite_ends_the_run_with_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    let data = root.join("data");
    fs::create_dir(&data).expect("made");
    fs::write(data.join("shard-00000.tar"), shard(4)).expect("written");
    let wild = |text: String| {
        text.replace("1e-3", "1e30")
            .replace("steps = 2", "steps = 9")
    };
    let config = autoencoder(root, &data, wild);
    refuses(
        &["train", "autoencoder", &config, "--device", "cpu"],
        1,
        &["not finite", "lower the learning rate"],
    );
    assert!(!root.join("run/model").exists());
}

#[test]
fn an_instruction_set_that_does_not_exist_is_refused() {
    let said = said(latent().arg("samplers").env("LATENT_ISA", "mmx"));
    assert!(
        said.code == 2 && said.stderr.contains("`LATENT_ISA` is `mmx`"),
        "{}",
        said.stderr
    );
}

#[test]
fn training_data_is_refused_with_what_it_lacks() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    let train = |data: &Path| autoencoder(root, data, |text| text);
    let absent = train(&root.join("absent"));
    refuses(
        &["train", "autoencoder", &absent, "--device", "cpu"],
        3,
        &["absent"],
    );

    let cut = root.join("cut");
    fs::create_dir(&cut).expect("made");
    fs::write(cut.join("shard-00000.tar"), &shard(4)[..2000]).expect("written");
    let config = train(&cut);
    refuses(
        &["train", "autoencoder", &config, "--device", "cpu"],
        3,
        &["shard-00000.tar"],
    );

    // Pictures without captions are enough for an autoencoder, and not for words.
    let silent = root.join("silent");
    fs::create_dir(&silent).expect("made");
    for kind in 0..4 {
        picture(32, 32, kind)
            .save(&silent.join(format!("{kind}.png")))
            .expect("saved");
    }
    let words = "[tokenizer]\nvocab_size = 560\n[text]\nhidden_size = 32\nintermediate_size = 64\n\
                 num_hidden_layers = 1\nnum_attention_heads = 2\nmax_position_embeddings = 24\n\
                 [image]\nchannels = [16, 32]\nnorm_num_groups = 4\nprojection_dim = 16\n";
    let config = autoencoder(root, &silent, |text| text.replace("[simple]\n", words));
    refuses(
        &["train", "text-encoder", &config, "--device", "cpu"],
        3,
        &["captions", "silent"],
    );
}

/// A tar of `count` pictures with captions, as its bytes.
fn shard(count: usize) -> Vec<u8> {
    let mut tar = Vec::new();
    let mut member = |name: String, bytes: &[u8]| {
        let mut header = [0_u8; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[100..108].copy_from_slice(b"0000644\0");
        header[124..136].copy_from_slice(format!("{:011o}\0", bytes.len()).as_bytes());
        header[156] = b'0';
        header[257..265].copy_from_slice(b"ustar\x0000");
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        tar.extend(header);
        tar.extend(bytes);
        tar.resize(tar.len().next_multiple_of(512), 0);
    };
    for kind in 0..count {
        let png = picture(32, 32, kind)
            .encode(latent_formats::PictureFormat::Png)
            .expect("a picture");
        member(format!("{kind}.png"), &png);
        member(format!("{kind}.txt"), b"a picture");
    }
    tar.resize(tar.len() + 1024, 0);
    tar
}

#[test]
fn data_sets_and_profiles_that_do_not_exist_are_refused_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("out");
    let build = |more: &[&'static str]| -> Vec<String> {
        let mut arguments: Vec<String> = vec![
            "data".into(),
            "build".into(),
            "--out".into(),
            text(&out).into(),
        ];
        arguments.extend(more.iter().map(|&word| word.to_owned()));
        arguments
    };
    let cases: [(&[&str], &[&str]); 4] = [
        (&["--profile", "huge"], &["`huge` is no profile", "`core`"]),
        (&["--kinds", "white,photo"], &["`photo`", "`recolor`"]),
        (&["--size", "100"], &["`100` is no size", "`128`"]),
        (&["--kinds", "left", "--scenes", "0"], &["0 scenes"]),
    ];
    for (more, words) in cases {
        let arguments = build(more);
        refuses(
            &arguments.iter().map(String::as_str).collect::<Vec<_>>(),
            2,
            words,
        );
    }
    assert!(!out.exists());
}

#[test]
fn a_whole_shard_is_read() {
    // Without this the cut one above would prove nothing.
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    fs::create_dir(&data).expect("made");
    fs::write(data.join("shard-00000.tar"), shard(4)).expect("written");
    let config = autoencoder(folder.path(), &data, |text| text);
    run(["train", "autoencoder", &config, "--device", "cpu"]).fine();
}
