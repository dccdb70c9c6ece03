//! A model being trained: its weights, its optimiser, their average.

use burn::module::Module;
use burn::tensor::Tensor;
use latent_nn::training::{
    Grads, Kept, Optimizer, OptimizerState, Rates, Recorded, Step, StepReport, Work,
    with_own_leaves,
};
use latent_nn::{Compute, Exported, export_parameters, load_parameters, named_parameters, to_host};

use crate::checkpoint::Saved;
use crate::config::Optimization;
use crate::error::{Result, TrainError};

/// A model, its optimiser and the average of its weights, under one name in checkpoints.
pub(crate) struct Trainee<M> {
    name: &'static str,
    /// `None` only while an update moves it.
    model: Option<M>,
    optimizer: Optimizer,
    settings: Optimization,
    rates: Rates,
    /// Updates of the whole run, which the learning rate's decay needs.
    steps: u64,
    averages: bool,
    recording: Recording,
    /// Recordings that failed.
    attempts: u32,
}

/// An update as one launch of a GPU.
enum Recording {
    /// Not yet: the first updates make what later ones find.
    Wanted,
    Made(Recorded),
    /// The device does not record, or must not.
    Refused,
}

/// Updates before the one that is recorded: the first lays the parameters out, the second compiles what is left.
const BEFORE_RECORDING: u64 = 2;

/// Recordings that may fail: memory that one lacked is there for the next.
const ATTEMPTS: u32 = 4;

/// An update as it is recorded: a pass, the way back, a step.
struct RecordedUpdate<'a, M, F> {
    model: &'a mut Option<M>,
    optimizer: &'a mut Optimizer,
    max_grad_norm: Option<f32>,
    pass: F,
    /// Weights to go on from if the recording fails.
    kept: Option<Kept>,
    /// Memory that the update leaves free and the recording may need: it finds none that is new.
    spare: Option<Kept>,
}

impl<M: Module, F: Fn(&M, &[Tensor<1>]) -> Found> Work for RecordedUpdate<'_, M, F> {
    fn run(&mut self, inputs: &[Tensor<1>]) -> Vec<Tensor<1>> {
        let (Some(moved), Some((numbers, inputs))) = (self.model.take(), inputs.split_last())
        else {
            unreachable!("the model is in its place, and the step's numbers were pushed")
        };
        let (mut values, gradients) = outputs(&moved, inputs, &self.pass);
        let numbers = numbers.clone();
        let stepped = self
            .optimizer
            .step_on_device(moved, gradients, numbers, self.max_grad_norm);
        let (moved, norm) = stepped;
        *self.model = Some(moved);
        values.push(norm);
        values
    }

    fn keep(&mut self) {
        self.spare = None;
        if let Some(kept) = &mut self.kept {
            self.optimizer.keep_in(kept);
        }
    }
}

/// What a pass found on the device.
pub(crate) struct Found {
    /// What is minimised, `[1]`.
    pub(crate) loss: Tensor<1>,
    /// What else the host wants to see.
    pub(crate) shown: Vec<Tensor<1>>,
}

/// What an update found, on the host.
pub(crate) struct Learned {
    pub(crate) loss: f64,
    /// Values of [`Found::shown`].
    pub(crate) shown: Vec<Vec<f32>>,
    pub(crate) report: StepReport,
}

impl<M: Module> Trainee<M> {
    /// `averages`: whether the weights' moving average is kept, for drawing and exporting.
    pub(crate) fn new(
        name: &'static str,
        model: M,
        settings: &Optimization,
        steps: u64,
        averages: bool,
    ) -> Self {
        Self {
            name,
            model: Some(model),
            optimizer: optimizer(settings, averages),
            settings: settings.clone(),
            rates: Rates::default(),
            steps,
            averages,
            recording: Recording::Wanted,
            attempts: 0,
        }
    }

