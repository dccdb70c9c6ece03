//! What a walk begins with: noise, or a picture's latents with noise; and what inpainting holds on to.

use std::borrow::Cow;

use burn::tensor::Tensor;
use latent_formats::Picture;
use latent_nn::to_host;
use latent_sampling::{
    Compat, GeneratorKind, Latents as Array, NoiseSource, PictureGenerator, Plan, Start, slerp,
};
use ndarray::{Axis, Zip, concatenate, s};

use crate::mask::extended;
use crate::modes::Canvas;
use crate::pipeline::{Pipeline, finite};
use crate::{Error, Variation};

/// A picture's latents as the encoder tells them: mean and, where there is one, standard deviation `[1, c, h, w]`.
pub(crate) struct Moments {
    mean: Tensor<4>,
    deviation: Option<Tensor<4>>,
}

impl Pipeline {
    /// The latents of a picture's `values [1, 3, height, width]`; both sides are multiples of the down-sampling.
    pub(crate) fn moments(
        &self,
        values: Vec<f32>,
        [height, width]: [usize; 2],
    ) -> Result<Moments, Error> {
        let values = self.compute.tensor(values, [1, 3, height, width]);
        let (mean, deviation) = match self.economy.bands {
            Some(bands) => self.autoencoder.latents_by_bands(values, bands)?,
            None => self.autoencoder.latents(values),
        };
        self.rest_autoencoder();
        Ok(Moments { mean, deviation })
    }

    /// The mean of a picture's latents or, with a generator, a draw; scaled, `[1, c, h, w]`.
    pub(crate) fn latents_of(
        &self,
        moments: &Moments,
        generator: Option<&mut PictureGenerator>,
    ) -> Result<Array, Error> {
        let mean = moments.mean.clone();
        let latents = match (generator, &moments.deviation) {
            (Some(generator), Some(deviation)) => {
                let shape = mean.dims();
                let noise = generator.randn(shape.iter().product());
                mean + deviation.clone() * self.compute.tensor(noise, shape)
            }
            _ => mean,
        };
        let (values, shape) = to_host(self.autoencoder.to_diffusion(latents));
        finite(&values, "the encoder")?;
        Array::from_shape_vec(shape, values)
            .map_err(|_| Error::Request("the encoder gave no latents".into()))
    }

    /// Whether its network is shown a mask and the masked picture beside the noisy latents.
    pub(crate) fn inpaints(&self) -> bool {
        self.unet.config().in_channels > self.autoencoder.latent_channels()
    }
}

/// Seeds of one picture.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seeds {
    pub(crate) seed: u64,
    /// Its place among the pictures that share the seed, and how many those are, for generators that have them share it.
    pub(crate) place: (usize, usize),
    pub(crate) variation: Option<Variation>,
}

impl Seeds {
    /// Which numbers of the seed are the picture's.
    pub(crate) fn source(&self, kind: GeneratorKind) -> NoiseSource {
        let (place, of) = self.place;
        NoiseSource { kind, place, of }
    }

    /// The picture's generator.
    pub(crate) fn start(&self, kind: GeneratorKind) -> PictureGenerator {
        self.source(kind).start(self.seed)
    }
}

/// What all pictures of a request begin with, before any noise.
pub(crate) struct Origin {
    /// The picture to start from.
    picture: Option<Moments>,
    /// Share of the steps that are done from it.
    strength: f64,
    /// What is painted, `[1, 1, h, w]`.
    mask: Option<Array>,
    /// The picture without what is painted, for networks that are shown it.
    masked: Option<Moments>,
    /// `[c, h, w]` of one picture's latents.
    shape: [usize; 3],
    /// The mask is so thin that latents lose most of it.
    pub(crate) thin: bool,
    /// Whether the encoder's latents are drawn, and not their mean.
    draws: bool,
}

