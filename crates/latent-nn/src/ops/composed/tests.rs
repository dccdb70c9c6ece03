//! The bodies that GPUs run, run on the CPU and held against its kernels.

use burn::backend::Flex;
use burn::tensor::TensorData;
use latent_kernels::{Activation, Precision};

use super::Float;
use crate::ops::flex::{dense, values};
use crate::ops::{
    AttentionOptions, AttentionRecord, ConvOptions, GroupNormOptions, LatentOps, LinearOptions,
    Maybe,
};
use crate::philox::Philox;

type Cpu = Float<Flex>;

/// Rounding of two orders of summation over some hundred terms.
const TOLERANCE: f32 = 2e-5;

/// Numbers of about unit size, another set for each `seed`.
fn drawn(seed: u64, shape: &[usize]) -> Cpu {
    let generator = Philox::new(seed);
    let unit = |i: usize| {
        let word = generator.block(i as u64 / 4)[i % 4];
        word as f32 / u32::MAX as f32 * 2.0 - 1.0
    };
    let values: Vec<f32> = (0..shape.iter().product()).map(unit).collect();
    Cpu::from_data(TensorData::new(values, shape.to_vec()))
}

fn same(what: &str, found: Cpu, needed: Cpu) {
    let (found, needed) = (dense(found), dense(needed));
    assert_eq!(
        super::dims::<Flex>(&found),
        super::dims::<Flex>(&needed),
        "{what}"
    );
    // Memory of results starts as NaN in tests: one that is left shows what a kernel did not write.
    assert!(
        values(&found)
            .iter()
            .chain(values(&needed))
            .all(|v| v.is_finite()),
        "{what}: not all values are written"
    );
    let scale = values(&needed).iter().fold(1e-3_f32, |m, v| m.max(v.abs()));
    let pairs = values(&found).iter().zip(values(&needed));
    let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / scale;
    assert!(worst < TOLERANCE, "{what}: {worst:e}");
}

fn same_three(what: &str, found: (Cpu, Cpu, Cpu), needed: (Cpu, Cpu, Cpu)) {
    same(what, found.0, needed.0);
    same(what, found.1, needed.1);
    same(what, found.2, needed.2);
}

/// Odd sizes, a stride, uneven padding, doubling.
fn convolutions() -> Vec<(usize, ConvOptions)> {
    let plain = ConvOptions::new(Precision::F32);
    vec![
        (
            3,
            ConvOptions {
                padding: [1; 4],
                ..plain
            },
        ),
        (1, plain),
        (
            3,
            ConvOptions {
                padding: [1; 4],
                stride: 2,
                ..plain
            },
        ),
        (
            3,
            ConvOptions {
                padding: [0, 0, 1, 1],
                stride: 2,
                ..plain
            },
        ),
        (
            3,
            ConvOptions {
                padding: [1; 4],
                upsample: true,
                ..plain
            },
        ),
    ]
}

#[test]
fn convolutions_and_their_gradients_equal_the_kernels() {
    for (kernel, options) in convolutions() {
        let what = format!("{kernel}x{kernel} {options:?}");
        let (x, weight) = (drawn(1, &[2, 7, 6, 5]), drawn(2, &[4, 5, kernel, kernel]));
        let (bias, shift) = (drawn(3, &[4]), drawn(4, &[2, 4]));
        let given = || {
            [
                Maybe::Given(bias.clone()),
                Maybe::Given(shift.clone()),
                Maybe::Absent,
            ]
        };
        let [b, s, r] = given();
        let y = Flex::latent_conv2d(x.clone(), weight.clone(), b, s, r, options);
        let added = given().map(Maybe::into_option);
        let found = super::conv2d::<Flex>(x.clone(), weight.clone(), added, options);
        same(&what, found, y.clone());
        let dy = drawn(5, &super::dims::<Flex>(&y));
        same(
            &what,
            super::conv2d_backward_input::<Flex>(dy.clone(), weight.clone(), [2, 7, 6, 5], options),
            Flex::latent_conv2d_backward_input(dy.clone(), weight, [2, 7, 6, 5], options),
        );
        same(
            &what,
            super::conv2d_backward_weight::<Flex>(x.clone(), dy.clone(), [kernel; 2], options),
            Flex::latent_conv2d_backward_weight(x, dy, [kernel; 2], options),
        );
    }
}

