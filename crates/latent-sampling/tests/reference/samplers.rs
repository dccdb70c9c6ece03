//! Every sampler against what diffusers computes on a small analytic network, call by call.
//!
//! Made by torch and diffusers 0.42.1 with seeded noise; a file per scheduler class holds the configs and the tensors.

use crate::fixture::{Fixture, path};
use latent_sampling::{
    Churn, Class, Denoiser, Latents, NoiseSchedule, Plan, RunOptions, SchedulerConfig, Start,
    StepReport, Stopped, TorchGenerator, sample,
};
use serde_json::Value;

/// Largest difference after any call, relative to the largest expected value. Nearly all cases stay below 1e-6, the
/// rounding of f32; steps from a zero-terminal level (4096) to a few units, and `dpm2_a` in two steps, keep four digits.
const TOLERANCE: f64 = 1e-4;
pub(crate) const SHAPE: [usize; 4] = [1, 4, 8, 8];

/// The fixtures' network: `a x / sqrt(1 + b x^2) + c sin(t / d + e i)` with `i` the index inside the picture.
pub(crate) struct Toy<'a> {
    pub(crate) factors: [f32; 5],
    pub(crate) noises: Vec<&'a [f64]>,
    pub(crate) drawn: usize,
    pub(crate) seen: Vec<Latents>,
    /// Seeds of Brownian paths, where the run is to draw them itself.
    pub(crate) seeds: Vec<u64>,
}

impl Denoiser for Toy<'_> {
    fn predict(&mut self, input: &Latents, timestep: f64) -> Result<Latents, Stopped> {
        let [a, b, c, d, e] = self.factors;
        let wave = (0..input.len()).map(|i| c * (timestep as f32 / d + e * i as f32).sin());
        let values = input
            .iter()
            .zip(wave)
            .map(|(x, wave)| a * x / (1.0 + b * x * x).sqrt() + wave);
        Ok(Latents::from_shape_vec(input.raw_dim(), values.collect()).unwrap())
    }

    fn noise(&mut self, shape: [usize; 4]) -> Latents {
        assert_eq!(shape, SHAPE);
        self.drawn += 1;
        latents(self.noises[self.drawn - 1])
    }

    fn seeds(&self) -> Vec<u64> {
        self.seeds.clone()
    }

    fn report(&mut self, step: StepReport<'_>) -> Result<(), Stopped> {
        assert_eq!(step.index, self.seen.len(), "reports come in order");
        self.seen.push(step.latents.clone());
        Ok(())
    }
}

pub(crate) fn latents(values: &[f64]) -> Latents {
    Latents::from_shape_vec(SHAPE, values.iter().map(|value| *value as f32).collect()).unwrap()
}

/// One case of a file.
struct Case<'a> {
    name: &'a str,
    json: &'a Value,
    tensors: &'a Fixture,
    factors: [f32; 5],
}

impl<'a> Case<'a> {
    fn config(&self) -> SchedulerConfig {
        let mut config = self.json["config"].clone();
        config["_class_name"] = self.json["scheduler"].clone();
        SchedulerConfig::from_json(&config).unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    fn options(&self) -> RunOptions {
        let options = &self.json["options"];
        let number = |key: &str| options[key].as_f64();
        let mut run = RunOptions::new(self.json["steps"].as_u64().unwrap() as usize);
        run.eta = number("eta");
        run.mu = number("mu");
        run.sigmas = self.json["set_timesteps"]["sigmas"]
            .as_array()
            .map(|list| list.iter().map(|value| value.as_f64().unwrap()).collect());
        run.use_clipped_model_output = options["use_clipped_model_output"]
            .as_bool()
            .unwrap_or(false);
        run.churn = number("s_churn").map(|strength| Churn {
            strength,
            from: number("s_tmin").unwrap_or(0.0),
            to: number("s_tmax").unwrap_or(f64::INFINITY),
            noise: number("s_noise").unwrap_or(1.0),
        });
        run
    }

    fn tensor(&self, key: &str) -> Option<&'a [f64]> {
        self.tensors.get(&format!("{}/{key}", self.name))
    }

    fn plan(&self) -> Plan {
        match self.json["options"]["strength"].as_f64() {
            Some(strength) => Plan::for_picture(&self.config(), &self.options(), strength).unwrap(),
            None => Plan::new(&self.config(), &self.options()).unwrap(),
        }
    }

    /// How far apart fractional timesteps may be; whole ones are exact.
    ///
    /// They are read off a table of f32 square roots, of which torch's vectorised ones are a last place off in a sixth
    /// of the entries. `dpm2_a` reads them at the difference of two nearly equal squares, which magnifies that.
    fn fractional(&self) -> f64 {
        if self.config().class() == Class::Kdpm2Ancestral {
            1e-2
        } else {
            1e-6
        }
    }

