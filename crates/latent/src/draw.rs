//! One request: noise, the walk with guidance, pictures.

use std::ops::ControlFlow;
use std::path::Path;

use latent_formats::{Filter, Picture};
use latent_models::Clock;
use latent_nn::ops::{forget_packed, release_buffers};
use latent_nn::parameter_count;
use latent_sampling::guidance::Method;
use latent_sampling::{
    Compat, Denoiser, GeneratorKind, Latents as Array, NoiseSource, PictureGenerator, Plan,
    RunOptions, SamplingError, Schedule, SchedulerConfig, StepReport, Stopped, choose_as, sample,
    sampler_of,
};
use ndarray::s;

use crate::briefing::Briefing;
use crate::guiding::{Guide, Guiding};
use crate::hires::enlarged;
use crate::latents::Latents;
use crate::modes::Canvas;
use crate::pipeline::{Pipeline, finite, scheduler};
use crate::reading::Pace;
use crate::refine::{Refining, check_alone, refine_at};
use crate::settings::Settings;
use crate::start::{Begun, Origin, Seeds, stacked};
use crate::told::Told;
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
    /// The noisy latents after it, `[n, c, h, w]`.
    latents: &'a Array,
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

    /// The latents as the sampler left them, with the noise that is still in them.
    #[must_use]
    pub fn latents(&self) -> Latents {
        Latents::from(self.latents.clone())
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
    pub(crate) seeds: Vec<Seeds>,
    pub(crate) canvas: Option<Canvas>,
    hires: Option<Hires>,
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) guidance: f32,
    pub(crate) guiding: Guiding,
    pub(crate) config: SchedulerConfig,
    sampler: &'static str,
    schedule: Option<&'static Schedule>,
    pub(crate) generator: GeneratorKind,
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
        let own = request.sampler.is_none() && !stated;
        let schedule = request
            .schedule
            .as_ref()
            .or(defaults.schedule.as_ref().filter(|_| own));
        let choice = choose_as(
            request.compat,
            &folder,
            name.map(String::as_str),
            schedule.map(String::as_str),
        )?;
        let config = choice.config;
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
        options.compat = request.compat;
        options.unguided_noise = request.guidance_method == Method::CfgPlusPlus;
        options.denoising_start = request.denoising_start;
        options.denoising_end = refine_at(pipeline, request).or(request.denoising_end);
        Ok(Self {
            seeds: seeds(request),
            canvas,
            hires: request.hires,
            width,
            height,
            guidance: request.strength_of_guidance(defaults.guidance),
            guiding: Guiding::new(request, &config)?,
            sampler: sampler.name,
            schedule: choice.named,
            generator: request.generator_kind()?,
            config,
            options,
        })
    }

    /// `[c, h, w]` of the latents of a picture of this size, padded to what the model can draw.
    pub(crate) fn latent_shape(pipeline: &Pipeline, [width, height]: [usize; 2]) -> [usize; 3] {
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
        let size = [self.width, self.height];
        let shape = Self::latent_shape(pipeline, size);
        let compat = self.options.compat;
        let origin = Origin::new(pipeline, self.canvas.as_ref(), shape, compat)?;
        let plan = self.plan(&self.options, origin.strength())?;
        let mut passes = vec![Pass {
            end: plan.end(&self.config, &self.options)?,
            plan,
            options: self.options.clone(),
            size,
            shape,
            origin,
            enlarged: None,
        }];
        if let Some(hires) = self.hires {
            let done = hires.steps.unwrap_or(self.options.steps);
            let (compat, strength) = (self.options.compat, hires.strength);
            let (steps, strength) = Plan::second_pass(&self.config, compat, done, strength)?;
            let options = RunOptions {
                steps,
                ..self.options.clone()
            };
            let size = self.final_size();
            let shape = Self::latent_shape(pipeline, size);
            let plan = self.plan(&options, Some(strength))?;
            passes.push(Pass {
                end: plan.end(&self.config, &options)?,
                plan,
                options,
                size,
                shape,
                origin: Origin::new(pipeline, None, shape, compat)?,
                enlarged: Some(strength),
            });
        }
        Ok(passes)
    }

    /// Calls of the network that prompts count as its steps, of `steps` steps.
    pub(crate) fn calls_of(&self, steps: usize) -> usize {
        steps * sampler_of(&self.config).evaluations_per_step
    }

    /// The steps of each pass, as prompts count them.
    fn paces(&self) -> Vec<Pace> {
        let first = self.calls_of(self.options.steps);
        let mut clocks = vec![Clock::of(first)];
        clocks.extend(self.hires.map(|hires| Clock {
            steps: self.calls_of(hires.steps.unwrap_or(self.options.steps)),
            first_pass: Some(first),
        }));
        let pace = |clock| Pace { clock, before: 0 };
        clocks.into_iter().map(pace).collect()
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

    /// The settings of each picture.
    pub(crate) fn settings_of(&self, pipeline: &Pipeline, request: &Request) -> Vec<Settings> {
        let seeds = self.seeds.iter();
        seeds
            .map(|&seeds| self.settings(pipeline, request, seeds))
            .collect()
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
            guidance_rescale: request.guidance_rescale,
            further: further(pipeline, request, &seeds),
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
    let each = request.seeds();
    let (shared, count) = (request.shares_seed(), each.len());
    let each = each.into_iter().enumerate();
    each.map(|(k, seed)| Seeds {
        seed,
        place: if shared { (k, count) } else { (0, 1) },
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
    /// Index after its last call.
    end: usize,
    /// Width and height of its pictures.
    size: [usize; 2],
    /// `[c, h, w]` of one picture's latents.
    shape: [usize; 3],
    origin: Origin,
    /// For the second, the strength that its plan was made for.
    enlarged: Option<f64>,
}

impl Pass {
    /// What the network is told at each of its calls.
    fn timesteps(&self) -> &[f64] {
        &self.plan.timesteps[self.plan.first..self.end]
    }
}

/// Parameters of a text encoder whose memory is worth having back while the U-Net works.
const LARGE: usize = 50_000_000;

/// Gives back what a large text encoder holds beside its file once the words are read: packing the weights again for
/// the next ones takes a tenth of a second.
pub(crate) fn make_room(pipeline: &Pipeline) {
    let second = pipeline.sdxl.iter().map(|sdxl| &sdxl.text_2);
    for text in pipeline.text.iter().chain(second) {
        if pipeline.economy.rest || parameter_count(&text.encoder) > LARGE {
            forget_packed(&text.encoder);
        }
    }
}

/// Settings of a picture that only some models have. Source of the refiner's keys: AUTOMATIC1111's.
fn further(pipeline: &Pipeline, request: &Request, seeds: &Seeds) -> Vec<(&'static str, String)> {
    let mut further = habits(request);
    let (place, of) = seeds.place;
    if of > 1 {
        further.push(("Batch size", of.to_string()));
        further.push(("Batch pos", place.to_string()));
    }
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
    further.extend(request.guidance_settings());
    further.extend(rare(request));
    further.push(("Precision", pipeline.compute.precision.name().to_owned()));
    further
}

/// Whose habits were followed, where it was not diffusers'.
fn habits(request: &Request) -> Vec<(&'static str, String)> {
    let mut habits = Vec::new();
    if request.compat != Compat::default() {
        habits.push(("Compat", request.compat.name().to_owned()));
    }
    if let Some(weights) = request.weights {
        habits.push(("Weights", weights.name().to_owned()));
    }
    habits
}

/// Settings that few requests state. A picture names them, so that it can be drawn again.
fn rare(request: &Request) -> Vec<(&'static str, String)> {
    let mut rare = Vec::new();
    let score = request.micro_conditioning.aesthetic_score;
    rare.extend(score.map(|score| ("Aesthetic score", score.to_string())));
    let zeros = request.force_zeros_for_empty_prompt;
    let zeros = zeros.map(|zeros| if zeros { "zeros" } else { "read" });
    rare.extend(zeros.map(|how| ("Empty negative prompt", how.to_owned())));
    rare.extend(
        request
            .mask_grow
            .map(|grow| ("Mask grow", grow.to_string())),
    );
    rare.extend(
        request
            .keep_unmasked
            .map(|keep| ("Keep unmasked", keep.to_string())),
    );
    if let Some(sides) = request.outpaint {
        let sides = sides.map(|side| side.to_string());
        rare.push(("Outpaint", sides.join(",")));
    }
    if let Some(config) = &request.scheduler_config {
        rare.push(("Scheduler config", config.to_string()));
    }
    rare
}

/// The seeds of pictures of so many latent positions each, as many together as are drawn at once.
pub(crate) fn batches<'s>(
    pipeline: &Pipeline,
    seeds: &'s [Seeds],
    positions: usize,
) -> Vec<&'s [Seeds]> {
    let at_once = match pipeline.economy.one_at_a_time {
        true => 1,
        false => (POSITIONS / positions.max(1)).clamp(1, seeds.len().max(1)),
    };
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
    Ok(Generated {
        pictures,
        latents: Latents::from(stacked(finals)),
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
    check_alone(&filled, request)?;
    let passes = filled.passes(pipeline)?;
    let positions = passes.iter().map(|pass| pass.shape[1] * pass.shape[2]);
    let batches = batches(pipeline, &filled.seeds, positions.max().unwrap_or(1));
    let mut told = Told::new(pipeline, request, &filled, &filled.paces())?;
    make_room(pipeline);
    let calls = passes.iter().map(|pass| pass.timesteps().len()).sum();
    let refining = Refining::of(pipeline, request, &filled, calls)?;
    let each = passes.iter().flat_map(Pass::timesteps);
    let mut timesteps: Vec<f64> = each.copied().collect();
    let mut warnings = std::mem::take(&mut told.warnings);
    warnings.extend(thin_mask(pipeline, &passes));
    if let Some(refining) = &refining {
        refining.join(&mut timesteps, &mut warnings);
    }
    let mut desk = Desk {
        pipeline,
        filled: &filled,
        told: &told,
        progress,
        done: 0,
        total: timesteps.len() * batches.len(),
        refined: refining.as_ref().map_or(0, |one| one.timesteps.len()),
    };
    let (mut finals, mut pictures) = (Vec::new(), Vec::new());
    for seeds in batches {
        let (latents, last) = desk.draw(&passes, refining.as_ref(), seeds)?;
        pipeline.rest_networks();
        for picture in last.decode_array(&latents)? {
            pictures.push(filled.finish(picture)?);
        }
        last.rest_autoencoder();
        finals.push(latents);
    }
    let settings = filled.settings_of(pipeline, request);
    assembled((pictures, &finals), settings, timesteps, warnings)
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
    /// Evaluations of a batch that a refiner makes.
    refined: usize,
}

impl Desk<'_, '_> {
    /// The latents of a batch after all passes and the refiner, and the pipeline that decodes them.
    fn draw<'r>(
        &'r mut self,
        passes: &[Pass],
        refining: Option<&'r Refining<'_>>,
        seeds: &[Seeds],
    ) -> Result<(Array, &'r Pipeline), Error> {
        let (mut small, mut generators) = (None, Vec::new());
        for (index, pass) in passes.iter().enumerate() {
            let (latents, left) = self.walk((index, pass), seeds, small)?;
            // The decoder's results have other sizes than the U-Net's.
            release_buffers();
            (small, generators) = (Some(latents), left);
        }
        let latents = small.ok_or_else(|| Error::Request("there is nothing to draw".into()))?;
        let Some(refining) = refining else {
            return Ok((latents, self.pipeline));
        };
        let calls = (self.done, self.total);
        let latents = refining.go_on(latents, (seeds, generators), self.progress, calls)?;
        self.done += refining.timesteps.len();
        release_buffers();
        let named = self.pipeline.extras.decodes;
        let last = if named {
            self.pipeline
        } else {
            refining.pipeline
        };
        Ok((latents, last))
    }

    /// The latents of a batch after a pass, and the generators as it left them; `small` are those of the pass before.
    fn walk(
        &mut self,
        (index, pass): (usize, &Pass),
        seeds: &[Seeds],
        small: Option<Array>,
    ) -> Result<(Array, Vec<PictureGenerator>), Error> {
        let (pipeline, filled) = (self.pipeline, self.filled);
        let each = seeds.iter().map(|seeds| seeds.start(filled.generator));
        let mut generators: Vec<PictureGenerator> = each.collect();
        let (start, begun) = match (&filled.hires, pass.enlarged, small) {
            (Some(hires), Some(strength), Some(small)) => {
                let size = [filled.width, filled.height];
                let origin = &pass.origin;
                let draws = origin.draws_from(&mut generators);
                let clean = enlarged(pipeline, hires, &small, size, draws)?;
                let start = (clean, strength);
                origin.begin_from(pipeline, &mut generators, seeds, start)?
            }
            _ => pass
                .origin
                .begin(pipeline, &mut generators, seeds, &pass.plan)?,
        };
        let batch = [seeds.len(), pass.timesteps().len()];
        let mut guided = Guided {
            briefing: Briefing::new(
                (pipeline, &filled.guiding),
                self.told,
                (index, pass.size),
                batch,
            )?,
            pipeline,
            guide: filled.guiding.walk(0, batch[1] + self.refined),
            generator: filled.generator,
            seeds,
            generators,
            begun,
            progress: &mut *self.progress,
            before: self.done,
            total: self.total,
            failed: None,
        };
        let sampled = sample(&filled.config, &pass.options, start, &mut guided);
        let (latents, generators) = guided.finished(sampled)?;
        self.done += pass.timesteps().len();
        finite(latents.as_slice().unwrap_or_default(), "the network")?;
        Ok((latents, generators))
    }
}

/// The network with guidance, as samplers see it.
pub(crate) struct Guided<'a> {
    pub(crate) pipeline: &'a Pipeline,
    pub(crate) briefing: Briefing<'a>,
    pub(crate) guide: Guide<'a>,
    pub(crate) generator: GeneratorKind,
    /// One a picture, so that a picture does not depend on its neighbours.
    pub(crate) generators: Vec<PictureGenerator>,
    /// The seeds of each picture of the batch.
    pub(crate) seeds: &'a [Seeds],
    pub(crate) begun: Begun,
    pub(crate) progress: &'a mut dyn FnMut(&Progress<'_>) -> ControlFlow<()>,
    /// Evaluations of the walks before this one.
    pub(crate) before: usize,
    pub(crate) total: usize,
    /// Why the network could not be called.
    pub(crate) failed: Option<Error>,
}

