//! The gradient of a convolution's weight: pixels are the summed axis.
//!
//! Each task sums some pixels for a block of input channels: it lays out patches and `dy` so that neighbouring
//! pixels of a line share a unit, and multiplies. How pixels are shared out depends on the sizes alone, and the
//! shares are added in order, so the threads do not change a bit.

use std::ops::Range;

use rayon::prelude::*;

use super::ConvShape;
use super::plan::{Axis, Phase, Plan};
use crate::isa::Precision;
use crate::product::pack::{fill_pairs, fill_row, grow, units, values_per_unit};
use crate::product::{LANES, PANEL, Panels, Part, Product, Row};
use crate::shared::{Output, Scratch, with_scratch};

/// Units of the summed axis that a task lays out at once.
const DEPTH: usize = 128;
/// Columns (taps times input channels) of a task, about.
const COLUMNS: usize = 640;
/// Tasks to aim at, a number that does not depend on the threads.
const TASKS: usize = 16;
/// Fewest pixels of a share, so that adding shares up costs little.
const SHARE: usize = 512;

/// `dw [co, ci, kh, kw]`, the gradient of [`conv2d`](super::conv2d)'s weight, from `x [n, h, w, ci]` and
/// `dy [n, out_h, out_w, co]`.
///
/// # Panics
/// If a length does not fit.
pub fn conv2d_backward_weight(
    x: &[f32],
    dy: &[f32],
    shape: &ConvShape,
    precision: Precision,
    dw: &mut [f32],
) {
    let outputs = shape.n * shape.out_h() * shape.out_w() * shape.co;
    assert_eq!(
        x.len(),
        shape.n * shape.h * shape.w * shape.ci,
        "conv2d_backward_weight: `x` does not fit {shape:?}"
    );
    assert_eq!(
        dy.len(),
        outputs,
        "conv2d_backward_weight: `dy` does not fit {shape:?}"
    );
    assert_eq!(
        dw.len(),
        shape.co * shape.ci * shape.kh * shape.kw,
        "conv2d_backward_weight: `dw` does not fit {shape:?}"
    );
    weight_gradient(x, dy, shape, precision, dw);
}

/// As [`conv2d_backward_weight`], but the last line of the last picture may be short.
pub(crate) fn weight_gradient(
    x: &[f32],
    dy: &[f32],
    shape: &ConvShape,
    precision: Precision,
    dw: &mut [f32],
) {
    let work = Gradient::new(x, dy, shape, precision);
    let block = work.cells * shape.co * work.channels;
    let mut sums = vec![0.0; work.shares * work.blocks * block];
    let out = Output::new(&mut sums);
    (0..work.shares * work.blocks)
        .into_par_iter()
        .with_max_len(1)
        .for_each(|task| {
            let (share, channels) = (task / work.blocks, task % work.blocks);
            let first = channels * work.channels;
            let task_of = Task {
                chunks: share * work.chunks / work.shares..(share + 1) * work.chunks / work.shares,
                channels: first..shape.ci.min(first + work.channels),
            };
            // SAFETY: task `task` alone writes the `block` values from `task * block` on.
            with_scratch(|scratch| unsafe {
                work.compute(&task_of, scratch, out.pointer().add(task * block))
            });
        });
    let taps = shape.kh * shape.kw;
    dw.par_chunks_mut((shape.ci * taps).max(1))
        .enumerate()
        .for_each(|(co, dw)| work.collect(&sums, co, dw));
}

/// How the work is cut.
struct Gradient<'a> {
    x: &'a [f32],
    dy: &'a [f32],
    shape: &'a ConvShape,
    plan: Plan,
    precision: Precision,
    /// Places of the taps, over all phases.
    cells: usize,
    /// Input channels of a block, and blocks.
    channels: usize,
    blocks: usize,
    /// Lines of a phase in a picture; lines of a chunk; chunks.
    lines: usize,
    chunk: usize,
    chunks: usize,
    /// Shares that the chunks fall into.
    shares: usize,
}

/// What one task sums.
struct Task {
    chunks: Range<usize>,
    channels: Range<usize>,
}

