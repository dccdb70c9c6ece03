//! The CPU: every operation on borrowed slices of Flex tensors, results moved into new ones without a copy.

use std::sync::Arc;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::{DType, Element, Tensor};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use latent_kernels as kernels;
use latent_kernels::{
    Activation, AttentionShape, ConvShape, Epilogue, GroupNormShape, PackedConv, PackedMatrix,
    Precision,
};
use rayon::prelude::*;

use super::buffers::Buffer;
use super::composed::nearest_source;
use super::pack::{Bits, PackKind, Packed, cached};
use super::{
    AttentionOptions, AttentionRecord, ConvOptions, GroupNormOptions, LatentOps, LinearOptions,
    Maybe, WeightUse,
};

type Cpu = FloatTensor<Flex>;

/// `x` itself if its values lie in one run of memory, else a copy that does.
pub(crate) fn dense(x: Cpu) -> Cpu {
    if x.as_slice::<f32>().is_some() {
        x
    } else {
        x.to_contiguous()
    }
}

/// The values of a [`dense`] tensor.
///
/// # Panics
/// If the tensor is not f32, which no tensor of ours is.
pub(crate) fn values(x: &Cpu) -> &[f32] {
    match x.as_slice::<f32>() {
        Some(values) => values,
        None => panic!("a dense f32 tensor is needed, found {x:?}"),
    }
}

/// A tensor of the CPU as the kernels see it.
///
/// # Panics
/// If it lies on another device.
pub(crate) fn host<const D: usize>(x: Tensor<D>) -> Cpu {
    match x.try_into_primitive::<Flex>() {
        Ok(x) => dense(x),
        Err(_) => panic!("a tensor of the CPU is needed"),
    }
}

/// Group norm of a band `x` with `[weight, bias]` and the statistics of its whole picture; all on the CPU.
pub(crate) fn group_norm_band(
    x: Tensor<4>,
    [weight, bias]: [Tensor<1>; 2],
    stats: &[f32],
    silu: bool,
) -> Tensor<4> {
    let (shape, device) = (x.dims(), x.device());
    let (x, weight, bias) = (host(x), host(weight), host(bias));
    let mut out = Buffer::unset(values(&x).len());
    kernels::group_norm_band(
        values(&x),
        values(&weight),
        values(&bias),
        stats,
        silu,
        &mut out,
    );
    Tensor::from_data(out.into_data(&shape), &device)
}

fn dims(x: &Cpu) -> Vec<usize> {
    x.shape().to_vec()
}

/// Number of rows and their width: all axes but the last, and the last.
fn matrix(x: &Cpu) -> (usize, usize) {
    let shape = x.shape();
    let width = shape[shape.num_dims() - 1];
    (shape.num_elements() / width.max(1), width)
}

fn given(tensor: Maybe<Flex>) -> Option<Cpu> {
    tensor.into_option().map(dense)
}

pub(super) fn conv_shape(
    x: [usize; 4],
    co: usize,
    kernel: [usize; 2],
    options: &ConvOptions,
) -> ConvShape {
    let [n, h, w, ci] = x;
    ConvShape {
        n,
        h,
        w,
        ci,
        co,
        kh: kernel[0],
        kw: kernel[1],
        stride: options.stride,
        padding: options.padding,
        upsample: options.upsample,
    }
}

/// Calls `pack` with the values of a weight that may still have the type of its file.
fn with_f32<R>(weight: &Cpu, pack: impl FnOnce(&[f32]) -> R) -> R {
    fn widened<T: Element + bytemuck::Pod>(
        weight: &Cpu,
        widen: impl Fn(&[T], &mut [f32]) + Sync,
    ) -> Buffer {
        let Some(from) = weight.as_slice::<T>() else {
            panic!("a dense weight is needed, found {weight:?}")
        };
        let mut values = Buffer::unset(from.len());
        values
            .par_chunks_mut(CHUNK)
            .zip(from.par_chunks(CHUNK))
            .for_each(|(values, from)| widen(from, values));
        values
    }
    match weight.dtype() {
        DType::F16 => pack(&widened(weight, <[f16]>::convert_to_f32_slice)),
        DType::BF16 => pack(&widened(weight, <[bf16]>::convert_to_f32_slice)),
        _ => pack(values(weight)),
    }
}

