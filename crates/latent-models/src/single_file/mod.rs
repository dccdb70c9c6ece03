//! Checkpoints that hold a whole model in one file, under the names of the code that trained it.
//!
//! A checkpoint has weights only. Sizes, tokenizer and scheduler come from a diffusers folder, or for the common
//! families from files inside the program; the weights are shown to the parts under diffusers' names, where they lie.

mod assets;
mod back;
mod ldm;
mod loose;
mod open_clip;

pub(crate) use back::{LdmNames, OPEN_CLIP_PROJECTION, TextNames};
pub(crate) use ldm::{Sizes, replaced};
pub(crate) use loose::{loose_part, part_in, part_name};

use std::collections::BTreeMap;
use std::path::Path;

use latent_formats::{Renamed, Weights};
use serde_json::{Map, Value};

use crate::error::{ModelError, Result};
use assets::Files;
use open_clip::OpenClip;

/// What a network predicts, in the words of `prediction_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PredictionType {
    /// The noise in the latents.
    Epsilon,
    /// Velocity. Source: Salimans & Ho 2022 (arXiv:2202.00512), Appendix D.
    V,
}

impl PredictionType {
    /// Its name in a scheduler's config.
    pub fn name(self) -> &'static str {
        match self {
            Self::Epsilon => "epsilon",
            Self::V => "v_prediction",
        }
    }
}

/// A kind of checkpoint.
#[derive(Debug)]
struct Kind {
    /// A tensor that no other kind has.
    mark: &'static str,
    /// Text encoders: the folder of each, and the beginning and the layout of its names.
    texts: &'static [(&'static str, &'static str, TextLayout)],
    /// What it has beside its weights, which depends on whether its first layer also sees a mask and the masked picture,
    /// and may depend on what it predicts; else the reason why that is not known.
    files: fn(bool, Option<PredictionType>) -> std::result::Result<Files, &'static str>,
}

/// How a text encoder's tensors are named.
#[derive(Clone, Copy, Debug)]
enum TextLayout {
    /// As transformers names them.
    Transformers,
    /// OpenCLIP's, with the last layer and the projection.
    OpenClip,
    /// OpenCLIP's, of which the U-Net reads the last layer but one, and no projection.
    OpenClipWithoutEnd,
}

/// Every kind; a new one is a row here.
const KINDS: &[Kind] = &[
    // Stable Diffusion XL.
    Kind {
        mark: "conditioner.embedders.1.model.ln_final.weight",
        texts: &[
            (
                "text_encoder",
                "conditioner.embedders.0.transformer.",
                TextLayout::Transformers,
            ),
            (
                "text_encoder_2",
                "conditioner.embedders.1.model.",
                TextLayout::OpenClip,
            ),
        ],
        files: |inpaints, _| match inpaints {
            false => Ok(assets::SDXL),
            true => Ok(assets::SDXL_INPAINT),
        },
    },
    // Its refiner.
    Kind {
        mark: "conditioner.embedders.0.model.ln_final.weight",
        texts: &[(
            "text_encoder_2",
            "conditioner.embedders.0.model.",
            TextLayout::OpenClip,
        )],
        files: |inpaints, _| match inpaints {
            false => Ok(assets::SDXL_REFINER),
            true => Err(REFINER_INPAINT),
        },
    },
    // Stable Diffusion 2.x.
    Kind {
        mark: "cond_stage_model.model.ln_final.weight",
        texts: &[(
            "text_encoder",
            "cond_stage_model.model.",
            TextLayout::OpenClipWithoutEnd,
        )],
        files: |inpaints, prediction| match (inpaints, prediction) {
            (true, _) => Ok(assets::SD2_INPAINT),
            (false, Some(PredictionType::Epsilon)) => Ok(assets::SD2_EPSILON),
            (false, Some(PredictionType::V)) => Ok(assets::SD2_V),
            (false, None) => Err(SD2_UNKNOWN),
        },
    },
    // Stable Diffusion 1.x.
    Kind {
        mark: ldm::FIRST,
        texts: &[(
            "text_encoder",
            "cond_stage_model.transformer.",
            TextLayout::Transformers,
        )],
        files: |inpaints, _| match inpaints {
            false => Ok(assets::SD1),
            true => Ok(assets::SD1_INPAINT),
        },
    },
];

/// The weights of a whole model.
#[derive(Debug)]
pub(crate) struct SingleFile {
    weights: Weights,
    sizes: ldm::Sizes,
    kind: &'static Kind,
    /// What the file or who opened it says of the prediction.
    prediction: Option<PredictionType>,
    /// The file says that training went up to pure noise.
    zero_snr: bool,
}

/// Why a checkpoint of Stable Diffusion 2.x is not opened by itself.
const SD2_UNKNOWN: &str = "is a Stable Diffusion 2.x checkpoint, and does not say whether it predicts noise or velocity; \
                           say so with `--prediction epsilon` or `--prediction v`, or name a diffusers folder of its kind \
                           with `--config`";
/// Why one of a refiner for inpainting is not.
const REFINER_INPAINT: &str = "is a refiner of Stable Diffusion XL for inpainting (its first layer takes 9 channels), whose sizes \
                               are not inside the program; name a diffusers folder of its kind with `--config`";
