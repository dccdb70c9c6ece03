//! The gradient of a convolution's weight: pixels are the summed axis.
//!
//! Each task sums some pixels for a block of input channels: it lays out patches and `dy` so that neighbouring
//! pixels of a line share a unit, and multiplies. How pixels are shared out depends on the sizes alone, and the
//! shares are added in order, so the threads do not change a bit.

use std::cell::Cell;
use std::ops::Range;

use rayon::prelude::*;

use super::ConvShape;
use super::plan::{Phase, Plan};
use crate::isa::Precision;
use crate::product::pack::{fill_step, grow, turn, units, values_per_unit};
use crate::product::{LANES, PANEL, Panels, Part, Product, Row};
use crate::shared::{Output, Scratch, with_scratch};

/// Units of the summed axis that a task lays out at once.
const DEPTH: usize = 512;
/// Columns (taps times input channels) of a task, about.
const COLUMNS: usize = 1152;
/// Tasks to aim at, a number that does not depend on the threads.
const TASKS: usize = 16;
/// Most output channels of a task.
const OUTPUTS: usize = 192;
/// Most values of all shares together.
const MEMORY: usize = 1 << 20;
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
    if work.chunks == 0 || dw.is_empty() {
        return dw.fill(0.0);
    }
    // A 1x1 kernel whose pixels are not shared out is summed in place.
    let in_place = work.shares == 1 && work.cells == 1 && shape.kh * shape.kw == 1;
    let mut sums = SUMS.take();
    let block = work.cells * work.outputs * work.channels;
    if !in_place {
        grow(&mut sums, work.tasks() * block);
    }
    let out = Output::new(if in_place { dw } else { &mut sums });
    (0..work.tasks())
        .into_par_iter()
        .with_max_len(1)
        .for_each(|i| {
            let task = work.task(i);
            let (first, row) = if in_place {
                (
                    task.outputs.start * shape.ci + task.channels.start,
                    shape.ci,
                )
            } else {
                (i * block, task.channels.len())
            };
            // SAFETY: these places belong to task `i` alone, in place or in its block.
            with_scratch(|scratch| unsafe {
                work.compute(&task, scratch, out.pointer().add(first), row)
            });
        });
    if !in_place {
        let channel = shape.ci * shape.kh * shape.kw;
        let dw = dw.par_chunks_mut(channel).enumerate();
        dw.for_each(|(co, dw)| work.collect(&sums, co, dw));
    }
    SUMS.set(sums);
}

thread_local! {
    static SUMS: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
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
    /// Every cell with every tap that it stands for.
    places: Vec<(usize, usize)>,
    /// Input channels of a block, and blocks.
    channels: usize,
    channel_blocks: usize,
    /// Output channels of a block, and blocks.
    outputs: usize,
    output_blocks: usize,
    /// Lines of a phase in a picture.
    lines: usize,
    /// A chunk is some pictures, or some lines of one.
    pictures_at_once: usize,
    lines_at_once: usize,
    chunks: usize,
    /// Shares that the chunks fall into.
    shares: usize,
}

/// What one task sums.
struct Task {
    chunks: Range<usize>,
    channels: Range<usize>,
    outputs: Range<usize>,
}

/// The lines of a chunk, of each of its pictures, and what one phase makes of them.
struct Chunk {
    pictures: Range<usize>,
    lines: Range<usize>,
    /// Outputs of a line, and units that hold them.
    count: usize,
    units: usize,
    /// Input lines of a picture, and those from one output line to the next.
    inputs: usize,
    stride: usize,
}

impl Chunk {
    /// Units of the summed axis: line by line, of all pictures.
    fn steps(&self) -> usize {
        self.lines.len() * self.pictures.len() * self.units
    }

    /// Input lines in the order they are laid out, in which those that one tap reads are neighbours.
    fn input_lines(&self) -> impl Iterator<Item = usize> {
        let (inputs, stride) = (self.inputs, self.stride);
        (0..stride).flat_map(move |class| (class..inputs).step_by(stride))
    }

    /// Where in that order the lines of tap line `j` begin.
    fn place(&self, j: usize) -> usize {
        let before = (0..j % self.stride).map(|class| (self.inputs - class).div_ceil(self.stride));
        before.sum::<usize>() + j / self.stride
    }
}

