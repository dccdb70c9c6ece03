//! Every layer against torch's values, forward and backward (`fixtures/layers.safetensors`).
//!
//! Torch's files are channels-first; pictures are turned at the border.

mod naive;

use latent_kernels::*;
use naive::assert_near;
use safetensors::{Dtype, SafeTensors};

/// Rounding of f32 on values of size one.
const TOLERANCE: f64 = 1e-5;

static FILE: &[u8] = include_bytes!("fixtures/layers.safetensors");

/// A tensor's shape and values.
struct Stored {
    shape: Vec<usize>,
    values: Vec<f64>,
}

impl Stored {
    fn f32(&self) -> Vec<f32> {
        self.values.iter().map(|value| *value as f32).collect()
    }

    /// `[n, c, h, w]` as `[n, h, w, c]`.
    fn channels_last(&self) -> Self {
        let [n, c, h, w] = self.shape[..] else {
            panic!("not pictures: {:?}", self.shape)
        };
        let at = |i: usize| {
            let (channel, pixel, picture) = (i % c, i / c % (h * w), i / c / (h * w));
            self.values[(picture * c + channel) * h * w + pixel]
        };
        Self {
            shape: vec![n, h, w, c],
            values: (0..n * c * h * w).map(at).collect(),
        }
    }
}

fn stored(name: &str) -> Stored {
    let file = SafeTensors::deserialize(FILE).expect("the fixture is a safetensors file");
    let tensor = file
        .tensor(name)
        .unwrap_or_else(|_| panic!("the fixture has no `{name}`"));
    let bytes = tensor.data();
    let values = match tensor.dtype() {
        Dtype::F32 => {
            let numbers = bytes
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes(b.try_into().expect("4 bytes")));
            numbers.map(f64::from).collect()
        }
        Dtype::F64 => bytes
            .chunks_exact(8)
            .map(|b| f64::from_le_bytes(b.try_into().expect("8 bytes")))
            .collect(),
        other => panic!("`{name}` is {other:?}"),
    };
    Stored {
        shape: tensor.shape().to_vec(),
        values,
    }
}

#[test]
fn convolutions_and_their_gradients_are_torchs() {
    for (name, stride, padding) in [
        ("conv2d_3x3", 1, [1; 4]),
        ("conv2d_3x3_s2", 2, [1; 4]),
        ("conv2d_1x1", 1, [0; 4]),
        ("conv2d_4x4_s2", 2, [1; 4]),
        ("conv2d_5x5_p2", 1, [2; 4]),
        ("conv2d_asym_s2", 2, [0, 0, 1, 1]),
    ] {
        convolution_is_torchs(name, stride, padding);
    }
}

/// One convolution of the fixture, forward and backward.
fn convolution_is_torchs(name: &str, stride: usize, padding: [usize; 4]) {
    let get = |part: &str| stored(&format!("{name}/{part}"));
    let (x, w, g) = (get("x").channels_last(), get("w"), get("g").channels_last());
    let (&[n, h, width, ci], &[co, _, kh, kw]) = (&x.shape[..], &w.shape[..]) else {
        panic!("pictures and a weight")
    };
    let shape = ConvShape {
        n,
        h,
        w: width,
        ci,
        co,
        kh,
        kw,
        stride,
        padding,
        upsample: false,
    };
    let (x, w, g, bias) = (x.f32(), w.f32(), g.f32(), get("b").f32());
    let (mut y, mut dx, mut dw, mut db) = (g.clone(), x.clone(), w.clone(), bias.clone());
    let epilogue = Epilogue {
        bias: Some(&bias),
        ..Epilogue::default()
    };
    let packed = PackedConv::pack(&w, &shape, Precision::F32);
    conv2d(&x, &packed, &shape, &epilogue, &mut y);
    let packed = PackedConv::pack_for_backward_input(&w, &shape, Precision::F32);
    conv2d_backward_input(&g, &packed, &shape, &mut dx);
    conv2d_backward_weight(&x, &g, &shape, Precision::F32, &mut dw);
    column_sums(&g, co, &mut db);
    let check = |got: &[f32], expected: &Stored, what: &str| {
        assert_near(got, &expected.values, TOLERANCE, &format!("{name} {what}"));
    };
    check(&y, &get("y_f64").channels_last(), "y");
    check(&dx, &get("d_x_f64").channels_last(), "dx");
    check(&dw, &get("d_w_f64"), "dw");
    check(&db, &get("d_b_f64"), "db");
}

