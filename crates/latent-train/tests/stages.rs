//! The three stages on eight pictures, one after the other, as a user runs them.

use std::fs;
use std::path::{Path, PathBuf};

use latent_formats::Picture;
use latent_train::{Event, Finished, Metrics, Options, StageKind, TrainError, read_metrics, run};

/// Side of the pictures.
const SIZE: usize = 32;
/// Colour, name, and whether the square stands left.
const SQUARES: [([u8; 3], &str, bool); 8] = [
    ([200, 30, 30], "a red square on the left", true),
    ([200, 30, 30], "a red square on the right", false),
    ([30, 160, 40], "a green square on the left", true),
    ([30, 160, 40], "a green square on the right", false),
    ([40, 60, 210], "파란 사각형 왼쪽", true),
    ([40, 60, 210], "파란 사각형 오른쪽", false),
    ([230, 200, 40], "노란 사각형 왼쪽", true),
    ([230, 200, 40], "노란 사각형 오른쪽", false),
];

const COMMON: &str = r#"
[optimizer]
learning_rate = { peak = 3e-3, warmup = 5, decay = "cosine" }
clip = 1.0
ema = { decay = 0.9 }
"#;

fn squares(folder: &Path, captions: bool) {
    fs::create_dir_all(folder).expect("a folder");
    for (index, (colour, caption, left)) in SQUARES.iter().enumerate() {
        let mut rgb = vec![255u8; SIZE * SIZE * 3];
        let from = if *left { 3 } else { 17 };
        for (row, column) in
            (10..22).flat_map(|row| (from..from + 12).map(move |column| (row, column)))
        {
            let place = (row * SIZE + column) * 3;
            rgb[place..place + 3].copy_from_slice(colour);
        }
        let picture = Picture::new(SIZE, SIZE, rgb).expect("a picture");
        picture
            .save(&folder.join(format!("{index}.png")))
            .expect("saved");
        if captions {
            fs::write(folder.join(format!("{index}.txt")), caption).expect("written");
        }
    }
}

/// `[run]` and `[data]` of a stage.
fn head(root: &Path, name: &str, steps: usize) -> String {
    format!(
        "[run]\nfolder = {:?}\nsteps = {steps}\nbatch = 8\nseed = 5\nprecision = \"f32\"\ncheckpoint_every = 20\n\
         sample_every = 0\nlog_every = 1\n[data]\npath = {:?}\nsize = {SIZE}\n",
        root.join(name),
        root.join("data"),
    )
}

fn text_encoder(root: &Path, steps: usize) -> String {
    head(root, "text", steps)
        + COMMON
        + r#"
[tokenizer]
vocab_size = 600
[text]
hidden_size = 32
intermediate_size = 64
num_hidden_layers = 2
num_attention_heads = 2
max_position_embeddings = 24
[image]
channels = [16, 32]
norm_num_groups = 4
projection_dim = 32
"#
}

fn autoencoder(root: &Path, steps: usize, model: &str) -> String {
    let tower = root.join("text/model/image_tower");
    let loss = format!("[loss]\nl1 = 1.0\nl2 = 1.0\nperceptual = 0.05\nimage_tower = {tower:?}\n");
    let discriminator = format!(
        "[discriminator]\nchannels = 8\nstart = {}\nweight = 0.1\n",
        steps - 4
    );
    head(root, "autoencoder", steps) + COMMON + &loss + &discriminator + model
}

const KL: &str = r#"
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

fn diffusion(root: &Path, steps: usize) -> String {
    let top = format!(
        "autoencoder = {:?}\ntext_encoder = {:?}\naugmented_copies = 1\n",
        root.join("autoencoder/model"),
        root.join("text/model"),
    );
    top + &head(root, "diffusion", steps)
        + COMMON
        + r#"
[augment]
shift = 1
[loss]
prediction = "v_prediction"
[noise]
zero_terminal_snr = true
[samples]
prompts = ["a red square on the left"]
steps = 4
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
"#
}

fn write(root: &Path, name: &str, config: &str) -> PathBuf {
    let path = root.join(format!("{name}.toml"));
    fs::write(&path, config).expect("written");
    path
}

