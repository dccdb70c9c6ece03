//! One request: noise, the walk with guidance, pictures.

use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::Tensor;
use latent_formats::{Filter, Picture};
use latent_models::{Conditioning, Context, UNetCondition};
use latent_nn::ops::{forget_packed, release_buffers};
use latent_nn::{parameter_count, to_host};
use latent_sampling::{
    Denoiser, GeneratorKind, Latents as Array, PictureGenerator, Plan, RunOptions, SamplingError,
    Schedule, SchedulerConfig, StepReport, Stopped, choose, guidance, sample, sampler_of,
};
use ndarray::s;

use crate::hires::enlarged;
use crate::latents::Latents;
use crate::modes::Canvas;
use crate::pipeline::{Pipeline, finite, scheduler};
use crate::settings::Settings;
use crate::start::{Begun, Origin, Seeds, stacked};
use crate::steering::Steering;
use crate::{Error, Hires, Request, Variation};

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
struct Filled {
    seeds: Vec<Seeds>,
    canvas: Option<Canvas>,
    hires: Option<Hires>,
    width: usize,
    height: usize,
    guidance: f32,
    rescale: f32,
    config: SchedulerConfig,
    sampler: &'static str,
    schedule: Option<&'static Schedule>,
    generator: GeneratorKind,
    options: RunOptions,
}

impl Filled {
    fn new(pipeline: &Pipeline, request: &Request) -> Result<Self, Error> {
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
        let choice = choose(
            &folder,
            name.map(String::as_str),
            request.schedule.as_deref(),
        )?;
        let config = choice.config;
        let generator = request.generator.as_deref();
        let canvas = request.canvas()?;
        let [height, width] = pipeline.size();
        let (width, height) = match &canvas {
            Some(canvas) => (canvas.picture.width(), canvas.picture.height()),
            None => (
                request.width.unwrap_or(width),
                request.height.unwrap_or(height),
            ),
        };
        let mut options = RunOptions::new(request.steps.unwrap_or(defaults.steps));
        let sampler = sampler_of(&config);
        options.eta = request.eta.or(sampler.eta_of_pipelines());
        options.schedule = choice.schedule;
        Ok(Self {
            seeds: seeds(request),
            canvas,
            hires: request.hires,
            width,
            height,
            guidance: request.guidance.unwrap_or(defaults.guidance),
            rescale: request.guidance_rescale,
            sampler: sampler.name,
            schedule: choice.named,
            generator: generator.map_or(Ok(GeneratorKind::default()), GeneratorKind::from_name)?,
            config,
            options,
        })
    }

    /// `[c, h, w]` of the latents of a picture of this size, padded to what the model can draw.
    fn latent_shape(pipeline: &Pipeline, [width, height]: [usize; 2]) -> [usize; 3] {
        let factor = pipeline.downsampling();
        [
            pipeline.autoencoder.latent_channels(),
            height.div_ceil(factor),
            width.div_ceil(factor),
        ]
    }

    /// Width and height of the finished pictures.
    fn final_size(&self) -> [usize; 2] {
        let size = [self.width, self.height];
        self.hires.map_or(size, |hires| hires.size(size))
    }

    /// The one pass over the pictures, or both of them.
    fn passes(&self, pipeline: &Pipeline) -> Result<Vec<Pass>, Error> {
        let shape = Self::latent_shape(pipeline, [self.width, self.height]);
        let origin = Origin::new(pipeline, self.canvas.as_ref(), shape)?;
        let mut passes = vec![Pass {
            plan: self.plan(&self.options, origin.strength())?,
            options: self.options.clone(),
            shape,
            origin,
        }];
        if let Some(hires) = self.hires {
            let steps = hires.steps.unwrap_or(self.options.steps);
            let options = RunOptions {
                steps: Plan::steps_that_do(&self.config, steps, hires.strength)?,
                ..self.options.clone()
            };
            let shape = Self::latent_shape(pipeline, self.final_size());
            passes.push(Pass {
                plan: self.plan(&options, Some(hires.strength))?,
                options,
                shape,
                origin: Origin::new(pipeline, None, shape)?,
            });
        }
        Ok(passes)
    }

    fn plan(&self, options: &RunOptions, strength: Option<f64>) -> Result<Plan, SamplingError> {
        match strength {
            Some(strength) => Plan::for_picture(&self.config, options, strength),
            None => Plan::new(&self.config, options),
        }
    }

