//! Linear layers, convolutions and attention against their definitions, on odd sizes.

mod naive;

use latent_kernels::*;
use naive::{assert_near, values};

const BOTH: [Precision; 2] = [Precision::F32, Precision::Bf16];
/// Rounding of f32 sums over some thousand terms of size one.
const TOLERANCE: f64 = 2e-5;

#[test]
fn linear_equals_its_definition_for_every_tail() {
    for (i, (m, k, n)) in [
        (1, 1, 1),
        (2, 3, 5),
        (7, 33, 17),
        (13, 64, 64),
        (5, 65, 129),
        (100, 31, 80),
        (97, 130, 48),
        (3, 3300, 70),
        (200, 6, 200),
        // A heavy weight, shared out by rows and by columns.
        (300, 801, 700),
    ]
    .into_iter()
    .enumerate()
    {
        for precision in BOTH {
            let seed = i as u32 * 10;
            let (x, w) = (values(m * k, seed), values(n * k, seed + 1));
            let (bias, residual) = (values(n, seed + 2), values(m * n, seed + 3));
            let mut expected = naive::product(&x, &w, k, precision);
            for (i, expected) in expected.iter_mut().enumerate() {
                *expected += f64::from(bias[i % n]) + f64::from(residual[i]);
            }
            let mut out = vec![f32::NAN; m * n];
            let packed = PackedMatrix::pack(&w, n, k, precision);
            linear(&x, &packed, Some(&bias), Some(&residual), &mut out);
            assert_near(
                &out,
                &expected,
                TOLERANCE,
                &format!("linear {m} {k} {n} {precision:?}"),
            );

            let turned =
                PackedMatrix::pack_transposed(&naive::transposed(&w, n, k), n, k, precision);
            let mut again = vec![f32::NAN; m * n];
            linear(&x, &turned, Some(&bias), Some(&residual), &mut again);
            assert_eq!(
                out, again,
                "packed from the transpose {m} {k} {n} {precision:?}"
            );
        }
    }
}

#[test]
fn the_gradient_of_a_linear_weight_equals_its_definition() {
    for (m, k, n) in [
        (1, 1, 1),
        (3, 5, 7),
        (128, 16, 16),
        (300, 70, 33),
        (129, 700, 20),
        (2000, 24, 65),
    ] {
        for precision in BOTH {
            let (x, dy) = (values(m * k, 1), values(m * n, 2));
            let expected = naive::product(
                &naive::transposed(&dy, m, n),
                &naive::transposed(&x, m, k),
                m,
                precision,
            );
            let mut dw = vec![f32::NAN; n * k];
            linear_backward_weight(&x, &dy, m, k, n, precision, &mut dw);
            assert_near(
                &dw,
                &expected,
                TOLERANCE,
                &format!("{m} {k} {n} {precision:?}"),
            );
        }
    }
}

fn shape(
    [n, h, w, ci, co]: [usize; 5],
    [kh, kw]: [usize; 2],
    stride: usize,
    padding: [usize; 4],
    upsample: bool,
) -> ConvShape {
    ConvShape {
        n,
        h,
        w,
        ci,
        co,
        kh,
        kw,
        stride,
        padding,
        upsample,
    }
}

/// Small sizes that meet every border, tail and phase.
fn shapes() -> Vec<ConvShape> {
    let mut shapes = vec![
        shape([1, 1, 1, 1, 1], [1, 1], 1, [0; 4], false),
        shape([2, 7, 9, 3, 5], [3, 3], 1, [1; 4], false),
        shape([2, 7, 9, 3, 5], [3, 3], 2, [1; 4], false),
        shape([2, 8, 9, 3, 4], [3, 3], 2, [0, 0, 1, 1], false),
        shape([3, 4, 4, 32, 80], [3, 3], 1, [1; 4], false),
        shape([9, 2, 2, 16, 16], [3, 3], 1, [1; 4], false),
        shape([1, 40, 33, 8, 20], [3, 3], 1, [1; 4], false),
        shape([2, 5, 6, 4, 66], [4, 4], 2, [1; 4], false),
        shape([2, 6, 5, 70, 3], [3, 3], 1, [1; 4], false),
        shape([2, 5, 7, 6, 8], [1, 1], 1, [0; 4], false),
        shape([2, 5, 7, 6, 8], [1, 1], 2, [0; 4], false),
        shape([1, 6, 7, 2, 3], [5, 5], 1, [2; 4], false),
        shape([1, 6, 8, 2, 3], [2, 3], 3, [1, 0, 2, 1], false),
    ];
    shapes.extend([1, 2, 3].map(|stride| shape([2, 5, 4, 6, 10], [3, 3], stride, [1; 4], true)));
    shapes.push(shape([2, 4, 4, 5, 6], [3, 3], 1, [0, 1, 2, 0], true));
    // Its weight is too large for a core's cache: tasks share out its columns.
    shapes.push(shape([2, 3, 2, 500, 700], [3, 3], 1, [1; 4], false));
    shapes
}

