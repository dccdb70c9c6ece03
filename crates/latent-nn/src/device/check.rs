//! Every operation on a device against the CPU: wrong GPU kernels show here and not in a picture.

use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::tensor::{Device, Tensor};
use latent_kernels::Precision;

use super::DeviceError;
use crate::ops::{
    self, Activation, AttentionOptions, ConvArguments, ConvOptions, GroupNormOptions, LinearOptions,
};
use crate::philox::Philox;
use crate::training::{Recorded, Work};
use crate::{Compute, to_host};

/// How far a device is from the CPU in one operation, forward and backward.
#[derive(Clone, Debug, PartialEq)]
pub struct OpDifference {
    /// Name of the operation.
    pub operation: &'static str,
    /// Largest difference of a value or gradient, relative to the largest of them; not finite if the device failed.
    pub max_difference: f32,
    /// What is allowed.
    pub tolerance: f32,
}

impl OpDifference {
    /// Whether the device may be trusted with this operation.
    pub fn is_fine(&self) -> bool {
        self.max_difference <= self.tolerance
    }
}

/// GPUs multiply f32 with 10-bit mantissas (TF32) where they have such units: 2^-11 a product.
const PRODUCTS: f32 = 2e-3;

/// Exponentials and roots of GPUs differ in their last bits.
const POINTWISE: f32 = 1e-5;

/// One operation over inputs made on the device it is given.
struct Operation {
    name: &'static str,
    tolerance: f32,
    run: fn(&Inputs) -> Vec<Tensor<1>>,
}

/// Every operation of [`crate::ops`], and work that is recorded and run again.
const OPERATIONS: &[Operation] = &[
    Operation {
        name: "conv2d",
        tolerance: PRODUCTS,
        run: |x| conv(x, 3, 1, false),
    },
    Operation {
        name: "conv2d 1x1",
        tolerance: PRODUCTS,
        run: |x| conv(x, 1, 1, false),
    },
    Operation {
        name: "conv2d stride 2",
        tolerance: PRODUCTS,
        run: |x| conv(x, 3, 2, false),
    },
    Operation {
        name: "conv2d upsampled",
        tolerance: PRODUCTS,
        run: |x| conv(x, 3, 1, true),
    },
    Operation {
        name: "linear",
        tolerance: PRODUCTS,
        run: linear,
    },
    Operation {
        name: "attention",
        tolerance: PRODUCTS,
        run: |x| attention(x, false),
    },
    Operation {
        name: "attention causal",
        tolerance: PRODUCTS,
        run: |x| attention(x, true),
    },
    Operation {
        name: "group_norm",
        tolerance: POINTWISE,
        run: group_norm,
    },
    Operation {
        name: "layer_norm",
        tolerance: POINTWISE,
        run: layer_norm,
    },
    Operation {
        name: "geglu",
        tolerance: POINTWISE,
        run: |x| x.unary(ops::geglu),
    },
    Operation {
        name: "silu",
        tolerance: POINTWISE,
        run: |x| x.unary(|x| ops::activation(x, Activation::Silu)),
    },
    Operation {
        name: "gelu",
        tolerance: POINTWISE,
        run: |x| x.unary(|x| ops::activation(x, Activation::Gelu)),
    },
    Operation {
        name: "quick_gelu",
        tolerance: POINTWISE,
        run: |x| x.unary(ops::quick_gelu),
    },
    Operation {
        name: "add",
        tolerance: POINTWISE,
        run: |x| x.unary(|x| ops::add(x.clone(), x)),
    },
    Operation {
        name: "concat",
        tolerance: POINTWISE,
        run: |x| x.unary(|x| ops::concat(x.clone(), x)),
    },
    Operation {
        name: "upsample",
        tolerance: POINTWISE,
        run: |x| x.unary(|x| ops::upsample_nearest(x, [13, 9])),
    },
    Operation {
        name: "recorded work",
        tolerance: POINTWISE,
        run: recorded,
    },
];

