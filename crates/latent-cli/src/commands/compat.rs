//! The flags that follow another program's habits.

use clap::{Args, ValueEnum};
use latent::Request;
use latent::models::Weights;
use latent::sampling::Compat;

/// What `--compat` sets, for the help of commands that have it.
pub(crate) const HELP: &str = "\
Prompts:
  Read letter by letter, as diffusers does, until --compat or --weights asks for more. Then weights
  count, and prompts of any length are read in chunks of 75 tokens (38 with the built-in model,
  whose text encoder reads fewer). A1111's grammar:
    (word) (word:1.3) [word] \\( \\)     weights, and brackets that are text
    BREAK                             the next words begin a chunk
    [from:to:0.5] [to:10] [from::10]  words change after a share of the steps, or a number of them
    [a|b]                             words take turns, one a step
    a fox AND snow :0.7               several prompts at once, each with its share
  ComfyUI's grammar: (word) (word:1.3) \\( \\). `latent prompt` shows what is read.

--compat sets what is left open:
                      diffusers             a1111                     comfyui
  prompts             literal, one chunk    A1111's grammar           ComfyUI's grammar
  --weights           none                  a1111                     comfyui
  --generator         torch                 philox                    comfyui
  --count             seeds count           seeds count               one seed, a batch's noise
  --schedule          the scheduler's own   A1111's \"Automatic\"       normal
  named schedules     diffusers' numbers    on the model's levels     the same, nearest timesteps
  last but one level  kept                  dpm2, dpm2_a and          dpm2, dpm2_a and
                                            dpmpp_3m_sde go without   uni_pc go without
  first noise         the scheduler's       times the level           full at the highest level
  --strength S        N*S steps             N*S + 1 steps             N steps, the last of N/S
  dpmpp_2m_sde        fresh noise           a Brownian path           a Brownian path
  other names         -                     UniPC of third order      ddim is euler, beta counts
                                                                      timesteps, uni_pc as A1111
  --clip-skip         for the prompt        for both prompts          for both prompts
  XL, no --negative   as the model says     zeros                     an empty text
Samplers that go by whole timesteps (ddim, pndm, ddpm, lcm, tcd) stay diffusers'.";

/// Whose habits to follow.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Prompts and habits")]
pub(crate) struct CompatFlags {
    /// Follow this program where programs differ: prompts, noise, schedules, strength; --help says what it sets [default:
    /// diffusers].
    #[arg(long, value_enum, value_name = "PROGRAM")]
    compat: Option<CompatFlag>,
    /// What weights as in (word:1.3) do [default: as --compat does]; without --compat it also sets how prompts are read.
    #[arg(long, value_enum, value_name = "RULE")]
    weights: Option<WeightsFlag>,
}

/// A choice of [`Compat`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum CompatFlag {
    /// What diffusers computes, prompts letter by letter.
    Diffusers,
    /// What AUTOMATIC1111's web UI computes on an NVIDIA GPU.
    A1111,
    /// What ComfyUI computes on an NVIDIA GPU.
    Comfyui,
}

/// A choice of [`Weights`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum WeightsFlag {
    /// States times their weight, the chunk's mean restored.
    A1111,
    /// From the states of the empty prompt towards those of the words, and beyond.
    Comfyui,
    /// Weights are read, where --compat reads them, and left out.
    None,
}

impl CompatFlags {
    /// Lays these flags over `request`.
    pub(crate) fn lay_over(&self, request: &mut Request) {
        if let Some(compat) = self.compat {
            request.compat = match compat {
                CompatFlag::Diffusers => Compat::Diffusers,
                CompatFlag::A1111 => Compat::A1111,
                CompatFlag::Comfyui => Compat::ComfyUi,
            };
        }
        let weights = self.weights.map(|weights| match weights {
            WeightsFlag::A1111 => Weights::A1111,
            WeightsFlag::Comfyui => Weights::ComfyUi,
            WeightsFlag::None => Weights::None,
        });
        request.weights = weights.or(request.weights);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_and_rule_has_a_flag_of_its_name() {
        let names = |flags: &[CompatFlag]| -> Vec<String> {
            let values = flags.iter().filter_map(ValueEnum::to_possible_value);
            values.map(|value| value.get_name().to_owned()).collect()
        };
        let known: Vec<&str> = Compat::ALL.iter().map(|(name, _)| *name).collect();
        assert_eq!(names(CompatFlag::value_variants()), known);
        for (name, weights) in Weights::ALL {
            let flag = WeightsFlag::from_str(name, false).expect("a flag of the name");
            let mut request = Request::default();
            let flags = CompatFlags {
                compat: None,
                weights: Some(flag),
            };
            flags.lay_over(&mut request);
            assert_eq!(request.weights, Some(*weights));
        }
        assert!(known.iter().all(|name| HELP.contains(name)));
    }
}
