//! The optimiser on a GPU: AdamW's parameters behind one another in one tensor, Muon's matrices by their shapes, so that a
//! step is hundreds of launches and not thousands.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Tensor, TensorData};
use latent_kernels as kernels;

use super::gradients::Grads;
use super::optimizer::{Memory, Update, tracking};
use super::stack::{Stack, matrix, squares};
use crate::parameters::{Path, visit_parameters};
use crate::to_host;

/// Weights and what is remembered of them, each as one tensor; the matrices that Muon moves by their shapes.
#[derive(Clone, Debug)]
pub(super) struct Flat {
    /// Sorted by path, as [`Grads`] are.
    parts: Vec<Part>,
    vectors: Option<Vectors>,
    stacks: Vec<Stack>,
}

/// What AdamW moves, behind one another.
#[derive(Clone, Debug)]
struct Vectors {
    weights: Tensor<1>,
    mean: Tensor<1>,
    square: Tensor<1>,
    average: Option<Tensor<1>>,
}

/// One parameter's place.
#[derive(Clone, Debug)]
struct Part {
    path: String,
    shape: Vec<usize>,
    place: Place,
}

#[derive(Clone, Debug)]
enum Place {
    /// In [`Vectors`].
    Range(Range<usize>),
    /// The stack, and which of its members.
    Member(usize, usize),
}

/// A step's gradients, laid out as the weights are.
pub(super) struct Gathered {
    vectors: Option<Tensor<1>>,
    stacks: Vec<Tensor<3>>,
}

impl Gathered {
    /// Euclidean norm of all gradients as one vector; waits for the device.
    pub(super) fn norm(&self) -> f64 {
        let vectors = self.vectors.iter();
        let mut sums: Vec<Tensor<1>> = vectors
            .map(|all| (all.clone() * all.clone()).sum())
            .collect();
        sums.extend(self.stacks.iter().map(|all| {
            let each = squares(all.clone());
            let count = each.dims()[0];
            each.reshape([count])
        }));
        let sums = to_host(Tensor::cat(sums, 0)).0;
        sums.into_iter().map(f64::from).sum::<f64>().sqrt()
    }
}

/// A parameter's values and what is remembered of it, on the way to the device.
struct Found<'a> {
    path: &'a str,
    shape: Vec<usize>,
    values: Vec<f32>,
    memory: Option<&'a Memory>,
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
        let (mut matrices, mut others) = (BTreeMap::<[usize; 2], Vec<Found>>::new(), Vec::new());
        for path in grads.paths() {
            let Some((shape, values)) = known.remove(path) else {
                continue;
            };
            let turns = turned(path, &shape);
            let found = Found {
                path,
                shape,
                values,
                memory: memory.get(path),
            };
            match turns {
                true => matrices.entry(matrix(&found.shape)).or_default().push(found),
                false => others.push(found),
            }
        }
        let device = grads.device();
        let mut flat = Self {
            parts: Vec::new(),
            vectors: None,
            stacks: Vec::new(),
        };
        flat.put_vectors(others, averages, &device);
        for (shape, members) in matrices {
            flat.put_stack(shape, members, averages, &device);
        }
        flat.parts.sort_by(|a, b| a.path.cmp(&b.path));
        flat
    }

    fn put_vectors(&mut self, all: Vec<Found>, averages: bool, device: &Device) {
        if all.is_empty() {
            return;
        }
        let [mut weights, mut mean, mut square, mut average] = [const { Vec::new() }; 4];
        for found in all {
            let count = found.values.len();
            let range = weights.len()..weights.len() + count;
            let zeros = || vec![0.0; count];
            let before = found.memory;
            mean.extend(before.map_or_else(zeros, |memory| memory.mean.clone()));
            square.extend(before.map_or_else(zeros, |memory| memory.square.clone()));
            let remembered = before.and_then(|memory| memory.average.clone());
            average.extend(remembered.unwrap_or_else(|| found.values.clone()));
            weights.extend(found.values);
            self.parts.push(Part {
                path: found.path.to_owned(),
                shape: found.shape,
                place: Place::Range(range),
            });
        }
        self.vectors = Some(Vectors {
            weights: upload(weights, device),
            mean: upload(mean, device),
            square: upload(square, device),
            average: averages.then(|| upload(average, device)),
        });
    }

    fn put_stack(
        &mut self,
        shape: [usize; 2],
        members: Vec<Found>,
        averages: bool,
        device: &Device,
    ) {
        let stack = self.stacks.len();
        let mut values = Vec::new();
        for (index, found) in members.into_iter().enumerate() {
            values.push((found.values, found.memory));
            self.parts.push(Part {
                path: found.path.to_owned(),
                shape: found.shape,
                place: Place::Member(stack, index),
            });
        }
        self.stacks
            .push(Stack::new(shape, &values, averages, device));
    }

    /// Whether `grads` are of the same parameters.
    pub(super) fn fits(&self, grads: &Grads) -> bool {
        grads
            .paths()
            .eq(self.parts.iter().map(|part| part.path.as_str()))
    }

    /// The gradients as the weights lie.
    pub(super) fn gather(&self, mut grads: Grads) -> Gathered {
        let mut vectors = Vec::new();
        let mut members: Vec<Vec<(usize, Tensor<1>)>> = vec![Vec::new(); self.stacks.len()];
        for part in &self.parts {
            let Some(gradient) = grads.take(&part.path) else {
                continue;
            };
            match &part.place {
                Place::Range(range) => vectors.push((range.start, gradient)),
                Place::Member(stack, index) => members[*stack].push((*index, gradient)),
            }
        }
        let in_order = |mut parts: Vec<(usize, Tensor<1>)>| -> Vec<Tensor<1>> {
            parts.sort_by_key(|(place, _)| *place);
            parts.into_iter().map(|(_, part)| part).collect()
        };
        let stacks = self.stacks.iter().zip(members);
        Gathered {
            stacks: stacks
                .map(|(stack, members)| stack.gather(in_order(members)))
                .collect(),
            vectors: (!vectors.is_empty()).then(|| Tensor::cat(in_order(vectors), 0)),
        }
    }

    /// One step against the gradients.
    ///
    /// # Panics
    /// If there are stacks and the update has no Muon.
    pub(super) fn step(&mut self, gradients: Gathered, update: &Update) {
        if let (Some(vectors), Some(gradient)) = (&mut self.vectors, gradients.vectors) {
            vectors.step(gradient, update);
        }
        for (stack, gradients) in self.stacks.iter_mut().zip(gradients.stacks) {
            let Some(muon) = &update.muon else {
                unreachable!("only Muon's matrices are in stacks");
            };
            stack.step(gradients, muon, update.grad_scale, update.average_decay);
        }
    }

    /// The weights of a part, flat.
    fn values(&self, part: &Part) -> Tensor<1> {
        match (&part.place, &self.vectors) {
            (Place::Range(range), Some(vectors)) => {
                vectors.weights.clone().slice([range.clone()])
            }
            (Place::Range(_), None) => unreachable!("a part without its tensor"),
            (Place::Member(stack, index), _) => self.stacks[*stack].member(*index),
        }
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
                let values = self.flat.values(&parts[place]);
                param.map(|tensor| {
                    let shape = tensor.dims();
                    tracking(&tensor)(values.reshape(shape))
                })
            }
        }
        module.map(&mut Places {
            path: Path::default(),
            flat: self,
        })
    }

    /// What is remembered of each parameter, on the host.
    pub(super) fn memory(&self) -> BTreeMap<String, Memory> {
        let host = |all: &Tensor<1>| to_host(all.clone()).0;
        let vectors = self.vectors.as_ref().map(|vectors| {
            let average = vectors.average.as_ref().map(host);
            (host(&vectors.mean), host(&vectors.square), average)
        });
        let stacks: Vec<_> = self.stacks.iter().map(Stack::memory).collect();
        let of = |part: &Part| {
            let count: usize = part.shape.iter().product();
            let (range, mean, square, average, turned) = match (&part.place, &vectors) {
                (Place::Range(range), Some((mean, square, average))) => {
                    (range.clone(), mean, Some(square), average, false)
                }
                (Place::Range(_), None) => unreachable!("a part without its tensor"),
                (Place::Member(stack, index), _) => {
                    let (momentum, average) = &stacks[*stack];
                    (index * count..(index + 1) * count, momentum, None, average, true)
                }
            };
            let cut = |all: &Vec<f32>| all[range.clone()].to_vec();
            let memory = Memory {
                shape: part.shape.clone(),
                turned,
                mean: cut(mean),
                square: square.map_or_else(Vec::new, cut),
                average: average.as_ref().map(cut),
            };
            (part.path.clone(), memory)
        };
        self.parts.iter().map(of).collect()
    }
}

