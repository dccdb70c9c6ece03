//! The one training loop: batches in, updates, metrics, checkpoints, sheets, and an exported model at the end.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Instant;

use latent_formats::Picture;
use latent_nn::training::{SideBySide, StepReport};
use latent_nn::{Compute, Exported};
use serde_json::{Map, Value};

use crate::checkpoint::{self, Identity, Saved};
use crate::config::{Run, StageConfig};
use crate::error::{Result, TrainError};
use crate::events::{Event, Finished, Options, Resume};
use crate::metrics::{Metrics, MetricsFile};

/// Batches read ahead of the update that needs them.
const AHEAD: usize = 2;

/// A kind of training; all its random numbers are functions of the config's seed and the step.
pub(crate) trait Stage {
    /// Name in checkpoints, commands and messages.
    const NAME: &'static str;
    /// What makes its batches, in another thread.
    type Loader: Load + 'static;

    /// Trainable numbers.
    fn parameters(&self) -> usize;

    /// Training examples.
    fn examples(&self) -> usize;

    /// What makes the batches.
    fn loader(&self) -> Arc<Self::Loader>;

    /// Learning rate of update `step` (from 0).
    fn learning_rate(&self, step: u64) -> f64;

    /// One update (from 0) from one batch, or the average of several.
    fn update(&mut self, step: u64, batches: Vec<<Self::Loader as Load>::Batch>) -> Result<Update>;

    /// Everything that [`Stage::restore`] needs.
    fn state(&self) -> Vec<Exported>;

    /// Goes on where the checkpoint was written.
    fn restore(&mut self, saved: &Saved) -> Result<()>;

    /// What the averaged model makes now.
    fn sheet(&self) -> Result<Option<Picture>>;

    /// Writes the averaged model as folders that others open.
    fn export(&self, folder: &Path) -> Result<()>;
}

/// Makes batches; a pure function of its number.
pub(crate) trait Load: Send + Sync {
    /// One pass through the model.
    type Batch: Send + 'static;

    /// Batch number `index` of the run.
    fn load(&self, index: u64) -> Result<Self::Batch>;
}

/// Groups of threads for the passes of an update.
pub(crate) fn side_by_side(run: &Run, compute: &Compute) -> Result<SideBySide> {
    SideBySide::new(run.accumulation, compute)
        .map_err(|error| TrainError::Other(format!("no threads for the passes: {error}")))
}

/// What an update found.
pub(crate) struct Update {
    /// What was minimised.
    pub(crate) loss: f64,
    /// Its parts by name.
    pub(crate) parts: Vec<(&'static str, f64)>,
    /// Norms and finiteness of the gradients.
    pub(crate) report: StepReport,
}

/// Trains `stage` to its last update, from the newest checkpoint of its run on.
pub(crate) fn train<S: Stage, C: StageConfig>(
    stage: &mut S,
    config: &C,
    options: &Options,
    device: String,
    progress: &mut dyn FnMut(&Event),
) -> Result<Finished> {
    let run = config.run();
    let identity = Identity {
        stage: S::NAME,
        config: serde_json::to_value(config)
            .map_err(|error| TrainError::Other(error.to_string()))?,
    };
    fs::create_dir_all(&run.folder).map_err(TrainError::io(&run.folder))?;
    checkpoint::sweep(&run.folder)?;
    let from = match options.resume {
        Resume::Fresh => {
            checkpoint::clear(&run.folder)?;
            0
        }
        Resume::Auto => match checkpoint::latest(&run.folder, &identity)? {
            Some((step, saved)) => {
                stage.restore(&saved)?;
                step
            }
            None => 0,
        },
    };
    progress(&Event::Started {
        stage: S::NAME,
        parameters: stage.parameters(),
        examples: stage.examples(),
        from_step: from,
        steps: run.steps,
        device,
    });
    let mut stretch = Stretch {
        run,
        identity,
        metrics: MetricsFile::resume(&run.folder, from)?,
        saved_at: (from > 0).then_some(from),
        window: Window::new(),
        began: Instant::now(),
        recent: VecDeque::new(),
    };
    stretch.go(stage, from, options, progress)
}

/// One stretch of a run.
struct Stretch<'a> {
    run: &'a Run,
    identity: Identity,
    metrics: MetricsFile,
    saved_at: Option<u64>,
    window: Window,
    began: Instant,
    /// Ends of the last updates, for the speed that is shown.
    recent: VecDeque<Instant>,
}

