//! What the network is told of a picture: words, sizes, a class.

use burn::tensor::Tensor;
use latent_models::{Conditioning, Context, UNetCondition};

use crate::draw::Filled;
use crate::pipeline::Pipeline;
use crate::sdxl::{Words, warn_of_no_effect};
use crate::steering::Steering;
use crate::{Error, MicroConditioning, Request};

/// What the network is told of one picture, with and without guidance's other half.
pub(crate) struct Told {
    /// The wanted condition, and what guidance moves away from.
    wanted: Condition,
    unwanted: Option<Condition>,
    pub(crate) guidance: Option<f64>,
    /// The strength as it is told to a network that was distilled over strengths.
    strength: f32,
    /// Sizes that Stable Diffusion XL is told.
    sizes: MicroConditioning,
    pub(crate) warnings: Vec<String>,
}

/// One picture's condition.
enum Condition {
    /// Text states `[1, l, c]`.
    Text(Box<Tensor<3>>),
    /// What Stable Diffusion XL's text encoders read.
    Words(Box<Words>),
    Class(u32),
    Nothing,
}

impl Told {
    pub(crate) fn new(
        pipeline: &Pipeline,
        request: &Request,
        filled: &Filled,
    ) -> Result<Self, Error> {
        let mut warnings = Vec::new();
        if pipeline.autoencoder.scaling().assumed {
            warnings.push(format!(
                "the autoencoder's config has no `scaling_factor`; {} is assumed, and colours are wrong if that is not \
                 1/std of its latents",
                pipeline.autoencoder.scaling().factor
            ));
        }
        let distilled = pipeline.unet.config().time_cond_proj_dim.is_some();
        let strength = Some(f64::from(filled.guidance)).filter(|&one| one > 1.0 && !distilled);
        if strength.is_none() && !request.negative_prompt.is_empty() {
            warnings.push(
                match distilled {
                    true => "the negative prompt has no effect: this model has guidance built in",
                    false => "the negative prompt has no effect while guidance is 1 or less",
                }
                .to_owned(),
            );
        }
        let (wanted, unwanted) = Self::halves(pipeline, request, strength, &mut warnings)?;
        let guidance = unwanted.as_ref().and(strength);
        Ok(Self {
            wanted,
            unwanted,
            guidance,
            strength: filled.guidance,
            sizes: request.micro_conditioning.clone(),
            warnings,
        })
    }

    /// The wanted condition, and with a strength what guidance moves away from.
    fn halves(
        pipeline: &Pipeline,
        request: &Request,
        strength: Option<f64>,
        warnings: &mut Vec<String>,
    ) -> Result<(Condition, Option<Condition>), Error> {
        if let Some(sdxl) = &pipeline.sdxl {
            let (wanted, unwanted) = sdxl.tell(pipeline, request, strength.is_some(), warnings);
            let boxed = |words| Condition::Words(Box::new(words));
            return Ok((boxed(wanted), unwanted.map(boxed)));
        }
        warn_of_no_effect(request, warnings);
        match pipeline.conditioning() {
            Conditioning::Text => {
                let mut read = |words: &str, clip_skip| read(pipeline, words, clip_skip, warnings);
                let wanted = read(&request.prompt, request.clip_skip.unwrap_or(0))?;
                // diffusers skips layers for the wanted words only.
                let unwanted = strength
                    .map(|_| read(&request.negative_prompt, 0))
                    .transpose()?;
                Ok((wanted, unwanted))
            }
            Conditioning::Class { count } => {
                let wanted = Condition::Class(class(pipeline, &request.prompt, count)?);
                // Training leaves the last class for "no class".
                Ok((
                    wanted,
                    strength.map(|_| Condition::Class(count.saturating_sub(1) as u32)),
                ))
            }
            Conditioning::None => {
                if !request.prompt.is_empty() {
                    warnings.push(
                        "this model is told nothing of the picture, so the prompt has no effect"
                            .to_owned(),
                    );
                }
                Ok((Condition::Nothing, None))
            }
        }
    }

