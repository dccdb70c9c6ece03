//! Group norm of channels-last pictures, with SiLU after it on request.
//!
//! A picture is cut into chunks of positions; each chunk sums its channels, and the chunks' sums are added in order.
//! Sums are of distances from the picture's first position, so that a large mean costs no digits.

use rayon::prelude::*;

use crate::isa::for_every_level;
use crate::math::{multiply_add, sigmoid};
use crate::pointwise::{CHUNK, sigmoid_slope};

/// Sizes of a group norm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupNormShape {
    /// Pictures.
    pub n: usize,
    /// Positions of a picture.
    pub positions: usize,
    /// Channels, a multiple of `groups`.
    pub channels: usize,
    /// Groups of neighbouring channels.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f32,
    /// Whether SiLU follows.
    pub silu: bool,
}

/// Positions of a chunk of a picture.
pub(super) fn chunk_positions(positions: usize, channels: usize) -> usize {
    CHUNK.div_ceil(channels.max(1)).min(positions)
}

impl GroupNormShape {
    /// Positions of a chunk.
    fn chunk(&self) -> usize {
        chunk_positions(self.positions, self.channels)
    }

    /// Values of a picture.
    fn picture(&self) -> usize {
        self.positions * self.channels
    }

    pub(super) fn check(&self, lengths: &[usize]) {
        assert!(
            self.groups > 0 && self.channels.is_multiple_of(self.groups),
            "group norm: {} channels do not fall into {} groups",
            self.channels,
            self.groups
        );
        let all = self.n * self.picture();
        assert!(
            lengths.iter().all(|len| *len == all),
            "group norm: a length does not fit {self:?}"
        );
    }

    /// Runs `work(picture, values of a chunk, sums [2, channels])` over all chunks; the sums, chunk after chunk, of
    /// each picture.
    fn sums(
        &self,
        work: impl Fn(usize, std::ops::Range<usize>, &mut [f32], &mut [f32]) + Sync,
    ) -> Vec<Vec<f64>> {
        let (chunk, channels) = (self.chunk(), self.channels);
        let chunks = self.positions.div_ceil(chunk);
        let mut parts = vec![0.0; self.n * chunks * 2 * channels];
        parts
            .par_chunks_mut(2 * channels)
            .enumerate()
            .for_each(|(i, sums)| {
                let (picture, first) = (i / chunks, i % chunks * chunk);
                let values = first * channels..self.positions.min(first + chunk) * channels;
                let (one, two) = sums.split_at_mut(channels);
                work(picture, values, one, two);
            });
        let pictures = parts.chunks_exact(chunks * 2 * channels);
        pictures
            .map(|parts| {
                let mut total = vec![0.0; 2 * channels];
                for part in parts.chunks_exact(2 * channels) {
                    for (total, part) in total.iter_mut().zip(part) {
                        *total += f64::from(*part);
                    }
                }
                total
            })
            .collect()
    }
}

for_every_level! {
    pub(super) fn moments(x: &[f32], origin: &[f32], sums: &mut [f32], squares: &mut [f32]) {
        for x in x.chunks_exact(origin.len()) {
            for (((x, origin), sum), square) in x.iter().zip(origin).zip(&mut *sums).zip(&mut *squares) {
                let distance = x - origin;
                *sum += distance;
                *square += distance * distance;
            }
        }
    }
}

/// Numbers of one picture's channels, `[channels]` each.
struct Channels<'a> {
    mean: &'a [f32],
    rstd: &'a [f32],
    gamma: &'a [f32],
    beta: &'a [f32],
}

