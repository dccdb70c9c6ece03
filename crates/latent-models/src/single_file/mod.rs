//! Checkpoints that hold a whole model in one file, under the names of the code that trained it.
//!
//! A checkpoint has weights only. Sizes, tokenizer and scheduler come from a diffusers folder, or for the common
//! families from files inside the program; the weights are shown to the parts under diffusers' names, where they lie.

mod back;
mod ldm;
mod loose;
mod open_clip;

pub(crate) use back::LdmNames;
pub(crate) use ldm::{Sizes, replaced};
pub(crate) use loose::{loose_part, part_in, part_name};

use std::collections::BTreeMap;
use std::path::Path;

use latent_formats::{Renamed, Weights};

use crate::error::{ModelError, Result};
use open_clip::OpenClip;

/// Files by path with `/`, as in `unet/config.json`.
type File = (&'static str, &'static [u8]);

/// What Stable Diffusion 1.x has beside its weights.
const SD1: [File; 9] = [
    (
        "model_index.json",
        include_bytes!("../../assets/sd1/model_index.json"),
    ),
    (
        "unet/config.json",
        include_bytes!("../../assets/sd1/unet/config.json"),
    ),
    (
        "vae/config.json",
        include_bytes!("../../assets/sd1/vae/config.json"),
    ),
    (
        "text_encoder/config.json",
        include_bytes!("../../assets/sd1/text_encoder/config.json"),
    ),
    (
        "scheduler/scheduler_config.json",
        include_bytes!("../../assets/sd1/scheduler/scheduler_config.json"),
    ),
    (
        "tokenizer/vocab.json",
        include_bytes!("../../assets/sd1/tokenizer/vocab.json"),
    ),
    (
        "tokenizer/merges.txt",
        include_bytes!("../../assets/sd1/tokenizer/merges.txt"),
    ),
    (
        "tokenizer/tokenizer_config.json",
        include_bytes!("../../assets/sd1/tokenizer/tokenizer_config.json"),
    ),
    (
        "tokenizer/special_tokens_map.json",
        include_bytes!("../../assets/sd1/tokenizer/special_tokens_map.json"),
    ),
];

/// The same for its inpainting model, whose first layer takes more channels.
const SD1_INPAINT: [File; 9] = {
    let mut files = SD1;
    files[1] = (
        "unet/config.json",
        include_bytes!("../../assets/sd1-inpaint/unet/config.json"),
    );
    files
};

/// The weights of a whole model.
#[derive(Debug)]
pub(crate) struct SingleFile {
    weights: Weights,
    sizes: ldm::Sizes,
    /// For Stable Diffusion 2.x, whose text encoder is OpenCLIP's.
    open_clip: Option<OpenClip>,
}

/// Begins the names of a U-Net's moving average.
const EMA: &str = "model_ema.";
/// What a checkpoint of latent diffusion's code calls the factor of its latents.
pub(crate) const SCALE_FACTOR: &str = "scale_factor";

/// A tensor that only one kind of checkpoint has, and why that kind is not opened.
const STRANGERS: &[(&str, &str)] = &[
    (
        "conditioner.embedders.1.model.ln_final.weight",
        "is a Stable Diffusion XL checkpoint, which Latent does not draw with yet",
    ),
    (
        "conditioner.embedders.0.model.ln_final.weight",
        "is a Stable Diffusion XL refiner, which Latent does not draw with yet",
    ),
    (
        "model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight",
        "is a Stable Diffusion 3 checkpoint, which Latent does not draw with yet",
    ),
    (
        "double_blocks.0.img_attn.qkv.weight",
        "is a FLUX transformer, which Latent does not draw with yet",
    ),
];

impl SingleFile {
    /// Opens a checkpoint and finds out what it is.
    ///
    /// # Errors
    /// [`ModelError::Format`]; [`ModelError::SingleFile`] if it is not of a kind that is opened.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let weights = Weights::open(path)?;
        let refuse = |reason: &str| ModelError::SingleFile {
            path: path.to_path_buf(),
            reason: reason.to_owned(),
        };
        if let Some((_, reason)) = STRANGERS.iter().find(|(key, _)| weights.contains(key)) {
            return Err(refuse(reason));
        }
        if weights.contains("conv_in.weight")
            || weights.contains("down_blocks.0.resnets.0.conv1.weight")
        {
            return Err(refuse(
                "holds one part of a model in diffusers' layout; name the folder of the whole model",
            ));
        }
        match weights.describe(ldm::FIRST) {
            None => Err(refuse(
                "holds no model that Latent knows; it opens Stable Diffusion 1.x and 2.x checkpoints in their authors' layout, \
                 and folders in diffusers' layout",
            )),
            Some((_, [_, 8, ..])) => Err(refuse(
                "is an edit-by-instruction checkpoint (its first layer takes 8 channels), which Latent does not draw with yet",
            )),
            Some(_) => Ok(Self {
                sizes: ldm::Sizes::of(&weights),
                open_clip: OpenClip::of(&weights),
                weights,
            }),
        }
    }

    /// The weights of one part, `unet`, `vae` or `text_encoder`, under diffusers' names.
    pub(crate) fn part(&self, name: &str) -> Weights {
        self.weights.renamed(|key| match (name, &self.open_clip) {
            ("text_encoder", Some(text)) => text.transformers_names(key),
            _ => {
                let name = self.sizes.diffusers_name(name, key);
                name.map(Renamed::whole).into_iter().collect()
            }
        })
    }

    /// One over the standard deviation of its autoencoder's latents, where the checkpoint says it.
    pub(crate) fn scale_factor(&self) -> Option<f64> {
        let values = self.weights.tensor(SCALE_FACTOR).ok()?.to_f32();
        let factor = f64::from(*values.first()?);
        (values.len() == 1 && factor.is_finite() && factor > 0.0).then_some(factor)
    }

    /// The U-Net's moving average under diffusers' names; `None` if the checkpoint has none.
    ///
    /// Its names are those of the U-Net without their dots.
    ///
    /// Source: CompVis' `LitEma`; diffusers' `convert_ldm_unet_checkpoint` with `extract_ema`.
    pub(crate) fn averaged_unet(&self) -> Option<Weights> {
        let ours: BTreeMap<String, String> = self
            .weights
            .names()
            .filter_map(|key| {
                let inside = key.strip_prefix("model.")?;
                let name = self.sizes.diffusers_name("unet", key)?;
                Some((format!("{EMA}{}", inside.replace('.', "")), name))
            })
            .collect();
        let averaged = self
            .weights
            .renamed(|key| ours.get(key).map(Renamed::whole).into_iter().collect());
        (!averaged.is_empty()).then_some(averaged)
    }

    /// What its family has beside its weights.
    pub(crate) fn family_files(&self) -> &'static [File] {
        match self.weights.describe(ldm::FIRST) {
            Some((_, [_, 9, ..])) => &SD1_INPAINT,
            _ => &SD1,
        }
    }

    /// Why it cannot be drawn with unless a folder says more; `None` if it can.
    pub(crate) fn lacks(&self) -> Option<&'static str> {
        self.open_clip.as_ref().map(|_| {
            "is a Stable Diffusion 2.x checkpoint, and does not say whether it predicts noise or velocity; name a \
             diffusers folder of its kind with `--config`"
        })
    }
}