#[test]
fn linear_layers_and_their_gradients_equal_the_kernels() {
    let options = LinearOptions::new(Precision::F32);
    let (x, weight) = (drawn(1, &[2, 5, 7]), drawn(2, &[3, 7]));
    let (bias, residual, dy) = (drawn(3, &[3]), drawn(4, &[2, 5, 3]), drawn(5, &[2, 5, 3]));
    let given = (Maybe::Given(bias.clone()), Maybe::Given(residual.clone()));
    same(
        "linear",
        super::linear::<Flex>(
            x.clone(),
            weight.clone(),
            Some(bias),
            Some(residual),
            options,
        ),
        Flex::latent_linear(x.clone(), weight.clone(), given.0, given.1, options),
    );
    same(
        "linear, input",
        super::linear_backward_input::<Flex>(dy.clone(), weight.clone(), options),
        Flex::latent_linear_backward_input(dy.clone(), weight, options),
    );
    same(
        "linear, weight",
        super::linear_backward_weight::<Flex>(x.clone(), dy.clone(), options),
        Flex::latent_linear_backward_weight(x, dy.clone(), options),
    );
    same(
        "column sums",
        super::column_sums::<Flex>(dy.clone(), 2),
        Flex::latent_column_sums(dy, 2),
    );
}

#[test]
fn attention_and_its_gradients_equal_the_kernels() {
    for (causal, keys) in [(false, 9), (true, 6)] {
        let options = AttentionOptions {
            causal,
            ..AttentionOptions::new(2, Precision::F32)
        };
        let q = drawn(1, &[2, 6, 10]);
        let (k, v) = (drawn(2, &[2, keys, 10]), drawn(3, &[2, keys, 10]));
        let all = || (q.clone(), k.clone(), v.clone());
        let (output, log_sums) =
            Flex::latent_attention_recorded(q.clone(), k.clone(), v.clone(), options);
        let found = super::attention_recorded::<Flex>(q.clone(), k.clone(), v.clone(), options);
        same("attention", found.0, output.clone());
        same("log sums", found.1, log_sums.clone());
        same(
            "attention",
            super::attention::<Flex>(all().0, all().1, all().2, options),
            output.clone(),
        );
        let record = || AttentionRecord::<Flex> {
            queries: q.clone(),
            keys: k.clone(),
            values: v.clone(),
            output: output.clone(),
            log_sums: log_sums.clone(),
        };
        let dy = drawn(4, &[2, 6, 10]);
        same_three(
            "attention, gradients",
            super::attention_backward::<Flex>(record(), dy.clone(), options),
            Flex::latent_attention_backward(record(), dy, options),
        );
    }
}

#[test]
fn norms_and_their_gradients_equal_the_kernels() {
    let (x, dy) = (drawn(1, &[2, 3, 5, 12]), drawn(2, &[2, 3, 5, 12]));
    let (weight, bias) = (drawn(3, &[12]), drawn(4, &[12]));
    for silu in [false, true] {
        let options = GroupNormOptions {
            groups: 4,
            eps: 1e-5,
            silu,
        };
        let (y, statistics) =
            Flex::latent_group_norm_recorded(x.clone(), weight.clone(), bias.clone(), options);
        let found = super::group_norm::<Flex>(x.clone(), weight.clone(), bias.clone(), options);
        same("group norm", found.0, y);
        same("statistics", found.1, statistics.clone());
        let saved = [weight.clone(), bias.clone(), statistics.clone()];
        same_three(
            "group norm, gradients",
            super::group_norm_backward::<Flex>(x.clone(), dy.clone(), saved, options),
            Flex::latent_group_norm_backward(
                x.clone(),
                dy.clone(),
                weight.clone(),
                bias.clone(),
                statistics,
                options,
            ),
        );
    }
    same(
        "layer norm",
        super::layer_norm::<Flex>(x.clone(), weight.clone(), bias.clone(), 1e-5),
        Flex::latent_layer_norm(x.clone(), weight.clone(), bias, 1e-5),
    );
    same_three(
        "layer norm, gradients",
        super::layer_norm_backward::<Flex>(x.clone(), dy.clone(), weight.clone(), 1e-5),
        Flex::latent_layer_norm_backward(x, dy, weight, 1e-5),
    );
}

