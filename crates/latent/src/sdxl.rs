//! What Stable Diffusion XL has beyond its forerunners: a second text encoder, sizes beside the words.

use burn::tensor::Tensor;
use latent_models::{ModelFolder, TextTime};

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

/// One picture's words as all text encoders read them.
pub(crate) struct Words {
    /// States `[1, l, c]`.
    text: Tensor<3>,
    /// `[1, p]`.
    pooled: Tensor<2>,
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

    /// The words as the U-Net is told them: the wanted half, and with `guided` the other.
    ///
    /// Source: diffusers' `StableDiffusionXLPipeline.encode_prompt`.
    pub(crate) fn tell(
        &self,
        pipeline: &Pipeline,
        request: &Request,
        guided: bool,
        warnings: &mut Vec<String>,
    ) -> (Words, Option<Words>) {
        self.warn_of_no_effect(pipeline, request, warnings);
        let prompts = [&request.prompt, or(&request.prompt_2, &request.prompt)];
        let skip = request.clip_skip.unwrap_or(0);
        let wanted = self.read(pipeline, (prompts, skip), warnings);
        if !guided {
            return (wanted, None);
        }
        let negative = &request.negative_prompt;
        let negatives = [negative, or(&request.negative_prompt_2, negative)];
        let zeros = request
            .force_zeros_for_empty_prompt
            .unwrap_or(self.zeros_for_empty);
        let unwanted = if zeros && negatives.iter().all(|words| words.is_empty()) {
            Words {
                text: wanted.text.zeros_like(),
                pooled: wanted.pooled.zeros_like(),
            }
        } else {
            self.read(pipeline, (negatives, 0), warnings)
        };
        (wanted, Some(unwanted))
    }

    /// The states of all encoders side by side; the first prompt goes to the first encoder there is.
    fn read(
        &self,
        pipeline: &Pipeline,
        (prompts, skip): ([&String; 2], usize),
        warnings: &mut Vec<String>,
    ) -> Words {
        let encoders = pipeline.text.iter().chain([&self.text_2]);
        let mut read = Vec::new();
        for (text, words) in encoders.zip(prompts) {
            let encoded = text.encode(words, warnings);
            let ids = pipeline.compute.ids(&encoded, [1, encoded.len()]);
            let states = text.encoder.forward(ids.clone());
            // Always from the last layer but one on, and never normalised.
            let hidden = match skip {
                0 => states.penultimate,
                skip => text.encoder.forward_hidden(ids, skip + 1),
            };
            read.push((hidden, states.pooled));
        }
        let (hidden, mut pooled): (Vec<_>, Vec<_>) = read.into_iter().unzip();
        Words {
            text: Tensor::cat(hidden, 2),
            // Of the second encoder, which is the last.
            pooled: pooled.swap_remove(pooled.len() - 1),
        }
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
    fn warn_of_no_effect(
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

/// `words`, or `instead` where there are none.
fn or<'a>(words: &'a String, instead: &'a String) -> &'a String {
    if words.is_empty() { instead } else { words }
}

/// Says which settings mean nothing to a model that is not Stable Diffusion XL.
pub(crate) fn warn_of_no_effect(request: &Request, warnings: &mut Vec<String>) {
    let without = [
        ("prompt_2", !request.prompt_2.is_empty()),
        ("negative_prompt_2", !request.negative_prompt_2.is_empty()),
        (
            "force_zeros_for_empty_prompt",
            request.force_zeros_for_empty_prompt == Some(true),
        ),
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
