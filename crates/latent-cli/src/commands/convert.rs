//! `latent convert`: a model from a folder to one file, and back.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use latent::models::Layout;

use super::export::Weights;
use crate::args::{PredictionFlag, Source};
use crate::commands::open;
use crate::fault::Fault;
use crate::output;
use crate::terminal::Terminal;

/// Write a model in the other layout: a diffusers folder as a checkpoint of one file, or a checkpoint as a folder.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  latent convert ./stable-diffusion-v1-5 v1-5.safetensors
  latent convert v1-5-pruned.ckpt ./v1-5 --weights f16
  latent convert v2-1.safetensors ./v2-1 --prediction v

A file is read by programs that take Stable Diffusion's own checkpoints, a folder by Python's diffusers.
Weights stay as they are stored unless `--weights` rounds them.")]
pub(crate) struct Convert {
    /// A model folder in diffusers layout, a Stable Diffusion checkpoint of one file, or `owner/name` of the hub.
    from: PathBuf,
    /// The file or folder to write.
    to: PathBuf,
    /// How it is written [default: single for a name that ends in .safetensors, else diffusers].
    #[arg(long, value_enum)]
    layout: Option<LayoutFlag>,
    /// How its weights are stored [default: as they are].
    #[arg(long, value_enum)]
    weights: Option<Weights>,
    /// For a checkpoint of one file: a folder in diffusers layout that has its sizes, tokenizer and scheduler.
    #[arg(long, value_name = "DIR")]
    config: Option<PathBuf>,
    /// For a checkpoint of one file: what its network predicts, noise (epsilon) or velocity (v) [default: as the file says].
    #[arg(long, value_enum, value_name = "KIND")]
    prediction: Option<PredictionFlag>,
    #[command(flatten)]
    source: Source,
}

/// A choice of [`Layout`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LayoutFlag {
    /// A folder with a folder for each part, as Python's diffusers has it.
    Diffusers,
    /// One file, as Stable Diffusion was published.
    Single,
}

impl Convert {
    pub(crate) fn run(self, terminal: &Terminal) -> Result<(), Fault> {
        let is_file = self
            .to
            .extension()
            .is_some_and(|ending| ending == "safetensors");
        let layout = match self.layout {
            Some(LayoutFlag::Diffusers) => Layout::Diffusers,
            Some(LayoutFlag::Single) => Layout::Single,
            None if is_file => Layout::Single,
            None => Layout::Diffusers,
        };
        match layout {
            Layout::Diffusers => drop(output::check_new_folder(&self.to)?),
            Layout::Single if !is_file => {
                let what = format!("`{}` is no name for a file of weights", self.to.display());
                return Err(Fault::usage(what).hint("end it in .safetensors"));
            }
            Layout::Single => output::check_writable(&self.to)?,
        }
        let paths = (Some(self.from.as_path()), self.config.as_deref());
        let model = open::folder(paths, self.prediction, &self.source, terminal)?;
        let dtype = self.weights.map(latent::Dtype::from);
        output::whole(|| Ok(model.convert(&self.to, layout, dtype)?))?;
        terminal.wrote(&self.to)
    }
}