/// Weights of a doubled picture are summed before they are rounded, so their bf16 result is another rounding.
fn tolerance(shape: &ConvShape, precision: Precision) -> f64 {
    if shape.upsample && precision == Precision::Bf16 {
        1e-2
    } else {
        TOLERANCE
    }
}

#[test]
fn convolution_equals_its_definition() {
    for s in shapes() {
        for precision in BOTH {
            let (x, w) = (
                values(s.n * s.h * s.w * s.ci, 1),
                values(s.co * s.ci * s.kh * s.kw, 2),
            );
            let pixels = s.out_h() * s.out_w();
            let (bias, per_channel) = (values(s.co, 3), values(s.n * s.co, 4));
            let residual = values(s.n * pixels * s.co, 5);
            let mut expected = naive::conv2d(&x, &w, &s, precision);
            for (i, expected) in expected.iter_mut().enumerate() {
                let (c, n) = (i % s.co, i / s.co / pixels);
                *expected += f64::from(bias[c])
                    + f64::from(per_channel[n * s.co + c])
                    + f64::from(residual[i]);
            }
            let epilogue = Epilogue {
                bias: Some(&bias),
                per_channel: Some(&per_channel),
                residual: Some(&residual),
            };
            let mut out = vec![f32::NAN; expected.len()];
            conv2d(
                &x,
                &PackedConv::pack(&w, &s, precision),
                &s,
                &epilogue,
                &mut out,
            );
            assert_near(
                &out,
                &expected,
                tolerance(&s, precision),
                &format!("{s:?} {precision:?}"),
            );
        }
    }
}

/// Few pixels share out the columns of a heavy weight, many its rows, and both.
#[test]
fn a_convolution_with_a_heavy_weight_has_the_same_bits_in_any_batch() {
    let of = |n| shape([n, 20, 20, 100, 610], [3, 3], 1, [1; 4], false);
    let (all, one) = (of(3), of(1));
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        let w = PackedConv::pack(&values(one.co * one.ci * 9, 1), &one, precision);
        let x = values(3 * 400 * one.ci, 2);
        let convolved = |x: &[f32], shape: &ConvShape| {
            let mut out = vec![f32::NAN; shape.n * 400 * shape.co];
            conv2d(x, &w, shape, &Epilogue::default(), &mut out);
            out
        };
        let alone: Vec<f32> = x
            .chunks_exact(400 * one.ci)
            .flat_map(|x| convolved(x, &one))
            .collect();
        assert!(convolved(&x, &all) == alone, "{precision:?}");
    }
}

#[test]
fn linear_in_bytes_equals_its_definition_for_every_tail() {
    for (i, (m, k, n)) in [
        (1, 1, 1),
        (2, 3, 5),
        (7, 33, 17),
        (13, 64, 64),
        (5, 66, 129),
        (97, 130, 48),
        (3, 7000, 70),
    ]
    .into_iter()
    .enumerate()
    {
        let seed = i as u32 * 10;
        let (x, w) = (values(m * k, seed), values(n * k, seed + 1));
        let (bias, residual) = (values(n, seed + 2), values(m * n, seed + 3));
        let (in_rows, in_columns) = (naive::in_bytes(&x, k), naive::in_bytes(&w, k));
        let mut expected = naive::product(&in_rows, &in_columns, k, Precision::F32);
        for (i, expected) in expected.iter_mut().enumerate() {
            *expected += f64::from(bias[i % n]) + f64::from(residual[i]);
        }
        let mut out = vec![f32::NAN; m * n];
        let packed = PackedMatrix::pack(&w, n, k, Precision::Int8);
        linear(&x, &packed, Some(&bias), Some(&residual), &mut out);
        assert_near(&out, &expected, TOLERANCE, &format!("{m} {k} {n} in bytes"));
    }
}

#[test]
fn convolution_in_bytes_equals_its_definition() {
    for s in shapes() {
        let (picture, filter) = (s.h * s.w * s.ci, s.ci * s.kh * s.kw);
        let (x, w) = (values(s.n * picture, 1), values(s.co * filter, 2));
        let bias = values(s.co, 3);
        let (in_pictures, in_filters) = (naive::in_bytes(&x, picture), naive::in_bytes(&w, filter));
        let mut expected = naive::conv2d(&in_pictures, &in_filters, &s, Precision::F32);
        for (i, expected) in expected.iter_mut().enumerate() {
            *expected += f64::from(bias[i % s.co]);
        }
        let epilogue = Epilogue {
            bias: Some(&bias),
            ..Epilogue::default()
        };
        let mut out = vec![f32::NAN; expected.len()];
        let packed = PackedConv::pack(&w, &s, Precision::Int8);
        conv2d(&x, &packed, &s, &epilogue, &mut out);
        // Weights of a doubled picture are summed before they are rounded: another rounding, of a 254th at most.
        let tolerance = if s.upsample { 2e-2 } else { TOLERANCE };
        assert_near(&out, &expected, tolerance, &format!("{s:?} in bytes"));
    }
}

