//! Whole runs against what diffusers computed with a tiny Stable Diffusion 1 folder.

mod common;

use common::Tiny;
use latent::Pipeline;

const SD1: Tiny = Tiny("sd1-tiny");

#[test]
fn every_run_equals_diffusers() {
    SD1.check_all(&SD1.pipeline());
}

/// The folder's scheduler is of another class and does not state all keys: latents are not bounded in any case, as in
/// diffusers' pipelines when they are made with such a scheduler, and multistep solvers keep their even spacing.
#[test]
fn a_sampler_named_alone_draws_what_diffusers_drew_under_that_name() {
    SD1.check_names(&SD1.pipeline(), &[]);
}

/// The checkpoint of the same weights in the layout that Stable Diffusion 1 was published in, half precision; every
/// weight fits in half precision, so the numbers are the same.
#[test]
fn a_checkpoint_of_one_file_draws_what_its_folder_draws_to_the_bit() {
    for name in ["model_ldm.safetensors", "model_ldm.ckpt"] {
        SD1.draws_what_its_folder_draws(&SD1.values().join(name), "ddim");
    }
}

#[test]
fn a_checkpoint_with_the_sizes_of_another_model_is_refused_with_the_tensor() {
    let file = SD1.values().join("model_ldm.safetensors");
    let error = Pipeline::builder().device("cpu").open(&file).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("model_ldm.safetensors"), "{message}");
    let error = Pipeline::builder()
        .config(SD1.folder())
        .open(SD1.folder())
        .unwrap_err();
    assert!(error.to_string().contains("config folder"), "{error}");
}

#[test]
fn a_file_that_is_no_whole_model_says_what_to_name_instead() {
    let part = SD1
        .folder()
        .join("unet/diffusion_pytorch_model.safetensors");
    let message = Pipeline::from_pretrained(part).unwrap_err().to_string();
    assert!(
        message.contains("name the folder of the whole model"),
        "{message}"
    );
}

#[test]
fn settings_of_stable_diffusion_xl_are_said_to_have_no_effect() {
    let mut request = latent::Request::new("a fox").steps(1);
    request.prompt_2 = "a cat".into();
    request.micro_conditioning.crop = Some([1, 2]);
    let warnings = SD1.pipeline().generate(&request).expect("drawn").warnings;
    for name in ["prompt_2", "micro_conditioning"] {
        assert!(
            warnings.iter().any(|one| one.contains(name)),
            "{warnings:?}"
        );
    }
}