    /// The finished picture: what was padded is cut off, what a mask leaves is put back.
    fn finish(&self, picture: Picture) -> Result<Picture, Error> {
        let [width, height] = self.final_size();
        let picture = picture.crop(0, 0, width, height)?;
        match &self.canvas {
            Some(canvas) => canvas.finish(picture),
            None => Ok(picture),
        }
    }

    fn settings(&self, pipeline: &Pipeline, request: &Request, seeds: Seeds) -> Settings {
        Settings {
            prompt: request.prompt.clone(),
            negative_prompt: request.negative_prompt.clone(),
            steps: self.options.steps,
            sampler: self.sampler.to_owned(),
            schedule: self.schedule.map(|schedule| schedule.name.to_owned()),
            generator: self.generator,
            guidance: self.guidance,
            seed: seeds.seed,
            width: self.width,
            height: self.height,
            clip_skip: request.clip_skip.unwrap_or(0),
            eta: request.eta,
            guidance_rescale: self.rescale,
            model: pipeline.model_name.clone(),
            adapters: pipeline.extras.names.clone(),
            strength: self.canvas.as_ref().map(|canvas| canvas.strength),
            mask_blur: self
                .canvas
                .as_ref()
                .and_then(|canvas| canvas.mask.as_ref())
                .map(|_| request.stated_blur()),
            variation: seeds.variation,
            hires: self.hires.map(|hires| Hires {
                steps: Some(hires.steps.unwrap_or(self.options.steps)),
                ..hires
            }),
        }
    }
}

/// The seeds of each picture: a variation's other seed counts in the place of the seed.
fn seeds(request: &Request) -> Vec<Seeds> {
    let each = request.seeds().into_iter().enumerate();
    each.map(|(k, seed)| Seeds {
        seed,
        variation: request.variation.map(|variation| Variation {
            seed: variation.seed.wrapping_add(k as u64),
            ..variation
        }),
    })
    .collect()
}

/// One walk over the pictures: the first, or the second at a larger size.
struct Pass {
    options: RunOptions,
    plan: Plan,
    /// `[c, h, w]` of one picture's latents.
    shape: [usize; 3],
    origin: Origin,
}

/// Parameters of a text encoder whose memory is worth having back while the U-Net works.
const LARGE: usize = 50_000_000;

/// Gives back what a large text encoder holds beside its file once the words are read: packing the weights again for
/// the next ones takes a tenth of a second.
fn make_room(pipeline: &Pipeline) {
    if let Some(text) = &pipeline.text
        && parameter_count(&text.encoder) > LARGE
    {
        forget_packed(&text.encoder);
    }
}

/// Draws everything that `request` asks for.
pub(crate) fn draw(
    pipeline: &Pipeline,
    request: &Request,
    progress: &mut dyn FnMut(&Progress<'_>) -> ControlFlow<()>,
) -> Result<Generated, Error> {
    let filled = Filled::new(pipeline, request)?;
    let passes = filled.passes(pipeline)?;
    let positions = passes.iter().map(|pass| pass.shape[1] * pass.shape[2]);
    let at_once = POSITIONS / positions.max().unwrap_or(1);
    let batches: Vec<&[Seeds]> = filled
        .seeds
        .chunks(at_once.clamp(1, filled.seeds.len()))
        .collect();
    let told = Told::new(pipeline, request, &filled)?;
    make_room(pipeline);
    let calls: usize = passes.iter().map(|pass| pass.plan.calls()).sum();
    let mut desk = Desk {
        pipeline,
        filled: &filled,
        told: &told,
        progress,
        done: 0,
        total: calls * batches.len(),
    };
    let (mut finals, mut pictures) = (Vec::new(), Vec::new());
    for seeds in batches {
        let latents = passes.iter().try_fold(None, |small, pass| {
            let latents = desk.walk(pass, seeds, small)?;
            // The decoder's results have other sizes than the U-Net's.
            release_buffers();
            Ok::<_, Error>(Some(latents))
        })?;
        if let Some(latents) = latents {
            for picture in pipeline.decode_array(&latents)? {
                pictures.push(filled.finish(picture)?);
            }
            finals.push(latents);
        }
    }
    let settings: Vec<Settings> = filled
        .seeds
        .iter()
        .map(|&seeds| filled.settings(pipeline, request, seeds))
        .collect();
    for (picture, settings) in pictures.iter_mut().zip(&settings) {
        picture.set_text("parameters", settings.parameters());
    }
    let mut warnings = told.warnings;
    warnings.extend(thin_mask(pipeline, &passes));
    let timesteps = passes
        .iter()
        .flat_map(|pass| &pass.plan.timesteps[pass.plan.first..]);
    Ok(Generated {
        pictures,
        latents: Latents::from(stacked(&finals)),
        settings,
        timesteps: timesteps.copied().collect(),
        warnings,
    })
}

/// What to say of a mask that latents lose most of.
fn thin_mask(pipeline: &Pipeline, passes: &[Pass]) -> Option<String> {
    let factor = pipeline.downsampling();
    passes.iter().any(|pass| pass.origin.thin).then(|| {
        format!(
            "latents of {factor}x{factor} pixels lose most of this thin mask; `--mask-grow {factor}` widens it"
        )
    })
}

/// What all walks of a request share.
struct Desk<'a, 'p> {
    pipeline: &'a Pipeline,
    filled: &'a Filled,
    told: &'a Told,
    progress: &'p mut dyn FnMut(&Progress<'_>) -> ControlFlow<()>,
    /// Evaluations of the walks before this one.
    done: usize,
    total: usize,
}