impl<'a> Gradient<'a> {
    fn new(x: &'a [f32], dy: &'a [f32], shape: &'a ConvShape, precision: Precision) -> Self {
        let plan = Plan::forward(shape);
        let sizes: Vec<_> = plan
            .phases()
            .map(|(y, x)| y.taps.len() * x.taps.len())
            .collect();
        let (cells, most) = (
            sizes.iter().sum(),
            sizes.iter().copied().max().unwrap_or(1).max(1),
        );
        let fit = (COLUMNS / most).next_multiple_of(LANES).max(LANES);
        let blocks = shape.ci.div_ceil(fit).max(1);
        let channels = if blocks == 1 { shape.ci } else { fit };
        let lines = shape.out_h().div_ceil(plan.y.step);
        let width = units(shape.out_w().div_ceil(plan.x.step), precision);
        let chunk = (DEPTH / width.max(1)).max(1);
        let chunks = (shape.n * lines).div_ceil(chunk);
        let pixels = shape.n * shape.out_h() * shape.out_w();
        let shares = TASKS
            .div_ceil(blocks)
            .min(pixels / SHARE)
            .min(chunks)
            .max(1);
        Self {
            x,
            dy,
            shape,
            plan,
            precision,
            cells,
            channels,
            blocks,
            lines,
            chunk,
            chunks,
            shares,
        }
    }

    /// Adds the task's products to `sums`, `[co, cells of a phase, channels]` for each phase.
    ///
    /// # Safety
    /// `sums` has `cells * co * channels` values that no other thread uses.
    unsafe fn compute(&self, task: &Task, scratch: &mut Scratch, sums: *mut f32) {
        let (co, width) = (self.shape.co, task.channels.len());
        for chunk in task.chunks.clone() {
            let lines =
                chunk * self.chunk..(self.shape.n * self.lines).min((chunk + 1) * self.chunk);
            let mut next = 0;
            for (y, x) in self.plan.phases() {
                let cells = y.taps.len() * x.taps.len();
                let before = next;
                next += cells;
                let count = x.count(self.shape.out_w(), self.plan.x.step);
                let depth = lines.len() * units(count, self.precision);
                if cells == 0 || depth == 0 || width == 0 {
                    continue;
                }
                self.fill_patches(&lines, (y, x), &task.channels, scratch);
                self.fill_dy(&lines, (y, x), &mut scratch.a);
                let columns = cells * width;
                scratch.rows.clear();
                scratch.rows.extend((0..co).map(|i| Row {
                    a: i,
                    c: i * columns,
                    bias: 0,
                }));
                let product = Product {
                    precision: self.precision,
                    a: &scratch.a,
                    rows: &scratch.rows,
                    parts: &[Part::default()],
                    length: depth,
                    a_step: co,
                    b: Panels {
                        data: &scratch.b,
                        n: columns,
                        k: depth,
                    },
                    columns: 0..columns,
                    bias: None,
                    add: true,
                };
                // SAFETY: the caller's promise; phases before this one took `before * co * width` values.
                unsafe { product.run(sums.add(before * co * width), std::ptr::null()) }
            }
        }
    }

    /// Lays out the patches of `lines`: panels of columns `(tap, channel)`, pixels of a line as the summed axis.
    fn fill_patches(
        &self,
        lines: &Range<usize>,
        (y, x): (&Phase, &Phase),
        channels: &Range<usize>,
        scratch: &mut Scratch,
    ) {
        let Scratch { b, values, .. } = scratch;
        let (width, stride) = (channels.len(), self.plan.x.stride);
        let count = x.count(self.shape.out_w(), self.plan.x.step);
        let pairs = units(count, self.precision);
        let (run, depth) = (x.taps.len() * width, lines.len() * pairs);
        let columns = y.taps.len() * run;
        grow(b, Panels::group(columns, depth));
        let places = (count - 1) * stride + x.taps.len();
        grow(values, places * width);
        for (i, line) in lines.clone().enumerate() {
            let (picture, t) = (line / self.lines, line % self.lines);
            for j in 0..y.taps.len() {
                let from = (t * self.plan.y.stride + j) as isize + y.first;
                self.fill_line(picture, from, x, channels, &mut values[..places * width]);
                for pair in 0..pairs {
                    let per_unit = values_per_unit(self.precision);
                    let low = &values[pair * per_unit * stride * width..][..run];
                    let second = pair * per_unit + 1;
                    let high = (per_unit == 2 && second < count)
                        .then(|| &values[second * stride * width..][..run]);
                    let place = Place {
                        columns,
                        depth,
                        step: i * pairs + pair,
                        first: j * run,
                    };
                    place.write(low, high, self.precision, b);
                }
            }
        }
        pad(columns, depth, b);
    }

    /// Copies the channels of one input line, from the first place that phase `x` reads, zeros outside the picture.
    fn fill_line(
        &self,
        picture: usize,
        line: isize,
        x: &Phase,
        channels: &Range<usize>,
        values: &mut [f32],
    ) {
        let ConvShape { h, w, ci, .. } = *self.shape;
        let width = channels.len();
        if !(0..h as isize).contains(&line) {
            return values.fill(0.0);
        }
        let start = (picture * h + line as usize) * w * ci;
        let line = &self.x[start.min(self.x.len())..self.x.len().min(start + w * ci)];
        let there = line.len() / ci;
        let before = ((-x.first).max(0) as usize).min(values.len() / width);
        let skipped = x.first.max(0) as usize;
        let (border, values) = values.split_at_mut(before * width);
        border.fill(0.0);
        let copied = there.saturating_sub(skipped).min(values.len() / width);
        let (values, border) = values.split_at_mut(copied * width);
        border.fill(0.0);
        if width == ci {
            values.copy_from_slice(&line[skipped * ci..][..copied * ci]);
        } else {
            for (values, pixel) in values
                .chunks_exact_mut(width)
                .zip(line[skipped * ci..].chunks_exact(ci))
            {
                values.copy_from_slice(&pixel[channels.clone()]);
            }
        }
    }