impl Stretch<'_> {
    fn go<S: Stage>(
        &mut self,
        stage: &mut S,
        from: u64,
        options: &Options,
        progress: &mut dyn FnMut(&Event),
    ) -> Result<Finished> {
        let steps = from..self.run.steps;
        let mut batches = read_ahead(&stage.loader(), &steps, self.run.accumulation as u64);
        let mut done = from;
        self.recent.push_back(Instant::now());
        while done < self.run.steps && !options.stopped() {
            let update = stage.update(done, batches.take()?)?;
            done += 1;
            self.check(done, &update)?;
            self.report(done, &update, stage, progress)?;
            self.keep(done, stage, progress)?;
        }
        if self.saved_at != Some(done) && done > 0 {
            self.save(done, stage, progress)?;
        }
        let complete = done >= self.run.steps;
        let model = if complete {
            Some(self.finish(stage, progress)?)
        } else {
            None
        };
        Ok(Finished {
            step: done,
            complete,
            model,
            loss: self.metrics.last().map(|line| line.loss),
        })
    }

    /// An error if the loss or a gradient is not finite.
    fn check(&self, step: u64, update: &Update) -> Result<()> {
        let part = update.parts.iter().find(|(_, value)| !value.is_finite());
        let what = if let Some((name, value)) = part {
            format!("part `{name}` of the loss ({value})")
        } else if !update.loss.is_finite() {
            format!("the loss ({})", update.loss)
        } else if !update.report.finite {
            format!("the gradient's norm ({})", update.report.grad_norm)
        } else {
            return Ok(());
        };
        let last_checkpoint = match checkpoint::list(&self.run.folder)?
            .into_values()
            .next_back()
        {
            Some(path) => format!("`{}`", path.display()),
            None => "the start, for there is no checkpoint yet".into(),
        };
        Err(TrainError::NotFinite {
            step,
            what,
            last_checkpoint,
        })
    }

    fn pictures(&self) -> f64 {
        (self.run.batch * self.run.accumulation) as f64
    }

    fn report<S: Stage>(
        &mut self,
        done: u64,
        update: &Update,
        stage: &S,
        progress: &mut dyn FnMut(&Event),
    ) -> Result<()> {
        self.window.add(update);
        self.recent.push_back(Instant::now());
        if self.recent.len() > 50 {
            self.recent.pop_front();
        }
        let spent = self.recent[self.recent.len() - 1] - self.recent[0];
        let seconds = spent.as_secs_f64() / (self.recent.len() - 1) as f64;
        progress(&Event::Step {
            step: done,
            steps: self.run.steps,
            loss: update.loss,
            pictures_per_second: self.pictures() / seconds.max(1e-9),
            seconds_left: seconds * (self.run.steps - done) as f64,
        });
        if done.is_multiple_of(self.run.log_every) || done == self.run.steps {
            let rate = stage.learning_rate(done - 1);
            let line = self.window.line(done, rate, self.pictures(), self.began);
            self.metrics.append(line)?;
            self.window = Window::new();
        }
        Ok(())
    }

    /// Checkpoint, plot and sheet, where they are due.
    fn keep<S: Stage>(
        &mut self,
        done: u64,
        stage: &S,
        progress: &mut dyn FnMut(&Event),
    ) -> Result<()> {
        if done.is_multiple_of(self.run.checkpoint_every) {
            self.save(done, stage, progress)?;
        }
        if self.run.sample_every > 0
            && done.is_multiple_of(self.run.sample_every)
            && done < self.run.steps
        {
            self.draw(done, stage, progress)?;
        }
        Ok(())
    }

    fn save<S: Stage>(
        &mut self,
        done: u64,
        stage: &S,
        progress: &mut dyn FnMut(&Event),
    ) -> Result<()> {
        let path = checkpoint::save(&self.run.folder, &self.identity, done, &stage.state())?;
        self.saved_at = Some(done);
        progress(&Event::Wrote(path));
        Ok(())
    }

    fn draw<S: Stage>(&self, done: u64, stage: &S, progress: &mut dyn FnMut(&Event)) -> Result<()> {
        if let Some(path) = self.metrics.plot(S::NAME)? {
            progress(&Event::Wrote(path));
        }
        if let Some(sheet) = stage.sheet()? {
            let path = self.run.folder.join(format!("sheet-{done:08}.png"));
            sheet.save(&path)?;
            progress(&Event::Wrote(path));
        }
        // Neither counts as time spent training.
        Ok(())
    }

    fn finish<S: Stage>(&self, stage: &S, progress: &mut dyn FnMut(&Event)) -> Result<PathBuf> {
        self.draw(self.run.steps, stage, progress)?;
        let path = self.run.folder.join("model");
        let partial = self.run.folder.join("model.partial");
        for folder in [&partial, &path] {
            if folder.exists() {
                fs::remove_dir_all(folder).map_err(TrainError::io(folder))?;
            }
            if folder == &partial {
                fs::create_dir_all(folder).map_err(TrainError::io(folder))?;
                stage.export(folder)?;
            }
        }
        fs::rename(&partial, &path).map_err(TrainError::io(&path))?;
        progress(&Event::Wrote(path.clone()));
        Ok(path)
    }
}

