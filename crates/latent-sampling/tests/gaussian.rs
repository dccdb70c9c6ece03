//! Samplers on data whose answer is known: for a normal distribution the best network and the end point are formulas.

use latent_sampling::{
    Class, Denoiser, Latents, NoiseSchedule, Plan, RunOptions, SAMPLERS, Sampler, SchedulerConfig,
    Start, Stopped, sample,
};

/// Standard deviation of the data; not 1, at which half of the samplers would have nothing to do.
const DATA: f64 = 0.7;

/// The best network for data of N(0, DATA^2) under each kind of training.
struct Gaussian {
    class: Class,
    prediction: &'static str,
    /// Logarithms of the noise levels of the training timesteps, for the kinds that have them.
    logs: Vec<f64>,
}

impl Gaussian {
    fn new(config: &SchedulerConfig, prediction: &'static str) -> Self {
        let logs = NoiseSchedule::new(config).map_or(Vec::new(), |schedule| {
            (0..schedule.len())
                .map(|t| -0.5 * schedule.snr(t).ln())
                .collect()
        });
        Self {
            class: config.class(),
            prediction,
            logs,
        }
    }

    /// Weights of data and noise in what the network sees at a timestep.
    fn level(&self, timestep: f64) -> (f64, f64) {
        let circle = |ratio: f64| (1.0 / ratio.hypot(1.0), ratio / ratio.hypot(1.0));
        match self.class {
            Class::FlowEuler | Class::FlowHeun => (1.0 - timestep / 1000.0, timestep / 1000.0),
            Class::EdmEuler | Class::EdmDpm => (1.0, (4.0 * timestep).exp()),
            Class::Ipndm => {
                let angle = timestep * std::f64::consts::FRAC_PI_2;
                (angle.cos(), angle.sin())
            }
            _ => {
                let low = (timestep.floor() as usize).min(self.logs.len() - 2);
                let log = self.logs[low]
                    + (timestep - low as f64) * (self.logs[low + 1] - self.logs[low]);
                circle(log.exp())
            }
        }
    }
}

impl Denoiser for Gaussian {
    fn predict(&mut self, input: &Latents, timestep: f64) -> Result<Latents, Stopped> {
        let (alpha, sigma) = self.level(timestep);
        let variance = (alpha * DATA).powi(2) + sigma * sigma;
        // Expected data and noise, per unit of the mixture.
        let (clean, noise) = (alpha * DATA * DATA / variance, sigma / variance);
        let per_unit = match (self.class, self.prediction) {
            // The network sees x / sqrt(sigma^2 + 1/4) and is read by Table 1 of Karras et al. 2022.
            (Class::EdmEuler | Class::EdmDpm, _) => {
                let size = sigma.hypot(0.5);
                (clean - 0.25 / (size * size)) / (0.5 * sigma / size) * size
            }
            (_, "sample") => clean,
            (_, "v_prediction") => alpha * noise - sigma * clean,
            (_, "flow_prediction") => noise - clean,
            _ => noise,
        };
        Ok(input.mapv(|x| (per_unit * f64::from(x)) as f32))
    }

    fn noise(&mut self, _: [usize; 4]) -> Latents {
        panic!("a deterministic sampler asked for noise")
    }
}

/// The sampler's config on a common training process, visiting whole timesteps where it can.
fn config(row: &Sampler, prediction: &'static str) -> SchedulerConfig {
    let base = match row.class {
        Class::FlowEuler | Class::FlowHeun | Class::EdmEuler | Class::EdmDpm | Class::Ipndm => {
            SchedulerConfig::new(row.class)
        }
        _ => {
            let stated = serde_json::json!({"_class_name": row.class.name(), "beta_schedule": "scaled_linear", "beta_start": 0.00085,
                "beta_end": 0.012, "timestep_spacing": "trailing", "prediction_type": prediction, "set_alpha_to_one": true,
                "clip_sample": false, "skip_prk_steps": true});
            SchedulerConfig::from_json(&stated).unwrap()
        }
    };
    row.configure(&base).unwrap()
}

/// The relative error of a run of `steps`.
fn error(row: &Sampler, config: &SchedulerConfig, prediction: &'static str, steps: usize) -> f64 {
    let plan = Plan::new(config, &RunOptions::new(steps)).unwrap();
    let mut network = Gaussian::new(config, prediction);
    let (alpha, sigma) = network.level(plan.timesteps[0]);
    let exploding =
        plan.init_noise_sigma > 1.5 && !matches!(row.class, Class::EdmEuler | Class::EdmDpm);
    let (alpha, sigma) = if exploding {
        (1.0, sigma / alpha)
    } else {
        (alpha, sigma)
    };
    // The end: no noise, but for `deis`, which stops at the least noise of training.
    let (end_alpha, end_sigma) = if row.class == Class::Deis {
        network.level(0.0)
    } else {
        (1.0, 0.0)
    };
    let spread = |alpha: f64, sigma: f64| (alpha * DATA).hypot(sigma);
    let exact = plan.init_noise_sigma * spread(end_alpha, end_sigma) / spread(alpha, sigma);
    let start = Start::Noise(Latents::from_elem([1, 1, 1, 1], 1.0));
    let found = sample(config, &RunOptions::new(steps), start, &mut network).unwrap()[[0, 0, 0, 0]];
    (f64::from(found) / exact - 1.0).abs()
}

fn deterministic() -> impl Iterator<Item = &'static Sampler> {
    SAMPLERS.iter().filter(|row| !row.stochastic)
}

/// What a row's class can be trained to return.
fn predictions(row: &Sampler) -> &'static [&'static str] {
    match row.class {
        Class::FlowEuler | Class::FlowHeun => &["flow_prediction"],
        Class::EdmEuler | Class::EdmDpm => &["epsilon"],
        Class::Ipndm => &["v_prediction"],
        _ => &["epsilon", "v_prediction", "sample"],
    }
}

#[test]
fn every_deterministic_sampler_reaches_the_exact_gaussian_answer() {
    for row in deterministic() {
        for prediction in predictions(row) {
            let error = error(row, &config(row, prediction), prediction, 200);
            assert!(
                error < 1.5e-2,
                "{} with {prediction}: off by {error:.1e}",
                row.name
            );
        }
    }
}

#[test]
fn higher_order_samplers_are_much_closer_than_euler_at_the_same_steps() {
    // Karras' spacing, whose last step (of first order for all) is small; DPM solvers round its timesteps, which
    // costs them about 1e-3.
    let error = |name: &str| {
        let row = latent_sampling::find(name).unwrap();
        let prediction = predictions(row)[0];
        let plain = config(row, prediction);
        let karras = |config: SchedulerConfig| {
            config
                .with("timestep_spacing", "linspace")
                .and_then(|even| even.with("use_karras_sigmas", true))
                .unwrap()
        };
        let config = if prediction == "flow_prediction" {
            plain
        } else {
            karras(plain)
        };
        self::error(row, &config, prediction, 50)
    };
    let euler = error("euler");
    for name in [
        "heun", "dpm2", "lms", "dpmpp_2m", "dpmpp_2s", "unipc", "deis",
    ] {
        assert!(
            error(name) < 0.2 * euler,
            "{name} is off by {:.1e}, euler by {euler:.1e}",
            error(name)
        );
    }
    assert!(error("flow_heun") < 0.02 * error("flow_euler"));
}