fn options() -> Options {
    Options {
        device: "cpu".into(),
        ..Options::default()
    }
}

fn train(stage: StageKind, config: &Path) -> Result<Finished, TrainError> {
    run(stage, config, &options(), &mut |_| {})
}

fn trained(root: &Path, stage: StageKind, name: &str, config: &str) -> Vec<Metrics> {
    let path = write(root, name, config);
    let finished = train(stage, &path).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(finished.complete && finished.model.is_some());
    read_metrics(&root.join(name).join("metrics.jsonl")).expect("metrics")
}

fn mean(metrics: &[Metrics], part: &str) -> f64 {
    let values = metrics.iter().map(|line| match part {
        "loss" => line.loss,
        part => line.parts[part].as_f64().expect("a number"),
    });
    values.sum::<f64>() / metrics.len() as f64
}

#[test]
fn the_three_stages_learn_eight_pictures_and_export_a_pipeline() {
    let root = tempfile::tempdir().expect("a folder");
    let root = root.path();
    squares(&root.join("data"), true);

    let text = trained(
        root,
        StageKind::TextEncoder,
        "text",
        &text_encoder(root, 80),
    );
    let found = mean(&text[70..], "accuracy");
    assert!(
        found > 0.8,
        "of eight captions the right one is found in {found}"
    );

    let auto = trained(
        root,
        StageKind::Autoencoder,
        "autoencoder",
        &autoencoder(root, 120, KL),
    );
    let (first, last) = (mean(&auto[..5], "l1"), mean(&auto[110..116], "l1"));
    assert!(last < 0.3 * first, "L1 went from {first} to {last}");
    assert!(
        auto[119].parts.contains_key("discriminator")
            && !auto[100].parts.contains_key("discriminator")
    );

    let steps = trained(
        root,
        StageKind::Diffusion,
        "diffusion",
        &diffusion(root, 120),
    );
    let (first, last) = (mean(&steps[..5], "loss"), mean(&steps[110..], "loss"));
    assert!(
        last < 0.5 * first,
        "the diffusion loss went from {first} to {last}"
    );

    opens_and_draws(&root.join("diffusion/model"));
}

/// The exported folder is whole and draws.
fn opens_and_draws(model: &Path) {
    for part in [
        "model_index.json",
        "unet/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "tokenizer/vocab.json",
        "scheduler/scheduler_config.json",
        "latent-words.json",
    ] {
        assert!(model.join(part).is_file(), "{part}");
    }
    let pipeline = latent::Pipeline::from_pretrained(model).expect("our own folder opens");
    let words = pipeline.vocabulary().expect("the words of the captions");
    assert_eq!(words.unknown("a green square on the right"), []);
    assert_eq!(words.unknown("a green elephant")[0].word, "elephant");
    let request = latent::Request::new("a green square on the right")
        .seed(1)
        .steps(4);
    let drawn = pipeline
        .generate(&request)
        .expect("drawn")
        .pictures
        .remove(0);
    assert_eq!((drawn.width(), drawn.height()), (SIZE, SIZE));
}

#[test]
fn a_run_stopped_in_the_middle_and_resumed_exports_the_same_weights() {
    let root = tempfile::tempdir().expect("a folder");
    let weights = |name: &str, stop: Option<u64>| {
        let root = root.path().join(name);
        squares(&root.join("data"), true);
        let config = write(&root, "text", &text_encoder(&root, 8));
        if let Some(stop) = stop {
            let options = options();
            let flag = options.stop.clone();
            let stopped = run(StageKind::TextEncoder, &config, &options, &mut |event| {
                if matches!(event, Event::Step { step, .. } if *step == stop) {
                    flag.store(true, std::sync::atomic::Ordering::Relaxed);
                }
            });
            assert!(!stopped.expect("stopped").complete);
        }
        train(StageKind::TextEncoder, &config).expect("trained");
        fs::read(root.join("text/model/text_encoder/model.safetensors")).expect("the weights")
    };
    assert!(weights("whole", None) == weights("halves", Some(3)));
}

