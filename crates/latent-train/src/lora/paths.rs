//! The model's own paths from noise to picture, from which a LoRA learns to draw in few steps.

use std::ops::{ControlFlow, Range};

use latent::{Error, Pipeline, Request};
use latent_data::{DataSet, Sampler};
use latent_nn::training::SideBySide;
use latent_sampling::{
    Compat, GeneratorKind, Latents, NoiseSchedule, Plan, Prediction, RunOptions, SchedulerConfig,
    choose_as,
};
use sha2::{Digest, Sha256};

use super::hex;
use super::loader::Told;
use super::texts::Words;
use crate::cache::{self, RowCache};
use crate::config::{Distillation, LoraConfig};
use crate::error::{Result, TrainError};
use crate::events::{Event, Options};
use crate::pictures::CaptionChoice;
use crate::random::{Draws, Stream};

/// The sampler of both: one step of it is undone exactly, which gives the target.
const SAMPLER: &str = "ddim";
/// Timesteps that begin with the last one, where there is most noise, however few they are.
const SCHEDULE: &str = "trailing";
/// Rows of a file of the cache.
const PER_FILE: usize = 64;

/// Paths, each the latents before the first of the few steps and after each of them.
pub(super) struct Paths {
    rows: RowCache,
    captions: Vec<String>,
    /// Which steps of which paths a batch has.
    order: Sampler,
    batch: usize,
    leaps: Vec<Leap>,
    prediction: Prediction,
    schedule: NoiseSchedule,
    /// `[c, h, w]` of the latents.
    shape: [usize; 3],
    /// Side of the pictures in pixels.
    size: usize,
}

/// One of the few steps.
struct Leap {
    /// Its timestep.
    from: usize,
    /// The timestep whose noise is left after it; none after the last.
    to: Option<usize>,
}

/// The teacher and how it walks.
struct Walk<'a> {
    pipeline: &'a Pipeline,
    config: &'a LoraConfig,
    distillation: &'a Distillation,
    /// `[c, h, w]` of the latents.
    shape: [usize; 3],
}

impl Walk<'_> {
    /// The latents of path `index`: the noise, and what is left of it after each of the few steps. `None` if it was stopped.
    fn latents(&self, index: usize, caption: &str, options: &Options) -> Result<Option<Vec<f32>>> {
        let Distillation {
            steps,
            teacher_steps,
            guidance,
            ..
        } = *self.distillation;
        let seed = self.config.run.seed.wrapping_add(index as u64);
        let size = self.config.data.size;
        let mut request = Request::new(caption)
            .seed(seed)
            .steps(teacher_steps)
            .guidance(guidance)
            .sampler(SAMPLER)
            .schedule(SCHEDULE)
            .size(size, size);
        request.clip_skip = Some(self.config.clip_skip);
        let mut path = GeneratorKind::Torch
            .start(seed)
            .randn(self.shape.iter().product());
        let drawn = self.pipeline.generate_with(&request, |progress| {
            if progress.done.is_multiple_of(teacher_steps / steps) {
                path.extend(progress.latents().values());
            }
            // The picture is not wanted, so nothing is decoded.
            match progress.done == progress.total || options.stopped() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        });
        match drawn {
            Err(Error::Stopped) | Ok(_) if options.stopped() => Ok(None),
            Err(Error::Stopped) | Ok(_) => Ok(Some(path)),
            Err(error) => Err(error.into()),
        }
    }

    /// The latents of several paths, one after the other; `None` if it was stopped.
    fn all(
        &self,
        range: Range<usize>,
        captions: &[String],
        side_by_side: &SideBySide,
        options: &Options,
    ) -> Result<Option<Vec<f32>>> {
        let paths = side_by_side.run(range.collect(), |_, index| {
            self.latents(index, &captions[index], options)
        });
        let mut values = Vec::new();
        for path in paths {
            match path? {
                Some(path) => values.extend(path),
                None => return Ok(None),
            }
        }
        Ok(Some(values))
    }

    /// Checksum of everything the paths depend on.
    fn key(&self, model_sum: &str, captions: &[String]) -> String {
        let mut hash = Sha256::new();
        let settings = format!(
            "{:?} {} {} {} {:?} {:?}",
            self.distillation,
            self.config.data.size,
            self.config.run.seed,
            self.config.clip_skip,
            self.pipeline.scheduler().settings(),
            self.pipeline.precision(),
        );
        for part in [model_sum, &settings]
            .into_iter()
            .chain(captions.iter().map(String::as_str))
        {
            hash.update(part);
            hash.update([0]);
        }
        hex(hash)
    }
}

impl Paths {
    /// Walks the paths that are not on disk yet; `None` if it was stopped.
    pub(super) fn build(
        data: &DataSet,
        (config, distillation): (&LoraConfig, &Distillation),
        (pipeline, model_sum): (&Pipeline, &str),
        options: &Options,
        progress: &mut dyn FnMut(&Event),
    ) -> Result<Option<Self>> {
        let walk = Walk {
            pipeline,
            config,
            distillation,
            shape: shape_of(pipeline, config.data.size)?,
        };
        let (scheduler, leaps) = leaps(pipeline.scheduler(), distillation)?;
        let captions = captions(data, config, distillation.paths)?;
        let length = walk.shape.iter().product::<usize>() * (distillation.steps + 1);
        let plan = cache::Plan {
            folder: config
                .cache_folder()
                .join(format!("paths-{}", walk.key(model_sum, &captions))),
            rows: captions.len(),
            length,
            per_file: PER_FILE,
        };
        let total = captions.len();
        let side_by_side = side_by_side(pipeline)?;
        let make = |range| walk.all(range, &captions, &side_by_side, options);
        let rows = RowCache::build(plan, make, |done| {
            progress(&Event::Preparing {
                what: "paths",
                done,
                total,
            });
        })?;
        let Some(rows) = rows else { return Ok(None) };
        Ok(Some(Self {
            rows,
            order: Sampler::new(config.run.seed, total * leaps.len())?,
            captions,
            batch: config.run.batch,
            leaps,
            prediction: scheduler.settings().prediction_type,
            schedule: NoiseSchedule::new(&scheduler)?,
            shape: walk.shape,
            size: config.data.size,
        }))
    }

