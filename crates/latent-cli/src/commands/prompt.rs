//! `latent prompt`: what the model reads of a prompt.

use std::fmt::Write as _;

use clap::Args;
use latent::models::{Chunk, Grammar};
use latent::{Defaults, PromptReport, ReadPrompt, ReadStage, Request};
use serde_json::{Value, json};

use crate::args::Model;
use crate::commands::compat::{self, CompatFlags};
use crate::commands::open;
use crate::fault::Fault;
use crate::terminal::Terminal;

const EXAMPLES: &str = "Examples:
  latent prompt \"a red apple, 3d style\"
  latent prompt \"빨간 사과\" --json
  latent prompt \"a (red:1.3) fox BREAK in [rain:snow:0.5]\" --compat a1111 --steps 20
  latent prompt \"a (red:1.3) fox\" --weights comfyui";

/// Show how a prompt is read: its tokens, their numbers and weights, chunks, what is cut, what changes at which step.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{}", compat::HELP))]
pub(crate) struct Prompt {
    /// The words.
    prompt: String,
    #[command(flatten)]
    model: Model,
    #[command(flatten)]
    compat: CompatFlags,
    /// Steps of the run, for words that change on the way; samplers that call the network twice a step count twice
    /// [default: the model's].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    steps: Option<u16>,
}

impl Prompt {
    pub(crate) fn run(self, terminal: &Terminal) -> Result<(), Fault> {
        // As `latent generate` takes them out before anything is read.
        let (words, loras) = latent::loras_in_prompt(&self.prompt)?;
        let mut request = Request::new(words);
        self.compat.lay_over(&mut request);
        let (folder, tokenizer) = open::words(&self.model, terminal)?;
        let steps = match self.steps {
            Some(steps) => usize::from(steps),
            None => Defaults::read(&folder)?.steps,
        };
        let report = PromptReport::new(&tokenizer, &request, steps)?;
        for warning in &report.warnings {
            terminal.warn(warning);
        }
        let room = tokenizer.length() - 2;
        let mut text = written(&report, room, steps);
        for (name, strength) in &loras {
            let _ = write!(
                text,
                "\nlora {name}: {} (text encoder {})",
                strength.unet, strength.text
            );
        }
        let mut line = as_json(&report, room);
        line["loras"] = loras.iter().map(|(name, _)| json!(name)).collect();
        terminal.result(&line, text)
    }
}

/// The report as a person reads it.
fn written(report: &PromptReport, room: usize, steps: usize) -> String {
    let mut lines = Vec::new();
    let literal = report.grammar == Grammar::Literal;
    for (k, prompt) in report.prompts.iter().enumerate() {
        if report.prompts.len() > 1 || prompt.share != 1.0 {
            lines.push(format!("prompt {}, share {}", k + 1, prompt.share));
        }
        for stage in &prompt.stages {
            let [first, last] = stage.steps;
            if prompt.stages.len() > 1 {
                lines.push(format!(
                    "steps {first} to {last} of {steps}: {}",
                    stage.text
                ));
            }
            for (c, chunk) in stage.chunks.iter().enumerate() {
                if stage.chunks.len() > 1 {
                    lines.push(format!("chunk {}", c + 1));
                }
                lines.extend(tokens(chunk, literal));
            }
            lines.push(used(stage, room));
        }
    }
    lines.extend(
        report
            .cut
            .iter()
            .map(|cut| format!("cut: {cut}\n`--weights a1111` reads prompts of any length")),
    );
    lines.join("\n")
}

fn tokens(chunk: &Chunk, literal: bool) -> impl Iterator<Item = String> {
    let between = chunk.ids.iter().zip(&chunk.weights).skip(1);
    let each = chunk.pieces.iter().zip(between);
    each.map(move |(piece, (id, weight))| {
        if literal || *weight == 1.0 {
            format!("{id:>6}  {piece}")
        } else {
            format!("{id:>6}  {piece}  × {weight:.4}")
        }
    })
}

fn used(stage: &ReadStage, room: usize) -> String {
    let count: usize = stage.chunks.iter().map(|chunk| chunk.pieces.len()).sum();
    match stage.chunks.len() {
        1 => format!("{count} of {room} tokens used"),
        n => format!("{count} tokens in {n} chunks of {room}"),
    }
}

/// The report for programs. `ids`, `tokens` and `used` are of the first chunk, which is all there is of a literal prompt.
fn as_json(report: &PromptReport, room: usize) -> Value {
    let first = report
        .prompts
        .first()
        .and_then(|prompt| prompt.stages.first());
    let first = first.and_then(|stage| stage.chunks.first());
    json!({
        "ids": first.map(|chunk| &chunk.ids),
        "tokens": first.map(|chunk| &chunk.pieces),
        "used": first.map(|chunk| chunk.pieces.len()),
        "room": room,
        "cut": report.cut,
        "grammar": match report.grammar {
            Grammar::Literal => "literal",
            Grammar::A1111 => "a1111",
            Grammar::ComfyUi => "comfyui",
        },
        "prompts": report.prompts.iter().map(prompt_json).collect::<Vec<_>>(),
        "warnings": report.warnings,
    })
}

fn prompt_json(prompt: &ReadPrompt) -> Value {
    let chunk = |chunk: &Chunk| {
        let tokens = chunk.pieces.len();
        json!({ "ids": chunk.ids, "tokens": chunk.pieces, "weights": &chunk.weights[1..=tokens] })
    };
    let stage = |stage: &ReadStage| {
        json!({
            "steps": stage.steps,
            "text": stage.text,
            "chunks": stage.chunks.iter().map(chunk).collect::<Vec<_>>(),
        })
    };
    json!({ "share": prompt.share, "stages": prompt.stages.iter().map(stage).collect::<Vec<_>>() })
}