impl Vectors {
    /// Source: Loshchilov & Hutter 2019 (arXiv:1711.05101), Algorithm 2.
    fn step(&mut self, gradient: Tensor<1>, update: &Update) {
        let kernels::AdamW {
            lr,
            beta1,
            beta2,
            eps,
            weight_decay,
            step,
        } = update.rule;
        let gradient = gradient * update.grad_scale;
        let square = gradient.clone() * gradient.clone() * (1.0 - beta2);
        self.mean = self.mean.clone() * beta1 + gradient * (1.0 - beta1);
        self.square = self.square.clone() * beta2 + square;
        let correction =
            |beta: f32| 1.0 - f64::from(beta).powi(i32::try_from(step).unwrap_or(i32::MAX));
        let deviation = self.square.clone().sqrt() / correction(beta2).sqrt() + eps;
        let size = f64::from(lr) / correction(beta1);
        let kept = 1.0 - f64::from(lr) * f64::from(weight_decay);
        self.weights = self.weights.clone() * kept - self.mean.clone() / deviation * size;
        if let (Some(average), Some(decay)) = (&mut self.average, update.average_decay) {
            let towards = (self.weights.clone() - average.clone()) * (1.0 - decay);
            *average = average.clone() + towards;
        }
    }
}

fn upload(values: Vec<f32>, device: &Device) -> Tensor<1> {
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::Linear;
    use crate::training::{AdamW, Optimizer, Step};
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

    fn rule(step: u64) -> Update {
        let rule = kernels::AdamW {
            lr: 0.01,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.1,
            step,
        };
        Update {
            rule,
            muon: None,
            grad_scale: 1.0,
            average_decay: Some(0.9),
        }
    }

    /// The GPU's way run on the CPU, held against the CPU's kernel.
    #[test]
    fn one_tensor_of_all_parameters_takes_the_same_steps() {
        let settings = AdamW {
            weight_decay: 0.1,
            ..AdamW::default()
        };
        let mut optimizer = Optimizer::new(settings, true);
        let ((mut apart, compute), (mut joined, _)) = (layer(), layer());
        let first = gradients(&joined, &compute, 1);
        let mut flat = Flat::new(&joined, &first, &BTreeMap::new(), true, |_, _| false);
        for step in 1..=5 {
            let how = Step {
                lr: 0.01,
                max_grad_norm: None,
                average_decay: 0.9,
            };
            let grads = gradients(&apart, &compute, step);
            apart = optimizer.step(apart, grads, how).0;
            let gathered = flat.gather(gradients(&joined, &compute, step));
            flat.step(gathered, &rule(step));
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
