//! Trains a whole model from a folder of pictures with captions, in a minute or two: text encoder, autoencoder, U-Net.
//!
//! `cargo run --release -p latent-examples --example train_tiny -- ["a red circle"]`
//!
//! The same configs with larger numbers train real models: see `configs/` and `latent train --help`.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

use latent::{Pipeline, Request};
use latent_examples::{COLOURS, FORMS, Shape, draw};
use latent_formats::Filter;
use latent_train::{Event, Options, StageKind, run};

/// Side of the training pictures, in pixels.
const SIDE: usize = 32;
/// Where a shape may stand: from the left, from the top.
const PLACES: [[f32; 2]; 4] = [[0.4, 0.4], [0.6, 0.4], [0.4, 0.6], [0.6, 0.6]];

fn main() -> Result<(), Box<dyn Error>> {
    let words = env::args().nth(1).unwrap_or_else(|| "a red circle".into());
    let folder = tempfile::tempdir()?;
    let root = folder.path();
    write_pictures(&root.join("pictures"))?;

    // The order matters: the U-Net learns on the latents of the one and the text states of the other, both frozen.
    train(
        StageKind::TextEncoder,
        "text-encoder",
        &text_encoder(root),
        root,
    )?;
    train(
        StageKind::Autoencoder,
        "autoencoder",
        &autoencoder(root),
        root,
    )?;
    let model = train(StageKind::Diffusion, "diffusion", &diffusion(root), root)?;

    // `model` is a folder like any other: `latent generate --model` and Python's diffusers open it too.
    let pipeline = Pipeline::from_pretrained(model)?;
    let drawn = pipeline
        .generate(&Request::new(&words).seed(1))?
        .pictures
        .remove(0);
    drawn
        .resize(4 * SIDE, 4 * SIDE, Filter::Area)?
        .save(Path::new("tiny.png"))?;
    println!("\nwrote tiny.png: \"{words}\", four times as large as it was drawn");
    Ok(())
}

/// Every colour and form at every place, as `0.png` with its caption in `0.txt`, and so on.
fn write_pictures(folder: &Path) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(folder)?;
    let mut count = 0;
    for (colour_name, colour) in COLOURS.iter().copied() {
        for (form_name, form) in FORMS.iter().copied() {
            for centre in PLACES {
                let shape = Shape {
                    form,
                    colour,
                    centre,
                    radius: 0.3,
                };
                draw(&[shape], SIDE)?.save(&folder.join(format!("{count}.png")))?;
                let caption = format!("a {colour_name} {form_name}");
                fs::write(folder.join(format!("{count}.txt")), caption)?;
                count += 1;
            }
        }
    }
    println!("drew {count} pictures of {SIDE}x{SIDE}");
    Ok(())
}

/// Trains one stage as its config says, and returns the folder of the finished model.
fn train(
    kind: StageKind,
    name: &str,
    config: &str,
    root: &Path,
) -> Result<PathBuf, Box<dyn Error>> {
    let path = root.join(format!("{name}.toml"));
    fs::write(&path, config)?;
    let finished = run(kind, &path, &Options::default(), &mut report)?;
    Ok(finished.model.ok_or("the run was stopped before its end")?)
}

/// Prints what a run tells of itself; a progress bar would go here.
fn report(event: &Event) {
    match event {
        Event::Started {
            stage,
            parameters,
            examples,
            device,
            ..
        } => {
            println!("\n{stage}: {parameters} weights, {examples} pictures, on {device}");
        }
        Event::Step {
            step,
            steps,
            loss,
            pictures_per_second,
            ..
        } if step.is_multiple_of(50) || step == steps => {
            println!("  {step:>3} of {steps}: loss {loss:.4}, {pictures_per_second:.0} pictures/s");
        }
        Event::Note(sentence) => println!("  {sentence}"),
        _ => {}
    }
}

/// `[run]`, `[data]` and `[optimizer]`, which every stage's config has.
fn head(root: &Path, name: &str, steps: u64) -> String {
    let (run, pictures) = (root.join(name), root.join("pictures"));
    format!(
        r#"
[run]
folder = {run:?}
steps = {steps}
batch = 16
seed = 1
sample_every = 0

[data]
path = {pictures:?}
size = {SIDE}

[optimizer]
learning_rate = {{ peak = 3e-3, warmup = 20, decay = "cosine" }}
clip = 1.0
ema = {{ decay = 0.98 }}
"#
    )
}

/// A text transformer and an image tower learn to find each other's pairs; the transformer is kept.
fn text_encoder(root: &Path) -> String {
    let model = r#"
[tokenizer]
vocab_size = 600

[text]
hidden_size = 32
intermediate_size = 64
num_hidden_layers = 2
num_attention_heads = 2
max_position_embeddings = 16

[image]
channels = [16, 32]
norm_num_groups = 4
projection_dim = 32
"#;
    head(root, "text-encoder", 100) + model
}

/// 32x32 pictures to 8x8 latents of four channels, and back.
fn autoencoder(root: &Path) -> String {
    let model = r#"
[loss]
l1 = 1.0
l2 = 2.0

[autoencoder_kl]
latent_channels = 4
sample_size = 32
block_out_channels = [16, 32, 32]
down_block_types = ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"]
up_block_types = ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"]
layers_per_block = 1
norm_num_groups = 8
"#;
    head(root, "autoencoder", 700) + model
}

/// Noise to latents, told the text states.
fn diffusion(root: &Path) -> String {
    let frozen = format!(
        "autoencoder = {:?}\ntext_encoder = {:?}\n",
        root.join("autoencoder/model"),
        root.join("text-encoder/model"),
    );
    let model = r#"
[noise]
zero_terminal_snr = true

[loss]
prediction = "v_prediction"

[samples]
steps = 20
guidance = 2.0

[unet]
sample_size = 8
in_channels = 4
out_channels = 4
block_out_channels = [32, 64]
down_block_types = ["DownBlock2D", "CrossAttnDownBlock2D"]
up_block_types = ["CrossAttnUpBlock2D", "UpBlock2D"]
layers_per_block = 1
attention_head_dim = 4
cross_attention_dim = 32
norm_num_groups = 8
"#;
    frozen + &head(root, "diffusion", 1000) + model
}
