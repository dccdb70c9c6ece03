//! Convolution on channels-last activations as one matrix product over the rows under the kernel.
//!
//! Burn's own convolution on GPUs tries a dozen kernels for each new shape, each compiled first, three times over for
//! training; a product needs a few kernels for all shapes, and the copies below cost less than its arithmetic.

use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{FloatDType, Shape, Slice};

use super::layout::{upsample, upsample_backward};
use super::{Float, dims, lowered, narrow, plus, product, reshape};
use crate::ops::ConvOptions;

fn doubled<B: Backend>(x: Float<B>, options: &ConvOptions) -> Float<B> {
    if !options.upsample {
        return x;
    }
    let shape = dims::<B>(&x);
    upsample::<B>(x, [2 * shape[1], 2 * shape[2]])
}

/// Zeros around `x [n, h, w, c]`: `[top, left, bottom, right]`.
fn padded<B: Backend>(x: Float<B>, [top, left, bottom, right]: [usize; 4]) -> Float<B> {
    if [top, left, bottom, right] == [0; 4] {
        return x;
    }
    let [n, h, w, c] = x.shape().dims();
    let shape = Shape::new([n, top + h + bottom, left + w + right, c]);
    let zeros = B::float_zeros(shape, &x.device(), FloatDType::from(x.dtype()));
    let inside = [0..n, top..top + h, left..left + w, 0..c].map(Slice::from);
    B::float_slice_assign(zeros, &inside, x)
}

/// Every `stride`th of `count` positions of `axis`, from `from` on.
fn strided<B: Backend>(
    x: Float<B>,
    axis: usize,
    from: usize,
    count: usize,
    stride: usize,
) -> Float<B> {
    if stride == 1 {
        return narrow::<B>(x, axis, from, from + count);
    }
    let mut slices = vec![Slice::full(); dims::<B>(&x).len()];
    let end = from + (count - 1) * stride + 1;
    slices[axis] = Slice::new(from as isize, Some(end as isize), stride as isize);
    B::float_slice(x, &slices)
}

/// The positions under the kernel as rows `[n * ho * wo, kh * kw * c]`, and `ho`, `wo`; `x` is padded already.
fn columns<B: Backend>(x: Float<B>, [kh, kw]: [usize; 2], stride: usize) -> (Float<B>, [usize; 2]) {
    let [n, h, w, c] = x.shape().dims();
    let [ho, wo] = [(h - kh) / stride + 1, (w - kw) / stride + 1];
    let mut taps = Vec::new();
    for row in 0..kh {
        let rows = strided::<B>(x.clone(), 1, row, ho, stride);
        for column in 0..kw {
            taps.push(strided::<B>(rows.clone(), 2, column, wo, stride));
        }
    }
    let joined = if taps.len() == 1 {
        taps.remove(0)
    } else {
        B::float_cat(taps, 3)
    };
    (reshape::<B>(joined, &[n * ho * wo, kh * kw * c]), [ho, wo])
}

/// See [`crate::ops::LatentOps::latent_conv2d`]; `added` is bias, per-channel shift, residual.
pub(crate) fn conv2d<B: Backend>(
    x: Float<B>,
    weight: Float<B>,
    added: [Option<Float<B>>; 3],
    options: ConvOptions,
) -> Float<B> {
    let [co, ci, kh, kw] = weight.shape().dims();
    let n = dims::<B>(&x)[0];
    let x = padded::<B>(
        lowered::<B>(doubled::<B>(x, &options), options.precision),
        options.padding,
    );
    let (rows, [ho, wo]) = columns::<B>(x, [kh, kw], options.stride);
    // `[co, ci, kh, kw]` as `[kh * kw * ci, co]`, in the order of the rows.
    let weight = reshape::<B>(B::float_permute(weight, &[2, 3, 1, 0]), &[kh * kw * ci, co]);
    let y = product::<B>(rows, weight, options.precision);
    let y = reshape::<B>(y, &[n, ho, wo, co]);
    let [bias, per_channel, residual] = added;
    let bias = bias.map(|bias| reshape::<B>(bias, &[1, 1, 1, co]));
    let per_channel = per_channel.map(|shift| reshape::<B>(shift, &[n, 1, 1, co]));
    plus::<B>(plus::<B>(plus::<B>(y, bias), per_channel), residual)
}