    /// The same with learning rates of their own for some parameters.
    pub(crate) fn with_rates(mut self, rates: Rates) -> Self {
        self.optimizer = optimizer(&self.settings, self.averages).with_rates(rates.clone());
        Self { rates, ..self }
    }

    /// The model with gradients.
    pub(crate) fn model(&self) -> &M {
        match &self.model {
            Some(model) => model,
            None => unreachable!("the model is out only inside `update`"),
        }
    }

    /// The model with averaged weights, without gradients. Before the first update: the model as it is.
    pub(crate) fn averaged(&self) -> M {
        self.optimizer.averaged(&self.model().valid())
    }

    fn at(&self, step: u64) -> Step {
        Step {
            lr: self.settings.learning_rate.at(step, self.steps) as f32,
            max_grad_norm: self.settings.clip,
            average_decay: self.settings.ema.at(self.optimizer.steps()) as f32,
        }
    }

    /// One pass over `inputs`: loss, values of [`Found::shown`], gradients.
    pub(crate) fn pass(
        &self,
        inputs: Vec<Vec<f32>>,
        compute: &Compute,
        pass: impl Fn(&M, &[Tensor<1>]) -> Found,
    ) -> (f64, Vec<Vec<f32>>, Grads) {
        let inputs = inputs.into_iter().map(|values| compute.flat(values));
        let inputs: Vec<Tensor<1>> = inputs.collect();
        let (values, gradients) = outputs(self.model(), &inputs, pass);
        // Read after the way back, so that a GPU is not left waiting between the two.
        let values = values.into_iter().map(|value| to_host(value).0);
        let mut values: Vec<Vec<f32>> = values.collect();
        let loss = f64::from(values.remove(0)[0]);
        (loss, values, gradients)
    }

    /// One update by one pass over `inputs`; `step` counts from 0. On a GPU it is recorded once and then run again as a
    /// whole, so `pass` may not look at values.
    pub(crate) fn learn(
        &mut self,
        step: u64,
        mut inputs: Vec<Vec<f32>>,
        compute: &Compute,
        pass: impl Fn(&M, &[Tensor<1>]) -> Found,
    ) -> Learned {
        let rates = self.at(step);
        if let Recording::Made(recorded) = &self.recording {
            inputs.push(self.optimizer.numbers(rates));
            return learned(recorded.run(inputs), rates);
        }
        let wanted = matches!(self.recording, Recording::Wanted) && !compute.is_cpu();
        if !wanted || self.optimizer.steps() < BEFORE_RECORDING {
            let (loss, shown, gradients) = self.pass(inputs, compute, pass);
            let report = self.update(step, gradients);
            return Learned {
                loss,
                shown,
                report,
            };
        }
        inputs.push(self.optimizer.numbers(rates));
        // Both before the update, so that its memory is found beside theirs.
        let (kept, spare) = (self.optimizer.keep(), self.optimizer.keep());
        let mut work = RecordedUpdate {
            model: &mut self.model,
            optimizer: &mut self.optimizer,
            max_grad_norm: rates.max_grad_norm,
            pass,
            kept,
            spare,
        };
        let (first, recorded) = Recorded::new(inputs, compute, &mut work);
        let kept = work.kept.take();
        self.recording = match recorded {
            Ok(recorded) => Recording::Made(recorded),
            Err(reason) => {
                tracing::info!("an update was not recorded: {reason}");
                if let (Some(kept), Some(model)) = (kept, self.model.take()) {
                    self.model = Some(self.optimizer.go_on_from(kept, model));
                }
                self.attempts += 1;
                if self.attempts < ATTEMPTS {
                    Recording::Wanted
                } else {
                    Recording::Refused
                }
            }
        };
        learned(first, rates)
    }

    /// One update; `step` counts from 0.
    pub(crate) fn update(&mut self, step: u64, gradients: Grads) -> StepReport {
        let rates = self.at(step);
        let Some(model) = self.model.take() else {
            unreachable!("the model is out only inside `update`")
        };
        let (model, report) = self.optimizer.step(model, gradients, rates);
        self.model = Some(model);
        report
    }

