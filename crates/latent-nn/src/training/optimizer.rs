//! AdamW over a whole model, fused with clipping and the average of the weights.

use std::collections::{BTreeMap, HashMap};

use burn::backend::Flex;
use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::Tensor;
use latent_kernels as kernels;

use super::gradients::{Grads, host_primitive, is_host};
use super::state::{OptimizerState, StateError};
use crate::ops::flex::values;
use crate::parameters::{Exported, Path, named_parameters, replaced};
use crate::to_host;

/// Settings of AdamW; the defaults are torch's.
///
/// Source: Loshchilov & Hutter 2019 (arXiv:1711.05101), Algorithm 2.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Memory of the gradients' mean.
    pub beta1: f32,
    /// Memory of the gradients' mean square.
    pub beta2: f32,
    /// Added to the root of the mean square.
    pub eps: f32,
    /// Share of the weights, times the learning rate, taken off each step.
    pub weight_decay: f32,
}

impl Default for AdamW {
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 1e-2,
        }
    }
}

/// What changes from step to step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Learning rate.
    pub lr: f32,
    /// Gradients whose norm is larger are shortened to this.
    pub max_grad_norm: Option<f32>,
    /// Share of the averaged weights that stays; used if the optimiser averages.
    pub average_decay: f32,
}

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Norm of all gradients before clipping.
    pub grad_norm: f64,
    /// Whether they were shortened.
    pub clipped: bool,
    /// `false` if a gradient was infinite or not a number; the step then changed nothing.
    pub finite: bool,
}

/// Values beside a parameter: on the host for the CPU, on the device else.
#[derive(Clone, Debug)]
enum Slot {
    Host(Vec<f32>),
    Device(Tensor<1>),
}

impl Slot {
    fn values(&self) -> Vec<f32> {
        match self {
            Self::Host(values) => values.clone(),
            Self::Device(tensor) => to_host(tensor.clone()).0,
        }
    }

    fn host(&mut self) -> &mut Vec<f32> {
        if let Self::Device(tensor) = self {
            *self = Self::Host(to_host(tensor.clone()).0);
        }
        match self {
            Self::Host(values) => values,
            Self::Device(_) => unreachable!("just moved to the host"),
        }
    }

    fn on_device(&self, like: &Tensor<1>) -> Tensor<1> {
        match self {
            Self::Host(values) => Tensor::from_data(values.as_slice(), &like.device()),
            Self::Device(tensor) => tensor.clone(),
        }
    }
}

/// What the optimiser remembers of one parameter.
#[derive(Clone, Debug)]
struct Memory {
    shape: Vec<usize>,
    mean: Slot,
    square: Slot,
    average: Option<Slot>,
}

/// AdamW with the weights' average, over all parameters that have gradients.
///
/// A parameter without a gradient stays as it is, decay included, as in torch. On the CPU a step is one pass over
/// weight, gradient and memory, in place; the same steps give the same bits for any number of threads.
#[derive(Clone, Debug)]
pub struct Optimizer {
    settings: AdamW,
    averages: bool,
    step: u64,
    memory: BTreeMap<String, Memory>,
}