/// Fewest values that make up a row of bytes, and fewest outputs and rows they pay for: first and last convolutions
/// and the layers of a time embedding cost next to nothing, and what they lose everything else would have lost.
const FEWEST_CHANNELS: usize = 64;
const FEWEST_ROWS: usize = 16;

/// The precision of a layer from `inputs` to `outputs` channels in `rows` places.
pub(super) fn fitted(
    precision: Precision,
    inputs: usize,
    outputs: usize,
    rows: usize,
) -> Precision {
    if inputs.min(outputs) < FEWEST_CHANNELS || rows < FEWEST_ROWS {
        precision.floating()
    } else {
        precision
    }
}

/// Rows of each picture among `rows` of all, for a linear layer of an input of `shape`.
pub(super) fn rows_of_each(shape: &[usize], rows: usize) -> usize {
    // A row of its own for each picture is a time embedding's, however many pictures there are.
    if shape.len() > 2 {
        rows / shape[0].max(1)
    } else {
        1
    }
}

fn packed_conv(weight: &Cpu, shape: &ConvShape, options: &ConvOptions) -> Arc<PackedConv> {
    let pack = || {
        with_f32(weight, |w| {
            Arc::new(PackedConv::pack(w, shape, options.precision))
        })
    };
    if options.weight_use == WeightUse::Once {
        return pack();
    }
    let bits = Bits::from(options.precision);
    let kind = if options.upsample {
        PackKind::UpsampledConv(bits)
    } else {
        PackKind::Conv(bits)
    };
    match cached(weight, kind, || Packed::Conv(pack())) {
        Packed::Conv(packed) => packed,
        Packed::Matrix(_) => unreachable!("a convolution's key holds a convolution"),
    }
}

fn packed_matrix(weight: &Cpu, options: &LinearOptions) -> Arc<PackedMatrix> {
    let [n, k] = weight.shape().dims();
    let pack = || {
        with_f32(weight, |w| {
            Arc::new(PackedMatrix::pack(w, n, k, options.precision))
        })
    };
    if options.weight_use == WeightUse::Once {
        return pack();
    }
    let kind = PackKind::Linear(Bits::from(options.precision));
    match cached(weight, kind, || Packed::Matrix(pack())) {
        Packed::Matrix(packed) => packed,
        Packed::Conv(_) => unreachable!("a matrix's key holds a matrix"),
    }
}

fn attention_shape(queries: &Cpu, keys: &Cpu, options: &AttentionOptions) -> AttentionShape {
    let [batch, length, channels] = queries.shape().dims();
    AttentionShape {
        batch,
        heads: options.heads,
        queries: length,
        keys: keys.shape()[1],
        head_dim: channels / options.heads,
        causal: options.causal,
    }
}

fn group_norm_shape(x: &Cpu, options: &GroupNormOptions) -> GroupNormShape {
    let (rows, channels) = matrix(x);
    let n = x.shape()[0];
    GroupNormShape {
        n,
        positions: rows / n.max(1),
        channels,
        groups: options.groups,
        eps: options.eps as f32,
        silu: options.silu,
    }
}

/// Values a thread takes at once in memory-bound loops: 256 KiB.
const CHUNK: usize = 1 << 16;

/// Rows of `width` that make up about [`CHUNK`] values.
fn rows_at_once(width: usize) -> usize {
    (CHUNK / width.max(1)).max(1)
}

