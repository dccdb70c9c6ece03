//! A second model that does the last part of the steps.

use std::ops::ControlFlow;

use latent_models::Clock;
use latent_sampling::{Latents as Array, PictureGenerator, Plan, Start, sample};

use crate::briefing::Briefing;
use crate::draw::{Filled, Generated, Guided, Progress, assembled, batches, make_room};
use crate::latents::Latents;
use crate::pipeline::{Pipeline, finite};
use crate::reading::Pace;
use crate::start::{Origin, Seeds};
use crate::told::Told;
use crate::{Error, Request};

/// Share of the timesteps that the base does where nobody says otherwise. Source: Podell et al. 2023
/// (arXiv:2307.01952), section 2.5: the refiner is trained on the first 200 of 1000 noise levels.
const REFINE_AT: f64 = 0.8;

/// Share of the timesteps after which the base stops, if its pipeline has a refiner.
pub(crate) fn refine_at(pipeline: &Pipeline, request: &Request) -> Option<f64> {
    pipeline.refiner.as_ref()?;
    Some(request.denoising_end.unwrap_or(REFINE_AT))
}

/// Refuses what cannot be done by two models in turn.
pub(crate) fn check_alone(filled: &Filled, request: &Request) -> Result<(), Error> {
    if filled.options.denoising_end.is_none() {
        return Ok(());
    }
    let masked = filled.canvas.as_ref().map(|canvas| canvas.mask.is_some());
    let what = match (masked, &request.hires) {
        (Some(true), _) => "painting by a mask",
        (_, Some(_)) => "a second pass at a larger size",
        _ => return Ok(()),
    };
    Err(Error::Request(format!(
        "{what} needs the whole run of one model; leave the refiner and `denoising_end` out, or draw first and go on from \
         the picture"
    )))
}

/// A pipeline with all it needs to go on from latents.
pub(crate) struct Refining<'a> {
    pub(crate) pipeline: &'a Pipeline,
    filled: Filled,
    told: Told,
    origin: Origin,
    /// Calls that were made before.
    before: usize,
    /// What its network is told at each call.
    pub(crate) timesteps: Vec<f64>,
}

impl<'a> Refining<'a> {
    /// Of the refiner of `base`, if it has one; sizes and steps are those of the base's request, which made so many calls.
    pub(crate) fn of(
        base: &'a Pipeline,
        request: &Request,
        filled: &Filled,
        calls: usize,
    ) -> Result<Option<Self>, Error> {
        let (Some(refiner), Some(at)) = (&base.refiner, refine_at(base, request)) else {
            return Ok(None);
        };
        let request = Request {
            width: Some(filled.width),
            height: Some(filled.height),
            steps: Some(filled.options.steps),
            denoising_start: Some(at),
            denoising_end: None,
            // Of the encoder that it does not have.
            prompt_2: String::new(),
            negative_prompt_2: String::new(),
            // Done by the base.
            init: None,
            strength: None,
            variation: None,
            ..request.clone()
        };
        Self::new(refiner, &request, Some(calls)).map(Some)
    }

    /// `before` are the calls that were made before; where it is not known, those that a run from noise makes.
    fn new(
        pipeline: &'a Pipeline,
        request: &Request,
        before: Option<usize>,
    ) -> Result<Self, Error> {
        let filled = Filled::new(pipeline, request)?;
        let plan = Plan::new(&filled.config, &filled.options)?;
        let end = plan.end(&filled.config, &filled.options)?;
        let pace = Pace {
            clock: Clock::of(filled.calls_of(filled.options.steps)),
            before: before.unwrap_or(plan.first),
        };
        let told = Told::new(pipeline, request, &filled, std::slice::from_ref(&pace))?;
        make_room(pipeline);
        let shape = Filled::latent_shape(pipeline, [filled.width, filled.height]);
        Ok(Self {
            origin: Origin::new(pipeline, None, shape, filled.options.compat)?,
            pipeline,
            filled,
            told,
            before: pace.before,
            timesteps: plan.timesteps[plan.first..end].to_vec(),
        })
    }

    /// Puts its calls and warnings behind those of the base.
    pub(crate) fn join(&self, timesteps: &mut Vec<f64>, warnings: &mut Vec<String>) {
        timesteps.extend(&self.timesteps);
        for warning in &self.told.warnings {
            if !warnings.contains(warning) {
                warnings.push(warning.clone());
            }
        }
    }

