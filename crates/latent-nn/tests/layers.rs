//! Every operation and layer against what torch computes in f64, forward and backward.
//!
//! `fixtures/layers.safetensors` holds, per case, inputs, an upstream gradient `g`, the result `y` and the gradients
//! `d_<input>`; made by torch 2.15.

mod fixture;

use burn::tensor::Tensor;
use fixture::{Fixture, Leaf};
use latent_nn::layers::{
    Conv2d, Embedding, GroupNorm, LayerNorm, Linear, Sinusoid, TimestepEmbedding, timestep_sinusoid,
};
use latent_nn::ops::{self, AttentionOptions, ConvArguments, ConvOptions, LinearOptions};
use latent_nn::{Compute, Init, Precision, load_parameters, to_host};

fn options(stride: usize, padding: [usize; 4]) -> ConvOptions {
    ConvOptions {
        stride,
        padding,
        ..ConvOptions::new(Precision::F32)
    }
}

fn convolution_meets_torch(case: &str, options: ConvOptions) {
    let fixture = Fixture::open();
    let [x, w, b] = ["x", "w", "b"].map(|name| fixture.leaf(case, name));
    let added = ConvArguments {
        bias: Some(b.tensor()),
        ..ConvArguments::default()
    };
    let y = ops::conv2d(ops::to_nhwc(x.tensor()), w.tensor(), added, options);
    fixture.check(case, ops::to_nchw(y), &[("x", &x), ("w", &w), ("b", &b)]);
}

#[test]
fn convolutions_of_every_kernel_stride_and_padding_meet_torch() {
    convolution_meets_torch("conv2d_3x3", options(1, [1; 4]));
    convolution_meets_torch("conv2d_3x3_s2", options(2, [1; 4]));
    convolution_meets_torch("conv2d_1x1", options(1, [0; 4]));
    convolution_meets_torch("conv2d_4x4_s2", options(2, [1; 4]));
    convolution_meets_torch("conv2d_5x5_p2", options(1, [2; 4]));
    convolution_meets_torch("conv2d_asym_s2", options(2, [0, 0, 1, 1]));
}

#[test]
fn linear_meets_torch() {
    let fixture = Fixture::open();
    let [x, w, b] = ["x", "w", "b"].map(|name| fixture.leaf("linear", name));
    let options = LinearOptions::new(Precision::F32);
    let y = ops::linear(x.tensor::<3>(), w.tensor(), Some(b.tensor()), None, options);
    fixture.check("linear", y, &[("x", &x), ("w", &w), ("b", &b)]);
}

#[test]
fn group_norm_with_and_without_silu_meets_torch() {
    let fixture = Fixture::open();
    for (case, groups, eps, silu) in [
        ("group_norm_silu", 3, 1e-5, true),
        ("group_norm_eps6", 2, 1e-6, false),
    ] {
        let [x, w, b] = ["x", "w", "b"].map(|name| fixture.leaf(case, name));
        let options = ops::GroupNormOptions { groups, eps, silu };
        let y = ops::group_norm(ops::to_nhwc(x.tensor()), w.tensor(), b.tensor(), options);
        fixture.check(case, ops::to_nchw(y), &[("x", &x), ("w", &w), ("b", &b)]);
    }
}

#[test]
fn layer_norm_meets_torch() {
    let fixture = Fixture::open();
    let [x, w, b] = ["x", "w", "b"].map(|name| fixture.leaf("layer_norm", name));
    let y = ops::layer_norm(x.tensor::<3>(), w.tensor(), b.tensor(), 1e-5);
    fixture.check("layer_norm", y, &[("x", &x), ("w", &w), ("b", &b)]);
}

/// Multi-head attention with its four projections, `context` being what is attended to.
fn attended(leaves: &[Leaf; 5], x: Tensor<3>, context: Tensor<3>, causal: bool) -> Tensor<3> {
    let plain = LinearOptions::new(Precision::F32);
    let [wq, wk, wv, wo, bo] = leaves;
    let project = |x: &Tensor<3>, w: &Leaf| ops::linear(x.clone(), w.tensor(), None, None, plain);
    let options = AttentionOptions {
        causal,
        ..AttentionOptions::new(3, Precision::F32)
    };
    let (q, k, v) = (
        project(&x, wq),
        project(&context, wk),
        project(&context, wv),
    );
    let y = ops::attention(q, k, v, options);
    ops::linear(y, wo.tensor(), Some(bo.tensor()), None, plain)
}

