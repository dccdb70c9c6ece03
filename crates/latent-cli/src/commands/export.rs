//! `latent export`: the built-in model as a folder.

use std::path::PathBuf;

use clap::Args;

use crate::fault::Fault;
use crate::output;
use crate::terminal::Terminal;

/// Write the built-in model as a folder in diffusers layout.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  latent export ./latent-model\n  \
                        python -c 'import diffusers; diffusers.StableDiffusionPipeline.from_pretrained(\"./latent-model\")'")]
pub(crate) struct Export {
    /// The folder to make; it must not exist, or be empty.
    folder: PathBuf,
}

impl Export {
    pub(crate) fn run(self, terminal: &Terminal) -> Result<(), Fault> {
        output::check_new_folder(&self.folder)?;
        output::whole(|| Ok(latent::export_builtin(&self.folder)?))?;
        terminal.wrote(&self.folder)
    }
}