impl Optimizer {
    /// An optimiser that has taken no step; `averages` keeps an exponential moving average of the weights.
    pub fn new(settings: AdamW, averages: bool) -> Self {
        Self {
            settings,
            averages,
            step: 0,
            memory: BTreeMap::new(),
        }
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// Moves `module`'s parameters against `grads`.
    pub fn step<M: Module>(&mut self, module: M, grads: Grads, step: Step) -> (M, StepReport) {
        let grad_norm = grads.norm();
        if !grad_norm.is_finite() {
            let report = StepReport { grad_norm, clipped: false, finite: false };
            return (module, report);
        }
        // torch's clip_grad_norm_, its 1e-6 included.
        let factor = step
            .max_grad_norm
            .map_or(1.0, |max| (f64::from(max) / (grad_norm + 1e-6)).min(1.0));
        self.step += 1;
        let update = Update {
            rule: kernels::AdamW {
                lr: step.lr,
                beta1: self.settings.beta1,
                beta2: self.settings.beta2,
                eps: self.settings.eps,
                weight_decay: self.settings.weight_decay,
                step: self.step,
            },
            grad_scale: factor as f32,
            average_decay: self.averages.then_some(step.average_decay),
        };
        let mut mapper = Mapper {
            path: Path::default(),
            grads,
            memory: &mut self.memory,
            update,
        };
        let module = module.map(&mut mapper);
        let report = StepReport { grad_norm, clipped: factor < 1.0, finite: true };
        (module, report)
    }

    /// `module` with the averaged weights; parameters that were never trained stay as they are.
    pub fn averaged<M: Module>(&self, module: &M) -> M {
        struct Averages<'a> {
            path: Path,
            memory: &'a BTreeMap<String, Memory>,
        }
        impl ModuleMapper for Averages<'_> {
            fn enter_module(&mut self, name: &str, _: &str) {
                self.path.enter(name);
            }
            fn exit_module(&mut self, _: &str, _: &str) {
                self.path.exit();
            }
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                let memory = self.memory.get(&self.path.join());
                match memory.and_then(|memory| memory.average.as_ref()) {
                    Some(average) => param.map(|tensor| replaced(tensor, average.values())),
                    None => param,
                }
            }
        }
        module.clone().map(&mut Averages {
            path: Path::default(),
            memory: &self.memory,
        })
    }

    /// A copy of everything the optimiser remembers.
    pub fn state(&self) -> OptimizerState {
        let mut tensors = Vec::new();
        for (path, memory) in &self.memory {
            let mut push = |prefix: &str, slot: &Slot| {
                tensors.push(Exported {
                    path: format!("{prefix}.{path}"),
                    shape: memory.shape.clone(),
                    values: slot.values(),
                });
            };
            push("m", &memory.mean);
            push("v", &memory.square);
            if let Some(average) = &memory.average {
                push("ema", average);
            }
        }
        OptimizerState { step: self.step, tensors }
    }

    /// An optimiser that goes on where `state` was taken, to the bit.
    ///
    /// # Errors
    /// [`StateError`] if the state is not that of `module`'s parameters.
    pub fn from_state<M: Module>(
        settings: AdamW,
        averages: bool,
        state: OptimizerState,
        module: &M,
    ) -> Result<Self, StateError> {
        let mut values: HashMap<String, Vec<f32>> =
            state.tensors.into_iter().map(|saved| (saved.path, saved.values)).collect();
        let mut memory = BTreeMap::new();
        for parameter in named_parameters(module) {
            let path = &parameter.path;
            if !["m", "v", "ema"].iter().any(|prefix| values.contains_key(&format!("{prefix}.{path}"))) {
                continue;
            }
            let expected = parameter.shape.iter().product();
            let mut take = |prefix: &str| saved_slot(&mut values, format!("{prefix}.{path}"), expected);
            let (mean, square) = (take("m")?, take("v")?);
            let average = averages.then(|| take("ema")).transpose()?;
            if !averages {
                values.remove(&format!("ema.{path}"));
            }
            let shape = parameter.shape;
            memory.insert(parameter.path, Memory { shape, mean, square, average });
        }
        match values.into_keys().min() {
            Some(name) => Err(StateError::Unknown { name }),
            None => Ok(Self { settings, averages, step: state.step, memory }),
        }
    }
}

fn saved_slot(
    values: &mut HashMap<String, Vec<f32>>,
    name: String,
    expected: usize,
) -> Result<Slot, StateError> {
    match values.remove(&name) {
        Some(saved) if saved.len() == expected => Ok(Slot::Host(saved)),
        Some(saved) => Err(StateError::Length { name, expected, found: saved.len() }),
        None => Err(StateError::Missing { name }),
    }
}

/// One step's rule and factors.
struct Update {
    rule: kernels::AdamW,
    grad_scale: f32,
    /// `None` where no average is kept.
    average_decay: Option<f32>,
}

