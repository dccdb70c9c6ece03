//! Names of OpenCLIP's text transformer, which Stable Diffusion 2.x and XL checkpoints hold, as transformers' names.
//!
//! Source: open_clip's `TextTransformer`; diffusers' `convert_open_clip_checkpoint` maps the same way.

use latent_formats::{Renamed, Weights};

pub(super) const PREFIX: &str = "cond_stage_model.model.";

/// Outside the layers.
pub(super) const ENDS: &[(&str, &str)] = &[
    (
        "positional_embedding",
        "text_model.embeddings.position_embedding.weight",
    ),
    (
        "token_embedding.weight",
        "text_model.embeddings.token_embedding.weight",
    ),
    ("ln_final.weight", "text_model.final_layer_norm.weight"),
    ("ln_final.bias", "text_model.final_layer_norm.bias"),
];

/// The projection of the pooled state: a factor on the right in OpenCLIP, and in some files already a linear layer's.
const PROJECTION: [&str; 2] = ["text_projection", "text_projection.weight"];

/// Inside a layer.
pub(super) const LAYER: &[(&str, &str)] = &[
    ("ln_1.", "layer_norm1."),
    ("ln_2.", "layer_norm2."),
    ("attn.out_proj.", "self_attn.out_proj."),
    ("mlp.c_fc.", "mlp.fc1."),
    ("mlp.c_proj.", "mlp.fc2."),
];

/// The text encoder of a checkpoint.
#[derive(Debug)]
pub(super) struct OpenClip {
    /// What its names begin with.
    prefix: &'static str,
    /// The projection is read.
    projects: bool,
    /// Layers whose states the U-Net reads. Stable Diffusion 2 reads the last but one, so the last layer is in the file
    /// for nothing.
    layers: usize,
}

impl OpenClip {
    /// The text encoder whose names begin with `prefix`; `whole` with its last layer and its projection.
    pub(super) fn of(weights: &Weights, prefix: &'static str, whole: bool) -> Self {
        let has = |layer: usize| {
            weights.contains(&format!(
                "{prefix}transformer.resblocks.{layer}.ln_1.weight"
            ))
        };
        let layers = (0..).take_while(|&layer| has(layer)).count();
        Self {
            prefix,
            projects: whole,
            layers: layers.saturating_sub(usize::from(!whole)),
        }
    }

    /// The names of the tensor `key`: three where queries, keys and values lie behind one another.
    pub(super) fn transformers_names(&self, key: &str) -> Vec<Renamed> {
        self.names(key).unwrap_or_default()
    }

    fn names(&self, key: &str) -> Option<Vec<Renamed>> {
        let key = key.strip_prefix(self.prefix)?;
        if let Some(index) = PROJECTION.iter().position(|name| *name == key) {
            let name = "text_projection.weight";
            let renamed = match index {
                0 => Renamed::transposed(name),
                _ => Renamed::whole(name),
            };
            return self.projects.then(|| vec![renamed]);
        }
        if let Some((_, name)) = ENDS.iter().find(|(theirs, _)| *theirs == key) {
            return Some(vec![Renamed::whole(*name)]);
        }
        let (layer, inside) = key
            .strip_prefix("transformer.resblocks.")?
            .split_once('.')?;
        if layer.parse::<usize>().ok()? >= self.layers {
            return None;
        }
        let layer = format!("text_model.encoder.layers.{layer}");
        if let Some(kind) = inside.strip_prefix("attn.in_proj_") {
            let parts = ["q_proj", "k_proj", "v_proj"].into_iter().enumerate();
            return Some(
                parts
                    .map(|(index, part)| Renamed {
                        name: format!("{layer}.self_attn.{part}.{kind}"),
                        rows: (index, 3),
                        transposed: false,
                    })
                    .collect(),
            );
        }
        let name = super::ldm::replaced(inside, LAYER)?;
        Some(vec![Renamed::whole(format!("{layer}.{name}"))])
    }
}