#[test]
fn bytes_keep_zeros_and_do_not_hide_what_is_not_a_number() {
    let (m, k, n) = (4, 70, 33);
    let (mut x, w) = (values(m * k, 1), values(n * k, 2));
    x[..k].fill(0.0);
    x[k + 5] = f32::NAN;
    x[2 * k + 69] = f32::INFINITY;
    let mut out = vec![0.0; m * n];
    linear(
        &x,
        &PackedMatrix::pack(&w, n, k, Precision::Int8),
        None,
        None,
        &mut out,
    );
    assert!(
        out[..n].iter().all(|value| *value == 0.0),
        "{:?}",
        &out[..n]
    );
    assert!(out[n..3 * n].iter().all(|value| !value.is_finite()));
    assert!(out[3 * n..].iter().all(|value| value.is_finite()));
}

#[test]
fn both_gradients_of_a_convolution_equal_their_definitions() {
    for s in shapes() {
        for precision in BOTH {
            let (x, w) = (
                values(s.n * s.h * s.w * s.ci, 1),
                values(s.co * s.ci * s.kh * s.kw, 2),
            );
            let dy = values(s.n * s.out_h() * s.out_w() * s.co, 3);
            let mut dx = vec![f32::NAN; x.len()];
            let packed = PackedConv::pack_for_backward_input(&w, &s, precision);
            conv2d_backward_input(&dy, &packed, &s, &mut dx);
            let expected = naive::conv2d_backward_input(&dy, &w, &s, precision);
            assert_near(
                &dx,
                &expected,
                tolerance(&s, precision),
                &format!("dx {s:?} {precision:?}"),
            );

            let mut dw = vec![f32::NAN; w.len()];
            conv2d_backward_weight(&x, &dy, &s, precision, &mut dw);
            let expected = naive::conv2d_backward_weight(&x, &dy, &s, precision);
            assert_near(
                &dw,
                &expected,
                TOLERANCE,
                &format!("dw {s:?} {precision:?}"),
            );
        }
    }
}

fn attention_shapes() -> Vec<AttentionShape> {
    let row = |(batch, heads, queries, keys, head_dim, causal)| AttentionShape {
        batch,
        heads,
        queries,
        keys,
        head_dim,
        causal,
    };
    [
        (1, 1, 1, 1, 1, false),
        (2, 3, 7, 5, 4, false),
        (1, 2, 50, 77, 40, false),
        (2, 2, 33, 33, 9, true),
        (1, 1, 130, 600, 16, false),
        (1, 1, 1100, 1100, 8, true),
        (1, 2, 65, 257, 80, false),
    ]
    .map(row)
    .to_vec()
}

#[test]
fn attention_equals_its_definition() {
    for s in attention_shapes() {
        for (precision, tolerance) in [(Precision::F32, 1e-5), (Precision::Bf16, 5e-3)] {
            let width = s.heads * s.head_dim;
            let q: Vec<f32> = values(s.batch * s.queries * width, 1)
                .iter()
                .map(|x| x * 3.0)
                .collect();
            let (k, v) = (
                values(s.batch * s.keys * width, 2),
                values(s.batch * s.keys * width, 3),
            );
            let expected = naive::attention(&q, &k, &v, &s, precision);
            let mut out = vec![f32::NAN; q.len()];
            let mut log_sums = vec![f32::NAN; s.batch * s.heads * s.queries];
            attention(&q, &k, &v, &s, precision, &mut out, Some(&mut log_sums));
            assert_near(
                &out,
                &expected.out,
                tolerance,
                &format!("{s:?} {precision:?}"),
            );
            assert_near(
                &log_sums,
                &expected.log_sums,
                1e-5,
                &format!("log sums {s:?} {precision:?}"),
            );
        }
    }
}

#[test]
fn the_gradients_of_attention_equal_the_chain_rule() {
    for s in attention_shapes() {
        for (precision, tolerance) in [(Precision::F32, 1e-5), (Precision::Bf16, 1.5e-2)] {
            let width = s.heads * s.head_dim;
            let (q, dout) = (
                values(s.batch * s.queries * width, 1),
                values(s.batch * s.queries * width, 4),
            );
            let (k, v) = (
                values(s.batch * s.keys * width, 2),
                values(s.batch * s.keys * width, 3),
            );
            let mut out = vec![0.0; q.len()];
            let mut log_sums = vec![0.0; s.batch * s.heads * s.queries];
            attention(&q, &k, &v, &s, precision, &mut out, Some(&mut log_sums));
            let mut got = [
                vec![f32::NAN; q.len()],
                vec![f32::NAN; k.len()],
                vec![f32::NAN; k.len()],
            ];
            let [dq, dk, dv] = &mut got;
            attention_backward(
                &q, &k, &v, &out, &dout, &log_sums, &s, precision, dq, dk, dv,
            );
            let expected = naive::attention_backward(&q, &k, &v, &dout, &s);
            for ((got, expected), name) in got.iter().zip(&expected).zip(["dq", "dk", "dv"]) {
                assert_near(
                    got,
                    expected,
                    tolerance,
                    &format!("{name} {s:?} {precision:?}"),
                );
            }
        }
    }
}

#[test]
fn every_lesser_instruction_set_passes_these_tests_too() {
    naive::repeat_with_lesser_instruction_sets();
}
