//! What the network is told of a picture: words, sizes, a class.

use burn::tensor::Tensor;
use latent_models::{Conditioning, UNetCondition};
use latent_sampling::guidance::Method;

use crate::draw::Filled;
use crate::pipeline::Pipeline;
use crate::prompts::{are_summed, split, surprises, unscheduled};
use crate::reading::{Condition, Line, Pace, Reader};
use crate::sdxl::{Words, prompts, warn_of_no_effect};
use crate::{Error, MicroConditioning, Request, guiding};

/// What the network is told of one picture, with and without guidance's other half.
pub(crate) struct Told {
    conditions: Vec<Condition>,
    /// What each pass is told.
    courses: Vec<Course>,
    /// The share of each prompt in the sum of what the network finds.
    pub(crate) shares: Vec<f64>,
    pub(crate) guidance: Option<f64>,
    /// The strength as it is told to a network that was distilled over strengths.
    pub(crate) strength: f32,
    /// Sizes that Stable Diffusion XL is told.
    sizes: MicroConditioning,
    pub(crate) warnings: Vec<String>,
}

/// What a pass is told on its way.
pub(crate) struct Course {
    /// Calls of the network before it.
    before: usize,
    /// The prompts that are followed at once.
    wanted: Vec<Line>,
    /// What guidance moves away from.
    unwanted: Option<Line>,
}

impl Course {
    /// Places of the conditions at a call of the pass: the unwanted one, if there is one, then those that are wanted.
    pub(crate) fn at(&self, call: usize) -> (Option<usize>, Vec<usize>) {
        let call = self.before + call;
        let unwanted = self.unwanted.as_ref().map(|line| line.at(call));
        let wanted = self.wanted.iter().map(|line| line.at(call));
        (unwanted, wanted.collect())
    }
}

/// Conditions, the courses over them, and the share of each prompt.
struct Telling {
    conditions: Vec<Condition>,
    courses: Vec<Course>,
    shares: Vec<f64>,
}

impl Told {
    pub(crate) fn new(
        pipeline: &Pipeline,
        request: &Request,
        filled: &Filled,
        paces: &[Pace],
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
        let stated = f64::from(filled.guidance);
        let plus_plus = request.guidance_method == Method::CfgPlusPlus;
        let mut strength = Some(stated).filter(|&one| (one > 1.0 || plus_plus) && !distilled);
        if strength.is_none() && summed(pipeline, request)? {
            // What several prompts find is added to what the unwanted one finds, however strong.
            strength = Some(if distilled { 1.0 } else { stated });
        }
        if strength.is_none() && !request.negative_prompt.is_empty() {
            warnings.push(
                match distilled {
                    true => "the negative prompt has no effect: this model has guidance built in",
                    false => "the negative prompt has no effect while guidance is 1 or less",
                }
                .to_owned(),
            );
        }
        let guided = strength.is_some();
        let telling = Self::tell(pipeline, request, (guided, paces), &mut warnings)?;
        let unwanted = telling
            .courses
            .iter()
            .any(|course| course.unwanted.is_some());
        let guidance = strength.filter(|_| unwanted);
        guiding::check(
            pipeline,
            request,
            (guidance, &telling.shares),
            &mut warnings,
        )?;
        Ok(Self {
            conditions: telling.conditions,
            courses: telling.courses,
            shares: telling.shares,
            guidance,
            strength: filled.guidance,
            sizes: request.micro_conditioning.clone(),
            warnings,
        })
    }

    /// What is wanted, and where `guided` what guidance moves away from.
    fn tell(
        pipeline: &Pipeline,
        request: &Request,
        (guided, paces): (bool, &[Pace]),
        warnings: &mut Vec<String>,
    ) -> Result<Telling, Error> {
        match &pipeline.sdxl {
            Some(sdxl) => sdxl.warn_of_no_effect(pipeline, request, warnings),
            None => warn_of_no_effect(request, warnings),
        }
        let (wanted, unwanted) = match pipeline.conditioning() {
            Conditioning::Text => return words(pipeline, request, (guided, paces), warnings),
            Conditioning::Class { count } => {
                let wanted = Condition::Class(class(pipeline, &request.prompt, count)?);
                // Training leaves the last class for "no class".
                let none = Condition::Class(count.saturating_sub(1) as u32);
                (wanted, guided.then_some(none))
            }
            Conditioning::None => {
                if !request.prompt.is_empty() {
                    warnings.push(
                        "this model is told nothing of the picture, so the prompt has no effect"
                            .to_owned(),
                    );
                }
                (Condition::Nothing, None)
            }
        };
        let course = |pace: &Pace| Course {
            before: pace.before,
            wanted: vec![Line::always(0)],
            unwanted: unwanted.as_ref().map(|_| Line::always(1)),
        };
        Ok(Telling {
            courses: paces.iter().map(course).collect(),
            conditions: [wanted].into_iter().chain(unwanted).collect(),
            shares: vec![1.0],
        })
    }

    /// What the pass of an index is told.
    pub(crate) fn course(&self, pass: usize) -> &Course {
        &self.courses[pass]
    }