/// See [`crate::ops::LatentOps::latent_conv2d_backward_input`].
///
/// The gradient is a convolution of `dy`, its positions `stride` apart and zeros between, with the turned kernel.
pub(crate) fn conv2d_backward_input<B: Backend>(
    dy: Float<B>,
    weight: Float<B>,
    [n, h, w, ci]: [usize; 4],
    options: ConvOptions,
) -> Float<B> {
    let factor = if options.upsample { 2 } else { 1 };
    let [co, _, kh, kw] = weight.shape().dims();
    let [top, left, ..] = options.padding;
    let (height, width) = (factor * h, factor * w);
    let dy = spread::<B>(lowered::<B>(dy, options.precision), options.stride);
    let dy = fitted::<B>(dy, 1, kh - 1 - top, height + kh - 1);
    let dy = fitted::<B>(dy, 2, kw - 1 - left, width + kw - 1);
    let (rows, _) = columns::<B>(dy, [kh, kw], 1);
    let turned = B::float_permute(B::float_flip(weight, &[2, 3]), &[2, 3, 0, 1]);
    let dx = product::<B>(
        rows,
        reshape::<B>(turned, &[kh * kw * co, ci]),
        options.precision,
    );
    let dx = reshape::<B>(dx, &[n, height, width, ci]);
    if options.upsample {
        upsample_backward::<B>(dx, [h, w])
    } else {
        dx
    }
}

/// `stride - 1` zeros behind each position of `x [n, h, w, c]`.
fn spread<B: Backend>(x: Float<B>, stride: usize) -> Float<B> {
    if stride == 1 {
        return x;
    }
    let [n, h, w, c] = x.shape().dims();
    let zeros = |shape| B::float_zeros(Shape::new(shape), &x.device(), FloatDType::from(x.dtype()));
    let (wide, tall) = (
        zeros([n, h, w, (stride - 1) * c]),
        zeros([n, h, stride - 1, stride * w * c]),
    );
    let x = B::float_cat(vec![x, wide], 3);
    let x = B::float_cat(vec![reshape::<B>(x, &[n, h, 1, stride * w * c]), tall], 2);
    reshape::<B>(x, &[n, stride * h, stride * w, c])
}

/// `before` zeros in front of `axis` (1 or 2), and zeros behind it, or positions less, until it is `length` long.
fn fitted<B: Backend>(x: Float<B>, axis: usize, before: usize, length: usize) -> Float<B> {
    let found = dims::<B>(&x)[axis];
    let x = if before + found > length {
        narrow::<B>(x, axis, 0, length - before)
    } else {
        x
    };
    let behind = length - before - found.min(length - before);
    match axis {
        1 => padded::<B>(x, [before, 0, behind, 0]),
        _ => padded::<B>(x, [0, before, 0, behind]),
    }
}

/// See [`crate::ops::LatentOps::latent_conv2d_backward_weight`].
pub(crate) fn conv2d_backward_weight<B: Backend>(
    x: Float<B>,
    dy: Float<B>,
    [kh, kw]: [usize; 2],
    options: ConvOptions,
) -> Float<B> {
    let (ci, co) = (dims::<B>(&x)[3], dims::<B>(&dy)[3]);
    let x = padded::<B>(
        lowered::<B>(doubled::<B>(x, &options), options.precision),
        options.padding,
    );
    let (rows, _) = columns::<B>(x, [kh, kw], options.stride);
    let count = dims::<B>(&rows)[0];
    let dy = reshape::<B>(dy, &[count, co]);
    let dw = product::<B>(B::float_transpose(rows), dy, options.precision);
    B::float_permute(reshape::<B>(dw, &[kh, kw, ci, co]), &[3, 2, 0, 1])
}
