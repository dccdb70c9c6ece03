//! `latent bench models`: one evaluation of Stable Diffusion's own networks, with drawn weights of the exact sizes.

use std::time::Instant;

use burn::tensor::Tensor;
use clap::{Args, ValueEnum};
use latent_models::{
    AutoencoderKl, AutoencoderKlConfig, ClipTextConfig, ClipTextModel, Counts,
    DownEncoderBlockType, UNet2dCondition, UNet2dConditionConfig, UNetCondition,
    UpDecoderBlockType,
};
use latent_nn::{Init, to_host};
use serde::Serialize;

use crate::args::Compute;
use crate::commands::bench::numbers;
use crate::commands::open;
use crate::fault::Fault;
use crate::terminal::Terminal;

/// Seconds of one evaluation of Stable Diffusion's networks at 512x512, with drawn weights.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  latent bench models
  latent bench models --only unet,vae-decode --precision f32 --json")]
pub(crate) struct Models {
    /// Networks to measure [default: all].
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    only: Vec<Network>,
    /// Times each is measured; the median counts.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeat: u32,
    #[command(flatten)]
    compute: Compute,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Network {
    /// SD 1.5's U-Net: two latents of 4x64x64, 77 tokens each.
    Unet,
    /// A latent of 4x64x64 to a picture of 512x512.
    VaeDecode,
    /// A picture of 512x512 to a latent.
    VaeEncode,
    /// CLIP-L's text encoder: two texts of 77 tokens.
    Clip,
}

/// Operations of one evaluation, a multiplication with its addition counting two.
const GFLOP: [(Network, f64); 4] = [
    (Network::Unet, 1606.5),
    (Network::VaeDecode, 2514.5),
    (Network::VaeEncode, 1116.7),
    (Network::Clip, 26.6),
];

/// What was measured of one network.
#[derive(Serialize)]
struct Measured {
    network: String,
    /// Median of an evaluation.
    seconds: f64,
    fastest: f64,
    slowest: f64,
    gflop_per_second: f64,
}

impl Models {
    pub(crate) fn run(self, terminal: &Terminal) -> Result<(), Fault> {
        let (compute, device) = open::compute(&self.compute)?;
        terminal.note(format_args!(
            "device: {device}, {:?} products",
            compute.precision
        ));
        for (network, gflop) in GFLOP {
            if !self.only.is_empty() && !self.only.contains(&network) {
                continue;
            }
            let mut evaluation = evaluation(network, &compute)?;
            // The first packs the weights.
            evaluation();
            let mut seconds: Vec<f64> = (0..self.repeat)
                .map(|_| {
                    let began = Instant::now();
                    evaluation();
                    began.elapsed().as_secs_f64()
                })
                .collect();
            seconds.sort_by(f64::total_cmp);
            let median = seconds[seconds.len() / 2];
            let name = network
                .to_possible_value()
                .map_or_else(String::new, |value| value.get_name().to_owned());
            let measured = Measured {
                network: name,
                seconds: median,
                fastest: seconds[0],
                slowest: seconds[seconds.len() - 1],
                gflop_per_second: gflop / median,
            };
            let line = format!(
                "{:10} {:8.4} s ({:.4} to {:.4}), {:6.0} GFLOP/s",
                measured.network,
                measured.seconds,
                measured.fastest,
                measured.slowest,
                measured.gflop_per_second
            );
            terminal.result(&measured, line)?;
        }
        Ok(())
    }
}

/// One evaluation of the network, its result read.
fn evaluation(network: Network, compute: &latent::Compute) -> Result<Box<dyn FnMut()>, Fault> {
    let mut init = Init::seeded(compute, 7);
    let compute = compute.clone();
    Ok(match network {
        Network::Unet => {
            let config = UNet2dConditionConfig {
                attention_head_dim: Counts::Same(8),
                cross_attention_dim: 768,
                ..UNet2dConditionConfig::default()
            };
            let model = UNet2dCondition::new(&config, &mut init)?;
            let words: Tensor<3> = compute.tensor(numbers(2 * 77 * 768), [2, 77, 768]);
            let context = model.prepare(UNetCondition::Text(words), 2);
            Box::new(move || {
                let noisy = compute.tensor(numbers(2 * 4 * 64 * 64), [2, 4, 64, 64]);
                to_host(model.forward_prepared(noisy, &[500.0; 2], &context));
            })
        }
        Network::VaeDecode => {
            let model = AutoencoderKl::new(&vae(), &mut init)?;
            Box::new(move || {
                to_host(model.decode(compute.tensor(numbers(4 * 64 * 64), [1, 4, 64, 64])));
            })
        }
        Network::VaeEncode => {
            let model = AutoencoderKl::new(&vae(), &mut init)?;
            Box::new(move || {
                let picture = compute.tensor(numbers(3 * 512 * 512), [1, 3, 512, 512]);
                to_host(model.encode(picture).mean);
            })
        }
        Network::Clip => {
            let config = ClipTextConfig {
                hidden_size: 768,
                intermediate_size: 3072,
                projection_dim: 768,
                num_attention_heads: 12,
                ..ClipTextConfig::default()
            };
            let model = ClipTextModel::new(&config, &mut init)?;
            let ids: Vec<u32> = (0..2 * 77).collect();
            Box::new(move || {
                to_host(model.forward(compute.ids(&ids, [2, 77])).last);
            })
        }
    })
}

/// Stable Diffusion's autoencoder.
fn vae() -> AutoencoderKlConfig {
    AutoencoderKlConfig {
        down_block_types: vec![DownEncoderBlockType::Plain; 4],
        up_block_types: vec![UpDecoderBlockType::Plain; 4],
        block_out_channels: vec![128, 256, 512, 512],
        layers_per_block: 2,
        sample_size: 512,
        ..AutoencoderKlConfig::default()
    }
}