for_every_level! {
    fn normalise(x: &[f32], of: &Channels<'_>, silu: bool, out: &mut [f32]) {
        let channels = of.mean.len();
        for (x, out) in x.chunks_exact(channels).zip(out.chunks_exact_mut(channels)) {
            let numbers = of.mean.iter().zip(of.rstd).zip(of.gamma).zip(of.beta);
            for ((x, out), (((mean, rstd), gamma), beta)) in x.iter().zip(out.iter_mut()).zip(numbers) {
                *out = multiply_add::<FUSED>((x - mean) * rstd, *gamma, *beta);
            }
            if silu {
                for out in out.iter_mut() {
                    *out *= sigmoid::<FUSED>(*out);
                }
            }
        }
    }
}

/// `out = (x - mean) / sqrt(variance + eps) * gamma + beta` over each group of each picture, then SiLU if asked.
///
/// `x`, `out`: `[n, positions, channels]`; `stats [n, groups, 2]` receives mean and reciprocal deviation.
///
/// Source: Wu & He 2018 (arXiv:1803.08494), Eq. 1.
///
/// # Panics
/// If a length does not fit.
pub fn group_norm(
    x: &[f32],
    gamma: &[f32],
    beta: &[f32],
    shape: &GroupNormShape,
    out: &mut [f32],
    stats: &mut [f32],
) {
    shape.check(&[x.len(), out.len()]);
    assert!(
        gamma.len() == shape.channels && beta.len() == shape.channels,
        "group norm: weights do not fit {shape:?}"
    );
    assert_eq!(
        stats.len(),
        shape.n * shape.groups * 2,
        "group norm: `stats` does not fit {shape:?}"
    );
    if x.is_empty() {
        return;
    }
    let picture = shape.picture();
    let sums = shape.sums(|i, values, sums, squares| {
        let x = &x[i * picture..][..picture];
        moments(&x[values], &x[..shape.channels], sums, squares);
    });
    for ((x, sums), stats) in x
        .chunks_exact(picture)
        .zip(&sums)
        .zip(stats.chunks_exact_mut(2 * shape.groups))
    {
        fill_stats(x, sums, shape, stats);
    }
    normalise_chunks(x, gamma, beta, stats, shape, out);
}

/// The part of [`group_norm`] after its statistics.
pub(super) fn normalise_chunks(
    x: &[f32],
    gamma: &[f32],
    beta: &[f32],
    stats: &[f32],
    shape: &GroupNormShape,
    out: &mut [f32],
) {
    let (picture, spread) = (shape.picture(), spread(stats, shape));
    each_chunk(
        out,
        picture,
        shape.chunk() * shape.channels,
        |i, first, out| {
            let of = channels(&spread, i, gamma, beta);
            normalise(&x[i * picture + first..][..out.len()], &of, shape.silu, out);
        },
    );
}

/// Mean and reciprocal deviation of each group, from its channels' sums; `x` begins with the picture's first position.
pub(super) fn fill_stats(x: &[f32], sums: &[f64], shape: &GroupNormShape, stats: &mut [f32]) {
    let width = shape.channels / shape.groups;
    let (count, positions) = ((shape.positions * width) as f64, shape.positions as f64);
    for (group, stats) in stats.chunks_exact_mut(2).enumerate() {
        let members = group * width..(group + 1) * width;
        let mean_of = |c: usize| f64::from(x[c]) + sums[c] / positions;
        let mean = members.clone().map(mean_of).sum::<f64>() / width as f64;
        let squares: f64 = members
            .map(|c| {
                let inside = sums[shape.channels + c] - sums[c] * sums[c] / positions;
                inside + positions * (mean_of(c) - mean) * (mean_of(c) - mean)
            })
            .sum();
        stats[0] = mean as f32;
        stats[1] = (1.0 / (squares.max(0.0) / count + f64::from(shape.eps)).sqrt()) as f32;
    }
}

/// `stats [n, groups, 2]` as `[n, 2, channels]`.
fn spread(stats: &[f32], shape: &GroupNormShape) -> Vec<f32> {
    let width = shape.channels / shape.groups;
    let pictures = stats.chunks_exact(2 * shape.groups);
    pictures
        .flat_map(|stats| {
            (0..2).flat_map(move |which| {
                (0..shape.channels).map(move |c| stats[c / width * 2 + which])
            })
        })
        .collect()
}

