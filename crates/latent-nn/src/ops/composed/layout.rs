//! Joining and splitting channels, and nearest-neighbour resizing.

use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{FloatDType, IndexingUpdateOp, Shape, TensorData};

use super::{Float, dims, narrow, reshape};

/// See [`crate::ops::LatentOps::latent_concat`].
pub(crate) fn concat<B: Backend>(a: Float<B>, b: Float<B>) -> Float<B> {
    let axis = dims::<B>(&a).len() - 1;
    B::float_cat(vec![a, b], axis)
}

/// See [`crate::ops::LatentOps::latent_split`].
pub(crate) fn split<B: Backend>(x: Float<B>, channels: usize) -> (Float<B>, Float<B>) {
    let shape = dims::<B>(&x);
    let axis = shape.len() - 1;
    (
        narrow::<B>(x.clone(), axis, 0, channels),
        narrow::<B>(x, axis, channels, shape[axis]),
    )
}

/// Which of `from` pixels each of `to` pixels shows; torch's rule, in its f32 arithmetic.
pub(crate) fn nearest_source(from: usize, to: usize) -> impl Iterator<Item = usize> {
    let scale = from as f32 / to as f32;
    (0..to).map(move |i| ((i as f32 * scale) as usize).min(from - 1))
}

fn source_indices<B: Backend>(
    from: usize,
    to: usize,
    device: &B::Device,
) -> burn::backend::tensor::IntTensor<B> {
    let indices: Vec<i32> = nearest_source(from, to).map(|i| i as i32).collect();
    B::int_from_data(TensorData::new(indices, [to]), device)
}

/// See [`crate::ops::LatentOps::latent_upsample`].
pub(crate) fn upsample<B: Backend>(x: Float<B>, [height, width]: [usize; 2]) -> Float<B> {
    let [n, h, w, c] = x.shape().dims();
    if (height, width) == (2 * h, 2 * w) {
        let x = reshape::<B>(x, &[n, h, 1, w, 1, c]);
        let x = B::float_expand(x, Shape::new([n, h, 2, w, 2, c]));
        return reshape::<B>(x, &[n, height, width, c]);
    }
    let device = x.device();
    let x = B::float_select(x, 1, source_indices::<B>(h, height, &device));
    B::float_select(x, 2, source_indices::<B>(w, width, &device))
}

/// See [`crate::ops::LatentOps::latent_upsample_backward`].
pub(crate) fn upsample_backward<B: Backend>(dy: Float<B>, [h, w]: [usize; 2]) -> Float<B> {
    let [n, height, width, c] = dy.shape().dims();
    if (height, width) == (2 * h, 2 * w) {
        let dy = reshape::<B>(dy, &[n, h, 2, w, 2, c]);
        return reshape::<B>(B::float_sum_dim(B::float_sum_dim(dy, 4), 2), &[n, h, w, c]);
    }
    let device = dy.device();
    let gathered = |shape: [usize; 4], axis: usize, from: usize, to: usize, dy: Float<B>| {
        let zeros = B::float_zeros(Shape::new(shape), &device, FloatDType::F32);
        let indices = source_indices::<B>(from, to, &device);
        B::float_select_assign(zeros, axis, indices, dy, IndexingUpdateOp::Add)
    };
    let dy = gathered([n, height, w, c], 2, w, width, dy);
    gathered([n, h, w, c], 1, h, height, dy)
}