/// Compares every operation on `device` with the CPU, forward and backward, in f32.
///
/// # Errors
/// [`DeviceError::Failed`] if the CPU itself fails, which is a fault of Latent.
pub fn check_device(device: &Device) -> Result<Vec<OpDifference>, DeviceError> {
    let on = |device: Device| {
        let compute = Compute {
            device,
            precision: Precision::F32,
        };
        Inputs {
            compute: compute.autodiff(),
        }
    };
    let (cpu, device) = (on(Device::flex()), on(device.clone()));
    OPERATIONS
        .iter()
        .map(|operation| {
            let expected = values(operation, &cpu).ok_or_else(|| DeviceError::Failed {
                device: "cpu".to_owned(),
            })?;
            let found = values(operation, &device);
            Ok(OpDifference {
                operation: operation.name,
                max_difference: found.map_or(f32::INFINITY, |found| difference(&expected, &found)),
                tolerance: operation.tolerance,
            })
        })
        .collect()
}

/// Results and gradients on the host, or `None` if the device failed.
fn values(operation: &Operation, inputs: &Inputs) -> Option<Vec<Vec<f32>>> {
    let run = || {
        (operation.run)(inputs)
            .into_iter()
            .map(|tensor| to_host(tensor).0)
            .collect()
    };
    catch_unwind(AssertUnwindSafe(run)).ok()
}

/// Largest difference relative to the largest expected value, over all tensors.
fn difference(expected: &[Vec<f32>], found: &[Vec<f32>]) -> f32 {
    let mut worst = 0.0_f32;
    for (expected, found) in expected.iter().zip(found) {
        let scale = expected
            .iter()
            .fold(1e-6_f32, |most, value| most.max(value.abs()));
        for (expected, found) in expected.iter().zip(found) {
            let difference = (expected - found).abs() / scale;
            // A NaN must count as far away; `max` would drop it.
            worst = if difference > worst || difference.is_nan() {
                difference
            } else {
                worst
            };
        }
        if worst.is_nan() {
            return f32::INFINITY;
        }
    }
    worst
}

/// Makes the same pseudo-random tensors on any device.
struct Inputs {
    compute: Compute,
}

impl Inputs {
    /// Values in -1..1 that depend on `seed` only, tracked.
    fn tensor<const D: usize>(&self, seed: u64, shape: [usize; D]) -> Tensor<D> {
        let count: usize = shape.iter().product();
        let generator = Philox::new(seed);
        let unit = |word: u32| (word >> 8) as f32 * (2.0 / (1 << 24) as f32) - 1.0;
        let values = (0..count as u64)
            .map(|i| unit(generator.block(i)[0]))
            .collect();
        self.compute.tensor(values, shape).require_grad()
    }

    /// `y` and the gradients of `inputs` under a pseudo-random upstream gradient.
    fn with_gradients<const D: usize>(&self, y: Tensor<D>, inputs: &[Tensor<1>]) -> Vec<Tensor<1>> {
        let upstream = self.tensor(99, y.dims()).detach();
        let gradients = (y.clone() * upstream).sum().backward();
        let mut results = vec![flat(y.without_autodiff())];
        results.extend(inputs.iter().filter_map(|input| input.grad(&gradients)));
        results
    }

    fn unary(&self, operation: impl Fn(Tensor<4>) -> Tensor<4>) -> Vec<Tensor<1>> {
        let x = self.leaf(1, 2 * 6 * 5 * 8);
        let y = operation(x.clone().reshape([2, 6, 5, 8]));
        self.with_gradients(y, &[x])
    }

    /// A flat tracked leaf, reshaped where it is used so that gradients come back flat.
    fn leaf(&self, seed: u64, count: usize) -> Tensor<1> {
        self.tensor(seed, [count])
    }
}

fn flat<const D: usize>(tensor: Tensor<D>) -> Tensor<1> {
    let count = tensor.shape().num_elements();
    tensor.reshape([count])
}

fn conv(inputs: &Inputs, kernel: usize, stride: usize, upsample: bool) -> Vec<Tensor<1>> {
    let (ci, co) = (24, 40);
    let x = inputs.leaf(1, 2 * 12 * 10 * ci);
    let weight = inputs.leaf(2, co * ci * kernel * kernel);
    let bias = inputs.leaf(3, co);
    let options = ConvOptions {
        stride,
        padding: [kernel / 2; 4],
        upsample,
        ..ConvOptions::new(Precision::F32)
    };
    let added = ConvArguments {
        bias: Some(bias.clone()),
        ..ConvArguments::default()
    };
    let y = ops::conv2d(
        x.clone().reshape([2, 12, 10, ci]),
        weight.clone().reshape([co, ci, kernel, kernel]),
        added,
        options,
    );
    inputs.with_gradients(y, &[x, weight, bias])
}

