//! Convolution over channels-last pictures as a product whose left operand is read in place.
//!
//! A task copies the lines it needs, rounded and with their border of zeros, into a band that fits the cache. A patch
//! is then `kh` runs of `kw * ci` neighbouring values of the band, so no matrix of patches is ever written.
//!
//! Strides of a gradient and nearest up-sampling become *phases* (see [`plan`]): pictures of every second line and
//! column, each a plain convolution with the taps that meet it.

mod forward;
mod plan;
pub(crate) mod weight;

pub use forward::{Epilogue, PackedConv, conv2d, conv2d_backward_input};
pub use weight::conv2d_backward_weight;

/// Sizes of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConvShape {
    /// Pictures.
    pub n: usize,
    /// Lines of an input picture.
    pub h: usize,
    /// Columns of an input picture.
    pub w: usize,
    /// Input channels.
    pub ci: usize,
    /// Output channels.
    pub co: usize,
    /// Lines of the kernel.
    pub kh: usize,
    /// Columns of the kernel.
    pub kw: usize,
    /// Step, the same down and across.
    pub stride: usize,
    /// Zeros around the picture: top, left, bottom, right.
    pub padding: [usize; 4],
    /// Whether the picture is doubled (nearest neighbour) first; the padding then counts doubled pixels.
    pub upsample: bool,
}

impl ConvShape {
    fn scale(&self) -> usize {
        if self.upsample { 2 } else { 1 }
    }

    /// Lines of an output picture.
    pub fn out_h(&self) -> usize {
        outputs(
            self.scale() * self.h + self.padding[0] + self.padding[2],
            self.kh,
            self.stride,
        )
    }

    /// Multiplications that are made: doubling first adds taps up that see the same pixel, which leaves 4 of 9.
    pub fn products(&self) -> usize {
        let plan = plan::Plan::forward(self);
        let phase = |(y, x): (&plan::Phase, &plan::Phase)| {
            let places = y.count(self.out_h(), plan.y.step) * x.count(self.out_w(), plan.x.step);
            places * y.taps.len() * x.taps.len()
        };
        let taps: usize = plan.phases().map(phase).sum();
        taps * self.n * self.ci * self.co
    }

    /// Columns of an output picture.
    pub fn out_w(&self) -> usize {
        outputs(
            self.scale() * self.w + self.padding[1] + self.padding[3],
            self.kw,
            self.stride,
        )
    }
}

/// Places of a kernel on a padded axis.
fn outputs(padded: usize, kernel: usize, stride: usize) -> usize {
    if padded < kernel {
        0
    } else {
        (padded - kernel) / stride + 1
    }
}