#[test]
fn self_cross_and_causal_attention_meet_torch() {
    let fixture = Fixture::open();
    for (case, causal) in [
        ("mha_self", false),
        ("mha_cross", false),
        ("mha_causal", true),
    ] {
        let leaves = ["wq", "wk", "wv", "wo", "bo"].map(|name| fixture.leaf(case, name));
        let x = fixture.leaf(case, "x");
        let context = (case == "mha_cross").then(|| fixture.leaf(case, "c"));
        let attended_to = context.as_ref().unwrap_or(&x).tensor();
        let y = attended(&leaves, x.tensor(), attended_to, causal);
        let [wq, wk, wv, wo, bo] = &leaves;
        let mut wanted = vec![
            ("x", &x),
            ("wq", wq),
            ("wk", wk),
            ("wv", wv),
            ("wo", wo),
            ("bo", bo),
        ];
        wanted.extend(context.as_ref().map(|context| ("c", context)));
        fixture.check(case, y, &wanted);
    }
}

#[test]
fn geglu_behind_a_linear_layer_meets_torch() {
    let fixture = Fixture::open();
    let [x, w, b] = ["x", "w", "b"].map(|name| fixture.leaf("geglu", name));
    let options = LinearOptions::new(Precision::F32);
    let y = ops::linear(x.tensor::<3>(), w.tensor(), Some(b.tensor()), None, options);
    fixture.check("geglu", ops::geglu(y), &[("x", &x), ("w", &w), ("b", &b)]);
}

#[test]
fn activations_meet_torch() {
    let fixture = Fixture::open();
    type Function = fn(Tensor<2>) -> Tensor<2>;
    let rows: [(&str, Function); 3] = [
        ("act_silu", ops::silu),
        ("act_gelu", ops::gelu),
        ("act_quick_gelu", ops::quick_gelu),
    ];
    for (case, apply) in rows {
        let x = fixture.leaf(case, "x");
        fixture.check(case, apply(x.tensor()), &[("x", &x)]);
    }
}

#[test]
fn nearest_upsampling_meets_torch_by_two_and_to_odd_sizes() {
    let fixture = Fixture::open();
    for (case, size) in [
        ("upsample_nearest2x", [10, 6]),
        ("upsample_nearest_to", [9, 11]),
    ] {
        let x = fixture.leaf(case, "x");
        let y = ops::upsample_nearest(ops::to_nhwc(x.tensor()), size);
        fixture.check(case, ops::to_nchw(y), &[("x", &x)]);
    }
}

#[test]
fn an_upsampling_convolution_equals_upsampling_and_then_convolving() {
    let fixture = Fixture::open();
    let [x, w] = ["x", "w"].map(|name| fixture.leaf("conv2d_3x3", name));
    let plain = options(1, [1; 4]);
    let folded = ConvOptions {
        upsample: true,
        ..plain
    };
    let input = || ops::to_nhwc(x.tensor());
    let [_, h, w_, _] = input().dims();
    let bigger = ops::upsample_nearest(input(), [2 * h, 2 * w_]);
    let apart = ops::conv2d(bigger, w.tensor(), ConvArguments::default(), plain);
    let together = ops::conv2d(input(), w.tensor(), ConvArguments::default(), folded);
    fixture::assert_same_with_gradients(apart, together, &[&x, &w]);
}

#[test]
fn epilogues_equal_adding_afterwards() {
    let fixture = Fixture::open();
    let [x, w, b] = ["x", "w", "b"].map(|name| fixture.leaf("conv2d_3x3", name));
    let residual = fixture.leaf("conv2d_3x3", "g");
    let shift = Leaf::of(
        &fixture,
        (0..10).map(|i| i as f32 * 0.3 - 1.0).collect(),
        &[2, 5],
    );
    let input = || ops::to_nhwc(x.tensor());
    let other = || ops::to_nhwc(residual.tensor());
    let plain = options(1, [1; 4]);
    let bare = ops::conv2d(input(), w.tensor(), ConvArguments::default(), plain);
    let apart = bare
        + b.tensor::<1>().reshape([1, 1, 1, 5])
        + shift.tensor::<2>().reshape([2, 1, 1, 5])
        + other();
    let added = ConvArguments {
        bias: Some(b.tensor()),
        per_channel: Some(shift.tensor()),
        residual: Some(other()),
    };
    let together = ops::conv2d(input(), w.tensor(), added, plain);
    fixture::assert_same_with_gradients(apart, together, &[&x, &w, &b, &residual, &shift]);
}

