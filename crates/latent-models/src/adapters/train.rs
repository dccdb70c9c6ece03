//! LoRAs that are trained: which layers they change, and the files they become.

use std::path::Path;

use latent_formats::{Dtype, SafetensorsWriter, Weights};
use latent_nn::layers::{Adaptable, LowRank};
use latent_nn::to_host;

use super::layers::Layers;
use crate::error::{ModelError, Result};
use crate::single_file::{LdmNames, TextNames};
use crate::text::ClipTextModel;
use crate::unet::UNet2dCondition;
use crate::weights::written_name;

/// What a layer does, by which training chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerKind {
    /// Queries, keys, values and results of attention.
    Attention,
    /// The two layers behind attention.
    FeedForward,
    /// The way into and out of a transformer.
    Projection,
    /// Residual blocks, halvings and doublings.
    Convolution,
}

impl LayerKind {
    /// Of the layer that files call `name`; `None` for those that LoRAs leave alone.
    ///
    /// Source: kohya's sd-scripts, `networks/lora.py`, whose target modules these are together.
    fn of(name: &str) -> Option<Self> {
        let kinds = [
            (".attn", Self::Attention),
            (".self_attn.", Self::Attention),
            (".ff.", Self::FeedForward),
            (".mlp.", Self::FeedForward),
            (".proj_", Self::Projection),
            (".resnets.", Self::Convolution),
            ("samplers.", Self::Convolution),
        ];
        // `attentions.0.` begins no name of a layer by itself.
        let name = name.replace(".attentions.", ".");
        let found = kinds.iter().find(|(part, _)| name.contains(part));
        found.map(|(_, kind)| *kind)
    }
}

/// A layer that a LoRA may change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoraLayer {
    /// The folder of its network: `unet`, `text_encoder`, `text_encoder_2`.
    pub part: &'static str,
    /// Its name in files, without an ending.
    pub name: String,
    /// Of its weight in files: `[out, in]` or `[out, in, kh, kw]`.
    pub shape: Vec<usize>,
    /// What it does.
    pub kind: LayerKind,
}

/// The layers of a network, in its order.
fn layers_of(network: &mut impl Layers, part: &'static str) -> Vec<LoraLayer> {
    let mut found = Vec::new();
    network.layers("", &mut |path, layer| {
        let name = name_of(path);
        found.extend(LayerKind::of(&name).map(|kind| LoraLayer {
            part,
            name,
            shape: layer.shape(),
            kind,
        }));
    });
    found
}

/// The name that files give the layer at `path`.
fn name_of(path: &str) -> String {
    let mut name = written_name(&format!("{path}."));
    name.pop();
    name
}

/// The network with factors beside `layers`, which come in its order.
fn adapted<N: Layers>(mut network: N, layers: &[LoraLayer], factors: &[LowRank]) -> N {
    let mut next = layers.iter().zip(factors).peekable();
    network.layers("", &mut |path, layer: Adaptable<'_>| {
        let name = name_of(path);
        if let Some((_, factors)) = next.next_if(|(layer, _)| layer.name == name) {
            layer.adapt(factors.clone());
        }
    });
    network
}

impl UNet2dCondition {
    /// The layers that a LoRA may change, in the network's order.
    pub fn lora_layers(&self) -> Vec<LoraLayer> {
        let mut layers = layers_of(&mut self.clone(), "unet");
        if self.config().use_linear_projection {
            let projections = layers
                .iter_mut()
                .filter(|layer| layer.kind == LayerKind::Projection);
            projections.for_each(|layer| layer.shape.truncate(2));
        }
        layers
    }

    /// The network with factors beside some of [`UNet2dCondition::lora_layers`], in their order.
    #[must_use]
    pub fn with_factors(self, layers: &[LoraLayer], factors: &[LowRank]) -> Self {
        adapted(self, layers, factors)
    }
}

impl ClipTextModel {
    /// The layers that a LoRA may change, in the network's order; `part` is its folder.
    pub fn lora_layers(&self, part: &'static str) -> Vec<LoraLayer> {
        layers_of(&mut self.clone(), part)
    }

    /// The network with factors beside some of [`ClipTextModel::lora_layers`], in their order.
    #[must_use]
    pub fn with_factors(self, layers: &[LoraLayer], factors: &[LowRank]) -> Self {
        adapted(self, layers, factors)
    }
}

/// How a LoRA's tensors are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoraDialect {
    /// kohya's, which A1111 and ComfyUI read: alpha is a tensor of each layer.
    Kohya,
    /// PEFT's, which diffusers writes: alpha over the rank is multiplied into the factors, so that programs that read no
    /// alpha from the header make the same of the file.
    Peft,
}

/// A LoRA's files, written and read.
#[derive(Clone, Debug)]
pub struct LoraFiles {
    /// Of models with two text encoders, whose U-Nets kohya names as the published file does.
    published: Option<LdmNames>,
}

impl LoraFiles {
    /// For LoRAs of the model with this U-Net.
    pub fn of(unet: &UNet2dCondition) -> Self {
        let is_xl = unet.config().addition_embed_type.is_some();
        let names: Vec<String> = unet.lora_layers().into_iter().map(|l| l.name).collect();
        let of = || {
            let names = names.iter().map(String::as_str);
            LdmNames::of(names, [].into_iter(), TextNames::Both)
        };
        Self {
            published: is_xl.then(of),
        }
    }

