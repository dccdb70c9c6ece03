//! LoRA training of tiny models, and what comes of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use latent::{Pipeline, Precision, Request};
use latent_formats::{Picture, Weights};
use latent_train::{Event, Finished, Metrics, Options, StageKind, TrainError, read_metrics, run};

fn model(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../latent-models/tests/fixtures")
        .join(name)
}

/// Four pictures of three shapes, each with a caption.
fn pictures(folder: &Path) {
    fs::create_dir_all(folder).expect("a folder");
    let all = [
        ([64, 64], [220, 40, 30], "a red square"),
        ([100, 70], [40, 190, 60], "a green field"),
        ([96, 64], [30, 60, 220], "a blue sea"),
        ([50, 90], [240, 220, 60], "a yellow tower"),
    ];
    for (index, ([width, height], colour, caption)) in all.into_iter().enumerate() {
        let pixels = (0..width * height).flat_map(|at| {
            let inside = at % width > width / 4 && at / width > height / 3;
            if inside { colour } else { [255; 3] }
        });
        let picture = Picture::new(width, height, pixels.collect()).expect("a picture");
        let path = folder.join(format!("{index}.png"));
        picture.save(&path).expect("saved");
        fs::write(path.with_extension("txt"), caption).expect("written");
    }
}

/// A config below `root`, with `top` keys and `more` tables.
fn config(root: &Path, model: &Path, steps: usize, top: &str, more: &str) -> PathBuf {
    pictures(&root.join("data"));
    let text = format!(
        "model = {model:?}\nsave_as = \"f32\"\n{top}\n[run]\nfolder = {:?}\nsteps = {steps}\nbatch = 2\nseed = 3\n\
         precision = \"f32\"\ncheckpoint_every = 3\nsample_every = 0\nlog_every = 1\n\
         [data]\npath = {:?}\nsize = 64\n[buckets]\nstep = 16\n\
         [optimizer]\nlearning_rate = {{ peak = 1e-2, warmup = 2 }}\nclip = 1.0\nema = {{ decay = 0.0 }}\n\
         [lora]\nrank = 4\nalpha = 2.0\n{more}",
        root.join("mine"),
        root.join("data"),
    );
    let path = root.join("lora.toml");
    fs::write(&path, text).expect("written");
    path
}

fn options() -> Options {
    Options {
        device: "cpu".into(),
        ..Options::default()
    }
}

fn train(config: &Path) -> Result<Finished, TrainError> {
    run(StageKind::Lora, config, &options(), &mut |_| {})
}

/// The written files: kohya's dialect, and PEFT's.
fn files(root: &Path) -> [PathBuf; 2] {
    let folder = root.join("mine/model");
    ["mine.safetensors", "pytorch_lora_weights.safetensors"].map(|name| folder.join(name))
}

/// Final latents of a drawing with a LoRA, or without.
fn drawn(model: &Path, lora: Option<&Path>) -> Vec<f32> {
    let builder = Pipeline::builder().device("cpu").precision(Precision::F32);
    let builder = match lora {
        Some(file) => builder.lora(file, 1.0).strict(),
        None => builder,
    };
    let request = Request::new("a red square").seed(4).steps(3).size(64, 64);
    let drawn = builder.open(model).expect("opens").generate(&request);
    drawn.expect("a picture").latents.values().to_vec()
}

fn furthest(a: &[f32], b: &[f32]) -> f32 {
    let largest = a.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
    let off = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    off.fold(0.0, f32::max) / largest
}

/// Both dialects draw the same, and something else than the model without them.
#[track_caller]
fn both_dialects_draw_the_same(root: &Path, model: &Path) {
    let [kohya, peft] = files(root);
    let (first, second) = (drawn(model, Some(&kohya)), drawn(model, Some(&peft)));
    let off = furthest(&first, &second);
    assert!(off < 1e-5, "{off}");
    let changed = furthest(&first, &drawn(model, None));
    assert!(changed > 1e-3, "the LoRA changes {changed}");
}

const EVERYTHING: &str =
    "layers = [\"attention\", \"feed-forward\", \"projections\", \"convolutions\"]\n";