/// The numbers of picture `i`'s channels.
fn channels<'a>(spread: &'a [f32], i: usize, gamma: &'a [f32], beta: &'a [f32]) -> Channels<'a> {
    let channels = gamma.len();
    let (mean, rstd) = spread[i * 2 * channels..][..2 * channels].split_at(channels);
    Channels {
        mean,
        rstd,
        gamma,
        beta,
    }
}

for_every_level! {
    fn slopes(x: &[f32], dy: &[f32], of: &Channels<'_>, silu: bool, d: &mut [f32]) {
        let channels = of.mean.len();
        for ((x, dy), d) in x.chunks_exact(channels).zip(dy.chunks_exact(channels)).zip(d.chunks_exact_mut(channels)) {
            if silu {
                let numbers = of.mean.iter().zip(of.rstd).zip(of.gamma).zip(of.beta);
                for (((x, dy), d), (((mean, rstd), gamma), beta)) in x.iter().zip(dy).zip(d).zip(numbers) {
                    let y = multiply_add::<FUSED>((x - mean) * rstd, *gamma, *beta);
                    *d = dy * sigmoid_slope::<FUSED>(y, 1.0);
                }
            } else {
                d.copy_from_slice(dy);
            }
        }
    }
}

for_every_level! {
    fn slope_sums(x: &[f32], d: &[f32], of: &Channels<'_>, sums: &mut [f32], products: &mut [f32]) {
        let channels = of.mean.len();
        for (x, d) in x.chunks_exact(channels).zip(d.chunks_exact(channels)) {
            let numbers = of.mean.iter().zip(of.rstd);
            let totals = sums.iter_mut().zip(products.iter_mut());
            for (((x, d), (mean, rstd)), (sum, product)) in x.iter().zip(d).zip(numbers).zip(totals) {
                *sum += d;
                *product += d * ((x - mean) * rstd);
            }
        }
    }
}

/// Numbers of one picture's channels for the gradient: `dx = d * scale - (flat + (x - mean) * rstd * tilt)`.
struct Correction<'a> {
    scale: &'a [f32],
    flat: &'a [f32],
    tilt: &'a [f32],
}

for_every_level! {
    fn correct(x: &[f32], of: &Channels<'_>, by: &Correction<'_>, d: &mut [f32]) {
        let channels = of.mean.len();
        for (x, d) in x.chunks_exact(channels).zip(d.chunks_exact_mut(channels)) {
            let numbers = of.mean.iter().zip(of.rstd).zip(by.scale).zip(by.flat).zip(by.tilt);
            for ((x, d), ((((mean, rstd), scale), flat), tilt)) in x.iter().zip(d).zip(numbers) {
                *d = *d * scale - flat - (x - mean) * rstd * tilt;
            }
        }
    }
}

/// The gradients of [`group_norm`]: `dx` like `x`, `dgamma` and `dbeta` `[channels]`; `stats` as it wrote them.
///
/// # Panics
/// If a length does not fit.
#[expect(
    clippy::too_many_arguments,
    reason = "what forward had, and its three gradients"
)]
pub fn group_norm_backward(
    x: &[f32],
    dy: &[f32],
    gamma: &[f32],
    beta: &[f32],
    stats: &[f32],
    shape: &GroupNormShape,
    dx: &mut [f32],
    dgamma: &mut [f32],
    dbeta: &mut [f32],
) {
    shape.check(&[x.len(), dy.len(), dx.len()]);
    let lengths = [gamma.len(), beta.len(), dgamma.len(), dbeta.len()];
    assert!(
        lengths.iter().all(|len| *len == shape.channels),
        "group norm: weights do not fit {shape:?}"
    );
    assert_eq!(
        stats.len(),
        shape.n * shape.groups * 2,
        "group norm: `stats` does not fit {shape:?}"
    );
    dgamma.fill(0.0);
    dbeta.fill(0.0);
    if x.is_empty() {
        return;
    }
    let spread = spread(stats, shape);
    let of = |i: usize| channels(&spread, i, gamma, beta);
    let sums = slopes_and_sums(x, dy, shape, &of, dx);
    add_up(&sums, dgamma, dbeta);
    let corrections: Vec<_> = sums
        .iter()
        .enumerate()
        .map(|(i, sums)| correction(sums, i, gamma, stats, shape))
        .collect();
    let (picture, c) = (shape.picture(), shape.channels);
    each_chunk(dx, picture, shape.chunk() * c, |i, first, d| {
        let by = Correction {
            scale: &corrections[i][..c],
            flat: &corrections[i][c..2 * c],
            tilt: &corrections[i][2 * c..],
        };
        correct(&x[i * picture + first..][..d.len()], &of(i), &by, d);
    });
}

