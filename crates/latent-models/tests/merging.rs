//! Token merging against tomesd; `tools/make_merging_values.py` made the values.

mod common;

use burn::tensor::Tensor;
use common::{Expected, compute, fixture};
use latent_models::{Leading, TokenMerging, UNet2dCondition, UNetCondition};
use latent_nn::to_host;

fn unet() -> UNet2dCondition {
    UNet2dCondition::load(&fixture("sd1-tiny/unet"), &compute()).unwrap()
}

fn merged(
    unet: &UNet2dCondition,
    (sample, text): (Tensor<4>, Tensor<3>),
    merging: Option<TokenMerging>,
) -> Tensor<4> {
    let count = sample.dims()[0];
    let context = unet.prepare(UNetCondition::Text(text), count);
    let leading = Leading {
        merging,
        ..Leading::default()
    };
    unet.forward_steered(sample, &vec![481.0; count], &context, leading)
}

#[test]
fn merged_tokens_give_what_tomesd_gives() {
    let (expected, unet) = (Expected::open("token-merging"), unet());
    for (name, share) in [("half", 0.5), ("few", 0.2), ("most", 0.75), ("wide", 0.6)] {
        let told = (
            expected.tensor(&format!("{name}/sample")),
            expected.tensor(&format!("{name}/text")),
        );
        let merging = TokenMerging { share, turn: None };
        let out = merged(&unet, told, Some(merging));
        expected.check(&format!("{name}/out"), out);
    }
}

#[test]
fn each_call_keeps_other_tokens_and_a_picture_merges_as_it_does_alone() {
    let (expected, unet) = (Expected::open("token-merging"), unet());
    let (sample, text) = (
        expected.tensor::<4>("wide/sample"),
        expected.tensor::<3>("wide/text"),
    );
    let of_turn = |sample: Tensor<4>, text: Tensor<3>, turn| {
        let merging = TokenMerging { share: 0.5, turn };
        to_host(merged(&unet, (sample, text), Some(merging))).0
    };
    let all = of_turn(sample.clone(), text.clone(), Some(3));
    assert_ne!(all, of_turn(sample.clone(), text.clone(), Some(4)));
    assert_ne!(all, of_turn(sample.clone(), text.clone(), None));
    let alone = of_turn(sample.narrow(0, 1, 1), text.narrow(0, 1, 1), Some(3));
    assert_eq!(all[alone.len()..2 * alone.len()], alone);
}

#[test]
fn no_share_is_the_plain_network() {
    let (expected, unet) = (Expected::open("token-merging"), unet());
    let told = || {
        (
            expected.tensor::<4>("half/sample"),
            expected.tensor::<3>("half/text"),
        )
    };
    let none = TokenMerging {
        share: 0.0,
        turn: None,
    };
    let plain = to_host(merged(&unet, told(), None)).0;
    assert_eq!(plain, to_host(merged(&unet, told(), Some(none))).0);
}
