//! `latent bench training`: one training step of a U-Net and of an autoencoder, forward and backward.

use std::time::Instant;

use burn::module::Module;
use burn::tensor::Tensor;
use clap::Args;
use latent_models::{
    AutoencoderKl, AutoencoderKlConfig, Counts, DownBlockType, DownEncoderBlockType,
    UNet2dCondition, UNet2dConditionConfig, UNetCondition, UpBlockType, UpDecoderBlockType,
};
use latent_nn::training::{Grads, SideBySide, with_own_leaves};
use latent_nn::{Init, parameter_count};
use serde::Serialize;

use crate::args::Compute;
use crate::commands::bench::numbers;
use crate::commands::open;
use crate::fault::{Fault, Kind};
use crate::terminal::Terminal;

/// Loss and gradients of a U-Net (32 latents of 16x16x4, 77 tokens) and of an autoencoder (8 pictures of 128x128).
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  latent bench training\n  latent bench training --repeat 10 --json"
)]
pub(crate) struct Training {
    /// Passes of a step, side by side on a CPU [default: one a thread].
    #[arg(long, value_name = "N", value_parser = passes)]
    passes: Option<usize>,
    /// Times a step is measured; the median counts.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeat: u32,
    #[command(flatten)]
    compute: Compute,
}

/// What was measured of one network.
#[derive(Serialize)]
struct Measured {
    network: &'static str,
    parameters: usize,
    batch: usize,
    passes: usize,
    /// Median of a step.
    seconds: f64,
    pictures_per_second: f64,
    tflop_per_second: f64,
}

/// A step to measure.
struct Work {
    network: &'static str,
    batch: usize,
    /// Forward and backward of the batch, as PyTorch's own counter has it.
    tflop: f64,
}

const UNET: Work = Work {
    network: "U-Net",
    batch: 32,
    tflop: 0.5856,
};
const AUTOENCODER: Work = Work {
    network: "autoencoder",
    batch: 8,
    tflop: 3.6523,
};

impl Training {
    pub(crate) fn run(self, terminal: &Terminal) -> Result<(), Fault> {
        let (compute, device) = open::compute(&self.compute)?;
        terminal.note(format_args!(
            "device: {device}, {:?} products",
            compute.precision
        ));
        let compute = compute.autodiff();
        for measured in [self.unet(&compute)?, self.autoencoder(&compute)?] {
            let line = format!(
                "{}: {:.1} M parameters, {:.3} s a step of {} in {} side by side, {:.2} pictures/s, {:.2} TFLOP/s",
                measured.network,
                measured.parameters as f64 / 1e6,
                measured.seconds,
                measured.batch,
                measured.passes,
                measured.pictures_per_second,
                measured.tflop_per_second,
            );
            terminal.result(&measured, line)?;
        }
        Ok(())
    }

    fn unet(&self, compute: &latent::Compute) -> Result<Measured, Fault> {
        use {DownBlockType as Down, UpBlockType as Up};
        let config = UNet2dConditionConfig {
            sample_size: 16,
            down_block_types: vec![Down::CrossAttention; 3],
            up_block_types: vec![Up::CrossAttention; 3],
            block_out_channels: vec![128, 256, 384],
            attention_head_dim: Counts::Same(8),
            cross_attention_dim: 256,
            ..UNet2dConditionConfig::default()
        };
        let model = UNet2dCondition::new(&config, &mut Init::seeded(compute, 7))?;
        let loss = |model: &UNet2dCondition, count: usize| {
            let noisy: Tensor<4> = compute.tensor(numbers(count * 1024), [count, 4, 16, 16]);
            let words = compute.tensor(numbers(count * 77 * 256), [count, 77, 256]);
            let timesteps: Vec<f32> = (0..count).map(|i| 31.0 * i as f32).collect();
            let error =
                model.forward(noisy.clone(), &timesteps, UNetCondition::Text(words)) - noisy;
            (error.clone() * error).mean()
        };
        self.measure(&UNET, &model, loss, compute)
    }

    fn autoencoder(&self, compute: &latent::Compute) -> Result<Measured, Fault> {
        let config = AutoencoderKlConfig {
            down_block_types: vec![DownEncoderBlockType::Plain; 3],
            up_block_types: vec![UpDecoderBlockType::Plain; 3],
            block_out_channels: vec![128, 256, 256],
            layers_per_block: 2,
            latent_channels: 4,
            norm_num_groups: 32,
            sample_size: 128,
            ..AutoencoderKlConfig::default()
        };
        let model = AutoencoderKl::new(&config, &mut Init::seeded(compute, 7))?;
        let loss = |model: &AutoencoderKl, count: usize| {
            let pictures: Tensor<4> = compute.tensor(numbers(count * 49_152), [count, 3, 128, 128]);
            let noise: Tensor<4> = compute.tensor(numbers(count * 4096), [count, 4, 32, 32]);
            let moments = model.encode(pictures.clone());
            let again = model.decode(moments.sample(noise));
            let spread = moments.logvar.clone().exp() - moments.logvar.clone() - 1.0;
            let kl = (moments.mean.clone() * moments.mean + spread).sum() * (0.5e-6 / count as f32);
            (again - pictures).abs().mean() + kl
        };
        self.measure(&AUTOENCODER, &model, loss, compute)
    }

    /// `loss` of a copy of the model on so many pictures.
    fn measure<M: Module + Sync>(
        &self,
        work: &Work,
        model: &M,
        loss: impl Fn(&M, usize) -> Tensor<1> + Sync,
        compute: &latent::Compute,
    ) -> Result<Measured, Fault> {
        let batch = work.batch;
        let passes = self.passes.unwrap_or_else(|| most_passes(compute));
        let side_by_side = SideBySide::new(passes, compute)
            .map_err(|error| Fault::new(Kind::Work, error.to_string()))?;
        let step = || {
            let began = Instant::now();
            let mut gradients = Grads::default();
            let found = side_by_side.run(vec![batch / passes; passes], |_, count| {
                let model = with_own_leaves(model);
                Grads::of(loss(&model, count), &model)
            });
            found.into_iter().for_each(|pass| gradients.add(pass));
            // The norm reads every gradient, so nothing is left to compute when the clock stops.
            assert!(
                gradients.norm().is_finite(),
                "a fresh network's gradients are finite"
            );
            began.elapsed().as_secs_f64()
        };
        step();
        let mut seconds: Vec<f64> = (0..self.repeat).map(|_| step()).collect();
        seconds.sort_by(f64::total_cmp);
        let seconds = seconds[seconds.len() / 2];
        Ok(Measured {
            network: work.network,
            parameters: parameter_count(model),
            batch,
            passes,
            seconds,
            pictures_per_second: batch as f64 / seconds,
            tflop_per_second: work.tflop / seconds,
        })
    }
}

/// Passes that a step can be cut into: both batches are multiples of 8.
const PASSES: [usize; 4] = [1, 2, 4, 8];

/// One a thread, as far as the batch can be cut.
fn most_passes(compute: &latent::Compute) -> usize {
    let threads = if compute.is_cpu() {
        latent::threads()
    } else {
        1
    };
    PASSES
        .into_iter()
        .rfind(|&passes| passes <= threads)
        .unwrap_or(1)
}

fn passes(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(passes) if PASSES.contains(&passes) => Ok(passes),
        _ => Err("must be 1, 2, 4 or 8".into()),
    }
}
