//! Optimiser, averages, clipping and gradients against torch, and a tiny net that learns.

mod fixture;

use burn::module::Module;
use burn::tensor::Tensor;
use fixture::{Fixture, assert_close};
use latent_nn::layers::{Conv2d, GroupNorm, Linear};
use latent_nn::training::{
    AdamW, AverageWarmup, Grads, Muon, Optimizer, SideBySide, StateError, Step, with_own_leaves,
};
use latent_nn::{
    Compute, Init, Precision, export_parameters, load_parameters, named_parameters, to_host,
};

fn compute() -> Compute {
    Compute::cpu(Precision::F32).autodiff()
}

fn step(lr: f32) -> Step {
    Step {
        lr,
        max_grad_norm: None,
        average_decay: 0.97,
    }
}

/// A layer with one parameter, holding `values`.
fn holding(values: &[f32], shape: [usize; 2]) -> Linear {
    let layer = Linear::new([shape[1], shape[0]], &mut Init::empty(&compute())).without_bias();
    load_parameters(layer, |_, _| Ok::<_, ()>(values.to_vec())).unwrap()
}

fn held(layer: &Linear) -> Vec<f32> {
    to_host(layer.weight.val()).0
}

/// Gradients of exactly `gradient`.
fn pushing(layer: &Linear, gradient: &[f32]) -> Grads {
    let gradient = compute().tensor(gradient.to_vec(), layer.weight.dims());
    Grads::of((layer.weight.val() * gradient).sum(), layer)
}

#[test]
fn adamw_follows_torch_step_by_step() {
    let fixture = Fixture::open();
    let plain = AdamW::default();
    let other = AdamW {
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-6,
        weight_decay: 0.1,
    };
    for (case, settings, lr) in [
        ("optim_adamw", plain, 0.01),
        ("optim_adamw_b95", other, 0.03),
    ] {
        let mut layer = holding(&fixture.values(&format!("{case}/p0")), [4, 3]);
        let mut optimizer = Optimizer::new(settings, false);
        let grads = fixture.values(&format!("{case}/grads"));
        let after = fixture.values(&format!("{case}/p_after"));
        for (gradient, expected) in grads.chunks(12).zip(after.chunks(12)) {
            let grads = pushing(&layer, gradient);
            layer = optimizer.step(layer, grads, step(lr)).0;
            assert_close(case, expected, &held(&layer));
        }
    }
}

#[test]
fn averaged_weights_follow_torch() {
    let fixture = Fixture::open();
    let (weights, expected) = (fixture.values("ema/p"), fixture.values("ema/ema"));
    let mut optimizer = Optimizer::new(AdamW::default(), true);
    let mut layer = holding(&weights[..7], [7, 1]);
    // A learning rate of 0 leaves the weights to us: each row is put in and averaged.
    for (i, row) in weights.chunks(7).enumerate() {
        layer = load_parameters(layer, |_, _| Ok::<_, ()>(row.to_vec())).unwrap();
        let grads = pushing(&layer, &[1.0; 7]);
        layer = optimizer.step(layer, grads, step(0.0)).0;
        if i > 0 {
            assert_close(
                "ema",
                &expected[7 * (i - 1)..7 * i],
                &held(&optimizer.averaged(&layer)),
            );
        }
        assert_eq!(held(&layer), row, "the trained weights stay");
    }
}

#[test]
fn the_average_warms_up_as_diffusers_does() {
    let warmup = AverageWarmup {
        max: 0.9999,
        inv_gamma: 1.0,
        power: 0.75,
    };
    let decays: Vec<f32> = (1..=6).map(|update| warmup.decay(update) as f32).collect();
    assert_close(
        "decay",
        &Fixture::open().values("ema_warmup/decay"),
        &decays,
    );
    assert_eq!(warmup.decay(u64::MAX), 0.9999);
}

