//! Whose habits a request follows: how its prompts are read, and what is done where it leaves something open.

use latent_models::{Grammar, Weights};
use latent_sampling::{Compat, GeneratorKind};

use crate::{Error, Request};

/// Bytes that a prompt may have.
const LONGEST_PROMPT: usize = 1 << 16;

impl Request {
    /// Follows the habits of another program.
    #[must_use]
    pub fn compat(mut self, compat: Compat) -> Self {
        self.compat = compat;
        self
    }

    /// Sets what the weights of the prompt's words do.
    #[must_use]
    pub fn weights(mut self, weights: Weights) -> Self {
        self.weights = Some(weights);
        self
    }

    /// How its prompts are read: as `compat` does, and where that reads letter by letter as `weights` is written.
    #[must_use]
    pub fn grammar(&self) -> Grammar {
        match (self.compat, self.weights) {
            (Compat::A1111, _) | (Compat::Diffusers, Some(Weights::A1111)) => Grammar::A1111,
            (Compat::ComfyUi, _) | (Compat::Diffusers, Some(Weights::ComfyUi)) => Grammar::ComfyUi,
            (Compat::Diffusers, Some(Weights::None) | None) => Grammar::Literal,
        }
    }

    /// What the weights of its words do.
    #[must_use]
    pub fn weighing(&self) -> Weights {
        self.weights.unwrap_or(match self.compat {
            Compat::Diffusers => Weights::None,
            Compat::A1111 => Weights::A1111,
            Compat::ComfyUi => Weights::ComfyUi,
        })
    }

    /// What draws its noise.
    ///
    /// # Errors
    /// [`Error::Sampling`] if there is no generator of the name.
    pub fn generator_kind(&self) -> Result<GeneratorKind, Error> {
        match &self.generator {
            Some(name) => Ok(GeneratorKind::from_name(name)?),
            None => Ok(self.compat.generator()),
        }
    }

    /// Whether its pictures are places of one batch that shares a seed, as ComfyUI's are.
    pub(crate) fn shares_seed(&self) -> bool {
        let shares = matches!(self.generator_kind(), Ok(GeneratorKind::ComfyUi));
        shares && self.seeds.len() <= 1 && self.count.is_some()
    }

    /// Layers of the text encoder that are left out for what is unwanted: diffusers leaves them out for what is wanted only.
    pub(crate) fn unwanted_clip_skip(&self) -> usize {
        match self.compat {
            Compat::Diffusers => 0,
            Compat::A1111 | Compat::ComfyUi => self.clip_skip.unwrap_or(0),
        }
    }

    /// Whether an empty negative prompt becomes zeros for Stable Diffusion XL, where the request says so.
    ///
    /// Source: A1111's `get_learned_conditioning` of `sd_models_xl`; ComfyUI encodes every text.
    pub(crate) fn zeros_for_empty(&self) -> Option<bool> {
        self.force_zeros_for_empty_prompt.or(match self.compat {
            Compat::Diffusers => None,
            Compat::A1111 => Some(true),
            Compat::ComfyUi => Some(false),
        })
    }

    /// Whether zeros stand for what is unwanted with a model that reads an empty text by itself.
    pub(crate) fn becomes_zeros(&self) -> bool {
        self.force_zeros_for_empty_prompt == Some(true) && self.negative_prompt.is_empty()
    }

    pub(crate) fn validate_prompts(&self) -> Result<(), Error> {
        let prompts = [
            ("prompt", &self.prompt),
            ("negative_prompt", &self.negative_prompt),
            ("prompt_2", &self.prompt_2),
            ("negative_prompt_2", &self.negative_prompt_2),
        ];
        match prompts.iter().find(|(_, text)| text.len() > LONGEST_PROMPT) {
            Some((name, text)) => Err(Error::Request(format!(
                "`{name}` has {} bytes; at most {LONGEST_PROMPT} are read",
                text.len()
            ))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_sets_grammar_and_arithmetic_and_a_flag_wins_over_it() {
        let base = || Request::new("x");
        let of = |request: Request| (request.grammar(), request.weighing());
        assert_eq!(of(base()), (Grammar::Literal, Weights::None));
        let written = base().weights(Weights::ComfyUi);
        assert_eq!(of(written), (Grammar::ComfyUi, Weights::ComfyUi));
        let a1111 = || base().compat(Compat::A1111);
        assert_eq!(of(a1111()), (Grammar::A1111, Weights::A1111));
        let mixed = a1111().weights(Weights::ComfyUi);
        assert_eq!(of(mixed), (Grammar::A1111, Weights::ComfyUi));
        let without = a1111().weights(Weights::None);
        assert_eq!(of(without), (Grammar::A1111, Weights::None));
    }

    #[test]
    fn a_program_sets_the_generator_unless_one_is_named() {
        let kind = |request: Request| request.generator_kind().unwrap();
        let base = || Request::new("x");
        assert_eq!(kind(base()), GeneratorKind::Torch);
        assert_eq!(kind(base().compat(Compat::A1111)), GeneratorKind::Philox);
        let named = base().compat(Compat::A1111).generator("torch");
        assert_eq!(kind(named), GeneratorKind::Torch);
        assert!(base().generator("dice").generator_kind().is_err());
    }

    #[test]
    fn pictures_of_a_comfyui_batch_share_the_seed() {
        let request = Request::new("x").seed(7).count(3).compat(Compat::ComfyUi);
        assert_eq!(request.seeds(), [7, 7, 7]);
        assert_eq!(request.clone().generator("torch").seeds(), [7, 8, 9]);
        let named = Request::new("x").with_seeds([1, 2]).compat(Compat::ComfyUi);
        assert_eq!(named.seeds(), [1, 2]);
    }

    #[test]
    fn a_book_is_no_prompt() {
        let error = Request::new("word ".repeat(20_000)).validate().unwrap_err();
        assert!(
            error.to_string().contains("`prompt` has 100000 bytes"),
            "{error}"
        );
    }
}
