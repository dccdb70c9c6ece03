//! The network with all it is told, which may change from call to call.

use std::rc::Rc;

use latent_models::{Context, ControlNetContext, DeepFeatures, Leading, TokenMerging};
use latent_nn::to_host;
use latent_sampling::Latents as Array;
use ndarray::{Axis, concatenate, s};

use crate::guiding::Guiding;
use crate::image_prompts::{looking_at, shares};
use crate::pipeline::Pipeline;
use crate::steering::Steering;
use crate::told::{Course, Told};
use crate::{Error, FeatureCache};

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
    /// Layers whose self-attention is perturbed where that is asked for.
    perturbs: Vec<bool>,
    cache: Option<Cache>,
    /// Share of positions that self-attention takes together.
    merging: Option<f64>,
    of: usize,
    ready: Vec<(Places, Rc<Vec<Group>>)>,
}

/// Places of the conditions at a call, and whether those that are wanted are asked again with perturbed attention.
type Places = (Option<usize>, Vec<usize>, bool);

/// What a call asks the network beside what is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    /// What is unwanted.
    pub(crate) unwanted: bool,
    /// What is wanted, with perturbed attention.
    pub(crate) perturbed: bool,
}

/// What the network finds at a call, `[n, c, h, w]` each.
pub(crate) struct Found {
    /// For what is unwanted, where that was asked for.
    pub(crate) unwanted: Option<Array>,
    /// For each of what is wanted.
    pub(crate) wanted: Vec<Array>,
    /// The same with perturbed attention, or nothing.
    pub(crate) perturbed: Vec<Array>,
}

/// Conditions whose texts are as long as each other, so that the network sees them at once.
struct Group {
    /// How many of what is unwanted and of what is wanted it holds, those with perturbed attention among the latter.
    halves: [usize; 2],
    context: Context,
    controls: Vec<Option<ControlNetContext>>,
}

/// What deep layers found, for calls that ask the same.
struct Cache {
    every: usize,
    branch: usize,
    /// Calls since the whole network was run, and for which groups.
    since: usize,
    of: Option<Rc<Vec<Group>>>,
    deep: Vec<DeepFeatures>,
}

impl Cache {
    fn new(cache: &FeatureCache) -> Self {
        Self {
            every: cache.interval,
            branch: cache.branch,
            since: 0,
            of: None,
            deep: Vec::new(),
        }
    }

    /// Counts a call, and says whether it is one that runs the whole network.
    fn begins(&mut self, groups: &Rc<Vec<Group>>) -> bool {
        self.since += 1;
        let same = self.of.as_ref().is_some_and(|of| Rc::ptr_eq(of, groups));
        if same && self.since < self.every {
            return false;
        }
        (self.since, self.of) = (0, Some(Rc::clone(groups)));
        self.deep.clear();
        true
    }
}

