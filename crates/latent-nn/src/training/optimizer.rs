//! AdamW over a whole model, fused with clipping and the average of the weights.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use burn::backend::Flex;
use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Tensor, TensorData};
use latent_kernels as kernels;
use latent_kernels::Precision;
use rayon::prelude::*;

use super::flat::Flat;
use super::gradients::{Grads, host_primitive};
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

/// Muon for the matrices between a model's first and last layers; all else stays with AdamW.
///
/// Learning rate and decay are AdamW's. Convolutions count as matrices of `[out, in * height * width]`.
/// Source: Jordan et al. 2024; see [`latent_kernels::Muon`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Muon {
    /// Memory of the gradients' sum.
    pub momentum: f32,
    /// How its own products are computed.
    pub precision: Precision,
}

impl Muon {
    /// Parts of paths whose matrices are tables, or look at or make the model's input and output.
    const NOT: [&'static str; 4] = ["embedding", "conv_in", "conv_out", "quant_conv"];

    /// Whether it moves this parameter.
    fn moves(path: &str, shape: &[usize]) -> bool {
        shape.len() >= 2
            && !path
                .split('.')
                .any(|part| Self::NOT.iter().any(|not| part.contains(not)))
    }
}

/// Learning rates of their own: paths that begin with a name take so many times the step's rate; others take the step's.
///
/// They are torch's parameter groups.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rates(pub Vec<(String, f32)>);

impl Rates {
    /// What the rate of this parameter is multiplied with.
    pub(super) fn of(&self, path: &str) -> f32 {
        let own = self.0.iter().find(|(start, _)| path.starts_with(start));
        own.map_or(1.0, |(_, factor)| *factor)
    }

    /// Whether all parameters take the step's.
    pub(super) fn are_equal(&self) -> bool {
        self.0.iter().all(|(_, factor)| *factor == 1.0)
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
    /// `false` if a gradient was infinite or not a number; the step then changed nothing on the CPU, and on a GPU left
    /// weights that are no numbers.
    pub finite: bool,
}

impl StepReport {
    /// Of a step whose gradients had this norm.
    fn new(grad_norm: f64, max_grad_norm: Option<f32>) -> Self {
        Self {
            grad_norm,
            clipped: clipping(grad_norm, max_grad_norm) < 1.0,
            finite: grad_norm.is_finite(),
        }
    }

    fn not_finite(grad_norm: f64) -> Self {
        Self {
            grad_norm,
            clipped: false,
            finite: false,
        }
    }
}

/// What the optimiser remembers of one parameter.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    pub(super) shape: Vec<usize>,
    pub(super) mean: Vec<f32>,
    /// Whether [`Muon`] moves it; then there is no square.
    pub(super) turned: bool,
    pub(super) square: Vec<f32>,
    pub(super) average: Option<Vec<f32>>,
}

/// See [`Optimizer::keep`].
#[derive(Clone, Debug)]
pub struct Kept(Flat);

/// AdamW with the weights' average, over all parameters that have gradients.
///
/// A parameter without a gradient stays as it is, decay included, as in torch. On the CPU a step is one pass over
/// weight, gradient and memory, in place; the same steps give the same bits for any number of threads. On a GPU all
/// parameters lie in one tensor (`flat.rs`), so that a step is some dozen launches and not thousands.
#[derive(Clone, Debug)]
pub struct Optimizer {
    settings: AdamW,
    muon: Option<Muon>,
    rates: Rates,
    averages: bool,
    step: u64,
    memory: BTreeMap<String, Memory>,
    /// On a GPU, what `memory` holds elsewhere.
    flat: Option<Flat>,
}

impl Optimizer {
    /// An optimiser that has taken no step; `averages` keeps an exponential moving average of the weights.
    pub fn new(settings: AdamW, averages: bool) -> Self {
        Self {
            settings,
            muon: None,
            rates: Rates::default(),
            averages,
            step: 0,
            memory: BTreeMap::new(),
            flat: None,
        }
    }

    /// The same with `muon` for the matrices.
    #[must_use]
    pub fn with_muon(mut self, muon: Option<Muon>) -> Self {
        self.muon = muon;
        self
    }

