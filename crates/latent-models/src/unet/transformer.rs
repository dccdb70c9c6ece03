//! The transformer that lets every position of a picture look at all others and at the text.

use std::ops::Range;

use burn::module::Module;
use burn::tensor::Tensor;
use latent_nn::layers::{Conv2d, GroupNorm, LayerNorm, Linear};
use latent_nn::ops::AttentionOptions;
use latent_nn::{Init, Precision, ops};

use super::merging::{Merge, TokenMerging};
use super::model::Leading;
use crate::adapters::layers::layers;

/// Added to the variance in the norm before a transformer; residual blocks have another.
const GROUP_NORM_EPS: f64 = 1e-6;
const LAYER_NORM_EPS: f64 = 1e-5;

/// What the transformers of a level have in common.
#[derive(Clone, Copy)]
pub(super) struct TransformerOptions {
    pub(super) channels: usize,
    pub(super) heads: usize,
    pub(super) layers: usize,
    pub(super) text_width: usize,
    pub(super) groups: usize,
}

/// Keys and values `[n, l, c]` of what one attention layer looks at.
#[derive(Clone, Debug)]
pub(super) struct KeysValues {
    keys: Tensor<3>,
    values: Tensor<3>,
    /// Of pictures beside the text, one an adapter.
    pictures: Vec<KeysValues>,
    /// Rows at the end of the batch whose positions look at nothing but themselves in this layer's self-attention.
    pub(super) perturbed: usize,
}

impl KeysValues {
    /// Of the keys and values of one thing.
    pub(super) fn new(keys: Tensor<3>, values: Tensor<3>) -> Self {
        Self {
            keys,
            values,
            pictures: Vec::new(),
            perturbed: 0,
        }
    }

    /// Has the layer look at a picture as well.
    pub(super) fn add_picture(&mut self, picture: Self) {
        self.pictures.push(picture);
    }
}

/// What attention layers see in the text and the pictures beside it, in the order in which they ask for it.
pub(super) struct Seen<'a> {
    layers: std::slice::Iter<'a, KeysValues>,
    /// Shares of the pictures, one an adapter.
    shares: &'a [f32],
    merging: Option<TokenMerging>,
    /// Positions of the largest level so far, the only one whose positions are merged.
    largest: usize,
    /// Layers that have looked.
    done: usize,
}

impl<'a> Seen<'a> {
    pub(super) fn new(layers: &'a [KeysValues], leading: Leading<'a>) -> Self {
        Self {
            layers: layers.iter(),
            shares: leading.pictures,
            merging: leading.merging,
            largest: 0,
            done: 0,
        }
    }

    /// How the next layer's self-attention takes positions `x [n, h * w, c]` together.
    fn merge(&mut self, x: &Tensor<3>, [h, w]: [usize; 2]) -> Option<Merge> {
        self.largest = self.largest.max(h * w);
        self.done += 1;
        let merging = self.merging.filter(|_| h * w == self.largest)?;
        Merge::of(x, [h, w], merging, self.done)
    }
}

/// Transformer layers over the positions of a picture, plus the input.
///
/// Source: Rombach et al. 2022 (arXiv:2112.10752), section 3.3 and appendix E.2.1; fields as in diffusers.
#[derive(Module, Debug)]
pub(super) struct Transformer2d {
    norm: GroupNorm,
    /// 1x1, that is a linear layer; some files store it as one.
    proj_in: Conv2d,
    transformer_blocks: Vec<TransformerBlock>,
    proj_out: Conv2d,
}

layers!(Transformer2d {
    proj_in,
    transformer_blocks,
    proj_out
});

impl Transformer2d {
    pub(super) fn new(options: TransformerOptions, init: &mut Init) -> Self {
        let TransformerOptions {
            channels,
            groups,
            layers,
            ..
        } = options;
        Self {
            norm: GroupNorm::new(groups, channels, GROUP_NORM_EPS, init),
            proj_in: Conv2d::new([channels, channels], 1, init),
            transformer_blocks: (0..layers)
                .map(|_| TransformerBlock::new(options, init))
                .collect(),
            proj_out: Conv2d::new([channels, channels], 1, init),
        }
    }

    /// Its layers.
    pub(super) fn depth(&self) -> usize {
        self.transformer_blocks.len()
    }

    /// Keys and values of `text [n, l, width]`, one per layer.
    pub(super) fn keys_values(&self, text: &Tensor<3>) -> impl Iterator<Item = KeysValues> {
        self.transformer_blocks
            .iter()
            .map(|block| block.attn2.keys_values(text.clone()))
    }

    /// `x [n, h, w, c]` to the same shape; takes from `seen` what [`Transformer2d::keys_values`] gave.
    pub(super) fn forward(&self, x: Tensor<4>, seen: &mut Seen<'_>) -> Tensor<4> {
        let [n, h, w, c] = x.dims();
        let positions = self.proj_in.forward(self.norm.forward(x.clone()));
        let mut positions = positions.reshape([n, h * w, c]);
        for block in &self.transformer_blocks {
            let Some(text) = seen.layers.next() else {
                unreachable!("`keys_values` gave one a layer")
            };
            let merge = match text.perturbed {
                0 => seen.merge(&positions, [h, w]),
                _ => None,
            };
            positions = block.forward(positions, (text, seen.shares), merge.as_ref());
        }
        self.proj_out
            .forward_residual(positions.reshape([n, h, w, c]), x)
    }
}

/// Self-attention, cross-attention, feed-forward, each added to its input.
#[derive(Module, Debug)]
struct TransformerBlock {
    norm1: LayerNorm,
    attn1: Attention,
    norm2: LayerNorm,
    attn2: Attention,
    norm3: LayerNorm,
    ff: FeedForward,
}

