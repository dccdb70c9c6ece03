//! `latent bench`: measured figures.

mod flops;
mod kernels;
mod pixel_vs_latent;

use clap::{Args, Subcommand};

use crate::fault::Fault;
use crate::terminal::Terminal;

/// Measure: pixel space against latent space, kernels against the machine's limit.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  latent bench pixel-vs-latent\n  latent bench kernels --json")]
pub(crate) struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    PixelVsLatent(pixel_vs_latent::PixelVsLatent),
    Kernels(kernels::Kernels),
}

impl Bench {
    pub(crate) fn run(self, terminal: &Terminal) -> Result<(), Fault> {
        match self.what {
            What::PixelVsLatent(command) => command.run(terminal),
            What::Kernels(command) => command.run(terminal),
        }
    }
}
