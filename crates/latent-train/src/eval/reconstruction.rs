//! What an autoencoder loses.

use std::collections::BTreeMap;
use std::path::Path;

use latent_data::{Captions, DataSet};
use latent_formats::{Picture, psnr, ssim};
use latent_models::Autoencoder;
use latent_nn::{Compute, to_host};
use serde::Serialize;

use super::{Judge, frechet_distance, spread, word};
use crate::error::Result;
use crate::pictures::fitted;
use crate::text_encoder::part_of;

/// Pictures of one pass.
const BATCH: usize = 8;

/// How like the originals reconstructions are.
#[derive(Clone, Debug, Serialize)]
pub struct ReconstructionReport {
    /// All pictures.
    pub all: GroupScore,
    /// By `style` of the pictures' metadata.
    pub styles: BTreeMap<String, GroupScore>,
    /// Fréchet distance of the judge's features, originals against reconstructions; absent without a judge.
    pub frechet_distance: Option<f64>,
}

/// Means over a group of pictures.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct GroupScore {
    /// Pictures.
    pub count: usize,
    /// Mean peak signal-to-noise ratio, dB.
    pub psnr: f64,
    /// Mean structural similarity, 1 for equal.
    pub ssim: f64,
    /// The lowest ratio, dB.
    pub worst_psnr: f64,
}

impl GroupScore {
    fn add(&mut self, psnr: f64, ssim: f64) {
        // A perfect copy has an infinite ratio; 8-bit pictures that differ in one value have about 95 dB.
        let psnr = psnr.min(100.0);
        let count = self.count as f64;
        self.psnr = (self.psnr * count + psnr) / (count + 1.0);
        self.ssim = (self.ssim * count + ssim) / (count + 1.0);
        self.worst_psnr = if self.count == 0 {
            psnr
        } else {
            self.worst_psnr.min(psnr)
        };
        self.count += 1;
    }
}

/// Which pictures are compared.
#[derive(Clone, Copy, Debug)]
pub struct ReconstructionOptions {
    /// Side of the square they are brought to.
    pub size: usize,
    /// At most this many, evenly picked.
    pub limit: usize,
}

/// Reconstructs pictures of a data set and compares.
///
/// `folder` is a `vae/` or holds one; `progress` hears pictures done and in all.
///
/// # Errors
/// The data, the model or a picture cannot be read.
pub fn evaluate_reconstruction(
    folder: &Path,
    data: &Path,
    options: ReconstructionOptions,
    judge: Option<&Judge>,
    compute: &Compute,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<ReconstructionReport> {
    let model = Autoencoder::load(&part_of(folder, "vae"), compute)?;
    let data = DataSet::open(data, Captions::Optional)?;
    let size = options.size;
    let chosen: Vec<usize> = spread(data.len(), options.limit).collect();
    let mut all = GroupScore::default();
    let mut styles: BTreeMap<String, GroupScore> = BTreeMap::new();
    let (mut originals, mut copies) = (Vec::new(), Vec::new());
    for part in chosen.chunks(BATCH) {
        let pictures: Vec<Picture> = part
            .iter()
            .map(|&index| fitted(data.load(index)?, size))
            .collect::<Result<_>>()?;
        let made = reconstruct(&model, &pictures, size, compute)?;
        for ((&index, real), made) in part.iter().zip(&pictures).zip(&made) {
            let (psnr, ssim) = (psnr(real, made)?, ssim(real, made)?);
            all.add(psnr, ssim);
            styles
                .entry(word(&data.examples()[index], "style").to_string())
                .or_default()
                .add(psnr, ssim);
        }
        if let Some(judge) = judge {
            originals.extend(judge.see(&pictures)?);
            copies.extend(judge.see(&made)?);
        }
        progress(all.count, chosen.len());
    }
    Ok(ReconstructionReport {
        all,
        styles,
        frechet_distance: judge.map(|_| frechet_distance(&originals, &copies)),
    })
}

fn reconstruct(
    model: &Autoencoder,
    pictures: &[Picture],
    size: usize,
    compute: &Compute,
) -> Result<Vec<Picture>> {
    let values: Vec<f32> = pictures.iter().flat_map(Picture::to_f32_nchw).collect();
    let batch = compute.tensor(values, [pictures.len(), 3, size, size]);
    let (mean, _) = model.latents(batch);
    let made = to_host(model.decode(mean)).0;
    made.chunks_exact(3 * size * size)
        .map(|values| Ok(Picture::from_f32_nchw(values, size, size)?))
        .collect()
}
