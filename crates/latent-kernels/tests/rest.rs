//! Norms, activations and sums against their definitions, on sizes that need several chunks.

mod naive;

use latent_kernels::*;
use naive::{assert_near, values};

/// Slope of `f` along `direction`, by central differences in f64.
fn slope(x: &[f32], direction: &[f32], f: impl Fn(&[f64]) -> f64) -> f64 {
    let step = 1e-6;
    let moved = |sign: f64| -> Vec<f64> {
        x.iter()
            .zip(direction)
            .map(|(x, d)| f64::from(*x) + sign * step * f64::from(*d))
            .collect()
    };
    (f(&moved(1.0)) - f(&moved(-1.0))) / (2.0 * step)
}

fn dot(a: &[f64], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * f64::from(*b)).sum()
}

fn widen(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x)).collect()
}

fn group_norm_shapes() -> [GroupNormShape; 4] {
    let row = |(n, positions, channels, groups, silu)| GroupNormShape {
        n,
        positions,
        channels,
        groups,
        eps: 1e-5,
        silu,
    };
    [
        (1, 1, 4, 2, true),
        (2, 2500, 12, 3, true),
        (3, 16, 64, 32, false),
        (2, 77, 34, 17, true),
    ]
    .map(row)
}

#[test]
fn group_norm_equals_its_definition_even_far_from_zero() {
    for shape in group_norm_shapes() {
        for offset in [0.0, 300.0] {
            let len = shape.n * shape.positions * shape.channels;
            let x: Vec<f32> = values(len, 1).iter().map(|x| x + offset).collect();
            let (gamma, beta) = (values(shape.channels, 2), values(shape.channels, 3));
            let (mut y, mut stats) = (
                vec![f32::NAN; len],
                vec![f32::NAN; shape.n * shape.groups * 2],
            );
            group_norm(&x, &gamma, &beta, &shape, &mut y, &mut stats);
            let expected = naive::group_norm(&widen(&x), &gamma, &beta, &shape);
            // The mean itself is rounded to f32: at 300, 3e-5 of a deviation of about a half.
            let tolerance = if offset == 0.0 { 5e-6 } else { 1e-4 };
            assert_near(&y, &expected, tolerance, &format!("{shape:?} at {offset}"));
        }
    }
}

#[test]
fn the_gradients_of_group_norm_are_its_slopes() {
    for shape in group_norm_shapes() {
        let len = shape.n * shape.positions * shape.channels;
        let (x, dy) = (values(len, 1), values(len, 4));
        let (gamma, beta) = (values(shape.channels, 2), values(shape.channels, 3));
        let (mut y, mut stats) = (vec![0.0; len], vec![0.0; shape.n * shape.groups * 2]);
        group_norm(&x, &gamma, &beta, &shape, &mut y, &mut stats);
        let (mut dx, mut dgamma, mut dbeta) = (vec![f32::NAN; len], gamma.clone(), beta.clone());
        group_norm_backward(
            &x,
            &dy,
            &gamma,
            &beta,
            &stats,
            &shape,
            &mut dx,
            &mut dgamma,
            &mut dbeta,
        );
        for seed in 10..13 {
            let along = values(len, seed);
            let exact = slope(&x, &along, |x| {
                dot(&naive::group_norm(x, &gamma, &beta, &shape), &dy)
            });
            let got = dot(&widen(&dx), &along);
            assert!(
                (got - exact).abs() < 1e-4 * exact.abs().max(1.0),
                "{shape:?}: {got} is not {exact}"
            );
        }
        for (c, (dgamma, dbeta)) in dgamma.iter().zip(&dbeta).enumerate().step_by(5) {
            let mut moved = (gamma.clone(), beta.clone());
            moved.0[c] += 1e-2;
            moved.1[c] += 1e-2;
            let at = |gamma: &[f32], beta: &[f32]| {
                dot(&naive::group_norm(&widen(&x), gamma, beta, &shape), &dy)
            };
            for (got, exact) in [
                (
                    dgamma,
                    (at(&moved.0, &beta) - at(&gamma, &beta)) / f64::from(moved.0[c] - gamma[c]),
                ),
                (
                    dbeta,
                    (at(&gamma, &moved.1) - at(&gamma, &beta)) / f64::from(moved.1[c] - beta[c]),
                ),
            ] {
                // A one-sided difference of a curved function, over a step of 0.01.
                let tolerance = 1e-2 * exact.abs().max(shape.positions as f64 / 10.0).max(1.0);
                assert!(
                    (f64::from(*got) - exact).abs() < tolerance,
                    "{shape:?} channel {c}: {got} is not {exact}"
                );
            }
        }
    }
}

/// Layer norm is a group norm of rows with one group.
fn layer_norm_rows(x: &[f64], gamma: &[f32], beta: &[f32]) -> Vec<f64> {
    let shape = |n| GroupNormShape {
        n,
        positions: 1,
        channels: gamma.len(),
        groups: 1,
        eps: 1e-5,
        silu: false,
    };
    naive::group_norm(x, gamma, beta, &shape(x.len() / gamma.len()))
}

