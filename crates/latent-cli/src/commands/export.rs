//! `latent export`: a model as a folder.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use latent::Dtype;

use crate::fault::Fault;
use crate::output;
use crate::terminal::Terminal;

/// Write the built-in model, or another with its weights rounded, as a folder in diffusers layout.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  latent export ./latent-model\n  \
                        latent export ./half --model runs/diffusion/model --weights bf16\n  \
                        python -c 'import diffusers; diffusers.StableDiffusionPipeline.from_pretrained(\"./latent-model\")'")]
pub(crate) struct Export {
    /// The folder to make; it must not exist, or be empty.
    folder: PathBuf,
    /// A model folder to write again, in place of the built-in model.
    #[arg(long, short, value_name = "DIR", requires = "weights")]
    model: Option<PathBuf>,
    /// How its weights are stored.
    #[arg(long, value_enum, requires = "model")]
    weights: Option<Weights>,
}

/// Kinds of numbers that weights are stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Weights {
    /// Four bytes, as they are computed with.
    F32,
    /// Two bytes, three decimal digits, the range of f32.
    Bf16,
    /// Two bytes, four decimal digits, up to 65,504.
    F16,
}

impl From<Weights> for Dtype {
    fn from(weights: Weights) -> Self {
        match weights {
            Weights::F32 => Self::F32,
            Weights::Bf16 => Self::Bf16,
            Weights::F16 => Self::F16,
        }
    }
}

impl Export {
    pub(crate) fn run(self, terminal: &Terminal) -> Result<(), Fault> {
        output::check_new_folder(&self.folder)?;
        match (&self.model, self.weights) {
            (Some(model), Some(weights)) => {
                output::whole(|| Ok(latent::export_as(model, &self.folder, weights.into())?))?;
            }
            _ => output::whole(|| Ok(latent::export_builtin(&self.folder)?))?,
        }
        terminal.wrote(&self.folder)
    }
}
