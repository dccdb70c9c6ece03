//! The walk from noise to latents: what it asks of the world, and its one entry.

use std::ops::Range;

use crate::config::Settings;
use crate::level::mix;
use crate::{
    BrownianPath, Class, Latents, NoiseSource, Plan, RunOptions, SamplingError, SchedulerConfig,
    sampler_of,
};

/// The denoiser was told to stop, or failed; it keeps its own reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped;

impl From<Stopped> for SamplingError {
    fn from(_: Stopped) -> Self {
        Self::Stopped
    }
}

/// All a sampler may ask of the world. The pipeline puts guidance and a model behind it; tests put a formula there.
pub trait Denoiser {
    /// The network's raw output for `input [n, c, h, w]`, which is already scaled for it, at a timestep of the plan.
    ///
    /// Guidance belongs in here, on the raw output.
    ///
    /// # Errors
    /// [`Stopped`] ends the run.
    fn predict(&mut self, input: &Latents, timestep: f64) -> Result<Latents, Stopped>;

    /// The output whose noise is put back after the last call, where guidance has another one than
    /// [`predict`](Self::predict) returned. Samplers ask where [`RunOptions::unguided_noise`] is set.
    ///
    /// Source: Chung et al. 2024 (arXiv:2406.08070), Algorithm 2.
    fn unguided(&mut self) -> Option<Latents> {
        None
    }

    /// The next unit noise of a shape, from the request's generators: one draw of `[1, c, h, w]` per picture.
    fn noise(&mut self, shape: [usize; 4]) -> Latents;

    /// The seed of each picture, for samplers whose noise follows a [`BrownianPath`]; none where the noise of every step
    /// is to be drawn by itself.
    fn seeds(&self) -> Vec<u64> {
        Vec::new()
    }

    /// Where the normals of the path of picture `index` come from.
    fn source(&self, index: usize) -> NoiseSource {
        let _ = index;
        NoiseSource::default()
    }

    /// May change the latents after every call to the network, before [`report`](Self::report) sees them; inpainting
    /// puts back what is not to be painted. `index` counts the calls from 0.
    ///
    /// # Errors
    /// [`Stopped`] ends the run.
    fn revise(&mut self, index: usize, latents: &mut Latents) -> Result<(), Stopped> {
        let _ = (index, latents);
        Ok(())
    }

    /// Sees the run after every call to the network.
    ///
    /// # Errors
    /// [`Stopped`] ends the run.
    fn report(&mut self, step: StepReport<'_>) -> Result<(), Stopped> {
        let _ = step;
        Ok(())
    }
}

/// Where a run stands after one call to the network.
#[derive(Clone, Copy, Debug)]
pub struct StepReport<'a> {
    /// Index of the call, from 0.
    pub index: usize,
    /// Calls of the whole run.
    pub total: usize,
    /// The timestep of the call.
    pub timestep: f64,
    /// The latents after it.
    pub latents: &'a Latents,
    /// The network's present estimate of the clean latents.
    pub denoised: &'a Latents,
}

/// What a run begins with.
#[derive(Clone, Debug)]
pub enum Start {
    /// Unit noise `[n, c, h, w]`; the run scales it.
    Noise(Latents),
    /// Image-to-image: latents of a picture, which get noise from the denoiser. A `strength` of 1 leaves
    /// almost nothing of the picture.
    Picture {
        /// Scaled latents `[n, c, h, w]`.
        clean: Latents,
        /// Share of the steps that are done, above 0 to 1.
        strength: f64,
    },
    /// Latents `[n, c, h, w]` as noisy as another run left them; [`RunOptions::denoising_start`] says where that was.
    Latents(Latents),
}

/// Runs a sampler: the class of `config` says which, `options` how.
///
/// Each picture of a batch comes out as it would alone, bit for bit, if the denoiser keeps pictures apart.
///
/// # Errors
/// Before the first call if the plan cannot be made (see [`Plan::new`]) or an option is not the sampler's; later if
/// the denoiser stops or returns latents of another shape.
pub fn sample(
    config: &SchedulerConfig,
    options: &RunOptions,
    start: Start,
    denoiser: &mut dyn Denoiser,
) -> Result<Latents, SamplingError> {
    let settings = config.settings();
    let sampler = sampler_of(config);
    let (plan, latents) = match start {
        Start::Noise(noise) => {
            let plan = Plan::new(config, options)?;
            let latents = mix(&[(plan.init_noise_sigma, &noise)]);
            (plan, latents)
        }
        Start::Picture { clean, strength } => {
            let plan = Plan::for_picture(config, options, strength)?;
            let noise = denoiser.noise(shape_of(&clean));
            same_shape("noise source", &noise, &clean)?;
            let latents = plan.noisy(plan.first, &clean, &noise);
            (plan, latents)
        }
        Start::Latents(latents) => (Plan::new(config, options)?, latents),
    };
    let end = plan.end(config, options)?;
    let eta = options.eta.or(sampler.eta).unwrap_or(0.0);
    let class = config.class();
    let mut walk = Walk {
        class,
        settings: &settings,
        plan: &plan,
        end,
        options,
        eta,
        paths: paths(&settings, &plan, &latents, denoiser),
        world: denoiser,
    };
    (sampler.run)(&mut walk, latents)
}