    /// Tokens of the text at a place.
    pub(crate) fn length(&self, place: usize) -> usize {
        self.conditions[place].length()
    }

    /// The conditions at these places for a batch of `n` pictures of `size` each, and how many they are; the first
    /// `unwanted` are what guidance moves away from.
    pub(crate) fn joined(
        &self,
        pipeline: &Pipeline,
        (places, unwanted): (&[usize], usize),
        (size, n): ([usize; 2], usize),
    ) -> (UNetCondition, usize) {
        let each = places.iter().map(|place| &self.conditions[*place]);
        let conditions: Vec<&Condition> = each
            .flat_map(|condition| std::iter::repeat_n(condition, n))
            .collect();
        let count = conditions.len();
        let (mut texts, mut words, mut classes) = (Vec::new(), Vec::<&Words>::new(), Vec::new());
        for condition in conditions {
            match condition {
                Condition::Text(states) => texts.push(states.as_ref().clone()),
                Condition::Words(read) => words.push(read.as_ref()),
                Condition::Class(class) => classes.push(*class),
                Condition::Nothing => {}
            }
        }
        let condition = if !texts.is_empty() {
            UNetCondition::Text(Tensor::cat(texts, 0))
        } else if let (Some(sdxl), false) = (&pipeline.sdxl, words.is_empty()) {
            UNetCondition::TextTime(sdxl.joined(&words, unwanted * n, (&self.sizes, size)))
        } else if !classes.is_empty() {
            UNetCondition::Class(pipeline.compute.ids(&classes, [count, 1]))
        } else {
            UNetCondition::None
        };
        (condition, count)
    }
}

/// Whether what is wanted is a sum of several prompts, or a share of one.
fn summed(pipeline: &Pipeline, request: &Request) -> Result<bool, Error> {
    if pipeline.conditioning() != Conditioning::Text {
        return Ok(false);
    }
    let prompts = split(request.grammar(), prompts(request))?;
    Ok(are_summed(prompts.iter().map(|prompt| prompt.share)))
}

/// Words, as the text encoders read them.
fn words(
    pipeline: &Pipeline,
    request: &Request,
    (guided, paces): (bool, &[Pace]),
    warnings: &mut Vec<String>,
) -> Result<Telling, Error> {
    let grammar = request.grammar();
    let mut reader = Reader::new(pipeline, request);
    let skip = request.clip_skip.unwrap_or(0);
    let prompts = split(grammar, prompts(request))?;
    let mut wanted: Vec<Vec<Line>> = paces.iter().map(|_| Vec::new()).collect();
    for prompt in &prompts {
        let [first, second] = &prompt.texts;
        let lines = reader.lines([first, second], skip, paces)?;
        for (of_pass, line) in wanted.iter_mut().zip(lines) {
            of_pass.push(line);
        }
    }
    for of_pass in &wanted {
        reader.pad(&of_pass.iter().collect::<Vec<_>>());
    }
    let mut unwanted: Vec<Option<Line>> = paces.iter().map(|_| None).collect();
    if guided {
        let lines = unwanted_lines(pipeline, request, paces, &mut reader)?;
        unwanted = lines.into_iter().map(Some).collect();
    }
    for text in [&request.prompt, &request.prompt_2] {
        reader.warnings.extend(surprises(grammar, text));
    }
    if guided {
        for text in [&request.negative_prompt, &request.negative_prompt_2] {
            reader
                .warnings
                .extend(unscheduled(grammar, [text.as_str()]));
        }
    }
    warnings.append(&mut reader.warnings);
    let courses = paces.iter().zip(wanted).zip(unwanted);
    let courses = courses.map(|((pace, wanted), unwanted)| Course {
        before: pace.before,
        wanted,
        unwanted,
    });
    Ok(Telling {
        conditions: reader.conditions,
        courses: courses.collect(),
        shares: prompts.iter().map(|prompt| prompt.share).collect(),
    })
}

/// What is unwanted in each pass, as the text encoders read it, or zeros in its place.
fn unwanted_lines(
    pipeline: &Pipeline,
    request: &Request,
    paces: &[Pace],
    reader: &mut Reader<'_>,
) -> Result<Vec<Line>, Error> {
    let texts = match &pipeline.sdxl {
        Some(sdxl) => sdxl.unwanted(request),
        None if request.becomes_zeros() => None,
        None => Some([request.negative_prompt.as_str(), ""]),
    };
    if let Some(texts) = texts {
        return reader.lines(texts, request.unwanted_clip_skip(), paces);
    }
    let zeros = match &reader.conditions[0] {
        Condition::Words(first) => Some(Condition::Words(Box::new(first.zeros()))),
        Condition::Text(first) => Some(Condition::Text(Box::new(first.zeros_like()))),
        Condition::Class(_) | Condition::Nothing => None,
    };
    reader.conditions.extend(zeros);
    let last = reader.conditions.len() - 1;
    Ok(paces.iter().map(|_| Line::always(last)).collect())
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
