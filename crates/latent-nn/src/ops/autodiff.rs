//! Hand-written backward passes: each calls the `_backward` operations of [`LatentOps`] on the inner backend, so
//! that the CPU trains with its kernels and a GPU with the composed bodies.
//!
//! A forward pass keeps an input only if some gradient needs it, and weights that train are packed for one call.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, NodeGuard, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, TensorMetadata};
use burn::tensor::Shape;

use super::{
    Activation, AttentionOptions, AttentionRecord, ConvOptions, GroupNormOptions, LatentOps,
    LinearOptions, Maybe,
};

/// A tracked tensor over the backend `B`.
type Tracked<B, C> = FloatTensor<Autodiff<B, C>>;

/// Records `backward` for the result `y`, if any of its parents wants a gradient.
fn record<B, C, K, const N: usize>(
    backward: K,
    parents: [NodeGuard; N],
    state: K::State,
    y: FloatTensor<B>,
) -> Tracked<B, C>
where
    B: LatentOps,
    C: CheckpointStrategy,
    K: Backward<B, N>,
{
    match backward.prepare::<C>(parents).compute_bound().stateful() {
        OpsKind::Tracked(prepared) => prepared.finish(state, y),
        OpsKind::UnTracked(prepared) => prepared.finish(y),
    }
}

/// The node of an optional argument; an absent one is represented by `other`, and skipped in the backward pass.
fn node_or<B: LatentOps, C: CheckpointStrategy>(
    tensor: &Maybe<Autodiff<B, C>>,
    other: &Tracked<B, C>,
) -> NodeGuard {
    match tensor {
        Maybe::Absent => other.node(),
        Maybe::Given(tensor) => tensor.node(),
    }
}

fn inner<B: LatentOps, C: CheckpointStrategy>(tensor: Maybe<Autodiff<B, C>>) -> Maybe<B> {
    match tensor {
        Maybe::Absent => Maybe::Absent,
        Maybe::Given(tensor) => Maybe::Given(tensor.into_primitive()),
    }
}

fn is_given<B: LatentOps, C: CheckpointStrategy>(tensor: &Maybe<Autodiff<B, C>>) -> bool {
    matches!(tensor, Maybe::Given(_))
}

/// Sum over all rows of `dy [.., c]`: `[c]`.
fn bias_gradient<B: LatentOps>(dy: FloatTensor<B>) -> FloatTensor<B> {
    let sums = B::latent_column_sums(dy, 1);
    let channels = sums.shape()[1];
    B::float_reshape(sums, Shape::new([channels]))
}

#[derive(Debug)]
struct ConvBackward;

#[derive(Clone, Debug)]
struct ConvState<B: LatentOps> {
    x: Option<FloatTensor<B>>,
    weight: Option<FloatTensor<B>>,
    input: [usize; 4],
    kernel: [usize; 2],
    /// Whether bias, per-channel shift, residual were given.
    given: [bool; 3],
    options: ConvOptions,
}

impl<B: LatentOps> Backward<B, 5> for ConvBackward {
    type State = ConvState<B>;

    fn backward(self, ops: Ops<Self::State, 5>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        let ConvState {
            x,
            weight,
            input,
            kernel,
            given,
            options,
        } = ops.state;
        let [to_x, to_weight, to_bias, to_shift, to_residual] = ops.parents;
        let shift_sums = || B::latent_column_sums(dy.clone(), input[0]);
        if let (Some(node), true) = (to_bias, given[0]) {
            grads.register::<B>(node.id, bias_gradient::<B>(shift_sums()));
        }
        if let (Some(node), true) = (to_shift, given[1]) {
            grads.register::<B>(node.id, shift_sums());
        }
        if let (Some(node), true) = (to_residual, given[2]) {
            grads.register::<B>(node.id, dy.clone());
        }
        if let (Some(node), Some(x)) = (to_weight, x) {
            let dw = B::latent_conv2d_backward_weight(x, dy.clone(), kernel, options);
            grads.register::<B>(node.id, dw);
        }
        if let (Some(node), Some(weight)) = (to_x, weight) {
            let dx = B::latent_conv2d_backward_input(dy, weight, input, options);
            grads.register::<B>(node.id, dx);
        }
    }
}

#[derive(Debug)]
struct LinearBackward;

#[derive(Clone, Debug)]
struct LinearState<B: LatentOps> {
    x: Option<FloatTensor<B>>,
    weight: Option<FloatTensor<B>>,
    /// Whether bias, residual were given.
    given: [bool; 2],
    options: LinearOptions,
}

impl<B: LatentOps> Backward<B, 4> for LinearBackward {
    type State = LinearState<B>;

    fn backward(self, ops: Ops<Self::State, 4>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        let LinearState {
            x,
            weight,
            given,
            options,
        } = ops.state;
        let [to_x, to_weight, to_bias, to_residual] = ops.parents;
        if let (Some(node), true) = (to_bias, given[0]) {
            grads.register::<B>(node.id, bias_gradient::<B>(dy.clone()));
        }
        if let (Some(node), true) = (to_residual, given[1]) {
            grads.register::<B>(node.id, dy.clone());
        }
        if let (Some(node), Some(x)) = (to_weight, x) {
            let dw = B::latent_linear_backward_weight(x, dy.clone(), options);
            grads.register::<B>(node.id, dw);
        }
        if let (Some(node), Some(weight)) = (to_x, weight) {
            let dx = B::latent_linear_backward_input(dy, weight, options);
            grads.register::<B>(node.id, dx);
        }
    }
}