fn linear(inputs: &Inputs) -> Vec<Tensor<1>> {
    let (x, weight, bias) = (
        inputs.leaf(1, 35 * 48),
        inputs.leaf(2, 56 * 48),
        inputs.leaf(3, 56),
    );
    let y = ops::linear(
        x.clone().reshape([5, 7, 48]),
        weight.clone().reshape([56, 48]),
        Some(bias.clone()),
        None,
        LinearOptions::new(Precision::F32),
    );
    inputs.with_gradients(y, &[x, weight, bias])
}

fn attention(inputs: &Inputs, causal: bool) -> Vec<Tensor<1>> {
    let leaves = [1, 2, 3].map(|seed| inputs.leaf(seed, 2 * 33 * 80));
    let [q, k, v] = leaves.clone().map(|leaf| leaf.reshape([2, 33, 80]));
    let options = AttentionOptions {
        heads: 2,
        causal,
        precision: Precision::F32,
    };
    inputs.with_gradients(ops::attention(q, k, v, options), &leaves)
}

fn group_norm(inputs: &Inputs) -> Vec<Tensor<1>> {
    let (x, weight, bias) = (
        inputs.leaf(1, 2 * 30 * 32),
        inputs.leaf(2, 32),
        inputs.leaf(3, 32),
    );
    let options = GroupNormOptions {
        groups: 8,
        eps: 1e-5,
        silu: true,
    };
    let y = ops::group_norm(
        x.clone().reshape([2, 6, 5, 32]),
        weight.clone(),
        bias.clone(),
        options,
    );
    inputs.with_gradients(y, &[x, weight, bias])
}

fn layer_norm(inputs: &Inputs) -> Vec<Tensor<1>> {
    let (x, weight, bias) = (
        inputs.leaf(1, 2 * 9 * 40),
        inputs.leaf(2, 40),
        inputs.leaf(3, 40),
    );
    let y = ops::layer_norm(
        x.clone().reshape([2, 9, 40]),
        weight.clone(),
        bias.clone(),
        1e-5,
    );
    inputs.with_gradients(y, &[x, weight, bias])
}

/// A running mean kept in place.
struct Mean(Tensor<1>);

impl Work for Mean {
    fn run(&mut self, inputs: &[Tensor<1>]) -> Vec<Tensor<1>> {
        let next = self.0.clone() * 0.5 + inputs[0].clone() * 0.5;
        self.0 = ops::overwrite(self.0.clone(), next);
        vec![self.0.clone()]
    }

    /// A recording that fails shows as a difference.
    fn keep(&mut self) {}
}

/// A running mean over three values, the last two by a recording where the device makes one.
fn recorded(inputs: &Inputs) -> Vec<Tensor<1>> {
    const COUNT: usize = 1000;
    let compute = inputs.compute.inference();
    let values = |seed| to_host(inputs.leaf(seed, COUNT)).0;
    let mut work = Mean(compute.tensor(values(1), [COUNT]));
    let (mut found, recorded) = Recorded::new(vec![values(2)], &compute, &mut work);
    for seed in [3, 4] {
        match &recorded {
            Ok(recorded) => found.extend(recorded.run(vec![values(seed)])),
            Err(_) => {
                let given = compute.tensor(values(seed), [COUNT]);
                found.extend(work.run(&[given]).into_iter().map(|mean| to_host(mean).0));
            }
        }
    }
    let found = found.into_iter();
    found
        .map(|values| compute.tensor(values, [COUNT]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_agrees_with_itself() {
        for operation in check_device(&Device::flex()).unwrap() {
            assert_eq!(operation.max_difference, 0.0, "{}", operation.operation);
        }
    }

    #[test]
    fn a_wrong_value_and_a_nan_are_far_away() {
        let right = [vec![1.0, 2.0]];
        assert_eq!(difference(&right, &[vec![1.0, 2.0]]), 0.0);
        assert_eq!(difference(&right, &[vec![1.0, 3.0]]), 0.5);
        assert_eq!(difference(&right, &[vec![f32::NAN, 2.0]]), f32::INFINITY);
    }
}
