//! What ControlNets add to the U-Net during a run.

use burn::tensor::Tensor;
use latent_formats::Filter;
use latent_models::{ControlNet, ControlNetContext, Residuals, UNetCondition};

use crate::Error;
use crate::adapters::Control;
use crate::pipeline::Pipeline;

/// The ControlNets of a batch, each with its picture.
pub(crate) struct Steering<'a> {
    networks: Vec<Steer<'a>>,
    /// Evaluations of the U-Net in this run.
    calls: usize,
}

struct Steer<'a> {
    network: &'a ControlNet,
    control: &'a Control,
    /// `[1, 3, h, w]`.
    picture: Tensor<4>,
}

impl<'a> Steering<'a> {
    /// For pictures of this width and height; `calls` counts the evaluations to come.
    pub(crate) fn new(
        pipeline: &'a Pipeline,
        [width, height]: [usize; 2],
        calls: usize,
    ) -> Result<Self, Error> {
        let mut networks = Vec::new();
        for (network, control) in &pipeline.extras.controls {
            let picture = control.picture.resize(width, height, Filter::Lanczos)?;
            // `[-1, 1]` to `[0, 1]`.
            let values = picture.to_f32_nchw();
            let values = values.into_iter().map(|value| (value + 1.0) / 2.0);
            let compute = &pipeline.compute;
            networks.push(Steer {
                network,
                control,
                picture: compute.tensor(values.collect(), [1, 3, height, width]),
            });
        }
        Ok(Self { networks, calls })
    }

    /// What each network knows beforehand of the conditions of so many unwanted rows and the wanted ones after them;
    /// `None` for one that leads without words and has nothing to say of the unwanted alone.
    pub(crate) fn prepare(
        &self,
        condition: &UNetCondition,
        [unwanted, wanted]: [usize; 2],
    ) -> Result<Vec<Option<ControlNetContext>>, Error> {
        let prepare = |steer: &Steer<'_>| {
            let half = steer.sees_half(unwanted);
            if half && wanted == 0 {
                return Ok(None);
            }
            let picture = steer.picture.clone();
            let context = match half {
                true => steer.network.prepare(picture, &condition.last(wanted)),
                false => steer.network.prepare(picture, condition),
            };
            let without_words = || {
                Error::Request(
                    "this model is told no words, and ControlNets look at words; leave `control` out".into(),
                )
            };
            context.map(Some).ok_or_else(without_words)
        };
        self.networks.iter().map(prepare).collect()
    }

    /// What the evaluation `call` of the U-Net is given for `sample [n, c, h, w]`; `None` for nothing.
    pub(crate) fn residuals(
        &self,
        (contexts, call): (&[Option<ControlNetContext>], usize),
        sample: (&Tensor<4>, &[f32]),
        rows: [usize; 2],
    ) -> Option<Residuals> {
        let active = self.networks.iter().zip(contexts).filter(|(steer, _)| {
            let window = [steer.control.start, steer.control.end];
            is_active(window, call, self.calls)
        });
        active
            .filter_map(|(steer, context)| Some(steer.residuals(context.as_ref()?, sample, rows)))
            .reduce(Residuals::plus)
    }
}

/// Whether the evaluation `call` of so many lies between two shares of them.
///
/// Source: diffusers' `StableDiffusionControlNetPipeline.__call__`, `controlnet_keep`.
pub(crate) fn is_active([start, end]: [f64; 2], call: usize, calls: usize) -> bool {
    let share = |call: usize| call as f64 / calls as f64;
    share(call) >= start && share(call + 1) <= end
}

impl Steer<'_> {
    /// Whether it sees the wanted half only, the other half being given nothing.
    fn sees_half(&self, unwanted: usize) -> bool {
        self.control.guess && unwanted > 0
    }

    fn residuals(
        &self,
        context: &ControlNetContext,
        (sample, timesteps): (&Tensor<4>, &[f32]),
        [unwanted, wanted]: [usize; 2],
    ) -> Residuals {
        let [n, c, h, w] = sample.dims();
        let half = self.sees_half(unwanted);
        let (sample, timesteps) = if half {
            let seen = sample.clone().slice([n - wanted..n, 0..c, 0..h, 0..w]);
            (seen, &timesteps[n - wanted..])
        } else {
            (sample.clone(), timesteps)
        };
        let residuals = self.network.forward(sample, timesteps, context);
        let count = residuals.count();
        let strength = self.control.strength;
        let residuals = if self.control.guess {
            // From a tenth for the finest to all for the coarsest, evenly in powers of ten.
            let step = |k: usize| -1.0 + k as f64 / (count - 1).max(1) as f64;
            let factors: Vec<f32> = (0..count)
                .map(|k| 10f64.powf(step(k)) as f32 * strength)
                .collect();
            residuals.scaled(&factors)
        } else {
            residuals.scaled(&vec![strength; count])
        };
        if half {
            residuals.after_nothing(unwanted)
        } else {
            residuals
        }
    }
}