#[test]
fn gradients_are_clipped_by_their_common_norm_as_in_torch() {
    #[derive(Module, Debug)]
    struct Two {
        first: Linear,
        second: Linear,
    }
    let fixture = Fixture::open();
    let (first, second) = (
        fixture.values("clip_grad/g1"),
        fixture.values("clip_grad/g2"),
    );
    let model = Two {
        first: holding(&[0.0; 5], [5, 1]),
        second: holding(&[0.0; 6], [2, 3]),
    };
    let along = |layer: &Linear, gradient: &[f32]| {
        let gradient = compute().tensor(gradient.to_vec(), layer.weight.dims());
        (layer.weight.val() * gradient).sum()
    };
    let loss = along(&model.first, &first) + along(&model.second, &second);
    let grads = Grads::of(loss, &model);
    let mut optimizer = Optimizer::new(AdamW::default(), false);
    let clip = Step {
        max_grad_norm: Some(1.0),
        ..step(0.1)
    };
    let (_, report) = optimizer.step(model, grads, clip);
    assert!(report.clipped && report.finite);
    assert_close(
        "norm",
        &fixture.values("clip_grad/norm"),
        &[report.grad_norm as f32],
    );
    // After one step the running mean is a tenth of the clipped gradient.
    for saved in optimizer.state().tensors {
        let expected = match saved.path.as_str() {
            "m.first.weight" => fixture.values("clip_grad/c1"),
            "m.second.weight" => fixture.values("clip_grad/c2"),
            _ => continue,
        };
        let clipped: Vec<f32> = saved.values.iter().map(|mean| mean * 10.0).collect();
        assert_close(&saved.path, &expected, &clipped);
    }
}

#[test]
fn accumulated_parts_of_a_batch_equal_the_whole_batch() {
    let layer = Linear::new([3, 2], &mut Init::seeded(&compute(), 1));
    let x = |rows: std::ops::Range<usize>| {
        let values = rows
            .clone()
            .flat_map(|i| [i as f32, 1.0 - i as f32, 0.5])
            .collect();
        compute().tensor(values, [rows.len(), 3])
    };
    let gradients = |rows| {
        let y = layer.forward(x(rows));
        Grads::of((y.clone() * y).mean(), &layer)
    };
    let whole = gradients(0..4);
    let mut parts = gradients(0..2);
    parts.add(gradients(2..4));
    parts.scale(0.5);
    for path in whole.paths() {
        assert_close(path, &whole.get(path).unwrap(), &parts.get(path).unwrap());
    }
    assert_eq!(whole.paths().count(), 2);
}

#[test]
fn a_gradient_that_is_no_number_changes_nothing() {
    let layer = holding(&[1.0, 2.0], [2, 1]);
    let mut optimizer = Optimizer::new(AdamW::default(), true);
    let grads = pushing(&layer, &[f32::NAN, 1.0]);
    let (layer, report) = optimizer.step(layer, grads, step(0.1));
    assert!(!report.finite);
    assert_eq!(held(&layer), [1.0, 2.0]);
    assert_eq!(optimizer.steps(), 0);
}

#[test]
fn frozen_layers_stay_as_they_are() {
    let mut net = Net::new(3);
    net.first = net.first.no_grad();
    let before = export_parameters(&net);
    let (after, _, _) = train(net, Optimizer::new(AdamW::default(), false), 3);
    for (before, after) in before.iter().zip(export_parameters(&after)) {
        let same = before.values == after.values;
        assert_eq!(same, before.path.starts_with("first"), "{}", before.path);
    }
}

/// A network small enough to learn in a second, with every kind of layer a residual block has.
#[derive(Module, Debug)]
struct Net {
    first: Conv2d,
    norm: GroupNorm,
    second: Conv2d,
    shift: Linear,
}

