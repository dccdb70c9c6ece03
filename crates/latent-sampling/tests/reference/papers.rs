//! Samplers that no library of the fixtures has, against their papers' formulas: `tools/make_sampler_values.py`.

use latent_sampling::{
    Denoiser, Latents, Plan, RunOptions, SchedulerConfig, Start, Stopped, find, find_schedule,
    sample,
};
use serde_json::{Value, json};

use crate::fixture::path;

/// f32 latents over at most 79 calls.
const TOLERANCE: f64 = 1e-5;

struct Network {
    factors: [f64; 5],
    noises: Vec<Latents>,
    calls: usize,
}

impl Denoiser for Network {
    fn predict(&mut self, input: &Latents, timestep: f64) -> Result<Latents, Stopped> {
        self.calls += 1;
        let [a, b, c, d, e] = self.factors;
        let values = input.iter().enumerate().map(|(i, x)| {
            let x = f64::from(*x);
            (a * x / (1.0 + b * x * x).sqrt() + c * (timestep / d + e * i as f64).sin()) as f32
        });
        Ok(Latents::from_shape_vec(input.raw_dim(), values.collect()).unwrap())
    }

    fn noise(&mut self, _: [usize; 4]) -> Latents {
        self.noises.remove(0)
    }
}

pub(crate) fn numbers(value: &Value) -> Vec<f64> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|value| value.as_f64().unwrap())
        .collect()
}

pub(crate) fn values() -> Value {
    let text = std::fs::read_to_string(path("samplers/papers.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

pub(crate) fn stable_diffusion() -> SchedulerConfig {
    let folder = json!({"_class_name": "PNDMScheduler", "beta_start": 0.00085, "beta_end": 0.012,
        "beta_schedule": "scaled_linear"});
    SchedulerConfig::from_json(&folder).unwrap()
}

#[test]
fn restart_and_er_sde_follow_their_papers() {
    let json = values();
    let latents = |value: &Value| {
        let values = numbers(value).into_iter().map(|value| value as f32);
        Latents::from_shape_vec([1, 2, 3, 3], values.collect()).unwrap()
    };
    let runs = json["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 6);
    for run in runs {
        let name = run["sampler"].as_str().unwrap();
        let config = find(name).unwrap().configure(&stable_diffusion()).unwrap();
        let mut options = RunOptions::new(run["steps"].as_u64().unwrap() as usize);
        let schedule = if name == "restart" {
            "karras"
        } else {
            "normal"
        };
        options.schedule = Some(find_schedule(schedule).unwrap());
        let mut network = Network {
            factors: numbers(&json["toy"]).try_into().unwrap(),
            noises: run["noise"]
                .as_array()
                .unwrap()
                .iter()
                .map(latents)
                .collect(),
            calls: 0,
        };
        let start = Start::Noise(latents(&run["start"]));
        let calls = Plan::new(&config, &options).unwrap().calls() as u64;
        let found = sample(&config, &options, start, &mut network).unwrap();
        let what = format!("{name} in {} steps", options.steps);
        assert_eq!(
            (run["calls"].as_u64(), network.calls as u64),
            (Some(calls), calls),
            "{what}"
        );
        assert!(network.noises.is_empty(), "{what}: noise is left");
        let expected = numbers(&run["end"]);
        let largest = expected
            .iter()
            .fold(0.0f64, |most, value| most.max(value.abs()));
        for (found, expected) in found.iter().zip(&expected) {
            let error = (f64::from(*found) - expected).abs() / largest;
            assert!(error <= TOLERANCE, "{what}: {found} is not {expected}");
        }
    }
}
