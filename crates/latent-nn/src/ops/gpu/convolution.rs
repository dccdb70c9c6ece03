//! Convolutions: the rows under the kernel are laid out by one kernel, the matrix units multiply them, one kernel adds
//! what is to be added.

use burn::tensor::DType;
use burn_cubecl::cubecl;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;
use half::bf16;
use latent_kernels::Precision;

use super::sums::weight_of_parts;
use super::{
    count, dense, elementwise, empty, pointwise, product, product_over_rows, reshaped, takes_bf16,
};
use crate::ops::ConvOptions;

/// Which positions of `x` each row of the columns shows.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Window {
    kernel: [usize; 2],
    /// Steps between the rows' first positions.
    stride: usize,
    /// How much larger the picture under the window is than `x`.
    factor: usize,
    /// Whether the larger picture has zeros between `x`'s positions; else it repeats them.
    sparse: bool,
    /// Zeros above and left.
    before: [usize; 2],
    /// Rows and columns of the result.
    out: [usize; 2],
}

impl Window {
    /// Shows each position of a picture of size `out` by itself.
    fn single(out: [usize; 2]) -> Self {
        Self {
            kernel: [1, 1],
            stride: 1,
            factor: 1,
            sparse: false,
            before: [0, 0],
            out,
        }
    }
}

/// Value `index` of the columns: tap and channels of one row.
#[cube(launch)]
#[allow(clippy::too_many_arguments)]
fn columns_kernel<E: Float, N: Size>(
    x: &[Vector<f32, N>],
    y: &mut [Vector<E, N>],
    size: u32,
    channels: u32,
    h: u32,
    w: u32,
    height: u32,
    width: u32,
    stride: u32,
    top: u32,
    left: u32,
    #[comptime] kernel_height: u32,
    #[comptime] kernel_width: u32,
    #[comptime] factor: u32,
    #[comptime] sparse: bool,
) {
    let index = ABSOLUTE_POS as u32;
    if index < size {
        let channel = index % channels;
        let tap = index / channels % (kernel_height * kernel_width);
        let position = index / channels / (kernel_height * kernel_width);
        let row = position / width % height * stride + tap / kernel_width;
        let column = position % width * stride + tap % kernel_width;
        let sample = position / width / height;
        let mut value = Vector::<E, N>::new(E::from_int(0));
        if row >= top && column >= left {
            let (row, column) = (row - top, column - left);
            let (source_row, source_column) = (row / factor, column / factor);
            let mut shown = source_row < h && source_column < w;
            if sparse {
                shown = shown && row % factor == 0u32 && column % factor == 0u32;
            }
            if shown {
                let source = ((sample * h + source_row) * w + source_column) * channels + channel;
                value = Vector::cast_from(x[source as usize]);
            }
        }
        y[index as usize] = value;
    }
}

/// The columns of `x [n, h, w, c]`: `[n * out, kernel * c]` of `dtype`.
fn columns(x: CubeTensor, window: Window, dtype: DType) -> CubeTensor {
    let [n, h, w, c] = x.meta.shape().dims();
    let [kh, kw] = window.kernel;
    let [height, width] = window.out;
    let rows = n * height * width;
    if window == Window::single([h, w]) && dtype == DType::F32 {
        return reshaped(dense(x), &[rows, c]);
    }
    let lanes = if c.is_multiple_of(4) { 4 } else { 1 };
    let y = empty(&x, &[rows, kh * kw * c], dtype);
    let size = rows * kh * kw * c / lanes;
    let (blocks, block) = elementwise(size);
    let client = y.client.clone();
    let (from, to) = (dense(x).into_buffer_arg(), y.clone().into_buffer_arg());
    macro_rules! launch {
        ($element:ty) => {
            columns_kernel::launch::<$element>(
                &client,
                blocks,
                block,
                lanes,
                from,
                to,
                size as u32,
                (c / lanes) as u32,
                h as u32,
                w as u32,
                height as u32,
                width as u32,
                window.stride as u32,
                window.before[0] as u32,
                window.before[1] as u32,
                kh as u32,
                kw as u32,
                window.factor as u32,
                window.sparse,
            )
        };
    }
    match dtype {
        DType::BF16 => launch!(bf16),
        _ => launch!(f32),
    }
    y
}

/// `weight [co, ci, taps]` as the right side of a product: `[taps * ci, co]`, or for the way back `[taps * co, ci]` with
/// the taps in reverse.
#[cube(launch)]
fn weight_kernel<E: Float>(
    weight: &[f32],
    y: &mut [E],
    size: u32,
    outputs: u32,
    inputs: u32,
    #[comptime] taps: u32,
    #[comptime] backward: bool,
) {
    let index = ABSOLUTE_POS as u32;
    if index < size {
        let fast = if backward { inputs } else { outputs };
        let slow = if backward { outputs } else { inputs };
        let (first, second, third) = (index % fast, index / fast % slow, index / fast / slow);
        let input = if backward { first } else { second };
        let output = if backward { second } else { first };
        let tap = if backward { taps - 1u32 - third } else { third };
        let source = (output * inputs + input) * taps + tap;
        y[index as usize] = E::cast_from(weight[source as usize]);
    }
}

/// See [`weight_kernel`].
fn right_side(weight: CubeTensor, dtype: DType, backward: bool) -> CubeTensor {
    let [co, ci, kh, kw] = weight.meta.shape().dims();
    let shape = match backward {
        true => [kh * kw * co, ci],
        false => [kh * kw * ci, co],
    };
    let y = empty(&weight, &shape, dtype);
    let size = count(&shape);
    let (blocks, block) = elementwise(size);
    let client = y.client.clone();
    let (from, to) = (dense(weight).into_buffer_arg(), y.clone().into_buffer_arg());
    macro_rules! launch {
        ($element:ty) => {
            weight_kernel::launch::<$element>(
                &client,
                blocks,
                block,
                from,
                to,
                size as u32,
                co as u32,
                ci as u32,
                (kh * kw) as u32,
                backward,
            )
        };
    }
    match dtype {
        DType::BF16 => launch!(bf16),
        _ => launch!(f32),
    }
    y
}

