//! One request: noise, the walk with guidance, pictures.

use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::Tensor;
use latent_formats::{Filter, Picture};
use latent_models::{Conditioning, Context, TextTime, UNetCondition};
use latent_nn::ops::{forget_packed, release_buffers};
use latent_nn::{parameter_count, to_host};
use latent_sampling::{
    Denoiser, Latents as Array, Plan, RunOptions, SchedulerConfig, Start, StepReport, Stopped,
    TorchGenerator, find, guidance, sample, sampler_of,
};
use ndarray::{Axis, concatenate, s};

use crate::latents::Latents;
use crate::pipeline::{Pipeline, finite, scheduler};
use crate::refine::{Refining, refine_at};
use crate::sdxl::{joined, warn_of_no_effect};
use crate::settings::Settings;
use crate::{Error, Request};

/// Latent positions drawn at once, over all pictures of a batch: eight pictures of 256x256.
const POSITIONS: usize = 8 * 32 * 32;
/// Latent positions a side of a preview, at most: decoding 256x256 takes a fraction of a second.
const PREVIEW_POSITIONS: usize = 32;

/// What a request gave.
#[derive(Clone, Debug)]
pub struct Generated {
    /// One picture a seed, each with its settings as the text `parameters`.
    pub pictures: Vec<Picture>,
    /// The final latents of all pictures.
    pub latents: Latents,
    /// The settings of each picture, every default filled in.
    pub settings: Vec<Settings>,
    /// What the network was told at each call.
    pub timesteps: Vec<f64>,
    /// What the user should know: words that were cut, settings without effect.
    pub warnings: Vec<String>,
}

impl Generated {
    /// Writes the only picture to `path`, or several with `-1`, `-2`, … before the ending.
    ///
    /// # Errors
    /// [`Error::Format`] if a file cannot be written or its ending names no format.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let path = path.as_ref();
        if let [picture] = self.pictures.as_slice() {
            return Ok(picture.save(path)?);
        }
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let ending = path.extension().unwrap_or_default().to_string_lossy();
        for (k, picture) in self.pictures.iter().enumerate() {
            picture.save(&path.with_file_name(format!("{stem}-{}.{ending}", k + 1)))?;
        }
        Ok(())
    }
}

/// Where a run stands after an evaluation of the network.
#[derive(Debug)]
pub struct Progress<'a> {
    /// Evaluations done.
    pub done: usize,
    /// Evaluations of the whole request.
    pub total: usize,
    /// The timestep of the last one.
    pub timestep: f64,
    /// The network's present estimate of the clean latents, `[n, c, h, w]`.
    denoised: &'a Array,
    pipeline: &'a Pipeline,
}

impl Progress<'_> {
    /// What the first picture of the batch looks like so far, its longer side at most `longest` pixels.
    ///
    /// Large latents are averaged down first: the decoder then works on a small picture, and takes a fraction of the time.
    ///
    /// # Errors
    /// [`Error::NotFinite`] if the estimate is no picture.
    pub fn preview(&self, longest: usize) -> Result<Picture, Error> {
        let first = self.denoised.slice(s![0..1, .., .., ..]);
        let (_, _, h, w) = first.dim();
        let picture = self.pipeline.decode_array(&averaged(
            first.to_owned(),
            h.max(w).div_ceil(PREVIEW_POSITIONS),
        ))?;
        let picture = picture
            .into_iter()
            .next()
            .ok_or_else(|| Error::Request("there is nothing to preview".into()))?;
        let (width, height) = (picture.width(), picture.height());
        let side = width.max(height);
        if side <= longest {
            return Ok(picture);
        }
        let scaled = |length: usize| (length * longest / side).max(1);
        Ok(picture.resize(scaled(width), scaled(height), Filter::Area)?)
    }

    /// The network's present estimate of the clean latents.
    #[must_use]
    pub fn denoised(&self) -> Latents {
        Latents::from(self.denoised.clone())
    }
}

/// Means of `factor` x `factor` positions; positions that fill no square are left out.
fn averaged(latents: Array, factor: usize) -> Array {
    let (n, c, h, w) = latents.dim();
    if factor < 2 || h < factor || w < factor {
        return latents;
    }
    let share = 1.0 / (factor * factor) as f32;
    Array::from_shape_fn((n, c, h / factor, w / factor), |(n, c, y, x)| {
        let square = latents.slice(s![
            n,
            c,
            y * factor..(y + 1) * factor,
            x * factor..(x + 1) * factor
        ]);
        square.sum() * share
    })
}