/// Begins the names of a U-Net's moving average.
const EMA: &str = "model_ema.";
/// What a checkpoint of latent diffusion's code calls the factor of its latents.
pub(crate) const SCALE_FACTOR: &str = "scale_factor";

/// A tensor that only one kind of checkpoint has, and why that kind is not opened.
const STRANGERS: &[(&str, &str)] = &[
    (
        "edm_vpred.sigma_max",
        "is a checkpoint with EDM's continuous noise levels (CosXL), which Latent does not draw with yet",
    ),
    (
        "edm_mean",
        "is a checkpoint with EDM's noise levels (Playground 2.5), which Latent does not draw with yet",
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
                "holds no model that Latent knows; it opens Stable Diffusion 1.x, 2.x and XL checkpoints in their authors' layout, \
                 and folders in diffusers' layout",
            )),
            Some((_, [_, 8, ..])) => Err(refuse(
                "is an edit-by-instruction checkpoint (its first layer takes 8 channels), which Latent does not draw with yet",
            )),
            Some(_) => Self::of_a_kind(weights),
        }
    }

    fn of_a_kind(weights: Weights) -> Result<Self> {
        let kind = KINDS.iter().find(|kind| weights.contains(kind.mark));
        let has = |prefix: &str| weights.names().any(|name| name.starts_with(prefix));
        let complete = |kind: &&Kind| {
            has(ldm::AUTOENCODER) && kind.texts.iter().all(|(_, prefix, _)| has(prefix))
        };
        let Some(kind) = kind.filter(complete) else {
            return Err(ModelError::SingleFile {
                path: weights.path().to_path_buf(),
                reason: "holds a U-Net without its text encoder or autoencoder; name a checkpoint that has all parts, or \
                         a folder in diffusers' layout"
                    .to_owned(),
            });
        };
        Ok(Self {
            sizes: ldm::Sizes::of(&weights),
            kind,
            prediction: None,
            zero_snr: false,
            weights,
        })
    }

    /// The weights of one part, as `unet` or `text_encoder_2`, under diffusers' names.
    pub(crate) fn part(&self, name: &str) -> Weights {
        let text = self.kind.texts.iter().find(|(part, ..)| *part == name);
        match text {
            Some((_, prefix, TextLayout::Transformers)) => self.weights.renamed(|key| {
                let name = key.strip_prefix(prefix).map(Renamed::whole);
                name.into_iter().collect()
            }),
            Some((_, prefix, layout)) => {
                let whole = matches!(layout, TextLayout::OpenClip);
                let text = OpenClip::of(&self.weights, prefix, whole);
                self.weights.renamed(|key| text.transformers_names(key))
            }
            None => self.weights.renamed(|key| {
                let name = self.sizes.diffusers_name(name, key);
                name.map(Renamed::whole).into_iter().collect()
            }),
        }
    }

    /// The checkpoint, known to predict what `asked` says; `None` leaves the question to a config.
    pub(crate) fn predicting(self, asked: Option<PredictionType>) -> Self {
        Self {
            prediction: asked,
            ..self
        }
    }

    /// The checkpoint with what `asked` says or else the file: its metadata, or tensors that stand for a yes.
    ///
    /// Source: sd-scripts' `modelspec` keys; ComfyUI's `v_pred` and `ztsnr`.
    pub(crate) fn with_own_prediction(self, asked: Option<PredictionType>) -> Self {
        let metadata = self.weights.metadata();
        let stated = ["modelspec.prediction_type", "modelspec.predict_key"]
            .iter()
            .find_map(|key| metadata.get(*key));
        let stated = match stated.map(String::as_str) {
            Some("epsilon") => Some(PredictionType::Epsilon),
            Some("v" | "v_prediction") => Some(PredictionType::V),
            _ => None,
        };
        let marked = self.weights.contains("v_pred");
        let prediction = asked.or(stated).or(marked.then_some(PredictionType::V));
        Self {
            prediction,
            zero_snr: self.weights.contains("ztsnr"),
            ..self
        }
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

    /// What its kind has beside the weights.
    ///
    /// # Errors
    /// [`ModelError::SingleFile`] if that depends on what nobody said, or is not inside the program.
    pub(crate) fn files(&self) -> Result<Files> {
        let inpaints = matches!(self.weights.describe(ldm::FIRST), Some((_, [_, 9, ..])));
        (self.kind.files)(inpaints, self.prediction).map_err(|reason| ModelError::SingleFile {
            path: self.weights.path().to_path_buf(),
            reason: reason.to_owned(),
        })
    }

    /// Keys of the scheduler's config that it states.
    ///
    /// Source: Lin et al. 2023 (arXiv:2305.08891), sections 3.1 and 3.3, of models trained up to pure noise.
    pub(crate) fn schedule(&self) -> Map<String, Value> {
        let mut stated = Map::new();
        if let Some(prediction) = self.prediction {
            stated.insert("prediction_type".into(), prediction.name().into());
        }
        if self.zero_snr {
            stated.insert("rescale_betas_zero_snr".into(), true.into());
            stated.insert("timestep_spacing".into(), "trailing".into());
        }
        stated
    }
}
