//! diffusers' names as those of the latent diffusion code: the way back of [`super::ldm`] and [`super::open_clip`].

use std::collections::BTreeSet;

use super::ldm::{
    AUTOENCODER, AUTOENCODER_ENDS, Sizes, TEXT_ENCODER, UNET, UNET_ENDS, UNET_RESIDUAL,
};
use super::open_clip;

/// What begins the names of Stable Diffusion XL's text encoders, and of its refiner's.
const SGM_TEXT: &str = "conditioner.embedders.0.transformer.";
const SGM_SECOND_TEXT: &str = "conditioner.embedders.1.model.";
const SGM_REFINER_TEXT: &str = "conditioner.embedders.0.model.";
/// OpenCLIP's factor behind the pooled state.
pub(crate) const OPEN_CLIP_PROJECTION: &str = "text_projection";

/// Names of a model's tensors in the layout in which Stable Diffusion was published.
#[derive(Clone, Debug)]
pub(crate) struct LdmNames {
    sizes: Sizes,
    /// Levels of the way up with transformers, behind which the doubling is numbered.
    attending: BTreeSet<usize>,
    texts: TextNames,
}

/// How the text encoders of a family are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TextNames {
    /// As transformers names them, as in Stable Diffusion 1.x.
    Transformers,
    /// As OpenCLIP does, as in Stable Diffusion 2.x.
    OpenClip,
    /// The first as transformers names it and the second as OpenCLIP does, as in Stable Diffusion XL.
    Both,
    /// The second alone, as in its refiner.
    Second,
}

impl TextNames {
    /// Of a family by its name.
    pub(crate) fn of_family(name: &str) -> Self {
        match name {
            "sd2" | "sd2-inpaint" => Self::OpenClip,
            "sdxl" | "sdxl-inpaint" => Self::Both,
            "sdxl-refiner" => Self::Second,
            _ => Self::Transformers,
        }
    }
}

impl LdmNames {
    /// From the names in a diffusers folder of U-Net and autoencoder.
    pub(crate) fn of<'a>(
        unet: impl Iterator<Item = &'a str>,
        autoencoder: impl Iterator<Item = &'a str>,
        texts: TextNames,
    ) -> Self {
        let (mut layers, mut levels) = (0, 0);
        let mut attending = BTreeSet::new();
        let number = |rest: &str| rest.split('.').next()?.parse::<usize>().ok();
        for name in unet {
            if let Some(layer) = name.strip_prefix("down_blocks.0.resnets.").and_then(number) {
                layers = layers.max(layer + 1);
            }
            if let Some(rest) = name.strip_prefix("up_blocks.")
                && let (Some(level), true) = (number(rest), rest.contains(".attentions."))
            {
                attending.insert(level);
            }
        }
        for name in autoencoder {
            let level = name.strip_prefix("decoder.up_blocks.").and_then(number);
            levels = level.map_or(levels, |level| levels.max(level + 1));
        }
        Self {
            sizes: Sizes { layers, levels },
            attending,
            texts,
        }
    }

    /// The name of the tensor that a diffusers folder's `part` calls `name`; `None` if the layout has no place for it.
    ///
    /// Queries, keys and values of OpenCLIP's attention lie in one tensor, which the caller joins, and its projection has rows
    /// and columns the other way round.
    pub(crate) fn of_tensor(&self, part: &str, name: &str) -> Option<String> {
        match part {
            "unet" => Some(format!("{UNET}{}", self.unet(name)?)),
            "vae" => Some(format!("{AUTOENCODER}{}", self.autoencoder(name)?)),
            "text_encoder" => match self.texts {
                TextNames::Transformers => Some(format!("{TEXT_ENCODER}{name}")),
                TextNames::OpenClip => open_clip_name(open_clip::PREFIX, name),
                TextNames::Both => Some(format!("{SGM_TEXT}{name}")),
                TextNames::Second => None,
            },
            "text_encoder_2" => {
                let prefix = match self.texts {
                    TextNames::Both => SGM_SECOND_TEXT,
                    TextNames::Second => SGM_REFINER_TEXT,
                    TextNames::Transformers | TextNames::OpenClip => return None,
                };
                if name == "text_projection.weight" {
                    return Some(format!("{prefix}{OPEN_CLIP_PROJECTION}"));
                }
                open_clip_name(prefix, name)
            }
            _ => None,
        }
    }

    /// [`LdmNames::of_tensor`] of a U-Net's tensor, or its name without an ending, without the part's beginning.
    pub(crate) fn unet(&self, name: &str) -> Option<String> {
        if let Some(name) = put_back(name, UNET_ENDS) {
            return Some(name);
        }
        if let Some(inside) = name.strip_prefix("mid_block.") {
            let slots = [("resnets.0.", 0), ("attentions.0.", 1), ("resnets.1.", 2)];
            let (slot, rest) = slots
                .iter()
                .find_map(|(start, slot)| Some((slot, inside.strip_prefix(start)?)))?;
            let rest = if *slot == 1 {
                rest.to_owned()
            } else {
                residual(rest)
            };
            return Some(format!("middle_block.{slot}.{rest}"));
        }
        let (way, inside) = name.split_once('.')?;
        let (level, inside) = inside.split_once('.')?;
        let (kind, inside) = inside.split_once('.')?;
        let (index, rest) = inside.split_once('.')?;
        let (level, index): (usize, usize) = (level.parse().ok()?, index.parse().ok()?);
        let each = self.sizes.layers + 1;
        let (blocks, first) = match way {
            "down_blocks" => ("input_blocks", 1 + level * each),
            "up_blocks" => ("output_blocks", level * each),
            _ => return None,
        };
        let (last, after) = (each - 1, 1 + usize::from(self.attending.contains(&level)));
        Some(match kind {
            "resnets" => format!("{blocks}.{}.0.{}", first + index, residual(rest)),
            "attentions" => format!("{blocks}.{}.1.{rest}", first + index),
            "downsamplers" => {
                let rest = rest.strip_prefix("conv")?;
                format!("{blocks}.{}.0.op{rest}", first + last)
            }
            "upsamplers" => format!("{blocks}.{}.{after}.{rest}", first + last),
            _ => return None,
        })
    }

    fn autoencoder(&self, name: &str) -> Option<String> {
        let (half, rest) = name.split_once('.')?;
        if ["quant_conv", "post_quant_conv"].contains(&half) {
            return Some(name.to_owned());
        }
        if !["encoder", "decoder"].contains(&half) {
            return None;
        }
        if let Some(rest) = put_back(rest, AUTOENCODER_ENDS) {
            return Some(format!("{half}.{rest}"));
        }
        let Some((way, inside)) = rest.split_once("_blocks.") else {
            // `conv_in` and `conv_out`.
            return Some(name.to_owned());
        };
        let (level, inside) = inside.split_once('.')?;
        let level: usize = level.parse().ok()?;
        let level = match way {
            "up" => self.sizes.levels.checked_sub(level + 1)?,
            _ => level,
        };
        let inside = inside.replace("conv_shortcut.", "nin_shortcut.");
        let inside = match inside.strip_prefix("resnets.") {
            Some(rest) => format!("block.{rest}"),
            None => inside.replacen("samplers.0.conv.", "sample.conv.", 1),
        };
        Some(format!("{half}.{way}.{level}.{inside}"))
    }
}

