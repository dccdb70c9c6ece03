//! A convolution, and the gradient of its input: the same walk with other phases.

use rayon::prelude::*;

use super::ConvShape;
use super::plan::{Axis, Phase, Plan};
use crate::isa::Precision;
use crate::linear::PackedMatrix;
use crate::product::int8::{ZERO, fill_activations, largest, scale};
use crate::product::pack::{fill_panel, fill_panel_by_column, fill_row, units, values_per_unit};
use crate::product::{LANES, PANEL, Part, Product, Row};
use crate::shared::{Lines, Output, Scratch, Units, with_scratch};
use crate::tasks::{self, HEAVY, MOST_UNITS, TASK_UNITS};

/// A weight `[co, ci, kh, kw]` packed for [`conv2d`] or for [`conv2d_backward_input`].
///
/// It fits pictures of any size and number.
#[derive(Clone, Debug)]
pub struct PackedConv {
    plan: Plan,
    /// One matrix a pair of phases.
    matrices: Vec<PackedMatrix>,
    precision: Precision,
}

/// What is added to a convolution's sums, in this order.
#[derive(Clone, Copy, Debug, Default)]
pub struct Epilogue<'a> {
    /// `[co]`.
    pub bias: Option<&'a [f32]>,
    /// `[n, co]`, for instance a projected time embedding.
    pub per_channel: Option<&'a [f32]>,
    /// `[n, out_h, out_w, co]`, added last.
    pub residual: Option<&'a [f32]>,
}

impl PackedConv {
    /// Packs `w [co, ci, kh, kw]` for [`conv2d`].
    ///
    /// # Panics
    /// If `w` has another length.
    pub fn pack(w: &[f32], shape: &ConvShape, precision: Precision) -> Self {
        let taps = shape.kh * shape.kw;
        assert_eq!(
            w.len(),
            shape.co * shape.ci * taps,
            "a weight does not fit {shape:?}"
        );
        let plan = Plan::forward(shape);
        let depth = shape.ci.next_multiple_of(values_per_unit(precision));
        let matrices = plan.phases().map(|(y, x)| {
            let column = |co: usize, values: &mut [f32]| {
                let w = &w[co * shape.ci * taps..][..shape.ci * taps];
                for (cell, values) in cells(y, x, shape.kw).zip(values.chunks_exact_mut(depth)) {
                    gather(w, &cell, taps, &mut values[..shape.ci]);
                    values[shape.ci..].fill(0.0);
                }
            };
            let k = y.taps.len() * x.taps.len() * depth;
            if precision == Precision::Int8 {
                return PackedMatrix::of_bytes(shape.co, k, column);
            }
            PackedMatrix::by_panel(shape.co, k, precision, |first, panel| {
                fill_panel_by_column(k, shape.co, precision, &column, first, panel);
            })
        });
        Self {
            matrices: matrices.collect(),
            plan,
            precision,
        }
    }

    /// Bytes that the weight of a convolution takes once it is packed for [`conv2d`].
    pub fn bytes(shape: &ConvShape, precision: Precision) -> usize {
        let depth = shape.ci.next_multiple_of(values_per_unit(precision));
        let plan = Plan::forward(shape);
        let phases = plan.phases().map(|(y, x)| {
            let k = y.taps.len() * x.taps.len() * depth;
            PackedMatrix::bytes(shape.co, k, precision)
        });
        phases.sum()
    }