#[test]
fn a_checkpoint_of_another_model_is_refused() {
    let root = tempfile::tempdir().expect("a folder");
    let root = root.path();
    squares(&root.join("data"), true);
    train(
        StageKind::TextEncoder,
        &write(root, "text", &text_encoder(root, 2)),
    )
    .expect("trained");
    let wider = text_encoder(root, 2).replace("hidden_size = 32", "hidden_size = 64");
    let error = train(StageKind::TextEncoder, &write(root, "wider", &wider))
        .expect_err("refused")
        .to_string();
    assert!(
        error.contains("`text.hidden_size` was `32`, now it is `64`"),
        "{error}"
    );
}

#[test]
fn a_data_folder_without_captions_is_refused_where_words_are_learned() {
    let root = tempfile::tempdir().expect("a folder");
    let root = root.path();
    squares(&root.join("data"), false);
    let error = train(
        StageKind::TextEncoder,
        &write(root, "text", &text_encoder(root, 2)),
    )
    .expect_err("refused");
    assert!(error.to_string().contains("lacks captions"), "{error}");
}

#[test]
fn the_other_kinds_of_autoencoder_learn_too() {
    let root = tempfile::tempdir().expect("a folder");
    let simple = "[simple]\nchannels = [16, 32, 64]\n";
    let vq = KL.replace("[autoencoder_kl]", "[vq_model]").replace(
        "sample_size = 32",
        "sample_size = 32\nnum_vq_embeddings = 32",
    );
    for (name, model) in [("simple", simple), ("vq", vq.as_str())] {
        let root = root.path().join(name);
        squares(&root.join("data"), false);
        let config = head(&root, "autoencoder", 60) + COMMON + model;
        let metrics = trained(&root, StageKind::Autoencoder, "autoencoder", &config);
        let (first, last) = (mean(&metrics[..5], "l1"), mean(&metrics[55..], "l1"));
        assert!(last < 0.6 * first, "{name}: L1 went from {first} to {last}");
    }
}

#[test]
fn a_decoder_learns_alone_and_latents_stay_what_they_were() {
    let root = tempfile::tempdir().expect("a folder");
    let root = root.path();
    squares(&root.join("data"), false);
    let first = head(root, "first", 30) + COMMON + KL;
    trained(root, StageKind::Autoencoder, "first", &first);
    let old = root.join("first/model");
    let on = format!("seed = 6\ninit = {old:?}\n");
    let second = head(root, "second", 60).replace("seed = 5\n", &on)
        // Decay must not move what has no gradient.
        + &COMMON.replace("clip", "weight_decay = 0.1\nclip")
        + KL;
    let second = format!("freeze_encoder = true\n{second}");
    let metrics = trained(root, StageKind::Autoencoder, "second", &second);
    let (before, after) = (mean(&metrics[..5], "l1"), mean(&metrics[55..], "l1"));
    assert!(after < 0.8 * before, "L1 went from {before} to {after}");

    let [old, new] = [old, root.join("second/model")].map(|model| {
        let vae = model.join("vae");
        let device = latent_nn::select_device("cpu").expect("a CPU").device;
        let compute = latent_nn::Compute {
            precision: latent_nn::Precision::F32,
            device,
        };
        let model = latent_models::Autoencoder::load(&vae, &compute).expect("opens");
        let weights = vae.join("diffusion_pytorch_model.safetensors");
        let weights = latent_formats::Weights::open(&weights).expect("weights");
        (model.scaling_factor().expect("a factor"), weights)
    });
    // Decimal digits in a config may differ from the number in its last bit.
    assert!(
        (old.0 / new.0 - 1.0).abs() < 1e-12,
        "{} and {}",
        old.0,
        new.0
    );
    for name in old.1.names() {
        let [old, new] = [&old.1, &new.1].map(|weights| weights.tensor(name).expect("there").bytes);
        let encodes = name.starts_with("encoder") || name.starts_with("quant_conv");
        assert_eq!(encodes, old == new, "{name}");
    }

    let alone = format!("freeze_encoder = true\n{first}");
    let error = train(StageKind::Autoencoder, &write(root, "alone", &alone)).expect_err("refused");
    assert!(error.to_string().contains("needs `run.init`"), "{error}");
}
