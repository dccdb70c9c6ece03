//! The optimiser on a GPU: AdamW's parameters behind one another in one tensor, Muon's matrices in another, so that a
//! step is hundreds of launches and not thousands.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Tensor, TensorData};

use super::gradients::Grads;
use super::optimizer::{AdamW, Memory, Rates, tracking};
use super::stack::Turns;
use crate::ops::{column_sums, overwrite, part};
use crate::parameters::{Path, visit_parameters};
use crate::to_host;

/// Where parts begin: at multiples of so many values, so that a part is a view.
const ALIGNED: usize = 128;

/// Weights and what is remembered of them: those that AdamW moves, and the matrices that Muon moves.
#[derive(Clone, Debug)]
pub(super) struct Flat {
    /// Sorted by path, as [`Grads`] are.
    parts: Vec<Part>,
    vectors: Joined,
    /// Mean square of the vectors' gradients.
    square: Tensor<1>,
    matrices: Joined,
    turns: Option<Turns>,
    /// What the learning rate of each vector and matrix is multiplied with, where some have rates of their own.
    rates: Option<[Tensor<1>; 2]>,
}

/// Parameters behind one another, each from a multiple of [`ALIGNED`] on, and zeros between and behind them.
#[derive(Clone, Debug)]
struct Joined {
    weights: Tensor<1>,
    /// Mean of the gradients, or Muon's momentum.
    mean: Tensor<1>,
    average: Option<Tensor<1>>,
    total: usize,
}

/// One parameter's place.
#[derive(Clone, Debug)]
struct Part {
    path: String,
    shape: Vec<usize>,
    /// Among the matrices.
    turned: bool,
    range: Range<usize>,
}

/// A step's gradients, laid out as the weights are.
pub(super) struct Gathered {
    vectors: Tensor<1>,
    matrices: Tensor<1>,
}

impl Gathered {
    /// Euclidean norm of all gradients as one vector, `[1]`.
    pub(super) fn norm(&self) -> Tensor<1> {
        let squares = [&self.vectors, &self.matrices].map(|all| {
            let rows = all.dims()[0] / ALIGNED;
            let squares = (all.clone() * all.clone()).reshape([rows, ALIGNED]);
            column_sums(squares, 1).reshape([ALIGNED])
        });
        let squares = Tensor::cat(squares.into(), 0).reshape([2 * ALIGNED, 1]);
        column_sums(squares, 1).reshape([1]).sqrt()
    }

    /// All of them times `scale [1]`.
    pub(super) fn scaled(self, scale: Option<Tensor<1>>) -> Self {
        match scale {
            None => self,
            Some(scale) => Self {
                vectors: self.vectors * scale.clone(),
                matrices: self.matrices * scale,
            },
        }
    }
}

/// Values on the way to the device.
#[derive(Default)]
struct Loading {
    weights: Vec<f32>,
    mean: Vec<f32>,
    square: Vec<f32>,
    average: Vec<f32>,
}

impl Loading {
    /// Where the parameter's values lie.
    fn add(&mut self, values: Vec<f32>, memory: Option<&Memory>) -> Range<usize> {
        let count = values.len();
        let range = self.weights.len()..self.weights.len() + count;
        let whole = (range.end).next_multiple_of(ALIGNED);
        let extend = |all: &mut Vec<f32>, part: Option<&Vec<f32>>| {
            if let Some(part) = part {
                all.extend(part);
            }
            all.resize(whole, 0.0);
        };
        extend(&mut self.mean, memory.map(|memory| &memory.mean));
        extend(&mut self.square, memory.map(|memory| &memory.square));
        let average = memory.and_then(|memory| memory.average.as_ref());
        extend(&mut self.average, Some(average.unwrap_or(&values)));
        extend(&mut self.weights, Some(&values));
        range
    }

