//! Gradients of a model's parameters, by path.

use std::collections::BTreeMap;

use burn::backend::{DispatchDevice, Flex};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Device, Gradients, Tensor, TensorData};
use rayon::prelude::*;

use super::optimizer::tracking;
use crate::ops::buffers::Buffer;
use crate::ops::flex::{dense, values};
use crate::parameters::Path;
use crate::to_host;

/// Gradients by the path of their parameter; parameters that took no part have none.
#[derive(Clone, Debug, Default)]
pub struct Grads(BTreeMap<String, Tensor<1>>);

impl Grads {
    /// Gradients of `loss [1]` with respect to `module`'s parameters.
    ///
    /// # Panics
    /// If the loss was not computed with gradients ([`crate::Compute::autodiff`]), or twice from the same loss.
    pub fn of<M: Module>(loss: Tensor<1>, module: &M) -> Self {
        struct Visitor {
            path: Path,
            gradients: Gradients,
            found: BTreeMap<String, Tensor<1>>,
        }
        impl ModuleVisitor for Visitor {
            fn enter_module(&mut self, name: &str, _: &str) {
                self.path.enter(name);
            }
            fn exit_module(&mut self, _: &str, _: &str) {
                self.path.exit();
            }
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                if let Some(gradient) = param.grad_remove(&mut self.gradients) {
                    let count = param.shape().num_elements();
                    self.found
                        .insert(self.path.join(), gradient.reshape([count]));
                }
            }
        }
        let mut visitor = Visitor {
            path: Path::default(),
            gradients: loss.backward(),
            found: BTreeMap::new(),
        };
        drop(loss);
        module.visit(&mut visitor);
        Self(visitor.found)
    }

    /// Adds `other`'s gradients, those of the next part of a batch.
    pub fn add(&mut self, other: Self) {
        for (path, gradient) in other.0 {
            let sum = match self.0.remove(&path) {
                Some(before) => crate::ops::add(before, gradient),
                None => gradient,
            };
            self.0.insert(path, sum);
        }
    }

    /// Multiplies every gradient by `factor`, such as one over the number of parts of a batch.
    pub fn scale(&mut self, factor: f32) {
        let all = std::mem::take(&mut self.0);
        self.0 = all
            .into_iter()
            .map(|(path, gradient)| (path, scaled(gradient, factor)))
            .collect();
    }

    /// Euclidean norm of all gradients as one vector, summed in the order of their paths.
    pub fn norm(&self) -> f64 {
        if self.on_host() {
            return self.0.values().map(sum_of_squares).sum::<f64>().sqrt();
        }
        // Waiting for the device once, not once a parameter.
        let squares = self
            .0
            .values()
            .map(|gradient| (gradient.clone() * gradient.clone()).sum());
        let squares = to_host(Tensor::cat(squares.collect(), 0)).0;
        squares.iter().copied().map(f64::from).sum::<f64>().sqrt()
    }

    /// Whether the gradients lie in memory we can reach; those of no parameter do.
    pub(super) fn on_host(&self) -> bool {
        self.0
            .values()
            .next()
            .is_none_or(|gradient| is_host(&gradient.device()))
    }

    /// Where the gradients lie.
    ///
    /// # Panics
    /// If there is none.
    pub(super) fn device(&self) -> Device {
        match self.0.values().next() {
            Some(gradient) => gradient.device(),
            None => panic!("no parameter has a gradient"),
        }
    }

    /// Values of one parameter's gradient, if it has one.
    pub fn get(&self, path: &str) -> Option<Vec<f32>> {
        self.0.get(path).map(|gradient| to_host(gradient.clone()).0)
    }

    /// Paths of the parameters that have a gradient.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub(super) fn has(&self, path: &str) -> bool {
        self.0.contains_key(path)
    }

    pub(super) fn take(&mut self, path: &str) -> Option<Tensor<1>> {
        self.0.remove(path)
    }
}

/// A copy of `module` with the same values (none is copied) that begins a graph of its own.
///
/// Burn keeps the graphs that share a leaf under one lock; passes through copies run side by side.
pub fn with_own_leaves<M: Module>(module: &M) -> M {
    struct Leaves;
    impl ModuleMapper for Leaves {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|tensor| {
                let tracked = tracking(&tensor);
                tracked(tensor.without_autodiff())
            })
        }
    }
    module.clone().map(&mut Leaves)
}

/// `module` on the device with gradients, itself without any: what trains stands beside its weights, or in front of it.
///
/// On a GPU no value is copied. On the CPU weights that stay in their file are read, since the way back needs them in f32.
pub fn frozen<M: Module>(module: M) -> M {
    struct Freezer;
    impl ModuleMapper for Freezer {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|tensor| {
                let tensor = tensor.without_autodiff();
                let tensor = if is_host(&tensor.device()) {
                    let device = tensor.device();
                    let (values, shape) = to_host(tensor);
                    Tensor::from_data(TensorData::new(values, shape), &device)
                } else {
                    tensor
                };
                tensor.autodiff().set_require_grad(false)
            })
        }
    }
    module.map(&mut Freezer)
}

/// Whether tensors of `device` are slices we can reach.
pub(crate) fn is_host(device: &Device) -> bool {
    match device.as_dispatch() {
        DispatchDevice::Flex(_) => true,
        DispatchDevice::Autodiff(_) => is_host(&device.clone().without_autodiff()),
        #[allow(
            unreachable_patterns,
            reason = "a build without GPUs has no other device"
        )]
        _ => false,
    }
}

/// The CPU's own form of a tensor of rank `D`.
///
/// # Panics
/// If the tensor is elsewhere; see [`is_host`].
pub(super) fn host_primitive<const D: usize>(
    tensor: Tensor<D>,
) -> burn::backend::tensor::FloatTensor<Flex> {
    match tensor.try_into_primitive::<Flex>() {
        Ok(primitive) => dense(primitive),
        Err(error) => panic!("the tensor is not on the CPU: {error:?}"),
    }
}

fn sum_of_squares(gradient: &Tensor<1>) -> f64 {
    latent_kernels::sum_of_squares(values(&host_primitive(gradient.clone())))
}

fn scaled(gradient: Tensor<1>, factor: f32) -> Tensor<1> {
    if !is_host(&gradient.device()) {
        return gradient * factor;
    }
    let primitive = host_primitive(gradient);
    let before = values(&primitive);
    let mut after = Buffer::unset(before.len());
    after
        .par_chunks_mut(1 << 16)
        .zip(before.par_chunks(1 << 16))
        .for_each(|(after, before)| {
            for (after, before) in after.iter_mut().zip(before) {
                *after = before * factor;
            }
        });
    let shape = [after.len()];
    Tensor::from_primitive::<Flex>(after.into_tensor(&shape))
}