fn residual(name: &str) -> String {
    put_back(name, UNET_RESIDUAL).unwrap_or_else(|| name.to_owned())
}

fn open_clip_name(prefix: &str, name: &str) -> Option<String> {
    if let Some((theirs, _)) = open_clip::ENDS.iter().find(|(_, ours)| *ours == name) {
        return Some(format!("{prefix}{theirs}"));
    }
    let (layer, inside) = name
        .strip_prefix("text_model.encoder.layers.")?
        .split_once('.')?;
    let inside = ["q_proj.", "k_proj.", "v_proj."]
        .iter()
        .find_map(|part| inside.strip_prefix("self_attn.")?.strip_prefix(part))
        .map(|kind| format!("attn.in_proj_{kind}"))
        .or_else(|| put_back(inside, open_clip::LAYER))?;
    Some(format!("{prefix}transformer.resblocks.{layer}.{inside}"))
}

/// `name` with the beginning that a row of `table` gives, the other way round than [`super::replaced`]. A name that
/// stops before its last dot counts as well.
fn put_back(name: &str, table: &[(&str, &str)]) -> Option<String> {
    table.iter().find_map(|(theirs, ours)| {
        if ours.strip_suffix('.') == Some(name) {
            return theirs.strip_suffix('.').map(str::to_owned);
        }
        let rest = name.strip_prefix(ours)?;
        Some(format!("{theirs}{rest}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ModelFolder;
    use std::path::Path;

    /// There and back again, for every tensor of a folder.
    #[test]
    fn every_name_of_a_folder_comes_back_as_it_was() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        for model in ["sd1-tiny", "sd2-tiny", "sdxl-tiny"] {
            let folder = ModelFolder::open(&fixtures.join(model)).unwrap();
            let weights = |part| folder.part_weights(part).unwrap().unwrap();
            let (unet, vae) = (weights("unet"), weights("vae"));
            let names = LdmNames::of(unet.names(), vae.names(), TextNames::Transformers);
            for (part, weights) in [("unet", &unet), ("vae", &vae)] {
                for name in weights.names() {
                    let theirs = names.of_tensor(part, name).unwrap_or_default();
                    let back = names.sizes.diffusers_name(part, &theirs);
                    assert_eq!(back.as_deref(), Some(name), "{theirs}");
                }
            }
        }
    }

    #[test]
    fn a_layer_s_name_without_its_ending_is_found_too() {
        let names = LdmNames::of(
            ["down_blocks.0.resnets.1.conv1.weight"].into_iter(),
            [].into_iter(),
            TextNames::Transformers,
        );
        let cases = [
            ("conv_in", "input_blocks.0.0"),
            (
                "down_blocks.0.resnets.0.conv2",
                "input_blocks.1.0.out_layers.3",
            ),
            ("mid_block.attentions.0.proj_in", "middle_block.1.proj_in"),
            (
                "down_blocks.1.downsamplers.0.conv.weight",
                "input_blocks.6.0.op.weight",
            ),
        ];
        for (ours, theirs) in cases {
            assert_eq!(names.unet(ours).as_deref(), Some(theirs));
        }
    }
}