fn mean(metrics: &[Metrics]) -> f64 {
    metrics.iter().map(|line| line.loss).sum::<f64>() / metrics.len() as f64
}

#[test]
fn four_pictures_are_learned_and_both_files_draw_what_was_learned() {
    let root = tempfile::tempdir().expect("a folder");
    let (root, tiny) = (root.path(), model("sd1-tiny"));
    let more = format!("{EVERYTHING}[samples]\nprompts = [\"a red square\"]\nsteps = 2\n");
    let finished = train(&config(root, &tiny, 50, "flip = 0.5", &more)).expect("trained");
    assert!(finished.complete && finished.model == Some(root.join("mine/model")));
    let metrics = read_metrics(&root.join("mine/metrics.jsonl")).expect("metrics");
    let (first, last) = (mean(&metrics[..10]), mean(&metrics[40..]));
    assert!(last < 0.9 * first, "the loss went from {first} to {last}");
    assert!(root.join("mine/sheet-00000050.png").is_file());
    both_dialects_draw_the_same(root, &tiny);
}

#[test]
fn a_file_says_what_it_is_as_kohya_s_scripts_do() {
    let root = tempfile::tempdir().expect("a folder");
    let root = root.path();
    let top = "caption_dropout = 0.5\nclip_skip = 1";
    let more = "[text_encoder]\nlearning_rate = 1e-3\n[loss]\nnoise_offset = 0.1\n";
    train(&config(root, &model("sd1-tiny"), 2, top, more)).expect("trained");
    for file in files(root) {
        let weights = Weights::open(&file).expect("a file");
        for (key, value) in [
            ("ss_network_dim", "4"),
            ("ss_network_alpha", "2"),
            ("ss_base_model_version", "sd_v1"),
            ("ss_text_encoder_lr", "0.001"),
            ("ss_clip_skip", "2"),
            ("ss_noise_offset", "0.1"),
            ("ss_num_train_images", "4"),
            ("modelspec.architecture", "stable-diffusion-v1/lora"),
            ("modelspec.prediction_type", "epsilon"),
            ("modelspec.title", "mine"),
        ] {
            let found = weights.metadata().get(key).map(String::as_str);
            assert_eq!(found, Some(value), "{key}");
        }
    }
    let [kohya, peft] = files(root).map(|file| Weights::open(&file).expect("a file"));
    for name in [
        "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_out_0.lora_up.weight",
        "lora_te_text_model_encoder_layers_0_self_attn_q_proj.alpha",
    ] {
        assert!(kohya.contains(name), "{name}");
    }
    for name in [
        "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0.lora_B.weight",
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight",
    ] {
        assert!(peft.contains(name), "{name}");
    }
}

#[test]
fn a_run_stopped_in_the_middle_and_resumed_ends_with_the_same_files() {
    let root = tempfile::tempdir().expect("a folder");
    let written = |name: &str, stop: Option<u64>| {
        let root = root.path().join(name);
        let top = "flip = 0.5\ncaption_dropout = 0.2";
        let more = "[text_encoder]\nlearning_rate = 1e-3\n";
        let config = config(&root, &model("sd1-tiny"), 8, top, more);
        if let Some(stop) = stop {
            let options = options();
            let flag = options.stop.clone();
            let stopped = run(StageKind::Lora, &config, &options, &mut |event| {
                if matches!(event, Event::Step { step, .. } if *step == stop) {
                    flag.store(true, Ordering::Relaxed);
                }
            });
            assert!(!stopped.expect("stopped").complete);
        }
        train(&config).expect("trained");
        files(&root).map(|file| fs::read(file).expect("a file"))
    };
    assert!(written("whole", None) == written("halves", Some(5)));
}

