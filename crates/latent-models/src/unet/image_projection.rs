//! An image encoder's states to tokens that a U-Net looks at beside its text: the first half of IP-Adapters.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use latent_formats::{Renamed, Weights};
use latent_nn::layers::{LayerNorm, Linear};
use latent_nn::ops::AttentionOptions;
use latent_nn::{Init, Precision, ops};

use crate::text::ImageStates;

const LAYER_NORM_EPS: f64 = 1e-5;
/// Channels of a head of the resampler.
const HEAD: usize = 64;

/// What an adapter reads of a picture, and how wide that must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// The picture in the space of texts.
    Embeds(usize),
    /// The states of its tokens after the encoder's last layer but one.
    States(usize),
}

/// One of the published ways; the others are `None`.
///
/// Source: tencent-ailab's IP-Adapter, `ImageProjModel`, `MLPProjModel` and `Resampler`.
#[derive(Module, Debug)]
pub(super) struct ImageProjection {
    linear: Option<LinearProjection>,
    mlp: Option<MlpProjection>,
    resampler: Option<Resampler>,
}

/// The embedding to several tokens.
#[derive(Module, Debug)]
struct LinearProjection {
    proj: Linear,
    norm: LayerNorm,
}

/// Every state to a token.
#[derive(Module, Debug)]
struct MlpProjection {
    fc1: Linear,
    fc2: Linear,
    norm: LayerNorm,
}

/// Learned tokens that look at the states.
///
/// Source: Jaegle et al. 2021 (arXiv:2103.03206); Alayrac et al. 2022 (arXiv:2204.14198), section 3.1.1.
#[derive(Module, Debug)]
struct Resampler {
    /// `[1, tokens, c]`.
    latents: Param<Tensor<3>>,
    proj_in: Linear,
    layers: Vec<ResamplerLayer>,
    proj_out: Linear,
    norm_out: LayerNorm,
}

#[derive(Module, Debug)]
struct ResamplerLayer {
    /// Of the states.
    norm1: LayerNorm,
    /// Of the tokens.
    norm2: LayerNorm,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    norm3: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    #[module(skip)]
    heads: usize,
    #[module(skip)]
    precision: Precision,
}

impl ImageProjection {
    /// With the sizes that the tensors of a file tell, and what it reads; `width` is that of its tokens. `None` if the
    /// file has none of the ways, or other sizes than they can have.
    pub(super) fn of_file(
        weights: &Weights,
        width: usize,
        init: &mut Init,
    ) -> Option<(Self, Reads)> {
        let mut projection = Self {
            linear: None,
            mlp: None,
            resampler: None,
        };
        let shape = |name: &str| Some(weights.describe(&format!("image_proj.{name}"))?.1);
        // Nothing is made room for that the file does not hold.
        let has = |name: &str, needed: &[usize]| (shape(name)? == needed).then_some(());
        let reads = if let Some(&[rows, seen]) = shape("proj.weight") {
            let rows = Some(rows).filter(|rows| *rows > 0 && rows.is_multiple_of(width))?;
            projection.linear = Some(LinearProjection {
                proj: Linear::new([seen, rows], init),
                norm: LayerNorm::new(width, LAYER_NORM_EPS, init),
            });
            Reads::Embeds(seen)
        } else if let Some(&[seen, _]) = shape("proj.0.weight") {
            has("proj.0.weight", &[seen; 2])?;
            has("proj.2.weight", &[width, seen])?;
            has("proj.3.weight", &[width])?;
            projection.mlp = Some(MlpProjection {
                fc1: Linear::new([seen, seen], init),
                fc2: Linear::new([seen, width], init),
                norm: LayerNorm::new(width, LAYER_NORM_EPS, init),
            });
            Reads::States(seen)
        } else {
            let (&[_, tokens, inside], &[inner, _]) = (
                <&[usize; 3]>::try_from(shape("latents")?).ok()?,
                <&[usize; 2]>::try_from(shape("layers.0.0.to_q.weight")?).ok()?,
            );
            let &[_, seen] = shape("proj_in.weight")? else {
                return None;
            };
            if [tokens, inside, inner, seen].contains(&0) {
                return None;
            }
            has("proj_in.weight", &[inside, seen])?;
            has("proj_out.weight", &[width, inside])?;
            let layers =
                (0..).take_while(|n| shape(&format!("layers.{n}.0.to_q.weight")).is_some());
            let layers = layers.count();
            for layer in 0..layers {
                has(&format!("layers.{layer}.0.to_q.weight"), &[inner, inside])?;
                has(&format!("layers.{layer}.1.1.weight"), &[4 * inside, inside])?;
            }
            let heads = Some(inner / HEAD).filter(|heads| heads * HEAD == inner)?;
            let sizes = ([seen, width], [tokens, inside], heads);
            projection.resampler = Some(Resampler::new(sizes, layers, init));
            Reads::States(seen)
        };
        Some((projection, reads))
    }

    /// Tokens `[n, t, width]` of pictures.
    pub(super) fn forward(&self, states: &ImageStates) -> Tensor<3> {
        let ImageStates {
            penultimate,
            embeds,
        } = states;
        match (&self.linear, &self.mlp, &self.resampler) {
            (Some(linear), ..) => linear.forward(embeds.clone()),
            (_, Some(mlp), _) => mlp.forward(penultimate.clone()),
            (.., Some(resampler)) => resampler.forward(penultimate.clone()),
            (None, None, None) => unreachable!("one way is always there"),
        }
    }
}

