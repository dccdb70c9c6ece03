//! `latent about`: licences and attributions.

use clap::Args;
use serde::Serialize;

use crate::fault::Fault;
use crate::terminal::Terminal;

/// Whose pictures taught the built-in model; the text of the repository's `NOTICE`.
const NOTICE: &str = include_str!("../../../../NOTICE");

/// Show version, licences and attributions.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  latent about\n  latent about --json")]
pub(crate) struct About {}

#[derive(Serialize)]
struct Report {
    version: &'static str,
    license: &'static str,
    builtin_model: bool,
    instruction_set: &'static str,
    notice: &'static str,
}

impl About {
    pub(crate) fn run(self, terminal: &Terminal) -> Result<(), Fault> {
        let report = Report {
            version: env!("CARGO_PKG_VERSION"),
            license: "MIT OR Apache-2.0",
            builtin_model: latent::has_builtin(),
            instruction_set: latent_kernels::instruction_set(),
            notice: NOTICE,
        };
        let model = if report.builtin_model {
            "with"
        } else {
            "without"
        };
        let text = format!(
            "latent {} ({model} a built-in model, {} kernels), {}\n\n{}",
            report.version,
            report.instruction_set,
            report.license,
            NOTICE.trim_end()
        );
        terminal.result(&report, text)
    }
}
