//! `latent train`: the three stages, and LoRAs.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Args, Subcommand};
use latent_train::{Event, Finished, Options, Resume, StageKind};
use serde_json::json;

use crate::fault::{Fault, Kind};
use crate::stop;
use crate::terminal::{Meter, Terminal, duration, thousands};

/// Train a stage on pictures with captions.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  latent train text-encoder configs/text-encoder.toml
  latent train autoencoder configs/autoencoder.toml
  latent train diffusion configs/diffusion.toml --device cpu
  latent train diffusion configs/diffusion.toml --fresh      from step 0, checkpoints are deleted
  latent train lora configs/lora.toml                        then: latent generate … --lora runs/dog/model/dog.safetensors
  latent train lora configs/few-steps-lora.toml              a LoRA for four steps without guidance

A run goes on from its newest checkpoint, to the bit: Ctrl-C writes one and stops, the same command resumes.
The run's folder gets metrics.jsonl, loss.png, sample sheets, checkpoints, and at the end model/.")]
pub(crate) struct Train {
    #[command(subcommand)]
    stage: Stage,
}

#[derive(Debug, Subcommand)]
enum Stage {
    /// Pictures to latents and back: `autoencoder_kl`, `vq_model` or `simple`.
    Autoencoder(Run),
    /// Words to text states, with an image tower beside it; also makes the judge of `latent eval`.
    TextEncoder(Run),
    /// Noise to latents; needs a trained autoencoder, and for words a trained text encoder.
    Diffusion(Run),
    /// A LoRA on any Stable Diffusion 1.x, 2.x or XL model, written for kohya's, A1111's and ComfyUI's readers and for
    /// diffusers.
    Lora(Run),
}

#[derive(Debug, Args)]
struct Run {
    /// The stage's config, a TOML file.
    config: PathBuf,
    /// Where to compute: auto, cpu, cuda, metal or vulkan; the last three also with an index, as in cuda:1.
    #[arg(
        long,
        value_name = "DEVICE",
        default_value = "auto",
        env = "LATENT_DEVICE"
    )]
    device: String,
    /// Delete the run's checkpoints and start at step 0.
    #[arg(long)]
    fresh: bool,
}

impl Train {
    pub(crate) fn run(self, terminal: &Terminal) -> Result<(), Fault> {
        let (kind, run) = match self.stage {
            Stage::Autoencoder(run) => (StageKind::Autoencoder, run),
            Stage::TextEncoder(run) => (StageKind::TextEncoder, run),
            Stage::Diffusion(run) => (StageKind::Diffusion, run),
            Stage::Lora(run) => (StageKind::Lora, run),
        };
        let options = Options {
            device: run.device,
            resume: if run.fresh {
                Resume::Fresh
            } else {
                Resume::Auto
            },
            ..Options::default()
        };
        let stop = options.stop.clone();
        let mut watcher = Watcher::new(terminal, &stop);
        let finished = latent_train::run(kind, &run.config, &options, &mut |event| {
            watcher.hear(event)
        })?;
        drop(watcher);
        report(&finished, terminal)
    }
}

/// Shows events, and passes Ctrl-C on.
struct Watcher<'a> {
    meter: Meter,
    preparing: Option<(&'static str, Meter)>,
    terminal: &'a Terminal,
    stop: &'a AtomicBool,
}

impl<'a> Watcher<'a> {
    fn new(terminal: &'a Terminal, stop: &'a AtomicBool) -> Self {
        Self {
            meter: terminal.meter("steps"),
            preparing: None,
            terminal,
            stop,
        }
    }

    fn hear(&mut self, event: &Event) {
        if stop::asked() && !self.stop.swap(true, Ordering::Relaxed) {
            self.meter
                .note("stopping: a checkpoint is written first; Ctrl-C again ends at once");
        }
        match event {
            Event::Started {
                stage,
                parameters,
                examples,
                from_step,
                steps,
                device,
            } => {
                self.preparing = None;
                let from = if *from_step > 0 {
                    format!(", going on after step {from_step}")
                } else {
                    String::new()
                };
                self.meter.note(format_args!(
                    "{stage}: {} parameters, {examples} pictures, {steps} steps on {device}{from}",
                    thousands(*parameters)
                ));
            }
            Event::Preparing { what, done, total } => self.prepare(what, *done, *total),
            Event::Step {
                step,
                steps,
                loss,
                pictures_per_second,
                seconds_left,
            } => {
                let left = duration(*seconds_left);
                let words = format!(
                    "steps · loss {loss:.4} · {pictures_per_second:.1} pictures/s · {left} left"
                );
                self.meter.show(*step, *steps, &words);
            }
            Event::Wrote(path) => self.meter.note(format_args!("wrote {}", path.display())),
            Event::Note(text) => self.meter.note(text),
            _ => {}
        }
    }

    fn prepare(&mut self, what: &'static str, done: usize, total: usize) {
        if self
            .preparing
            .as_ref()
            .is_none_or(|(known, _)| *known != what)
        {
            self.preparing = Some((what, self.terminal.meter(what)));
        }
        if let Some((_, meter)) = &self.preparing {
            meter.at(done as u64, total as u64);
        }
    }
}

fn report(finished: &Finished, terminal: &Terminal) -> Result<(), Fault> {
    let Some(model) = &finished.model else {
        let what = format!(
            "stopped after step {}, a checkpoint is written",
            finished.step
        );
        return Err(Fault::new(Kind::Stopped, what).hint("the same command goes on from here"));
    };
    let line = json!({ "path": model, "step": finished.step, "loss": finished.loss });
    terminal.result(&line, model.display())
}
