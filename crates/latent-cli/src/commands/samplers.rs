//! `latent samplers`: the tables of samplers and schedules.

use clap::Args;
use latent::sampling::{SAMPLERS, SCHEDULES, Sampler, Schedule};
use serde_json::json;

use crate::fault::Fault;
use crate::terminal::Terminal;

/// List the samplers and the schedules.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  latent samplers
  latent samplers --schedules
  latent samplers --json | jq 'select(.name == \"euler\").schedules'

A name of another program works wherever ours does, alone (\"Euler a\", euler_ancestral,
EulerAncestralDiscreteScheduler) or with its schedule (\"DPM++ 2M Karras\").")]
pub(crate) struct Samplers {
    /// Only the schedules.
    #[arg(long)]
    schedules: bool,
}

impl Samplers {
    pub(crate) fn run(self, terminal: &Terminal) -> Result<(), Fault> {
        let names = SAMPLERS
            .iter()
            .map(|row| row.name)
            .chain(SCHEDULES.iter().map(|row| row.name));
        let widest = names.map(str::len).max().unwrap_or(0);
        for row in SAMPLERS.iter().filter(|_| !self.schedules) {
            sampler(row, widest, terminal)?;
        }
        if !self.schedules {
            terminal.note(format_args!("schedules, for --schedule:"));
        }
        for row in SCHEDULES {
            schedule(row, widest, terminal)?;
        }
        Ok(())
    }
}

fn sampler(row: &Sampler, widest: usize, terminal: &Terminal) -> Result<(), Fault> {
    let fitting = SCHEDULES.iter().filter(|schedule| schedule.fits(row));
    let schedules: Vec<&str> = fitting.map(|schedule| schedule.name).collect();
    let line = json!({
        "kind": "sampler", "name": row.name, "about": row.about, "source": row.source, "class": row.class.name(),
        "a1111": row.a1111, "comfyui": row.comfyui, "aliases": row.aliases, "order": row.order,
        "evaluations_per_step": row.evaluations_per_step, "stochastic": row.stochastic, "schedules": schedules,
    });
    let calls = match row.evaluations_per_step {
        1 => "1 call".to_owned(),
        n => format!("{n} calls"),
    };
    let noise = if row.stochastic {
        "fresh noise"
    } else {
        "no fresh noise"
    };
    let names = others(row.a1111, row.comfyui);
    terminal.result(
        &line,
        format_args!(
            "{:widest$}  {} ({})\n{:widest$}  order {}, {calls} a step, {noise}{names}, {}",
            row.name,
            row.about,
            row.source,
            "",
            row.order,
            row.class.name()
        ),
    )
}

fn schedule(row: &Schedule, widest: usize, terminal: &Terminal) -> Result<(), Fault> {
    let fitting = SAMPLERS.iter().filter(|sampler| row.fits(sampler));
    let samplers: Vec<&str> = fitting.map(|sampler| sampler.name).collect();
    let line = json!({
        "kind": "schedule", "name": row.name, "about": row.about, "source": row.source, "a1111": row.a1111,
        "comfyui": row.comfyui, "aliases": row.aliases, "samplers": samplers,
    });
    terminal.result(
        &line,
        format_args!(
            "{:widest$}  {} ({}){}",
            row.name,
            row.about,
            row.source,
            others(row.a1111, row.comfyui)
        ),
    )
}

/// What two other programs call a row.
fn others(a1111: Option<&str>, comfyui: Option<&str>) -> String {
    let a1111 = a1111.map(|name| format!(", A1111 \"{name}\""));
    let comfyui = comfyui.map(|name| format!(", ComfyUI {name}"));
    a1111.unwrap_or_default() + &comfyui.unwrap_or_default()
}
