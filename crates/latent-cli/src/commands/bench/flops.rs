//! Floating-point operations of one U-Net evaluation, counted from its shape.
//!
//! A multiplication with its addition counts two; norms, activations and sums are left out (under 1 %).

/// What of a U-Net's configuration decides the work.
#[derive(Clone, Debug)]
pub(crate) struct UnetShape {
    /// Channels of the picture or latents that go in and come out.
    pub(crate) io_channels: usize,
    /// Channels of each level, from the finest.
    pub(crate) channels: Vec<usize>,
    /// Whether a level has transformers.
    pub(crate) attention: Vec<bool>,
    /// Residual blocks a level on the way down; one more on the way up.
    pub(crate) layers: usize,
    /// Tokens of the text and their width.
    pub(crate) text: [usize; 2],
}

impl UnetShape {
    /// Operations for one sample of `height` × `width` values a channel.
    pub(crate) fn flops(&self, height: usize, width: usize) -> u64 {
        let levels = self.channels.len();
        let at = |level: usize| Grid {
            positions: (height >> level) * (width >> level),
            shape: self,
        };
        let last = levels - 1;
        let (c0, cl) = (self.channels[0], self.channels[last]);
        let mut total =
            at(0).conv(self.io_channels, c0, 9) + linear(1, c0, 4 * c0) + linear(1, 4 * c0, 4 * c0);
        // What the way up takes from the way down, in the order it was put by.
        let mut skips = vec![c0];
        let mut x = c0;
        for level in 0..levels {
            let c = self.channels[level];
            for _ in 0..self.layers {
                total += at(level).block(x, c, self.attention[level]);
                x = c;
                skips.push(c);
            }
            if level < last {
                total += at(level + 1).conv(c, c, 9);
                skips.push(c);
            }
        }
        total += at(last).block(cl, cl, true) + at(last).block(cl, cl, false);
        for level in (0..levels).rev() {
            let c = self.channels[level];
            for _ in 0..=self.layers {
                total += at(level).block(x + skips.pop().unwrap_or(0), c, self.attention[level]);
                x = c;
            }
            if level > 0 {
                total += at(level - 1).conv(c, c, 9);
            }
        }
        total + at(0).conv(c0, self.io_channels, 9)
    }
}

/// One level's grid of positions.
struct Grid<'a> {
    positions: usize,
    shape: &'a UnetShape,
}

impl Grid<'_> {
    fn conv(&self, from: usize, to: usize, taps: usize) -> u64 {
        linear(self.positions, from * taps, to)
    }

    /// A residual block, and a transformer behind it where the level has them.
    fn block(&self, from: usize, to: usize, attention: bool) -> u64 {
        let shortcut = if from == to {
            0
        } else {
            self.conv(from, to, 1)
        };
        let time = linear(1, 4 * self.shape.channels[0], to);
        let residual = self.conv(from, to, 9) + self.conv(to, to, 9) + shortcut + time;
        residual + if attention { self.transformer(to) } else { 0 }
    }

    /// Projections in and out, self-attention, cross-attention, and the gated feed-forward of four times the width.
    fn transformer(&self, c: usize) -> u64 {
        let [tokens, text_width] = self.shape.text;
        let n = self.positions;
        let scores = |keys: usize| 2 * linear(n, c, keys);
        let own = 4 * linear(n, c, c) + scores(n);
        let cross = 2 * linear(n, c, c) + 2 * linear(tokens, text_width, c) + scores(tokens);
        2 * linear(n, c, c) + own + cross + linear(n, c, 8 * c) + linear(n, 4 * c, c)
    }
}

fn linear(rows: usize, from: usize, to: usize) -> u64 {
    2 * (rows as u64) * (from as u64) * (to as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 0.8034 TFLOP a sample: half of the 1.607 TFLOP that PyTorch's own counter gives for a batch of two.
    #[test]
    fn stable_diffusion_1_5_counts_what_torch_counts() {
        let shape = UnetShape {
            io_channels: 4,
            channels: vec![320, 640, 1280, 1280],
            attention: vec![true, true, true, false],
            layers: 2,
            text: [77, 768],
        };
        let batch_of_two = 2.0 * shape.flops(64, 64) as f64 / 1e12;
        assert!((batch_of_two - 1.607).abs() < 0.002, "{batch_of_two}");
    }
}