#[test]
fn activations_and_their_gradients_equal_the_kernels() {
    let (x, dy) = (drawn(1, &[3, 14]), drawn(2, &[3, 14]));
    for kind in [Activation::Silu, Activation::Gelu, Activation::QuickGelu] {
        same(
            "activation",
            super::activation::<Flex>(x.clone(), kind),
            Flex::latent_activation(x.clone(), kind),
        );
        same(
            "activation, gradient",
            super::activation_backward::<Flex>(x.clone(), dy.clone(), kind),
            Flex::latent_activation_backward(x.clone(), dy.clone(), kind),
        );
    }
    let half = drawn(3, &[3, 7]);
    same(
        "geglu",
        super::geglu::<Flex>(x.clone()),
        Flex::latent_geglu(x.clone()),
    );
    same(
        "geglu, gradient",
        super::geglu_backward::<Flex>(x.clone(), half.clone()),
        Flex::latent_geglu_backward(x, half),
    );
}

#[test]
fn joining_splitting_and_resizing_equal_the_kernels() {
    let (a, b) = (drawn(1, &[2, 3, 4, 5]), drawn(2, &[2, 3, 4, 2]));
    let joined = Flex::latent_concat(a.clone(), b.clone());
    same(
        "concat",
        super::concat::<Flex>(a.clone(), b),
        joined.clone(),
    );
    let (found, needed) = (
        super::split::<Flex>(joined.clone(), 3),
        Flex::latent_split(joined, 3),
    );
    same("split", found.0, needed.0);
    same("split", found.1, needed.1);
    for size in [[6, 8], [5, 7]] {
        let larger = Flex::latent_upsample(a.clone(), size);
        same(
            "upsample",
            super::upsample::<Flex>(a.clone(), size),
            larger.clone(),
        );
        same(
            "upsample, gradient",
            super::upsample_backward::<Flex>(larger.clone(), [3, 4]),
            Flex::latent_upsample_backward(larger, [3, 4]),
        );
    }
}

/// Results start as NaN in tests, so one that a kernel only added to, or never wrote, is not finite.
#[test]
fn kernels_write_every_value_of_results_larger_than_their_blocks() {
    fn written(what: &str, results: Vec<Cpu>) {
        for found in results {
            let values = values(&found);
            assert!(values.iter().all(|v| v.is_finite()), "{what}");
        }
    }
    for precision in [Precision::F32, Precision::Bf16] {
        for kernel in [1, 3] {
            let options = ConvOptions {
                padding: [kernel / 2; 4],
                ..ConvOptions::new(precision)
            };
            let size = [3, 37, 33, 70];
            let (x, weight) = (drawn(1, &size), drawn(2, &[90, 70, kernel, kernel]));
            let none = || Maybe::Absent;
            let y = Flex::latent_conv2d(x.clone(), weight.clone(), none(), none(), none(), options);
            let dy = y.clone();
            let dx = Flex::latent_conv2d_backward_input(dy.clone(), weight, size, options);
            let dw = Flex::latent_conv2d_backward_weight(x, dy, [kernel; 2], options);
            written("convolution", vec![y, dx, dw]);
        }
        let options = LinearOptions::new(precision);
        let (x, weight) = (drawn(1, &[5, 413, 330]), drawn(2, &[290, 330]));
        let y = Flex::latent_linear(
            x.clone(),
            weight.clone(),
            Maybe::Absent,
            Maybe::Absent,
            options,
        );
        let dx = Flex::latent_linear_backward_input(y.clone(), weight, options);
        let dw = Flex::latent_linear_backward_weight(x, y.clone(), options);
        let sums = Flex::latent_column_sums(y.clone(), 5);
        written("linear", vec![y, dx, dw, sums]);
        for causal in [false, true] {
            let options = AttentionOptions {
                causal,
                ..AttentionOptions::new(3, precision)
            };
            let q = drawn(1, &[2, 300, 120]);
            let (output, log_sums) =
                Flex::latent_attention_recorded(q.clone(), q.clone(), q.clone(), options);
            let record = AttentionRecord::<Flex> {
                queries: q.clone(),
                keys: q.clone(),
                values: q.clone(),
                output: output.clone(),
                log_sums: log_sums.clone(),
            };
            let (dq, dk, dv) = Flex::latent_attention_backward(record, q, options);
            written("attention", vec![output, log_sums, dq, dk, dv]);
        }
    }
}
