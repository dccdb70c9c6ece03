//! The network with all it is told, which may change from call to call.

use std::rc::Rc;

use latent_models::{Context, ControlNetContext, Leading};
use latent_nn::to_host;
use latent_sampling::Latents as Array;
use ndarray::{Axis, concatenate, s};

use crate::Error;
use crate::image_prompts::{looking_at, shares};
use crate::pipeline::Pipeline;
use crate::steering::Steering;
use crate::told::{Course, Told};

/// Sets of conditions that are kept prepared: words that take turns come again.
const KEPT: usize = 4;

/// A batch of a pass, and what the network is told of it at each call.
pub(crate) struct Briefing<'a> {
    pipeline: &'a Pipeline,
    told: &'a Told,
    course: &'a Course,
    steering: Steering<'a>,
    /// Width and height of the pictures.
    size: [usize; 2],
    /// Pictures of the batch.
    pictures: usize,
    /// Calls that were made, and all there will be.
    calls: usize,
    of: usize,
    ready: Vec<(Places, Rc<Vec<Group>>)>,
}

/// Places of the conditions at a call.
type Places = (Option<usize>, Vec<usize>);

/// Conditions whose texts are as long as each other, so that the network sees them at once.
struct Group {
    /// How many of what is unwanted and of what is wanted it holds.
    halves: [usize; 2],
    context: Context,
    controls: Vec<Option<ControlNetContext>>,
}

impl<'a> Briefing<'a> {
    /// Of the pass `pass`, whose pictures have this width and height, for a batch and the calls to come.
    pub(crate) fn new(
        pipeline: &'a Pipeline,
        told: &'a Told,
        (pass, size): (usize, [usize; 2]),
        [pictures, calls]: [usize; 2],
    ) -> Result<Self, Error> {
        // As large as the latents are.
        let padded = size.map(|side| side.next_multiple_of(pipeline.downsampling()));
        let mut briefing = Self {
            pipeline,
            told,
            course: told.course(pass),
            steering: Steering::new(pipeline, padded, calls)?,
            size,
            pictures,
            calls: 0,
            of: calls,
            ready: Vec::new(),
        };
        briefing.groups()?;
        Ok(briefing)
    }

    /// What the network is told at this call.
    fn groups(&mut self) -> Result<Rc<Vec<Group>>, Error> {
        let places = self.course.at(self.calls);
        if let Some((_, groups)) = self.ready.iter().find(|(known, _)| *known == places) {
            return Ok(Rc::clone(groups));
        }
        let (unwanted, wanted) = &places;
        let same_length = |place: &usize| {
            let longest = wanted.first().map(|first| self.told.length(*first));
            longest == Some(self.told.length(*place))
        };
        let mut groups = Vec::new();
        match unwanted {
            // Without padding each text is looked at as it is.
            Some(place) if !same_length(place) => {
                groups.push(self.group(&[*place], [1, 0])?);
                groups.push(self.group(wanted, [0, wanted.len()])?);
            }
            _ => {
                let all: Vec<usize> = unwanted.iter().chain(wanted).copied().collect();
                let halves = [all.len() - wanted.len(), wanted.len()];
                groups.push(self.group(&all, halves)?);
            }
        }
        let groups = Rc::new(groups);
        if self.ready.len() == KEPT {
            self.ready.remove(0);
        }
        self.ready.push((places, Rc::clone(&groups)));
        Ok(groups)
    }

    fn group(&self, places: &[usize], halves: [usize; 2]) -> Result<Group, Error> {
        let batch = (self.size, self.pictures);
        let told = self.told;
        let (condition, count) = told.joined(self.pipeline, (places, halves[0]), batch);
        let rows = halves.map(|half| half * self.pictures);
        let controls = self.steering.prepare(&condition, rows)?;
        let unet = &self.pipeline.unet;
        let context = unet.prepare(condition, count);
        let context = looking_at(&self.pipeline.extras.shown, context, rows);
        Ok(Group {
            halves,
            context: unet.with_guidance(context, told.strength, count),
            controls,
        })
    }

    /// What the network finds in `input [n, c, h, w]` for each condition, the unwanted one first: `[k * n, c, h, w]`.
    pub(crate) fn outputs(&mut self, input: &Array, timestep: f64) -> Result<Array, Error> {
        let groups = self.groups()?;
        let call = self.calls;
        self.calls += 1;
        let pictures = shares(&self.pipeline.extras.shown, call, self.of);
        let (n, c, h, w) = input.dim();
        let mut outputs = Vec::new();
        for group in groups.iter() {
            let copies = group.halves[0] + group.halves[1];
            let mut values = Vec::with_capacity(copies * input.len());
            for _ in 0..copies {
                values.extend(input.iter().copied());
            }
            let sample = self.pipeline.compute.tensor(values, [copies * n, c, h, w]);
            let timesteps = vec![timestep as f32; copies * n];
            let rows = group.halves.map(|half| half * n);
            let steering = (&group.controls[..], call);
            let added = self
                .steering
                .residuals(steering, (&sample, &timesteps), rows);
            let unet = &self.pipeline.unet;
            let leading = Leading {
                residuals: added.as_ref(),
                pictures: &pictures,
            };
            let output = unet.forward_steered(sample, &timesteps, &group.context, leading);
            let (values, shape) = to_host(output);
            let output = Array::from_shape_vec(shape, values);
            outputs.push(output.map_err(|e| Error::Request(format!("the network's output: {e}")))?);
        }
        if outputs.len() == 1 {
            return Ok(outputs.remove(0));
        }
        let views: Vec<_> = outputs.iter().map(|output| output.view()).collect();
        Ok(concatenate(Axis(0), &views).expect("outputs of one size"))
    }

    /// Shares of the wanted prompts in the sum of what is found.
    pub(crate) fn shares(&self) -> &[f64] {
        &self.told.shares
    }

    pub(crate) fn guidance(&self) -> Option<f64> {
        self.told.guidance
    }
}

/// Part `k` of outputs for batches of `n` pictures.
pub(crate) fn part(outputs: &Array, k: usize, n: usize) -> Array {
    outputs.slice(s![k * n..(k + 1) * n, .., .., ..]).to_owned()
}
