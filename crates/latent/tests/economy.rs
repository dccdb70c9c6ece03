//! Pictures that are drawn in less memory, and plans of what drawing takes.

use std::path::{Path, PathBuf};

use latent::{Economy, Error, Picture, Pipeline, Plan, Precision, Request};
use latent_nn::ops::Part;
use latent_nn::{Bands, Rates};

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../latent-models/tests/fixtures/sd1-tiny")
}

fn pipeline() -> Pipeline {
    let builder = Pipeline::builder().device("cpu").precision(Precision::F32);
    builder.open(model()).unwrap()
}

/// Everything that saves memory, and bands so thin that a small picture has many.
fn spare() -> Economy {
    let (_, most) = Economy::ladder()[3];
    Economy {
        bands: Some(Bands { values: 1 }),
        ..most
    }
}

#[test]
fn economy_changes_no_bit_of_a_picture_from_words_or_from_a_picture() {
    let rgb = (0..3 * 96 * 72).map(|i| (i * 31 % 251) as u8).collect();
    let words = Request::new("a fox").seed(1).steps(2).size(72, 136);
    let from_picture = Request::new("a fox")
        .steps(3)
        .init(Picture::new(96, 72, rgb).unwrap())
        .strength(0.7);
    for request in [words, from_picture] {
        let request = Request {
            count: Some(2),
            ..request
        };
        let drawn = |pipeline: Pipeline| -> Vec<Vec<u8>> {
            let generated = pipeline.generate(&request).unwrap();
            generated
                .pictures
                .iter()
                .map(|p| p.rgb().to_vec())
                .collect()
        };
        assert!(drawn(pipeline()) == drawn(pipeline().with_economy(spare())));
    }
}

#[test]
fn a_plan_counts_calls_and_grows_with_the_request() {
    let pipeline = pipeline();
    let plan = |steps: usize, side: usize| {
        let request = Request::new("a fox").steps(steps).size(side, side);
        // One call a step; PNDM, the model's own, makes one more.
        pipeline.plan(&request.sampler("ddim")).unwrap()
    };
    let (small, large, long) = (plan(2, 64), plan(2, 256), plan(20, 64));
    assert!(large.peak > small.peak, "{} and {}", large.peak, small.peak);
    let rates = Rates::stated(1e9);
    assert!(long.seconds(&rates) > small.seconds(&rates));
    let network = |plan: &Plan| {
        let stage = plan.stages.iter().find(|stage| stage.part == Part::UNet);
        let stage = stage.unwrap();
        (stage.evaluations, stage.flops)
    };
    let [(few, first), (some, second), (many, third)] = [&small, &plan(11, 64), &long].map(network);
    assert_eq!([few, some, many], [2, 11, 20]);
    // Each step costs the same, beside what is computed once for all: the words' keys and values.
    assert_eq!(third - second, second - first);
    assert!(first > (second - first) * 2.0 / 9.0);
    // The pipeline that was planned with draws as any other.
    let request = Request::new("a fox").steps(2).size(64, 64);
    let again = pipeline.generate(&request).unwrap();
    let fresh = self::pipeline().generate(&request).unwrap();
    assert_eq!(again.pictures, fresh.pictures);
}

#[test]
fn a_request_that_cannot_be_drawn_has_no_plan() {
    let request = Request::new("a fox").sampler("no such sampler");
    assert!(pipeline().plan(&request).is_err());
    assert!(matches!(
        pipeline().plan(&Request::new("a fox").steps(0)),
        Err(Error::Request(_) | Error::Sampling(_))
    ));
}
