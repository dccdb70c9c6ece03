//! The baseline that latent diffusion improves on: a diffusion model that works on the pixels themselves.
//!
//! `cargo run --release -p latent-examples --example pixel_ddpm -- [--steps 800]`
//!
//! The default run shows how it works and ends while the shapes are still rough; a larger `--steps` goes on.
//!
//! Source: Ho et al. 2020 (arXiv:2006.11239), Algorithms 1 (training) and 2 (sampling).

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::env;
use std::error::Error;
use std::path::Path;
use std::time::Instant;

use burn::module::Module;
use burn::tensor::Tensor;
use latent::models::{
    DownBlockType, MidBlockType, UNet2dCondition, UNet2dConditionConfig, UNetCondition, UpBlockType,
};
use latent::sampling::{
    Class, Denoiser, Latents, NoiseSchedule, RunOptions, SchedulerConfig, Start, Stopped,
    TorchGenerator, sample,
};
use latent::{Compute, Picture, Precision};
use latent_examples::{COLOURS, FORMS, Shape, draw};
use latent_formats::Sheet;
use latent_nn::training::{AdamW, AverageWarmup, Grads, Optimizer, Step};
use latent_nn::{Init, parameter_count, to_host};
use latent_train::{Decay, LearningRate};

/// Side of the pictures, in pixels.
const SIDE: usize = 32;
/// Pictures a training step.
const BATCH: usize = 16;
/// Training steps unless `--steps` says otherwise.
const STEPS: u64 = 800;
/// Steps of the sampler, and pictures on the sheet.
const SAMPLING_STEPS: usize = 200;
const DRAWN: usize = 16;

fn main() -> Result<(), Box<dyn Error>> {
    let steps = steps_asked()?;
    let compute = Compute::cpu(Precision::best());
    // Pictures are kept within -1 to 1, as `DDPMScheduler` has it. On small pictures the paper's linear betas leave only
    // noise for half of the way; a cosine (arXiv:2102.09672) spends the steps where something is decided.
    let config = SchedulerConfig::new(Class::Ddpm).with("beta_schedule", "squaredcos_cap_v2")?;
    let unet = train(steps, &compute, &NoiseSchedule::new(&config)?)?;

    let mut network = Network {
        unet,
        compute,
        random: TorchGenerator::new(7),
    };
    let noise = network.noise([DRAWN, 3, SIDE, SIDE]);
    let begin = Instant::now();
    let options = RunOptions::new(SAMPLING_STEPS);
    let drawn = sample(&config, &options, Start::Noise(noise), &mut network)?;
    let seconds = begin.elapsed().as_secs_f64() / SAMPLING_STEPS as f64;
    println!("sampling: {seconds:.3} s a step for {DRAWN} pictures, {SAMPLING_STEPS} steps");

    let pictures: Vec<Picture> = drawn
        .outer_iter()
        .map(|one| Picture::from_f32_nchw(&one.iter().copied().collect::<Vec<_>>(), SIDE, SIDE))
        .collect::<Result<_, _>>()?;
    Sheet {
        columns: 4,
        ..Sheet::default()
    }
    .draw(&pictures)?
    .save(Path::new("pixel_ddpm.png"))?;
    println!("wrote pixel_ddpm.png");
    compare();
    Ok(())
}

/// The count after `--steps`.
fn steps_asked() -> Result<u64, Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    match (arguments.next().as_deref(), arguments.next()) {
        (None, _) => Ok(STEPS),
        (Some("--steps"), Some(count)) => Ok(count.parse()?),
        _ => Err("use it as `pixel_ddpm [--steps N]`".into()),
    }
}

/// A U-Net as Stable Diffusion's, small, without attention, on three channels of colour in place of four of latents.
fn sizes() -> UNet2dConditionConfig {
    UNet2dConditionConfig {
        sample_size: SIDE,
        in_channels: 3,
        out_channels: 3,
        block_out_channels: vec![16, 48, 96],
        down_block_types: vec![DownBlockType::Plain; 3],
        mid_block_type: Some(MidBlockType::Plain),
        up_block_types: vec![UpBlockType::Plain; 3],
        layers_per_block: 1,
        norm_num_groups: 8,
        ..UNet2dConditionConfig::default()
    }
}