impl Origin {
    /// The origin of pictures of `[c, h, w]` latents: of noise alone, or of a canvas.
    pub(crate) fn new(
        pipeline: &Pipeline,
        canvas: Option<&Canvas>,
        shape: [usize; 3],
        compat: Compat,
    ) -> Result<Self, Error> {
        let factor = pipeline.downsampling();
        let size = [shape[1] * factor, shape[2] * factor];
        let mask = canvas.and_then(|canvas| canvas.mask.as_ref());
        let values = canvas.map(|canvas| padded(&canvas.picture, factor));
        let values = values.transpose()?.map(|picture| picture.to_f32_nchw());
        let masked = pipeline.inpaints().then(|| {
            // Without a mask all is painted, and nothing of a picture is to be seen.
            let mut seen = vec![0.0; 3 * size[0] * size[1]];
            if let (Some(mask), Some(values)) = (mask, &values) {
                seen.clone_from(values);
                mask.blank(&mut seen, size[1]);
            }
            pipeline.moments(seen, size)
        });
        let picture = values.map(|values| pipeline.moments(values, size));
        let mask = mask.map(|mask| mask.latents(factor)).transpose()?;
        Ok(Self {
            picture: picture.transpose()?,
            strength: canvas.map_or(1.0, |canvas| canvas.strength),
            thin: mask.as_ref().is_some_and(|(_, thin)| *thin),
            mask: mask.map(|(mask, _)| mask),
            masked: masked.transpose()?,
            shape,
            // The first noise of other programs begins their seed's stream.
            draws: compat == Compat::Diffusers,
        })
    }

    /// The strength of the walk's start, or `None` if it is noise alone: as in diffusers inpainting of full strength
    /// forgets the picture, and image to image does not.
    pub(crate) fn strength(&self) -> Option<f64> {
        let repaints = self.mask.is_some() || self.masked.is_some();
        let forgets = self.picture.is_none() || repaints && self.strength == 1.0;
        (!forgets).then_some(self.strength)
    }

    /// Begins a batch. Each generator gives, in diffusers' order, the draw of the picture's latents, the noise, and the
    /// draw of the masked picture's.
    pub(crate) fn begin(
        &self,
        pipeline: &Pipeline,
        generators: &mut [PictureGenerator],
        seeds: &[Seeds],
        plan: &Plan,
    ) -> Result<(Start, Begun), Error> {
        let holds = self.mask.is_some() && self.masked.is_none();
        let clean = match &self.picture {
            Some(moments) if holds || self.strength().is_some() => {
                Some(self.drawn(pipeline, moments, generators)?)
            }
            _ => None,
        };
        let noise = self.noise(generators, seeds);
        let beside = match &self.masked {
            Some(masked) => Some(self.beside(&self.drawn(pipeline, masked, generators)?)?),
            None => None,
        };
        if let (true, Some(picture)) = (holds && self.draws, &self.picture)
            && picture.deviation.is_some()
        {
            // diffusers draws the masked picture's latents for every network, also for one that does not look at them.
            for generator in generators {
                generator.randn(self.shape.iter().product());
            }
        }
        let known = match (&self.mask, &clean) {
            (Some(mask), Some(clean)) if holds => Some(Known {
                clean: clean.clone(),
                noise: noise.clone(),
                mask: mask.clone(),
                plan: plan.clone(),
            }),
            _ => None,
        };
        let (start, noise) = started(clean, noise, self.strength());
        let begun = Begun {
            noise,
            beside,
            known,
        };
        Ok((start, begun))
    }

    /// Begins a batch from latents that are there already, with noise of `strength`.
    pub(crate) fn begin_from(
        &self,
        pipeline: &Pipeline,
        generators: &mut [PictureGenerator],
        seeds: &[Seeds],
        (clean, strength): (Array, f64),
    ) -> Result<(Start, Begun), Error> {
        let noise = self.noise(generators, seeds);
        let begun = self.go_on(pipeline, generators)?;
        let (start, noise) = started(Some(clean), noise, Some(strength));
        Ok((start, Begun { noise, ..begun }))
    }

    /// Goes on with a batch whose latents are there already, as noisy as they need to be.
    pub(crate) fn go_on(
        &self,
        pipeline: &Pipeline,
        generators: &mut [PictureGenerator],
    ) -> Result<Begun, Error> {
        let beside = match &self.masked {
            Some(masked) => Some(self.beside(&self.drawn(pipeline, masked, generators)?)?),
            None => None,
        };
        Ok(Begun {
            noise: None,
            beside,
            known: None,
        })
    }