    /// The same with learning rates of their own for some parameters.
    #[must_use]
    pub fn with_rates(mut self, rates: Rates) -> Self {
        self.rates = rates;
        self
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// Moves `module`'s parameters against `grads`.
    pub fn step<M: Module>(&mut self, module: M, grads: Grads, step: Step) -> (M, StepReport) {
        if grads.on_host() {
            let grad_norm = grads.norm();
            if !grad_norm.is_finite() {
                return (module, StepReport::not_finite(grad_norm));
            }
            let report = StepReport::new(grad_norm, step.max_grad_norm);
            let factor = clipping(grad_norm, step.max_grad_norm);
            let update = self.update(step, factor as f32);
            return (self.step_on_host(module, grads, update), report);
        }
        let numbers = self.numbers(step);
        let numbers = Tensor::from_data(TensorData::from(numbers.as_slice()), &grads.device());
        let (module, norm) = self.step_on_device(module, grads, numbers, step.max_grad_norm);
        (module, Self::report(to_host(norm).0[0], step.max_grad_norm))
    }

    /// What [`Optimizer::step`] would tell of gradients of this norm.
    pub fn report(grad_norm: f32, max_grad_norm: Option<f32>) -> StepReport {
        StepReport::new(f64::from(grad_norm), max_grad_norm)
    }

    /// Counts a step, and gives the numbers that [`Optimizer::step_on_device`] needs of it.
    pub fn numbers(&mut self, step: Step) -> Vec<f32> {
        self.update(step, 1.0).numbers()
    }

    /// Moves `module`'s parameters on a GPU against `grads`, by the [`Optimizer::numbers`] of the step, without waiting for
    /// the device; the gradients' norm `[1]` comes beside. From the second step on weights change where they are.
    ///
    /// # Panics
    /// If there is no gradient.
    pub fn step_on_device<M: Module>(
        &mut self,
        module: M,
        grads: Grads,
        numbers: Tensor<1>,
        max_grad_norm: Option<f32>,
    ) -> (M, Tensor<1>) {
        let mut flat = self.flat_for(&module, &grads);
        let gathered = flat.gather(grads);
        let norm = gathered.norm();
        let scale = max_grad_norm.map(|max| ((norm.clone() + 1e-6).recip() * max).clamp_max(1.0));
        let momentum = self.muon.map(|muon| muon.momentum);
        flat.step(gathered.scaled(scale), &numbers, &self.settings, momentum);
        let module = flat.put_into(module);
        self.flat = Some(flat);
        (module, norm)
    }

    /// Copies of the weights and of what is remembered of them on a GPU; `None` before the first step there.
    pub fn keep(&self) -> Option<Kept> {
        self.flat.as_ref().map(|flat| Kept(flat.copied()))
    }

    /// Brings what was kept up to date, in its memory.
    pub fn keep_in(&self, kept: &mut Kept) {
        if let Some(flat) = &self.flat {
            kept.0.take_over(flat);
        }
    }

    /// Goes on with what was kept, in its memory: `module` with the weights of then. Steps stay counted.
    pub fn go_on_from<M: Module>(&mut self, kept: Kept, module: M) -> M {
        let module = kept.0.put_into(module);
        self.flat = Some(kept.0);
        module
    }

    /// What a step does with gradients times `grad_scale`; it is counted.
    fn update(&mut self, step: Step, grad_scale: f32) -> Update {
        self.step += 1;
        Update {
            rule: kernels::AdamW {
                lr: step.lr,
                beta1: self.settings.beta1,
                beta2: self.settings.beta2,
                eps: self.settings.eps,
                weight_decay: self.settings.weight_decay,
                step: self.step,
            },
            muon: self.muon.map(|muon| kernels::Muon {
                lr: step.lr,
                momentum: muon.momentum,
                weight_decay: self.settings.weight_decay,
                precision: muon.precision,
            }),
            grad_scale,
            average_decay: self.averages.then_some(step.average_decay),
        }
    }

    fn step_on_host<M: Module>(&mut self, module: M, mut grads: Grads, update: Update) -> M {
        let turns = self.muon.is_some();
        for parameter in named_parameters(&module) {
            if grads.has(&parameter.path) && !self.memory.contains_key(&parameter.path) {
                let turned = turns && Muon::moves(&parameter.path, &parameter.shape);
                let memory = Memory::new(parameter.shape, turned);
                self.memory.insert(parameter.path, memory);
            }
        }
        let directions = match &update.muon {
            Some(muon) => self.directions(muon, &mut grads, update.grad_scale),
            None => HashMap::new(),
        };
        module.map(&mut Mapper {
            path: Path::default(),
            grads,
            directions,
            memory: &mut self.memory,
            rates: &self.rates,
            update,
        })
    }

    /// Muon's directions by path. Matrices are many and small, so each is one thread's.
    fn directions(
        &mut self,
        muon: &kernels::Muon,
        grads: &mut Grads,
        grad_scale: f32,
    ) -> HashMap<String, Vec<f32>> {
        let matrices: Vec<_> = self
            .memory
            .iter_mut()
            .filter(|(_, memory)| memory.turned)
            .filter_map(|(path, memory)| {
                let gradient = host_primitive(grads.take(path)?);
                Some((path, memory, gradient))
            })
            .collect();
        matrices
            .into_par_iter()
            .with_max_len(1)
            .map(|(path, memory, gradient)| {
                let (g, rows) = (values(&gradient), memory.shape[0]);
                let direction = muon.direction(g, &mut memory.mean, grad_scale, rows);
                (path.clone(), direction)
            })
            .collect()
    }

    /// The parameters' tensors on the device, made anew if other parameters have gradients now.
    fn flat_for<M: Module>(&mut self, module: &M, grads: &Grads) -> Flat {
        if let Some(flat) = self.flat.take() {
            if flat.fits(grads) {
                return flat;
            }
            self.memory.extend(flat.memory());
        }
        let turns = self.muon.is_some();
        let turned = |path: &str, shape: &[usize]| turns && Muon::moves(path, shape);
        Flat::new(module, grads, &self.memory, self.averages, turned).with_rates(&self.rates)
    }

    /// What is remembered, wherever it lies.
    fn all_memory(&self) -> Cow<'_, BTreeMap<String, Memory>> {
        match &self.flat {
            None => Cow::Borrowed(&self.memory),
            Some(flat) => {
                let mut all = self.memory.clone();
                all.extend(flat.memory());
                Cow::Owned(all)
            }
        }
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
                    Some(average) => param.map(|tensor| replaced(tensor, average.clone())),
                    None => param,
                }
            }
        }
        module.clone().map(&mut Averages {
            path: Path::default(),
            memory: &self.all_memory(),
        })
    }

    /// A copy of everything the optimiser remembers.
    pub fn state(&self) -> OptimizerState {
        let mut tensors = Vec::new();
        for (path, memory) in self.all_memory().iter() {
            let mut push = |prefix: &str, values: &Vec<f32>| {
                if values.is_empty() {
                    return;
                }
                tensors.push(Exported {
                    path: format!("{prefix}.{path}"),
                    shape: memory.shape.clone(),
                    values: values.clone(),
                });
            };
            push("m", &memory.mean);
            push("v", &memory.square);
            if let Some(average) = &memory.average {
                push("ema", average);
            }
        }
        OptimizerState {
            step: self.step,
            tensors,
        }
    }

    /// The optimiser as it was where `state` was taken, to the bit.
    ///
    /// # Errors
    /// [`StateError`] if the state is not that of `module`'s parameters.
    pub fn with_state<M: Module>(
        mut self,
        state: OptimizerState,
        module: &M,
    ) -> Result<Self, StateError> {
        self.step = state.step;
        let mut values: HashMap<String, Vec<f32>> = state
            .tensors
            .into_iter()
            .map(|saved| (saved.path, saved.values))
            .collect();
        for parameter in named_parameters(module) {
            let path = &parameter.path;
            if !["m", "v", "ema"]
                .iter()
                .any(|prefix| values.contains_key(&format!("{prefix}.{path}")))
            {
                continue;
            }
            let expected = parameter.shape.iter().product();
            let mut take =
                |prefix: &str| saved_values(&mut values, format!("{prefix}.{path}"), expected);
            let mean = take("m")?;
            let turned = self.muon.is_some() && Muon::moves(path, &parameter.shape);
            let square = if turned { Vec::new() } else { take("v")? };
            let average = self.averages.then(|| take("ema")).transpose()?;
            if !self.averages {
                values.remove(&format!("ema.{path}"));
            }
            let shape = parameter.shape;
            self.memory.insert(
                parameter.path,
                Memory {
                    shape,
                    mean,
                    turned,
                    square,
                    average,
                },
            );
        }
        match values.into_keys().min() {
            Some(name) => Err(StateError::Unknown { name }),
            None => Ok(self),
        }
    }
}

