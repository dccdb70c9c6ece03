//! The kinds of model folder that can be opened.

use latent_formats::ModelIndex;

use crate::unet::UNet2dConditionConfig;

/// A kind of model: what its folder holds and what the pipeline must know of it.
#[derive(Debug)]
pub struct Family {
    /// Short name, as the command line prints it.
    pub name: &'static str,
    /// One line for lists and docs.
    pub about: &'static str,
    /// `_class_name` of its `model_index.json`.
    pub pipelines: &'static [&'static str],
    /// Folders of parts that are read, each with the Python classes that are understood.
    pub parts: &'static [(&'static str, &'static [&'static str])],
    /// Folders of the text encoders that it may have, each with its tokenizer's; their states lie side by side.
    pub text_parts: &'static [(&'static str, &'static str)],
    /// Steps of its pipeline where nobody says how many.
    pub steps: usize,
    /// Strength of guidance of its pipeline where nobody says how strong.
    pub guidance: f32,
    /// Parts that make no difference to a picture from words.
    pub ignored_parts: &'static [&'static str],
    /// Whether a folder with one of its pipelines and parts is of this family.
    recognises: fn(&UNet2dConditionConfig) -> bool,
}

const STABLE_DIFFUSION_PARTS: &[(&str, &[&str])] = &[
    ("unet", &["UNet2DConditionModel"]),
    (
        "vae",
        &[
            "AutoencoderKL",
            "AutoencoderTiny",
            "VQModel",
            "SimpleAutoencoder",
        ],
    ),
    ("text_encoder", &["CLIPTextModel"]),
    ("tokenizer", &["CLIPTokenizer", "CLIPTokenizerFast"]),
];
/// One model is drawn with in all these ways; its U-Net's channels say which it was trained for.
const STABLE_DIFFUSION_PIPELINES: &[&str] = &[
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
];
/// Channels of a U-Net that is shown a mask and the masked picture beside the noisy latents.
const INPAINTING_CHANNELS: usize = 9;
const STABLE_DIFFUSION_XL_PARTS: &[(&str, &[&str])] = &[
    ("unet", &["UNet2DConditionModel"]),
    ("vae", &["AutoencoderKL"]),
    ("text_encoder", &["CLIPTextModel"]),
    ("text_encoder_2", &["CLIPTextModelWithProjection"]),
    ("tokenizer", &["CLIPTokenizer", "CLIPTokenizerFast"]),
    ("tokenizer_2", &["CLIPTokenizer", "CLIPTokenizerFast"]),
];
const STABLE_DIFFUSION_XL_PIPELINES: &[&str] = &[
    "StableDiffusionXLPipeline",
    "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionXLInpaintPipeline",
];
const FIRST_TEXT: (&str, &str) = ("text_encoder", "tokenizer");
const SECOND_TEXT: (&str, &str) = ("text_encoder_2", "tokenizer_2");
/// Of the scheduler, every class is read by whoever samples.
const WITHOUT_MEANING: &[&str] = &[
    "scheduler",
    "safety_checker",
    "feature_extractor",
    "image_encoder",
];