#[test]
fn layer_norm_equals_its_definition_and_its_gradients_are_its_slopes() {
    for (m, c) in [(1, 1), (3, 5), (70, 33), (300, 320)] {
        let (x, dy) = (values(m * c, 1), values(m * c, 4));
        let (gamma, beta) = (values(c, 2), values(c, 3));
        let mut y = vec![f32::NAN; m * c];
        layer_norm(&x, &gamma, &beta, 1e-5, &mut y);
        assert_near(
            &y,
            &layer_norm_rows(&widen(&x), &gamma, &beta),
            5e-6,
            &format!("{m} {c}"),
        );
        let (mut dx, mut dgamma, mut dbeta) = (x.clone(), gamma.clone(), beta.clone());
        layer_norm_backward(&x, &dy, &gamma, 1e-5, &mut dx, &mut dgamma, &mut dbeta);
        let along = values(m * c, 10);
        let exact = slope(&x, &along, |x| dot(&layer_norm_rows(x, &gamma, &beta), &dy));
        let got = dot(&widen(&dx), &along);
        assert!(
            (got - exact).abs() < 1e-4 * exact.abs().max(1.0),
            "{m} {c}: {got} is not {exact}"
        );
        let mut sums = vec![0.0; c];
        column_sums(&dy, c, &mut sums);
        assert_near(&dbeta, &widen(&sums), 1e-6, "dbeta");
        // With gamma 1 and beta 0 the output is the normalised input.
        let mut normal = x.clone();
        layer_norm(&x, &vec![1.0; c], &vec![0.0; c], 1e-5, &mut normal);
        let products: Vec<f32> = normal.iter().zip(&dy).map(|(a, b)| a * b).collect();
        column_sums(&products, c, &mut sums);
        assert_near(&dgamma, &widen(&sums), 1e-5, "dgamma");
    }
}

#[test]
fn activations_equal_their_definitions_far_out_and_their_slopes_are_slopes() {
    let x: Vec<f32> = (-4000..=4000).map(|i| i as f32 / 200.0).collect();
    let ones = vec![1.0; x.len()];
    for kind in [Activation::Silu, Activation::Gelu, Activation::QuickGelu] {
        let (mut y, mut dx) = (x.clone(), x.clone());
        activation(&x, kind, &mut y);
        activation_backward(&x, &ones, kind, &mut dx);
        for ((x, y), dx) in x.iter().zip(&y).zip(&dx) {
            let x = f64::from(*x);
            let exact = naive::activation(x, kind);
            assert!(
                (f64::from(*y) - exact).abs() < 4e-7 * x.abs().max(1.0),
                "{kind:?}({x}) = {y}, not {exact}"
            );
            let exact =
                (naive::activation(x + 1e-4, kind) - naive::activation(x - 1e-4, kind)) / 2e-4;
            assert!(
                (f64::from(*dx) - exact).abs() < 2e-6,
                "{kind:?}'({x}) = {dx}, not {exact}"
            );
        }
    }
}

#[test]
fn sums_equal_their_definitions() {
    for (m, n) in [(1, 1), (3, 5), (5000, 33), (40, 1000)] {
        let x = values(m * n, 7);
        let mut sums = vec![f32::NAN; n];
        column_sums(&x, n, &mut sums);
        let expected: Vec<f64> = (0..n)
            .map(|j| (0..m).map(|i| f64::from(x[i * n + j])).sum())
            .collect();
        assert_near(&sums, &expected, 1e-5, "column sums");
        let exact: f64 = x.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
        assert!((sum_of_squares(&x) / exact - 1.0).abs() < 1e-12);
    }
}

/// Everything computed by every kernel, as bits.
fn everything(precision: Precision) -> Vec<u32> {
    let mut all = convolutions(precision);
    all.extend(linear_layer(precision));
    all.extend(attentions(precision));
    all.extend(norms_and_sums());
    all.iter().flatten().map(|value| value.to_bits()).collect()
}

/// Results of two convolutions and their gradients.
fn convolutions(precision: Precision) -> Vec<Vec<f32>> {
    let shape = |n, h, w, ci, co, upsample| ConvShape {
        n,
        h,
        w,
        ci,
        co,
        kh: 3,
        kw: 3,
        stride: 1,
        padding: [1; 4],
        upsample,
    };
    let shapes = [
        shape(5, 12, 10, 33, 70, false),
        shape(3, 16, 20, 8, 16, true),
    ];
    let results = shapes.iter().flat_map(|s| {
        let x = values(s.n * s.h * s.w * s.ci, 1);
        let w = values(s.co * s.ci * 9, 2);
        let mut y = vec![0.0; s.n * s.out_h() * s.out_w() * s.co];
        let packed = PackedConv::pack(&w, s, precision);
        conv2d(&x, &packed, s, &Epilogue::default(), &mut y);
        let (mut dx, mut dw) = (x.clone(), w.clone());
        let packed = PackedConv::pack_for_backward_input(&w, s, precision);
        conv2d_backward_input(&y, &packed, s, &mut dx);
        conv2d_backward_weight(&x, &y, s, precision, &mut dw);
        [y, dx, dw]
    });
    results.collect()
}

