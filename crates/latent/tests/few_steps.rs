//! The built-in model with its LoRA for few steps.
#![cfg(feature = "builtin")]

use latent::{Builder, Generated, Pipeline, Precision, Request};

fn builder() -> Builder {
    Pipeline::builder().device("cpu").precision(Precision::F32)
}

fn distance(a: &Generated, b: &Generated) -> f32 {
    let pairs = a.latents.values().iter().zip(b.latents.values());
    pairs.map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt()
}

#[test]
fn four_steps_of_the_built_in_model_lead_near_to_where_twenty_guided_ones_do() {
    let fast = builder().few_steps().builtin().expect("it opens");
    let usual = builder().builtin().expect("it opens");
    assert_eq!((fast.defaults().steps, fast.defaults().guidance), (4, 1.0));
    for (words, seed) in [("a red apple, 3d style", 1), ("강아지, 흑백 스타일", 2)] {
        let request = || Request::new(words).seed(seed);
        let goal = usual.generate(&request()).expect("drawn");
        let taught = fast.generate(&request()).expect("drawn");
        let plain = request().steps(4).guidance(1.0);
        let plain = usual.generate(&plain).expect("drawn");
        let (near, far) = (distance(&taught, &goal), distance(&plain, &goal));
        assert!(near < 0.7 * far, "{words}: {near} with it, {far} without");
        assert!(fast.vocabulary().is_some(), "its words are the same");
    }
}
