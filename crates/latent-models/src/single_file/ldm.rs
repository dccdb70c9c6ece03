//! Names of the latent diffusion code, in which Stable Diffusion 1.x, 2.x and XL were published, as diffusers' names.
//!
//! Source: the tensors' names in `v1-5-pruned.safetensors`; diffusers' `convert_ldm_unet_checkpoint` and
//! `convert_ldm_vae_checkpoint` map the same way.

use latent_formats::Weights;

/// The tensor that every U-Net of this layout has.
pub(super) const FIRST: &str = "model.diffusion_model.input_blocks.0.0.weight";

pub(super) const UNET: &str = "model.diffusion_model.";
pub(super) const AUTOENCODER: &str = "first_stage_model.";
pub(super) const TEXT_ENCODER: &str = "cond_stage_model.transformer.";

/// What the numbers in names count from, which differs between the two layouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    /// Residual blocks of a level of the U-Net's way down.
    pub(super) layers: usize,
    /// Levels of the autoencoder, whose way up is numbered from the end.
    pub(super) levels: usize,
}

/// The U-Net's parts outside its blocks.
pub(super) const UNET_ENDS: &[(&str, &str)] = &[
    ("time_embed.0.", "time_embedding.linear_1."),
    ("time_embed.2.", "time_embedding.linear_2."),
    ("label_emb.0.0.", "add_embedding.linear_1."),
    ("label_emb.0.2.", "add_embedding.linear_2."),
    ("input_blocks.0.0.", "conv_in."),
    ("out.0.", "conv_norm_out."),
    ("out.2.", "conv_out."),
];

/// Inside a residual block of the U-Net.
pub(super) const UNET_RESIDUAL: &[(&str, &str)] = &[
    ("in_layers.0.", "norm1."),
    ("in_layers.2.", "conv1."),
    ("emb_layers.1.", "time_emb_proj."),
    ("out_layers.0.", "norm2."),
    ("out_layers.3.", "conv2."),
    ("skip_connection.", "conv_shortcut."),
];

/// Of one half of the autoencoder, outside its levels.
pub(super) const AUTOENCODER_ENDS: &[(&str, &str)] = &[
    ("norm_out.", "conv_norm_out."),
    ("mid.block_1.", "mid_block.resnets.0."),
    ("mid.block_2.", "mid_block.resnets.1."),
    ("mid.attn_1.norm.", "mid_block.attentions.0.group_norm."),
    ("mid.attn_1.q.", "mid_block.attentions.0.to_q."),
    ("mid.attn_1.k.", "mid_block.attentions.0.to_k."),
    ("mid.attn_1.v.", "mid_block.attentions.0.to_v."),
    ("mid.attn_1.proj_out.", "mid_block.attentions.0.to_out.0."),
];

impl Sizes {
    /// The sizes that a checkpoint's names tell.
    pub(crate) fn of(weights: &Weights) -> Self {
        let has = |prefix: &str| weights.names().any(|name| name.starts_with(prefix));
        let count = |name: &dyn Fn(usize) -> String| (0..).take_while(|&i| has(&name(i))).count();
        let blocks = count(&|i| format!("{UNET}input_blocks.{i}."));
        let down = (1..blocks).find(|i| has(&format!("{UNET}input_blocks.{i}.0.op.")));
        Self {
            layers: down.unwrap_or(blocks).saturating_sub(1),
            levels: count(&|i| format!("{AUTOENCODER}decoder.up.{i}.")),
        }
    }

    /// The name in a diffusers folder's `part` of the tensor `key`; `None` if it belongs to another part.
    pub(crate) fn diffusers_name(self, part: &str, key: &str) -> Option<String> {
        match part {
            "unet" => self.unet(key.strip_prefix(UNET)?),
            "vae" => self.autoencoder(key.strip_prefix(AUTOENCODER)?),
            _ => None,
        }
    }

    fn unet(self, key: &str) -> Option<String> {
        if let Some(name) = replaced(key, UNET_ENDS) {
            return Some(name);
        }
        let (kind, rest) = key.split_once('.')?;
        if kind == "middle_block" {
            let (slot, rest) = rest.split_once('.')?;
            return match slot {
                "0" => Some(format!("mid_block.resnets.0.{}", residual(rest))),
                "1" => Some(format!("mid_block.attentions.0.{rest}")),
                "2" => Some(format!("mid_block.resnets.1.{}", residual(rest))),
                _ => None,
            };
        }
        let (number, rest) = rest.split_once('.')?;
        let (slot, rest) = rest.split_once('.')?;
        let number: usize = number.parse().ok()?;
        let each = self.layers + 1;
        let (blocks, number) = match kind {
            "input_blocks" => ("down_blocks", number.checked_sub(1)?),
            "output_blocks" => ("up_blocks", number),
            _ => return None,
        };
        let (level, layer) = (number / each, number % each);
        if let Some(rest) = rest.strip_prefix("op.") {
            return Some(format!("{blocks}.{level}.downsamplers.0.conv.{rest}"));
        }
        if rest.starts_with("conv.") {
            return Some(format!("{blocks}.{level}.upsamplers.0.{rest}"));
        }
        Some(match slot {
            "0" => format!("{blocks}.{level}.resnets.{layer}.{}", residual(rest)),
            _ => format!("{blocks}.{level}.attentions.{layer}.{rest}"),
        })
    }