#[test]
fn a_linear_layer_and_its_gradients_are_torchs() {
    let (x, w, bias, g) = (
        stored("linear/x"),
        stored("linear/w"),
        stored("linear/b"),
        stored("linear/g"),
    );
    let [n, k] = w.shape[..] else {
        panic!("a weight")
    };
    let (x, w, bias, g) = (x.f32(), w.f32(), bias.f32(), g.f32());
    let m = x.len() / k;
    let (mut y, mut dx, mut dw) = (g.clone(), x.clone(), w.clone());
    linear(
        &x,
        &PackedMatrix::pack(&w, n, k, Precision::F32),
        Some(&bias),
        None,
        &mut y,
    );
    linear(
        &g,
        &PackedMatrix::pack_transposed(&w, k, n, Precision::F32),
        None,
        None,
        &mut dx,
    );
    linear_backward_weight(&x, &g, m, k, n, Precision::F32, &mut dw);
    assert_near(&y, &stored("linear/y_f64").values, TOLERANCE, "y");
    assert_near(&dx, &stored("linear/d_x_f64").values, TOLERANCE, "dx");
    assert_near(&dw, &stored("linear/d_w_f64").values, TOLERANCE, "dw");
}

#[test]
fn group_norms_and_their_gradients_are_torchs() {
    for (name, groups, eps, silu) in [
        ("group_norm_silu", 3, 1e-5, true),
        ("group_norm_eps6", 2, 1e-6, false),
    ] {
        let get = |part: &str| stored(&format!("{name}/{part}"));
        let x = get("x").channels_last();
        let [n, h, w, channels] = x.shape[..] else {
            panic!("pictures")
        };
        let shape = GroupNormShape {
            n,
            positions: h * w,
            channels,
            groups,
            eps,
            silu,
        };
        let (x, g) = (x.f32(), get("g").channels_last().f32());
        let (gamma, beta) = (get("w").f32(), get("b").f32());
        let (mut y, mut stats) = (x.clone(), vec![0.0; n * groups * 2]);
        group_norm(&x, &gamma, &beta, &shape, &mut y, &mut stats);
        assert_near(&y, &get("y_f64").channels_last().values, TOLERANCE, name);
        let (mut dx, mut dgamma, mut dbeta) = (x.clone(), gamma.clone(), beta.clone());
        group_norm_backward(
            &x,
            &g,
            &gamma,
            &beta,
            &stats,
            &shape,
            &mut dx,
            &mut dgamma,
            &mut dbeta,
        );
        assert_near(
            &dx,
            &get("d_x_f64").channels_last().values,
            TOLERANCE,
            &format!("{name} dx"),
        );
        assert_near(
            &dgamma,
            &get("d_w_f64").values,
            TOLERANCE,
            &format!("{name} dw"),
        );
        assert_near(
            &dbeta,
            &get("d_b_f64").values,
            TOLERANCE,
            &format!("{name} db"),
        );
    }
}

#[test]
fn layer_norm_and_its_gradients_are_torchs() {
    let get = |part: &str| stored(&format!("layer_norm/{part}"));
    let (x, g, gamma, beta) = (
        get("x").f32(),
        get("g").f32(),
        get("w").f32(),
        get("b").f32(),
    );
    let mut y = x.clone();
    layer_norm(&x, &gamma, &beta, 1e-5, &mut y);
    assert_near(&y, &get("y_f64").values, TOLERANCE, "y");
    let (mut dx, mut dgamma, mut dbeta) = (x.clone(), gamma.clone(), beta.clone());
    layer_norm_backward(&x, &g, &gamma, 1e-5, &mut dx, &mut dgamma, &mut dbeta);
    assert_near(&dx, &get("d_x_f64").values, TOLERANCE, "dx");
    assert_near(&dgamma, &get("d_w_f64").values, TOLERANCE, "dw");
    assert_near(&dbeta, &get("d_b_f64").values, TOLERANCE, "db");
}

#[test]
fn activations_and_their_slopes_are_torchs() {
    for (name, kind) in [
        ("act_silu", Activation::Silu),
        ("act_gelu", Activation::Gelu),
        ("act_quick_gelu", Activation::QuickGelu),
    ] {
        let get = |part: &str| stored(&format!("{name}/{part}"));
        let (x, g) = (get("x").f32(), get("g").f32());
        let (mut y, mut dx) = (x.clone(), x.clone());
        activation(&x, kind, &mut y);
        activation_backward(&x, &g, kind, &mut dx);
        assert_near(&y, &get("y_f64").values, 1e-6, name);
        assert_near(&dx, &get("d_x_f64").values, 1e-6, &format!("{name} dx"));
    }
}