impl LatentOps for Flex {
    fn latent_conv2d(
        x: Cpu,
        weight: Cpu,
        bias: Maybe<Self>,
        per_channel: Maybe<Self>,
        residual: Maybe<Self>,
        options: ConvOptions,
    ) -> Cpu {
        let (x, weight) = (dense(x), dense(weight));
        let [co, _, kh, kw] = weight.shape().dims();
        let shape = conv_shape(x.shape().dims(), co, [kh, kw], &options);
        // Of every picture alike, whatever their number.
        let rows = shape.out_h() * shape.out_w();
        let options = ConvOptions {
            precision: fitted(options.precision, shape.ci, co, rows),
            ..options
        };
        let packed = packed_conv(&weight, &shape, &options);
        let [bias, per_channel, residual] = [bias, per_channel, residual].map(given);
        let epilogue = Epilogue {
            bias: bias.as_ref().map(values),
            per_channel: per_channel.as_ref().map(values),
            residual: residual.as_ref().map(values),
        };
        let size = [shape.n, shape.out_h(), shape.out_w(), co];
        let mut out = Buffer::unset(size.iter().product());
        kernels::conv2d(values(&x), &packed, &shape, &epilogue, &mut out);
        out.into_tensor(&size)
    }

    fn latent_conv2d_backward_input(
        dy: Cpu,
        weight: Cpu,
        input: [usize; 4],
        options: ConvOptions,
    ) -> Cpu {
        let (dy, weight) = (dense(dy), dense(weight));
        let [co, _, kh, kw] = weight.shape().dims();
        let shape = conv_shape(input, co, [kh, kw], &options);
        let packed =
            PackedConv::pack_for_backward_input(values(&weight), &shape, options.precision);
        let mut dx = Buffer::unset(input.iter().product());
        kernels::conv2d_backward_input(values(&dy), &packed, &shape, &mut dx);
        dx.into_tensor(&input)
    }

    fn latent_conv2d_backward_weight(
        x: Cpu,
        dy: Cpu,
        kernel: [usize; 2],
        options: ConvOptions,
    ) -> Cpu {
        let (x, dy) = (dense(x), dense(dy));
        let co = dy.shape()[3];
        let shape = conv_shape(x.shape().dims(), co, kernel, &options);
        let size = [co, shape.ci, kernel[0], kernel[1]];
        let mut dw = Buffer::unset(size.iter().product());
        kernels::conv2d_backward_weight(
            values(&x),
            values(&dy),
            &shape,
            options.precision,
            &mut dw,
        );
        dw.into_tensor(&size)
    }

    fn latent_column_sums(dy: Cpu, runs: usize) -> Cpu {
        let dy = dense(dy);
        let (rows, width) = matrix(&dy);
        let mut out = Buffer::unset(runs * width);
        let run = rows / runs.max(1) * width;
        for (dy, out) in values(&dy).chunks(run.max(1)).zip(out.chunks_mut(width)) {
            kernels::column_sums(dy, width, out);
        }
        out.into_tensor(&[runs, width])
    }

    fn latent_linear(
        x: Cpu,
        weight: Cpu,
        bias: Maybe<Self>,
        residual: Maybe<Self>,
        options: LinearOptions,
    ) -> Cpu {
        let (x, weight) = (dense(x), dense(weight));
        let (bias, residual) = (given(bias), given(residual));
        let mut shape = dims(&x);
        let [width, inputs] = weight.shape().dims();
        let rows = rows_of_each(&shape, matrix(&x).0);
        let options = LinearOptions {
            precision: fitted(options.precision, inputs, width, rows),
            ..options
        };
        let packed = packed_matrix(&weight, &options);
        let mut out = Buffer::unset(matrix(&x).0 * width);
        kernels::linear(
            values(&x),
            &packed,
            bias.as_ref().map(values),
            residual.as_ref().map(values),
            &mut out,
        );
        shape.pop();
        shape.push(width);
        out.into_tensor(&shape)
    }

    fn latent_linear_backward_input(dy: Cpu, weight: Cpu, options: LinearOptions) -> Cpu {
        let (dy, weight) = (dense(dy), dense(weight));
        let [n, k] = weight.shape().dims();
        let packed = PackedMatrix::pack_transposed(values(&weight), k, n, options.precision);
        let mut shape = dims(&dy);
        let mut dx = Buffer::unset(matrix(&dy).0 * k);
        kernels::linear(values(&dy), &packed, None, None, &mut dx);
        shape.pop();
        shape.push(k);
        dx.into_tensor(&shape)
    }