fn saved_values(
    values: &mut HashMap<String, Vec<f32>>,
    name: String,
    expected: usize,
) -> Result<Vec<f32>, StateError> {
    match values.remove(&name) {
        Some(saved) if saved.len() == expected => Ok(saved),
        Some(saved) => Err(StateError::Length {
            name,
            expected,
            found: saved.len(),
        }),
        None => Err(StateError::Missing { name }),
    }
}

/// One step's rule and factors.
#[derive(Clone)]
pub(super) struct Update {
    pub(super) rule: kernels::AdamW,
    /// For the matrices, where it is used.
    pub(super) muon: Option<kernels::Muon>,
    pub(super) grad_scale: f32,
    /// `None` where no average is kept.
    pub(super) average_decay: Option<f32>,
}

/// What gradients of this norm are multiplied by: torch's `clip_grad_norm_`, its 1e-6 included.
fn clipping(grad_norm: f64, max_grad_norm: Option<f32>) -> f64 {
    max_grad_norm.map_or(1.0, |max| (f64::from(max) / (grad_norm + 1e-6)).min(1.0))
}

impl Update {
    /// What changes from step to step, as `Flat::step` reads it: the share of the weights that goes; of AdamW the size of
    /// the step and one over the root of the mean square's correction; the learning rate; how far averages move.
    ///
    /// Source: Loshchilov & Hutter 2019 (arXiv:1711.05101), Algorithm 2.
    pub(super) fn numbers(&self) -> Vec<f32> {
        let kernels::AdamW {
            lr,
            beta1,
            beta2,
            weight_decay,
            step,
            ..
        } = self.rule;
        let correction =
            |beta: f32| 1.0 - f64::from(beta).powi(i32::try_from(step).unwrap_or(i32::MAX));
        vec![
            (f64::from(lr) * f64::from(weight_decay)) as f32,
            (f64::from(lr) / correction(beta1)) as f32,
            correction(beta2).sqrt().recip() as f32,
            lr,
            1.0 - self.average_decay.unwrap_or(1.0),
        ]
    }
}