impl Guided<'_> {
    /// What a walk gave, and the generators as it left them.
    pub(crate) fn finished(
        self,
        sampled: Result<Array, SamplingError>,
    ) -> Result<(Array, Vec<PictureGenerator>), Error> {
        match self.failed {
            Some(error) => Err(error),
            None => Ok((sampled?, self.generators)),
        }
    }
}

impl Denoiser for Guided<'_> {
    fn predict(&mut self, input: &Array, timestep: f64) -> Result<Array, Stopped> {
        let asked = self.guide.ask(timestep);
        let channels = self.begun.channels(input);
        match self.briefing.find(&channels, timestep, asked.wish()) {
            Ok(found) => {
                let (shares, strength) = (self.briefing.shares(), self.briefing.guidance());
                Ok(self.guide.combine(&asked, input, (found, shares, strength)))
            }
            Err(error) => {
                self.failed = Some(error);
                Err(Stopped)
            }
        }
    }

    fn unguided(&mut self) -> Option<Array> {
        self.guide.take_unguided()
    }

    fn seeds(&self) -> Vec<u64> {
        self.seeds.iter().map(|seeds| seeds.seed).collect()
    }

    fn source(&self, index: usize) -> NoiseSource {
        self.seeds[index].source(self.generator)
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
            latents: step.latents,
            denoised: step.denoised,
            pipeline: self.pipeline,
        };
        match (self.progress)(&progress) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Stopped),
        }
    }
}
