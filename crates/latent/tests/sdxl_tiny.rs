//! Whole runs against what diffusers computed with tiny folders of Stable Diffusion XL and its refiner.

mod common;

use std::ops::ControlFlow;

use common::{Tiny, floats, furthest, request, seeds};
use latent::{Latents, Pipeline, Request};

const BASE: Tiny = Tiny("sdxl-tiny");
const REFINER: Tiny = Tiny("sdxl-refiner-tiny");
/// The refiner's run from latents.
const RUN: &str = "euler_from_latents_denoising_start";

fn given() -> Latents {
    let values = floats(&REFINER.data("i2i/latents").expect("latents"));
    Latents::new(values, [1, 4, 8, 8]).expect("of 8 x 8 positions")
}

fn go_on(_: &latent::Progress<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[test]
fn every_run_equals_diffusers() {
    BASE.check_all(&BASE.pipeline());
}

/// The folder's scheduler is of another class and does not state all keys: latents are not bounded in any case, as in
/// diffusers' pipelines when they are made with such a scheduler, and multistep solvers keep their even spacing. This folder does
/// not state `set_alpha_to_one`, of which the case of DDIM has another value than DDIM's default.
#[test]
fn a_sampler_named_alone_draws_what_diffusers_drew_under_that_name() {
    BASE.check_names(&BASE.pipeline(), &["ddim"]);
}

#[test]
fn the_refiner_goes_on_from_latents_as_diffusers_does() {
    let run = &REFINER.cases()[RUN];
    let request = request(run, 0, seeds(run));
    let ckpt = REFINER.single(&REFINER.folder().join("model_sgm.ckpt"));
    for pipeline in [REFINER.pipeline(), ckpt] {
        let refined = pipeline.refine(&request, &given(), go_on).expect("refined");
        REFINER.compare(RUN, run, &[refined]).unwrap();
    }
}

#[test]
fn a_checkpoint_of_one_file_draws_what_its_folder_draws_to_the_bit() {
    let file = BASE.folder().join("model_sgm.safetensors");
    BASE.draws_what_its_folder_draws(&file, "euler_ids");
    BASE.draws_what_its_folder_draws(&file, "ddim");
    let file = REFINER.folder().join("model_sgm.safetensors");
    let run = &REFINER.cases()[RUN];
    let request = request(run, 0, seeds(run));
    let refined = |pipeline: Pipeline| pipeline.refine(&request, &given(), go_on).expect("refined");
    let (single, whole) = (refined(REFINER.single(&file)), refined(REFINER.pipeline()));
    assert_eq!(single.latents, whole.latents);
    assert_eq!(single.pictures[0].rgb(), whole.pictures[0].rgb());
}

/// The base's part is diffusers' run with `denoising_end`; the refiner's is its own `refine`.
#[test]
fn base_and_refiner_in_one_request_are_the_two_runs_in_turn() {
    let run = &BASE.cases()["euler_denoising_end"];
    let request = request(run, 0, seeds(run));
    let first = BASE.pipeline().generate(&request).expect("the first part");
    let rest = Request {
        denoising_start: request.denoising_end,
        denoising_end: None,
        ..request.clone()
    };
    let second = REFINER.pipeline().refine(&rest, &first.latents, go_on);
    let second = second.expect("the second part");
    let both = BASE.pipeline().with_refiner(REFINER.pipeline());
    let mut calls = Vec::new();
    let whole = both.expect("they fit").generate_with(&request, |progress| {
        calls.push((progress.done, progress.total));
        ControlFlow::Continue(())
    });
    let whole = whole.expect("the whole");
    assert_eq!(whole.latents, second.latents);
    assert_eq!(whole.pictures[0].rgb(), second.pictures[0].rgb());
    let timesteps = [first.timesteps, second.timesteps].concat();
    assert_eq!(whole.timesteps, timesteps);
    let expected: Vec<_> = (1..=timesteps.len())
        .map(|done| (done, timesteps.len()))
        .collect();
    assert_eq!(calls, expected);
    let text = whole.settings[0].parameters();
    assert!(
        text.contains("Refiner: sdxl-refiner-tiny, Refiner switch at: 0.7"),
        "{text}"
    );
}

#[test]
fn pictures_of_a_batch_with_a_refiner_are_those_drawn_alone() {
    let pipeline = || {
        BASE.pipeline()
            .with_refiner(REFINER.pipeline())
            .expect("fit")
    };
    let request = Request::new("a fox")
        .sampler("euler_a")
        .steps(4)
        .size(32, 32);
    let both = pipeline()
        .generate(&request.clone().with_seeds([3, 4]))
        .expect("both");
    for (k, seed) in [3, 4].into_iter().enumerate() {
        let alone = pipeline()
            .generate(&request.clone().seed(seed))
            .expect("one");
        let values = both.latents.values();
        let half = values.len() / 2;
        let of_batch = &values[k * half..(k + 1) * half];
        assert!(furthest(of_batch, alone.latents.values()) == 0.0);
    }
}

#[test]
fn latents_that_do_not_fit_and_shares_out_of_range_are_refused() {
    let refiner = REFINER.pipeline();
    let refused = |request: &Request| refiner.refine(request, &given(), go_on).unwrap_err();
    let open = Request::new("a fox").steps(4);
    assert!(refused(&open).to_string().contains("denoising_start"));
    let shared = Request {
        denoising_start: Some(0.5),
        ..open.clone()
    };
    let two = shared.clone().with_seeds([1, 2]);
    assert!(refused(&two).to_string().contains("give one a seed"));
    for share in [0.0, 1.0, -1.0, f64::NAN] {
        let request = Request {
            denoising_start: Some(share),
            ..open.clone()
        };
        assert!(refused(&request).to_string().contains("denoising_start"));
    }
    let error = BASE.pipeline().generate(&shared).unwrap_err().to_string();
    assert!(error.contains("refine"), "{error}");
    let other = Tiny("sd1-tiny").pipeline();
    let error = BASE.pipeline().with_refiner(other).unwrap_err().to_string();
    assert!(error.contains("sd1-tiny"), "{error}");
}

#[test]
fn a_folder_whose_index_asks_for_another_number_of_sizes_is_refused() {
    let copy = tempfile::tempdir().expect("a folder");
    let index = std::fs::read_to_string(BASE.folder().join("model_index.json")).expect("the index");
    for part in ["unet", "vae", "text_encoder", "text_encoder_2"] {
        std::fs::create_dir(copy.path().join(part)).expect("a folder");
        let config = BASE.folder().join(part).join("config.json");
        std::fs::copy(config, copy.path().join(part).join("config.json")).expect("copied");
    }
    let index = index.replacen('{', "{\"requires_aesthetics_score\": true,", 1);
    std::fs::write(copy.path().join("model_index.json"), index).expect("written");
    let error = Pipeline::from_pretrained(copy.path())
        .unwrap_err()
        .to_string();
    assert!(error.contains("requires_aesthetics_score"), "{error}");
}

#[test]
fn settings_that_mean_nothing_to_a_base_or_a_refiner_are_said() {
    let mut request = Request::new("a fox").steps(1).size(32, 32);
    request.prompt_2 = "a cat".into();
    request.micro_conditioning.aesthetic_score = Some(7.0);
    let said = |pipeline: Pipeline| {
        pipeline
            .generate(&request)
            .expect("drawn")
            .warnings
            .join("\n")
    };
    let base = said(BASE.pipeline());
    assert!(
        base.contains("aesthetic score") && !base.contains("second"),
        "{base}"
    );
    let refiner = said(REFINER.pipeline());
    assert!(refiner.contains("second one has no effect"), "{refiner}");
    request.steps = Some(4);
    let both = BASE
        .pipeline()
        .with_refiner(REFINER.pipeline())
        .expect("fit");
    let warnings = both.generate(&request).expect("drawn").warnings;
    assert!(warnings.is_empty(), "{warnings:?}");
}