    fn check_plan(&self) {
        let plan = self.plan();
        let expected = self.tensor("timesteps_f64").unwrap();
        assert_eq!(
            plan.timesteps.len(),
            expected.len(),
            "{}: number of calls",
            self.name
        );
        for (found, expected) in plan.timesteps.iter().zip(expected) {
            let tolerance = if expected.fract() == 0.0 && found.fract() == 0.0 {
                0.0
            } else {
                self.fractional() * expected.abs().max(1.0)
            };
            assert!(
                (found - expected).abs() <= tolerance,
                "{}: timestep {found} is not {expected}",
                self.name
            );
        }
        if let Some(expected) = self.tensor("sigmas") {
            for (found, expected) in plan.sigmas.iter().zip(self.levels(expected)) {
                assert!(
                    (found - expected).abs() <= 1e-6 * expected,
                    "{}: sigma {found} is not {expected}",
                    self.name
                );
            }
        }
        let expected = self.json["init_noise_sigma"].as_f64().unwrap();
        assert!(
            (plan.init_noise_sigma - expected).abs() <= 1e-6 * expected,
            "{}: initial noise",
            self.name
        );
    }

    /// The file's list; second-order solvers through the middle repeat its levels, a plan does not.
    fn levels(&self, listed: &'a [f64]) -> Vec<f64> {
        match self.config().class() {
            Class::Kdpm2 | Class::Kdpm2Ancestral | Class::DpmSde => {
                let steps = self.options().steps;
                [listed[0]]
                    .into_iter()
                    .chain((1..=steps).map(|i| listed[2 * i - 1]))
                    .collect()
            }
            _ => listed.to_vec(),
        }
    }

    /// What the run begins with, and all noise it may draw.
    fn start(&self) -> (Start, Vec<&'a [f64]>) {
        let noise0 = self.tensor("noise0").unwrap();
        let drawn = self
            .tensor("noise")
            .map_or(Vec::new(), |all| all.chunks(noise0.len()).collect());
        match (
            self.tensor("clean"),
            self.json["options"]["strength"].as_f64(),
        ) {
            (Some(clean), Some(strength)) => {
                let noises = [noise0].into_iter().chain(drawn).collect();
                (
                    Start::Picture {
                        clean: latents(clean),
                        strength,
                    },
                    noises,
                )
            }
            _ => (Start::Noise(latents(noise0)), drawn),
        }
    }

    fn check_run(&self) {
        let (start, noises) = self.start();
        let mut toy = Toy {
            factors: self.factors,
            noises,
            drawn: 0,
            seen: Vec::new(),
            seeds: Vec::new(),
        };
        let last = sample(&self.config(), &self.options(), start, &mut toy)
            .unwrap_or_else(|error| panic!("{}: {error}", self.name));
        assert_eq!(
            toy.drawn,
            toy.noises.len(),
            "{}: number of noise draws",
            self.name
        );
        let expected: Vec<&[f64]> = self.tensor("latents").unwrap().chunks(last.len()).collect();
        assert_eq!(
            toy.seen.len(),
            expected.len(),
            "{}: number of calls",
            self.name
        );
        assert_eq!(
            toy.seen.last(),
            Some(&last),
            "{}: the last report is the result",
            self.name
        );
        for (call, (found, expected)) in toy.seen.iter().zip(expected).enumerate() {
            let error = difference(found, expected);
            assert!(
                error <= TOLERANCE,
                "{}: call {call} is {error:.2e} apart",
                self.name
            );
        }
    }
}

/// The largest difference, relative to the largest expected value.
pub(crate) fn difference(found: &Latents, expected: &[f64]) -> f64 {
    let largest = expected
        .iter()
        .fold(0.0f64, |most, value| most.max(value.abs()));
    let apart = found
        .iter()
        .zip(expected)
        .map(|(found, expected)| (f64::from(*found) - expected).abs());
    apart.fold(0.0, f64::max) / largest
}

/// Runs every case of a class's file; `cases` guards against a file that was cut.
fn check(class: &str, cases: usize) {
    let text = std::fs::read_to_string(path(&format!("samplers/{class}.json"))).unwrap();
    // Python writes an infinity that JSON does not know.
    let json: Value = serde_json::from_str(&text.replace("-Infinity", "\"-Infinity\"")).unwrap();
    let tensors = Fixture::open(&format!("samplers/{class}.safetensors"));
    let factors: Vec<f32> = json["toy"]
        .as_array()
        .unwrap()
        .iter()
        .map(|value| value.as_f64().unwrap() as f32)
        .collect();
    let all = json["cases"].as_object().unwrap();
    assert_eq!(all.len(), cases, "{class}: number of cases");
    let mut failures = Vec::new();
    for (name, json) in all {
        let case = Case {
            name,
            json,
            tensors: &tensors,
            factors: factors.clone().try_into().unwrap(),
        };
        let attempt = std::panic::catch_unwind(|| {
            case.check_plan();
            case.check_run()
        });
        if attempt.is_err() {
            failures.push(name);
        }
    }
    assert!(
        failures.is_empty(),
        "{class}: {} of {cases} cases differ: {failures:?}",
        failures.len()
    );
}