    /// On the device, with zeros behind all parts, and the mean squares.
    fn upload(mut self, averages: bool, device: &Device) -> (Joined, Tensor<1>) {
        let total = self.weights.len() + ALIGNED;
        for all in [
            &mut self.weights,
            &mut self.mean,
            &mut self.square,
            &mut self.average,
        ] {
            all.resize(total, 0.0);
        }
        let joined = Joined {
            weights: upload(self.weights, device),
            mean: upload(self.mean, device),
            average: averages.then(|| upload(self.average, device)),
            total,
        };
        (joined, upload(self.square, device))
    }
}

impl Flat {
    /// The parameters of `module` that `grads` has gradients of, with what `memory` holds of them; `turned` says which
    /// are Muon's.
    pub(super) fn new<M: Module>(
        module: &M,
        grads: &Grads,
        memory: &BTreeMap<String, Memory>,
        averages: bool,
        turned: impl Fn(&str, &[usize]) -> bool,
    ) -> Self {
        let mut known: HashMap<String, (Vec<usize>, Vec<f32>)> = HashMap::new();
        visit_parameters(module, |path, shape, values| {
            known.insert(path.to_owned(), (shape.to_vec(), values.to_vec()));
        });
        let [mut vectors, mut matrices] = [Loading::default(), Loading::default()];
        let mut parts = Vec::new();
        for path in grads.paths() {
            let Some((shape, values)) = known.remove(path) else {
                continue;
            };
            let turned = turned(path, &shape);
            let loading = if turned { &mut matrices } else { &mut vectors };
            parts.push(Part {
                path: path.to_owned(),
                range: loading.add(values, memory.get(path)),
                shape,
                turned,
            });
        }
        let device = grads.device();
        let (vectors, square) = vectors.upload(averages, &device);
        let (matrices, _) = matrices.upload(averages, &device);
        let turning = parts.iter().filter(|part| part.turned);
        let places: Vec<_> = turning
            .map(|part| (part.range.start, part.shape.clone()))
            .collect();
        let turns = (!places.is_empty()).then(|| Turns::new(&places, matrices.total, &device));
        Self {
            parts,
            vectors,
            square,
            matrices,
            turns,
            rates: None,
        }
    }

    /// The same with learning rates of their own for some parameters.
    pub(super) fn with_rates(mut self, rates: &Rates) -> Self {
        if !rates.are_equal() {
            let device = self.square.device();
            self.rates = Some([false, true].map(|turned| {
                let total = self.joined(turned).total;
                let mut factors = vec![1.0; total];
                for part in self.parts.iter().filter(|part| part.turned == turned) {
                    factors[part.range.clone()].fill(rates.of(&part.path));
                }
                upload(factors, &device)
            }));
        }
        self
    }

    /// Weights shrunk by the share `shrink [1]` and moved against `change`, both times what their learning rates are
    /// multiplied with.
    fn moved(&self, turned: bool, shrink: Tensor<1>, change: Tensor<1>) -> Tensor<1> {
        let weights = self.joined(turned).weights.clone();
        let change = weights.clone() * shrink + change;
        match &self.rates {
            None => weights - change,
            Some(rates) => weights - change * rates[usize::from(turned)].clone(),
        }
    }

    /// The same values in other memory.
    pub(super) fn copied(&self) -> Self {
        Self {
            vectors: self.vectors.copied(),
            square: copied(&self.square),
            matrices: self.matrices.copied(),
            ..self.clone()
        }
    }

    /// The values of `other`, of the same parameters, in this memory.
    pub(super) fn take_over(&mut self, other: &Self) {
        settle(&mut self.square, other.square.clone());
        self.vectors.take_over(&other.vectors);
        self.matrices.take_over(&other.matrices);
    }

    /// Whether `grads` are of the same parameters.
    pub(super) fn fits(&self, grads: &Grads) -> bool {
        grads
            .paths()
            .eq(self.parts.iter().map(|part| part.path.as_str()))
    }

    /// The gradients as the weights lie.
    pub(super) fn gather(&self, mut grads: Grads) -> Gathered {
        let device = grads.device();
        let mut vectors = Tensor::<1>::zeros([self.vectors.total], &device);
        let mut matrices = Tensor::<1>::zeros([self.matrices.total], &device);
        for part in &self.parts {
            if let Some(gradient) = grads.take(&part.path) {
                let all = if part.turned {
                    &mut matrices
                } else {
                    &mut vectors
                };
                // In place, since nothing else holds it.
                let sole = std::mem::replace(all, gradient.clone());
                *all = sole.slice_assign([part.range.clone()], gradient);
            }
        }
        Gathered { vectors, matrices }
    }

