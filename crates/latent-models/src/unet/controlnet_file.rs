//! The names of ControlNets in files, as diffusers' names.

use latent_formats::{Renamed, Weights};

use crate::single_file::{Sizes, replaced};

/// The authors' name outside the encoder's copy that has no number.
const MIDDLE: (&str, &str) = ("middle_block_out.0.", "controlnet_mid_block.");

/// The tensors of a file of either layout under diffusers' names.
///
/// Source: lllyasviel's `cldm.py`; diffusers' `convert_controlnet_checkpoint` maps the same way.
pub(super) fn in_diffusers_names(weights: &Weights) -> std::result::Result<Weights, String> {
    if weights.contains("controlnet_cond_embedding.conv_in.weight") {
        return Ok(weights.clone());
    }
    for (mark, what) in [
        ("difference", "differences to"),
        ("lora_controlnet", "factors for"),
    ] {
        if weights.contains(mark) {
            return Err(format!(
                "stores {what} its base model, which Latent does not read; fetch the whole ControlNet"
            ));
        }
    }
    let bare = |key: &str| key.strip_prefix("control_model.").unwrap_or(key).to_owned();
    // As the encoder of a checkpoint of one file.
    let whole = weights.renamed(|key| {
        vec![Renamed::whole(format!(
            "model.diffusion_model.{}",
            bare(key)
        ))]
    });
    let last_hint = (0..)
        .step_by(2)
        .take_while(|number| {
            whole.contains(&format!(
                "model.diffusion_model.input_hint_block.{number}.weight"
            ))
        })
        .last();
    let Some(last_hint) = last_hint else {
        return Err("is no ControlNet; needed is a folder or file of a `ControlNetModel`, or a file with `control_model.`".into());
    };
    let sizes = Sizes::of(&whole);
    Ok(weights.renamed(|key| {
        let name = bare(key);
        let renamed = hint(&name, last_hint)
            .or_else(|| replaced(&name, &[MIDDLE]))
            .or_else(|| zero_conv(&name))
            .or_else(|| sizes.diffusers_name("unet", &format!("model.diffusion_model.{name}")));
        renamed.map(Renamed::whole).into_iter().collect()
    }))
}

/// The picture's convolutions are counted with the SiLUs between them.
fn hint(name: &str, last: usize) -> Option<String> {
    let (number, kind) = name.strip_prefix("input_hint_block.")?.split_once('.')?;
    let number: usize = number.parse().ok()?;
    Some(match number {
        0 => format!("controlnet_cond_embedding.conv_in.{kind}"),
        _ if number == last => format!("controlnet_cond_embedding.conv_out.{kind}"),
        _ => format!("controlnet_cond_embedding.blocks.{}.{kind}", number / 2 - 1),
    })
}

fn zero_conv(name: &str) -> Option<String> {
    let (number, rest) = name.strip_prefix("zero_convs.")?.split_once('.')?;
    let kind = rest.strip_prefix("0.")?;
    Some(format!("controlnet_down_blocks.{number}.{kind}"))
}