#[test]
fn stable_diffusion_xl_learns_beside_a_class_that_it_draws_itself() {
    let root = tempfile::tempdir().expect("a folder");
    let (root, tiny) = (root.path(), model("sdxl-tiny"));
    let class = root.join("class");
    let more = format!(
        "{EVERYTHING}[text_encoder]\nlearning_rate = 1e-2\n\
         [prior]\npath = {class:?}\nprompt = \"a square\"\ncount = 3\nsteps = 2\nsampler = \"ddim\"\n"
    );
    train(&config(root, &tiny, 6, "", &more)).expect("trained");
    let drawn = fs::read_dir(&class).expect("the class").count();
    assert_eq!(drawn, 3);
    let metrics = read_metrics(&root.join("mine/metrics.jsonl")).expect("metrics");
    assert!(metrics.iter().all(|line| line.parts.contains_key("prior")));
    both_dialects_draw_the_same(root, &tiny);
    let weights = Weights::open(&files(root)[0]).expect("a file");
    let start = "lora_unet_input_blocks_";
    assert!(weights.names().any(|name| name.starts_with(start)));
    assert!(weights.names().any(|name| name.starts_with("lora_te2_")));
    let version = weights.metadata().get("ss_base_model_version");
    assert_eq!(version.map(String::as_str), Some("sdxl_base_v1-0"));
}

#[test]
fn a_checkpoint_of_one_file_and_a_model_of_velocities_train_too() {
    let root = tempfile::tempdir().expect("a folder");
    let xl = root.path().join("xl");
    let file = model("sdxl-tiny/model_sgm.safetensors");
    let top = format!("model_config = {:?}", model("sdxl-tiny"));
    train(&config(&xl, &file, 3, &top, "")).expect("trained");
    both_dialects_draw_the_same(&xl, &model("sdxl-tiny"));
    let second = root.path().join("second");
    let more = "[loss]\nmin_snr_gamma = 5.0\n";
    train(&config(&second, &model("sd2-tiny"), 3, "", more)).expect("trained");
    both_dialects_draw_the_same(&second, &model("sd2-tiny"));
}

#[test]
fn a_run_that_goes_on_from_a_lora_begins_where_it_ended() {
    let root = tempfile::tempdir().expect("a folder");
    let first = root.path().join("first");
    train(&config(&first, &model("sd1-tiny"), 3, "", "")).expect("trained");
    for file in files(&first) {
        let second = root.path().join("second");
        let path = config(&second, &model("sd1-tiny"), 1, "", "");
        let text = fs::read_to_string(&path).expect("the config");
        let text = text.replace("steps = 1\n", &format!("steps = 1\ninit = {file:?}\n"));
        // A first update at a rate of 0.
        fs::write(&path, text).expect("written");
        train(&path).expect("trained");
        let [before, after] =
            [&first, &second].map(|root| Weights::open(&files(root)[0]).expect("open"));
        for name in before.names() {
            let values = before.read_f32(name).expect("values");
            let off = furthest(&values, &after.read_f32(name).expect("values"));
            assert!(off < 1e-6 || off.is_nan(), "{name}: {off}");
        }
        fs::remove_dir_all(&second).expect("removed");
    }
}

#[test]
fn one_caption_stands_for_all_pictures_and_without_it_each_needs_its_own() {
    let root = tempfile::tempdir().expect("a folder");
    let root = root.path();
    for (top, trains) in [("caption = \"a sks square\"", true), ("", false)] {
        let path = config(root, &model("sd1-tiny"), 1, top, "");
        for index in 0..4 {
            let caption = root.join(format!("data/{index}.txt"));
            fs::remove_file(caption).expect("removed");
        }
        let trained = train(&path);
        assert_eq!(trained.is_ok(), trains, "{trained:?}");
        if let Err(error) = trained {
            assert!(error.to_string().contains("has one"), "{error}");
        }
    }
}

/// Final latents of few steps without guidance, with the LoRA.
fn in_few_steps(model: &Path, lora: Option<&Path>, seed: u64) -> Vec<f32> {
    let builder = Pipeline::builder().device("cpu").precision(Precision::F32);
    let builder = match lora {
        Some(file) => builder.lora(file, 1.0).strict(),
        None => builder,
    };
    let request = Request::new("a red square").seed(seed).size(64, 64);
    let request = request.sampler("ddim").schedule("trailing");
    let request = request.steps(2).guidance(1.0);
    let drawn = builder.open(model).expect("opens").generate(&request);
    drawn.expect("a picture").latents.values().to_vec()
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    let squares = a.iter().zip(b).map(|(a, b)| (a - b) * (a - b));
    squares.sum::<f32>().sqrt()
}