#[test]
fn concatenation_equals_burns_own_with_gradients() {
    let fixture = Fixture::open();
    let [a, b] = [
        fixture.leaf("conv2d_3x3", "x"),
        fixture.leaf("conv2d_3x3", "g"),
    ];
    let parts = || (ops::to_nhwc(a.tensor()), ops::to_nhwc(b.tensor()));
    let (first, second) = parts();
    let apart = Tensor::cat(vec![first, second], 3);
    let (first, second) = parts();
    fixture::assert_same_with_gradients(apart, ops::concat(first, second), &[&a, &b]);
}

#[test]
fn embedding_meets_torch() {
    let fixture = Fixture::open();
    let compute = Compute::cpu(Precision::F32).autodiff();
    let table = Embedding::new([9, 5], &mut Init::empty(&compute));
    let table = fixture.loaded(table, "embedding", &[("weight", "w")]);
    let ids: Vec<u32> = fixture
        .integers("embedding/ids")
        .iter()
        .map(|&id| id as u32)
        .collect();
    let y = table.forward(compute.ids(&ids, [2, 3]));
    fixture.check_close("embedding/y_f64", &to_host(y.clone()).0);
    let upstream = fixture.leaf("embedding", "g").tensor::<3>().detach();
    let grads = latent_nn::training::Grads::of((y * upstream).sum(), &table);
    fixture.check_close("embedding/d_w_f64", &grads.get("weight").unwrap());
}

#[test]
fn layers_read_their_weights_by_the_files_names() {
    let fixture = Fixture::open();
    let init = &mut Init::empty(&Compute::cpu(Precision::F32));
    let names = [("weight", "w"), ("bias", "b")];
    let conv = fixture.loaded(Conv2d::new([3, 5], 3, init), "conv2d_3x3", &names);
    let x = fixture.leaf("conv2d_3x3", "x").tensor().without_autodiff();
    let y = ops::to_nchw(conv.forward(ops::to_nhwc(x)));
    fixture.check_close("conv2d_3x3/y_f64", &to_host(y).0);
    let linear = fixture.loaded(Linear::new([7, 11], init), "linear", &names);
    let x = fixture.leaf("linear", "x").tensor::<3>().without_autodiff();
    fixture.check_close("linear/y_f64", &to_host(linear.forward(x)).0);
    let norm = fixture.loaded(GroupNorm::new(3, 6, 1e-5, init), "group_norm_silu", &names);
    let x = fixture
        .leaf("group_norm_silu", "x")
        .tensor()
        .without_autodiff();
    let y = ops::to_nchw(norm.forward_silu(ops::to_nhwc(x)));
    fixture.check_close("group_norm_silu/y_f64", &to_host(y).0);
    let norm = fixture.loaded(LayerNorm::new(9, 1e-5, init), "layer_norm", &names);
    let x = fixture
        .leaf("layer_norm", "x")
        .tensor::<3>()
        .without_autodiff();
    fixture.check_close("layer_norm/y_f64", &to_host(norm.forward(x)).0);
}

#[test]
fn timestep_sinusoids_meet_diffusers_in_every_order_and_shift() {
    let fixture = Fixture::open();
    let timesteps = fixture.values("timestep_embedding/t");
    let compute = Compute::cpu(Precision::F32);
    for dim in [16, 32] {
        for flip in [false, true] {
            for shift in [0, 1] {
                let sinusoid = Sinusoid {
                    dim,
                    flip_sin_to_cos: flip,
                    freq_shift: f64::from(shift),
                };
                let found = to_host(timestep_sinusoid(&timesteps, &sinusoid, &compute)).0;
                let name = format!(
                    "timestep_embedding/dim{dim}_flip{}_shift{shift}",
                    u8::from(flip)
                );
                fixture.check_close(&name, &found);
            }
        }
    }
}

#[test]
fn a_timestep_embedding_is_two_linear_layers_with_silu_between() {
    let compute = Compute::cpu(Precision::F32);
    let embedding = TimestepEmbedding::new([8, 12], &mut Init::seeded(&compute, 5));
    let x = || compute.tensor((0..16).map(|i| i as f32 * 0.1).collect(), [2, 8]);
    let mut weights = std::collections::BTreeMap::new();
    latent_nn::visit_parameters(&embedding, |path, _, values| {
        weights.insert(path.to_owned(), values.to_vec());
    });
    let init = &mut Init::empty(&compute);
    let part = |layer: Linear, name: &str| {
        let read =
            |path: &str, _: &[usize]| Ok::<_, ()>(weights[&format!("{name}.{path}")].clone());
        load_parameters(layer, read).unwrap()
    };
    let first = part(Linear::new([8, 12], init), "linear_1");
    let second = part(Linear::new([12, 12], init), "linear_2");
    let by_hand = second.forward(ops::silu(first.forward(x())));
    assert_eq!(to_host(embedding.forward(x())), to_host(by_hand));
}