    /// What the network, and the networks that steer it, are told of a batch of `n` pictures of `size`, width and
    /// height, for `calls` evaluations.
    pub(crate) fn prepare<'a>(
        &self,
        pipeline: &'a Pipeline,
        size: [usize; 2],
        [n, calls]: [usize; 2],
    ) -> Result<(Context, Steering<'a>), Error> {
        let (condition, count) = self.condition(pipeline, size, n);
        let text = match &condition {
            UNetCondition::Text(states) => Some(states),
            UNetCondition::TextTime(told) => Some(&told.text),
            UNetCondition::Class(_) | UNetCondition::None => None,
        };
        // As large as the latents are.
        let padded = size.map(|side| side.next_multiple_of(pipeline.downsampling()));
        let steering = Steering::new(pipeline, text, padded, (n, calls))?;
        let context = pipeline.unet.prepare(condition, count);
        let context = pipeline.unet.with_guidance(context, self.strength, count);
        Ok((context, steering))
    }

    /// The condition of a batch of `n` pictures and how many it is for: the unwanted half first, as diffusers has it.
    fn condition(&self, pipeline: &Pipeline, size: [usize; 2], n: usize) -> (UNetCondition, usize) {
        let conditions: Vec<&Condition> = self
            .unwanted
            .iter()
            .chain([&self.wanted])
            .flat_map(|condition| std::iter::repeat_n(condition, n))
            .collect();
        let count = conditions.len();
        let texts: Vec<Tensor<3>> = conditions
            .iter()
            .filter_map(|condition| match condition {
                Condition::Text(states) => Some(states.as_ref().clone()),
                _ => None,
            })
            .collect();
        let words: Vec<&Words> = conditions
            .iter()
            .filter_map(|condition| match condition {
                Condition::Words(words) => Some(words.as_ref()),
                _ => None,
            })
            .collect();
        let classes: Vec<u32> = conditions
            .iter()
            .filter_map(|condition| match condition {
                Condition::Class(class) => Some(*class),
                _ => None,
            })
            .collect();
        let condition = if !texts.is_empty() {
            UNetCondition::Text(Tensor::cat(texts, 0))
        } else if let (Some(sdxl), false) = (&pipeline.sdxl, words.is_empty()) {
            let unwanted = words.len() - n;
            UNetCondition::TextTime(sdxl.joined(&words, unwanted, (&self.sizes, size)))
        } else if !classes.is_empty() {
            UNetCondition::Class(pipeline.compute.ids(&classes, [count, 1]))
        } else {
            UNetCondition::None
        };
        (condition, count)
    }
}

/// Text states of `words`; notes what was cut.
fn read(
    pipeline: &Pipeline,
    words: &str,
    clip_skip: usize,
    warnings: &mut Vec<String>,
) -> Result<Condition, Error> {
    let Some(text) = &pipeline.text else {
        return Err(Error::Request(
            "this model has no text encoder; it cannot be asked for words".into(),
        ));
    };
    let ids = text.encode(words, warnings);
    let ids = pipeline.compute.ids(&ids, [1, ids.len()]);
    let states = match clip_skip {
        0 => text.encoder.forward(ids).last,
        skip => text.encoder.forward_skip(ids, skip),
    };
    Ok(Condition::Text(Box::new(states)))
}

/// The class that `words` name, or count from 0.
fn class(pipeline: &Pipeline, words: &str, count: usize) -> Result<u32, Error> {
    let names = &pipeline.defaults.classes;
    let named = names.iter().position(|name| name == words);
    let number = || {
        words
            .trim()
            .parse()
            .ok()
            .filter(|&class: &usize| class < count)
    };
    match named.or_else(number) {
        Some(class) => Ok(class as u32),
        None => {
            let mut known = names.join(", ");
            if known.is_empty() {
                known = format!("0 to {}", count.saturating_sub(1));
            }
            Err(Error::Request(format!(
                "this model draws classes, and `{words}` is none of them; it knows {known}"
            )))
        }
    }
}