layers!(TransformerBlock { attn1, attn2, ff });

impl TransformerBlock {
    fn new(options: TransformerOptions, init: &mut Init) -> Self {
        let TransformerOptions {
            channels,
            heads,
            text_width,
            ..
        } = options;
        Self {
            norm1: LayerNorm::new(channels, LAYER_NORM_EPS, init),
            attn1: Attention::new([channels, channels], heads, init),
            norm2: LayerNorm::new(channels, LAYER_NORM_EPS, init),
            attn2: Attention::new([channels, text_width], heads, init),
            norm3: LayerNorm::new(channels, LAYER_NORM_EPS, init),
            ff: FeedForward::new(channels, init),
        }
    }

    fn forward(
        &self,
        x: Tensor<3>,
        text: (&KeysValues, &[f32]),
        merge: Option<&Merge>,
    ) -> Tensor<3> {
        let normed = self.norm1.forward(x.clone());
        let x = match (text.0.perturbed, merge) {
            (0, None) => {
                let own = self.attn1.keys_values(normed.clone());
                self.attn1.forward_residual(normed, (&own, &[]), x)
            }
            (0, Some(merge)) => self.attn1.forward_merged(normed, merge, x),
            (perturbed, _) => self.attn1.forward_perturbed(normed, perturbed, x),
        };
        let x = self
            .attn2
            .forward_residual(self.norm2.forward(x.clone()), text, x);
        self.ff.forward_residual(self.norm3.forward(x.clone()), x)
    }
}

/// Attention of several heads; queries, keys and values without bias.
#[derive(Module, Debug)]
struct Attention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Vec<Linear>,
    #[module(skip)]
    heads: usize,
    #[module(skip)]
    precision: Precision,
}

layers!(Attention {
    to_q,
    to_k,
    to_v,
    to_out
});

impl Attention {
    /// Channels of the queries, and of what keys and values are made of.
    fn new([channels, seen]: [usize; 2], heads: usize, init: &mut Init) -> Self {
        Self {
            to_q: Linear::new([channels, channels], init).without_bias(),
            to_k: Linear::new([seen, channels], init).without_bias(),
            to_v: Linear::new([seen, channels], init).without_bias(),
            to_out: vec![Linear::new([channels, channels], init)],
            heads,
            precision: init.precision(),
        }
    }

    fn keys_values(&self, seen: Tensor<3>) -> KeysValues {
        KeysValues::new(self.to_k.forward(seen.clone()), self.to_v.forward(seen))
    }

    /// What it finds in `seen` and, by their shares, in the pictures beside it is summed before the last layer.
    ///
    /// Source: Ye et al. 2023 (arXiv:2308.06721), Eq. 5, of pictures.
    fn forward_residual(
        &self,
        x: Tensor<3>,
        (seen, shares): (&KeysValues, &[f32]),
        residual: Tensor<3>,
    ) -> Tensor<3> {
        let queries = self.to_q.forward(x);
        let find =
            |seen: &KeysValues| self.look(queries.clone(), seen.keys.clone(), seen.values.clone());
        let pictures = seen.pictures.iter().zip(shares);
        let found = pictures
            .filter(|(_, share)| **share != 0.0)
            .fold(find(seen), |found, (picture, &share)| {
                ops::add(found, find(picture) * share)
            });
        drop(queries);
        self.to_out[0].forward_residual(found, residual)
    }

    fn look(&self, queries: Tensor<3>, keys: Tensor<3>, values: Tensor<3>) -> Tensor<3> {
        let options = AttentionOptions::new(self.heads, self.precision);
        ops::attention(queries, keys, values, options)
    }

    /// Self-attention over positions of which some are taken together.
    fn forward_merged(&self, x: Tensor<3>, merge: &Merge, residual: Tensor<3>) -> Tensor<3> {
        let x = merge.merge(x);
        let own = self.keys_values(x.clone());
        let found = self.look(self.to_q.forward(x), own.keys, own.values);
        ops::add(merge.unmerge(self.to_out[0].forward(found)), residual)
    }

    /// Self-attention in which the positions of the last `perturbed` rows of the batch look at nothing but themselves.
    ///
    /// Source: Ahn et al. 2024 (arXiv:2403.17377), Eq. 12.
    fn forward_perturbed(&self, x: Tensor<3>, perturbed: usize, residual: Tensor<3>) -> Tensor<3> {
        let [n, length, channels] = x.dims();
        let whole = n - perturbed;
        let values = self.to_v.forward(x.clone());
        if whole == 0 {
            return self.to_out[0].forward_residual(values, residual);
        }
        let rows = |all: Tensor<3>, rows: Range<usize>| all.slice([rows, 0..length, 0..channels]);
        let x = rows(x, 0..whole);
        let (queries, keys) = (self.to_q.forward(x.clone()), self.to_k.forward(x));
        let found = self.look(queries, keys, rows(values.clone(), 0..whole));
        let found = Tensor::cat(vec![found, rows(values, whole..n)], 0);
        self.to_out[0].forward_residual(found, residual)
    }
}

/// A gated layer four times as wide, and back.
///
/// Files call the two layers `net.0.proj` and `net.2`; see [`crate::weights`].
#[derive(Module, Debug)]
struct FeedForward {
    proj: Linear,
    out: Linear,
}

layers!(FeedForward { proj, out });

impl FeedForward {
    fn new(channels: usize, init: &mut Init) -> Self {
        Self {
            proj: Linear::new([channels, 8 * channels], init),
            out: Linear::new([4 * channels, channels], init),
        }
    }

    fn forward_residual(&self, x: Tensor<3>, residual: Tensor<3>) -> Tensor<3> {
        self.out
            .forward_residual(ops::geglu(self.proj.forward(x)), residual)
    }
}