    fn autoencoder(self, key: &str) -> Option<String> {
        let (half, rest) = key.split_once('.')?;
        if !["encoder", "decoder"].contains(&half) {
            // `quant_conv` and `post_quant_conv` have the same names.
            return Some(key.to_owned());
        }
        if let Some(name) = replaced(rest, AUTOENCODER_ENDS) {
            return Some(format!("{half}.{name}"));
        }
        let Some((way, inside)) = rest.split_once('.') else {
            return Some(key.to_owned());
        };
        if !["down", "up"].contains(&way) {
            // `conv_in` and `conv_out`.
            return Some(key.to_owned());
        }
        let (level, inside) = inside.split_once('.')?;
        let level: usize = level.parse().ok()?;
        let level = match way {
            "up" => self.levels.checked_sub(level + 1)?,
            _ => level,
        };
        let inside = inside.replace("nin_shortcut.", "conv_shortcut.");
        let inside = match inside.strip_prefix("block.") {
            Some(rest) => format!("resnets.{rest}"),
            None => inside.replacen("sample.conv.", "samplers.0.conv.", 1),
        };
        Some(format!("{half}.{way}_blocks.{level}.{inside}"))
    }
}

fn residual(name: &str) -> String {
    replaced(name, UNET_RESIDUAL).unwrap_or_else(|| name.to_owned())
}

/// `name` with the beginning that a row of `table` replaces.
pub(crate) fn replaced(name: &str, table: &[(&str, &str)]) -> Option<String> {
    table.iter().find_map(|(theirs, ours)| {
        let rest = name.strip_prefix(theirs)?;
        Some(format!("{ours}{rest}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names of Stable Diffusion 1.5, by part, as both layouts have them.
    const NAMES: &[(&str, &str, &str)] = &[
        (
            "unet",
            "model.diffusion_model.input_blocks.0.0.bias",
            "conv_in.bias",
        ),
        (
            "unet",
            "model.diffusion_model.input_blocks.3.0.op.weight",
            "down_blocks.0.downsamplers.0.conv.weight",
        ),
        (
            "unet",
            "model.diffusion_model.input_blocks.4.0.skip_connection.weight",
            "down_blocks.1.resnets.0.conv_shortcut.weight",
        ),
        (
            "unet",
            "model.diffusion_model.input_blocks.11.0.emb_layers.1.bias",
            "down_blocks.3.resnets.1.time_emb_proj.bias",
        ),
        (
            "unet",
            "model.diffusion_model.middle_block.2.out_layers.3.weight",
            "mid_block.resnets.1.conv2.weight",
        ),
        (
            "unet",
            "model.diffusion_model.output_blocks.2.1.conv.weight",
            "up_blocks.0.upsamplers.0.conv.weight",
        ),
        (
            "unet",
            "model.diffusion_model.output_blocks.8.2.conv.weight",
            "up_blocks.2.upsamplers.0.conv.weight",
        ),
        (
            "unet",
            "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.ff.net.0.proj.weight",
            "up_blocks.3.attentions.2.transformer_blocks.0.ff.net.0.proj.weight",
        ),
        (
            "unet",
            "model.diffusion_model.out.2.weight",
            "conv_out.weight",
        ),
        (
            "vae",
            "first_stage_model.decoder.up.3.block.0.conv1.weight",
            "decoder.up_blocks.0.resnets.0.conv1.weight",
        ),
        (
            "vae",
            "first_stage_model.decoder.up.1.upsample.conv.bias",
            "decoder.up_blocks.2.upsamplers.0.conv.bias",
        ),
        (
            "vae",
            "first_stage_model.encoder.down.2.downsample.conv.bias",
            "encoder.down_blocks.2.downsamplers.0.conv.bias",
        ),
        (
            "vae",
            "first_stage_model.encoder.down.1.block.0.nin_shortcut.weight",
            "encoder.down_blocks.1.resnets.0.conv_shortcut.weight",
        ),
        (
            "vae",
            "first_stage_model.encoder.mid.attn_1.proj_out.weight",
            "encoder.mid_block.attentions.0.to_out.0.weight",
        ),
        (
            "vae",
            "first_stage_model.decoder.conv_in.weight",
            "decoder.conv_in.weight",
        ),
        (
            "vae",
            "first_stage_model.quant_conv.bias",
            "quant_conv.bias",
        ),
        (
            "unet",
            "model.diffusion_model.label_emb.0.2.weight",
            "add_embedding.linear_2.weight",
        ),
    ];

    #[test]
    fn every_kind_of_name_becomes_that_of_diffusers() {
        let sizes = Sizes {
            layers: 2,
            levels: 4,
        };
        for (part, theirs, ours) in NAMES {
            assert_eq!(
                sizes.diffusers_name(part, theirs).as_deref(),
                Some(*ours),
                "{theirs}"
            );
        }
    }

    #[test]
    fn a_tensor_belongs_to_one_part_and_training_s_own_to_none() {
        let sizes = Sizes {
            layers: 2,
            levels: 4,
        };
        for (part, theirs, _) in NAMES {
            for other in ["unet", "vae"] {
                assert_eq!(
                    sizes.diffusers_name(other, theirs).is_some(),
                    other == *part
                );
            }
        }
        for key in ["betas", "model_ema.decay", "alphas_cumprod"] {
            assert_eq!(sizes.diffusers_name("unet", key), None);
        }
    }
}