impl LinearProjection {
    fn forward(&self, embeds: Tensor<2>) -> Tensor<3> {
        let tokens = self.proj.forward(embeds);
        let ([n, all], [width]) = (tokens.dims(), self.norm.weight.dims());
        self.norm.forward(tokens.reshape([n, all / width, width]))
    }
}

impl MlpProjection {
    fn forward(&self, states: Tensor<3>) -> Tensor<3> {
        let inside = ops::gelu(self.fc1.forward(states));
        self.norm.forward(self.fc2.forward(inside))
    }
}

impl Resampler {
    /// Width of the states and of the tokens it gives; how many tokens, and their width inside; heads of a layer.
    fn new(
        ([seen, width], [tokens, inside], heads): ([usize; 2], [usize; 2], usize),
        layers: usize,
        init: &mut Init,
    ) -> Self {
        let deviation = (inside as f32).sqrt().recip();
        Self {
            latents: init.normal([1, tokens, inside], deviation),
            proj_in: Linear::new([seen, inside], init),
            layers: (0..layers)
                .map(|_| ResamplerLayer::new(inside, heads, init))
                .collect(),
            proj_out: Linear::new([inside, width], init),
            norm_out: LayerNorm::new(width, LAYER_NORM_EPS, init),
        }
    }

    fn forward(&self, states: Tensor<3>) -> Tensor<3> {
        let n = states.dims()[0];
        let states = self.proj_in.forward(states);
        let mut tokens = self.latents.val().repeat(&[n, 1, 1]);
        for layer in &self.layers {
            tokens = layer.forward(&states, tokens);
        }
        self.norm_out.forward(self.proj_out.forward(tokens))
    }
}

impl ResamplerLayer {
    fn new(width: usize, heads: usize, init: &mut Init) -> Self {
        let inner = heads * HEAD;
        let norm = |init: &mut Init| LayerNorm::new(width, LAYER_NORM_EPS, init);
        let plain = |sizes: [usize; 2], init: &mut Init| Linear::new(sizes, init).without_bias();
        Self {
            norm1: norm(init),
            norm2: norm(init),
            to_q: plain([width, inner], init),
            to_k: plain([width, inner], init),
            to_v: plain([width, inner], init),
            to_out: plain([inner, width], init),
            norm3: norm(init),
            fc1: plain([width, 4 * width], init),
            fc2: plain([4 * width, width], init),
            heads,
            precision: init.precision(),
        }
    }

    /// Tokens `[n, t, c]` that looked at states `[n, l, c]` and at one another.
    fn forward(&self, states: &Tensor<3>, tokens: Tensor<3>) -> Tensor<3> {
        let normed = self.norm2.forward(tokens.clone());
        let seen = Tensor::cat(vec![self.norm1.forward(states.clone()), normed.clone()], 1);
        let options = AttentionOptions::new(self.heads, self.precision);
        let found = ops::attention(
            self.to_q.forward(normed),
            self.to_k.forward(seen.clone()),
            self.to_v.forward(seen),
            options,
        );
        let tokens = self.to_out.forward_residual(found, tokens);
        let inside = ops::gelu(self.fc1.forward(self.norm3.forward(tokens.clone())));
        self.fc2.forward_residual(inside, tokens)
    }
}

/// The fields of this file that the tensor `key` of an adapter's file fills; `image_proj.` stands before it there.
pub(super) fn renamed(key: &str, weights: &Weights) -> Vec<Renamed> {
    let is = |name: &str| weights.contains(&format!("image_proj.{name}"));
    let whole = |name: String| vec![Renamed::whole(name)];
    if is("proj.weight") {
        return whole(format!("linear.{key}"));
    }
    if is("proj.3.weight") {
        let fields = [
            ("proj.0.", "fc1."),
            ("proj.2.", "fc2."),
            ("proj.3.", "norm."),
        ];
        let field = fields
            .iter()
            .find_map(|(theirs, ours)| Some((ours, key.strip_prefix(theirs)?)));
        return whole(match field {
            Some((ours, rest)) => format!("mlp.{ours}{rest}"),
            None => format!("mlp.{key}"),
        });
    }
    let inside = key.strip_prefix("layers.");
    let Some((layer, rest)) = inside.and_then(|inside| inside.split_once('.')) else {
        return whole(format!("resampler.{key}"));
    };
    let layer = format!("resampler.layers.{layer}");
    if rest == "0.to_kv.weight" {
        let half = |(index, name)| Renamed {
            name: format!("{layer}.{name}.weight"),
            rows: (index, 2),
            transposed: false,
        };
        return ["to_k", "to_v"].into_iter().enumerate().map(half).collect();
    }
    let fields = [
        ("0.", ""),
        ("1.0.", "norm3."),
        ("1.1.", "fc1."),
        ("1.3.", "fc2."),
    ];
    let field = fields
        .iter()
        .find_map(|(theirs, ours)| Some((ours, rest.strip_prefix(theirs)?)));
    whole(match field {
        Some((ours, rest)) => format!("{layer}.{ours}{rest}"),
        None => format!("{layer}.{rest}"),
    })
}
