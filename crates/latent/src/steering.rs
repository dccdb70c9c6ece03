//! What ControlNets add to the U-Net during a run.

use burn::tensor::Tensor;
use latent_formats::Filter;
use latent_models::{ControlNet, ControlNetContext, Residuals};

use crate::Error;
use crate::adapters::Control;
use crate::pipeline::Pipeline;

/// The ControlNets of a batch, each with its picture and the words.
pub(crate) struct Steering<'a> {
    networks: Vec<Steer<'a>>,
    /// Pictures of the batch.
    pictures: usize,
    /// Evaluations of the U-Net in this run, and those done.
    calls: usize,
    done: usize,
}

struct Steer<'a> {
    network: &'a ControlNet,
    control: &'a Control,
    context: ControlNetContext,
    /// It sees the wanted half only; the other half is given nothing.
    half: bool,
}

impl<'a> Steering<'a> {
    /// `text` holds the states of both halves of guidance, the unwanted first, or of the wanted alone; `calls` counts
    /// the evaluations to come.
    pub(crate) fn new(
        pipeline: &'a Pipeline,
        text: Option<&Tensor<3>>,
        [width, height]: [usize; 2],
        (pictures, calls): (usize, usize),
    ) -> Result<Self, Error> {
        let mut networks = Vec::new();
        for (network, control) in &pipeline.extras.controls {
            let Some(text) = text else {
                return Err(Error::Request(
                    "this model is told no words, and ControlNets look at words; leave `control` out".into(),
                ));
            };
            let picture = control.picture.resize(width, height, Filter::Lanczos)?;
            // `[-1, 1]` to `[0, 1]`.
            let values = picture.to_f32_nchw();
            let values = values.into_iter().map(|value| (value + 1.0) / 2.0);
            let picture = pipeline
                .compute
                .tensor(values.collect(), [1, 3, height, width]);
            let [n, length, channels] = text.dims();
            let half = control.guess && n > pictures;
            let text = if half {
                text.clone()
                    .slice([n - pictures..n, 0..length, 0..channels])
            } else {
                text.clone()
            };
            networks.push(Steer {
                network,
                control,
                context: network.prepare(picture, &text),
                half,
            });
        }
        Ok(Self {
            networks,
            pictures,
            calls,
            done: 0,
        })
    }

    /// What the next evaluation of the U-Net is given for `sample [n, c, h, w]`; `None` for nothing.
    pub(crate) fn next(&mut self, sample: &Tensor<4>, timesteps: &[f32]) -> Option<Residuals> {
        let call = self.done;
        self.done += 1;
        let active = self.networks.iter().filter(|steer| {
            // Source: diffusers' `StableDiffusionControlNetPipeline.__call__`, `controlnet_keep`.
            let (before, after) = (
                call as f64 / self.calls as f64,
                (call + 1) as f64 / self.calls as f64,
            );
            before >= steer.control.start && after <= steer.control.end
        });
        active
            .map(|steer| steer.residuals(sample, timesteps, self.pictures))
            .reduce(Residuals::plus)
    }
}

impl Steer<'_> {
    fn residuals(&self, sample: &Tensor<4>, timesteps: &[f32], pictures: usize) -> Residuals {
        let [n, c, h, w] = sample.dims();
        let (sample, timesteps) = if self.half {
            let wanted = sample.clone().slice([n - pictures..n, 0..c, 0..h, 0..w]);
            (wanted, &timesteps[n - pictures..])
        } else {
            (sample.clone(), timesteps)
        };
        let residuals = self.network.forward(sample, timesteps, &self.context);
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
        if self.half {
            residuals.after_nothing(n - pictures)
        } else {
            residuals
        }
    }
}
