//! A set of pictures in their shapes, each encoded once by the model's autoencoder.

use std::ops::Range;

use burn::tensor::Tensor;
use latent::Pipeline;
use latent_data::DataSet;
use latent_formats::{Filter, Picture};
use latent_nn::to_host;
use sha2::{Digest, Sha256};

use super::buckets::{Fit, Order, shapes};
use super::hex;
use crate::cache::{Plan, RowCache};
use crate::config::LoraConfig;
use crate::error::{Result, TrainError};
use crate::events::{Event, Options};
use crate::random::Draws;

/// Pixels encoded in one pass: few enough for any memory.
const PIXELS: usize = 1 << 21;
/// Rows of a file of the cache.
const PER_FILE: usize = 64;

/// Pictures with their latents.
pub(super) struct Source {
    data: DataSet,
    fits: Vec<Fit>,
    shapes: Vec<[usize; 2]>,
    order: Order,
    /// Of each shape that has pictures, its latents' rows.
    latents: Vec<Option<RowCache>>,
    /// Row of each example among those of its shape.
    rows: Vec<usize>,
    /// Rows of an example: as it is, and flipped if it may be.
    copies: usize,
    /// Channels of latents, and pixels per latent.
    channels: usize,
    factor: usize,
}

/// A picture's latents as training draws them.
pub(super) struct Drawn {
    /// `[c, h, w]`.
    pub(super) latents: Vec<f32>,
    /// What Stable Diffusion XL is told of its sizes.
    pub(super) numbers: [f32; 6],
}

impl Source {
    /// Sorts the pictures into shapes and encodes what is not on disk yet; `None` if it was stopped.
    pub(super) fn build(
        data: DataSet,
        config: &LoraConfig,
        (pipeline, autoencoder_sum): (&Pipeline, &str),
        options: &Options,
        progress: &mut dyn FnMut(&Event),
    ) -> Result<Option<Self>> {
        let shapes = shapes(&config.buckets, config.data.size);
        let fits: Vec<Fit> = (0..data.len())
            .map(|example| Ok(Fit::new(data.measure(example)?, &shapes)))
            .collect::<Result<_>>()?;
        let weights = data.weights();
        let examples: Vec<(usize, f64)> = fits.iter().map(|fit| fit.shape).zip(weights).collect();
        let mut source = Self {
            order: Order::new(&examples, config.run.batch, config.run.seed)?,
            rows: rows(&fits, shapes.len()),
            latents: Vec::new(),
            copies: if config.flip > 0.0 { 2 } else { 1 },
            channels: pipeline.autoencoder().latent_channels(),
            factor: pipeline.downsampling(),
            data,
            fits,
            shapes,
        };
        let key = source.key(config, pipeline, autoencoder_sum);
        let folder = config.cache_folder().join(format!("latents-{key}"));
        let total = source.data.len() * source.copies;
        let mut before = 0;
        for shape in 0..source.shapes.len() {
            let members = source.members(shape);
            let plan = Plan {
                folder: folder.join(name_of(source.shapes[shape])),
                rows: members.len() * source.copies,
                length: 2 * source.numbers(shape),
                per_file: PER_FILE,
            };
            if members.is_empty() {
                source.latents.push(None);
                continue;
            }
            let make = |range| source.encode(pipeline, &members, range, options);
            let rows = RowCache::build(plan, make, |done| {
                progress(&Event::Preparing {
                    what: "latents",
                    done: before + done,
                    total,
                });
            })?;
            let Some(rows) = rows else { return Ok(None) };
            before += members.len() * source.copies;
            source.latents.push(Some(rows));
        }
        Ok(Some(source))
    }

    pub(super) fn data(&self) -> &DataSet {
        &self.data
    }

    /// Examples of batch `number`, all of one shape.
    pub(super) fn batch(&self, number: u64) -> Vec<usize> {
        self.order.batch(number)
    }

    /// Shapes `[width, height]` that have pictures, with how many.
    pub(super) fn counts(&self) -> Vec<([usize; 2], usize)> {
        let counts = (0..self.shapes.len()).map(|shape| self.members(shape).len());
        let all = self.shapes.iter().copied().zip(counts);
        all.filter(|(_, count)| *count > 0).collect()
    }

    /// `[c, h, w]` of an example's latents.
    pub(super) fn shape(&self, example: usize) -> [usize; 3] {
        let [width, height] = self.shapes[self.fits[example].shape];
        [self.channels, height / self.factor, width / self.factor]
    }

    /// Latents of an example, drawn from its posterior, flipped or not.
    pub(super) fn draw(
        &self,
        example: usize,
        flip: f64,
        [changes, posterior]: [&mut Draws; 2],
    ) -> Result<Drawn> {
        let flipped = changes.chance(flip) && self.data.examples()[example].flip;
        let fit = &self.fits[example];
        let Some(rows) = &self.latents[fit.shape] else {
            unreachable!("a shape with an example has latents")
        };
        let row = rows.row(self.rows[example] * self.copies + usize::from(flipped))?;
        let (mean, deviation) = row.split_at(row.len() / 2);
        let noise = posterior.normal(mean.len());
        let drawn = mean.iter().zip(deviation).zip(noise);
        Ok(Drawn {
            latents: drawn.map(|((m, d), n)| m + d * n).collect(),
            numbers: fit.numbers(self.shapes[fit.shape], flipped),
        })
    }

