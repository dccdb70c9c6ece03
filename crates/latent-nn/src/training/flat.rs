//! AdamW on a GPU: all parameters behind one another in one tensor, so that a step costs a few launches.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Tensor, TensorData};
use latent_kernels as kernels;

use super::gradients::Grads;
use super::optimizer::{Memory, Update, tracking};
use crate::parameters::{Path, visit_parameters};
use crate::to_host;

/// Weights and what is remembered of them, each as one tensor.
#[derive(Clone, Debug)]
pub(super) struct Flat {
    /// Sorted by path, as [`Grads`] are.
    parts: Vec<Part>,
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
    range: Range<usize>,
}

impl Flat {
    /// The parameters of `module` that `grads` has gradients of, with what `memory` holds of them.
    pub(super) fn new<M: Module>(
        module: &M,
        grads: &Grads,
        memory: &BTreeMap<String, Memory>,
        averages: bool,
    ) -> Self {
        let mut found: HashMap<String, (Vec<usize>, Vec<f32>)> = HashMap::new();
        visit_parameters(module, |path, shape, values| {
            found.insert(path.to_owned(), (shape.to_vec(), values.to_vec()));
        });
        let mut parts = Vec::new();
        let [mut weights, mut mean, mut square, mut average] = [const { Vec::new() }; 4];
        for path in grads.paths() {
            let Some((shape, values)) = found.remove(path) else {
                continue;
            };
            let count = values.len();
            let range = weights.len()..weights.len() + count;
            let before = memory.get(path);
            let zeros = || vec![0.0; count];
            mean.extend(before.map_or_else(zeros, |memory| memory.mean.clone()));
            square.extend(before.map_or_else(zeros, |memory| memory.square.clone()));
            let remembered = before.and_then(|memory| memory.average.clone());
            average.extend(remembered.unwrap_or_else(|| values.clone()));
            weights.extend(values);
            parts.push(Part {
                path: path.to_owned(),
                shape,
                range,
            });
        }
        let device = grads.device();
        Self {
            parts,
            weights: upload(weights, &device),
            mean: upload(mean, &device),
            square: upload(square, &device),
            average: averages.then(|| upload(average, &device)),
        }
    }

    /// Whether `grads` are of the same parameters.
    pub(super) fn fits(&self, grads: &Grads) -> bool {
        grads
            .paths()
            .eq(self.parts.iter().map(|part| part.path.as_str()))
    }

    /// Source: Loshchilov & Hutter 2019 (arXiv:1711.05101), Algorithm 2.
    pub(super) fn step(&mut self, grads: Grads, update: &Update) {
        let kernels::AdamW {
            lr,
            beta1,
            beta2,
            eps,
            weight_decay,
            step,
        } = update.rule;
        let gradient = grads.joined() * update.grad_scale;
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
                let weights = &self.flat.weights;
                param.map(|tensor| {
                    let shape = tensor.dims();
                    let part = weights.clone().slice([parts[place].range.clone()]);
                    tracking(&tensor)(part.reshape(shape))
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
        let [mean, square] = [&self.mean, &self.square].map(|all| to_host(all.clone()).0);
        let average = self.average.as_ref().map(|all| to_host(all.clone()).0);
        let of = |part: &Part| {
            let memory = Memory {
                shape: part.shape.clone(),
                turned: false,
                mean: mean[part.range.clone()].to_vec(),
                square: square[part.range.clone()].to_vec(),
                average: average.as_ref().map(|all| all[part.range.clone()].to_vec()),
            };
            (part.path.clone(), memory)
        };
        self.parts.iter().map(of).collect()
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
        let mut flat = Flat::new(&joined, &first, &BTreeMap::new(), true);
        for step in 1..=5 {
            let how = Step {
                lr: 0.01,
                max_grad_norm: None,
                average_decay: 0.9,
            };
            let grads = gradients(&apart, &compute, step);
            apart = optimizer.step(apart, grads, how).0;
            flat.step(gradients(&joined, &compute, step), &rule(step));
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