/// A request with everything open filled in from the model.
pub(crate) struct Filled {
    seeds: Vec<u64>,
    pub(crate) width: usize,
    pub(crate) height: usize,
    guidance: f32,
    pub(crate) rescale: f32,
    pub(crate) config: SchedulerConfig,
    sampler: &'static str,
    pub(crate) options: RunOptions,
}

impl Filled {
    pub(crate) fn new(pipeline: &Pipeline, request: &Request) -> Result<Self, Error> {
        request.validate()?;
        let defaults = &pipeline.defaults;
        let folder = match &request.scheduler_config {
            Some(config) => scheduler(config)?,
            None => pipeline.scheduler.clone(),
        };
        let stated = request.scheduler_config.is_some();
        let name = request
            .sampler
            .as_ref()
            .or(defaults.sampler.as_ref().filter(|_| !stated));
        let config = match name {
            Some(name) => find(name)?.configure(&folder)?,
            None => folder,
        };
        let [height, width] = pipeline.size();
        let (width, height) = (
            request.width.unwrap_or(width),
            request.height.unwrap_or(height),
        );
        let factor = pipeline.downsampling();
        if width % factor != 0 || height % factor != 0 {
            return Err(Error::Request(format!(
                "{width}x{height} is asked for, and this model needs sides that are multiples of {factor}"
            )));
        }
        let mut options = RunOptions::new(request.steps.unwrap_or(defaults.steps));
        let sampler = sampler_of(&config);
        // diffusers' pipelines state an eta of 0 to every sampler that has one, whatever its own default is.
        options.eta = request.eta.or(sampler.eta.map(|_| 0.0));
        options.denoising_start = request.denoising_start;
        options.denoising_end = refine_at(pipeline, request).or(request.denoising_end);
        Ok(Self {
            seeds: request.seeds(),
            width,
            height,
            guidance: request.guidance.unwrap_or(defaults.guidance),
            rescale: request.guidance_rescale,
            sampler: sampler.name,
            config,
            options,
        })
    }

    /// `[c, h, w]` of one picture's latents.
    fn latent_shape(&self, pipeline: &Pipeline) -> [usize; 3] {
        let factor = pipeline.downsampling();
        [
            pipeline.autoencoder.latent_channels(),
            self.height / factor,
            self.width / factor,
        ]
    }

    /// The settings of each picture.
    pub(crate) fn settings_of(&self, pipeline: &Pipeline, request: &Request) -> Vec<Settings> {
        let seeds = self.seeds.iter();
        seeds
            .map(|&seed| self.settings(pipeline, request, seed))
            .collect()
    }

    fn settings(&self, pipeline: &Pipeline, request: &Request, seed: u64) -> Settings {
        Settings {
            prompt: request.prompt.clone(),
            negative_prompt: request.negative_prompt.clone(),
            steps: self.options.steps,
            sampler: self.sampler.to_owned(),
            guidance: self.guidance,
            seed,
            width: self.width,
            height: self.height,
            clip_skip: request.clip_skip.unwrap_or(0),
            eta: request.eta,
            guidance_rescale: self.rescale,
            further: further(pipeline, request),
            model: pipeline.model_name.clone(),
        }
    }
}

/// Parameters of a text encoder whose memory is worth having back while the U-Net works.
const LARGE: usize = 50_000_000;

/// Gives back what a large text encoder holds beside its file once the words are read: packing the weights again for
/// the next ones takes a tenth of a second.
pub(crate) fn make_room(pipeline: &Pipeline) {
    let second = pipeline.sdxl.iter().map(|sdxl| &sdxl.text_2);
    for text in pipeline.text.iter().chain(second) {
        if parameter_count(&text.encoder) > LARGE {
            forget_packed(&text.encoder);
        }
    }
}

/// Settings of a picture that only some models have. Source of the refiner's keys: AUTOMATIC1111's.
fn further(pipeline: &Pipeline, request: &Request) -> Vec<(&'static str, String)> {
    let mut further = Vec::new();
    let sizes = &request.micro_conditioning;
    if !request.prompt_2.is_empty() {
        further.push(("Prompt 2", request.prompt_2.clone()));
    }
    if !request.negative_prompt_2.is_empty() {
        further.push(("Negative prompt 2", request.negative_prompt_2.clone()));
    }
    for (key, size) in [
        ("Original size", sizes.original_size),
        ("Crop", sizes.crop),
        ("Target size", sizes.target_size),
    ] {
        further.extend(size.map(|[x, y]| (key, format!("{x}x{y}"))));
    }
    if let (Some(refiner), Some(at)) = (&pipeline.refiner, refine_at(pipeline, request)) {
        further.push(("Refiner", refiner.model_name.clone()));
        further.push(("Refiner switch at", at.to_string()));
    }
    further
}