macro_rules! classes {
    ($($name:ident: $class:literal, $cases:literal;)+) => {
        $(#[test]
        fn $name() {
            check($class, $cases);
        })+
    };
}

classes! {
    ddpm_equals_diffusers: "DDPMScheduler", 11;
    ddim_equals_diffusers: "DDIMScheduler", 18;
    pndm_equals_diffusers: "PNDMScheduler", 10;
    euler_equals_diffusers: "EulerDiscreteScheduler", 20;
    euler_a_equals_diffusers: "EulerAncestralDiscreteScheduler", 8;
    heun_equals_diffusers: "HeunDiscreteScheduler", 14;
    dpm2_equals_diffusers: "KDPM2DiscreteScheduler", 12;
    dpm2_a_equals_diffusers: "KDPM2AncestralDiscreteScheduler", 11;
    lms_equals_diffusers: "LMSDiscreteScheduler", 13;
    dpmpp_multistep_equals_diffusers: "DPMSolverMultistepScheduler", 42;
    dpmpp_singlestep_equals_diffusers: "DPMSolverSinglestepScheduler", 13;
    unipc_equals_diffusers: "UniPCMultistepScheduler", 23;
    deis_equals_diffusers: "DEISMultistepScheduler", 8;
    lcm_equals_diffusers: "LCMScheduler", 6;
    tcd_equals_diffusers: "TCDScheduler", 4;
    edm_euler_equals_diffusers: "EDMEulerScheduler", 4;
    edm_dpmpp_equals_diffusers: "EDMDPMSolverMultistepScheduler", 6;
    flow_euler_equals_diffusers: "FlowMatchEulerDiscreteScheduler", 13;
    flow_heun_equals_diffusers: "FlowMatchHeunDiscreteScheduler", 2;
    ipndm_equals_diffusers: "IPNDMScheduler", 1;
    dpmpp_sde_equals_diffusers: "DPMSolverSDEScheduler", 4;
    sa_solver_equals_diffusers: "SASolverScheduler", 5;
}

#[test]
fn alpha_bars_equal_torchs_cumulative_product_bit_for_bit() {
    for class in ["DDPMScheduler", "DDIMScheduler", "PNDMScheduler"] {
        let text = std::fs::read_to_string(path(&format!("samplers/{class}.json"))).unwrap();
        let json: Value = serde_json::from_str(&text).unwrap();
        let tensors = Fixture::open(&format!("samplers/{class}.safetensors"));
        for (name, json) in json["cases"].as_object().unwrap() {
            let case = Case {
                name,
                json,
                tensors: &tensors,
                factors: [0.0; 5],
            };
            let schedule = NoiseSchedule::new(&case.config()).unwrap();
            let expected = case.tensor("alphas_cumprod_ends").unwrap();
            let ends = (0..4).chain(schedule.len() - 4..schedule.len());
            for (t, expected) in ends.zip(expected) {
                let found = schedule.alpha_bar(t);
                // Rescaled and cosine tables pass through more f32 roundings than a sum in another order keeps.
                assert!(
                    (found - expected).abs() <= 2e-6 * expected,
                    "{class} {name}: alpha_bar({t}) {found} is not {expected}"
                );
            }
        }
    }
}

#[test]
fn the_noise_of_a_run_is_one_generators_stream() {
    let text =
        std::fs::read_to_string(path("samplers/EulerAncestralDiscreteScheduler.json")).unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    let tensors = Fixture::open("samplers/EulerAncestralDiscreteScheduler.safetensors");
    for (name, json) in json["cases"].as_object().unwrap() {
        let case = Case {
            name,
            json,
            tensors: &tensors,
            factors: [0.0; 5],
        };
        let mut generator = TorchGenerator::new(json["seed"].as_u64().unwrap());
        let draws = [
            case.tensor("clean"),
            case.tensor("noise0"),
            case.tensor("noise"),
        ];
        for expected in draws
            .into_iter()
            .flatten()
            .flat_map(|draws| draws.chunks(256))
        {
            let found = generator.randn_latents(SHAPE);
            // torch's vectorised logarithm and sine differ in the last place.
            assert!(
                found
                    .iter()
                    .zip(expected)
                    .all(|(a, b)| (f64::from(*a) - b).abs() <= 5e-7),
                "{name}"
            );
        }
    }
}
