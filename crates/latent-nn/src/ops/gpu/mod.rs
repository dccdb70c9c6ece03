//! The operations on GPUs: kernels written once in CubeCL, for CUDA, Metal and Vulkan alike.
//!
//! Burn's own kernels without autotune sum with one thread a result, and make of a normalisation or an activation a
//! dozen passes over memory; these make one or two. Products stay Burn's, which uses the matrix units. Whatever has no
//! kernel here, and whatever a kernel's limits exclude, runs as `composed`. `latent devices --check` holds every
//! operation against the CPU.

mod attention;
mod convolution;
mod linear;
mod norms;
mod pointwise;
mod sums;

use burn::backend::Backend;
use burn::tensor::{DType, Shape};
use burn_cubecl::CubeBackend;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::kernel::matmul::{MatmulStrategy, matmul};
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;

use super::{
    Activation, AttentionOptions, AttentionRecord, ConvOptions, GroupNormOptions, LatentOps,
    LinearOptions, Maybe, composed,
};

/// Units of a block of the element-wise kernels.
const BLOCK: u32 = 256;

/// Rows behind one another without gaps: Burn aligns the rows of some of its results.
fn dense(x: CubeTensor) -> CubeTensor {
    into_contiguous(x)
}

/// Memory for a result, on the device of `like`.
fn empty(like: &CubeTensor, shape: &[usize], dtype: DType) -> CubeTensor {
    let (client, device) = (like.client.clone(), like.device.clone());
    empty_device_contiguous_dtype(client, device, Shape::from(shape.to_vec()), dtype)
}

fn count(shape: &[usize]) -> usize {
    shape.iter().product()
}

/// A dense tensor with another shape of as many elements.
fn reshaped(x: CubeTensor, shape: &[usize]) -> CubeTensor {
    burn_cubecl::ops::reshape(x, Shape::from(shape.to_vec()))
}

/// Blocks and units for a kernel with one unit an element. Past the longest row of blocks a card takes, several rows.
fn elementwise(count: usize) -> (CubeCount, CubeDim) {
    let blocks = count.div_ceil(BLOCK as usize);
    let columns = blocks.clamp(1, 65_535);
    let rows = blocks.div_ceil(columns).max(1);
    (
        CubeCount::Static(columns as u32, rows as u32, 1),
        CubeDim::new_1d(BLOCK),
    )
}

/// A result of `shape` from a kernel with one unit for each of its values. `launch` gets the client, blocks and units,
/// the inputs, the result, and how many values it has.
fn each<const N: usize>(
    inputs: [CubeTensor; N],
    shape: &[usize],
    launch: impl FnOnce(&Client, (CubeCount, CubeDim), [BufferArg; N], BufferArg, u32),
) -> CubeTensor {
    let y = empty(&inputs[0], shape, DType::F32);
    let inputs = inputs.map(|x| dense(x).into_buffer_arg());
    let size = count(shape);
    let result = y.clone().into_buffer_arg();
    launch(&y.client, elementwise(size), inputs, result, size as u32);
    y
}

/// `a @ b` of the last two axes in f32, by the matrix units where there are any.
fn product(a: CubeTensor, b: CubeTensor) -> CubeTensor {
    let mut shape = a.meta.shape().to_vec();
    let rank = shape.len();
    shape[rank - 1] = b.meta.shape()[rank - 1];
    let out = empty(&a, &shape, DType::F32);
    match matmul(a, b, Some(out), MatmulStrategy::default(), DType::F32) {
        Ok(y) => y,
        Err(error) => panic!("no kernel multiplies these matrices: {error:?}"),
    }
}

/// The two last axes swapped, as a view.
fn transposed(x: CubeTensor) -> CubeTensor {
    let rank = x.meta.shape().len();
    let mut axes: Vec<usize> = (0..rank).collect();
    axes.swap(rank - 2, rank - 1);
    burn_cubecl::ops::permute(x, &axes)
}

