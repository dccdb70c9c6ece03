//! A sampler of one's own: DDIM with momentum, a loop over the model's public parts.
//!
//! `cargo run --release -p latent-examples --example own_sampler -- [model folder]`
//!
//! `latent::sampling` has some twenty samplers, and `Request::sampler` picks one by name. This program uses none of
//! them: it owns the walk from noise to latents, and so can do at each step whatever it likes.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::env;
use std::error::Error;
use std::path::Path;

use latent::sampling::{Latents, NoiseSchedule, Prediction, TorchGenerator};
use latent_examples::{Guided, open};

const WORDS: &str = "a red apple, 3d style";
const STEPS: usize = 20;
const SEED: u64 = 7;
/// Share of the last change of the clean estimate that is added to it, since it changes much the same way again: half
/// of it is the change expected by the middle of the step. 0 is plain DDIM.
const MOMENTUM: f32 = 0.5;

fn main() -> Result<(), Box<dyn Error>> {
    let (pipeline, config) = open(env::args().nth(1).as_deref())?;
    let network = Guided::new(&pipeline, WORDS)?;
    let walk = Walk {
        schedule: NoiseSchedule::new(&config)?,
        prediction: config.settings().prediction_type,
        network,
    };

    let [height, width] = pipeline
        .size()
        .map(|pixels| pixels / pipeline.downsampling());
    let shape = [1, pipeline.autoencoder().latent_channels(), height, width];
    let noise = TorchGenerator::new(SEED).randn_latents(shape);
    let latents = walk.momentum_ddim(noise, STEPS);

    let picture = pipeline.decode(&latents.into())?.remove(0);
    picture.save(Path::new("own_sampler.png"))?;
    println!("wrote own_sampler.png");
    Ok(())
}

/// What a walk from noise to latents needs.
struct Walk<'a> {
    /// How much of the picture is left at each timestep.
    schedule: NoiseSchedule,
    /// What the network's output is: the noise, or a mixture of noise and picture.
    prediction: Prediction,
    network: Guided<'a>,
}

impl Walk<'_> {
    /// Unit noise `[1, c, h, w]` to clean latents.
    ///
    /// Source: Song et al. 2020 (arXiv:2010.02502), Eq. 12 without fresh noise; the momentum is that of DPM-Solver++ 2M
    /// (arXiv:2211.01095, Algorithm 2) for even steps.
    fn momentum_ddim(&self, mut x: Latents, steps: usize) -> Latents {
        let timesteps = trailing(steps, self.schedule.len());
        let mut before: Option<Latents> = None;
        for (index, &timestep) in timesteps.iter().enumerate() {
            // x = alpha * clean + sigma * noise: the network's output says how x divides into the two.
            let output = self.network.predict(&x, timestep as f64);
            let clean = self
                .schedule
                .denoised(self.prediction, &output, &x, &[timestep]);
            let (alpha, sigma) = self.scales(timestep);
            let noise = (&x - &(&clean * alpha)) / sigma;
            println!(
                "step {:>2}, timestep {timestep:>3}: {sigma:.3} of noise",
                index + 1
            );
            x = match timesteps.get(index + 1) {
                Some(&next) => {
                    let (alpha, sigma) = self.scales(next);
                    ahead(&clean, before.as_ref()) * alpha + noise * sigma
                }
                None => clean.clone(),
            };
            before = Some(clean);
        }
        x
    }

    /// Weights of clean latents and noise.
    fn scales(&self, timestep: usize) -> (f32, f32) {
        let (alpha, sigma) = self.schedule.scales(timestep);
        (alpha as f32, sigma as f32)
    }
}

/// The clean estimate, moved on the way it was going.
fn ahead(clean: &Latents, before: Option<&Latents>) -> Latents {
    match before {
        Some(before) => clean + &((clean - before) * MOMENTUM),
        None => clean.clone(),
    }
}

/// `steps` even timesteps from the last of `total`, which is the noisiest, down to above 0.
///
/// # Panics
/// If `steps` is 0.
fn trailing(steps: usize, total: usize) -> Vec<usize> {
    (0..steps)
        .map(|step| total * (steps - step) / steps)
        .filter(|&end| end > 0)
        .map(|end| end - 1)
        .collect()
}