impl Net {
    fn new(seed: u64) -> Self {
        let init = &mut Init::seeded(&compute(), seed);
        Self {
            first: Conv2d::new([2, 8], 3, init),
            norm: GroupNorm::new(4, 8, 1e-5, init),
            second: Conv2d::new([8, 2], 3, init),
            shift: Linear::new([2, 8], init),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let shift = self
            .shift
            .forward(compute().tensor(vec![1.0, -1.0, 0.5, 2.0], [2, 2]));
        let epilogue = latent_nn::layers::Epilogue {
            per_channel: Some(shift),
            residual: None,
        };
        let y = self.first.forward_with(x.clone(), epilogue);
        self.second.forward_residual(self.norm.forward_silu(y), x)
    }
}

/// Loss before the last step, after training `net` to swap two pictures.
fn train(mut net: Net, mut optimizer: Optimizer, steps: usize) -> (Net, Optimizer, f32) {
    let pixels = |phase: f32| {
        (0..2 * 6 * 6 * 2)
            .map(|i| (i as f32 * 0.7 + phase).sin())
            .collect()
    };
    let mut last = f32::NAN;
    for _ in 0..steps {
        let x = compute().tensor(pixels(0.0), [2, 6, 6, 2]);
        let target = compute().tensor(pixels(2.0), [2, 6, 6, 2]);
        let difference = net.forward(x) - target;
        let loss = (difference.clone() * difference).mean();
        last = to_host(loss.clone()).0[0];
        let grads = Grads::of(loss, &net);
        net = optimizer.step(net, grads, step(0.02)).0;
    }
    (net, optimizer, last)
}

#[test]
fn a_tiny_net_learns_its_pictures_by_heart() {
    let settings = AdamW {
        weight_decay: 0.0,
        ..AdamW::default()
    };
    let (_, _, first) = train(Net::new(3), Optimizer::new(settings, false), 1);
    let (_, _, last) = train(Net::new(3), Optimizer::new(settings, false), 200);
    assert!(
        last < first / 100.0,
        "loss only fell from {first} to {last}"
    );
}

const MUON: Muon = Muon {
    momentum: 0.95,
    precision: Precision::F32,
};

#[test]
fn resuming_from_a_saved_state_gives_the_same_bits() {
    for muon in [None, Some(MUON)] {
        resuming_gives_the_same_bits(muon);
    }
}

fn resuming_gives_the_same_bits(muon: Option<Muon>) {
    let new = || Optimizer::new(AdamW::default(), true).with_muon(muon);
    let (whole, _, _) = train(Net::new(3), new(), 6);
    let (half, optimizer, _) = train(Net::new(3), new(), 3);
    // Only plain values cross the break, as they do through a file.
    let (weights, state) = (export_parameters(&half), optimizer.state());
    let fresh = load_parameters(Net::new(99), |path, _| {
        let found = weights.iter().find(|saved| saved.path == path);
        found.map(|saved| saved.values.clone()).ok_or(())
    });
    let fresh = fresh.unwrap();
    let optimizer = new().with_state(state, &fresh).unwrap();
    assert_eq!(optimizer.steps(), 3);
    let (resumed, optimizer, _) = train(fresh, optimizer, 3);
    assert_eq!(export_parameters(&whole), export_parameters(&resumed));
    let averages = export_parameters(&optimizer.averaged(&resumed));
    assert_ne!(
        averages,
        export_parameters(&resumed),
        "the average lags behind"
    );
}

#[test]
fn muon_moves_matrices_and_leaves_the_rest_to_adamw() {
    let (_, optimizer, _) = train(
        Net::new(3),
        Optimizer::new(AdamW::default(), false).with_muon(Some(MUON)),
        1,
    );
    for parameter in named_parameters(&Net::new(3)) {
        let square = format!("v.{}", parameter.path);
        let has_square = optimizer
            .state()
            .tensors
            .iter()
            .any(|saved| saved.path == square);
        assert_eq!(has_square, parameter.shape.len() == 1, "{}", parameter.path);
    }
}

#[test]
fn muon_learns_the_pictures_by_heart_too() {
    let settings = AdamW {
        weight_decay: 0.0,
        ..AdamW::default()
    };
    let new = || Optimizer::new(settings, false).with_muon(Some(MUON));
    let (_, _, first) = train(Net::new(3), new(), 1);
    let (_, _, last) = train(Net::new(3), new(), 200);
    assert!(
        last < first / 100.0,
        "loss only fell from {first} to {last}"
    );
}

#[test]
fn passes_side_by_side_give_the_gradients_of_passes_in_turn() {
    let layer = Linear::new([3, 2], &mut Init::seeded(&compute(), 1));
    let pass = |_, scale: f32| {
        let layer = with_own_leaves(&layer);
        let x = (0..12).map(|i| scale * i as f32).collect();
        let y = layer.forward(compute().tensor(x, [4, 3]));
        Grads::of((y.clone() * y).mean(), &layer)
    };
    let scales: Vec<f32> = (1..9).map(|i| i as f32 / 8.0).collect();
    let beside = SideBySide::new(4, &compute()).unwrap();
    let found = beside.run(scales.clone(), pass);
    for (found, scale) in found.iter().zip(scales) {
        let expected = pass(0, scale);
        for path in expected.paths() {
            assert_eq!(found.get(path), expected.get(path), "{path} of {scale}");
        }
        assert_eq!(found.paths().count(), 2);
    }
}

#[test]
fn a_state_of_another_model_is_refused_and_the_tensor_named() {
    let (net, optimizer, _) = train(Net::new(3), Optimizer::new(AdamW::default(), false), 1);
    let resume = |edit: fn(&mut latent_nn::training::OptimizerState)| {
        let mut state = optimizer.state();
        edit(&mut state);
        Optimizer::new(AdamW::default(), false)
            .with_state(state, &net)
            .unwrap_err()
    };
    let renamed = resume(|state| state.tensors[0].path = "m.nothing".to_owned());
    assert!(matches!(renamed, StateError::Missing { name } if name.starts_with("m.")));
    let added = resume(|state| {
        let mut extra = state.tensors[0].clone();
        extra.path = "m.nothing".to_owned();
        state.tensors.push(extra);
    });
    assert_eq!(
        added,
        StateError::Unknown {
            name: "m.nothing".to_owned()
        }
    );
    let cut = resume(|state| state.tensors[0].values.truncate(1));
    assert!(matches!(cut, StateError::Length { found: 1, .. }));
}

#[test]
fn paths_are_fields_and_indices_joined_by_dots() {
    #[derive(Module, Debug)]
    struct Attention {
        to_q: Linear,
        to_out: Vec<Linear>,
        shortcut: Option<Conv2d>,
        absent: Option<Conv2d>,
    }
    let init = &mut Init::empty(&compute());
    let model = Attention {
        to_q: Linear::new([2, 2], init).without_bias(),
        to_out: vec![Linear::new([2, 3], init)],
        shortcut: Some(Conv2d::new([2, 2], 1, init)),
        absent: None,
    };
    let paths: Vec<String> = named_parameters(&model)
        .into_iter()
        .map(|named| named.path)
        .collect();
    let expected = [
        "to_q.weight",
        "to_out.0.weight",
        "to_out.0.bias",
        "shortcut.weight",
        "shortcut.bias",
    ];
    assert_eq!(paths, expected);
    assert_eq!(named_parameters(&model)[1].shape, [3, 2]);
    assert_eq!(latent_nn::parameter_count(&model), 4 + 6 + 3 + 4 + 2);
}

#[test]
fn a_failed_read_is_returned_and_ends_loading() {
    let mut asked = 0;
    let failed = load_parameters(Net::new(1), |path, _| {
        asked += 1;
        Err::<Vec<f32>, _>(path.to_owned())
    });
    assert_eq!(failed.unwrap_err(), "first.weight");
    assert_eq!(asked, 1);
}