/// Every family. A new one is a row here, and its architecture in a folder of its own.
pub const FAMILIES: &[Family] = &[
    Family {
        name: "sd1-inpaint",
        about: "Stable Diffusion 1.x, trained further for inpainting",
        pipelines: STABLE_DIFFUSION_PIPELINES,
        parts: STABLE_DIFFUSION_PARTS,
        text_parts: &[FIRST_TEXT],
        steps: 50,
        guidance: 7.5,
        ignored_parts: WITHOUT_MEANING,
        recognises: |unet| !unet.use_linear_projection && unet.in_channels == INPAINTING_CHANNELS,
    },
    Family {
        name: "sd2-inpaint",
        about: "Stable Diffusion 2.x, trained further for inpainting",
        pipelines: STABLE_DIFFUSION_PIPELINES,
        parts: STABLE_DIFFUSION_PARTS,
        text_parts: &[FIRST_TEXT],
        steps: 50,
        guidance: 7.5,
        ignored_parts: WITHOUT_MEANING,
        recognises: |unet| unet.use_linear_projection && unet.in_channels == INPAINTING_CHANNELS,
    },
    Family {
        name: "sd1",
        about: "Stable Diffusion 1.x, and everything `latent train` makes",
        pipelines: STABLE_DIFFUSION_PIPELINES,
        parts: STABLE_DIFFUSION_PARTS,
        text_parts: &[FIRST_TEXT],
        steps: 50,
        guidance: 7.5,
        ignored_parts: WITHOUT_MEANING,
        recognises: |unet| !unet.use_linear_projection,
    },
    Family {
        name: "sd2",
        about: "Stable Diffusion 2.x",
        pipelines: STABLE_DIFFUSION_PIPELINES,
        parts: STABLE_DIFFUSION_PARTS,
        text_parts: &[FIRST_TEXT],
        steps: 50,
        guidance: 7.5,
        ignored_parts: WITHOUT_MEANING,
        recognises: |unet| unet.use_linear_projection,
    },
    Family {
        name: "lcm",
        about: "Latent consistency models distilled from Stable Diffusion 1.x over strengths of guidance",
        pipelines: &[
            "LatentConsistencyModelPipeline",
            "LatentConsistencyModelImg2ImgPipeline",
        ],
        parts: STABLE_DIFFUSION_PARTS,
        text_parts: &[FIRST_TEXT],
        steps: 4,
        guidance: 8.5,
        ignored_parts: WITHOUT_MEANING,
        recognises: |unet| unet.addition_embed_type.is_none(),
    },
    Family {
        name: "sdxl-refiner",
        about: "The refiner of Stable Diffusion XL, which does the last part of the steps",
        pipelines: STABLE_DIFFUSION_XL_PIPELINES,
        parts: STABLE_DIFFUSION_XL_PARTS,
        text_parts: &[SECOND_TEXT],
        steps: 50,
        guidance: 5.0,
        ignored_parts: WITHOUT_MEANING,
        recognises: |unet| {
            unet.addition_embed_type.is_some() && unet.in_channels != INPAINTING_CHANNELS
        },
    },
    Family {
        name: "sdxl-inpaint",
        about: "Stable Diffusion XL, trained further for inpainting",
        pipelines: STABLE_DIFFUSION_XL_PIPELINES,
        parts: STABLE_DIFFUSION_XL_PARTS,
        text_parts: &[FIRST_TEXT, SECOND_TEXT],
        steps: 50,
        guidance: 7.5,
        ignored_parts: WITHOUT_MEANING,
        recognises: |unet| {
            unet.addition_embed_type.is_some() && unet.in_channels == INPAINTING_CHANNELS
        },
    },
    Family {
        name: "sdxl",
        about: "Stable Diffusion XL, and smaller models distilled from it",
        pipelines: STABLE_DIFFUSION_XL_PIPELINES,
        parts: STABLE_DIFFUSION_XL_PARTS,
        text_parts: &[FIRST_TEXT, SECOND_TEXT],
        steps: 50,
        guidance: 5.0,
        ignored_parts: WITHOUT_MEANING,
        recognises: |unet| unet.addition_embed_type.is_some(),
    },
];

impl Family {
    /// The family of a folder.
    pub(crate) fn of(index: &ModelIndex, unet: &UNet2dConditionConfig) -> Option<&'static Self> {
        FAMILIES.iter().find(|family| {
            family.pipelines.contains(&index.class_name.as_str())
                && (family.recognises)(unet)
                && family.has_place_for_texts(index)
        })
    }

    /// Whether it has a place for each of the folder's text encoders.
    fn has_place_for_texts(&self, index: &ModelIndex) -> bool {
        let known = |part: &str| self.text_parts.iter().any(|(encoder, _)| *encoder == part);
        let mut texts = [FIRST_TEXT.0, SECOND_TEXT.0].into_iter();
        texts.all(|part| index.part(part).is_none() || known(part))
    }

    /// The first part of the folder that this family has no place for, with its class.
    pub(crate) fn stranger<'a>(&self, index: &'a ModelIndex) -> Option<(&'a str, &'a str)> {
        let known = |name: &str, class: &str| {
            self.ignored_parts.contains(&name)
                || self
                    .parts
                    .iter()
                    .any(|(part, classes)| *part == name && classes.contains(&class))
        };
        index.parts.iter().find_map(|(name, class)| {
            let class = class.as_ref()?.class.as_str();
            (!known(name, class)).then_some((name.as_str(), class))
        })
    }
}
