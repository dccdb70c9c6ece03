//! Schedules, samplers, guidance and random generators on host arrays; knows no model and no device.
//!
//! The whole crate works on [`Latents`], `ndarray` arrays `[n, c, h, w]` of f32. A sampler sees the network through
//! [`Denoiser`] only: the pipeline puts guidance and a model behind it, tests put a formula behind it.
//!
//! ```
//! use latent_sampling::{Denoiser, Latents, RunOptions, SchedulerConfig, Start, Stopped, TorchGenerator, find, sample};
//!
//! /// Stands in for a network that takes whatever it sees for noise.
//! struct Network(TorchGenerator);
//! impl Denoiser for Network {
//!     fn predict(&mut self, input: &Latents, _timestep: f64) -> Result<Latents, Stopped> { Ok(input.clone()) }
//!     fn noise(&mut self, shape: [usize; 4]) -> Latents { self.0.randn_latents(shape) }
//! }
//! let folder = SchedulerConfig::from_text(r#"{"_class_name": "PNDMScheduler", "beta_schedule": "scaled_linear"}"#)?;
//! let config = find("dpmpp_2m_karras")?.configure(&folder)?;
//! let mut network = Network(TorchGenerator::new(7));
//! let noise = network.noise([1, 4, 8, 8]);
//! let latents = sample(&config, &RunOptions::new(20), Start::Noise(noise), &mut network)?;
//! assert_eq!(latents.shape(), [1, 4, 8, 8]);
//! # Ok::<(), latent_sampling::SamplingError>(())
//! ```

mod compat;
mod config;
mod error;
pub mod guidance;
mod level;
mod names;
mod noise_schedule;
mod plan;
pub mod rng;
mod run;
mod samplers;
mod schedules;
mod slerp;
mod spacing;
mod threshold;

pub use compat::{Compat, choose_as};
pub use config::{
    AlgorithmType, BetaSchedule, Class, FinalSigmas, InterpolationType, Prediction,
    SchedulerConfig, Settings, SigmaSchedule, SigmaSpacing, SolverType, TimeShift, TimestepSpacing,
    TimestepType, VarianceType,
};
pub use error::SamplingError;
pub use names::{find, find_joined, find_schedule};
pub use noise_schedule::NoiseSchedule;
pub use plan::{Churn, Plan, RunOptions};
pub use rng::{
    BatchGenerator, BrownianPath, CounterNoise, GeneratorKind, NoiseSource, PhiloxGenerator,
    PictureGenerator, TorchGenerator,
};
pub use run::{Denoiser, Start, StepReport, Stopped, sample};
pub use samplers::{SAMPLERS, Sampler, sampler_of};
pub use schedules::{Choice, SCHEDULES, Schedule, choose};
pub use slerp::slerp;

/// Latents of a batch, `[n, c, h, w]`.
pub type Latents = ndarray::Array4<f32>;