impl<'a> Gradient<'a> {
    fn new(x: &'a [f32], dy: &'a [f32], shape: &'a ConvShape, precision: Precision) -> Self {
        let precision = precision.floating();
        let plan = Plan::forward(shape);
        let sizes: Vec<_> = plan
            .phases()
            .map(|(y, x)| y.taps.len() * x.taps.len())
            .collect();
        let most = sizes.iter().copied().max().unwrap_or(1).max(1);
        let (channels, channel_blocks) = even(shape.ci, (COLUMNS / most).max(LANES), LANES);
        let (outputs, output_blocks) = even(shape.co, OUTPUTS, 6);
        let lines = shape.out_h().div_ceil(plan.y.step);
        let width = units(shape.out_w().div_ceil(plan.x.step), precision);
        let fit = (DEPTH / width.max(1)).max(1);
        let (pictures_at_once, lines_at_once) =
            ((fit / lines.max(1)).max(1), fit.min(lines).max(1));
        let pixels = shape.n * shape.out_h() * shape.out_w();
        let chunks = if pixels == 0 {
            0
        } else {
            shape.n.div_ceil(pictures_at_once) * lines.div_ceil(lines_at_once)
        };
        let weights = shape.co * shape.ci * shape.kh * shape.kw;
        let shares = TASKS
            .div_ceil(channel_blocks * output_blocks)
            .min(pixels / SHARE);
        let shares = shares.min(MEMORY / weights.max(1)).min(chunks).max(1);
        Self {
            x,
            dy,
            shape,
            places: places(&plan, shape.kw),
            plan,
            precision,
            cells: sizes.iter().sum(),
            channels,
            channel_blocks,
            outputs,
            output_blocks,
            lines,
            pictures_at_once,
            lines_at_once,
            chunks,
            shares,
        }
    }

    fn tasks(&self) -> usize {
        self.shares * self.channel_blocks * self.output_blocks
    }

    fn task(&self, i: usize) -> Task {
        let share = i / (self.channel_blocks * self.output_blocks);
        let channels = i / self.output_blocks % self.channel_blocks * self.channels;
        let outputs = i % self.output_blocks * self.outputs;
        Task {
            chunks: share * self.chunks / self.shares..(share + 1) * self.chunks / self.shares,
            channels: channels..self.shape.ci.min(channels + self.channels),
            outputs: outputs..self.shape.co.min(outputs + self.outputs),
        }
    }

    fn chunk(&self, i: usize, (y, x): (&Phase, &Phase)) -> Chunk {
        let bands = self.lines.div_ceil(self.lines_at_once);
        let (picture, line) = (
            i / bands * self.pictures_at_once,
            i % bands * self.lines_at_once,
        );
        let lines = line..self.lines.min(line + self.lines_at_once);
        let count = x.count(self.shape.out_w(), self.plan.x.step);
        Chunk {
            pictures: picture..self.shape.n.min(picture + self.pictures_at_once),
            count,
            units: units(count, self.precision),
            inputs: (lines.len() - 1) * self.plan.y.stride + y.taps.len(),
            stride: self.plan.y.stride,
            lines,
        }
    }

    /// Sums the task's products: `[outputs, cells of a phase, channels]` for each phase, in rows of `row` values.
    ///
    /// # Safety
    /// No other thread uses the places `sums[.. cells * outputs * row]` that such rows fill.
    unsafe fn compute(&self, task: &Task, scratch: &mut Scratch, sums: *mut f32, row: usize) {
        for i in task.chunks.clone() {
            let mut before = 0;
            for (y, x) in self.plan.phases() {
                let (cells, chunk) = (y.taps.len() * x.taps.len(), self.chunk(i, (y, x)));
                let first = before * task.outputs.len() * row;
                before += cells;
                self.fill_patches(&chunk, (y, x), &task.channels, scratch);
                self.fill_dy(&chunk, (y, x), &task.outputs, scratch);
                let distance = chunk.steps().next_multiple_of(LANES);
                scratch.rows.clear();
                let rows = (0..task.outputs.len()).map(|i| Row {
                    a: i * distance,
                    c: i * cells * row,
                    bias: 0,
                    ..Row::default()
                });
                scratch.rows.extend(rows);
                let columns = x.taps.len() * task.channels.len();
                for j in 0..y.taps.len() {
                    let product = Product {
                        precision: self.precision,
                        a: &scratch.a,
                        rows: &scratch.rows,
                        parts: &[Part {
                            a: 0,
                            group: 0,
                            k: chunk.place(j) * chunk.pictures.len() * chunk.units,
                        }],
                        length: chunk.steps(),
                        a_step: 1,
                        b: Panels {
                            data: &scratch.b,
                            n: columns,
                            k: chunk.inputs * chunk.pictures.len() * chunk.units,
                            scales: None,
                        },
                        columns: 0..columns,
                        bias: None,
                        add: i > task.chunks.start,
                    };
                    let place = first + j * x.taps.len() * row;
                    // SAFETY: the caller's promise.
                    unsafe { product.run(sums.add(place), std::ptr::null()) }
                }
            }
        }
    }