    /// One step against the gradients, by what [`Update::numbers`](super::optimizer::Update::numbers) says of it. All that
    /// is remembered stays where it is on the device.
    pub(super) fn step(
        &mut self,
        gradients: Gathered,
        numbers: &Tensor<1>,
        settings: &AdamW,
        momentum: Option<f32>,
    ) {
        let number = |index: usize| numbers.clone().narrow(0, index, 1);
        let [shrink, size, correction, lr, towards] = [0, 1, 2, 3, 4].map(number);
        let gradient = gradients.vectors;
        let vectors = &self.vectors;
        let AdamW {
            beta1, beta2, eps, ..
        } = *settings;
        let square = gradient.clone() * gradient.clone() * (1.0 - beta2);
        let mean = vectors.mean.clone() * beta1 + gradient * (1.0 - beta1);
        let square = self.square.clone() * beta2 + square;
        let deviation = square.clone().sqrt() * correction + eps;
        let change = mean.clone() / deviation * size;
        let weights = self.moved(false, shrink.clone(), change);
        settle(&mut self.square, square);
        self.vectors.settle(weights, mean, towards.clone());
        let (Some(turns), Some(momentum)) = (&self.turns, momentum) else {
            return;
        };
        let matrices = &self.matrices;
        let mean = matrices.mean.clone() * momentum + gradients.matrices.clone();
        let ahead = mean.clone() * momentum + gradients.matrices;
        let change = turns.directions(ahead) * lr;
        let weights = self.moved(true, shrink, change);
        self.matrices.settle(weights, mean, towards);
    }

    /// `module` with the weights of now.
    pub(super) fn put_into<M: Module>(&self, module: M) -> M {
        struct Places<'a> {
            path: Path,
            flat: &'a Flat,
        }
        impl ModuleMapper for Places<'_> {
            fn enter_module(&mut self, name: &str, _: &str) {
                self.path.enter(name);
            }
            fn exit_module(&mut self, _: &str, _: &str) {
                self.path.exit();
            }
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                let path = self.path.join();
                let parts = &self.flat.parts;
                let Ok(place) = parts.binary_search_by(|part| part.path.cmp(&path)) else {
                    return param;
                };
                let found = &parts[place];
                let weights = &self.flat.joined(found.turned).weights;
                param.map(|tensor| {
                    let shape = tensor.dims();
                    let values = part(weights.clone(), found.range.start, found.range.end);
                    tracking(&tensor)(values.reshape(shape))
                })
            }
        }
        module.map(&mut Places {
            path: Path::default(),
            flat: self,
        })
    }

    fn joined(&self, turned: bool) -> &Joined {
        if turned {
            &self.matrices
        } else {
            &self.vectors
        }
    }

    /// What is remembered of each parameter, on the host.
    pub(super) fn memory(&self) -> BTreeMap<String, Memory> {
        let host = |all: &Tensor<1>| to_host(all.clone()).0;
        let square = host(&self.square);
        let [vectors, matrices] = [&self.vectors, &self.matrices]
            .map(|joined| (host(&joined.mean), joined.average.as_ref().map(host)));
        let of = |part: &Part| {
            let (mean, average) = if part.turned { &matrices } else { &vectors };
            let cut = |all: &Vec<f32>| all[part.range.clone()].to_vec();
            let memory = Memory {
                shape: part.shape.clone(),
                turned: part.turned,
                mean: cut(mean),
                square: if part.turned {
                    Vec::new()
                } else {
                    cut(&square)
                },
                average: average.as_ref().map(cut),
            };
            (part.path.clone(), memory)
        };
        self.parts.iter().map(of).collect()
    }
}

impl Joined {
    fn copied(&self) -> Self {
        Self {
            weights: copied(&self.weights),
            mean: copied(&self.mean),
            average: self.average.as_ref().map(copied),
            total: self.total,
        }
    }