/// `d`, the gradient of what SiLU was given (else of the output), and each picture's sums of it and of its product
/// with the normalised input; `of(i)` are the numbers of picture `i`'s channels.
fn slopes_and_sums<'a>(
    x: &[f32],
    dy: &[f32],
    shape: &GroupNormShape,
    of: &(impl Fn(usize) -> Channels<'a> + Sync),
    d: &mut [f32],
) -> Vec<Vec<f64>> {
    let (picture, chunk) = (shape.picture(), shape.chunk() * shape.channels);
    each_chunk(d, picture, chunk, |i, first, d| {
        let place = i * picture + first;
        let (x, dy) = (&x[place..][..d.len()], &dy[place..][..d.len()]);
        slopes(x, dy, &of(i), shape.silu, d);
    });
    let d = &*d;
    shape.sums(|i, values, sums, products| {
        let values = i * picture + values.start..i * picture + values.end;
        slope_sums(&x[values.clone()], &d[values], &of(i), sums, products);
    })
}

/// Runs `work(picture, first value in it, values)` over all chunks.
fn each_chunk(
    values: &mut [f32],
    picture: usize,
    chunk: usize,
    work: impl Fn(usize, usize, &mut [f32]) + Sync,
) {
    values
        .par_chunks_mut(picture)
        .enumerate()
        .for_each(|(i, values)| {
            values
                .par_chunks_mut(chunk)
                .enumerate()
                .for_each(|(j, values)| work(i, j * chunk, values));
        });
}

/// The weights' gradients: pictures in order.
fn add_up(sums: &[Vec<f64>], dgamma: &mut [f32], dbeta: &mut [f32]) {
    let channels = dgamma.len();
    for c in 0..channels {
        dbeta[c] = sums.iter().map(|sums| sums[c]).sum::<f64>() as f32;
        dgamma[c] = sums.iter().map(|sums| sums[channels + c]).sum::<f64>() as f32;
    }
}

/// `[scale, flat, tilt]` of picture `i`, `[3, channels]`.
fn correction(
    sums: &[f64],
    i: usize,
    gamma: &[f32],
    stats: &[f32],
    shape: &GroupNormShape,
) -> Vec<f32> {
    let (channels, width) = (shape.channels, shape.channels / shape.groups);
    let count = (shape.positions * width) as f64;
    let mut numbers = vec![0.0; 3 * channels];
    for group in 0..shape.groups {
        let members = group * width..(group + 1) * width;
        let rstd = f64::from(stats[(i * shape.groups + group) * 2 + 1]);
        let total = |from: usize| {
            members
                .clone()
                .map(|c| f64::from(gamma[c]) * sums[from + c])
                .sum::<f64>()
        };
        let (flat, tilt) = (rstd * total(0) / count, rstd * total(channels) / count);
        for c in members {
            numbers[c] = (f64::from(gamma[c]) * rstd) as f32;
            numbers[channels + c] = flat as f32;
            numbers[2 * channels + c] = tilt as f32;
        }
    }
    numbers
}