    /// A layer's name in a dialect.
    fn name(&self, layer: &LoraLayer, dialect: LoraDialect) -> String {
        let LoraLayer { part, name, .. } = layer;
        if dialect == LoraDialect::Peft {
            return format!("{part}.{name}");
        }
        let published = self.published.as_ref();
        let (start, name) = match (*part, published) {
            ("unet", Some(names)) => ("unet", names.unet(name).unwrap_or_else(|| name.clone())),
            ("unet", None) => ("unet", name.clone()),
            ("text_encoder", None) => ("te", name.clone()),
            ("text_encoder", Some(_)) => ("te1", name.clone()),
            _ => ("te2", name.clone()),
        };
        format!("lora_{start}_{}", name.replace('.', "_"))
    }

    /// Writes factors with what the file says of itself.
    ///
    /// # Errors
    /// [`ModelError::Format`] if the file cannot be written.
    pub fn write(
        &self,
        path: &Path,
        dialect: LoraDialect,
        layers: &[(&LoraLayer, &LowRank)],
        metadata: &[(String, String)],
        dtype: Dtype,
    ) -> Result<()> {
        let mut tensors: Vec<(String, Vec<usize>, Vec<f32>)> = Vec::new();
        for (layer, factors) in layers {
            let name = self.name(layer, dialect);
            let (down, [rank, _]) = to_host(factors.down.val());
            let (mut up, _) = to_host(factors.up.val());
            let [down_shape, up_shape] = shapes(&layer.shape, rank);
            let endings = match dialect {
                LoraDialect::Kohya => {
                    let alpha = (factors.scale() * rank as f64) as f32;
                    tensors.push((format!("{name}.alpha"), Vec::new(), vec![alpha]));
                    ["lora_down", "lora_up"]
                }
                LoraDialect::Peft => {
                    let scale = factors.scale() as f32;
                    up.iter_mut().for_each(|value| *value *= scale);
                    ["lora_A", "lora_B"]
                }
            };
            tensors.push((format!("{name}.{}.weight", endings[0]), down_shape, down));
            tensors.push((format!("{name}.{}.weight", endings[1]), up_shape, up));
        }
        let mut writer = SafetensorsWriter::new().metadata("format", "pt");
        for (key, value) in metadata {
            writer = writer.metadata(key.as_str(), value.as_str());
        }
        for (name, shape, values) in &tensors {
            writer = writer.f32(name, shape, values, dtype)?;
        }
        Ok(writer.write(path)?)
    }

    /// Values `[down, up]` of a layer in a file of either dialect, for factors of `rank` whose product counts `scale`
    /// times.
    ///
    /// # Errors
    /// [`ModelError::Adapter`] if the layer is missing or has another rank.
    pub fn read(
        &self,
        weights: &Weights,
        layer: &LoraLayer,
        rank: usize,
        scale: f64,
    ) -> Result<[Vec<f32>; 2]> {
        let shapes = shapes(&layer.shape, rank);
        for (dialect, endings) in [
            (LoraDialect::Kohya, ["lora_down", "lora_up"]),
            (LoraDialect::Peft, ["lora_A", "lora_B"]),
        ] {
            let name = self.name(layer, dialect);
            let [down, up] = endings.map(|ending| format!("{name}.{ending}.weight"));
            if !weights.contains(&down) {
                continue;
            }
            let down = weights.read_f32_shaped(&down, &shapes[0])?;
            let mut up = weights.read_f32_shaped(&up, &shapes[1])?;
            let alpha = format!("{name}.alpha");
            let stated = match weights.contains(&alpha) {
                true => f64::from(weights.read_f32_shaped(&alpha, &[])?[0]) / rank as f64,
                false => 1.0,
            };
            let ratio = (stated / scale) as f32;
            up.iter_mut().for_each(|value| *value *= ratio);
            return Ok([down, up]);
        }
        Err(ModelError::Adapter {
            path: weights.path().to_path_buf(),
            reason: format!(
                "has no factors for `{}.{}`; a LoRA to go on from changes the same layers",
                layer.part, layer.name
            ),
        })
    }
}

/// Shapes of the two factors beside a weight.
fn shapes(weight: &[usize], rank: usize) -> [Vec<usize>; 2] {
    let down = [&[rank], &weight[1..]].concat();
    let mut up = vec![1; weight.len()];
    up[0] = weight[0];
    up[1] = rank;
    [down, up]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_layer_is_told_by_its_name() {
        for (name, kind) in [
            (
                "down_blocks.0.attentions.1.transformer_blocks.0.attn2.to_out.0",
                Some(LayerKind::Attention),
            ),
            (
                "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj",
                Some(LayerKind::FeedForward),
            ),
            (
                "up_blocks.1.attentions.0.proj_in",
                Some(LayerKind::Projection),
            ),
            (
                "up_blocks.1.resnets.0.time_emb_proj",
                Some(LayerKind::Convolution),
            ),
            (
                "down_blocks.0.downsamplers.0.conv",
                Some(LayerKind::Convolution),
            ),
            (
                "text_model.encoder.layers.0.self_attn.q_proj",
                Some(LayerKind::Attention),
            ),
            (
                "text_model.encoder.layers.0.mlp.fc1",
                Some(LayerKind::FeedForward),
            ),
            ("time_embedding.linear_1", None),
        ] {
            assert_eq!(LayerKind::of(name), kind, "{name}");
        }
    }
}
