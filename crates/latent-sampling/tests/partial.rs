//! Runs that another model begins or ends.

use latent_sampling::{
    Denoiser, Latents, Plan, RunOptions, SAMPLERS, SchedulerConfig, Start, Stopped, TorchGenerator,
    find, sample,
};

const SHAPE: [usize; 4] = [1, 4, 3, 3];

/// A smooth, bounded answer to anything; one generator for all draws.
struct Smooth(TorchGenerator, Vec<f64>);

impl Denoiser for Smooth {
    fn predict(&mut self, input: &Latents, timestep: f64) -> Result<Latents, Stopped> {
        self.1.push(timestep);
        let shift = (timestep / 100.0).sin() as f32;
        Ok(input.mapv(|x| 0.8 * x / (1.0 + 0.1 * x * x).sqrt() + 0.1 * shift))
    }

    fn noise(&mut self, shape: [usize; 4]) -> Latents {
        self.0.randn_latents(shape)
    }
}

/// `None` for samplers of flows and of other kinds of noise levels.
fn config_of(name: &str) -> Option<SchedulerConfig> {
    let folder = SchedulerConfig::from_text(
        r#"{"_class_name": "EulerDiscreteScheduler", "beta_start": 0.00085, "beta_end": 0.012,
            "beta_schedule": "scaled_linear", "steps_offset": 1, "timestep_spacing": "leading"}"#,
    );
    find(name).unwrap().configure(&folder.unwrap()).ok()
}

fn config(name: &str) -> SchedulerConfig {
    config_of(name).unwrap()
}

fn options(steps: usize, start: Option<f64>, end: Option<f64>) -> RunOptions {
    RunOptions {
        denoising_start: start,
        denoising_end: end,
        ..RunOptions::new(steps)
    }
}

/// Samplers that remember nothing but the latents: the second part cannot tell that it is one.
#[test]
fn two_parts_are_the_whole_for_samplers_without_memory() {
    for name in [
        "ddim",
        "euler",
        "euler_a",
        "heun",
        "kdpm2",
        "ddpm",
        "dpmpp_sde",
        "dpmpp_2s_a",
        "restart",
    ] {
        let config = config(name);
        for share in [0.3, 0.55, 0.8] {
            let mut one = Smooth(TorchGenerator::new(7), Vec::new());
            let noise = one.noise(SHAPE);
            let start = Start::Noise(noise.clone());
            let whole = sample(&config, &options(7, None, None), start, &mut one).unwrap();
            let mut two = Smooth(TorchGenerator::new(7), Vec::new());
            two.noise(SHAPE);
            let start = Start::Noise(noise);
            let first = sample(&config, &options(7, None, Some(share)), start, &mut two).unwrap();
            let start = Start::Latents(first);
            let rest = sample(&config, &options(7, Some(share), None), start, &mut two).unwrap();
            assert_eq!(one.1, two.1, "{name} at {share}: the calls");
            assert_eq!(whole, rest, "{name} at {share}");
        }
    }
}

#[test]
fn every_sampler_makes_each_call_in_one_of_two_parts() {
    let mut seen = 0;
    for name in SAMPLERS.iter().map(|row| row.name) {
        let Some(config) = config_of(name) else {
            continue;
        };
        seen += 1;
        let part = |start, end| {
            let options = options(6, start, end);
            let plan = Plan::new(&config, &options).unwrap();
            plan.end(&config, &options).unwrap() - plan.first
        };
        let (first, rest) = (part(None, Some(0.5)), part(Some(0.5), None));
        assert!(first > 0 && rest > 0, "{name}");
        assert_eq!(first + rest, part(None, None), "{name}");
    }
    assert!(
        seen >= 20,
        "{seen} samplers of noise levels as Stable Diffusion has them"
    );
}

#[test]
fn shares_out_of_range_or_without_a_step_are_refused_by_name() {
    let config = config("euler");
    for share in [0.0, 1.0, -0.5, f64::NAN] {
        let error = Plan::new(&config, &options(4, Some(share), None)).unwrap_err();
        assert!(error.to_string().contains("denoising_start"), "{error}");
    }
    let early = options(4, None, Some(0.001));
    let plan = Plan::new(&config, &early).unwrap();
    let error = plan.end(&config, &early).unwrap_err();
    assert!(error.to_string().contains("denoising_end"), "{error}");
    let error = Plan::new(&config, &options(4, Some(0.999), None)).unwrap_err();
    assert!(error.to_string().contains("denoising_start"), "{error}");
}