#[test]
fn geglu_behind_its_projection_and_its_gradients_are_torchs() {
    let get = |part: &str| stored(&format!("geglu/{part}"));
    let (x, w, bias, g) = (
        get("x").f32(),
        get("w").f32(),
        get("b").f32(),
        get("g").f32(),
    );
    let (k, n) = (6, 16);
    let m = x.len() / k;
    let mut projected = vec![0.0; m * n];
    linear(
        &x,
        &PackedMatrix::pack(&w, n, k, Precision::F32),
        Some(&bias),
        None,
        &mut projected,
    );
    let mut y = g.clone();
    geglu(&projected, n / 2, &mut y);
    assert_near(&y, &get("y_f64").values, TOLERANCE, "y");
    let mut dprojected = projected.clone();
    geglu_backward(&projected, &g, n / 2, &mut dprojected);
    let (mut dx, mut dw, mut db) = (x.clone(), w.clone(), bias.clone());
    linear(
        &dprojected,
        &PackedMatrix::pack_transposed(&w, k, n, Precision::F32),
        None,
        None,
        &mut dx,
    );
    linear_backward_weight(&x, &dprojected, m, k, n, Precision::F32, &mut dw);
    column_sums(&dprojected, n, &mut db);
    assert_near(&dx, &get("d_x_f64").values, TOLERANCE, "dx");
    assert_near(&dw, &get("d_w_f64").values, TOLERANCE, "dw");
    assert_near(&db, &get("d_b_f64").values, TOLERANCE, "db");
}

/// `x [m, k] @ w [n, k]^T`.
fn project(x: &[f32], w: &[f32], k: usize) -> Vec<f32> {
    let n = w.len() / k;
    let mut y = vec![0.0; x.len() / k * n];
    linear(
        x,
        &PackedMatrix::pack(w, n, k, Precision::F32),
        None,
        None,
        &mut y,
    );
    y
}

/// The gradient of that `x`.
fn project_back(dy: &[f32], w: &[f32], k: usize) -> Vec<f32> {
    let n = w.len() / k;
    let mut dx = vec![0.0; dy.len() / n * k];
    linear(
        dy,
        &PackedMatrix::pack_transposed(w, k, n, Precision::F32),
        None,
        None,
        &mut dx,
    );
    dx
}

fn weight_gradient(x: &[f32], dy: &[f32], k: usize, n: usize) -> Vec<f32> {
    let mut dw = vec![0.0; n * k];
    linear_backward_weight(x, dy, x.len() / k, k, n, Precision::F32, &mut dw);
    dw
}

/// What a fixture's attention reads: sequences, their projections and the output's gradient.
struct Attending {
    name: &'static str,
    shape: AttentionShape,
    /// Widths of the queries' sequence and of the keys'.
    widths: [usize; 2],
    x: Vec<f32>,
    /// The keys' sequence; `x` itself where `to_itself`.
    c: Vec<f32>,
    to_itself: bool,
    g: Vec<f32>,
    /// Weights of queries, keys, values and output.
    weights: [Vec<f32>; 4],
}

/// Queries, keys and values, and what attention made of them.
struct Attended {
    qkv: [Vec<f32>; 3],
    mixed: Vec<f32>,
    sums: Vec<f32>,
}

impl Attending {
    fn read(name: &'static str, causal: bool, context: &str) -> Self {
        let get = |part: &str| stored(&format!("{name}/{part}"));
        let (x, c) = (get("x"), get(context));
        let [batch, queries, width] = x.shape[..] else {
            panic!("sequences")
        };
        Self {
            name,
            shape: AttentionShape {
                batch,
                heads: 3,
                queries,
                keys: c.shape[1],
                head_dim: width / 3,
                causal,
            },
            widths: [width, c.shape[2]],
            x: x.f32(),
            c: c.f32(),
            to_itself: context == "x",
            g: get("g").f32(),
            weights: ["wq", "wk", "wv", "wo"].map(|part| get(part).f32()),
        }
    }

    fn check(&self, got: &[f32], part: &str) {
        let (name, expected) = (self.name, stored(&format!("{}/{part}_f64", self.name)));
        assert_near(got, &expected.values, TOLERANCE, &format!("{name} {part}"));
    }