    /// Goes on with one batch, its generators as they were left; `before` calls of `total` are done.
    pub(crate) fn go_on(
        &self,
        latents: Array,
        (seeds, mut generators): (&[Seeds], Vec<PictureGenerator>),
        progress: &mut dyn FnMut(&Progress<'_>) -> ControlFlow<()>,
        (before, total): (usize, usize),
    ) -> Result<Array, Error> {
        let size = [self.filled.width, self.filled.height];
        let batch = [seeds.len(), self.timesteps.len()];
        let begun = self.origin.go_on(self.pipeline, &mut generators)?;
        let mut guided = Guided {
            briefing: Briefing::new(
                (self.pipeline, &self.filled.guiding),
                &self.told,
                (0, size),
                batch,
            )?,
            pipeline: self.pipeline,
            generator: self.filled.generator,
            guide: self
                .filled
                .guiding
                .walk(self.before, self.before + self.timesteps.len()),
            generators,
            seeds,
            begun,
            progress,
            before,
            total,
            failed: None,
        };
        let (config, options) = (&self.filled.config, &self.filled.options);
        let sampled = sample(config, options, Start::Latents(latents), &mut guided);
        let (latents, _) = guided.finished(sampled)?;
        finite(latents.as_slice().unwrap_or_default(), "the refiner")?;
        Ok(latents)
    }
}

/// Refuses latents that are not those of the request and the model.
fn check_given(pipeline: &Pipeline, request: &Request, latents: &Latents) -> Result<(), Error> {
    let [n, channels, ..] = latents.shape();
    if request.denoising_start.is_none() {
        return Err(Error::Request(
            "latents are given, and not how noisy they are; set `denoising_start` to where their run ended".into(),
        ));
    }
    let others = [
        ("init", request.init.is_some()),
        ("variation", request.variation.is_some()),
        ("hires", request.hires.is_some()),
    ];
    if let Some((name, _)) = others.iter().find(|(_, stated)| *stated) {
        return Err(Error::Request(format!(
            "`{name}` says how a run begins, and this one goes on from latents; leave it out"
        )));
    }
    let (seeds, needed) = (request.seeds(), pipeline.autoencoder.latent_channels());
    if (n, channels) != (seeds.len(), needed) {
        return Err(Error::Request(format!(
            "the latents are {n} with {channels} channels, and needed are {} with {needed}; give one a seed, of the same \
             kind of model",
            seeds.len()
        )));
    }
    Ok(())
}

/// Goes on from latents that another run left at the request's `denoising_start`.
pub(crate) fn refine(
    pipeline: &Pipeline,
    request: &Request,
    latents: &Latents,
    progress: &mut dyn FnMut(&Progress<'_>) -> ControlFlow<()>,
) -> Result<Generated, Error> {
    check_given(pipeline, request, latents)?;
    let (factor, [.., h, w]) = (pipeline.downsampling(), latents.shape());
    let request = Request {
        width: Some(w * factor),
        height: Some(h * factor),
        ..request.clone()
    };
    let refining = Refining::new(pipeline, &request, None)?;
    let batches = batches(pipeline, &refining.filled.seeds, h * w);
    let total = refining.timesteps.len() * batches.len();
    let (mut finals, mut pictures, mut first) = (Vec::new(), Vec::new(), 0);
    for (index, seeds) in batches.iter().enumerate() {
        let rows = ndarray::s![first..first + seeds.len(), .., .., ..];
        first += seeds.len();
        let each = seeds.iter();
        let generators = each.map(|seeds| seeds.start(refining.filled.generator));
        let latents = refining.go_on(
            latents.array().slice(rows).to_owned(),
            (seeds, generators.collect()),
            progress,
            (index * refining.timesteps.len(), total),
        )?;
        pipeline.rest_networks();
        pictures.extend(pipeline.decode_array(&latents)?);
        pipeline.rest_autoencoder();
        finals.push(latents);
    }
    let settings = refining.filled.settings_of(pipeline, &request);
    assembled(
        (pictures, &finals),
        settings,
        refining.timesteps,
        refining.told.warnings,
    )
}
