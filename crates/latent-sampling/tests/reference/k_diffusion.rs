//! The samplers that image tools take from k-diffusion, against its own functions on its own levels.
//!
//! Made by k-diffusion 0.1.1's `sample_*` on the fixtures' network with levels and timesteps as its `DiscreteSchedule` has
//! them; `latents_before_step` are its latents at the head of every step.

use latent_sampling::{
    Churn, Plan, RunOptions, SchedulerConfig, Start, find, find_schedule, sample, sampler_of,
};
use serde_json::{Value, json};

use crate::fixture::{Fixture, path};
use crate::samplers::{SHAPE, Toy, difference, latents};

/// A run of 20 steps, and those of third order, keep four digits less a third; nearly all stay below 1e-5.
const TOLERANCE: f64 = 1e-4;

/// k-diffusion's functions and our rows.
const FUNCTIONS: &[(&str, &str)] = &[
    ("sample_euler", "euler"),
    ("sample_euler_ancestral", "euler_a"),
    ("sample_heun", "heun"),
    ("sample_dpm_2", "dpm2"),
    ("sample_dpm_2_ancestral", "dpm2_a"),
    ("sample_lms", "lms"),
    ("sample_dpmpp_2s_ancestral", "dpmpp_2s_a"),
    ("sample_dpmpp_sde", "dpmpp_sde"),
    ("sample_dpmpp_2m", "dpmpp_2m"),
    ("sample_dpmpp_2m_sde", "dpmpp_2m_sde_bt"),
    ("sample_dpmpp_3m_sde", "dpmpp_3m_sde"),
];
/// Its schedules and ours.
const SCHEDULES: &[(&str, &str)] = &[
    ("discrete", "normal"),
    ("karras", "karras"),
    ("exponential", "exponential"),
    ("polyexp", "polyexponential"),
];

/// Noise that is drawn for nothing.
const UNUSED: [f64; 256] = [0.0; 256];

struct Case<'a> {
    name: &'a str,
    json: &'a Value,
    tensors: &'a Fixture,
    factors: [f32; 5],
}

