use super::*;
use crate::layers::{Conv2d, GroupNorm, Linear};
use crate::{Compute, Init, to_host};

fn compute() -> Compute {
    Compute::cpu(Precision::F32)
}

#[test]
fn a_rehearsal_computes_nothing_and_counts_what_the_operations_would_do() {
    let init = &mut Init::seeded(&compute(), 1);
    let (conv, linear) = (Conv2d::new([8, 16], 3, init), Linear::new([16, 4], init));
    let (y, parts) = rehearse(|| {
        let x = compute().tensor(vec![1.0; 2 * 20 * 20 * 8], [2, 20, 20, 8]);
        evaluation(Part::Decoder, || linear.forward(conv.forward(x)))
    });
    let (values, shape) = to_host(y);
    assert_eq!(shape, [2, 20, 20, 4]);
    assert!(values.iter().all(|value| *value == 0.0));
    assert_eq!((parts.len(), parts[0].part), (1, Part::Decoder));
    let part = &parts[0];
    assert_eq!(part.evaluations, 1);
    let flops: Vec<(OpKind, f64)> = part.costs.iter().map(|c| (c.kind, c.flops)).collect();
    let positions = (2 * 20 * 20) as f64;
    assert_eq!(
        flops,
        [
            (OpKind::Convolution, 2.0 * positions * (9 * 8 * 16) as f64),
            (OpKind::Linear, 2.0 * positions * (16 * 4) as f64)
        ]
    );
    assert_eq!(part.packed, 9 * 8 * 16 + 16 * 4);
}

#[test]
fn a_rehearsal_holds_each_result_as_long_as_its_last_user() {
    let init = &mut Init::seeded(&compute(), 1);
    let norm = GroupNorm::new(1, 4, 1e-5, init);
    let len = 4 * 4096;
    let (_, parts) = rehearse(|| {
        let x = compute().tensor(vec![0.0; len], [1, 4096, 4]);
        // At most two results of the chain are there at once, whatever its length.
        (0..9).fold(x, |x, _| norm.forward(x))
    });
    // What was dropped may wait for its next use, by a quarter of what was in use.
    let bytes = 4 * len;
    assert!(
        (2 * bytes..=3 * bytes).contains(&parts[0].peak),
        "{parts:?}"
    );
    let (_, parts) = rehearse(|| {
        let x = compute().tensor(vec![0.0; len], [1, 4096, 4]);
        (0..9).map(|_| norm.forward(x.clone())).collect::<Vec<_>>()
    });
    assert_eq!(parts[0].peak, 9 * bytes);
}

#[test]
fn packed_weights_count_once_and_until_they_are_forgotten() {
    let init = &mut Init::seeded(&compute(), 1);
    let (first, second) = (Linear::new([256, 256], init), Linear::new([256, 256], init));
    let peak = |forget: bool| {
        let (_, parts) = rehearse(|| {
            let x = compute().tensor(vec![0.0; 256], [1, 256]);
            let x = first.forward(first.forward(x));
            if forget {
                crate::ops::forget_packed(&first);
            }
            second.forward(x)
        });
        parts[0].peak
    };
    let one = latent_kernels::PackedMatrix::bytes(256, 256, Precision::F32);
    // A weight's values are there beside its packed copy while it is packed.
    assert_eq!(peak(false), 2 * one + 4 * 256 * 256);
    assert_eq!(peak(true), one + 4 * 256 * 256);
}

#[test]
fn doubling_first_makes_four_of_nine_products() {
    let init = &mut Init::seeded(&compute(), 1);
    let conv = Conv2d::new([8, 8], 3, init).with_upsample();
    let (_, parts) = rehearse(|| conv.forward(compute().tensor(vec![0.0; 512], [1, 8, 8, 8])));
    let cost = &parts[0].costs[0];
    assert_eq!(cost.flops, (2 * 16 * 16 * 9 * 8 * 8) as f64);
    assert_eq!(cost.made, cost.flops * 4.0 / 9.0);
}

#[test]
fn a_profile_gives_the_same_result_and_the_time_of_each_kind() {
    let init = &mut Init::seeded(&compute(), 1);
    let conv = Conv2d::new([16, 16], 3, init);
    let x = compute().tensor(vec![0.5; 64 * 64 * 16], [1, 64, 64, 16]);
    let alone = to_host(conv.forward(x.clone())).0;
    let (y, parts) = profile(|| evaluation(Part::UNet, || conv.forward(x)));
    assert_eq!(to_host(y).0, alone);
    let cost = &parts[0].costs[0];
    assert!(cost.seconds > 0.0 && parts[0].seconds >= cost.seconds);
    assert!(
        !RECORDER.with_borrow(Option::is_some),
        "nobody watches any more"
    );
}