    /// Packs `w [co, ci, kh, kw]` for [`conv2d_backward_input`], which is [`floating`](Precision::floating).
    ///
    /// # Panics
    /// If `w` has another length.
    pub fn pack_for_backward_input(w: &[f32], shape: &ConvShape, precision: Precision) -> Self {
        let taps = shape.kh * shape.kw;
        assert_eq!(
            w.len(),
            shape.co * shape.ci * taps,
            "a weight does not fit {shape:?}"
        );
        let precision = precision.floating();
        let plan = Plan::backward(shape);
        let depth = shape.co.next_multiple_of(values_per_unit(precision));
        let matrices = plan.phases().map(|(y, x)| {
            let cells: Vec<_> = cells(y, x, shape.kw).collect();
            PackedMatrix::by_panel(shape.ci, cells.len() * depth, precision, |first, panel| {
                let columns = (shape.ci - first).min(PANEL);
                let mut values = vec![0.0; depth * columns];
                let cell_units = units(depth, precision) * columns.next_multiple_of(LANES);
                for (cell, panel) in cells.iter().zip(panel.chunks_exact_mut(cell_units)) {
                    for (co, values) in values.chunks_exact_mut(columns).take(shape.co).enumerate()
                    {
                        gather(&w[(co * shape.ci + first) * taps..], cell, taps, values);
                    }
                    let row = |k: usize| &values[k * columns..][..columns];
                    fill_panel(depth, columns, precision, row, panel);
                }
            })
        });
        Self {
            matrices: matrices.collect(),
            plan,
            precision,
        }
    }
}

/// Taps of the kernel, numbered along its lines, that are summed in each place of a pair of phases.
fn cells<'a>(y: &'a Phase, x: &'a Phase, kw: usize) -> impl Iterator<Item = Vec<usize>> + 'a {
    y.taps.iter().flat_map(move |ys| {
        x.taps.iter().map(move |xs| {
            ys.iter()
                .flat_map(|y| xs.iter().map(move |x| y * kw + x))
                .collect()
        })
    })
}

/// `values[c] = ` sum of `w[c * taps + tap]` over the taps of `cell`.
fn gather(w: &[f32], cell: &[usize], taps: usize, values: &mut [f32]) {
    let Some((first, others)) = cell.split_first() else {
        return values.fill(0.0);
    };
    for (c, value) in values.iter_mut().enumerate() {
        *value = w[c * taps + first];
    }
    for tap in others {
        for (c, value) in values.iter_mut().enumerate() {
            *value += w[c * taps + tap];
        }
    }
}

/// `out [n, out_h, out_w, co]` = convolution of `x [n, h, w, ci]` with `w`, and what `epilogue` adds.
///
/// # Panics
/// If a length does not fit, or `w` was packed for another kind of convolution.
pub fn conv2d(
    x: &[f32],
    w: &PackedConv,
    shape: &ConvShape,
    epilogue: &Epilogue<'_>,
    out: &mut [f32],
) {
    let (ho, wo) = (shape.out_h(), shape.out_w());
    assert!(
        w.plan == Plan::forward(shape),
        "the weight was packed for another convolution than {shape:?}"
    );
    assert_eq!(
        x.len(),
        shape.n * shape.h * shape.w * shape.ci,
        "conv2d: an input does not fit {shape:?}"
    );
    assert_eq!(
        out.len(),
        shape.n * ho * wo * shape.co,
        "conv2d: an output does not fit {shape:?}"
    );
    assert!(
        epilogue.bias.is_none_or(|bias| bias.len() == shape.co),
        "conv2d: a bias does not fit {shape:?}"
    );
    assert!(
        epilogue
            .per_channel
            .is_none_or(|b| b.len() == shape.n * shape.co),
        "conv2d: `per_channel` does not fit"
    );
    assert!(
        epilogue.residual.is_none_or(|r| r.len() == out.len()),
        "conv2d: a residual does not fit {shape:?}"
    );
    let walk = Walk {
        x,
        w,
        from: Pictures {
            n: shape.n,
            h: shape.h,
            w: shape.w,
            c: shape.ci,
        },
        to: Pictures {
            n: shape.n,
            h: ho,
            w: wo,
            c: shape.co,
        },
        epilogue,
        largest: match w.precision {
            Precision::Int8 => largest_of_each(x, shape.n),
            Precision::F32 | Precision::Bf16 => Vec::new(),
        },
    };
    walk.run(out);
}

