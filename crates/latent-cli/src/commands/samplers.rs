//! `latent samplers`: the table of samplers.

use clap::Args;
use latent::sampling::SAMPLERS;
use serde_json::json;

use crate::fault::Fault;
use crate::terminal::Terminal;

/// List the samplers.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  latent samplers\n  latent samplers --json")]
pub(crate) struct Samplers {}

impl Samplers {
    pub(crate) fn run(self, terminal: &Terminal) -> Result<(), Fault> {
        let widest = SAMPLERS.iter().map(|row| row.name.len()).max().unwrap_or(0);
        for row in SAMPLERS {
            let line = json!({ "name": row.name, "about": row.about, "source": row.source });
            terminal.result(
                &line,
                format_args!("{:widest$}  {} ({})", row.name, row.about, row.source),
            )?;
        }
        Ok(())
    }
}
