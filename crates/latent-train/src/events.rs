//! What a caller tells a run, and what a run tells its caller.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// How a run is carried out, beside its config.
#[derive(Clone, Debug)]
pub struct Options {
    /// `auto`, `cpu`, `vulkan`, `cuda:1`, ... as for drawing.
    pub device: String,
    /// What to do with checkpoints in the run's folder.
    pub resume: Resume,
    /// Set to true, from a signal handler say, to write a checkpoint after the current update and return.
    pub stop: Arc<AtomicBool>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            device: "auto".into(),
            resume: Resume::Auto,
            stop: Arc::default(),
        }
    }
}

impl Options {
    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// What to do with checkpoints that are already there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resume {
    /// Go on from the newest, if there is one.
    #[default]
    Auto,
    /// Delete them and start at step 0.
    Fresh,
}

/// What happens in a run, in order.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The models stand and the first update comes next.
    Started {
        /// `autoencoder`, `text-encoder`, `diffusion`, `lora`.
        stage: &'static str,
        /// Trainable numbers.
        parameters: usize,
        /// Training examples.
        examples: usize,
        /// Updates done in earlier stretches.
        from_step: u64,
        /// Updates at the end.
        steps: u64,
        /// The device, in words.
        device: String,
    },
    /// Work before the first update: a tokenizer, cached latents.
    Preparing {
        /// What is being made.
        what: &'static str,
        /// Parts done.
        done: usize,
        /// Parts in all.
        total: usize,
    },
    /// An update is done.
    Step {
        /// Updates done, counted from 1.
        step: u64,
        /// Updates at the end.
        steps: u64,
        /// Its loss.
        loss: f64,
        /// Speed, averaged over the last updates.
        pictures_per_second: f64,
        /// Seconds until the end at this speed.
        seconds_left: f64,
    },
    /// A file or folder was written: a checkpoint, plot, sheet, model.
    Wrote(PathBuf),
    /// A sentence worth showing.
    Note(String),
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Updates done.
    pub step: u64,
    /// False if it was stopped before its last update.
    pub complete: bool,
    /// The exported model, when complete.
    pub model: Option<PathBuf>,
    /// Mean loss of the last logged updates.
    pub loss: Option<f64>,
}
