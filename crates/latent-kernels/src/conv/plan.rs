//! How one axis of a convolution, or of its gradient, falls into phases.
//!
//! Phase `r` computes the outputs `step * t + r`. Its tap `j` reads the input at `stride * t + first + j` and has the
//! sum of the kernel's taps `taps[j]` as weight. A plain convolution is one phase; a gradient of stride 2 is two,
//! each with half of the taps; doubling first is two, where taps that see the same pixel are added up
//! (9 products become 4), and the gradient of that is one phase of stride 2.

use super::ConvShape;

/// One phase of one axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Phase {
    /// First output.
    pub offset: usize,
    /// Input, from the place `stride * t`, of tap 0; may lie before the picture.
    pub first: isize,
    /// Taps of the kernel that read each place.
    pub taps: Vec<Vec<usize>>,
}

/// All phases of an axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Axis {
    /// Outputs between two of the same phase.
    pub step: usize,
    /// Inputs between two outputs of the same phase.
    pub stride: usize,
    pub phases: Vec<Phase>,
}

impl Axis {
    /// Axis of a convolution: kernel, stride, padding before, and 2 if the picture is doubled first, else 1.
    fn forward(kernel: usize, stride: usize, before: usize, scale: usize) -> Self {
        // Doubled place `stride * (step * t + r) + tap - before`, halved downwards.
        let step = if (stride).is_multiple_of(scale) {
            1
        } else {
            scale
        };
        let phase = |r: usize| {
            let place = |tap: usize| {
                ((stride * r + tap) as isize - before as isize).div_euclid(scale as isize)
            };
            Phase::collect(r, (0..kernel).map(|tap| (place(tap), tap)))
        };
        Self {
            step,
            stride: stride * step / scale,
            phases: (0..step).map(phase).collect(),
        }
    }

    /// Axis of the gradient with respect to the input of that convolution.
    fn backward(kernel: usize, stride: usize, before: usize, scale: usize) -> Self {
        // Input `i` was read, through its `scale` doubled places `u`, by the outputs `(u + before - tap) / stride`.
        let step = if scale.is_multiple_of(stride) {
            1
        } else {
            stride / common(stride, scale)
        };
        let phase = |r: usize| {
            let doubled =
                (0..scale).flat_map(|copy| (0..kernel).map(move |tap| (scale * r + copy, tap)));
            let read = doubled.filter_map(|(u, tap)| {
                let reached = (u + before) as isize - tap as isize;
                (reached.rem_euclid(stride as isize) == 0)
                    .then(|| (reached.div_euclid(stride as isize), tap))
            });
            Phase::collect(r, read)
        };
        Self {
            step,
            stride: scale * step / stride,
            phases: (0..step).map(phase).collect(),
        }
    }

    /// Lowest place that any phase reads.
    pub(super) fn first(&self) -> isize {
        self.phases
            .iter()
            .map(|phase| phase.first)
            .min()
            .unwrap_or(0)
    }

    /// Places from [`first`](Self::first) on that `count` outputs of every phase read.
    pub(super) fn extent(&self, count: usize) -> usize {
        let last = self
            .phases
            .iter()
            .map(|phase| phase.first + phase.taps.len() as isize)
            .max()
            .unwrap_or(0);
        count.saturating_sub(1) * self.stride + (last - self.first()).max(0) as usize
    }
}

impl Phase {
    /// Sorts `(place, tap)` into taps by place.
    fn collect(offset: usize, read: impl Iterator<Item = (isize, usize)> + Clone) -> Self {
        let first = read.clone().map(|(place, _)| place).min().unwrap_or(0);
        let last = read.clone().map(|(place, _)| place + 1).max().unwrap_or(0);
        let mut taps = vec![Vec::new(); (last - first).max(0) as usize];
        for (place, tap) in read {
            taps[(place - first) as usize].push(tap);
        }
        Self {
            offset,
            first,
            taps,
        }
    }

    /// Outputs of this phase among `outputs`.
    pub(super) fn count(&self, outputs: usize, step: usize) -> usize {
        outputs.saturating_sub(self.offset).div_ceil(step)
    }
}

/// Greatest common divisor.
fn common(a: usize, b: usize) -> usize {
    if b == 0 { a } else { common(b, a % b) }
}

/// Both axes of a pass over pictures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub y: Axis,
    pub x: Axis,
}

impl Plan {
    pub(super) fn forward(shape: &ConvShape) -> Self {
        let [top, left, ..] = shape.padding;
        Self {
            y: Axis::forward(shape.kh, shape.stride, top, shape.scale()),
            x: Axis::forward(shape.kw, shape.stride, left, shape.scale()),
        }
    }

    pub(super) fn backward(shape: &ConvShape) -> Self {
        let [top, left, ..] = shape.padding;
        Self {
            y: Axis::backward(shape.kh, shape.stride, top, shape.scale()),
            x: Axis::backward(shape.kw, shape.stride, left, shape.scale()),
        }
    }

    /// Pairs of a phase down and a phase across.
    pub(super) fn phases(&self) -> impl Iterator<Item = (&Phase, &Phase)> {
        self.y
            .phases
            .iter()
            .flat_map(|y| self.x.phases.iter().map(move |x| (y, x)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `(output, input, tap)` of every product that the axis makes inside `inputs`.
    fn products(axis: &Axis, outputs: usize, inputs: usize) -> Vec<(usize, usize, usize)> {
        let mut found = Vec::new();
        for phase in &axis.phases {
            for t in 0..phase.count(outputs, axis.step) {
                for (j, taps) in phase.taps.iter().enumerate() {
                    let place = (axis.stride * t + j) as isize + phase.first;
                    if (0..inputs as isize).contains(&place) {
                        let output = axis.step * t + phase.offset;
                        found.extend(taps.iter().map(|tap| (output, place as usize, *tap)));
                    }
                }
            }
        }
        found.sort_unstable();
        found
    }

    #[test]
    fn every_axis_makes_exactly_the_products_of_its_definition_forward_and_backward() {
        for kernel in 1..=5 {
            for (stride, before, scale) in
                (1..=3).flat_map(|s| (0..=2).flat_map(move |b| (1..=2).map(move |f| (s, b, f))))
            {
                let inputs = 7;
                let outputs = super::super::outputs(scale * inputs + 2 * before, kernel, stride);
                let mut expected = Vec::new();
                for output in 0..outputs {
                    for tap in 0..kernel {
                        let place = (output * stride + tap).wrapping_sub(before);
                        if place < scale * inputs {
                            expected.push((output, place / scale, tap));
                        }
                    }
                }
                expected.sort_unstable();
                let forward = Axis::forward(kernel, stride, before, scale);
                assert_eq!(
                    products(&forward, outputs, inputs),
                    expected,
                    "{kernel} {stride} {before} {scale}"
                );
                let backward = Axis::backward(kernel, stride, before, scale);
                let mut turned: Vec<_> = products(&backward, inputs, outputs);
                turned
                    .iter_mut()
                    .for_each(|(input, output, _)| std::mem::swap(input, output));
                turned.sort_unstable();
                assert_eq!(
                    turned, expected,
                    "backward {kernel} {stride} {before} {scale}"
                );
            }
        }
    }
}