/// `dx [n, h, w, ci]`, the gradient of [`conv2d`]'s input, from its output's `dy [n, out_h, out_w, co]`.
///
/// # Panics
/// If a length does not fit, or `w` was packed for another kind of convolution.
pub fn conv2d_backward_input(dy: &[f32], w: &PackedConv, shape: &ConvShape, dx: &mut [f32]) {
    let (ho, wo) = (shape.out_h(), shape.out_w());
    assert!(
        w.plan == Plan::backward(shape),
        "the weight was packed for another convolution than {shape:?}"
    );
    assert_eq!(
        dy.len(),
        shape.n * ho * wo * shape.co,
        "conv2d_backward_input: `dy` does not fit {shape:?}"
    );
    assert_eq!(
        dx.len(),
        shape.n * shape.h * shape.w * shape.ci,
        "conv2d_backward_input: `dx` does not fit {shape:?}"
    );
    let walk = Walk {
        x: dy,
        w,
        from: Pictures {
            n: shape.n,
            h: ho,
            w: wo,
            c: shape.co,
        },
        to: Pictures {
            n: shape.n,
            h: shape.h,
            w: shape.w,
            c: shape.ci,
        },
        epilogue: &Epilogue::default(),
        largest: Vec::new(),
    };
    walk.run(dx);
}

/// Pictures `[n, h, w, c]`.
#[derive(Clone, Copy)]
struct Pictures {
    n: usize,
    h: usize,
    w: usize,
    c: usize,
}

/// A convolution from some pictures to others.
struct Walk<'a> {
    x: &'a [f32],
    w: &'a PackedConv,
    from: Pictures,
    to: Pictures,
    epilogue: &'a Epilogue<'a>,
    /// Largest absolute value of each picture, where activations are bytes.
    largest: Vec<f32>,
}

/// Largest absolute value of each of `n` pictures.
fn largest_of_each(x: &[f32], n: usize) -> Vec<f32> {
    const AT_ONCE: usize = 1 << 16;
    let picture = |values: &[f32]| {
        // By its bits, as `largest` does, so that not-a-number is never lost.
        let parts = values
            .par_chunks(AT_ONCE)
            .map(|part| largest(part).to_bits());
        f32::from_bits(parts.max().unwrap_or(0))
    };
    x.chunks_exact((x.len() / n.max(1)).max(1))
        .map(picture)
        .collect()
}

/// Most output pixels, of all pictures, among which a heavy weight is not shared out.
const FEW: usize = 1024;
/// Parts of its columns then.
const COLUMN_TASKS: usize = 10;
/// Fewest columns of a task otherwise, so that copying its lines is little beside their products.
const COLUMNS: usize = 4 * PANEL;

/// Which part of the output a task computes: whole pictures, or lines of one, and some channels of them.
struct Task {
    pictures: std::ops::Range<usize>,
    /// Lines of a phase.
    lines: std::ops::Range<usize>,
    columns: std::ops::Range<usize>,
}

/// How an output falls into tasks; it does not depend on the threads.
struct Cut {
    /// Pictures of a task, and lines of each.
    pictures: usize,
    lines: usize,
    /// Columns of a task, whole panels.
    columns: usize,
}

impl Cut {
    /// Tasks of `wanted` lines, of pictures that have so many.
    fn new(lines: usize, wanted: usize, columns: usize) -> Self {
        Self {
            pictures: (wanted / lines).max(1),
            lines: wanted.clamp(1, lines),
            columns,
        }
    }
}

/// The input lines of a task, in units, with their border.
struct Band {
    /// Lines of one picture, and units of a line.
    lines: usize,
    line: usize,
    /// Units of a pixel.
    pixel: usize,
}