const FEW_STEPS: &str = "[distillation]\nsteps = 2\nteacher_steps = 6\nguidance = 5.0\npaths = 4\n";

/// [`config`] with [`FEW_STEPS`] and without a table that is for pictures.
fn distilling(root: &Path, model: &Path, steps: usize, top: &str, more: &str) -> PathBuf {
    let path = config(root, model, steps, top, &format!("{more}{FEW_STEPS}"));
    let text = fs::read_to_string(&path).expect("the config");
    let text = text.replace("[buckets]\nstep = 16\n", "");
    fs::write(&path, text.replace("batch = 2", "batch = 4")).expect("written");
    path
}

#[test]
fn few_steps_of_a_distilled_model_lead_where_many_guided_ones_do() {
    for name in ["sd1-tiny", "sd2-tiny", "sdxl-tiny"] {
        let root = tempfile::tempdir().expect("a folder");
        let (root, tiny) = (root.path(), model(name));
        let layers = EVERYTHING;
        let path = distilling(root, &tiny, 80, "caption = \"a red square\"", layers);
        train(&path).expect("trained");

        // The noise of the second path: random weights draw nothing that another would foretell.
        let seed = 3 + 1;
        let request = Request::new("a red square").seed(seed).size(64, 64);
        let request = request.sampler("ddim").schedule("trailing");
        let request = request.steps(6).guidance(5.0);
        let pipeline = Pipeline::builder().device("cpu").precision(Precision::F32);
        let drawn = pipeline.open(&tiny).expect("opens").generate(&request);
        let goal = drawn.expect("a picture").latents.values().to_vec();
        let [lora, _] = files(root);
        let before = distance(&in_few_steps(&tiny, None, seed), &goal);
        let after = distance(&in_few_steps(&tiny, Some(&lora), seed), &goal);
        assert!(after < 0.7 * before, "{name}: from {before} to {after}");
        let said = Weights::open(&lora).expect("a file");
        let hint = said.metadata().get("modelspec.usage_hint");
        let hint = hint.expect("a hint");
        assert_eq!(hint, "2 steps, guidance 1, sampler ddim, schedule trailing");
    }
}