impl Case<'_> {
    fn tensor(&self, key: &str) -> Option<&[f64]> {
        self.tensors.get(&format!("{}/{key}", self.name))
    }

    fn config(&self) -> SchedulerConfig {
        let function = self.json["function"].as_str().unwrap();
        let heun = self.json["kwargs"]["solver_type"] == "heun";
        let (_, name) = FUNCTIONS
            .iter()
            .find(|(known, _)| *known == function)
            .unwrap();
        let name = if heun { "dpmpp_2m_sde_heun" } else { name };
        let folder = json!({"_class_name": "DDIMScheduler", "beta_start": 0.00085, "beta_end": 0.012,
            "beta_schedule": "scaled_linear"});
        let folder = SchedulerConfig::from_json(&folder).unwrap();
        find(name).unwrap().configure(&folder).unwrap()
    }

    fn options(&self) -> RunOptions {
        let kind = self.json["schedule"].as_str().unwrap();
        let (_, schedule) = SCHEDULES.iter().find(|(known, _)| *known == kind).unwrap();
        let number = |key: &str| self.json["kwargs"][key].as_f64();
        let mut options = RunOptions::new(self.json["steps"].as_u64().unwrap() as usize);
        options.schedule = Some(find_schedule(schedule).unwrap());
        options.rho = (kind == "polyexp").then_some(1.2);
        options.eta = number("eta");
        match number("s_churn") {
            Some(strength) => {
                options.churn = Some(Churn {
                    strength,
                    from: 0.0,
                    to: f64::INFINITY,
                    noise: number("s_noise").unwrap_or(1.0),
                });
            }
            None => options.noise_scale = number("s_noise"),
        }
        options
    }

    /// Latents of the walk at the head of each step and at the end, as k-diffusion keeps them: whole data with noise.
    fn heads(
        &self,
        plan: &Plan,
        seen: &[latent_sampling::Latents],
    ) -> Vec<latent_sampling::Latents> {
        let calls = if sampler_of(&self.config()).evaluations_per_step == 2 {
            2
        } else {
            1
        };
        let steps = self.options().steps;
        // DPM-Solver++(2M) walks on the variance-preserving side.
        let preserving = sampler_of(&self.config()).name == "dpmpp_2m";
        let levels: Vec<f64> = self.tensor("sigmas").unwrap().to_vec();
        assert_eq!(plan.calls(), seen.len());
        (1..=steps)
            .map(|step| {
                let call = if step == steps {
                    seen.len() - 1
                } else {
                    calls * step - 1
                };
                let scale = if preserving {
                    levels[step].hypot(1.0)
                } else {
                    1.0
                };
                seen[call].mapv(|value| (f64::from(value) * scale) as f32)
            })
            .collect()
    }

    /// The largest error of a run, with the noise of the fixture or, with a seed, drawn by the run itself.
    fn error(&self, seeds: Vec<u64>) -> f64 {
        let (config, options) = (self.config(), self.options());
        let plan = Plan::new(&config, &options).unwrap();
        let expected = self.tensor("sigmas").unwrap();
        let found: Vec<f64> = if plan.sigmas.len() == expected.len() {
            plan.sigmas.clone()
        } else {
            [0].into_iter()
                .chain((1..plan.sigmas.len()).step_by(2))
                .map(|i| plan.sigmas[i])
                .collect()
        };
        for (found, expected) in found.iter().zip(expected) {
            // k-diffusion raises to the seventh power in f32.
            assert!(
                (found - expected).abs() <= 3e-6 * expected,
                "{}: {found} is not {expected}",
                self.name
            );
        }
        let noises = self.tensor("noise");
        let mut noises: Vec<&[f64]> = noises.map_or(Vec::new(), |all| all.chunks(256).collect());
        // Diffusers' ancestral samplers draw in the last step too, and add none of it.
        noises.push(&UNUSED);
        let given = if seeds.is_empty() { noises } else { Vec::new() };
        let mut toy = Toy {
            factors: self.factors,
            noises: given,
            drawn: 0,
            seen: Vec::new(),
            seeds,
        };
        let start = Start::Noise(latents(self.tensor("noise0").unwrap()));
        sample(&config, &options, start, &mut toy)
            .unwrap_or_else(|error| panic!("{}: {error}", self.name));
        let after = &self.tensor("latents_before_step").unwrap()[256..];
        let expected = after
            .chunks(256)
            .chain([self.tensor("latents_final").unwrap()]);
        let heads = self.heads(&plan, &toy.seen);
        // A churned step is kept after its noise joined; only the end compares.
        let first = options.churn.map_or(0, |_| options.steps - 1);
        heads
            .iter()
            .zip(expected)
            .skip(first)
            .map(|(found, expected)| difference(found, expected))
            .fold(0.0, f64::max)
    }
}

fn each(mut check: impl FnMut(&Case<'_>)) -> usize {
    let text = std::fs::read_to_string(path("samplers/k_diffusion.json")).unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    let tensors = Fixture::open("samplers/k_diffusion.safetensors");
    let factors: Vec<f32> = json["toy"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_f64().unwrap() as f32)
        .collect();
    let factors: [f32; 5] = factors.try_into().unwrap();
    let mut count = 0;
    for (name, json) in json["cases"].as_object().unwrap() {
        check(&Case {
            name,
            json,
            tensors: &tensors,
            factors,
        });
        count += 1;
    }
    count
}

#[test]
fn every_function_of_k_diffusion_is_followed_step_by_step() {
    let count = each(|case| {
        let error = case.error(Vec::new());
        assert!(error <= TOLERANCE, "{}: {error:.2e} apart", case.name);
    });
    assert_eq!(count, 30);
}

#[test]
fn a_run_draws_the_brownian_path_of_its_seed() {
    let mut count = 0;
    each(|case| {
        let brownian = case.json["noise_source"]
            .as_str()
            .unwrap()
            .starts_with("Brownian");
        if brownian && case.json["noise_draws"].as_u64() > Some(0) {
            let error = case.error(vec![case.json["seed"].as_u64().unwrap()]);
            assert!(error <= TOLERANCE, "{}: {error:.2e} apart", case.name);
            count += 1;
        }
    });
    assert_eq!((count, SHAPE.iter().product::<usize>()), (7, 256));
}