    fn latent_linear_backward_weight(x: Cpu, dy: Cpu, options: LinearOptions) -> Cpu {
        let (x, dy) = (dense(x), dense(dy));
        let ((m, k), (_, n)) = (matrix(&x), matrix(&dy));
        let mut dw = Buffer::unset(n * k);
        kernels::linear_backward_weight(
            values(&x),
            values(&dy),
            m,
            k,
            n,
            options.precision,
            &mut dw,
        );
        dw.into_tensor(&[n, k])
    }

    fn latent_attention(queries: Cpu, keys: Cpu, values_: Cpu, options: AttentionOptions) -> Cpu {
        let (q, k, v) = (dense(queries), dense(keys), dense(values_));
        let shape = attention_shape(&q, &k, &options);
        let mut out = Buffer::unset(values(&q).len());
        kernels::attention(
            values(&q),
            values(&k),
            values(&v),
            &shape,
            options.precision,
            &mut out,
            None,
        );
        out.into_tensor(&dims(&q))
    }

    fn latent_attention_recorded(
        queries: Cpu,
        keys: Cpu,
        values_: Cpu,
        options: AttentionOptions,
    ) -> (Cpu, Cpu) {
        let (q, k, v) = (dense(queries), dense(keys), dense(values_));
        let shape = attention_shape(&q, &k, &options);
        let mut out = Buffer::unset(values(&q).len());
        let mut log_sums = Buffer::unset(shape.batch * shape.heads * shape.queries);
        kernels::attention(
            values(&q),
            values(&k),
            values(&v),
            &shape,
            options.precision,
            &mut out,
            Some(&mut log_sums),
        );
        let size = [shape.batch, shape.heads, shape.queries];
        (out.into_tensor(&dims(&q)), log_sums.into_tensor(&size))
    }

    fn latent_attention_backward(
        record: AttentionRecord<Self>,
        dy: Cpu,
        options: AttentionOptions,
    ) -> (Cpu, Cpu, Cpu) {
        let (q, k, v) = (
            dense(record.queries),
            dense(record.keys),
            dense(record.values),
        );
        let (out, log_sums, dy) = (dense(record.output), dense(record.log_sums), dense(dy));
        let shape = attention_shape(&q, &k, &options);
        let zeros = |like: &Cpu| Buffer::unset(values(like).len());
        let (mut dq, mut dk, mut dv) = (zeros(&q), zeros(&k), zeros(&v));
        kernels::attention_backward(
            values(&q),
            values(&k),
            values(&v),
            values(&out),
            values(&dy),
            values(&log_sums),
            &shape,
            options.precision,
            &mut dq,
            &mut dk,
            &mut dv,
        );
        (
            dq.into_tensor(&dims(&q)),
            dk.into_tensor(&dims(&k)),
            dv.into_tensor(&dims(&v)),
        )
    }

    fn latent_group_norm(x: Cpu, weight: Cpu, bias: Cpu, options: GroupNormOptions) -> Cpu {
        Self::latent_group_norm_recorded(x, weight, bias, options).0
    }

    fn latent_group_norm_recorded(
        x: Cpu,
        weight: Cpu,
        bias: Cpu,
        options: GroupNormOptions,
    ) -> (Cpu, Cpu) {
        let (x, weight, bias) = (dense(x), dense(weight), dense(bias));
        let shape = group_norm_shape(&x, &options);
        let mut out = Buffer::unset(values(&x).len());
        let mut statistics = Buffer::unset(shape.n * shape.groups * 2);
        kernels::group_norm(
            values(&x),
            values(&weight),
            values(&bias),
            &shape,
            &mut out,
            &mut statistics,
        );
        let size = [shape.n, shape.groups, 2];
        (out.into_tensor(&dims(&x)), statistics.into_tensor(&size))
    }