struct Mapper<'a> {
    path: Path,
    grads: Grads,
    /// Of the matrices that [`Muon`] moves; their gradients are spent.
    directions: HashMap<String, Vec<f32>>,
    memory: &'a mut BTreeMap<String, Memory>,
    rates: &'a Rates,
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
        let Some(memory) = self.memory.get_mut(&path) else {
            return param;
        };
        let step = match (self.directions.remove(&path), self.grads.take(&path)) {
            (Some(direction), _) => Along::Direction(direction),
            (None, Some(gradient)) => Along::Gradient(Box::new(gradient)),
            (None, None) => return param,
        };
        if self.update.average_decay.is_some() && memory.average.is_none() {
            memory.average = Some(to_host(param.val()).0);
        }
        let update = self.update.at(self.rates.of(&path));
        param.map(|tensor| update.apply(tensor, step, memory))
    }
}

/// What a parameter is moved against.
enum Along {
    /// Its gradient, AdamW's way.
    Gradient(Box<Tensor<1>>),
    /// Muon's direction.
    Direction(Vec<f32>),
}

impl Memory {
    /// Nothing remembered yet; the average begins as the weights when they are first moved.
    fn new(shape: Vec<usize>, turned: bool) -> Self {
        let count = shape.iter().product();
        Self {
            mean: vec![0.0; count],
            square: vec![0.0; if turned { 0 } else { count }],
            shape,
            turned,
            average: None,
        }
    }
}

impl Update {
    /// The update of a parameter whose learning rate is `factor` times the step's.
    fn at(&self, factor: f32) -> Self {
        let mut update = self.clone();
        update.rule.lr *= factor;
        if let Some(muon) = &mut update.muon {
            muon.lr *= factor;
        }
        update
    }

    /// The updated tensor, with the gradient requirement of `tensor`.
    fn apply<const D: usize>(
        &self,
        tensor: Tensor<D>,
        along: Along,
        memory: &mut Memory,
    ) -> Tensor<D> {
        let tracked = tracking(&tensor);
        // The whole buffer of a sole owner: updated in place.
        let mut weights = host_primitive(tensor.without_autodiff()).to_contiguous();
        let average = match (&mut memory.average, self.average_decay) {
            (Some(average), Some(decay)) => Some((average.as_mut_slice(), decay)),
            _ => None,
        };
        let p = weights.storage_mut::<f32>();
        match (along, &self.muon) {
            (Along::Direction(direction), Some(muon)) => {
                muon.step(p, &direction, average, memory.shape[0]);
            }
            (Along::Direction(_), None) => unreachable!("only Muon gives directions"),
            (Along::Gradient(gradient), _) => {
                let (mean, square) = (&mut memory.mean, &mut memory.square);
                let gradient = host_primitive(*gradient);
                let g = values(&gradient);
                self.rule.step(p, g, mean, square, average, self.grad_scale);
            }
        }
        tracked(Tensor::from_primitive::<Flex>(weights))
    }
}

/// Gives a new value the gradient requirement of `tensor`, which need not live until then.
pub(super) fn tracking<const D: usize>(
    tensor: &Tensor<D>,
) -> impl FnOnce(Tensor<D>) -> Tensor<D> + use<D> {
    let tracked = tensor.is_require_grad();
    let strategy = tensor.gradient_checkpointing_strategy();
    move |updated| {
        let updated = match strategy {
            Some(strategy) => updated
                .autodiff()
                .with_gradient_checkpointing_strategy(strategy),
            None => updated,
        };
        if tracked {
            updated.require_grad()
        } else {
            updated
        }
    }
}