impl<'a> Briefing<'a> {
    /// Of the pass `pass`, whose pictures have this width and height, for a batch and the calls to come.
    pub(crate) fn new(
        (pipeline, guiding): (&'a Pipeline, &Guiding),
        told: &'a Told,
        (pass, size): (usize, [usize; 2]),
        [pictures, calls]: [usize; 2],
    ) -> Result<Self, Error> {
        // As large as the latents are.
        let padded = size.map(|side| side.next_multiple_of(pipeline.downsampling()));
        let perturbs = match &guiding.pag {
            Some(pag) => pipeline.unet.select_self_attentions(&pag.layers)?,
            None => Vec::new(),
        };
        Ok(Self {
            pipeline,
            told,
            course: told.course(pass),
            steering: Steering::new(pipeline, padded, calls)?,
            size,
            pictures,
            calls: 0,
            perturbs,
            cache: guiding.cache.as_ref().map(Cache::new),
            merging: guiding.token_merging,
            of: calls,
            ready: Vec::new(),
        })
    }

    /// What the network is told at this call.
    fn groups(&mut self, wish: Wish) -> Result<Rc<Vec<Group>>, Error> {
        let (unwanted, wanted) = self.course.at(self.calls);
        let places = (unwanted.filter(|_| wish.unwanted), wanted, wish.perturbed);
        if let Some((_, groups)) = self.ready.iter().find(|(known, _)| *known == places) {
            return Ok(Rc::clone(groups));
        }
        let (unwanted, wanted, perturbed) = &places;
        let again = if *perturbed { wanted.len() } else { 0 };
        let same_length = |place: &usize| {
            let longest = wanted.first().map(|first| self.told.length(*first));
            longest == Some(self.told.length(*place))
        };
        let mut groups = Vec::new();
        match unwanted {
            // Without padding each text is looked at as it is.
            Some(place) if !same_length(place) => {
                groups.push(self.group(&[*place], [1, 0], 0)?);
                let all = [&wanted[..], &wanted[..again]].concat();
                groups.push(self.group(&all, [0, all.len()], again)?);
            }
            _ => {
                let all = unwanted.iter().chain(wanted).chain(&wanted[..again]);
                let all: Vec<usize> = all.copied().collect();
                let first = usize::from(unwanted.is_some());
                groups.push(self.group(&all, [first, all.len() - first], again)?);
            }
        }
        let groups = Rc::new(groups);
        if self.ready.len() == KEPT {
            self.ready.remove(0);
        }
        self.ready.push((places, Rc::clone(&groups)));
        Ok(groups)
    }

    /// The conditions at these places, the last `again` of them with perturbed attention.
    fn group(&self, places: &[usize], halves: [usize; 2], again: usize) -> Result<Group, Error> {
        let batch = (self.size, self.pictures);
        let told = self.told;
        let (condition, count) = told.joined(self.pipeline, (places, halves[0]), batch);
        let rows = halves.map(|half| half * self.pictures);
        let controls = self.steering.prepare(&condition, rows)?;
        let unet = &self.pipeline.unet;
        let context = unet.prepare(condition, count);
        let context = unet.with_guidance(context, told.strength, count);
        let context = looking_at(&self.pipeline.extras.shown, context, rows);
        Ok(Group {
            halves,
            context: unet.perturbed(context, &self.perturbs, again * self.pictures),
            controls,
        })
    }

    /// What the network finds in `input [n, c, h, w]`.
    pub(crate) fn find(
        &mut self,
        input: &Array,
        timestep: f64,
        wish: Wish,
    ) -> Result<Found, Error> {
        let outputs = self.outputs(input, timestep, wish)?;
        let n = input.dim().0;
        let mut parts: Vec<Array> = (0..outputs.dim().0 / n)
            .map(|k| part(&outputs, k, n))
            .collect();
        let again = if wish.perturbed {
            self.told.shares.len()
        } else {
            0
        };
        let perturbed = parts.split_off(parts.len() - again);
        let wanted = parts.split_off(parts.len() - self.told.shares.len());
        Ok(Found {
            unwanted: parts.pop(),
            wanted,
            perturbed,
        })
    }

    /// The network's output for each condition, the unwanted one first: `[k * n, c, h, w]`.
    fn outputs(&mut self, input: &Array, timestep: f64, wish: Wish) -> Result<Array, Error> {
        let groups = self.groups(wish)?;
        let call = self.calls;
        self.calls += 1;
        let whole = self
            .cache
            .as_mut()
            .is_none_or(|cache| cache.begins(&groups));
        let pictures = shares(&self.pipeline.extras.shown, call, self.of);
        let (n, c, h, w) = input.dim();
        let mut outputs = Vec::new();
        for (index, group) in groups.iter().enumerate() {
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
            let leading = Leading {
                residuals: added.as_ref(),
                pictures: &pictures,
                merging: self.merging.map(|share| TokenMerging {
                    share,
                    turn: Some(call as u64),
                }),
            };
            let (unet, context) = (&self.pipeline.unet, &group.context);
            let output = match &mut self.cache {
                None => unet.forward_steered(sample, &timesteps, context, leading),
                Some(cache) if whole => {
                    let sample = (sample, &timesteps[..]);
                    let (output, deep) =
                        unet.forward_keeping(sample, context, leading, cache.branch);
                    cache.deep.push(deep);
                    output
                }
                Some(cache) => {
                    let deep = &cache.deep[index];
                    unet.forward_shallow((sample, &timesteps), context, leading, deep)
                }
            };
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
fn part(outputs: &Array, k: usize, n: usize) -> Array {
    outputs.slice(s![k * n..(k + 1) * n, .., .., ..]).to_owned()
}