    /// Steps to learn from.
    pub(super) fn len(&self) -> usize {
        self.captions.len() * self.leaps.len()
    }

    /// Timesteps of the model.
    pub(super) fn timesteps(&self) -> usize {
        self.schedule.len()
    }

    /// What the paths were drawn for.
    pub(super) fn captions(&self) -> impl Iterator<Item = &String> {
        self.captions.iter()
    }

    /// Batch `index` of the run.
    pub(super) fn told(
        &self,
        index: u64,
        words_of: impl Fn(&[String]) -> Result<Words>,
    ) -> Result<Told> {
        let [c, h, w] = self.shape;
        let numbers = c * h * w;
        let size = self.size as f32;
        let mut told = Told {
            shape: [self.batch, c, h, w],
            noisy: Vec::new(),
            target: Vec::new(),
            timesteps: Vec::new(),
            weights: vec![1.0; self.batch],
            words: Words::Ids(Vec::new()),
            numbers: [size, size, 0.0, 0.0, size, size].repeat(self.batch),
        };
        let mut texts = Vec::new();
        for drawn in self.order.batch_at(index, self.batch) {
            let (path, step) = (drawn / self.leaps.len(), drawn % self.leaps.len());
            let row = self.rows.row(path)?;
            let latents = |step: usize| {
                let values = row[step * numbers..(step + 1) * numbers].to_vec();
                Latents::from_shape_vec([1, c, h, w], values).map_err(|error| {
                    TrainError::Other(format!("the cached paths have another shape: {error}"))
                })
            };
            let (noisy, later) = (latents(step)?, latents(step + 1)?);
            let Leap { from, to } = self.leaps[step];
            let (start, end) = ((from, &noisy), (to, &later));
            let target = self.schedule.leap(self.prediction, start, end);
            told.noisy.extend(noisy);
            told.target.extend(target);
            told.timesteps.push(from);
            texts.push(self.captions[path].clone());
        }
        told.words = words_of(&texts)?;
        Ok(told)
    }
}

/// A group of threads for each core: one path after the other would leave cores waiting for each other at every small
/// layer.
fn side_by_side(pipeline: &Pipeline) -> Result<SideBySide> {
    SideBySide::new(usize::MAX, pipeline.compute())
        .map_err(|error| TrainError::Other(format!("no threads for the paths: {error}")))
}

/// `[c, h, w]` of the latents of a picture of this side.
fn shape_of(pipeline: &Pipeline, size: usize) -> Result<[usize; 3]> {
    let factor = pipeline.downsampling();
    if !size.is_multiple_of(factor) {
        return Err(TrainError::Other(format!(
            "`data.size` is {size}; this model's autoencoder makes one latent of {factor} pixels, so it must be a multiple of \
             {factor}"
        )));
    }
    let channels = pipeline.autoencoder().latent_channels();
    Ok([channels, size / factor, size / factor])
}

/// The sampler's config, and the few steps.
fn leaps(
    folder: &SchedulerConfig,
    distillation: &Distillation,
) -> Result<(SchedulerConfig, Vec<Leap>)> {
    let config = choose_as(Compat::default(), folder, Some(SAMPLER), Some(SCHEDULE))?.config;
    let settings = config.settings();
    if settings.clip_sample || settings.thresholding {
        return Err(TrainError::Other(
            "this model's scheduler clips its estimates (`clip_sample` or `thresholding`), and no single step undoes that; \
             a model of latents has both false in its scheduler_config.json"
                .into(),
        ));
    }
    let visits =
        |steps| Ok::<_, TrainError>(Plan::new(&config, &RunOptions::new(steps))?.timesteps);
    let (few, all) = (
        visits(distillation.steps)?,
        visits(distillation.teacher_steps)?,
    );
    let share = distillation.teacher_steps / distillation.steps;
    if few.iter().ne(all.iter().step_by(share)) {
        return Err(TrainError::Other(format!(
            "the timesteps of {} steps are not among those of {}: {few:?} and {all:?}; choose numbers that divide the model's \
             timesteps",
            distillation.steps, distillation.teacher_steps
        )));
    }
    let few: Vec<usize> = few.into_iter().map(|timestep| timestep as usize).collect();
    let last = (!settings.set_alpha_to_one).then_some(0);
    let ends = few[1..]
        .iter()
        .map(|&timestep| Some(timestep))
        .chain([last]);
    let leaps = few.iter().zip(ends).map(|(&from, to)| Leap { from, to });
    Ok((config, leaps.collect()))
}

/// The caption of each path: of examples in proportion to their weights.
fn captions(data: &DataSet, config: &LoraConfig, paths: usize) -> Result<Vec<String>> {
    if let Some(caption) = &config.caption {
        return Ok(vec![caption.clone(); paths]);
    }
    let order = Sampler::weighted(config.run.seed, &data.weights())?;
    let choice = CaptionChoice {
        languages: config.data.languages,
        style_dropout: 0.0,
    };
    let caption = |index: usize| {
        let example = &data.examples()[order.index_at(index as u64)];
        let mut draws = Draws::new(config.run.seed, Stream::Captions, index as u64);
        choice.draw(&example.captions, &mut draws)
    };
    Ok((0..paths).map(caption).collect())
}