    fn take_over(&mut self, other: &Self) {
        settle(&mut self.weights, other.weights.clone());
        settle(&mut self.mean, other.mean.clone());
        if let (Some(average), Some(other)) = (&mut self.average, &other.average) {
            settle(average, other.clone());
        }
    }

    /// New weights and mean, and the average, where one is kept, moved `towards [1]` the weights.
    fn settle(&mut self, weights: Tensor<1>, mean: Tensor<1>, towards: Tensor<1>) {
        settle(&mut self.weights, weights);
        settle(&mut self.mean, mean);
        if let Some(average) = &mut self.average {
            let moved = (self.weights.clone() - average.clone()) * towards;
            let moved = average.clone() + moved;
            settle(average, moved);
        }
    }
}

fn copied(values: &Tensor<1>) -> Tensor<1> {
    values.clone() * 1.0
}

/// Puts new values where the old ones lie, so that a recorded step finds them.
fn settle(place: &mut Tensor<1>, values: Tensor<1>) {
    *place = overwrite(place.clone(), values);
}

fn upload(values: Vec<f32>, device: &Device) -> Tensor<1> {
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::Linear;
    use crate::training::{Optimizer, Step};
    use crate::{Compute, Exported, Init, Precision, export_parameters};

    fn layer() -> (Linear, Compute) {
        let compute = Compute::cpu(Precision::F32).autodiff();
        (Linear::new([5, 3], &mut Init::seeded(&compute, 3)), compute)
    }

    fn gradients(layer: &Linear, compute: &Compute, step: u64) -> Grads {
        let x = (0..10)
            .map(|i| (i as f32 * 0.7 + step as f32).sin())
            .collect();
        let y = layer.forward(compute.tensor(x, [2, 5]));
        Grads::of((y.clone() * y).sum(), layer)
    }

    /// The GPU's way run on the CPU, held against the CPU's kernel.
    #[test]
    fn one_tensor_of_all_parameters_takes_the_same_steps() {
        let settings = AdamW {
            weight_decay: 0.1,
            ..AdamW::default()
        };
        // The bias learns at a rate of its own.
        let own = Rates(vec![("bias".to_owned(), 0.25)]);
        let mut optimizer = Optimizer::new(settings, true).with_rates(own.clone());
        let mut counted = Optimizer::new(settings, true);
        let ((mut apart, compute), (mut joined, _)) = (layer(), layer());
        let first = gradients(&joined, &compute, 1);
        let flat = Flat::new(&joined, &first, &BTreeMap::new(), true, |_, _| false);
        let mut flat = flat.with_rates(&own);
        for step in 1..=5 {
            let how = Step {
                lr: 0.01,
                max_grad_norm: None,
                average_decay: 0.9,
            };
            let grads = gradients(&apart, &compute, step);
            apart = optimizer.step(apart, grads, how).0;
            let gathered = flat.gather(gradients(&joined, &compute, step));
            let numbers = compute.inference().tensor(counted.numbers(how), [5]);
            flat.step(gathered, &numbers, &settings, None);
            joined = flat.put_into(joined);
        }
        let averages = flat
            .memory()
            .into_iter()
            .map(|(path, memory)| (path, memory.average));
        let mut averages: BTreeMap<_, _> = averages.collect();
        close(&export_parameters(&apart), &export_parameters(&joined));
        for expected in export_parameters(&optimizer.averaged(&apart)) {
            let values = averages
                .remove(&expected.path)
                .flatten()
                .expect("an average");
            let found = Exported {
                values,
                ..expected.clone()
            };
            close(&[expected], &[found]);
        }
    }

    fn close(a: &[Exported], b: &[Exported]) {
        for (a, b) in a.iter().zip(b) {
            assert_eq!((&a.path, &a.shape), (&b.path, &b.shape));
            let worst = a
                .values
                .iter()
                .zip(&b.values)
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f32::max);
            assert!(worst < 1e-6, "{}: {worst}", a.path);
        }
    }
}
