//! `latent bench pixel-vs-latent`: the argument of latent diffusion as measured figures.

use std::time::Instant;

use clap::Args;
use latent_models::{
    Counts, DownBlockType, UNet2dCondition, UNet2dConditionConfig, UNetCondition, UpBlockType,
};
use latent_nn::{Init, to_host};
use serde::Serialize;

use super::flops::UnetShape;
use crate::args::Compute;
use crate::commands::open;
use crate::fault::Fault;
use crate::terminal::{Terminal, thousands};

/// One denoising step in pixels against one in latents, with the same U-Net shape.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  latent bench pixel-vs-latent
  latent bench pixel-vs-latent --size 512 --repeat 1     minutes on two cores
  latent bench pixel-vs-latent --json")]
pub(crate) struct PixelVsLatent {
    /// Side of the picture whose steps are measured, a multiple of 32.
    #[arg(long, value_name = "PIXELS", default_value_t = 256, value_parser = side)]
    size: usize,
    /// Times a step is measured; the fastest counts.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeat: u32,
    #[command(flatten)]
    compute: Compute,
}

fn side(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(side) if (32..=2048).contains(&side) && side % 32 == 0 => Ok(side),
        _ => Err("give a multiple of 32 from 32 to 2048".into()),
    }
}

/// Down-sampling and channels of Stable Diffusion's autoencoder.
const FACTOR: usize = 8;
const LATENT_CHANNELS: usize = 4;

/// The U-Net that is measured: attention at every level but the first.
const CHANNELS: [usize; 3] = [64, 128, 192];
/// Blocks of a level on the way down.
const LAYERS: usize = 2;
/// Tokens of the text and their width.
const TEXT: [usize; 2] = [77, 256];

/// One of the two spaces.
#[derive(Serialize)]
struct Space {
    /// Channels, height, width.
    shape: [usize; 3],
    numbers: usize,
    gflop: f64,
    seconds: f64,
    gflop_per_second: f64,
}

#[derive(Serialize)]
struct Report {
    device: String,
    size: usize,
    pixel: Space,
    latent: Space,
    numbers_ratio: f64,
    flop_ratio: f64,
    seconds_ratio: f64,
    /// Counted, not measured: Stable Diffusion 1.5's shape on pictures of 512x512, in TFLOP.
    stable_diffusion_pixel_tflop: f64,
    stable_diffusion_latent_tflop: f64,
}

impl PixelVsLatent {
    pub(crate) fn run(self, terminal: &Terminal) -> Result<(), Fault> {
        let (compute, device) = open::compute(&self.compute)?;
        terminal.note(format_args!(
            "device: {device}, {:?} products",
            compute.precision
        ));
        let small = self.size / FACTOR;
        let latent = self.measure([LATENT_CHANNELS, small, small], &compute)?;
        terminal.note(format_args!(
            "a step in latents took {:.3} s; now one in pixels",
            latent.seconds
        ));
        let pixel = self.measure([3, self.size, self.size], &compute)?;
        let big = |io_channels, side| stable_diffusion(io_channels).flops(side, side) as f64 / 1e12;
        let report = Report {
            device,
            size: self.size,
            numbers_ratio: pixel.numbers as f64 / latent.numbers as f64,
            flop_ratio: pixel.gflop / latent.gflop,
            seconds_ratio: pixel.seconds / latent.seconds,
            stable_diffusion_pixel_tflop: big(3, 512),
            stable_diffusion_latent_tflop: big(LATENT_CHANNELS, 512 / FACTOR),
            pixel,
            latent,
        };
        terminal.result(&report, table(&report))
    }