    /// The generators, where the encoder's latents are drawn.
    pub(crate) fn draws_from<'g>(
        &self,
        generators: &'g mut [PictureGenerator],
    ) -> impl Iterator<Item = Option<&'g mut PictureGenerator>> {
        let draws = self.draws;
        generators
            .iter_mut()
            .map(move |one| Some(one).filter(|_| draws))
    }

    /// The latents of `moments` for each generator, `[n, c, h, w]`.
    fn drawn(
        &self,
        pipeline: &Pipeline,
        moments: &Moments,
        generators: &mut [PictureGenerator],
    ) -> Result<Array, Error> {
        let each: Result<Vec<Array>, Error> = self
            .draws_from(generators)
            .map(|generator| pipeline.latents_of(moments, generator))
            .collect();
        Ok(stacked(&each?))
    }

    /// Unit noise of each picture, on its way to its variation's.
    fn noise(&self, generators: &mut [PictureGenerator], seeds: &[Seeds]) -> Array {
        let [c, h, w] = self.shape;
        let each = generators.iter_mut().zip(seeds);
        let each: Vec<Array> = each
            .map(|(generator, seeds)| {
                let noise = generator.randn_latents([1, c, h, w]);
                match seeds.variation {
                    Some(Variation { seed, strength }) => {
                        let other = generator.of_seed(seed).randn_latents([1, c, h, w]);
                        slerp(&noise, &other, strength)
                    }
                    None => noise,
                }
            })
            .collect();
        stacked(&each)
    }

    /// What an inpainting network is shown beside the noisy latents: the mask, and the masked picture's latents.
    fn beside(&self, masked: &Array) -> Result<Array, Error> {
        let (n, _, h, w) = masked.dim();
        let mask = match &self.mask {
            Some(mask) => mask.broadcast((n, 1, h, w)).map(|mask| mask.to_owned()),
            None => Some(Array::ones((n, 1, h, w))),
        };
        let wrong = || Error::Request("the mask does not fit the picture's latents".into());
        let mask = mask.ok_or_else(wrong)?;
        concatenate(Axis(1), &[mask.view(), masked.view()]).map_err(|_| wrong())
    }
}

/// The start of a walk, and the noise it will ask for.
fn started(clean: Option<Array>, noise: Array, strength: Option<f64>) -> (Start, Option<Array>) {
    match (clean, strength) {
        (Some(clean), Some(strength)) => (Start::Picture { clean, strength }, Some(noise)),
        _ => (Start::Noise(noise), None),
    }
}

/// Pictures of one shape `[1, c, h, w]` as one batch.
pub(crate) fn stacked(each: &[Array]) -> Array {
    let views: Vec<_> = each.iter().map(|one| one.view()).collect();
    concatenate(Axis(0), &views).expect("pictures of one shape")
}

/// The picture with its edge repeated on the right and below, up to multiples of `factor`.
pub(crate) fn padded(picture: &Picture, factor: usize) -> Result<Picture, Error> {
    let more = |side: usize| side.next_multiple_of(factor) - side;
    let (right, bottom) = (more(picture.width()), more(picture.height()));
    extended(picture, [0, 0, right, bottom])
}

/// A batch that is about to be drawn.
pub(crate) struct Begun {
    /// The noise of a start from a picture, which the walk asks for first.
    noise: Option<Array>,
    /// Channels that the network sees beside the noisy latents.
    beside: Option<Array>,
    known: Option<Known>,
}

/// Latents that stay while the others are painted.
struct Known {
    clean: Array,
    noise: Array,
    mask: Array,
    plan: Plan,
}

impl Begun {
    /// The noise of the start, once.
    pub(crate) fn take_noise(&mut self) -> Option<Array> {
        self.noise.take()
    }

    /// All channels that the network sees, `[n, c, h, w]`.
    pub(crate) fn channels<'a>(&self, input: &'a Array) -> Cow<'a, Array> {
        match &self.beside {
            Some(beside) => {
                let views = [input.view(), beside.view()];
                Cow::Owned(concatenate(Axis(1), &views).expect("latents of one size"))
            }
            None => Cow::Borrowed(input),
        }
    }

    /// Puts back what stays after the call `index` of a walk, with as much noise as the next call expects.
    ///
    /// Source: Lugmayr et al. 2022 (arXiv:2201.09865), Eq. 8, without its repetitions.
    pub(crate) fn put_back(&self, index: usize, latents: &mut Array) {
        let Some(known) = &self.known else {
            return;
        };
        let call = known.plan.first + index + 1;
        let target = if call < known.plan.timesteps.len() {
            Cow::Owned(known.plan.noisy(call, &known.clean, &known.noise))
        } else {
            Cow::Borrowed(&known.clean)
        };
        let mask = known.mask.slice(s![0, 0, .., ..]);
        for (mut planes, targets) in latents.outer_iter_mut().zip(target.outer_iter()) {
            for (mut plane, target) in planes.outer_iter_mut().zip(targets.outer_iter()) {
                Zip::from(&mut plane)
                    .and(&target)
                    .and(&mask)
                    .for_each(|value, target, mask| {
                        *value = (1.0 - mask) * target + mask * *value;
                    });
            }
        }
    }
}