    /// Lays out `dy` of `lines`: `[pixels of a line in units][co]`.
    fn fill_dy(&self, lines: &Range<usize>, (y, x): (&Phase, &Phase), out: &mut Vec<u32>) {
        let (ho, wo, co) = (self.shape.out_h(), self.shape.out_w(), self.shape.co);
        let Axis { step, .. } = self.plan.x;
        let count = x.count(wo, step);
        let pairs = units(count, self.precision);
        grow(out, lines.len() * pairs * co);
        for (line, out) in lines.clone().zip(out.chunks_exact_mut(pairs * co)) {
            let (picture, t) = (line / self.lines, line % self.lines);
            let to_y = t * self.plan.y.step + y.offset;
            if to_y >= ho {
                out.fill(0);
                continue;
            }
            let pixel = |i: usize| {
                let start = ((picture * ho + to_y) * wo + i * step + x.offset) * co;
                (i < count)
                    .then(|| self.dy.get(start..start + co))
                    .flatten()
            };
            for (pair, out) in out.chunks_exact_mut(co).enumerate() {
                match (
                    self.precision,
                    pixel(pair * values_per_unit(self.precision)),
                ) {
                    (_, None) => out.fill(0),
                    (Precision::F32, Some(low)) => fill_row(low, out, Precision::F32),
                    (Precision::Bf16, Some(low)) => fill_pairs(low, pixel(pair * 2 + 1), out),
                }
            }
        }
    }

    /// Adds the shares of output channel `co` up into `dw [ci, taps]`.
    fn collect(&self, sums: &[f32], co: usize, dw: &mut [f32]) {
        let ConvShape { ci, kh, kw, .. } = *self.shape;
        let taps = kh * kw;
        let block = self.cells * self.shape.co * self.channels;
        dw.fill(0.0);
        for (task, sums) in sums.chunks_exact(block.max(1)).enumerate() {
            let first = task % self.blocks * self.channels;
            let width = self.channels.min(ci - first);
            let mut before = 0;
            for (y, x) in self.plan.phases() {
                let cells = y.taps.len() * x.taps.len();
                let sums = &sums[(before * self.shape.co + co * cells) * width..][..cells * width];
                before += cells;
                let places = y
                    .taps
                    .iter()
                    .flat_map(|ys| x.taps.iter().map(move |xs| (ys, xs)));
                for ((ys, xs), sums) in places.zip(sums.chunks_exact(width.max(1))) {
                    for tap in ys.iter().flat_map(|y| xs.iter().map(move |x| y * kw + x)) {
                        for (c, sum) in sums.iter().enumerate() {
                            dw[(first + c) * taps + tap] += sum;
                        }
                    }
                }
            }
        }
    }
}

/// Where a run of columns goes inside panels `[columns / 64][depth][64]`.
struct Place {
    columns: usize,
    depth: usize,
    step: usize,
    first: usize,
}

impl Place {
    /// Writes one step of the summed axis for the columns from `first` on.
    fn write(&self, low: &[f32], high: Option<&[f32]>, precision: Precision, panels: &mut [u32]) {
        let mut done = 0;
        while done < low.len() {
            let column = self.first + done;
            let (panel, inside) = (column / PANEL * PANEL, column % PANEL);
            let width = Panels::width(self.columns, panel);
            let there = (width - inside).min(low.len() - done);
            let units = &mut panels[panel * self.depth + self.step * width + inside..][..there];
            match precision {
                Precision::F32 => fill_row(&low[done..][..there], units, precision),
                Precision::Bf16 => fill_pairs(
                    &low[done..][..there],
                    high.map(|high| &high[done..][..there]),
                    units,
                ),
            }
            done += there;
        }
    }
}

/// Zeros the columns that fill the last panel up.
fn pad(columns: usize, depth: usize, panels: &mut [u32]) {
    let missing = columns.next_multiple_of(LANES) - columns;
    let last = (columns - 1) / PANEL * PANEL;
    let width = Panels::width(columns, last);
    if missing > 0 {
        for units in panels[last * depth..][..width * depth].chunks_exact_mut(width) {
            units[width - missing..].fill(0);
        }
    }
}