    /// Lays out input lines: panels of columns `(tap across, channel)`, pixels of the lines as the summed axis.
    fn fill_patches(
        &self,
        chunk: &Chunk,
        (y, x): (&Phase, &Phase),
        channels: &Range<usize>,
        scratch: &mut Scratch,
    ) {
        let Scratch { b, values, .. } = scratch;
        let (width, stride, per_unit) = (
            channels.len(),
            self.plan.x.stride,
            values_per_unit(self.precision),
        );
        let columns = x.taps.len() * width;
        if columns == 0 || y.taps.is_empty() || chunk.count == 0 {
            return;
        }
        let depth = chunk.pictures.len() * chunk.inputs * chunk.units;
        b.grow(Panels::group(columns, depth));
        let places = (chunk.count - 1) * stride + x.taps.len();
        values.grow(places * width);
        let top = (chunk.lines.start * self.plan.y.stride) as isize + y.first;
        let mut step = 0;
        for line in chunk.input_lines() {
            for picture in chunk.pictures.clone() {
                let line = top + line as isize;
                let in_place = self.line_in_place(picture, line, x, channels, places);
                let (line, distance) = in_place.unwrap_or_else(|| {
                    let values = &mut values[..places * width];
                    self.fill_line(picture, line, x, channels, values);
                    (values, width)
                });
                let place = |pixel: usize| &line[pixel * stride * distance..][..columns];
                for unit in 0..chunk.units {
                    let low = place(unit * per_unit);
                    let second = unit * per_unit + 1;
                    let high = (per_unit == 2 && second < chunk.count).then(|| place(second));
                    write_step(low, high, (depth, step), self.precision, b);
                    step += 1;
                }
            }
        }
        pad(columns, depth, b);
    }

