//! The flags of every command. Help texts are the doc comments here.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::commands::{
    about, bench, completions, convert, data, decode, demo, devices, encode, eval, export,
    generate, inspect, plan, prompt, reconstruct, reproduce, samplers, train,
};

const EXAMPLES: &str = "\
Examples:
  latent generate \"a red apple, 3d style\"
  latent generate \"빨간 사과, 3D 스타일\" --seed 7 --count 4 -o apples.png
  latent generate \"a fox in the snow\" --model ./stable-diffusion-v1-5 --steps 25 --guidance 7.5
  latent encode photo.png -o z.safetensors && latent decode z.safetensors -o again.png
  latent train diffusion configs/diffusion.toml";

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    the work failed on its way (a loss that is not finite, a lost device)
  2    a wrong flag, request or configuration value
  3    an input that is missing, broken or does not fit: picture, model, data, checkpoint
  4    an output that could not be written
  70   a bug in latent itself
  130  stopped with Ctrl-C

stdout carries paths, or JSON with --json; everything else goes to stderr.";

/// Latent diffusion: words to pictures, on a CPU or a GPU.
#[derive(Debug, Parser)]
#[command(name = "latent", version, max_term_width = 100, after_help = EXAMPLES,
          after_long_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"))]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) global: Global,
}

/// Flags that every command takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// Say nothing on stderr but errors.
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
    /// Print results as JSON on stdout, one object a line.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Threads to work with [default: one a core].
    #[arg(long, global = true, value_name = "N", env = "LATENT_THREADS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
}

/// How and where numbers are computed.
#[derive(Clone, Debug, Args)]
pub(crate) struct Compute {
    /// Where to compute: auto, cpu, cuda, metal or vulkan; the last three also with an index, as in cuda:1.
    #[arg(
        long,
        value_name = "DEVICE",
        default_value = "auto",
        env = "LATENT_DEVICE"
    )]
    pub(crate) device: String,
    /// How products are computed; auto is bf16 where the hardware has it.
    #[arg(long, value_enum, default_value_t = PrecisionFlag::Auto)]
    pub(crate) precision: PrecisionFlag,
}

/// A choice of [`latent::Precision`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PrecisionFlag {
    /// bf16 where the hardware has it, else f32.
    Auto,
    /// Full single precision.
    F32,
    /// Operands rounded to bfloat16, sums in single precision.
    Bf16,
    /// The U-Net's layers in 8 bits, everything else as with auto: half of bf16's memory for its weights; on a CPU only.
    Int8,
}

impl From<latent::Precision> for PrecisionFlag {
    fn from(precision: latent::Precision) -> Self {
        match precision {
            latent::Precision::F32 => Self::F32,
            latent::Precision::Bf16 => Self::Bf16,
            latent::Precision::Int8 => Self::Int8,
        }
    }
}

/// Which model to open.
#[derive(Clone, Debug, Args)]
pub(crate) struct Model {
    /// A model folder in diffusers layout, a Stable Diffusion checkpoint of one file (1.x, 2.x, XL), or `owner/name` of the
    /// Hugging Face hub, with `@revision` or `/FILE` behind it if need be [default: the built-in model].
    #[arg(long, short, value_name = "PATH", env = "LATENT_MODEL")]
    pub(crate) model: Option<PathBuf>,
    /// For a checkpoint of one file: a folder in diffusers layout that has its sizes, tokenizer and scheduler.
    #[arg(long, value_name = "DIR", requires = "model")]
    pub(crate) config: Option<PathBuf>,
    /// For a checkpoint of one file: what its network predicts, noise (epsilon) or velocity (v) [default: as the file says].
    #[arg(long, value_enum, value_name = "KIND", requires = "model")]
    pub(crate) prediction: Option<PredictionFlag>,
    #[command(flatten)]
    pub(crate) source: Source,
    #[command(flatten)]
    pub(crate) compute: Compute,
}

/// Which of a model's files are taken, and from where they may come.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Source {
    /// Of several published precisions, the one to take, as fp16 [default: the fullest].
    #[arg(long, value_name = "NAME")]
    pub(crate) variant: Option<String>,
    /// Never use the network; models of the hub must be in its cache already. So does HF_HUB_OFFLINE=1.
    #[cfg(feature = "hub")]
    #[arg(long)]
    pub(crate) offline: bool,
}

/// A choice of [`latent::models::PredictionType`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PredictionFlag {
    /// The noise in the latents.
    Epsilon,
    /// Velocity.
    V,
}

impl From<PredictionFlag> for latent::models::PredictionType {
    fn from(flag: PredictionFlag) -> Self {
        match flag {
            PredictionFlag::Epsilon => Self::Epsilon,
            PredictionFlag::V => Self::V,
        }
    }
}

/// The commands, in the order the help lists them.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Generate(Box<generate::Generate>),
    #[command(after_help = plan::EXAMPLES, after_long_help = plan::EXAMPLES)]
    Plan(Box<plan::Plan>),
    Reproduce(reproduce::Reproduce),
    Encode(encode::Encode),
    Decode(decode::Decode),
    Reconstruct(reconstruct::Reconstruct),
    Demo(demo::Demo),
    Train(train::Train),
    Data(data::Data),
    Eval(eval::Eval),
    Export(export::Export),
    Convert(convert::Convert),
    Inspect(inspect::Inspect),
    Prompt(prompt::Prompt),
    Samplers(samplers::Samplers),
    Devices(devices::Devices),
    Bench(bench::Bench),
    Completions(completions::Completions),
    About(about::About),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_flags_are_consistent_and_every_command_says_what_it_does() {
        let command = Cli::command();
        command.clone().debug_assert();
        for sub in command.get_subcommands() {
            assert!(
                sub.get_about().is_some(),
                "`{}` has no help",
                sub.get_name()
            );
        }
    }
}
