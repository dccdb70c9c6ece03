//! What each operation costs, from the shapes of what it is given.

use burn::backend::{Flex, TensorMetadata};
use burn::tensor::{DType, Tensor};
use latent_kernels::{ConvShape, PackedConv, PackedMatrix, Precision};

use super::{Described, OpKind};
use crate::ops::pack::{Bits, PackKey, PackKind, key};
use crate::ops::{AttentionOptions, ConvOptions, LinearOptions, flex};
use crate::training::is_host;

/// A weight that an operation packs at its first use.
pub(crate) struct PackedWeight {
    pub(super) key: PackKey,
    /// Packed.
    pub(super) bytes: usize,
    pub(super) values: usize,
    /// As they lie in their file.
    pub(super) stored: usize,
    /// Whether they are widened to f32 before they are packed.
    pub(super) widened: bool,
}

impl PackedWeight {
    fn new<const D: usize>(weight: &Tensor<D>, kind: PackKind, bytes: usize) -> Option<Self> {
        if !is_host(&weight.device()) {
            return None;
        }
        let weight = weight.clone().try_into_primitive::<Flex>().ok()?;
        let values = weight.shape().num_elements();
        let dtype = weight.dtype();
        Some(Self {
            key: key(&weight, kind),
            bytes,
            values,
            stored: values * dtype.size(),
            widened: dtype != DType::F32,
        })
    }
}

/// Builders of [`Described`], one a kind of operation.
pub(crate) mod described {
    use super::*;

    pub(crate) fn convolution(
        x: &Tensor<4>,
        weight: &Tensor<4>,
        options: &ConvOptions,
    ) -> Described<4> {
        let [co, _, kh, kw] = weight.dims();
        let shape = flex::conv_shape(x.dims(), co, [kh, kw], options);
        let (ho, wo) = (shape.out_h(), shape.out_w());
        let precision = flex::fitted(options.precision, shape.ci, co, ho * wo);
        let all = shape.n * ho * wo * co;
        let bits = Bits::from(precision);
        let kind = if options.upsample {
            PackKind::UpsampledConv(bits)
        } else {
            PackKind::Conv(bits)
        };
        let ConvShape { n, h, w, ci, .. } = shape;
        Described {
            kind: OpKind::Convolution,
            precision,
            flops: 2.0 * all as f64 * (ci * kh * kw) as f64,
            made: 2.0 * shape.products() as f64,
            bytes: 4.0 * (n * h * w * ci + all) as f64,
            shape: [n, ho, wo, co],
            device: x.device(),
            weight: PackedWeight::new(weight, kind, PackedConv::bytes(&shape, precision)),
        }
    }

    pub(crate) fn linear<const D: usize>(
        x: &Tensor<D>,
        weight: &Tensor<2>,
        options: &LinearOptions,
    ) -> Described<D> {
        let [n, k] = weight.dims();
        let mut shape = x.dims();
        let rows = shape[..D - 1].iter().product::<usize>();
        let precision = flex::fitted(options.precision, k, n, flex::rows_of_each(&shape, rows));
        shape[D - 1] = n;
        let kind = PackKind::Linear(Bits::from(precision));
        let flops = 2.0 * rows as f64 * n as f64 * k as f64;
        Described {
            kind: OpKind::Linear,
            precision,
            flops,
            made: flops,
            bytes: 4.0 * (rows * (n + k)) as f64,
            shape,
            device: x.device(),
            weight: PackedWeight::new(weight, kind, PackedMatrix::bytes(n, k, precision)),
        }
    }

    pub(crate) fn attention(
        queries: &Tensor<3>,
        keys: &Tensor<3>,
        options: &AttentionOptions,
    ) -> Described<3> {
        let [n, length, channels] = queries.dims();
        let others = keys.dims()[1];
        let flops = 4.0 * (n * length) as f64 * (others * channels) as f64;
        Described {
            kind: OpKind::Attention,
            precision: options.precision.floating(),
            flops,
            made: flops,
            bytes: 8.0 * (n * channels * (length + others)) as f64,
            shape: queries.dims(),
            device: queries.device(),
            weight: None,
        }
    }

    /// An operation without products that reads or writes each value of its result `passes` times, and gives `shape`.
    pub(crate) fn plain<const D: usize>(
        kind: OpKind,
        x: &Tensor<D>,
        passes: usize,
        shape: [usize; D],
    ) -> Described<D> {
        Described {
            kind,
            precision: Precision::F32,
            flops: 0.0,
            made: 0.0,
            bytes: 4.0 * (passes * shape.iter().product::<usize>()) as f64,
            shape,
            device: x.device(),
            weight: None,
        }
    }
}
