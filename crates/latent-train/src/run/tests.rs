//! The loop with a model of six numbers.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use burn::module::Module;
use latent_nn::layers::Linear;
use latent_nn::training::Grads;
use latent_nn::{Compute, Init, Precision, to_host};
use serde::{Deserialize, Serialize};

use super::*;
use crate::config::{Fault, Optimization};
use crate::random::{Draws, Stream};
use crate::trainee::Trainee;

/// Learns to double its input.
struct Toy {
    trainee: Trainee<Line>,
    compute: Compute,
    loader: Arc<Pairs>,
    /// The update whose loss is not a number.
    breaks_at: Option<u64>,
}

#[derive(Module, Debug)]
struct Line {
    layer: Linear,
}

struct Pairs(u64);

impl Load for Pairs {
    type Batch = Vec<f32>;

    fn load(&self, index: u64) -> Result<Vec<f32>> {
        Ok(Draws::new(self.0, Stream::Noise, index).normal(8))
    }
}

#[derive(Serialize, Deserialize)]
struct ToyConfig {
    run: Run,
    optimizer: Optimization,
}

impl StageConfig for ToyConfig {
    fn run(&self) -> &Run {
        &self.run
    }

    fn check(&self) -> std::result::Result<(), Fault> {
        Ok(())
    }
}

impl Toy {
    fn new(config: &ToyConfig) -> Self {
        let compute = Compute::cpu(Precision::F32).autodiff();
        let model = Line {
            layer: Linear::new([2, 2], &mut Init::seeded(&compute, config.run.seed)),
        };
        Self {
            trainee: Trainee::new("toy", model, &config.optimizer, config.run.steps, true),
            compute,
            loader: Arc::new(Pairs(config.run.seed)),
            breaks_at: None,
        }
    }
}

impl Stage for Toy {
    const NAME: &'static str = "toy";
    type Loader = Pairs;

    fn parameters(&self) -> usize {
        6
    }

    fn examples(&self) -> usize {
        1
    }

    fn loader(&self) -> Arc<Pairs> {
        self.loader.clone()
    }

    fn learning_rate(&self, _: u64) -> f64 {
        0.0
    }

    fn update(&mut self, step: u64, batches: Vec<Vec<f32>>) -> Result<Update> {
        let mut gradients = Grads::default();
        let mut loss = 0.0;
        for batch in batches {
            let x = self.compute.tensor::<2>(batch, [4, 2]);
            let wanted = x.clone() * 2.0;
            let error = (self.trainee.model().layer.forward(x) - wanted)
                .powf_scalar(2.0)
                .mean();
            loss += f64::from(to_host(error.clone()).0[0]);
            gradients.add(Grads::of(error, self.trainee.model()));
        }
        if self.breaks_at == Some(step) {
            gradients.scale(f32::NAN);
        }
        let report = self.trainee.update(step, gradients);
        Ok(Update {
            loss,
            parts: vec![("square", loss)],
            report,
        })
    }

    fn state(&self) -> Vec<Exported> {
        self.trainee.state()
    }

    fn restore(&mut self, saved: &Saved) -> Result<()> {
        self.trainee.restore(saved)
    }

    fn sheet(&self) -> Result<Option<Picture>> {
        Ok(None)
    }

    fn export(&self, folder: &Path) -> Result<()> {
        let values = to_host(self.trainee.averaged().layer.weight.val()).0;
        fs::write(folder.join("weights"), format!("{values:?}")).map_err(TrainError::io(folder))
    }
}

fn config(folder: PathBuf) -> ToyConfig {
    let text = format!(
        "[run]\nfolder = {folder:?}\nsteps = 23\nbatch = 4\naccumulation = 2\nseed = 3\ncheckpoint_every = 5\n\
         log_every = 4\n[optimizer]\nlearning_rate = {{ peak = 0.05, warmup = 3 }}\nclip = 1.0\n"
    );
    StageConfig::parse(&text, Path::new("toy.toml")).expect("a config")
}

fn go(
    stage: &mut Toy,
    config: &ToyConfig,
    options: &Options,
    progress: &mut dyn FnMut(&Event),
) -> Result<Finished> {
    train(stage, config, options, "the CPU".into(), progress)
}

