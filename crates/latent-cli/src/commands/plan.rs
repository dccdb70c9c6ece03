//! `latent plan`: what drawing will take of memory and time, before anything runs.

use clap::Args;
use latent::{Pipeline, Plan as Planned, Precision, Request};
use latent_nn::Rates;
use serde_json::{Value, json};

use crate::commands::generate::Generate;
use crate::commands::memory::{self, Way};
use crate::fault::Fault;
use crate::terminal::{Terminal, duration};

/// What `latent plan --help` ends with; the flags of `generate` bring theirs, so the table of commands says it again.
pub(crate) const EXAMPLES: &str = "Examples:
  latent plan                                                    the built-in model
  latent plan \"a fox\" --model ./sd15 --steps 30 --count 4
  latent plan --model ./sdxl.safetensors --width 1536 --height 1024 --max-memory 6GiB
  latent plan --model ./sd15 --rate 2000 --json                  on a machine of 2 TFLOP/s

A plan is for the CPU. Reading a file from the disk for the first time is not in it.";

/// Say what `latent generate` will take of memory and time with the same flags, without running it.
///
/// The request runs through the model's own code while nothing is computed: memory is that of weights as they are
/// packed and of activations, time that of the operations at this machine's speed, which is measured in a second.
#[derive(Debug, Args)]
pub(crate) struct Plan {
    #[command(flatten)]
    generate: Generate,
    /// Speed of products of the machine to plan for, in GFLOP/s [default: this machine's, measured].
    #[arg(long, value_name = "GFLOPS", value_parser = rate)]
    rate: Option<f64>,
}

/// One way to draw, planned.
struct Row {
    name: &'static str,
    precision: Precision,
    plan: Planned,
    seconds: f64,
}

impl Plan {
    pub(crate) fn run(self, terminal: &Terminal) -> Result<(), Fault> {
        let (request, open) = self.generate.planned(terminal)?;
        let rates = |precision: Precision| match self.rate {
            Some(rate) => Rates::stated(rate * 1e9),
            None => Rates::measure(precision),
        };
        let asked = self.generate.precision();
        let mut rows: Vec<Row> = Vec::new();
        let mut pipeline = open(None)?;
        let program = latent::program_bytes();
        let [height, width] = pipeline.size();
        let size = [
            request.width.unwrap_or(width),
            request.height.unwrap_or(height),
        ];
        let mut measured: Option<(Precision, Rates)> = None;
        for Way {
            name,
            economy,
            precision,
        } in memory::ways(asked, pipeline.precision())
        {
            if precision != pipeline.precision() {
                drop(pipeline);
                pipeline = open(Some(precision))?;
            }
            pipeline = pipeline.with_economy(economy);
            let plan = pipeline.plan_over(program, &request)?;
            let known = measured.filter(|(known, _)| *known == precision);
            let (_, rates) =
                *measured.insert(known.unwrap_or_else(|| (precision, rates(precision))));
            if rows.is_empty() {
                stages(&plan, &rates, (&pipeline, &request, size), terminal)?;
            }
            let seconds = plan.seconds(&rates);
            rows.push(Row {
                name,
                precision,
                plan,
                seconds,
            });
        }
        let most = self.generate.memory.max_memory;
        report(&rows, most, terminal)
    }
}

/// The stages of the plan as it is.
fn stages(
    plan: &Planned,
    rates: &Rates,
    (pipeline, request, [width, height]): (&Pipeline, &Request, [usize; 2]),
    terminal: &Terminal,
) -> Result<(), Fault> {
    let precision = pipeline.precision().name();
    let pictures = request.seeds().len();
    if !terminal.json {
        terminal.data(format_args!(
            "{}, {width}x{height}, {pictures} picture{}, {precision} products at {:.0} GFLOP/s\n",
            pipeline.model_name(),
            if pictures == 1 { "" } else { "s" },
            rates.products() / 1e9
        ))?;
        terminal.data(format_args!(
            "{:14} {:>5} {:>9} {:>10} {:>10} {:>10}",
            "stage", "runs", "TFLOP", "each", "in all", "memory"
        ))?;
    }
    for stage in &plan.stages {
        let (seconds, each) = (stage.seconds(rates), stage.seconds_each(rates));
        let line = json!({
            "stage": stage.part.name(), "runs": stage.evaluations, "flops": stage.flops,
            "seconds_each": each, "seconds": seconds, "peak_bytes": stage.peak,
        });
        let text = format!(
            "{:14} {:>5} {:>9.3} {:>10} {:>10} {:>10}",
            stage.part.name(),
            stage.evaluations,
            stage.flops / 1e12,
            in_words(each),
            in_words(seconds),
            memory::size(stage.peak)
        );
        terminal.result(&line, text)?;
    }
    Ok(())
}

/// What each way takes, and which fits.
fn report(rows: &[Row], most: Option<usize>, terminal: &Terminal) -> Result<(), Fault> {
    if !terminal.json {
        terminal.data("\neach way takes less memory than the one before:")?;
    }
    let mut chosen = false;
    let mut least = usize::MAX;
    for (index, row) in rows.iter().enumerate() {
        let peak = row.plan.peak;
        let fits = most.map(|most| peak <= most);
        let first = fits == Some(true) && !chosen;
        chosen |= first;
        let line = json!({
            "way": row.name, "precision": row.precision.name(), "peak_bytes": peak, "seconds": row.seconds,
            "fits": fits.map_or(Value::Null, Value::from), "stages": memory::peaks(&row.plan),
        });
        if index > 0 && peak >= least && !terminal.json {
            continue;
        }
        least = least.min(peak);
        let mark = match (first, fits) {
            (true, _) => "  <- fits",
            (false, Some(false)) => "  too much",
            _ => "",
        };
        let text = format!(
            "{:38} {:>10} {:>10}{mark}",
            row.name,
            memory::size(peak),
            in_words(row.seconds)
        );
        terminal.result(&line, text)?;
    }
    match most {
        Some(most) if !chosen => Err(Fault::usage(format!(
            "nothing fits {}; the least is {}",
            memory::size(most),
            memory::size(least)
        ))
        .hint("draw a smaller picture, or take a smaller model")),
        _ => Ok(()),
    }
}

fn in_words(seconds: f64) -> String {
    if seconds < 1.0 {
        format!("{:.0} ms", 1000.0 * seconds)
    } else if seconds < 100.0 {
        format!("{seconds:.1} s")
    } else {
        duration(seconds)
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(rate),
        _ => Err("a rate is a number of GFLOP/s above 0".to_owned()),
    }
}