    fn latent_group_norm_backward(
        x: Cpu,
        dy: Cpu,
        weight: Cpu,
        bias: Cpu,
        statistics: Cpu,
        options: GroupNormOptions,
    ) -> (Cpu, Cpu, Cpu) {
        let (x, dy, statistics) = (dense(x), dense(dy), dense(statistics));
        let (weight, bias) = (dense(weight), dense(bias));
        let shape = group_norm_shape(&x, &options);
        let mut dx = Buffer::unset(values(&x).len());
        let mut dweight = Buffer::unset(shape.channels);
        let mut dbias = Buffer::unset(shape.channels);
        kernels::group_norm_backward(
            values(&x),
            values(&dy),
            values(&weight),
            values(&bias),
            values(&statistics),
            &shape,
            &mut dx,
            &mut dweight,
            &mut dbias,
        );
        let channels = [shape.channels];
        (
            dx.into_tensor(&dims(&x)),
            dweight.into_tensor(&channels),
            dbias.into_tensor(&channels),
        )
    }

    fn latent_layer_norm(x: Cpu, weight: Cpu, bias: Cpu, eps: f64) -> Cpu {
        let (x, weight, bias) = (dense(x), dense(weight), dense(bias));
        let mut out = Buffer::unset(values(&x).len());
        kernels::layer_norm(
            values(&x),
            values(&weight),
            values(&bias),
            eps as f32,
            &mut out,
        );
        out.into_tensor(&dims(&x))
    }

    fn latent_layer_norm_backward(x: Cpu, dy: Cpu, weight: Cpu, eps: f64) -> (Cpu, Cpu, Cpu) {
        let (x, dy, weight) = (dense(x), dense(dy), dense(weight));
        let channels = values(&weight).len();
        let mut dx = Buffer::unset(values(&x).len());
        let (mut dweight, mut dbias) = (Buffer::unset(channels), Buffer::unset(channels));
        kernels::layer_norm_backward(
            values(&x),
            values(&dy),
            values(&weight),
            eps as f32,
            &mut dx,
            &mut dweight,
            &mut dbias,
        );
        (
            dx.into_tensor(&dims(&x)),
            dweight.into_tensor(&[channels]),
            dbias.into_tensor(&[channels]),
        )
    }

    fn latent_geglu(x: Cpu) -> Cpu {
        let x = dense(x);
        let (rows, width) = matrix(&x);
        let mut out = Buffer::unset(rows * width / 2);
        kernels::geglu(values(&x), width / 2, &mut out);
        let mut shape = dims(&x);
        shape.pop();
        shape.push(width / 2);
        out.into_tensor(&shape)
    }

    fn latent_geglu_backward(x: Cpu, dy: Cpu) -> Cpu {
        let (x, dy) = (dense(x), dense(dy));
        let mut dx = Buffer::unset(values(&x).len());
        kernels::geglu_backward(values(&x), values(&dy), matrix(&x).1 / 2, &mut dx);
        dx.into_tensor(&dims(&x))
    }

    fn latent_activation(x: Cpu, kind: Activation) -> Cpu {
        let x = dense(x);
        let mut out = Buffer::unset(values(&x).len());
        kernels::activation(values(&x), kind, &mut out);
        out.into_tensor(&dims(&x))
    }

    fn latent_activation_backward(x: Cpu, dy: Cpu, kind: Activation) -> Cpu {
        let (x, dy) = (dense(x), dense(dy));
        let mut dx = Buffer::unset(values(&x).len());
        kernels::activation_backward(values(&x), values(&dy), kind, &mut dx);
        dx.into_tensor(&dims(&x))
    }