struct Mapper<'a> {
    path: Path,
    grads: Grads,
    memory: &'a mut BTreeMap<String, Memory>,
    update: Update,
}

impl ModuleMapper for Mapper<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let path = self.path.join();
        let Some(gradient) = self.grads.take(&path) else {
            return param;
        };
        let average = self.update.average_decay.is_some();
        let memory = self
            .memory
            .entry(path)
            .or_insert_with(|| Memory::of(&param, average));
        param.map(|tensor| self.update.apply(tensor, gradient, memory))
    }
}

impl Memory {
    fn of<const D: usize>(param: &Param<Tensor<D>>, averages: bool) -> Self {
        let count = param.shape().num_elements();
        Self {
            shape: param.dims().to_vec(),
            mean: Slot::Host(vec![0.0; count]),
            square: Slot::Host(vec![0.0; count]),
            average: averages.then(|| Slot::Host(to_host(param.val()).0)),
        }
    }
}

impl Update {
    /// The updated tensor, with the gradient requirement of `tensor`.
    fn apply<const D: usize>(
        &self,
        tensor: Tensor<D>,
        gradient: Tensor<1>,
        memory: &mut Memory,
    ) -> Tensor<D> {
        let (tracked, strategy) = (tensor.is_require_grad(), tensor.gradient_checkpointing_strategy());
        let tensor = tensor.without_autodiff();
        let updated = if is_host(&tensor.device()) {
            self.on_host(tensor, gradient, memory)
        } else {
            self.on_device(tensor, gradient, memory)
        };
        let updated = match strategy {
            Some(strategy) => updated.autodiff().with_gradient_checkpointing_strategy(strategy),
            None => updated,
        };
        if tracked { updated.require_grad() } else { updated }
    }

    fn on_host<const D: usize>(
        &self,
        tensor: Tensor<D>,
        gradient: Tensor<1>,
        memory: &mut Memory,
    ) -> Tensor<D> {
        let gradient = host_primitive(gradient);
        // The whole buffer of a sole owner: updated in place.
        let mut weights = host_primitive(tensor).to_contiguous();
        let average = match (&mut memory.average, self.average_decay) {
            (Some(average), Some(decay)) => Some((average.host().as_mut_slice(), decay)),
            _ => None,
        };
        self.rule.step(
            weights.storage_mut::<f32>(),
            values(&gradient),
            memory.mean.host(),
            memory.square.host(),
            average,
            self.grad_scale,
        );
        Tensor::from_primitive::<Flex>(weights)
    }

    fn on_device<const D: usize>(
        &self,
        tensor: Tensor<D>,
        gradient: Tensor<1>,
        memory: &mut Memory,
    ) -> Tensor<D> {
        let kernels::AdamW { lr, beta1, beta2, eps, weight_decay, step } = self.rule;
        let shape = tensor.dims();
        let weights = tensor.reshape([shape.iter().product::<usize>()]);
        let gradient = gradient * self.grad_scale;
        let mean = memory.mean.on_device(&weights) * beta1 + gradient.clone() * (1.0 - beta1);
        let square = memory.square.on_device(&weights) * beta2
            + gradient.clone() * gradient * (1.0 - beta2);
        let correction = |beta: f32| 1.0 - f64::from(beta).powi(i32::try_from(step).unwrap_or(i32::MAX));
        let deviation = square.clone().sqrt() / correction(beta2).sqrt() + eps;
        let size = f64::from(lr) / correction(beta1);
        let weights = weights * (1.0 - f64::from(lr) * f64::from(weight_decay))
            - mean.clone() / deviation * size;
        if let (Some(average), Some(decay)) = (&mut memory.average, self.average_decay) {
            let before = average.on_device(&weights);
            let towards = (weights.clone() - before.clone()) * (1.0 - decay);
            *average = Slot::Device(before + towards);
        }
        memory.mean = Slot::Device(mean);
        memory.square = Slot::Device(square);
        weights.reshape(shape)
    }
}