#[derive(Debug)]
struct AttentionBackward;

impl<B: LatentOps> Backward<B, 3> for AttentionBackward {
    type State = (AttentionRecord<B>, AttentionOptions);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        let (record, options) = ops.state;
        let (dq, dk, dv) = B::latent_attention_backward(record, dy, options);
        register_all::<B, 3>(
            grads,
            ops.parents.map(|node| node.map(|node| node.id)),
            [dq, dk, dv],
        );
    }
}

/// Hands each parent that wants one its gradient.
fn register_all<B: LatentOps, const N: usize>(
    grads: &mut Gradients,
    parents: [Option<burn::backend::autodiff::NodeId>; N],
    values: [FloatTensor<B>; N],
) {
    for (parent, value) in parents.into_iter().zip(values) {
        if let Some(id) = parent {
            grads.register::<B>(id, value);
        }
    }
}

#[derive(Debug)]
struct GroupNormBackward;

#[derive(Clone, Debug)]
struct GroupNormState<B: LatentOps> {
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: FloatTensor<B>,
    statistics: FloatTensor<B>,
    options: GroupNormOptions,
}

impl<B: LatentOps> Backward<B, 3> for GroupNormBackward {
    type State = GroupNormState<B>;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        let GroupNormState {
            x,
            weight,
            bias,
            statistics,
            options,
        } = ops.state;
        let (dx, dweight, dbias) =
            B::latent_group_norm_backward(x, dy, weight, bias, statistics, options);
        register_all::<B, 3>(
            grads,
            ops.parents.map(|node| node.map(|node| node.id)),
            [dx, dweight, dbias],
        );
    }
}

#[derive(Debug)]
struct LayerNormBackward;

impl<B: LatentOps> Backward<B, 3> for LayerNormBackward {
    type State = (FloatTensor<B>, FloatTensor<B>, f64);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        let (x, weight, eps) = ops.state;
        let (dx, dweight, dbias) = B::latent_layer_norm_backward(x, dy, weight, eps);
        register_all::<B, 3>(
            grads,
            ops.parents.map(|node| node.map(|node| node.id)),
            [dx, dweight, dbias],
        );
    }
}

/// Declares the backward pass of an operation with one tensor argument.
macro_rules! unary_backward {
    ($name:ident, $state:ty, |$saved:ident, $dy:ident| $gradient:expr) => {
        #[derive(Debug)]
        struct $name;

        impl<B: LatentOps> Backward<B, 1> for $name {
            type State = $state;

            fn backward(
                self,
                ops: Ops<Self::State, 1>,
                grads: &mut Gradients,
                _: &mut Checkpointer,
            ) {
                let $dy = grads.consume::<B>(&ops.node);
                let $saved = ops.state;
                let [parent] = ops.parents;
                if let Some(node) = parent {
                    grads.register::<B>(node.id, $gradient);
                }
            }
        }
    };
}

unary_backward!(GegluBackward, FloatTensor<B>, |x, dy| {
    B::latent_geglu_backward(x, dy)
});
unary_backward!(
    ActivationBackward,
    (FloatTensor<B>, Activation),
    |saved, dy| {
        let (x, kind) = saved;
        B::latent_activation_backward(x, dy, kind)
    }
);
unary_backward!(UpsampleBackward, [usize; 2], |size, dy| {
    B::latent_upsample_backward(dy, size)
});

#[derive(Debug)]
struct AddBackward;

impl<B: LatentOps> Backward<B, 2> for AddBackward {
    type State = ();

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        let parents = ops.parents.map(|node| node.map(|node| node.id));
        register_all::<B, 2>(grads, parents, [dy.clone(), dy]);
    }
}

#[derive(Debug)]
struct ConcatBackward;

impl<B: LatentOps> Backward<B, 2> for ConcatBackward {
    /// Channels of the first part.
    type State = usize;

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        let (da, db) = B::latent_split(dy, ops.state);
        let parents = ops.parents.map(|node| node.map(|node| node.id));
        register_all::<B, 2>(grads, parents, [da, db]);
    }
}