/// A linear layer's output and its weight's gradient.
fn linear_layer(precision: Precision) -> [Vec<f32>; 2] {
    let (m, k, n) = (700, 90, 130);
    let (x, w) = (values(m * k, 3), values(n * k, 4));
    let (mut y, mut dw) = (vec![0.0; m * n], w.clone());
    let packed = PackedMatrix::pack(&w, n, k, precision);
    linear(&x, &packed, None, None, &mut y);
    linear_backward_weight(&x, &y, m, k, n, precision, &mut dw);
    [y, dw]
}

/// Attention's output and its gradients.
fn attentions(precision: Precision) -> [Vec<f32>; 4] {
    let s = AttentionShape {
        batch: 2,
        heads: 3,
        queries: 100,
        keys: 600,
        head_dim: 20,
        causal: false,
    };
    let (q, k, v) = (
        values(2 * 100 * 60, 5),
        values(2 * 600 * 60, 6),
        values(2 * 600 * 60, 7),
    );
    let (mut out, mut sums) = (q.clone(), vec![0.0; 600]);
    attention(&q, &k, &v, &s, precision, &mut out, Some(&mut sums));
    let (mut dq, mut dk, mut dv) = (q.clone(), k.clone(), v.clone());
    attention_backward(
        &q, &k, &v, &out, &q, &sums, &s, precision, &mut dq, &mut dk, &mut dv,
    );
    [out, dq, dk, dv]
}

/// A group norm with its gradients, and sums; the f64 as its two halves.
fn norms_and_sums() -> [Vec<f32>; 6] {
    let s = GroupNormShape {
        n: 3,
        positions: 900,
        channels: 40,
        groups: 8,
        eps: 1e-5,
        silu: true,
    };
    let (x, gamma, beta) = (values(3 * 900 * 40, 8), values(40, 9), values(40, 10));
    let (mut y, mut stats, mut dx) = (x.clone(), vec![0.0; 48], x.clone());
    let (mut dgamma, mut dbeta) = (gamma.clone(), beta.clone());
    group_norm(&x, &gamma, &beta, &s, &mut y, &mut stats);
    group_norm_backward(
        &x,
        &y,
        &gamma,
        &beta,
        &stats,
        &s,
        &mut dx,
        &mut dgamma,
        &mut dbeta,
    );
    let mut columns = vec![0.0; 40];
    column_sums(&x, 40, &mut columns);
    let squares = sum_of_squares(&x).to_bits();
    let halves = [squares as u32, (squares >> 32) as u32].map(f32::from_bits);
    [y, dx, dgamma, dbeta, columns, halves.to_vec()]
}

#[test]
fn every_result_has_the_same_bits_for_any_number_of_threads() {
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .expect("a pool");
            pool.install(|| everything(precision))
        };
        let one = run(1);
        assert!(
            one == run(2) && one == run(5),
            "{precision:?}: threads change bits"
        );
    }
}

#[test]
fn the_first_of_a_batch_has_the_bits_it_has_alone() {
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        for (h, ci, co, upsample) in [
            (4, 32, 80, false),
            (20, 8, 24, true),
            (33, 16, 16, false),
            // Its columns are shared out among tasks.
            (3, 500, 700, false),
        ] {
            let s = |n| ConvShape {
                n,
                h,
                w: h,
                ci,
                co,
                kh: 3,
                kw: 3,
                stride: 1,
                padding: [1; 4],
                upsample,
            };
            let (many, one) = (s(7), s(1));
            let (x, w) = (values(7 * h * h * ci, 1), values(co * ci * 9, 2));
            let packed = PackedConv::pack(&w, &many, precision);
            let run = |shape: &ConvShape| {
                let mut y = vec![0.0; shape.n * shape.out_h() * shape.out_w() * co];
                conv2d(
                    &x[..shape.n * h * h * ci],
                    &packed,
                    shape,
                    &Epilogue::default(),
                    &mut y,
                );
                y
            };
            let (all, alone) = (run(&many), run(&one));
            assert!(all[..alone.len()] == alone, "{h} {ci} {co} {precision:?}");
        }
        let w = PackedMatrix::pack(&values(130 * 90, 4), 130, 90, precision);
        let x = values(700 * 90, 3);
        let (mut all, mut alone) = (vec![0.0; 700 * 130], vec![0.0; 130]);
        linear(&x, &w, None, None, &mut all);
        linear(&x[..90], &w, None, None, &mut alone);
        assert!(all[..130] == alone, "linear {precision:?}");
    }
}

#[test]
fn every_lesser_instruction_set_passes_these_tests_too() {
    naive::repeat_with_lesser_instruction_sets();
}
