//! Convolution on channels-last activations: Burn's own works on `[n, c, h, w]` views, which cost no copy on GPUs.

use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{FloatDType, Shape, ops};

use super::layout::{upsample, upsample_backward};
use super::{Float, dims, lowered, plus, reshape, widened};
use crate::ops::ConvOptions;

fn burn_options(options: &ConvOptions) -> ops::ConvOptions<2> {
    let [top, left, bottom, right] = options.padding;
    let stride = [options.stride; 2];
    ops::ConvOptions::new_with_padding(stride, [(top, bottom), (left, right)], [1, 1], 1)
}

fn channels_first<B: Backend>(x: Float<B>) -> Float<B> {
    B::float_permute(x, &[0, 3, 1, 2])
}

fn channels_last<B: Backend>(x: Float<B>) -> Float<B> {
    B::float_permute(x, &[0, 2, 3, 1])
}

fn doubled<B: Backend>(x: Float<B>, options: &ConvOptions) -> Float<B> {
    if !options.upsample {
        return x;
    }
    let shape = dims::<B>(&x);
    upsample::<B>(x, [2 * shape[1], 2 * shape[2]])
}

/// See [`crate::ops::LatentOps::latent_conv2d`]; `added` is bias, per-channel shift, residual.
pub(crate) fn conv2d<B: Backend>(
    x: Float<B>,
    weight: Float<B>,
    added: [Option<Float<B>>; 3],
    options: ConvOptions,
) -> Float<B> {
    let x = channels_first::<B>(lowered::<B>(doubled::<B>(x, &options), options.precision));
    let weight = lowered::<B>(weight, options.precision);
    let y = B::conv2d(x, weight, None, burn_options(&options));
    let y = widened::<B>(channels_last::<B>(y));
    let [bias, per_channel, residual] = added;
    let bias = bias.map(|bias| {
        let channels = dims::<B>(&bias)[0];
        reshape::<B>(bias, &[1, 1, 1, channels])
    });
    let per_channel = per_channel.map(|shift| {
        let shape = dims::<B>(&shift);
        reshape::<B>(shift, &[shape[0], 1, 1, shape[1]])
    });
    plus::<B>(plus::<B>(plus::<B>(y, bias), per_channel), residual)
}

/// See [`crate::ops::LatentOps::latent_conv2d_backward_input`].
pub(crate) fn conv2d_backward_input<B: Backend>(
    dy: Float<B>,
    weight: Float<B>,
    [n, h, w, channels]: [usize; 4],
    options: ConvOptions,
) -> Float<B> {
    let factor = if options.upsample { 2 } else { 1 };
    let dy = channels_first::<B>(lowered::<B>(dy, options.precision));
    let weight = lowered::<B>(weight, options.precision);
    // Burn reads only the shape of `x` here.
    let shape = Shape::new([n, channels, factor * h, factor * w]);
    let x = B::float_empty(shape, &dy.device(), FloatDType::from(dy.dtype()));
    let dx = B::conv2d_x_backward(x, weight, dy, burn_options(&options));
    let dx = widened::<B>(channels_last::<B>(dx));
    if options.upsample {
        upsample_backward::<B>(dx, [h, w])
    } else {
        dx
    }
}

/// See [`crate::ops::LatentOps::latent_conv2d_backward_weight`].
pub(crate) fn conv2d_backward_weight<B: Backend>(
    x: Float<B>,
    dy: Float<B>,
    kernel: [usize; 2],
    options: ConvOptions,
) -> Float<B> {
    let shape = [dims::<B>(&dy)[3], dims::<B>(&x)[3], kernel[0], kernel[1]];
    let x = channels_first::<B>(lowered::<B>(doubled::<B>(x, &options), options.precision));
    let dy = channels_first::<B>(lowered::<B>(dy, options.precision));
    // Burn reads only the shape of the weight here.
    let weight = B::float_empty(
        Shape::new(shape),
        &dy.device(),
        FloatDType::from(dy.dtype()),
    );
    widened::<B>(B::conv2d_weight_backward(
        x,
        weight,
        dy,
        burn_options(&options),
    ))
}