    /// The fastest of some steps of a new U-Net, one picture, with text.
    fn measure(&self, shape: [usize; 3], compute: &latent::Compute) -> Result<Space, Fault> {
        let [channels, height, width] = shape;
        let unet = UNet2dCondition::new(&config(channels, height), &mut Init::seeded(compute, 7))?;
        let numbers = channels * height * width;
        let values = |count: usize| {
            (0..count)
                .map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0)
                .collect::<Vec<f32>>()
        };
        let text = compute.tensor(values(TEXT[0] * TEXT[1]), [1, TEXT[0], TEXT[1]]);
        let context = unet.prepare(UNetCondition::Text(text), 1);
        let step = |height: usize, width: usize| {
            let sample = compute.tensor(
                values(channels * height * width),
                [1, channels, height, width],
            );
            let began = Instant::now();
            to_host(unet.forward_prepared(sample, &[500.0], &context));
            began.elapsed().as_secs_f64()
        };
        // A small one first: it packs the weights, which is done once a model and not once a step.
        step(16, 16);
        let seconds = (0..self.repeat)
            .map(|_| step(height, width))
            .fold(f64::INFINITY, f64::min);
        let gflop = measured_shape(channels).flops(height, width) as f64 / 1e9;
        Ok(Space {
            shape,
            numbers,
            gflop,
            seconds,
            gflop_per_second: gflop / seconds,
        })
    }
}

fn config(channels: usize, side: usize) -> UNet2dConditionConfig {
    use {DownBlockType as Down, UpBlockType as Up};
    UNet2dConditionConfig {
        sample_size: side,
        in_channels: channels,
        out_channels: channels,
        down_block_types: vec![Down::Plain, Down::CrossAttention, Down::CrossAttention],
        up_block_types: vec![Up::CrossAttention, Up::CrossAttention, Up::Plain],
        block_out_channels: CHANNELS.to_vec(),
        layers_per_block: LAYERS,
        attention_head_dim: Counts::Each(vec![2, 4, 6]),
        cross_attention_dim: TEXT[1],
        norm_num_groups: 16,
        ..UNet2dConditionConfig::default()
    }
}

/// [`config`] as its operations are counted.
fn measured_shape(io_channels: usize) -> UnetShape {
    UnetShape {
        io_channels,
        channels: CHANNELS.to_vec(),
        attention: vec![false, true, true],
        layers: LAYERS,
        text: TEXT,
    }
}

/// Source: `unet/config.json` of Stable Diffusion 1.5.
fn stable_diffusion(io_channels: usize) -> UnetShape {
    UnetShape {
        io_channels,
        channels: vec![320, 640, 1280, 1280],
        attention: vec![true, true, true, false],
        layers: 2,
        text: [77, 768],
    }
}

fn table(report: &Report) -> String {
    let row = |name: &str, space: &Space| {
        let shape = format!("{:?}", space.shape);
        let (numbers, gflop, seconds) = (thousands(space.numbers), space.gflop, space.seconds);
        format!(
            "{name:8} {shape:16} {numbers:>9} {gflop:>10.2} {seconds:>10.4} {:>9.0}",
            space.gflop_per_second
        )
    };
    let (pixels, latents) = (512 * 512 * 3, 64 * 64 * LATENT_CHANNELS);
    let (sd_pixel, sd_latent) = (
        report.stable_diffusion_pixel_tflop,
        report.stable_diffusion_latent_tflop,
    );
    [
        format!("one denoising step of a U-Net of {CHANNELS:?} channels, {0}x{0} pixels", report.size),
        format!("{:8} {:16} {:>9} {:>10} {:>10} {:>9}", "", "shape", "numbers", "GFLOP", "seconds", "GFLOP/s"),
        row("pixels", &report.pixel),
        row("latents", &report.latent),
        format!(
            "{:8} {:16} {:>8.0}x {:>9.0}x {:>9.0}x",
            "ratio", "", report.numbers_ratio, report.flop_ratio, report.seconds_ratio
        ),
        String::new(),
        format!(
            "Stable Diffusion at 512x512: {} numbers a picture against {} a latent, {} times fewer;",
            thousands(pixels),
            thousands(latents),
            pixels / latents
        ),
        format!(
            "a step of its U-Net in pixels would take {sd_pixel:.0} TFLOP against {sd_latent:.2}, {:.0} times more",
            sd_pixel / sd_latent
        ),
        "(counted, not measured: attention grows with the square of the positions).".to_owned(),
    ]
    .join("\n")
}