/// `x^T @ y` for many rows and few columns: `[parts, k, n]`, to be added. One product would keep few blocks busy.
fn product_over_rows(x: CubeTensor, y: CubeTensor, rows: usize) -> CubeTensor {
    let width = |x: &CubeTensor| count(x.meta.shape()) / rows;
    let (k, n) = (width(&x), width(&y));
    let tiles = k.div_ceil(128) * n.div_ceil(128);
    let mut parts = 1;
    while rows % (2 * parts) == 0 && rows / (2 * parts) >= 512 && parts * tiles < 256 {
        parts *= 2;
    }
    let x = reshaped(x, &[parts, rows / parts, k]);
    let y = reshaped(y, &[parts, rows / parts, n]);
    product(transposed(x), y)
}

impl LatentOps for CubeBackend {
    fn latent_conv2d(
        x: CubeTensor,
        weight: CubeTensor,
        bias: Maybe<Self>,
        per_channel: Maybe<Self>,
        residual: Maybe<Self>,
        options: ConvOptions,
    ) -> CubeTensor {
        let added = [bias, per_channel, residual].map(Maybe::into_option);
        convolution::conv2d(x, weight, added, options)
    }

    fn latent_conv2d_backward_input(
        dy: CubeTensor,
        weight: CubeTensor,
        input: [usize; 4],
        options: ConvOptions,
    ) -> CubeTensor {
        convolution::conv2d_backward_input(dy, weight, input, options)
    }

    fn latent_conv2d_backward_weight(
        x: CubeTensor,
        dy: CubeTensor,
        kernel: [usize; 2],
        options: ConvOptions,
    ) -> CubeTensor {
        convolution::conv2d_backward_weight(x, dy, kernel, options)
    }

    fn latent_column_sums(dy: CubeTensor, runs: usize) -> CubeTensor {
        sums::column_sums(dy, runs)
    }

    fn latent_linear(
        x: CubeTensor,
        weight: CubeTensor,
        bias: Maybe<Self>,
        residual: Maybe<Self>,
        _: LinearOptions,
    ) -> CubeTensor {
        linear::linear(x, weight, bias.into_option(), residual.into_option())
    }

    fn latent_linear_backward_input(
        dy: CubeTensor,
        weight: CubeTensor,
        _: LinearOptions,
    ) -> CubeTensor {
        linear::linear_backward_input(dy, weight)
    }

    fn latent_linear_backward_weight(
        x: CubeTensor,
        dy: CubeTensor,
        _: LinearOptions,
    ) -> CubeTensor {
        linear::linear_backward_weight(x, dy)
    }

    fn latent_attention(
        queries: CubeTensor,
        keys: CubeTensor,
        values: CubeTensor,
        options: AttentionOptions,
    ) -> CubeTensor {
        Self::latent_attention_recorded(queries, keys, values, options).0
    }

    fn latent_attention_recorded(
        queries: CubeTensor,
        keys: CubeTensor,
        values: CubeTensor,
        options: AttentionOptions,
    ) -> (CubeTensor, CubeTensor) {
        match attention::fits(&queries, &keys, &options) {
            true => attention::forward(queries, keys, values, options),
            false => composed::attention_recorded::<Self>(queries, keys, values, options),
        }
    }

    fn latent_attention_backward(
        record: AttentionRecord<Self>,
        dy: CubeTensor,
        options: AttentionOptions,
    ) -> (CubeTensor, CubeTensor, CubeTensor) {
        match attention::fits(&record.queries, &record.keys, &options) {
            true => attention::backward(record, dy, options),
            false => composed::attention_backward::<Self>(record, dy, options),
        }
    }

    fn latent_group_norm(
        x: CubeTensor,
        weight: CubeTensor,
        bias: CubeTensor,
        options: GroupNormOptions,
    ) -> CubeTensor {
        Self::latent_group_norm_recorded(x, weight, bias, options).0
    }