/// Sums over the updates of one line of metrics.
struct Window {
    updates: u64,
    loss: f64,
    norm: f64,
    /// Name, sum, and how many updates had this part.
    parts: Vec<(&'static str, f64, u64)>,
    began: Instant,
}

impl Window {
    fn new() -> Self {
        Self {
            updates: 0,
            loss: 0.0,
            norm: 0.0,
            parts: Vec::new(),
            began: Instant::now(),
        }
    }

    fn add(&mut self, update: &Update) {
        self.updates += 1;
        self.loss += update.loss;
        self.norm += update.report.grad_norm;
        for &(name, value) in &update.parts {
            match self.parts.iter_mut().find(|(known, ..)| *known == name) {
                Some((_, sum, updates)) => {
                    *sum += value;
                    *updates += 1;
                }
                None => self.parts.push((name, value, 1)),
            }
        }
    }

    fn line(&self, step: u64, learning_rate: f64, pictures: f64, began: Instant) -> Metrics {
        let count = self.updates as f64;
        let parts: Map<String, Value> = self
            .parts
            .iter()
            .map(|&(name, sum, updates)| (name.to_string(), Value::from(sum / updates as f64)))
            .collect();
        Metrics {
            step,
            loss: self.loss / count,
            parts,
            learning_rate,
            gradient_norm: self.norm / count,
            pictures_per_second: pictures * count / self.began.elapsed().as_secs_f64().max(1e-9),
            seconds: began.elapsed().as_secs_f64(),
        }
    }
}

/// Batches as they come from several loading threads, in the order of their steps.
struct Batches<B> {
    /// Thread `k` loads every step whose distance from the first is `k` more than a multiple of their number.
    receivers: Vec<Receiver<Result<Vec<B>>>>,
    next: usize,
}

impl<B> Batches<B> {
    /// The next step's batches; an error of its own if its thread is gone.
    fn take(&mut self) -> Result<Vec<B>> {
        let receiver = &self.receivers[self.next];
        self.next = (self.next + 1) % self.receivers.len();
        let gone = || TrainError::Other("the reader of batches stopped without a reason".into());
        receiver.recv().unwrap_or_else(|_| Err(gone()))
    }
}

/// Loads the batches of `steps` in other threads, a few ahead. They end when the receivers are dropped.
fn read_ahead<L: Load + 'static>(
    loader: &Arc<L>,
    steps: &std::ops::Range<u64>,
    passes: u64,
) -> Batches<L::Batch> {
    // A quarter of the cores: on a CPU the others compute, and a GPU is kept busy by four.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = (cores / 4).clamp(1, 4);
    let receivers = (0..threads as u64).map(|thread| {
        let (sender, receiver) = sync_channel(AHEAD);
        let (loader, steps) = (loader.clone(), steps.clone());
        std::thread::spawn(move || {
            for step in steps.skip(thread as usize).step_by(threads) {
                let batches = (0..passes)
                    .map(|pass| loader.load(step * passes + pass))
                    .collect();
                if sender.send(batches).is_err() {
                    return;
                }
            }
        });
        receiver
    });
    Batches {
        receivers: receivers.collect(),
        next: 0,
    }
}

#[cfg(test)]
mod tests;
