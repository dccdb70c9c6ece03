//! `latent devices`: where this build can compute, and whether it computes rightly there.

use clap::Args;
use latent_nn::OpDifference;
use serde_json::json;

use crate::fault::{Fault, Kind};
use crate::terminal::Terminal;

/// List the devices of this build and machine, or check one against the CPU.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  latent devices
  latent devices --check vulkan        every operation, forward and backward, against the CPU

The first column is what `--device` takes. `auto` takes the first real GPU that answers a probe, else the CPU.")]
pub(crate) struct Devices {
    /// Compare every operation on this device with the CPU.
    #[arg(long, value_name = "DEVICE")]
    check: Option<String>,
}

impl Devices {
    pub(crate) fn run(self, terminal: &Terminal) -> Result<(), Fault> {
        match self.check {
            Some(request) => check(&request, terminal),
            None => list(terminal),
        }
    }
}

fn list(terminal: &Terminal) -> Result<(), Fault> {
    let devices = latent_nn::list_devices();
    let widest = devices
        .iter()
        .map(|device| device.request.len())
        .max()
        .unwrap_or(0);
    for device in &devices {
        let line = json!({ "device": device.request, "name": device.name });
        terminal.result(
            &line,
            format_args!("{:widest$}  {}", device.request, device.name),
        )?;
    }
    Ok(())
}

fn check(request: &str, terminal: &Terminal) -> Result<(), Fault> {
    let selected = latent_nn::select_device(request)?;
    terminal.note(format_args!(
        "checking {}; differences are relative to the largest value",
        selected.name
    ));
    let differences = latent_nn::check_device(&selected.device)?;
    let widest = differences
        .iter()
        .map(|row| row.operation.len())
        .max()
        .unwrap_or(0);
    for row in &differences {
        let line = json!({
            "operation": row.operation, "max_difference": row.max_difference,
            "tolerance": row.tolerance, "is_fine": row.is_fine(),
        });
        let verdict = if row.is_fine() { "fine" } else { "WRONG" };
        let text = format!(
            "{:widest$}  {:>9.2e} of {:.0e}  {verdict}",
            row.operation, row.max_difference, row.tolerance
        );
        terminal.result(&line, text)?;
    }
    let wrong = differences
        .iter()
        .filter(|row| !OpDifference::is_fine(row))
        .count();
    if wrong == 0 {
        return Ok(());
    }
    let what = format!(
        "`{}` computes {wrong} of {} operations wrongly",
        selected.name,
        differences.len()
    );
    Err(Fault::new(Kind::Work, what).hint("use `--device cpu`, and report it with the lines above"))
}
