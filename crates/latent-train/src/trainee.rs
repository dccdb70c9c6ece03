//! A model being trained: its weights, its optimiser, their average.

use burn::module::Module;
use latent_nn::training::{Grads, Optimizer, OptimizerState, Rates, Step, StepReport};
use latent_nn::{Exported, export_parameters, load_parameters, named_parameters};

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

    /// One update; `step` counts from 0.
    pub(crate) fn update(&mut self, step: u64, gradients: Grads) -> StepReport {
        let rates = Step {
            lr: self.settings.learning_rate.at(step, self.steps) as f32,
            max_grad_norm: self.settings.clip,
            average_decay: self.settings.ema.at(self.optimizer.steps()) as f32,
        };
        let Some(model) = self.model.take() else {
            unreachable!("the model is out only inside `update`")
        };
        let (model, report) = self.optimizer.step(model, gradients, rates);
        self.model = Some(model);
        report
    }

    /// Changes the weights beside the optimiser's updates.
    pub(crate) fn change(&mut self, change: impl FnOnce(M) -> M) {
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

/// An optimiser that has taken no step.
fn optimizer(settings: &Optimization, averages: bool) -> Optimizer {
    Optimizer::new(settings.adamw(), averages).with_muon(settings.muon())
}