impl Desk<'_, '_> {
    /// The latents of a batch after a pass; `small` are those of the pass before.
    fn walk(&mut self, pass: &Pass, seeds: &[Seeds], small: Option<Array>) -> Result<Array, Error> {
        let (pipeline, filled) = (self.pipeline, self.filled);
        let each = seeds.iter().map(|seeds| filled.generator.start(seeds.seed));
        let mut generators: Vec<PictureGenerator> = each.collect();
        let (start, begun) = match (&filled.hires, small) {
            (Some(hires), Some(small)) => {
                let size = [filled.width, filled.height];
                let clean = enlarged(pipeline, hires, &small, size, &mut generators)?;
                let start = (clean, hires.strength);
                let origin = &pass.origin;
                origin.begin_from(pipeline, &mut generators, seeds, start)?
            }
            _ => pass
                .origin
                .begin(pipeline, &mut generators, seeds, &pass.plan)?,
        };
        let factor = pipeline.downsampling();
        let size = [pass.shape[2] * factor, pass.shape[1] * factor];
        let batch = [seeds.len(), pass.plan.calls()];
        let (context, steering) = self.told.prepare(pipeline, size, batch)?;
        let mut guided = Guided {
            pipeline,
            context,
            steering,
            guidance: self.told.guidance,
            rescale: f64::from(filled.rescale),
            seeds,
            generators,
            begun,
            progress: &mut *self.progress,
            before: self.done,
            total: self.total,
        };
        let latents = sample(&filled.config, &pass.options, start, &mut guided)?;
        self.done += pass.plan.calls();
        finite(latents.as_slice().unwrap_or_default(), "the network")?;
        Ok(latents)
    }
}

/// What the network is told of one picture, with and without guidance's other half.
struct Told {
    /// The wanted condition, and what guidance moves away from.
    wanted: Condition,
    unwanted: Option<Condition>,
    guidance: Option<f64>,
    warnings: Vec<String>,
}

/// One picture's condition.
enum Condition {
    /// Text states `[1, l, c]`.
    Text(Box<Tensor<3>>),
    Class(u32),
    Nothing,
}

