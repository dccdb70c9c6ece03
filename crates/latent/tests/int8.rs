//! The U-Net in 8 bits, on the built-in model.
#![cfg(feature = "builtin")]

use latent::{Generated, Pipeline, Precision, Request};

fn draw(precision: Precision, seeds: &[u64]) -> Generated {
    let pipeline = Pipeline::builder().device("cpu").precision(precision);
    let request = Request::new("a red apple, 3d style").with_seeds(seeds.iter().copied());
    pipeline.builtin().unwrap().generate(&request).unwrap()
}

/// Root of the mean square of the difference, over that of `expected`.
fn error(got: &Generated, expected: &Generated) -> f64 {
    let pairs = got.latents.values().iter().zip(expected.latents.values());
    let (difference, size) = pairs.fold((0.0, 0.0), |(difference, size), (got, expected)| {
        let (got, expected) = (f64::from(*got), f64::from(*expected));
        (
            difference + (got - expected).powi(2),
            size + expected.powi(2),
        )
    });
    (difference / size).sqrt()
}

#[test]
fn eight_bits_draw_nearly_what_full_precision_draws() {
    let exact = draw(Precision::F32, &[3]);
    let found = error(&draw(Precision::Int8, &[3]), &exact);
    assert!((1e-4..0.1).contains(&found), "latents differ by {found}");
}

#[test]
fn eight_bits_give_a_picture_the_same_bits_alone_and_in_a_batch() {
    let (both, second) = (draw(Precision::Int8, &[3, 4]), draw(Precision::Int8, &[4]));
    assert_eq!(both.pictures[1].rgb(), second.pictures[0].rgb());
}
