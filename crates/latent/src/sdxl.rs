//! What Stable Diffusion XL has beyond its forerunners: a second text encoder, sizes beside the words.

use burn::tensor::Tensor;
use latent_models::{ClipTextModel, ModelFolder, TextTime};

use crate::pipeline::{Pipeline, Text};
use crate::{MicroConditioning, Request};

/// The parts and settings of a pipeline of Stable Diffusion XL or of its refiner.
#[derive(Debug)]
pub(crate) struct Sdxl {
    pub(crate) text_2: Text,
    /// A missing negative prompt becomes zeros.
    zeros_for_empty: bool,
    /// The U-Net is told a score in place of the target size.
    scored: bool,
}

/// One picture's words as all text encoders read them; the first prompt goes to the first encoder there is.
pub(crate) struct Words {
    /// States of all encoders side by side, `[1, l, c]`.
    pub(crate) text: Tensor<3>,
    /// Of the second encoder, which is the last: `[1, p]`.
    pub(crate) pooled: Tensor<2>,
}

impl Words {
    /// Zeros in their place.
    pub(crate) fn zeros(&self) -> Self {
        Self {
            text: self.text.zeros_like(),
            pooled: self.pooled.zeros_like(),
        }
    }
}

impl Sdxl {
    /// Of a folder with a second text encoder.
    pub(crate) fn new(folder: &ModelFolder, text_2: Text) -> Self {
        Self {
            text_2,
            zeros_for_empty: folder.force_zeros_for_empty_prompt(),
            scored: folder.requires_aesthetics_score(),
        }
    }

    /// The same with another text encoder, if one is given.
    pub(crate) fn with_encoder(&self, encoder: Option<ClipTextModel>) -> Self {
        Self {
            text_2: self.text_2.with_encoder(encoder),
            zeros_for_empty: self.zeros_for_empty,
            scored: self.scored,
        }
    }

    /// What each encoder is to read of what is unwanted, or `None` where zeros take its place.
    ///
    /// Source: diffusers' `StableDiffusionXLPipeline.encode_prompt`.
    pub(crate) fn unwanted<'r>(&self, request: &'r Request) -> Option<[&'r str; 2]> {
        let negatives = negatives(request);
        let zeros = request.zeros_for_empty().unwrap_or(self.zeros_for_empty);
        let all_empty = negatives.iter().all(|words| words.is_empty());
        (!(zeros && all_empty)).then_some(negatives)
    }

    /// The conditions of several pictures of `size`, width and height, as one; the first `unwanted` are what guidance
    /// moves away from.
    pub(crate) fn joined(
        &self,
        words: &[&Words],
        unwanted: usize,
        (sizes, size): (&MicroConditioning, [usize; 2]),
    ) -> TextTime {
        let [wanted_numbers, unwanted_numbers] = sizes.numbers(size, self.scored);
        let numbers = words.iter().enumerate().flat_map(|(k, _)| match k {
            k if k < unwanted => &unwanted_numbers,
            _ => &wanted_numbers,
        });
        TextTime {
            text: Tensor::cat(words.iter().map(|one| one.text.clone()).collect(), 0),
            pooled: Tensor::cat(words.iter().map(|one| one.pooled.clone()).collect(), 0),
            numbers: numbers.copied().collect(),
        }
    }

    /// Says which settings mean nothing to this one of the two models.
    pub(crate) fn warn_of_no_effect(
        &self,
        pipeline: &Pipeline,
        request: &Request,
        warnings: &mut Vec<String>,
    ) {
        let sizes = &request.micro_conditioning;
        let score = sizes
            .aesthetic_score
            .or(sizes.negative_aesthetic_score)
            .is_some();
        if score && !self.scored && pipeline.refiner.is_none() {
            warnings.push("an aesthetic score has no effect without a refiner".to_owned());
        }
        let second = [&request.prompt_2, &request.negative_prompt_2];
        if pipeline.text.is_none() && second.iter().any(|words| !words.is_empty()) {
            warnings.push(
                "this refiner has one text encoder, which reads the first prompt; a second one has no effect"
                    .to_owned(),
            );
        }
    }
}

/// What each text encoder is to read of what is wanted.
pub(crate) fn prompts(request: &Request) -> [&str; 2] {
    [&request.prompt, or(&request.prompt_2, &request.prompt)]
}

fn negatives(request: &Request) -> [&str; 2] {
    let first = &request.negative_prompt;
    [first, or(&request.negative_prompt_2, first)]
}

/// `words`, or `instead` where there are none.
fn or<'a>(words: &'a str, instead: &'a str) -> &'a str {
    if words.is_empty() { instead } else { words }
}

/// Says which settings mean nothing to a model that is not Stable Diffusion XL.
pub(crate) fn warn_of_no_effect(request: &Request, warnings: &mut Vec<String>) {
    let without = [
        ("prompt_2", !request.prompt_2.is_empty()),
        ("negative_prompt_2", !request.negative_prompt_2.is_empty()),
        (
            "micro_conditioning",
            !request.micro_conditioning.is_default(),
        ),
    ];
    for (name, _) in without.into_iter().filter(|(_, stated)| *stated) {
        warnings.push(format!(
            "`{name}` has no effect: this model is not Stable Diffusion XL"
        ));
    }
}
