//! The training pictures' latents, encoded once by the frozen autoencoder.

use sha2::{Digest, Sha256};

use burn::tensor::Tensor;
use latent_nn::to_host;

use super::frozen::Frozen;
use crate::cache::{Plan, RowCache};
use crate::config::DiffusionConfig;
use crate::error::{Result, TrainError};
use crate::events::{Event, Options};
use crate::pictures::{Change, Pictures};
use crate::random::{Draws, Stream};

/// Pictures encoded in one pass: few enough for any memory, and on a GPU enough to keep it busy.
const BATCH: usize = 32;
const GPU_BATCH: usize = 128;
/// Rows of a file of the cache.
const PER_FILE: usize = 256;

/// Means and standard deviations of all pictures' latents, scaled for diffusion.
pub(crate) struct LatentCache {
    rows: RowCache,
    copies: usize,
    shape: [usize; 3],
}

impl LatentCache {
    /// Encodes what is not on disk yet; `None` if it was stopped.
    pub(crate) fn build(
        config: &DiffusionConfig,
        pictures: &Pictures,
        frozen: &Frozen,
        options: &Options,
        progress: &mut dyn FnMut(&Event),
    ) -> Result<Option<Self>> {
        let copies = 1 + config.augmented_copies;
        let numbers: usize = frozen.latent_shape.iter().product();
        let total = pictures.data().len() * copies;
        let plan = Plan {
            folder: config
                .cache_folder()
                .join(format!("latents-{}", key(config, pictures, frozen)?)),
            rows: total,
            length: 2 * numbers,
            per_file: PER_FILE,
        };
        let batch = if frozen.compute.is_cpu() {
            BATCH
        } else {
            GPU_BATCH
        };
        let make = |range: std::ops::Range<usize>| {
            let rows: Vec<usize> = range.collect();
            let mut values = Vec::with_capacity(rows.len() * 2 * numbers);
            for part in rows.chunks(batch) {
                if options.stopped() {
                    return Ok(None);
                }
                let chosen: Vec<_> = part
                    .iter()
                    .map(|&row| change_of(config, pictures, row, copies))
                    .collect();
                encode(
                    frozen,
                    &pictures.tensor(&chosen)?,
                    pictures.size(),
                    &mut values,
                );
            }
            Ok(Some(values))
        };
        let rows = RowCache::build(plan, make, |done| {
            progress(&Event::Preparing {
                what: "latents",
                done,
                total,
            });
        })?;
        Ok(rows.map(|rows| Self {
            rows,
            copies,
            shape: frozen.latent_shape,
        }))
    }

    /// `[c, h, w]` of a picture's latents.
    pub(crate) fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// Latents of an example, drawn from its posterior: one of its copies, and noise.
    pub(crate) fn draw(&self, example: usize, draws: &mut Draws) -> Result<Vec<f32>> {
        let copy = draws.below(self.copies);
        let row = self.rows.row(example * self.copies + copy)?;
        let (mean, deviation) = row.split_at(row.len() / 2);
        let noise = draws.normal(mean.len());
        Ok(mean
            .iter()
            .zip(deviation)
            .zip(noise)
            .map(|((m, d), n)| m + d * n)
            .collect())
    }
}

/// Example and change of a row; the first copy is unchanged.
fn change_of(
    config: &DiffusionConfig,
    pictures: &Pictures,
    row: usize,
    copies: usize,
) -> (usize, Change) {
    let (example, copy) = (row / copies, row % copies);
    if copy == 0 {
        return (example, Change::default());
    }
    let mut draws = Draws::new(config.run.seed, Stream::Augment, row as u64);
    (
        example,
        Change::draw(&config.augment, pictures.example(example), &mut draws),
    )
}

/// Appends scaled mean and deviation of each picture.
fn encode(frozen: &Frozen, pictures: &[f32], size: usize, values: &mut Vec<f32>) {
    let count = pictures.len() / (3 * size * size);
    let batch: Tensor<4> = frozen
        .compute
        .tensor(pictures.to_vec(), [count, 3, size, size]);
    let (mean, deviation) = frozen.moments(batch);
    let mean = to_host(mean).0;
    let deviation =
        deviation.map_or_else(|| vec![0.0; mean.len()], |deviation| to_host(deviation).0);
    let scale = frozen.scaling_factor as f32;
    let numbers = mean.len() / count;
    for (mean, deviation) in mean
        .chunks_exact(numbers)
        .zip(deviation.chunks_exact(numbers))
    {
        values.extend(mean.iter().chain(deviation).map(|value| value * scale));
    }
}

/// Checksum of everything the latents depend on.
fn key(config: &DiffusionConfig, pictures: &Pictures, frozen: &Frozen) -> Result<String> {
    let mut hash = Sha256::new();
    let copies = (
        &config.augment,
        config.augmented_copies,
        config.run.seed,
        config.data.size,
    );
    let copies =
        serde_json::to_string(&copies).map_err(|error| TrainError::Other(error.to_string()))?;
    for part in [
        frozen.autoencoder_sum.as_str(),
        &pictures.data().fingerprint(),
        &copies,
    ] {
        hash.update(part);
        hash.update([0]);
    }
    Ok(hash
        .finalize()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect())
}
