//! Training targets against diffusers' `DDPMScheduler` and `compute_snr`.

use crate::fixture::Fixture;
use latent_sampling::{Latents, NoiseSchedule, Prediction, SchedulerConfig};

const TIMESTEPS: [usize; 3] = [0, 371, 999];

fn schedule() -> NoiseSchedule {
    let config = r#"{"_class_name": "DDPMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}"#;
    NoiseSchedule::new(&SchedulerConfig::from_text(config).unwrap()).unwrap()
}

fn latents(fixture: &Fixture, name: &str) -> Latents {
    let values = fixture
        .values(name)
        .iter()
        .map(|value| *value as f32)
        .collect();
    Latents::from_shape_vec([3, 2, 3, 3], values).unwrap()
}

/// Differences of 1e-6 are a few roundings of f32 at values of a few units.
fn assert_close(found: &Latents, expected: &Latents) {
    for (found, expected) in found.iter().zip(expected) {
        assert!(
            (found - expected).abs() <= 1e-6,
            "{found} is not {expected}"
        );
    }
}

#[test]
fn noisy_latents_equal_diffusers() {
    let fixture = Fixture::open("targets.safetensors");
    let noisy = schedule().add_noise(
        &latents(&fixture, "target/x0"),
        &latents(&fixture, "target/noise"),
        &TIMESTEPS,
    );
    assert_close(&noisy, &latents(&fixture, "target/x_t"));
}

#[test]
fn the_velocity_target_equals_diffusers() {
    let fixture = Fixture::open("targets.safetensors");
    let (clean, noise) = (
        latents(&fixture, "target/x0"),
        latents(&fixture, "target/noise"),
    );
    assert_close(
        &schedule().target(Prediction::V, &clean, &noise, &TIMESTEPS),
        &latents(&fixture, "target/v"),
    );
}

#[test]
fn signal_to_noise_and_its_weights_equal_diffusers() {
    let fixture = Fixture::open("targets.safetensors");
    assert_eq!(fixture.values("target/t"), TIMESTEPS.map(|t| t as f64));
    let schedule = schedule();
    for (k, t) in TIMESTEPS.into_iter().enumerate() {
        let pairs = [
            ("target/snr", schedule.snr(t)),
            (
                "target/min_snr5_eps_weight",
                schedule.min_snr_weight(Prediction::Epsilon, t, 5.0),
            ),
            (
                "target/min_snr5_v_weight",
                schedule.min_snr_weight(Prediction::V, t, 5.0),
            ),
        ];
        for (name, found) in pairs {
            let expected = fixture.values(name)[k];
            // diffusers squares f32 roots: a few roundings.
            assert!(
                (found - expected).abs() <= 2e-6 * expected,
                "{name} at {t}: {found} is not {expected}"
            );
        }
    }
}

#[test]
fn every_prediction_gives_the_clean_latents_back() {
    let fixture = Fixture::open("targets.safetensors");
    let (clean, noise) = (
        latents(&fixture, "target/x0"),
        latents(&fixture, "target/noise"),
    );
    let timesteps = [1, 371, 700]; // an epsilon at pure noise knows little of the data: 1 / alpha is large there
    let schedule = schedule();
    let noisy = schedule.add_noise(&clean, &noise, &timesteps);
    for prediction in [Prediction::Epsilon, Prediction::V, Prediction::Sample] {
        let output = schedule.target(prediction, &clean, &noise, &timesteps);
        let back = schedule.denoised(prediction, &output, &noisy, &timesteps);
        for (back, clean) in back.iter().zip(&clean) {
            assert!(
                (back - clean).abs() < 5e-6,
                "{prediction:?}: {back} is not {clean}"
            );
        }
    }
}