/// What products of `precision` read on this device.
fn operand(x: &CubeTensor, precision: Precision) -> DType {
    match precision.floating() == Precision::Bf16 && takes_bf16(x) {
        true => DType::BF16,
        false => DType::F32,
    }
}

/// Adds bias, shift of the sample's channels, and residual to `y`, where they are.
#[cube(launch)]
#[allow(clippy::too_many_arguments)]
fn add_to_kernel(
    y: &mut [f32],
    bias: ComptimeOption<&[f32]>,
    per_channel: ComptimeOption<&[f32]>,
    residual: ComptimeOption<&[f32]>,
    size: u32,
    channels: u32,
    positions: u32,
) {
    let index = ABSOLUTE_POS as u32;
    if index < size {
        let channel = index % channels;
        let mut value = y[index as usize];
        #[comptime]
        if let ComptimeOption::Some(bias) = bias {
            value += bias[channel as usize];
        }
        #[comptime]
        if let ComptimeOption::Some(per_channel) = per_channel {
            let sample = index / channels / positions;
            value += per_channel[(sample * channels + channel) as usize];
        }
        #[comptime]
        if let ComptimeOption::Some(residual) = residual {
            value += residual[index as usize];
        }
        y[index as usize] = value;
    }
}

/// `y [.., c]` with `[bias, per_channel, residual]` added in place; a sample has `positions` rows.
pub(super) fn with_added(
    y: CubeTensor,
    added: [Option<CubeTensor>; 3],
    positions: usize,
) -> CubeTensor {
    if added.iter().all(Option::is_none) {
        return y;
    }
    let shape = y.meta.shape().to_vec();
    let size = count(&shape);
    let (blocks, block) = elementwise(size);
    let [bias, per_channel, residual] = added.map(|x| x.map(|x| dense(x).into_buffer_arg()));
    add_to_kernel::launch(
        &y.client,
        blocks,
        block,
        y.clone().into_buffer_arg(),
        bias.into(),
        per_channel.into(),
        residual.into(),
        size as u32,
        shape[shape.len() - 1] as u32,
        positions as u32,
    );
    y
}

/// The window of a convolution's way forward over `x`.
fn forward_window(x: &CubeTensor, kernel: [usize; 2], options: &ConvOptions) -> Window {
    let [_, h, w, _] = x.meta.shape().dims();
    let factor = if options.upsample { 2 } else { 1 };
    let [top, left, bottom, right] = options.padding;
    let out = |length: usize, around: usize, kernel: usize| {
        (factor * length + around - kernel) / options.stride + 1
    };
    Window {
        kernel,
        stride: options.stride,
        factor,
        sparse: false,
        before: [top, left],
        out: [
            out(h, top + bottom, kernel[0]),
            out(w, left + right, kernel[1]),
        ],
    }
}

/// See [`crate::ops::LatentOps::latent_conv2d`]; `added` is bias, per-channel shift, residual.
pub(super) fn conv2d(
    x: CubeTensor,
    weight: CubeTensor,
    added: [Option<CubeTensor>; 3],
    options: ConvOptions,
) -> CubeTensor {
    let [co, _, kh, kw] = weight.meta.shape().dims();
    let n = x.meta.shape()[0];
    let dtype = operand(&x, options.precision);
    let window = forward_window(&x, [kh, kw], &options);
    let [ho, wo] = window.out;
    let y = product(columns(x, window, dtype), right_side(weight, dtype, false));
    with_added(reshaped(y, &[n, ho, wo, co]), added, ho * wo)
}

/// See [`crate::ops::LatentOps::latent_conv2d_backward_input`].
pub(super) fn conv2d_backward_input(
    dy: CubeTensor,
    weight: CubeTensor,
    [n, h, w, ci]: [usize; 4],
    options: ConvOptions,
) -> CubeTensor {
    let [_, _, kh, kw] = weight.meta.shape().dims();
    let factor = if options.upsample { 2 } else { 1 };
    let dtype = operand(&dy, options.precision);
    let [top, left, ..] = options.padding;
    let window = Window {
        kernel: [kh, kw],
        stride: 1,
        factor: options.stride,
        sparse: options.stride > 1,
        before: [kh - 1 - top, kw - 1 - left],
        out: [factor * h, factor * w],
    };
    let dx = product(columns(dy, window, dtype), right_side(weight, dtype, true));
    let dx = reshaped(dx, &[n, factor * h, factor * w, ci]);
    match options.upsample {
        true => pointwise::upsample_doubled_backward(dx, [h, w]),
        false => dx,
    }
}

/// See [`crate::ops::LatentOps::latent_conv2d_backward_weight`].
pub(super) fn conv2d_backward_weight(
    x: CubeTensor,
    dy: CubeTensor,
    kernel: [usize; 2],
    options: ConvOptions,
) -> CubeTensor {
    let (ci, co) = (x.meta.shape()[3], dy.meta.shape()[3]);
    let dtype = operand(&x, options.precision);
    let window = forward_window(&x, kernel, &options);
    let rows = columns(x, window, dtype);
    let count = rows.meta.shape()[0];
    let [_, ho, wo, _] = dy.meta.shape().dims();
    let dy = columns(dy, Window::single([ho, wo]), dtype);
    let parts = product_over_rows(rows, dy, count);
    weight_of_parts(parts, [co, ci, kernel[0], kernel[1]])
}