/// The seeds of pictures of `size` positions, as many together as are drawn at once.
pub(crate) fn batches(seeds: &[u64], [h, w]: [usize; 2]) -> Vec<&[u64]> {
    let at_once = (POSITIONS / (h * w).max(1)).clamp(1, seeds.len().max(1));
    seeds.chunks(at_once).collect()
}

/// Everything that a run gave, put together.
pub(crate) fn assembled(
    (mut pictures, finals): (Vec<Picture>, &[Array]),
    settings: Vec<Settings>,
    timesteps: Vec<f64>,
    warnings: Vec<String>,
) -> Result<Generated, Error> {
    for (picture, settings) in pictures.iter_mut().zip(&settings) {
        picture.set_text("parameters", settings.parameters());
    }
    let views: Vec<_> = finals.iter().map(|one| one.view()).collect();
    let latents = concatenate(Axis(0), &views).map_err(|e| Error::Request(e.to_string()))?;
    Ok(Generated {
        pictures,
        latents: Latents::from(latents),
        settings,
        timesteps,
        warnings,
    })
}

/// Draws everything that `request` asks for.
pub(crate) fn draw(
    pipeline: &Pipeline,
    request: &Request,
    progress: &mut dyn FnMut(&Progress<'_>) -> ControlFlow<()>,
) -> Result<Generated, Error> {
    if request.denoising_start.is_some() {
        return Err(Error::Request(
            "`denoising_start` goes on from latents, and none are given; leave it out, or give them to `refine`".into(),
        ));
    }
    let filled = Filled::new(pipeline, request)?;
    let plan = Plan::new(&filled.config, &filled.options)?;
    let end = plan.end(&filled.config, &filled.options)?;
    let shape = filled.latent_shape(pipeline);
    let batches = batches(&filled.seeds, [shape[1], shape[2]]);
    let mut told = Told::new(pipeline, request, &filled)?;
    make_room(pipeline);
    let refining = Refining::of(pipeline, request, &filled)?;
    let mut timesteps = plan.timesteps[plan.first..end].to_vec();
    let own = timesteps.len();
    if let Some(refining) = &refining {
        refining.join(&mut timesteps, &mut told.warnings);
    }
    let total = timesteps.len() * batches.len();
    let (mut finals, mut pictures) = (Vec::new(), Vec::new());
    for (index, seeds) in batches.iter().enumerate() {
        let mut guided = Guided {
            pipeline,
            context: told.context(pipeline, seeds.len()),
            guidance: told.guidance,
            rescale: f64::from(filled.rescale),
            generators: seeds
                .iter()
                .map(|&seed| TorchGenerator::new(seed))
                .collect(),
            progress,
            before: index * timesteps.len(),
            total,
        };
        let noise = guided.noise([seeds.len(), shape[0], shape[1], shape[2]]);
        let start = Start::Noise(noise);
        let mut latents = sample(&filled.config, &filled.options, start, &mut guided)?;
        finite(latents.as_slice().unwrap_or_default(), "the network")?;
        // The decoder's results have other sizes than the U-Net's.
        release_buffers();
        let (generators, before) = (guided.generators, guided.before + own);
        let last = match &refining {
            Some(refining) => {
                latents = refining.go_on(latents, generators, progress, (before, total))?;
                release_buffers();
                refining.pipeline
            }
            None => pipeline,
        };
        pictures.extend(last.decode_array(&latents)?);
        finals.push(latents);
    }
    let settings = filled.settings_of(pipeline, request);
    assembled((pictures, &finals), settings, timesteps, told.warnings)
}

/// What the network is told of one picture, with and without guidance's other half.
pub(crate) struct Told {
    /// The wanted condition, and what guidance moves away from.
    wanted: Condition,
    unwanted: Option<Condition>,
    pub(crate) guidance: Option<f64>,
    /// The strength as it is told to a network that was distilled over strengths.
    strength: f32,
    pub(crate) warnings: Vec<String>,
}

/// One picture's condition.
enum Condition {
    /// Text states `[1, l, c]`.
    Text(Box<Tensor<3>>),
    /// The same with pooled text and sizes.
    TextTime(Box<TextTime>),
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
        let (wanted, unwanted) = Self::halves(pipeline, request, filled, strength, &mut warnings)?;
        let guidance = unwanted.as_ref().and(strength);
        Ok(Self {
            wanted,
            unwanted,
            guidance,
            strength: filled.guidance,
            warnings,
        })
    }

    /// The wanted condition, and with a strength what guidance moves away from.
    fn halves(
        pipeline: &Pipeline,
        request: &Request,
        filled: &Filled,
        strength: Option<f64>,
        warnings: &mut Vec<String>,
    ) -> Result<(Condition, Option<Condition>), Error> {
        if let Some(sdxl) = &pipeline.sdxl {
            let picture = ([filled.width, filled.height], strength.is_some());
            let (wanted, unwanted) = sdxl.tell(pipeline, request, picture, warnings);
            let boxed = |told| Condition::TextTime(Box::new(told));
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

    /// The condition of a batch of `n` pictures: the unwanted half first, as diffusers has it.
    pub(crate) fn context(&self, pipeline: &Pipeline, n: usize) -> Context {
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
        let told: Vec<&TextTime> = conditions
            .iter()
            .filter_map(|condition| match condition {
                Condition::TextTime(told) => Some(told.as_ref()),
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
        } else if !told.is_empty() {
            UNetCondition::TextTime(joined(&told))
        } else if !classes.is_empty() {
            UNetCondition::Class(pipeline.compute.ids(&classes, [count, 1]))
        } else {
            UNetCondition::None
        };
        let context = pipeline.unet.prepare(condition, count);
        pipeline.unet.with_guidance(context, self.strength, count)
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

/// The network with guidance, as samplers see it.
pub(crate) struct Guided<'a> {
    pub(crate) pipeline: &'a Pipeline,
    pub(crate) context: Context,
    pub(crate) guidance: Option<f64>,
    pub(crate) rescale: f64,
    /// One a picture, so that a picture does not depend on its neighbours.
    pub(crate) generators: Vec<TorchGenerator>,
    pub(crate) progress: &'a mut dyn FnMut(&Progress<'_>) -> ControlFlow<()>,
    /// Evaluations of the batches before this one.
    pub(crate) before: usize,
    pub(crate) total: usize,
}

impl Denoiser for Guided<'_> {
    fn predict(&mut self, input: &Array, timestep: f64) -> Result<Array, Stopped> {
        let (n, c, h, w) = input.dim();
        let copies = if self.guidance.is_some() { 2 } else { 1 };
        let mut values = Vec::with_capacity(copies * input.len());
        for _ in 0..copies {
            values.extend(input.iter().copied());
        }
        let sample = self.pipeline.compute.tensor(values, [copies * n, c, h, w]);
        let timesteps = vec![timestep as f32; copies * n];
        let output = self
            .pipeline
            .unet
            .forward_prepared(sample, &timesteps, &self.context);
        let (values, shape) = to_host(output);
        let output = Array::from_shape_vec(shape, values).map_err(|_| Stopped)?;
        let Some(strength) = self.guidance else {
            return Ok(output);
        };
        let unwanted = output.slice(s![..n, .., .., ..]).to_owned();
        let wanted = output.slice(s![n.., .., .., ..]).to_owned();
        let guided = guidance::guide(&wanted, &unwanted, strength);
        if self.rescale > 0.0 {
            return Ok(guidance::rescale(guided, &wanted, self.rescale));
        }
        Ok(guided)
    }

    fn noise(&mut self, [_, c, h, w]: [usize; 4]) -> Array {
        let each: Vec<Array> = self
            .generators
            .iter_mut()
            .map(|g| g.randn_latents([1, c, h, w]))
            .collect();
        let views: Vec<_> = each.iter().map(|one| one.view()).collect();
        concatenate(Axis(0), &views).expect("pictures of one shape")
    }

    fn report(&mut self, step: StepReport<'_>) -> Result<(), Stopped> {
        let progress = Progress {
            done: self.before + step.index + 1,
            total: self.total,
            timestep: step.timestep,
            denoised: step.denoised,
            pipeline: self.pipeline,
        };
        match (self.progress)(&progress) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Stopped),
        }
    }
}