    /// Changes the weights beside the optimiser's updates.
    pub(crate) fn change(&mut self, change: impl FnOnce(M) -> M) {
        self.recording = Recording::Wanted;
        self.model = self.model.take().map(change);
    }

    /// Everything a checkpoint needs to go on to the bit.
    pub(crate) fn state(&self) -> Vec<Exported> {
        let named = |kind: &str, tensor: Exported| Exported {
            path: format!("{}.{kind}.{}", self.name, tensor.path),
            ..tensor
        };
        let OptimizerState { step, tensors } = self.optimizer.state();
        let mut state: Vec<Exported> = export_parameters(self.model())
            .into_iter()
            .map(|tensor| named("weights", tensor))
            .collect();
        state.extend(tensors.into_iter().map(|tensor| named("optimizer", tensor)));
        state.push(Exported {
            path: format!("{}.updates", self.name),
            shape: vec![2],
            // Two halves, each exact in f32.
            values: vec![(step >> 20) as f32, (step & 0xf_ffff) as f32],
        });
        state
    }

    /// Goes on where [`Trainee::state`] was taken.
    ///
    /// # Errors
    /// The checkpoint is of another model.
    pub(crate) fn restore(&mut self, saved: &Saved) -> Result<()> {
        let known = named_parameters(self.model()).len();
        let weights = format!("{}.weights.", self.name);
        let found = saved.below(&weights)?.len();
        if found != known {
            return Err(saved.refuse(format!(
                "is of another model: `{}` has {found} tensors there and {known} in the config",
                self.name
            )));
        }
        let model = self.model().clone();
        let model = load_parameters(model, |path, shape| {
            saved.tensor(&format!("{weights}{path}"), shape)
        })?;
        let updates = saved.tensor(&format!("{}.updates", self.name), &[2])?;
        let state = OptimizerState {
            step: ((updates[0] as u64) << 20) | updates[1] as u64,
            tensors: saved.below(&format!("{}.optimizer.", self.name))?,
        };
        self.optimizer = optimizer(&self.settings, self.averages)
            .with_rates(self.rates.clone())
            .with_state(state, &model)
            .map_err(|error| saved.refuse(error.to_string()))?;
        self.recording = Recording::Wanted;
        self.model = Some(model);
        Ok(())
    }

    /// Sets the weights before the first update, from a folder say.
    pub(crate) fn start_from(
        &mut self,
        read: impl FnMut(&str, &[usize]) -> std::result::Result<Vec<f32>, TrainError>,
    ) -> Result<()> {
        let model = self.model().clone();
        self.model = Some(load_parameters(model, read)?);
        Ok(())
    }
}

/// Loss and what is shown, without gradients, and the gradients.
fn outputs<M: Module>(
    model: &M,
    inputs: &[Tensor<1>],
    pass: impl Fn(&M, &[Tensor<1>]) -> Found,
) -> (Vec<Tensor<1>>, Grads) {
    let model = with_own_leaves(model);
    let inputs: Vec<Tensor<1>> = inputs
        .iter()
        .map(|input| input.clone().autodiff())
        .collect();
    let Found { loss, shown } = pass(&model, &inputs);
    let all = std::iter::once(loss.clone()).chain(shown);
    let values = all.map(Tensor::without_autodiff).collect();
    (values, Grads::of(loss, &model))
}

/// Of a recorded update's outputs: loss, what is shown, norm.
fn learned(mut outputs: Vec<Vec<f32>>, rates: Step) -> Learned {
    let norm = outputs.pop().map_or(f32::NAN, |norm| norm[0]);
    Learned {
        loss: f64::from(outputs.remove(0)[0]),
        shown: outputs,
        report: Optimizer::report(norm, rates.max_grad_norm),
    }
}

/// An optimiser that has taken no step.
fn optimizer(settings: &Optimization, averages: bool) -> Optimizer {
    Optimizer::new(settings.adamw(), averages).with_muon(settings.muon())
}