/// Trains until `stop`, as if killed there after its checkpoint, then to the end in a new process's state.
fn in_two_stretches(folder: PathBuf, stop: u64) -> Vec<Exported> {
    let config = config(folder);
    let options = Options::default();
    let flag = options.stop.clone();
    let mut first = Toy::new(&config);
    let finished = go(&mut first, &config, &options, &mut |event| {
        if matches!(event, Event::Step { step, .. } if *step == stop) {
            flag.store(true, Ordering::Relaxed);
        }
    });
    assert!(!finished.expect("stopped").complete);
    let mut second = Toy::new(&config);
    let finished = go(&mut second, &config, &Options::default(), &mut |_| {}).expect("trained");
    assert!(finished.complete && finished.step == 23);
    second.state()
}

#[test]
fn a_run_stopped_anywhere_and_resumed_ends_with_the_same_bits() {
    let folder = tempfile::tempdir().expect("a folder");
    let whole = folder.path().join("whole");
    let config = config(whole);
    let mut stage = Toy::new(&config);
    let finished = go(&mut stage, &config, &Options::default(), &mut |_| {}).expect("trained");
    assert!(finished.complete);
    let expected = stage.state();
    for stop in [1, 5, 7, 22] {
        assert_eq!(
            in_two_stretches(folder.path().join(format!("at-{stop}")), stop),
            expected,
            "stopped at {stop}"
        );
    }
}

#[test]
fn a_run_killed_between_checkpoints_goes_back_to_the_last_and_ends_the_same() {
    let folder = tempfile::tempdir().expect("a folder");
    let [whole, killed] = ["whole", "killed"].map(|name| config(folder.path().join(name)));
    let mut expected = Toy::new(&whole);
    go(&mut expected, &whole, &Options::default(), &mut |_| {}).expect("trained");
    let mut first = Toy::new(&killed);
    let step = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        go(&mut first, &killed, &Options::default(), &mut |event| {
            assert!(!matches!(event, Event::Step { step: 13, .. }), "killed");
        })
    }));
    assert!(step.is_err(), "the panic stands for a kill at step 13");
    let mut second = Toy::new(&killed);
    let mut from = 0;
    go(&mut second, &killed, &Options::default(), &mut |event| {
        if let Event::Started { from_step, .. } = event {
            from = *from_step;
        }
    })
    .expect("trained");
    assert_eq!(from, 10);
    assert_eq!(second.state(), expected.state());
    let steps = |config: &ToyConfig| -> Vec<(u64, f64)> {
        let lines = crate::metrics::read(&config.run.folder.join("metrics.jsonl")).expect("read");
        lines
            .iter()
            .map(|line| (line.step, line.learning_rate))
            .collect()
    };
    assert_eq!(steps(&killed), steps(&whole));
}

#[test]
fn training_brings_the_loss_down_and_exports_the_model() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path().join("run"));
    let mut losses = Vec::new();
    let finished = go(
        &mut Toy::new(&config),
        &config,
        &Options::default(),
        &mut |event| {
            if let Event::Step { loss, .. } = event {
                losses.push(*loss);
            }
        },
    )
    .expect("trained");
    assert!(
        losses[20..].iter().sum::<f64>() < 0.5 * losses[..3].iter().sum::<f64>(),
        "{losses:?}"
    );
    assert!(
        finished
            .model
            .is_some_and(|model| model.join("weights").exists())
    );
}

#[test]
fn a_gradient_that_is_no_number_stops_the_run_and_names_step_and_checkpoint() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path().join("run"));
    let mut stage = Toy::new(&config);
    stage.breaks_at = Some(11);
    let error = go(&mut stage, &config, &Options::default(), &mut |_| {})
        .expect_err("stopped")
        .to_string();
    assert!(
        error.contains("step 12") && error.contains("checkpoint-00000010"),
        "{error}"
    );
}

#[test]
fn a_fresh_start_forgets_the_checkpoints() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path().join("run"));
    go(
        &mut Toy::new(&config),
        &config,
        &Options::default(),
        &mut |_| {},
    )
    .expect("trained");
    let fresh = Options {
        resume: Resume::Fresh,
        ..Options::default()
    };
    let mut updates = 0;
    go(&mut Toy::new(&config), &config, &fresh, &mut |event| {
        updates += u64::from(matches!(event, Event::Step { .. }));
    })
    .expect("trained");
    assert_eq!(updates, 23);
}
