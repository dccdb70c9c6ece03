//! Shapes of pictures, and where each picture fits.

use latent_data::Sampler;

use crate::config::Buckets;
use crate::error::Result;

/// The shapes `[width, height]` that pictures may have, of about the area of a square of `size`.
///
/// Source: kohya's sd-scripts, `model_util.make_bucket_resolutions`.
pub(super) fn shapes(config: &Buckets, size: usize) -> Vec<[usize; 2]> {
    let down = |side: usize| side / config.step * config.step;
    let side = down(size);
    if !config.enabled {
        return vec![[side, side]];
    }
    let min = down(config.min.unwrap_or(size / 2)).max(config.step);
    let max = config.max.unwrap_or(2 * size);
    let mut shapes = vec![[side, side]];
    for width in (min..=max).step_by(config.step) {
        let height = down(size * size / width).min(down(max));
        if height >= min {
            shapes.extend([[width, height], [height, width]]);
        }
    }
    shapes.sort_unstable();
    shapes.dedup();
    shapes
}

/// How a picture comes into its shape: scaled to cover it, cut at the centre. All sizes are `[width, height]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fit {
    /// Place among the shapes.
    pub(super) shape: usize,
    /// Of the file.
    pub(super) original: [usize; 2],
    /// Before it is cut.
    pub(super) scaled: [usize; 2],
    /// Left and upper side of what is kept.
    pub(super) corner: [usize; 2],
}

impl Fit {
    /// Into the shape whose proportions are nearest.
    ///
    /// Source: kohya's sd-scripts, `BucketManager.select_bucket`.
    pub(super) fn new(original: [usize; 2], shapes: &[[usize; 2]]) -> Self {
        let ratio = |[width, height]: [usize; 2]| width as f64 / height as f64;
        let wanted = ratio(original);
        let far = |shape: &[usize; 2]| (ratio(*shape) - wanted).abs();
        let nearest = shapes
            .iter()
            .enumerate()
            .min_by(|(_, a), (_, b)| far(a).total_cmp(&far(b)));
        let (shape, &size) = nearest.unwrap_or((0, &original));
        let [width, height] = original.map(|side| side as f64);
        let scale = if wanted > ratio(size) {
            size[1] as f64 / height
        } else {
            size[0] as f64 / width
        };
        let scaled = |side: f64, least: usize| ((side * scale + 0.5) as usize).max(least);
        let scaled = [scaled(width, size[0]), scaled(height, size[1])];
        Self {
            shape,
            original,
            scaled,
            corner: [0, 1].map(|axis| (scaled[axis] - size[axis]) / 2),
        }
    }

    /// What Stable Diffusion XL is told: original size, corner, size after the cut, each height first; a flipped picture
    /// was cut from the other side.
    pub(super) fn numbers(&self, size: [usize; 2], flipped: bool) -> [f32; 6] {
        let left = if flipped {
            self.scaled[0] - size[0] - self.corner[0]
        } else {
            self.corner[0]
        };
        let [width, height] = self.original;
        [height, width, self.corner[1], left, size[1], size[0]].map(|number| number as f32)
    }
}

/// Which examples a batch has: those of one shape, all shapes in proportion to their examples.
#[derive(Debug)]
pub(super) struct Order {
    batch: usize,
    /// Of each shape that has examples: them, their order, and where its batches of an epoch begin.
    shapes: Vec<(Vec<usize>, Sampler, u64)>,
    /// Batches of an epoch.
    epoch: u64,
    batches: Sampler,
}

impl Order {
    /// Of examples with their place among the shapes and their weight.
    pub(super) fn new(examples: &[(usize, f64)], batch: usize, seed: u64) -> Result<Self> {
        let count = examples.iter().map(|(shape, _)| shape + 1).max();
        let mean = examples.iter().map(|(_, weight)| weight).sum::<f64>() / examples.len() as f64;
        let mut shapes = Vec::new();
        let mut epoch = 0;
        for shape in 0..count.unwrap_or(0) {
            let members: Vec<usize> = (0..examples.len())
                .filter(|&example| examples[example].0 == shape && examples[example].1 > 0.0)
                .collect();
            if members.is_empty() {
                continue;
            }
            let weights: Vec<f64> = members.iter().map(|&member| examples[member].1).collect();
            let draws = weights.iter().sum::<f64>() / mean;
            let sampler = Sampler::weighted(seed ^ ((shape as u64) << 32), &weights)?;
            shapes.push((members, sampler, epoch));
            epoch += ((draws / batch as f64).ceil() as u64).max(1);
        }
        Ok(Self {
            batch,
            shapes,
            epoch,
            batches: Sampler::new(seed, epoch as usize)?,
        })
    }

    /// Examples of batch `number` of the run.
    pub(super) fn batch(&self, number: u64) -> Vec<usize> {
        let place = self.batches.index_at(number) as u64;
        let shape = self
            .shapes
            .partition_point(|(.., first)| *first <= place)
            .saturating_sub(1);
        let (members, sampler, first) = &self.shapes[shape];
        let end = self.shapes.get(shape + 1).map_or(self.epoch, |next| next.2);
        let own = number / self.epoch * (end - first) + (place - first);
        let drawn = sampler.batch_at(own, self.batch);
        drawn.into_iter().map(|place| members[place]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shapes_of_512_are_those_of_kohya_s_scripts() {
        // `make_bucket_resolutions((512, 512), 256, 1024, 64)`.
        let half = [
            [256, 832],
            [256, 896],
            [256, 960],
            [256, 1024],
            [320, 704],
            [320, 768],
            [384, 640],
            [448, 576],
        ];
        let turned = half.map(|[width, height]| [height, width]);
        let mut expected = [&half[..], &[[512, 512]], &turned].concat();
        expected.sort_unstable();
        assert_eq!(shapes(&Buckets::default(), 512), expected);
        let square = Buckets {
            enabled: false,
            ..Buckets::default()
        };
        assert_eq!(shapes(&square, 520), [[512, 512]]);
    }

    #[test]
    fn a_picture_goes_where_least_of_it_is_cut() {
        let shapes = shapes(&Buckets::default(), 512);
        let fit = Fit::new([1600, 900], &shapes);
        assert_eq!(shapes[fit.shape], [640, 384]);
        // Scaled by 384 / 900: 682.67 wide, of which 640 from 21 on.
        assert_eq!((fit.scaled, fit.corner), ([683, 384], [21, 0]));
        let [h, w, top, left, to_h, to_w] = fit.numbers([640, 384], false);
        assert_eq!(
            [h, w, top, left, to_h, to_w],
            [900.0, 1600.0, 0.0, 21.0, 384.0, 640.0]
        );
        assert_eq!(fit.numbers([640, 384], true)[3], 22.0);
        let small = Fit::new([10, 30], &shapes);
        assert!(small.scaled[0] >= shapes[small.shape][0]);
    }

    #[test]
    fn a_batch_has_one_shape_and_every_picture_comes_as_often() {
        // Eight of shape 0, four of shape 2.
        let examples: Vec<(usize, f64)> = (0..12).map(|i| (usize::from(i >= 8) * 2, 1.0)).collect();
        let order = Order::new(&examples, 2, 7).expect("an order");
        let mut seen = [0; 12];
        // Ten epochs of six batches.
        for number in 0..60 {
            let batch = order.batch(number);
            assert_eq!(batch.len(), 2);
            assert_eq!(examples[batch[0]].0, examples[batch[1]].0);
            batch.iter().for_each(|&example| seen[example] += 1);
        }
        assert_eq!(seen, [10; 12]);
        assert_eq!(order.batch(31), order.batch(31));
    }
}