impl<B: LatentOps, C: CheckpointStrategy> LatentOps for Autodiff<B, C> {
    fn latent_conv2d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Maybe<Self>,
        per_channel: Maybe<Self>,
        residual: Maybe<Self>,
        options: ConvOptions,
    ) -> FloatTensor<Self> {
        let options = if weight.is_tracked() {
            options.once()
        } else {
            options
        };
        let [_, _, kernel_height, kernel_width] = weight.shape().dims();
        let state = ConvState::<B> {
            x: weight.is_tracked().then(|| x.primitive().clone()),
            weight: x.is_tracked().then(|| weight.primitive().clone()),
            input: x.shape().dims(),
            kernel: [kernel_height, kernel_width],
            given: [is_given(&bias), is_given(&per_channel), is_given(&residual)],
            options,
        };
        let parents = [
            x.node(),
            weight.node(),
            node_or(&bias, &x),
            node_or(&per_channel, &x),
            node_or(&residual, &x),
        ];
        let (x, weight) = (x.into_primitive(), weight.into_primitive());
        let (bias, per_channel) = (inner(bias), inner(per_channel));
        let y = B::latent_conv2d(x, weight, bias, per_channel, inner(residual), options);
        record::<B, C, _, 5>(ConvBackward, parents, state, y)
    }

    fn latent_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Maybe<Self>,
        residual: Maybe<Self>,
        options: LinearOptions,
    ) -> FloatTensor<Self> {
        let options = if weight.is_tracked() {
            options.once()
        } else {
            options
        };
        let state = LinearState::<B> {
            x: weight.is_tracked().then(|| x.primitive().clone()),
            weight: x.is_tracked().then(|| weight.primitive().clone()),
            given: [is_given(&bias), is_given(&residual)],
            options,
        };
        let parents = [
            x.node(),
            weight.node(),
            node_or(&bias, &x),
            node_or(&residual, &x),
        ];
        let (x, weight) = (x.into_primitive(), weight.into_primitive());
        let y = B::latent_linear(x, weight, inner(bias), inner(residual), options);
        record::<B, C, _, 4>(LinearBackward, parents, state, y)
    }

    fn latent_attention(
        queries: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        options: AttentionOptions,
    ) -> FloatTensor<Self> {
        let tracked = queries.is_tracked() || keys.is_tracked() || values.is_tracked();
        let parents = [queries.node(), keys.node(), values.node()];
        let (queries, keys, values) = (
            queries.into_primitive(),
            keys.into_primitive(),
            values.into_primitive(),
        );
        if !tracked {
            let y = B::latent_attention(queries, keys, values, options);
            return untracked::<B, C, 3>(parents, y);
        }
        let (output, log_sums) =
            B::latent_attention_recorded(queries.clone(), keys.clone(), values.clone(), options);
        let saved = AttentionRecord::<B> {
            queries,
            keys,
            values,
            output: output.clone(),
            log_sums,
        };
        record::<B, C, _, 3>(AttentionBackward, parents, (saved, options), output)
    }

    fn latent_group_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        options: GroupNormOptions,
    ) -> FloatTensor<Self> {
        let parents = [x.node(), weight.node(), bias.node()];
        let (x, weight, bias) = (
            x.into_primitive(),
            weight.into_primitive(),
            bias.into_primitive(),
        );
        let (y, statistics) =
            B::latent_group_norm_recorded(x.clone(), weight.clone(), bias.clone(), options);
        let state = GroupNormState::<B> {
            x,
            weight,
            bias,
            statistics,
            options,
        };
        record::<B, C, _, 3>(GroupNormBackward, parents, state, y)
    }

    fn latent_layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self> {
        let parents = [x.node(), weight.node(), bias.node()];
        let (x, weight, bias) = (
            x.into_primitive(),
            weight.into_primitive(),
            bias.into_primitive(),
        );
        let y = B::latent_layer_norm(x.clone(), weight.clone(), bias, eps);
        record::<B, C, _, 3>(LayerNormBackward, parents, (x, weight, eps), y)
    }

    fn latent_geglu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let (x, parent) = x.into_parts();
        let y = B::latent_geglu(x.clone());
        record::<B, C, _, 1>(GegluBackward, [parent], x, y)
    }

    fn latent_activation(x: FloatTensor<Self>, kind: Activation) -> FloatTensor<Self> {
        let (x, parent) = x.into_parts();
        let y = B::latent_activation(x.clone(), kind);
        record::<B, C, _, 1>(ActivationBackward, [parent], (x, kind), y)
    }

    fn latent_add(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        let ((a, to_a), (b, to_b)) = (a.into_parts(), b.into_parts());
        record::<B, C, _, 2>(AddBackward, [to_a, to_b], (), B::latent_add(a, b))
    }

    fn latent_concat(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        let ((a, to_a), (b, to_b)) = (a.into_parts(), b.into_parts());
        let channels = a.shape()[a.shape().num_dims() - 1];
        record::<B, C, _, 2>(
            ConcatBackward,
            [to_a, to_b],
            channels,
            B::latent_concat(a, b),
        )
    }

    fn latent_upsample(x: FloatTensor<Self>, size: [usize; 2]) -> FloatTensor<Self> {
        let (x, parent) = x.into_parts();
        let [_, h, w, _] = x.shape().dims();
        record::<B, C, _, 1>(
            UpsampleBackward,
            [parent],
            [h, w],
            B::latent_upsample(x, size),
        )
    }
}

/// A result no gradient flows through.
fn untracked<B: LatentOps, C: CheckpointStrategy, const N: usize>(
    parents: [NodeGuard; N],
    y: FloatTensor<B>,
) -> Tracked<B, C> {
    drop(parents);
    Tracked::<B, C>::new(y)
}