impl Told {
    fn new(pipeline: &Pipeline, request: &Request, filled: &Filled) -> Result<Self, Error> {
        let mut warnings = Vec::new();
        if pipeline.autoencoder.scaling().assumed {
            warnings.push(format!(
                "the autoencoder's config has no `scaling_factor`; {} is assumed, and colours are wrong if that is not \
                 1/std of its latents",
                pipeline.autoencoder.scaling().factor
            ));
        }
        let strength = Some(f64::from(filled.guidance)).filter(|&strength| strength > 1.0);
        if strength.is_none() && !request.negative_prompt.is_empty() {
            warnings
                .push("the negative prompt has no effect while guidance is 1 or less".to_owned());
        }
        let (wanted, unwanted) = match pipeline.conditioning() {
            Conditioning::Text => {
                let mut read =
                    |words: &str, clip_skip| read(pipeline, words, clip_skip, &mut warnings);
                let wanted = read(&request.prompt, request.clip_skip.unwrap_or(0))?;
                // diffusers skips layers for the wanted words only.
                let unwanted = strength
                    .map(|_| read(&request.negative_prompt, 0))
                    .transpose()?;
                (wanted, unwanted)
            }
            Conditioning::Class { count } => {
                let wanted = Condition::Class(class(pipeline, &request.prompt, count)?);
                // Training leaves the last class for "no class".
                (
                    wanted,
                    strength.map(|_| Condition::Class(count.saturating_sub(1) as u32)),
                )
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
        let guidance = unwanted.as_ref().and(strength);
        Ok(Self {
            wanted,
            unwanted,
            guidance,
            warnings,
        })
    }

    /// What the network, and the networks that steer it, are told of a batch of `n` pictures of `size` pixels, width
    /// and height, for `calls` evaluations.
    fn prepare<'a>(
        &self,
        pipeline: &'a Pipeline,
        size: [usize; 2],
        [n, calls]: [usize; 2],
    ) -> Result<(Context, Steering<'a>), Error> {
        let (condition, count) = self.condition(pipeline, n);
        let text = match &condition {
            UNetCondition::Text(states) => Some(states),
            UNetCondition::Class(_) | UNetCondition::None => None,
        };
        let steering = Steering::new(pipeline, text, size, (n, calls))?;
        Ok((pipeline.unet.prepare(condition, count), steering))
    }

    /// The condition of a batch of `n` pictures and how many it is for: the unwanted half first, as diffusers has it.
    fn condition(&self, pipeline: &Pipeline, n: usize) -> (UNetCondition, usize) {
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
                Condition::Class(_) | Condition::Nothing => None,
            })
            .collect();
        let classes: Vec<u32> = conditions
            .iter()
            .filter_map(|condition| match condition {
                Condition::Class(class) => Some(*class),
                Condition::Text(_) | Condition::Nothing => None,
            })
            .collect();
        let condition = if !texts.is_empty() {
            UNetCondition::Text(Tensor::cat(texts, 0))
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
    let encoded = text.tokenizer.encode(words);
    if let Some(cut) = &encoded.cut {
        let room = encoded.ids.len().saturating_sub(2);
        warnings.push(format!(
            "the prompt is too long: this model reads {room} tokens, so this end was cut: \"{cut}\""
        ));
    }
    let ids = pipeline.compute.ids(&encoded.ids, [1, encoded.ids.len()]);
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
struct Guided<'a> {
    pipeline: &'a Pipeline,
    context: Context,
    steering: Steering<'a>,
    guidance: Option<f64>,
    rescale: f64,
    /// One a picture, so that a picture does not depend on its neighbours.
    /// The seeds of each picture of the batch.
    seeds: &'a [Seeds],
    generators: Vec<PictureGenerator>,
    begun: Begun,
    progress: &'a mut dyn FnMut(&Progress<'_>) -> ControlFlow<()>,
    /// Evaluations of the walks before this one.
    before: usize,
    total: usize,
}

impl Denoiser for Guided<'_> {
    fn predict(&mut self, input: &Array, timestep: f64) -> Result<Array, Stopped> {
        let input = self.begun.channels(input);
        let (n, c, h, w) = input.dim();
        let copies = if self.guidance.is_some() { 2 } else { 1 };
        let mut values = Vec::with_capacity(copies * input.len());
        for _ in 0..copies {
            values.extend(input.iter().copied());
        }
        let sample = self.pipeline.compute.tensor(values, [copies * n, c, h, w]);
        let timesteps = vec![timestep as f32; copies * n];
        let added = self.steering.next(&sample, &timesteps);
        let unet = &self.pipeline.unet;
        let output = unet.forward_steered(sample, &timesteps, &self.context, added.as_ref());
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

    fn seeds(&self) -> Vec<u64> {
        self.seeds.iter().map(|seeds| seeds.seed).collect()
    }

    fn noise(&mut self, [_, c, h, w]: [usize; 4]) -> Array {
        if let Some(noise) = self.begun.take_noise() {
            return noise;
        }
        let each: Vec<Array> = self
            .generators
            .iter_mut()
            .map(|g| g.randn_latents([1, c, h, w]))
            .collect();
        stacked(&each)
    }

    fn revise(&mut self, index: usize, latents: &mut Array) -> Result<(), Stopped> {
        self.begun.put_back(index, latents);
        Ok(())
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
