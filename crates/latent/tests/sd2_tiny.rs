//! Whole runs against what diffusers computed with a tiny Stable Diffusion 2 folder: velocity, linear projections,
//! heads by level, another pad token, schedules up to pure noise.

mod common;

use common::Tiny;
use latent::models::PredictionType;
use latent::{Pipeline, open_folder_predicting};

const SD2: Tiny = Tiny("sd2-tiny");

#[test]
fn every_run_equals_diffusers() {
    SD2.check_all(&SD2.pipeline());
}

/// The folder's scheduler is of another class and does not state all keys: latents are not bounded in any case, as in
/// diffusers' pipelines when they are made with such a scheduler, and multistep solvers keep their even spacing.
#[test]
fn a_sampler_named_alone_draws_what_diffusers_drew_under_that_name() {
    SD2.check_names(&SD2.pipeline(), &[]);
}

#[test]
fn every_run_from_a_checkpoint_of_one_file_equals_diffusers() {
    SD2.check_all(&SD2.single(&SD2.folder().join("model_ldm.safetensors")));
}

#[test]
fn a_checkpoint_of_one_file_draws_what_its_folder_draws_to_the_bit() {
    let file = SD2.folder().join("model_ldm.safetensors");
    SD2.draws_what_its_folder_draws(&file, "ddim_zsnr_rescale07");
}

#[test]
fn what_a_checkpoint_predicts_is_asked_for_and_the_answer_is_taken() {
    let file = SD2.folder().join("model_ldm.safetensors");
    let asked = Pipeline::from_pretrained(&file).unwrap_err().to_string();
    assert!(asked.contains("--prediction"), "{asked}");
    for (answer, name, size) in [
        (PredictionType::Epsilon, "epsilon", 512),
        (PredictionType::V, "v_prediction", 768),
    ] {
        let folder = open_folder_predicting(&file, None, Some(answer)).expect("the config opens");
        let config = folder.scheduler_config().expect("a config");
        assert_eq!(config["prediction_type"], name);
        assert_eq!((folder.family().name, folder.size()), ("sd2", [size; 2]));
        let config = Some(SD2.folder());
        let folder = open_folder_predicting(&file, config.as_deref(), Some(answer)).expect("opens");
        let config = folder.scheduler_config().expect("a config");
        assert_eq!(config["prediction_type"], name);
    }
    let error = Pipeline::builder()
        .prediction(PredictionType::V)
        .open(SD2.folder())
        .unwrap_err();
    assert!(error.to_string().contains("prediction"), "{error}");
}