/// Trains a U-Net, and returns the average of its weights: they draw better than the last ones, which still jump about.
fn train(
    steps: u64,
    compute: &Compute,
    schedule: &NoiseSchedule,
) -> Result<UNet2dCondition, Box<dyn Error>> {
    let compute = compute.autodiff();
    let mut unet = UNet2dCondition::new(&sizes(), &mut Init::seeded(&compute, 1))?;
    let (weights, numbers) = (parameter_count(&unet), 3 * SIDE * SIDE);
    println!("{weights} weights; one picture is 3 x {SIDE} x {SIDE} = {numbers} numbers");
    let mut optimizer = Optimizer::new(AdamW::default(), true);
    let rate = LearningRate {
        peak: 3e-3,
        warmup: 50,
        decay: Decay::Cosine,
    };
    let average = AverageWarmup {
        max: 0.98,
        inv_gamma: 1.0,
        power: 0.75,
    };
    let mut random = TorchGenerator::new(1);
    let begin = Instant::now();
    for done in 1..=steps {
        let loss = epsilon_loss(&unet, &compute, schedule, &mut random)?;
        let (value, _) = to_host(loss.clone());
        let gradients = Grads::of(loss, &unet);
        let change = Step {
            lr: rate.at(done - 1, steps) as f32,
            max_grad_norm: Some(1.0),
            average_decay: average.decay(done) as f32,
        };
        unet = optimizer.step(unet, gradients, change).0;
        if done.is_multiple_of(100) || done == steps {
            let seconds = begin.elapsed().as_secs_f64() / done as f64;
            println!(
                "step {done:>4}: loss {:.4}, {seconds:.3} s a step",
                value[0]
            );
        }
    }
    Ok(optimizer.averaged(&unet.valid()))
}

/// Noises each picture to a random timestep, and has the network name the noise: its mean squared error `[1]`.
///
/// Source: Ho et al. 2020 (arXiv:2006.11239), Algorithm 1.
fn epsilon_loss(
    unet: &UNet2dCondition,
    compute: &Compute,
    schedule: &NoiseSchedule,
    random: &mut TorchGenerator,
) -> Result<Tensor<1>, Box<dyn Error>> {
    let shape = [BATCH, 3, SIDE, SIDE];
    let clean = pictures(random)?;
    let noise = random.randn_latents(shape);
    // Random timesteps, evenly spread over the batch: the same mean as independent ones, and a calmer loss.
    let start = random.rand(1)[0];
    let share = |index: usize| (index as f32 + start) / BATCH as f32;
    let last = schedule.len() - 1;
    let timesteps: Vec<usize> = (0..BATCH)
        .map(|index| ((share(index) * schedule.len() as f32) as usize).min(last))
        .collect();
    let noisy = schedule.add_noise(&clean, &noise, &timesteps);

    let told: Vec<f32> = timesteps.iter().map(|&timestep| timestep as f32).collect();
    let tensor = |array: Latents| compute.tensor(array.into_iter().collect(), shape);
    let error = unet.forward(tensor(noisy), &told, UNetCondition::None) - tensor(noise);
    Ok((error.clone() * error).mean())
}

/// `[BATCH, 3, SIDE, SIDE]` in -1 to 1: a shape of random colour and form at a random place, each time another.
fn pictures(random: &mut TorchGenerator) -> Result<Latents, Box<dyn Error>> {
    let mut values = Vec::with_capacity(BATCH * 3 * SIDE * SIDE);
    for _ in 0..BATCH {
        let choice = random.randint((COLOURS.len() * FORMS.len()) as u64, 1)[0] as usize;
        let place = random.rand(3);
        let shape = Shape {
            form: FORMS[choice % FORMS.len()].1,
            colour: COLOURS[choice / FORMS.len()].1,
            centre: [0.35 + 0.3 * place[0], 0.35 + 0.3 * place[1]],
            radius: 0.2 + 0.1 * place[2],
        };
        values.extend(draw(&[shape], SIDE)?.to_f32_nchw());
    }
    Ok(Latents::from_shape_vec([BATCH, 3, SIDE, SIDE], values)?)
}

/// The trained network as samplers see it; "latents" are the pictures here.
struct Network {
    unet: UNet2dCondition,
    compute: Compute,
    random: TorchGenerator,
}

impl Denoiser for Network {
    fn predict(&mut self, input: &Latents, timestep: f64) -> Result<Latents, Stopped> {
        let (n, c, h, w) = input.dim();
        let noisy = self
            .compute
            .tensor(input.iter().copied().collect(), [n, c, h, w]);
        let noise = self
            .unet
            .forward(noisy, &vec![timestep as f32; n], UNetCondition::None);
        let (values, shape) = to_host(noise);
        Latents::from_shape_vec(shape, values).map_err(|_| Stopped)
    }

    fn noise(&mut self, shape: [usize; 4]) -> Latents {
        self.random.randn_latents(shape)
    }
}

/// Why one does not stay with pixels.
fn compare() {
    println!(
        "\nnumbers that the network works on at every step, in pixels and in latents of an eighth of the side:"
    );
    for side in [SIDE, 128, 512] {
        let (pixels, latents) = (3 * side * side, 4 * (side / 8) * (side / 8));
        println!(
            "  {side:>3} x {side:<3} {pixels:>7} {latents:>6}: {} times fewer",
            pixels / latents
        );
    }
    println!("`--example tour` shows the way round through latents.");
}