    /// The channels of one input line where they lie, and the values from one pixel to the next, if `places` pixels
    /// of it can be read as they are.
    fn line_in_place(
        &self,
        picture: usize,
        line: isize,
        x: &Phase,
        channels: &Range<usize>,
        places: usize,
    ) -> Option<(&[f32], usize)> {
        let ConvShape { h, w, ci, .. } = *self.shape;
        let first = usize::try_from(x.first).ok()?;
        let line = usize::try_from(line).ok().filter(|line| *line < h)?;
        let together = x.taps.len() == 1 || channels.len() == ci;
        let start = ((picture * h + line) * w + first) * ci;
        let line = self.x.get(start..start + places * ci)?;
        (together && first + places <= w).then_some((&line[channels.start..], ci))
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

    /// Lays out `dy`: `[outputs][lines][pictures][pixels of a line in units]`, rows of whole lines of the cache.
    fn fill_dy(
        &self,
        chunk: &Chunk,
        (y, x): (&Phase, &Phase),
        outputs: &Range<usize>,
        scratch: &mut Scratch,
    ) {
        let (width, steps) = (outputs.len(), chunk.steps());
        let distance = steps.next_multiple_of(LANES);
        let Scratch {
            a,
            units: [lines, ..],
            ..
        } = scratch;
        a.grow(width.next_multiple_of(LANES) * distance);
        lines.grow(LANES * width);
        for first in (0..steps).step_by(LANES) {
            let lines = &mut lines[..LANES * width];
            for (step, units) in (first..steps).zip(lines.chunks_exact_mut(width)) {
                self.fill_step(chunk, (y, x), outputs, step, units);
            }
            turn(lines, width, distance, &mut a[first..]);
        }
    }

    /// Step `step` of the summed axis of `dy`, for all outputs.
    fn fill_step(
        &self,
        chunk: &Chunk,
        (y, x): (&Phase, &Phase),
        outputs: &Range<usize>,
        step: usize,
        units: &mut [u32],
    ) {
        let (ho, wo, co) = (self.shape.out_h(), self.shape.out_w(), self.shape.co);
        let (line, unit) = (step / chunk.units, step % chunk.units);
        let picture = chunk.pictures.start + line % chunk.pictures.len();
        let line = chunk.lines.start + line / chunk.pictures.len();
        let line = line * self.plan.y.step + y.offset;
        let pixel = |i: usize| {
            let place = i * self.plan.x.step + x.offset;
            let start = ((picture * ho + line) * wo + place) * co;
            let values = self.dy.get(start + outputs.start..start + outputs.end);
            values.filter(|_| line < ho && i < chunk.count)
        };
        let at_once = values_per_unit(self.precision);
        match pixel(unit * at_once) {
            None => units.fill(0),
            Some(low) => fill_step(low, pixel(unit * at_once + 1), self.precision, units),
        }
    }

    /// Adds the shares of output channel `co` up into `dw [ci, taps]`.
    fn collect(&self, sums: &[f32], co: usize, dw: &mut [f32]) {
        dw.fill(0.0);
        let block = self.cells * self.outputs * self.channels;
        let (blocks, outputs) = (self.channel_blocks * self.output_blocks, co / self.outputs);
        let mut total = vec![0.0; self.cells * self.channels];
        for first in (0..self.channel_blocks).map(|c| c * self.output_blocks + outputs) {
            let task = self.task(first);
            total.fill(0.0);
            for share in 0..self.shares {
                let sums = &sums[(share * blocks + first) * block..][..block];
                self.add_share(sums, &task, co - task.outputs.start, &mut total);
            }
            self.scatter(&total, &task.channels, dw);
        }
    }

    /// Adds row `row` of one task's sums to `total [cells, channels]`.
    fn add_share(&self, sums: &[f32], task: &Task, row: usize, total: &mut [f32]) {
        let width = task.channels.len();
        let mut before = 0;
        for (y, x) in self.plan.phases() {
            let cells = y.taps.len() * x.taps.len();
            let first = (before * task.outputs.len() + row * cells) * width;
            let total = &mut total[before * width..][..cells * width];
            for (total, sum) in total.iter_mut().zip(&sums[first..]) {
                *total += sum;
            }
            before += cells;
        }
    }

    /// Adds `total [cells, channels]` to the taps that each cell stands for.
    fn scatter(&self, total: &[f32], channels: &Range<usize>, dw: &mut [f32]) {
        let (width, taps) = (channels.len(), self.shape.kh * self.shape.kw);
        let dw = dw[channels.start * taps..].chunks_exact_mut(taps);
        for (c, dw) in dw.take(width).enumerate() {
            for (cell, tap) in &self.places {
                dw[*tap] += total[cell * width + c];
            }
        }
    }
}

/// Every cell with every tap that it stands for.
fn places(plan: &Plan, kw: usize) -> Vec<(usize, usize)> {
    let cells = plan.phases().flat_map(|(y, x)| {
        let lines = y.taps.iter();
        lines.flat_map(|ys| x.taps.iter().map(move |xs| (ys, xs)))
    });
    let taps = cells.enumerate().flat_map(|(cell, (ys, xs))| {
        let taps = ys
            .iter()
            .flat_map(move |y| xs.iter().map(move |x| y * kw + x));
        taps.map(move |tap| (cell, tap))
    });
    taps.collect()
}

/// Cuts `len` into blocks of about the same size, at most `most` (rounded up to `step`): size and number.
fn even(len: usize, most: usize, step: usize) -> (usize, usize) {
    let blocks = len.div_ceil(most.next_multiple_of(step)).max(1);
    if blocks == 1 {
        return (len, 1);
    }
    let size = len.div_ceil(blocks).next_multiple_of(step);
    (size, len.div_ceil(size))
}

/// Writes step `step` of the summed axis, of `depth`, into panels.
fn write_step(
    low: &[f32],
    high: Option<&[f32]>,
    (depth, step): (usize, usize),
    precision: Precision,
    panels: &mut [u32],
) {
    let columns = low.len();
    for first in (0..columns).step_by(PANEL) {
        let width = Panels::width(columns, first);
        let there = first..columns.min(first + width);
        let units = &mut panels[first * depth + step * width..][..there.len()];
        fill_step(
            &low[there.clone()],
            high.map(|high| &high[there]),
            precision,
            units,
        );
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