    /// Forward, with the output projected and checked.
    fn forward(&self) -> Attended {
        let ([width, from], s) = (self.widths, &self.shape);
        let [wq, wk, wv, wo] = &self.weights;
        let q = project(&self.x, wq, width);
        let (k, v) = (project(&self.c, wk, from), project(&self.c, wv, from));
        let (mut mixed, mut sums) = (q.clone(), vec![0.0; s.batch * s.heads * s.queries]);
        attention(&q, &k, &v, s, Precision::F32, &mut mixed, Some(&mut sums));
        let mut y = project(&mixed, wo, width);
        let bias = stored(&format!("{}/bo", self.name)).f32();
        for (y, bias) in y.iter_mut().zip(bias.iter().cycle()) {
            *y += bias;
        }
        self.check(&y, "y");
        Attended {
            qkv: [q, k, v],
            mixed,
            sums,
        }
    }

    /// Backward, every gradient checked.
    fn backward(&self, attended: &Attended) {
        let ([width, from], s) = (self.widths, &self.shape);
        let [wq, wk, wv, wo] = &self.weights;
        let Attended {
            qkv: [q, k, v],
            mixed,
            sums,
        } = attended;
        let dmixed = project_back(&self.g, wo, width);
        let (mut dq, mut dk, mut dv) = (q.clone(), k.clone(), v.clone());
        let f32 = Precision::F32;
        attention_backward(
            q, k, v, mixed, &dmixed, sums, s, f32, &mut dq, &mut dk, &mut dv,
        );
        self.check(&weight_gradient(mixed, &self.g, width, width), "d_wo");
        self.check(&weight_gradient(&self.x, &dq, width, width), "d_wq");
        self.check(&weight_gradient(&self.c, &dk, from, width), "d_wk");
        self.check(&weight_gradient(&self.c, &dv, from, width), "d_wv");
        let mut dx = project_back(&dq, wq, width);
        let (through_k, through_v) = (project_back(&dk, wk, from), project_back(&dv, wv, from));
        let both = through_k.iter().zip(&through_v);
        let dc: Vec<f32> = both.map(|(a, b)| a + b).collect();
        if self.to_itself {
            dx.iter_mut().zip(&dc).for_each(|(dx, dc)| *dx += dc);
        } else {
            self.check(&dc, "d_c");
        }
        self.check(&dx, "d_x");
    }
}

#[test]
fn attention_between_its_projections_and_its_gradients_are_torchs() {
    for (name, causal, context) in [
        ("mha_self", false, "x"),
        ("mha_causal", true, "x"),
        ("mha_cross", false, "c"),
    ] {
        let case = Attending::read(name, causal, context);
        case.backward(&case.forward());
    }
}

#[test]
fn adamw_walks_as_torchs() {
    for (name, lr, beta2, eps, weight_decay) in [
        ("optim_adamw", 0.01, 0.999, 1e-8, 0.01),
        ("optim_adamw_b95", 0.03, 0.95, 1e-6, 0.1),
    ] {
        let mut p = stored(&format!("{name}/p0")).f32();
        let (grads, after) = (
            stored(&format!("{name}/grads")).f32(),
            stored(&format!("{name}/p_after")).values,
        );
        let (mut m, mut v) = (vec![0.0; p.len()], vec![0.0; p.len()]);
        let len = p.len();
        for (i, (grads, after)) in grads.chunks(len).zip(after.chunks(len)).enumerate() {
            let rule = AdamW {
                lr,
                beta1: 0.9,
                beta2,
                eps,
                weight_decay,
                step: i as u64 + 1,
            };
            let doubled: Vec<f32> = grads.iter().map(|g| 2.0 * g).collect();
            rule.step(&mut p, &doubled, &mut m, &mut v, None, 0.5);
            assert_near(&p, after, 1e-6, name);
        }
    }
}

#[test]
fn the_weights_average_walks_as_torchs() {
    let (p, expected) = (stored("ema/p").f32(), stored("ema/ema").values);
    let len = 7;
    let mut ema = p[..len].to_vec();
    for (p, expected) in p[len..].chunks(len).zip(expected.chunks(len)) {
        // With a learning rate of 0 the weights stay as they are.
        let rule = AdamW {
            lr: 0.0,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
            step: 1,
        };
        let (mut p, mut m, mut v) = (p.to_vec(), vec![0.0; len], vec![0.0; len]);
        rule.step(
            &mut p,
            &vec![1.0; len],
            &mut m,
            &mut v,
            Some((&mut ema, 0.97)),
            1.0,
        );
        assert_near(&ema, expected, 1e-6, "ema");
    }
}

#[test]
fn every_lesser_instruction_set_passes_these_tests_too() {
    naive::repeat_with_lesser_instruction_sets();
}
