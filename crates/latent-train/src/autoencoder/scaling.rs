//! The scaling factor: one over the latents' standard deviation, so that diffusion sees numbers of size 1.

use std::path::Path;

use burn::tensor::Tensor;
use latent_data::Captions;
use latent_models::Autoencoder;
use latent_nn::{Compute, to_host};

use crate::config::Data;
use crate::error::Result;
use crate::pictures::{Change, Pictures};
use crate::text_encoder::part_of;

/// Pictures of one pass.
const BATCH: usize = 8;
/// More pictures than this change the third digit no more.
const MOST: usize = 2048;

/// Mean and standard deviation of latents over a data set.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct LatentStatistics {
    /// Mean of each channel.
    pub mean: Vec<f64>,
    /// Standard deviation of each channel, the posterior's own variance included.
    pub std: Vec<f64>,
    /// Standard deviation of all latents about their common mean.
    pub overall_std: f64,
    /// Pictures measured.
    pub pictures: usize,
}

impl LatentStatistics {
    /// What latents are multiplied by before diffusion.
    ///
    /// Source: Rombach et al. 2022 (arXiv:2112.10752), appendix G.
    pub fn scaling_factor(&self) -> f64 {
        1.0 / self.overall_std
    }
}

/// Sums of one channel.
#[derive(Clone, Copy, Default)]
struct Sums {
    count: f64,
    sum: f64,
    square: f64,
}

impl Sums {
    fn add(&mut self, value: f64, variance: f64) {
        self.count += 1.0;
        self.sum += value;
        self.square += value * value + variance;
    }

    fn mean(&self) -> f64 {
        self.sum / self.count
    }

    fn std(&self) -> f64 {
        (self.square / self.count - self.mean().powi(2))
            .max(0.0)
            .sqrt()
    }
}

/// Measures an exported autoencoder's latents over a data set.
///
/// `folder` is a `vae/` or holds one. The exported config has this factor already where this crate trained it.
///
/// # Errors
/// The data or the model cannot be read.
pub fn measure_scaling_factor(
    folder: &Path,
    data: &Data,
    compute: &Compute,
) -> Result<LatentStatistics> {
    let model = Autoencoder::load(&part_of(folder, "vae"), compute)?;
    let pictures = Pictures::open(data, Captions::Optional, 0)?;
    statistics(|batch| model.latents(batch), &pictures, compute)
}

/// Mean and standard deviation of a batch's latents, as the models give them.
type Moments = (Tensor<4>, Option<Tensor<4>>);

/// Measures the latents of `pictures`, evenly picked if there are many, unchanged.
pub(crate) fn statistics(
    encode: impl Fn(Tensor<4>) -> Moments,
    pictures: &Pictures,
    compute: &Compute,
) -> Result<LatentStatistics> {
    let all = pictures.data().len();
    let count = all.min(MOST);
    let chosen: Vec<usize> = (0..count).map(|index| index * all / count).collect();
    let mut channels: Vec<Sums> = Vec::new();
    for part in chosen.chunks(BATCH) {
        let part: Vec<_> = part
            .iter()
            .map(|&index| (index, Change::default()))
            .collect();
        let size = pictures.size();
        let batch = compute.tensor(pictures.tensor(&part)?, [part.len(), 3, size, size]);
        let (mean, deviation) = encode(batch);
        let (mean, [n, c, h, w]) = to_host(mean);
        let deviation =
            deviation.map_or_else(|| vec![0.0; mean.len()], |deviation| to_host(deviation).0);
        channels.resize(c, Sums::default());
        for index in 0..n * c {
            let plane = index * h * w..(index + 1) * h * w;
            for (value, deviation) in mean[plane.clone()].iter().zip(&deviation[plane]) {
                channels[index % c].add(f64::from(*value), f64::from(*deviation).powi(2));
            }
        }
    }
    let mut overall = Sums::default();
    for channel in &channels {
        overall.count += channel.count;
        overall.sum += channel.sum;
        overall.square += channel.square;
    }
    Ok(LatentStatistics {
        mean: channels.iter().map(Sums::mean).collect(),
        std: channels.iter().map(Sums::std).collect(),
        overall_std: overall.std(),
        pictures: count,
    })
}