#[test]
fn what_has_no_meaning_without_pictures_is_refused_beside_a_distillation() {
    let root = tempfile::tempdir().expect("a folder");
    let (root, tiny) = (root.path(), model("sd1-tiny"));
    for (top, more, words) in [
        ("flip = 0.5", "", "`flip` has no meaning"),
        (
            "caption_dropout = 0.5",
            "",
            "`caption_dropout` has no meaning",
        ),
        ("", "[buckets]\nstep = 32\n", "`buckets` has no meaning"),
        ("", "[loss]\nnoise_offset = 0.1\n", "`loss` has no meaning"),
    ] {
        let error = train(&distilling(root, &tiny, 2, top, more)).expect_err("refused");
        assert!(error.to_string().contains(words), "{error}");
    }
    for (from, to, words) in [
        ("steps = 6", "steps = 5", "must be a multiple"),
        (
            "paths = 4",
            "paths = 0",
            "`distillation.paths` must be at least 1",
        ),
        ("size = 64", "size = 66", "multiple of 8"),
    ] {
        let path = distilling(root, &tiny, 2, "", "");
        let text = fs::read_to_string(&path).expect("the config");
        assert!(text.contains(from));
        fs::write(&path, text.replacen(from, to, 1)).expect("written");
        let error = train(&path).expect_err("refused");
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn what_cannot_be_trained_is_refused_with_the_reason() {
    let root = tempfile::tempdir().expect("a folder");
    let root = root.path();
    let tiny = model("sd1-tiny");
    let text = "[text_encoder]\nlearning_rate = 1e-3\n";
    let cases: [(&Path, &str, &str, &str); 8] = [
        (
            &model("sdxl-refiner-tiny"),
            "",
            "",
            "train on the base model",
        ),
        (Path::new("nowhere"), "", "", "nowhere"),
        (&tiny, "flip = 2.0", "", "`flip` must lie between 0 and 1"),
        (&tiny, "name = \"a/b\"", "", "it becomes a file's name"),
        (&tiny, "caption = \" \"", "", "`caption` is empty"),
        (
            &tiny,
            "",
            "layers = [\"atention\"]\n",
            "unknown variant `atention`",
        ),
        (
            &tiny,
            "",
            &format!("layers = [\"convolutions\"]\n{text}"),
            "names no layer that a text encoder has",
        ),
        (
            &tiny,
            "prediction = \"epsilon\"",
            "",
            "checkpoint of one file",
        ),
    ];
    for (model, top, more, words) in cases {
        let error = train(&config(root, model, 2, top, more)).expect_err("refused");
        assert!(error.to_string().contains(words), "{error}");
    }
}

/// A copy of `base` in which files say other things, `to` in the place of `from`: enough to know the family.
fn changed(base: &Path, folder: &Path, changes: [[&str; 3]; 2]) {
    for part in ["", "unet", "vae", "text_encoder", "tokenizer", "scheduler"] {
        fs::create_dir_all(folder.join(part)).expect("a folder");
        for entry in fs::read_dir(base.join(part)).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_file() {
                let name = path.file_name().expect("a name");
                fs::copy(&path, folder.join(part).join(name)).expect("copied");
            }
        }
    }
    for [file, from, to] in changes {
        let path = folder.join(file);
        let text = fs::read_to_string(&path).expect("a file");
        assert!(text.contains(from), "{text}");
        fs::write(path, text.replacen(from, to, 1)).expect("written");
    }
}

#[test]
fn models_that_see_more_or_were_distilled_are_refused_by_family_with_what_to_train_on() {
    let root = tempfile::tempdir().expect("a folder");
    let root = root.path();
    let (sd1, lcm) = (model("sd1-tiny"), root.join("lcm"));
    let told = "\"time_cond_proj_dim\": ";
    let distilled = [
        [
            "unet/config.json",
            &format!("{told}null"),
            &format!("{told}8"),
        ],
        [
            "model_index.json",
            "StableDiffusionPipeline",
            "LatentConsistencyModelPipeline",
        ],
    ];
    changed(&sd1, &lcm, distilled);
    let inpainting = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../latent/tests/fixtures")
        .join("sd1-inpaint-tiny");
    let on_its_origin = "train on the model it was made from: the LoRA fits both";
    for (model, family, advice) in [
        (&lcm, "lcm", on_its_origin),
        (&inpainting, "sd1-inpaint", on_its_origin),
        (
            &model("sdxl-refiner-tiny"),
            "sdxl-refiner",
            "train on the base model",
        ),
    ] {
        let error = train(&config(root, model, 2, "", "")).expect_err("refused");
        let message = error.to_string();
        assert!(
            message.contains(family) && message.contains(advice),
            "{message}"
        );
        assert!(
            message.contains(&*model.to_string_lossy()) && !root.join("mine").exists(),
            "{message}"
        );
    }
}

#[test]
fn values_that_cannot_work_are_refused_with_their_key() {
    let root = tempfile::tempdir().expect("a folder");
    let (root, tiny) = (root.path(), model("sd1-tiny"));
    for (from, to, words) in [
        ("rank = 4", "rank = 0", "`lora.rank` is 0"),
        ("step = 16", "step = 20", "must be a multiple of 8"),
        ("step = 16", "step = 128", "between 1 and `data.size`, 64"),
        (
            "alpha = 2.0",
            "alpha = -1.0",
            "`lora.alpha` must be above 0",
        ),
        (
            "seed = 3",
            "seed = 3\ninit = \"none.safetensors\"",
            "none.safetensors",
        ),
    ] {
        let path = config(root, &tiny, 2, "", "");
        let text = fs::read_to_string(&path).expect("the config");
        assert!(text.contains(from));
        fs::write(&path, text.replacen(from, to, 1)).expect("written");
        let error = train(&path).expect_err("refused");
        assert!(error.to_string().contains(words), "{error}");
    }
}