    fn latent_add(a: Cpu, b: Cpu) -> Cpu {
        let (a, b) = (dense(a), dense(b));
        let mut out = Buffer::unset(values(&a).len());
        let parts = values(&a)
            .par_chunks(CHUNK)
            .zip(values(&b).par_chunks(CHUNK));
        out.par_chunks_mut(CHUNK)
            .zip(parts)
            .for_each(|(out, (a, b))| {
                for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
                    *out = a + b;
                }
            });
        out.into_tensor(&dims(&a))
    }

    fn latent_concat(a: Cpu, b: Cpu) -> Cpu {
        let (a, b) = (dense(a), dense(b));
        let ((rows, left), (_, right)) = (matrix(&a), matrix(&b));
        let (width, at_once) = (left + right, rows_at_once(left + right));
        let mut out = Buffer::unset(rows * width);
        let parts = values(&a)
            .par_chunks(at_once * left)
            .zip(values(&b).par_chunks(at_once * right));
        out.par_chunks_mut(at_once * width)
            .zip(parts)
            .for_each(|(out, (a, b))| {
                for ((out, a), b) in out
                    .chunks_mut(width)
                    .zip(a.chunks(left))
                    .zip(b.chunks(right))
                {
                    out[..left].copy_from_slice(a);
                    out[left..].copy_from_slice(b);
                }
            });
        let mut shape = dims(&a);
        shape.pop();
        shape.push(width);
        out.into_tensor(&shape)
    }

    fn latent_split(x: Cpu, channels: usize) -> (Cpu, Cpu) {
        let x = dense(x);
        let (rows, width) = matrix(&x);
        let (left, right, at_once) = (channels, width - channels, rows_at_once(width));
        let (mut a, mut b) = (Buffer::unset(rows * left), Buffer::unset(rows * right));
        let parts = a
            .par_chunks_mut(at_once * left)
            .zip(b.par_chunks_mut(at_once * right));
        values(&x)
            .par_chunks(at_once * width)
            .zip(parts)
            .for_each(|(x, (a, b))| {
                for ((x, a), b) in x
                    .chunks(width)
                    .zip(a.chunks_mut(left))
                    .zip(b.chunks_mut(right))
                {
                    a.copy_from_slice(&x[..left]);
                    b.copy_from_slice(&x[left..]);
                }
            });
        let mut shape = dims(&x);
        shape.pop();
        let with = |width| [shape.as_slice(), &[width]].concat();
        (a.into_tensor(&with(left)), b.into_tensor(&with(right)))
    }

    fn latent_upsample(x: Cpu, size: [usize; 2]) -> Cpu {
        let x = dense(x);
        let [n, h, w, c] = x.shape().dims();
        let [height, width] = size;
        let (rows, columns) = sources([h, w], size);
        let mut out = Buffer::unset(n * height * width * c);
        let x_values = values(&x);
        out.par_chunks_mut(width * c)
            .enumerate()
            .for_each(|(i, out)| {
                let row = (i / height * h + rows[i % height]) * w;
                for (out, column) in out.chunks_mut(c).zip(&columns) {
                    out.copy_from_slice(&x_values[(row + column) * c..][..c]);
                }
            });
        out.into_tensor(&[n, height, width, c])
    }

    fn latent_upsample_backward(dy: Cpu, size: [usize; 2]) -> Cpu {
        let dy = dense(dy);
        let [n, height, width, c] = dy.shape().dims();
        let [h, w] = size;
        let (rows, columns) = sources(size, [height, width]);
        let mut dx = Buffer::zeros(n * h * w * c);
        let dy_values = values(&dy);
        dx.par_chunks_mut(w * c).enumerate().for_each(|(i, dx)| {
            let shown = (0..height).filter(|&y| rows[y] == i % h);
            for y in shown {
                let dy = &dy_values[(i / h * height + y) * width * c..][..width * c];
                for (dy, column) in dy.chunks(c).zip(&columns) {
                    for (dx, dy) in dx[column * c..][..c].iter_mut().zip(dy) {
                        *dx += dy;
                    }
                }
            }
        });
        dx.into_tensor(&[n, h, w, c])
    }
}

/// Source rows and columns of a resize.
fn sources(from: [usize; 2], to: [usize; 2]) -> (Vec<usize>, Vec<usize>) {
    (
        nearest_source(from[0], to[0]).collect(),
        nearest_source(from[1], to[1]).collect(),
    )
}