    /// Examples of a shape.
    fn members(&self, shape: usize) -> Vec<usize> {
        let all = 0..self.fits.len();
        all.filter(|&example| self.fits[example].shape == shape)
            .collect()
    }

    /// Numbers of one picture's latents.
    fn numbers(&self, shape: usize) -> usize {
        let [width, height] = self.shapes[shape];
        self.channels * (width / self.factor) * (height / self.factor)
    }

    /// Scaled mean and deviation of rows; `None` if it was stopped.
    fn encode(
        &self,
        pipeline: &Pipeline,
        members: &[usize],
        rows: Range<usize>,
        options: &Options,
    ) -> Result<Option<Vec<f32>>> {
        let [width, height] = self.shapes[self.fits[members[0]].shape];
        let rows: Vec<usize> = rows.collect();
        let mut values = Vec::new();
        for part in rows.chunks((PIXELS / (width * height)).max(1)) {
            if options.stopped() {
                return Ok(None);
            }
            let mut pixels = Vec::with_capacity(part.len() * 3 * width * height);
            for row in part {
                let picture = self.picture(members[row / self.copies])?;
                let flipped = row % self.copies == 1;
                let picture = if flipped {
                    picture.flip_horizontal()
                } else {
                    picture
                };
                pixels.extend(picture.to_f32_nchw());
            }
            let shape = [part.len(), 3, height, width];
            moments(
                pipeline,
                pipeline.compute().tensor(pixels, shape),
                &mut values,
            );
        }
        Ok(Some(values))
    }

    /// An example in its shape.
    fn picture(&self, example: usize) -> Result<Picture> {
        let fit = &self.fits[example];
        let ([width, height], [left, top]) = (self.shapes[fit.shape], fit.corner);
        let smaller = fit.scaled[0] < fit.original[0];
        let filter = if smaller {
            Filter::Area
        } else {
            Filter::Lanczos
        };
        let picture = self.data.load(example)?;
        let picture = picture.resize(fit.scaled[0], fit.scaled[1], filter)?;
        Ok(picture.crop(left, top, width, height)?)
    }

    /// Checksum of everything the latents depend on.
    fn key(&self, config: &LoraConfig, pipeline: &Pipeline, autoencoder_sum: &str) -> String {
        let mut hash = Sha256::new();
        let settings = format!(
            "{:?} {} {} {:?}",
            config.buckets,
            config.data.size,
            self.copies,
            pipeline.compute().precision
        );
        for part in [autoencoder_sum, &self.data.fingerprint(), &settings] {
            hash.update(part);
            hash.update([0]);
        }
        hex(hash)
    }
}

/// An error if shapes cannot be divided by what the autoencoder makes of a latent.
pub(super) fn check_sizes(config: &LoraConfig, pipeline: &Pipeline) -> Result<()> {
    let (step, factor) = (config.buckets.step, pipeline.downsampling());
    if step.is_multiple_of(factor) {
        return Ok(());
    }
    Err(TrainError::Other(format!(
        "`buckets.step` is {step}; this model's autoencoder makes one latent of {factor} pixels, so it must be a multiple of \
         {factor}"
    )))
}

/// Row of each example among those of its shape.
fn rows(fits: &[Fit], shapes: usize) -> Vec<usize> {
    let mut next = vec![0; shapes];
    let row = |fit: &Fit| {
        next[fit.shape] += 1;
        next[fit.shape] - 1
    };
    fits.iter().map(row).collect()
}

fn name_of([width, height]: [usize; 2]) -> String {
    format!("{width}x{height}")
}

/// Appends mean and deviation of each picture's latents, as diffusion works on them.
fn moments(pipeline: &Pipeline, pictures: Tensor<4>, values: &mut Vec<f32>) {
    let autoencoder = pipeline.autoencoder();
    let (mean, deviation) = autoencoder.latents(pictures);
    let scaled = autoencoder.to_diffusion(mean.clone());
    // Scaling is a shift and a factor, of which a deviation takes the factor.
    let deviation = deviation
        .map(|deviation| autoencoder.to_diffusion(mean.clone() + deviation) - scaled.clone());
    let (mean, [count, c, h, w]) = to_host(scaled);
    let deviation =
        deviation.map_or_else(|| vec![0.0; mean.len()], |deviation| to_host(deviation).0);
    debug_assert_eq!(mean.len(), count * c * h * w);
    let numbers = c * h * w;
    for (mean, deviation) in mean
        .chunks_exact(numbers)
        .zip(deviation.chunks_exact(numbers))
    {
        values.extend(mean.iter().chain(deviation));
    }
}