    fn latent_group_norm_recorded(
        x: CubeTensor,
        weight: CubeTensor,
        bias: CubeTensor,
        options: GroupNormOptions,
    ) -> (CubeTensor, CubeTensor) {
        match norms::fits(&x, &options) {
            true => norms::group_norm(x, weight, bias, options),
            false => composed::group_norm::<Self>(x, weight, bias, options),
        }
    }

    fn latent_group_norm_backward(
        x: CubeTensor,
        dy: CubeTensor,
        weight: CubeTensor,
        bias: CubeTensor,
        statistics: CubeTensor,
        options: GroupNormOptions,
    ) -> (CubeTensor, CubeTensor, CubeTensor) {
        let saved = [weight, bias, statistics];
        match norms::fits(&x, &options) {
            true => norms::group_norm_backward(x, dy, saved, options),
            false => composed::group_norm_backward::<Self>(x, dy, saved, options),
        }
    }

    fn latent_layer_norm(
        x: CubeTensor,
        weight: CubeTensor,
        bias: CubeTensor,
        eps: f64,
    ) -> CubeTensor {
        norms::layer_norm(x, weight, bias, eps)
    }

    fn latent_layer_norm_backward(
        x: CubeTensor,
        dy: CubeTensor,
        weight: CubeTensor,
        eps: f64,
    ) -> (CubeTensor, CubeTensor, CubeTensor) {
        norms::layer_norm_backward(x, dy, weight, eps)
    }

    fn latent_geglu(x: CubeTensor) -> CubeTensor {
        pointwise::geglu(x)
    }

    fn latent_geglu_backward(x: CubeTensor, dy: CubeTensor) -> CubeTensor {
        pointwise::geglu_backward(x, dy)
    }

    fn latent_activation(x: CubeTensor, kind: Activation) -> CubeTensor {
        pointwise::activation(x, kind)
    }

    fn latent_activation_backward(x: CubeTensor, dy: CubeTensor, kind: Activation) -> CubeTensor {
        pointwise::activation_backward(x, dy, kind)
    }

    fn latent_add(a: CubeTensor, b: CubeTensor) -> CubeTensor {
        pointwise::add(a, b)
    }

    fn latent_concat(a: CubeTensor, b: CubeTensor) -> CubeTensor {
        pointwise::concat(a, b)
    }

    fn latent_split(x: CubeTensor, channels: usize) -> (CubeTensor, CubeTensor) {
        pointwise::split(x, channels)
    }

    fn latent_part(x: CubeTensor, from: usize, to: usize) -> CubeTensor {
        let size = x.meta.shape()[0];
        let bytes = |values: usize| (values * x.dtype.size()) as u64;
        let alignment = x.client.properties().memory.alignment;
        if !x.is_contiguous() || !bytes(from).is_multiple_of(alignment) {
            return composed::narrow::<Self>(x, 0, from, to);
        }
        let handle = x.handle.clone();
        let handle = handle
            .offset_start(bytes(from))
            .offset_end(bytes(size - to));
        let shape = Shape::new([to - from]);
        CubeTensor::new_contiguous(x.client, x.device, shape, handle, x.dtype)
    }

    fn latent_overwrite(x: CubeTensor, y: CubeTensor) -> CubeTensor {
        pointwise::overwrite(x, y)
    }

    fn latent_upsample(x: CubeTensor, size: [usize; 2]) -> CubeTensor {
        pointwise::upsample(x, size)
    }

    fn latent_upsample_backward(dy: CubeTensor, size: [usize; 2]) -> CubeTensor {
        match pointwise::doubles(&dy, size) {
            true => pointwise::upsample_doubled_backward(dy, size),
            false => composed::upsample_backward::<Self>(dy, size),
        }
    }
}

/// Whether the device's kernels take bf16 values.
fn takes_bf16(x: &CubeTensor) -> bool {
    CubeBackend::supports_dtype(&x.device, DType::BF16)
}