impl Walk<'_> {
    fn run(&self, out: &mut [f32]) {
        if out.is_empty() {
            return;
        }
        let Plan { y, x } = &self.w.plan;
        let pixel = units(self.from.c, self.w.precision);
        let (lines, columns) = (self.to.h.div_ceil(y.step), self.to.w.div_ceil(x.step));
        let line_units = x.extent(columns) * y.stride * pixel;
        let cut = self.cut(lines, line_units, y.step * self.to.w);
        let out = Output::new(out);
        let bands = lines.div_ceil(cut.lines);
        let parts = self.to.c.div_ceil(cut.columns);
        (0..self.to.n.div_ceil(cut.pictures) * bands * parts)
            .into_par_iter()
            .with_max_len(1)
            .for_each(|i| {
                let (i, column) = (i / parts, i % parts * cut.columns);
                let (pictures, first) = (i / bands * cut.pictures, i % bands * cut.lines);
                let task = Task {
                    pictures: pictures..self.to.n.min(pictures + cut.pictures),
                    lines: first..lines.min(first + cut.lines),
                    columns: column..self.to.c.min(column + cut.columns),
                };
                with_scratch(|scratch| self.compute(&task, scratch, out));
            });
    }

    /// Tasks for `lines` of a phase, of `line_units` units before and `line_rows` pixels after the convolution.
    ///
    /// A task's lines and a part of a panel fit a core's cache. Of a heavy weight, a task has more lines, and where
    /// pixels are few, tasks share out its columns instead, and each reads its own once.
    fn cut(&self, lines: usize, line_units: usize, line_rows: usize) -> Cut {
        let weight: usize = self.w.matrices.iter().map(PackedMatrix::units).sum();
        let (heavy, all) = (weight >= HEAVY, lines * self.to.n);
        let room = if heavy { MOST_UNITS } else { TASK_UNITS };
        let most = room / line_units.max(1);
        if heavy && self.to.n * self.to.h * self.to.w <= FEW {
            let panels = self.to.c.div_ceil(PANEL).div_ceil(COLUMN_TASKS);
            return Cut::new(lines, all.min(most), panels * PANEL);
        }
        let enough = tasks::rows(all * line_rows, weight).div_ceil(line_rows);
        let wanted = enough.min(most);
        let columns = match heavy {
            true => tasks::columns(self.to.c, all.div_ceil(wanted.max(1))).max(COLUMNS),
            false => self.to.c.next_multiple_of(PANEL),
        };
        Cut::new(lines, wanted, columns)
    }

    /// Writes the task's part of `out`.
    fn compute(&self, task: &Task, scratch: &mut Scratch, out: Output) {
        let band = self.fill_band(task, &mut scratch.a);
        let bias = self.fill_bias(task, &mut scratch.values);
        let residual = self
            .epilogue
            .residual
            .map_or(std::ptr::null(), <[f32]>::as_ptr);
        for ((y, x), matrix) in self.w.plan.phases().zip(&self.w.matrices) {
            self.fill_rows(task, &band, (y, x), &mut scratch.rows);
            let length = x.taps.len() * band.pixel;
            scratch.parts.clear();
            scratch.parts.extend((0..y.taps.len()).map(|j| Part {
                a: j * band.line,
                group: 0,
                k: j * length,
            }));
            let product = Product {
                precision: self.w.precision,
                a: &scratch.a,
                rows: &scratch.rows,
                parts: if length == 0 { &[] } else { &scratch.parts },
                length,
                a_step: 1,
                b: matrix.panels(),
                columns: task.columns.clone(),
                bias: bias.then_some(&scratch.values),
                add: false,
            };
            // SAFETY: the rows are pixels of the task's lines, which no other task has; checked lengths hold them.
            unsafe { product.run(out.pointer(), residual) }
        }
    }

    /// Copies the input lines that the task reads.
    fn fill_band(&self, task: &Task, units_out: &mut Units) -> Band {
        let Plan { y, x } = &self.w.plan;
        let (h, w, c) = (self.from.h as isize, self.from.w, self.from.c);
        let pixel = units(c, self.w.precision);
        let columns = x.extent(self.to.w.div_ceil(x.step));
        let band = Band {
            lines: y.extent(task.lines.len()),
            line: columns * pixel,
            pixel,
        };
        units_out.grow(task.pictures.len() * band.lines * band.line);
        let first = (task.lines.start * y.stride) as isize + y.first();
        let places = task
            .pictures
            .clone()
            .flat_map(|picture| (0..band.lines).map(move |i| (picture, first + i as isize)));
        for ((picture, line), units) in places.zip(units_out.chunks_exact_mut(band.line.max(1))) {
            if (0..h).contains(&line) {
                let values = &self.x[(picture * self.from.h + line as usize) * w * c..][..w * c];
                let fill = |values: &[f32], units: &mut [u32]| match self.w.precision {
                    Precision::Int8 => {
                        fill_activations(values, self.largest[picture], units);
                    }
                    floating => fill_row(values, units, floating),
                };
                fill_line(values, c, x, (pixel, self.w.precision), units, fill);
            } else {
                units.fill(nothing(self.w.precision));
            }
        }
        band
    }

    /// Sums of bias and `per_channel` for the task's pictures; whether there are any.
    fn fill_bias(&self, task: &Task, values: &mut Lines<f32>) -> bool {
        let Epilogue {
            bias, per_channel, ..
        } = self.epilogue;
        if bias.is_none() && per_channel.is_none() {
            return false;
        }
        let width = self.to.c.next_multiple_of(LANES);
        values.grow(task.pictures.len() * width);
        for (picture, values) in task.pictures.clone().zip(values.chunks_exact_mut(width)) {
            for (c, value) in values[..self.to.c].iter_mut().enumerate() {
                *value = bias.map_or(0.0, |bias| bias[c])
                    + per_channel.map_or(0.0, |b| b[picture * self.to.c + c]);
            }
        }
        true
    }

    /// The output pixels of a pair of phases, and where their patches begin.
    fn fill_rows(&self, task: &Task, band: &Band, (y, x): (&Phase, &Phase), rows: &mut Vec<Row>) {
        let plan = &self.w.plan;
        let (y0, x0) = (
            (y.first - plan.y.first()) as usize,
            (x.first - plan.x.first()) as usize,
        );
        let width = self.to.c.next_multiple_of(LANES);
        rows.clear();
        for (i, picture) in task.pictures.clone().enumerate() {
            for (j, line) in task.lines.clone().enumerate() {
                let to_y = line * plan.y.step + y.offset;
                if to_y >= self.to.h {
                    continue;
                }
                let a = (i * band.lines + j * plan.y.stride + y0) * band.line + x0 * band.pixel;
                let c = (picture * self.to.h + to_y) * self.to.w + x.offset;
                rows.extend((0..x.count(self.to.w, plan.x.step)).map(|t| Row {
                    a: a + t * plan.x.stride * band.pixel,
                    c: (c + t * plan.x.step) * self.to.c,
                    bias: i * width,
                    scale: self.largest.get(picture).map_or(0.0, |&of| scale(of).0),
                }));
            }
        }
    }
}

/// A unit of zeros.
fn nothing(precision: Precision) -> u32 {
    match precision {
        Precision::Int8 => ZERO,
        Precision::F32 | Precision::Bf16 => 0,
    }
}

/// Writes one line of a band: `values [w, c]` between borders of zeros, by `fill`.
fn fill_line(
    values: &[f32],
    c: usize,
    x: &Axis,
    (pixel, precision): (usize, Precision),
    units: &mut [u32],
    fill: impl Fn(&[f32], &mut [u32]),
) {
    let before = (-x.first()).max(0) as usize * pixel;
    let skipped = x.first().max(0) as usize * c;
    let (border, units) = units.split_at_mut(before.min(units.len()));
    border.fill(nothing(precision));
    let values = &values[skipped.min(values.len())..];
    let there = (values.len() / c.max(1)).min(units.len() / pixel.max(1));
    let (units, border) = units.split_at_mut(there * pixel);
    border.fill(nothing(precision));
    if c.is_multiple_of(values_per_unit(precision)) {
        fill(&values[..there * c], units);
    } else {
        for (values, units) in values.chunks_exact(c).zip(units.chunks_exact_mut(pixel)) {
            fill(values, units);
        }
    }
}