/// A Brownian path a picture, over the noise levels of the run.
fn paths(
    settings: &Settings,
    plan: &Plan,
    latents: &Latents,
    denoiser: &dyn Denoiser,
) -> Vec<BrownianPath> {
    let seeds = denoiser.seeds();
    let (n, c, h, w) = latents.dim();
    let levels = || plan.sigmas.iter().copied().filter(|sigma| *sigma > 0.0);
    let (least, most) = (
        levels().fold(f64::INFINITY, f64::min),
        levels().fold(0.0, f64::max),
    );
    if seeds.len() != n || least >= most {
        return Vec::new();
    }
    seeds
        .into_iter()
        .map(|seed| settings.noise_sampler_seed.unwrap_or(seed))
        .enumerate()
        .map(|(index, seed)| {
            let source = denoiser.source(index);
            BrownianPath::of_source(source, seed, [least, most], c * h * w)
        })
        .collect()
}

/// Everything a sampler's function sees.
pub(crate) struct Walk<'a> {
    pub(crate) class: Class,
    pub(crate) settings: &'a Settings,
    pub(crate) plan: &'a Plan,
    /// Index after the last call.
    end: usize,
    pub(crate) options: &'a RunOptions,
    pub(crate) eta: f64,
    paths: Vec<BrownianPath>,
    world: &'a mut dyn Denoiser,
}

impl Walk<'_> {
    /// The calls to make, as indices into the plan.
    pub(crate) fn calls(&self) -> Range<usize> {
        self.plan.first..self.end
    }

    /// Levels before and after a call.
    pub(crate) fn sigmas(&self, call: usize) -> (f64, f64) {
        (self.plan.sigmas[call], self.plan.sigmas[call + 1])
    }

    /// The network's output at a call.
    pub(crate) fn predict(
        &mut self,
        input: &Latents,
        call: usize,
    ) -> Result<Latents, SamplingError> {
        self.predict_at(input, self.plan.timesteps[call])
    }

    /// The network's output at a timestep that the plan may not have.
    pub(crate) fn predict_at(
        &mut self,
        input: &Latents,
        timestep: f64,
    ) -> Result<Latents, SamplingError> {
        let output = self.world.predict(input, timestep)?;
        same_shape("network", &output, input)?;
        Ok(output)
    }

    /// The output of the last call whose noise is put back, where it is another than was returned.
    pub(crate) fn unguided(&mut self, like: &Latents) -> Result<Option<Latents>, SamplingError> {
        if !self.options.unguided_noise {
            return Ok(None);
        }
        let output = self.world.unguided();
        if let Some(output) = &output {
            same_shape("network", output, like)?;
        }
        Ok(output)
    }

    /// Fresh unit noise.
    pub(crate) fn noise(&mut self, like: &Latents) -> Result<Latents, SamplingError> {
        let noise = self.world.noise(shape_of(like));
        same_shape("noise source", &noise, like)?;
        Ok(noise)
    }

    /// Unit noise for the way from one level to another: of the pictures' Brownian paths, or fresh where there are none.
    pub(crate) fn increment(
        &mut self,
        like: &Latents,
        from: f64,
        to: f64,
    ) -> Result<Latents, SamplingError> {
        if self.paths.is_empty() {
            return self.noise(like);
        }
        // Levels are f32 where the paths were defined.
        let level = |sigma: f64| f64::from(sigma as f32);
        let values = self
            .paths
            .iter()
            .flat_map(|path| path.normals_between(level(from), level(to)))
            .collect();
        let noise = Latents::from_shape_vec(like.raw_dim(), values);
        noise.map_err(|_| SamplingError::Shape {
            source_name: "noise source",
            found: vec![self.paths.len()],
            needed: shape_of(like).to_vec(),
        })
    }

    /// Lets the world change the latents after a call, and tells it where the run stands.
    pub(crate) fn report(
        &mut self,
        call: usize,
        latents: &mut Latents,
        denoised: &Latents,
    ) -> Result<(), SamplingError> {
        let (index, total) = (call - self.plan.first, self.end - self.plan.first);
        let timestep = self.plan.timesteps[call];
        let shape = shape_of(latents);
        self.world.revise(index, latents)?;
        if shape != shape_of(latents) {
            let found = shape_of(latents).to_vec();
            return Err(SamplingError::Shape {
                source_name: "revision",
                found,
                needed: shape.to_vec(),
            });
        }
        Ok(self.world.report(StepReport {
            index,
            total,
            timestep,
            latents,
            denoised,
        })?)
    }
}

fn shape_of(latents: &Latents) -> [usize; 4] {
    let (n, c, h, w) = latents.dim();
    [n, c, h, w]
}

fn same_shape(
    source_name: &'static str,
    found: &Latents,
    needed: &Latents,
) -> Result<(), SamplingError> {
    if found.shape() == needed.shape() {
        return Ok(());
    }
    Err(SamplingError::Shape {
        source_name,
        found: found.shape().to_vec(),
        needed: needed.shape().to_vec(),
    })
}
