//! `latent decode`: latents to pictures.

use std::path::PathBuf;

use clap::Args;
use latent::Latents;

use crate::args::Model;
use crate::commands::open;
use crate::fault::Fault;
use crate::terminal::Terminal;
use crate::{names, output};

/// Turn latents into pictures.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  latent decode z.safetensors -o picture.png
  latent decode z.safetensors --model ./stable-diffusion-v1-5 -o picture.png")]
pub(crate) struct Decode {
    /// A safetensors file with a tensor `latents`, [n, c, h, w].
    latents: PathBuf,
    #[command(flatten)]
    model: Model,
    /// The picture to write; several get numbers.
    #[arg(long, short, value_name = "FILE", default_value = "decoded.png")]
    output: PathBuf,
}

impl Decode {
    pub(crate) fn run(self, terminal: &Terminal) -> Result<(), Fault> {
        output::check_picture(&self.output)?;
        let latents = Latents::open(&self.latents)?;
        let pipeline = open::pipeline(&self.model, terminal)?;
        let pictures = pipeline.decode(&latents)?;
        for (picture, path) in pictures
            .iter()
            .zip(names::numbered(&self.output, pictures.len()))
        {
            output::picture(&path, picture)?;
            terminal.wrote(&path)?;
        }
        Ok(())
    }
}
