//! `latent bench training`: one training step of a U-Net and of an autoencoder, forward and backward.

use std::time::Instant;

use burn::module::Module;
use burn::tensor::Tensor;
use clap::Args;
use latent_models::{
    AutoencoderKl, AutoencoderKlConfig, Counts, DownBlockType, DownEncoderBlockType,
    UNet2dCondition, UNet2dConditionConfig, UNetCondition, UpBlockType, UpDecoderBlockType,
};
use latent_nn::training::Grads;
use latent_nn::{Init, parameter_count};
use serde::Serialize;

use crate::args::Compute;
use crate::commands::open;
use crate::fault::Fault;
use crate::terminal::Terminal;

/// Loss and gradients of a U-Net (32 latents of 16x16x4, 77 tokens) and of an autoencoder (8 pictures of 128x128).
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  latent bench training\n  latent bench training --repeat 10 --json"
)]
pub(crate) struct Training {
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
    /// Median of a step.
    seconds: f64,
    pictures_per_second: f64,
    tflop_per_second: f64,
}

/// Forward and backward of the U-Net's batch, as PyTorch's own counter has it.
const UNET_TFLOP: f64 = 0.5856;
/// Likewise of the autoencoder's.
const AUTOENCODER_TFLOP: f64 = 3.6523;

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
                "{}: {:.1} M parameters, {:.3} s a step of {}, {:.2} pictures/s, {:.2} TFLOP/s",
                measured.network,
                measured.parameters as f64 / 1e6,
                measured.seconds,
                measured.batch,
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
        let batch = 32;
        let noisy: Tensor<4> = compute.tensor(numbers(batch * 1024), [batch, 4, 16, 16]);
        let words: Tensor<3> = compute.tensor(numbers(batch * 77 * 256), [batch, 77, 256]);
        let timesteps: Vec<f32> = (0..batch).map(|i| 31.0 * i as f32).collect();
        Ok(self.measure("U-Net", &model, batch, UNET_TFLOP, || {
            let condition = UNetCondition::Text(words.clone());
            let error = model.forward(noisy.clone(), &timesteps, condition) - noisy.clone();
            (error.clone() * error).mean()
        }))
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
        let batch = 8;
        let pictures: Tensor<4> = compute.tensor(numbers(batch * 49_152), [batch, 3, 128, 128]);
        let noise: Tensor<4> = compute.tensor(numbers(batch * 4096), [batch, 4, 32, 32]);
        Ok(
            self.measure("autoencoder", &model, batch, AUTOENCODER_TFLOP, || {
                let moments = model.encode(pictures.clone());
                let again = model.decode(moments.sample(noise.clone()));
                let spread = moments.logvar.clone().exp() - moments.logvar.clone() - 1.0;
                let kl =
                    (moments.mean.clone() * moments.mean + spread).sum() * (0.5e-6 / batch as f32);
                (again - pictures.clone()).abs().mean() + kl
            }),
        )
    }

    fn measure<M: Module>(
        &self,
        network: &'static str,
        model: &M,
        batch: usize,
        tflop: f64,
        loss: impl Fn() -> Tensor<1>,
    ) -> Measured {
        let step = || {
            let began = Instant::now();
            // The norm reads every gradient, so nothing is left to compute when the clock stops.
            let norm = Grads::of(loss(), model).norm();
            assert!(norm.is_finite(), "a fresh network's gradients are finite");
            began.elapsed().as_secs_f64()
        };
        step();
        let mut seconds: Vec<f64> = (0..self.repeat).map(|_| step()).collect();
        seconds.sort_by(f64::total_cmp);
        let seconds = seconds[seconds.len() / 2];
        Measured {
            network,
            parameters: parameter_count(model),
            batch,
            seconds,
            pictures_per_second: batch as f64 / seconds,
            tflop_per_second: tflop / seconds,
        }
    }
}

fn numbers(count: usize) -> Vec<f32> {
    (0..count)
        .map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0)
        .collect()
}
