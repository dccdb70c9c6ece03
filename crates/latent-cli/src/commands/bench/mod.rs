//! `latent bench`: measured figures.

mod flops;
mod kernels;
mod models;
mod pixel_vs_latent;
mod training;

use clap::{Args, Subcommand};

use crate::fault::Fault;
use crate::terminal::Terminal;

/// Measure: pixel space against latent space, kernels against the machine's limit, whole networks, training steps.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  latent bench pixel-vs-latent\n  latent bench kernels --json\n  latent bench models\n  latent bench training"
)]
pub(crate) struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    PixelVsLatent(pixel_vs_latent::PixelVsLatent),
    Kernels(kernels::Kernels),
    Models(models::Models),
    Training(training::Training),
}

impl Bench {
    pub(crate) fn run(self, terminal: &Terminal) -> Result<(), Fault> {
        match self.what {
            What::PixelVsLatent(command) => command.run(terminal),
            What::Kernels(command) => command.run(terminal),
            What::Models(command) => command.run(terminal),
            What::Training(command) => command.run(terminal),
        }
    }
}

/// Input of about unit size, the same on every run.
fn numbers(count: usize) -> Vec<f32> {
    (0..count)
        .map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0)
        .collect()
}
