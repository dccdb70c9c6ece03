//! The layers of CLIP's transformers, of texts and of pictures alike.

use burn::module::Module;
use burn::tensor::Tensor;
use latent_nn::layers::{LayerNorm, Linear};
use latent_nn::ops::AttentionOptions;
use latent_nn::{Init, Precision, ops};

use super::config::HiddenActivation;
use crate::adapters::layers::layers;

/// What the layers of a transformer have in common.
#[derive(Clone, Copy)]
pub(super) struct LayerOptions {
    pub(super) width: usize,
    /// Inside the feed-forward.
    pub(super) inner: usize,
    pub(super) heads: usize,
    pub(super) eps: f64,
    pub(super) activation: HiddenActivation,
    /// Each position looks at those before it only.
    pub(super) causal: bool,
}

/// Self-attention and a feed-forward, each added to its input.
#[derive(Module, Debug)]
pub(super) struct ClipLayer {
    self_attn: ClipAttention,
    layer_norm1: LayerNorm,
    mlp: ClipMlp,
    layer_norm2: LayerNorm,
}

#[derive(Module, Debug)]
struct ClipAttention {
    k_proj: Linear,
    v_proj: Linear,
    q_proj: Linear,
    out_proj: Linear,
    #[module(skip)]
    heads: usize,
    #[module(skip)]
    causal: bool,
    #[module(skip)]
    precision: Precision,
}

#[derive(Module, Debug)]
struct ClipMlp {
    fc1: Linear,
    fc2: Linear,
    #[module(skip)]
    activation: HiddenActivation,
}

layers!(ClipLayer { self_attn, mlp });
layers!(ClipAttention {
    k_proj,
    v_proj,
    q_proj,
    out_proj
});
layers!(ClipMlp { fc1, fc2 });

impl ClipLayer {
    pub(super) fn new(options: LayerOptions, init: &mut Init) -> Self {
        let LayerOptions {
            width, inner, eps, ..
        } = options;
        Self {
            self_attn: ClipAttention {
                k_proj: Linear::new([width, width], init),
                v_proj: Linear::new([width, width], init),
                q_proj: Linear::new([width, width], init),
                out_proj: Linear::new([width, width], init),
                heads: options.heads,
                causal: options.causal,
                precision: init.precision(),
            },
            layer_norm1: LayerNorm::new(width, eps, init),
            mlp: ClipMlp {
                fc1: Linear::new([width, inner], init),
                fc2: Linear::new([inner, width], init),
                activation: options.activation,
            },
            layer_norm2: LayerNorm::new(width, eps, init),
        }
    }

    /// `x [n, l, c]` to the same shape.
    pub(super) fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let x = self
            .self_attn
            .forward_residual(self.layer_norm1.forward(x.clone()), x);
        self.mlp
            .forward_residual(self.layer_norm2.forward(x.clone()), x)
    }
}

impl ClipAttention {
    fn forward_residual(&self, x: Tensor<3>, residual: Tensor<3>) -> Tensor<3> {
        let options = AttentionOptions {
            heads: self.heads,
            causal: self.causal,
            precision: self.precision,
        };
        let queries = self.q_proj.forward(x.clone());
        let keys = self.k_proj.forward(x.clone());
        let found = ops::attention(queries, keys, self.v_proj.forward(x), options);
        self.out_proj.forward_residual(found, residual)
    }
}

impl ClipMlp {
    fn forward_residual(&self, x: Tensor<3>, residual: Tensor<3>) -> Tensor<3> {
        let x = self.fc1.forward(x);
        let x = match self.activation {
            HiddenActivation::QuickGelu => ops::quick_gelu(x),
            HiddenActivation::Gelu => ops::gelu(x),
        };
        self.fc2.forward_residual(x, residual)
    }
}
