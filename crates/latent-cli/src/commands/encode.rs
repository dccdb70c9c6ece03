//! `latent encode`: a picture to latents.

use std::path::PathBuf;

use clap::Args;
use latent::Picture;
use serde_json::json;

use crate::args::Model;
use crate::commands::open;
use crate::fault::Fault;
use crate::output;
use crate::terminal::Terminal;

/// Turn a picture into latents.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  latent encode photo.png -o z.safetensors
  latent encode photo.jpg --model ./stable-diffusion-v1-5 --sample --seed 3 -o z.safetensors

The file holds one tensor `latents`, f32, [1, c, h, w], scaled to the spread the U-Net works with.
A side that the autoencoder cannot halve often enough loses up to 7 pixels at its right or bottom.")]
pub(crate) struct Encode {
    /// The picture: PNG, JPEG or WebP.
    picture: PathBuf,
    #[command(flatten)]
    model: Model,
    /// Draw from the encoder's distribution instead of taking its mean.
    #[arg(long)]
    sample: bool,
    /// Seed of that draw.
    #[arg(long, default_value_t = 0, requires = "sample")]
    seed: u64,
    /// The latents to write.
    #[arg(
        long,
        short,
        value_name = "FILE",
        default_value = "latents.safetensors"
    )]
    output: PathBuf,
}

impl Encode {
    pub(crate) fn run(self, terminal: &Terminal) -> Result<(), Fault> {
        output::check_writable(&self.output)?;
        let picture = Picture::open(&self.picture)?;
        let pipeline = open::pipeline(&self.model, terminal)?;
        let picture = fit(&pipeline, picture, terminal)?;
        let latents = match self.sample {
            true => pipeline.encode_sampled(&picture, self.seed)?,
            false => pipeline.encode(&picture)?,
        };
        output::whole(|| Ok(latents.save(&self.output)?))?;
        let shape = latents.shape();
        terminal.note(format_args!(
            "[1, 3, {}, {}] became {shape:?}",
            picture.height(),
            picture.width()
        ));
        terminal.result(
            &json!({ "path": self.output, "shape": shape }),
            self.output.display(),
        )
    }
}

/// Cuts a picture to sides that the autoencoder can halve, and says so.
///
/// # Errors
/// When nothing would be left.
pub(crate) fn fit(
    pipeline: &latent::Pipeline,
    picture: Picture,
    terminal: &Terminal,
) -> Result<Picture, Fault> {
    let factor = pipeline.downsampling();
    let (w, h) = (picture.width(), picture.height());
    let (width, height) = (w / factor * factor, h / factor * factor);
    if (width, height) == (w, h) {
        return Ok(picture);
    }
    if width == 0 || height == 0 {
        let what = format!(
            "the picture is {w}x{h}, smaller than the {factor}x{factor} pixels of one latent"
        );
        return Err(Fault::input(what).hint("take a larger picture"));
    }
    terminal.note(format_args!("cut from {w}x{h} to {width}x{height}"));
    Ok(picture.crop(0, 0, width, height)?)
}
