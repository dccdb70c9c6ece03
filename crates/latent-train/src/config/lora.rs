//! Config of LoRA training.

use std::path::PathBuf;

use latent_formats::Dtype;
use latent_models::{LayerKind, PredictionType};
use serde::{Deserialize, Serialize};

use super::{Data, Fault, Optimization, Prediction, Run, Sampling, StageConfig, need};

/// `latent train lora`: small factors beside the layers of a Stable Diffusion model, which stays as it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraConfig {
    /// The model: a diffusers folder, a checkpoint of one file, or `owner/name` of the hub.
    pub model: PathBuf,
    /// For a checkpoint of one file: the folder whose sizes, tokenizer and scheduler it has; by default its family's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_config: Option<PathBuf>,
    /// For a checkpoint of one file: what its U-Net predicts; by default what it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prediction: Option<Prediction>,
    /// The LoRA's name, its file's too; by default that of the run's folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Float type of the files.
    #[serde(default)]
    pub save_as: SavedType,
    /// What every training picture shows, in the place of captions, as in `a photo of sks dog`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caption: Option<String>,
    /// Odds that the caption is left out.
    #[serde(default)]
    pub caption_dropout: f64,
    /// Odds of a left-right flip, for examples that may be flipped (`flip` in their metadata).
    #[serde(default)]
    pub flip: f64,
    /// Layers of the text encoder to leave out at its end, as in drawing.
    #[serde(default)]
    pub clip_skip: usize,
    /// Folder of the cached latents and text states; by default `cache/` in the run's folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<PathBuf>,
    /// Where, how long, how often; `init` is a LoRA to go on from.
    pub run: Run,
    /// Training pictures; `size` is the side of the square whose area pictures of all shapes have about.
    pub data: Data,
    /// Shapes of the pictures.
    #[serde(default)]
    pub buckets: Buckets,
    /// Optimiser of the factors.
    pub optimizer: Optimization,
    /// The factors.
    pub lora: Factors,
    /// Trains the text encoders too; absent, they stay as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_encoder: Option<TextTraining>,
    /// Pictures of the class that the subject belongs to, so that the model does not forget it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prior: Option<Prior>,
    /// Learns to draw in few steps: from paths that the model itself draws for the captions, not from the pictures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distillation: Option<Distillation>,
    /// How errors are weighted, and what noise is like.
    #[serde(default)]
    pub loss: LoraLoss,
    /// The pictures of the sample sheets.
    #[serde(default)]
    pub samples: Sampling,
}

/// `[lora]`: how large the factors are and which layers have them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Factors {
    /// Rows of the smaller factor.
    pub rank: usize,
    /// The factors' product counts alpha / rank times; by default once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// Which layers.
    #[serde(default = "attention")]
    pub layers: Vec<LayerChoice>,
}

impl Factors {
    /// What alpha is.
    pub fn alpha(&self) -> f64 {
        self.alpha.unwrap_or(self.rank as f64)
    }

    /// Whether a layer of this kind has factors.
    pub(crate) fn has(&self, kind: LayerKind) -> bool {
        self.layers.iter().any(|choice| choice.kind() == kind)
    }
}

/// A kind of layer by its name in configs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LayerChoice {
    /// Queries, keys, values and results of attention.
    Attention,
    /// The two layers behind attention.
    FeedForward,
    /// The way into and out of a transformer.
    Projections,
    /// Residual blocks, halvings and doublings.
    Convolutions,
}

impl LayerChoice {
    fn kind(self) -> LayerKind {
        match self {
            Self::Attention => LayerKind::Attention,
            Self::FeedForward => LayerKind::FeedForward,
            Self::Projections => LayerKind::Projection,
            Self::Convolutions => LayerKind::Convolution,
        }
    }
}

/// `[text_encoder]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextTraining {
    /// The highest learning rate of its factors; it rises and falls as the U-Net's.
    pub learning_rate: f64,
}

/// `[buckets]`: pictures are scaled to cover the next of these shapes and cut at the centre; a batch has one shape.
///
/// Source: NovelAI's aspect ratio bucketing (2022), with the sizes that kohya's sd-scripts make.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Buckets {
    /// Off: all pictures become squares.
    pub enabled: bool,
    /// Sides are multiples of this many pixels.
    pub step: usize,
    /// The shortest side; by default half of `data.size`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<usize>,
    /// The longest side; by default twice `data.size`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<usize>,
}

impl Default for Buckets {
    fn default() -> Self {
        Self {
            enabled: true,
            step: 64,
            min: None,
            max: None,
        }
    }
}

/// `[prior]`: prior preservation.
///
/// Source: Ruiz et al. 2022 (arXiv:2208.12242), section 3.3.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prior {
    /// A folder of pictures of the class; what it lacks up to `count` is drawn by the model itself.
    pub path: PathBuf,
    /// What all of them show, as in `a photo of a dog`.
    pub prompt: String,
    /// How much their error counts beside that of the training pictures.
    #[serde(default = "one")]
    pub weight: f64,
    /// Pictures that must be there; 0 draws none.
    #[serde(default = "hundred")]
    pub count: usize,
    /// Sampler of those that are drawn.
    #[serde(default = "sampler")]
    pub sampler: String,
    /// Its steps.
    #[serde(default = "steps")]
    pub steps: usize,
    /// Guidance strength.
    #[serde(default = "guidance")]
    pub guidance: f32,
}

/// `[distillation]`: one step of the model with the LoRA, without guidance, leads as far as several guided steps of the model
/// lead alone.
///
/// Source: Salimans & Ho 2022 (arXiv:2202.00512), with the guidance of Meng et al. 2022 (arXiv:2210.03142), in one round over
/// whole paths that are drawn once and kept, as by Luhman & Luhman 2021 (arXiv:2101.02388).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distillation {
    /// Steps that will do.
    #[serde(default = "four")]
    pub steps: usize,
    /// Steps of the model on each path; a multiple of `steps`.
    #[serde(default = "twenty")]
    pub teacher_steps: usize,
    /// Strength of its guidance.
    #[serde(default = "guidance")]
    pub guidance: f32,
    /// Paths, each from noise of its own for a caption drawn from the data; kept in the cache.
    pub paths: usize,
}

/// `[loss]` of LoRA training.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraLoss {
    /// Caps the weight of easy timesteps at this signal-to-noise ratio (arXiv:2303.09556; its authors took 5); absent
    /// for the plain mean square.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_snr_gamma: Option<f64>,
    /// Deviation of noise that a whole channel shares, added to the noise, so that very dark and very bright pictures can
    /// be learned; 0.05 to 0.1 are usual.
    ///
    /// Source: Guttenberg 2023, "Diffusion with Offset Noise".
    pub noise_offset: f64,
}

/// Float type of what is saved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SavedType {
    /// IEEE half, as most LoRAs are.
    #[default]
    F16,
    /// The upper half of an IEEE single.
    Bf16,
    /// IEEE single.
    F32,
}

impl SavedType {
    pub(crate) fn dtype(self) -> Dtype {
        match self {
            Self::F16 => Dtype::F16,
            Self::Bf16 => Dtype::Bf16,
            Self::F32 => Dtype::F32,
        }
    }
}

impl LoraConfig {
    /// Where latents and text states are kept.
    pub fn cache_folder(&self) -> PathBuf {
        match &self.cache {
            Some(folder) => folder.clone(),
            None => self.run.folder.join("cache"),
        }
    }

    /// The LoRA's name.
    pub fn title(&self) -> String {
        let folder = self.run.folder.file_name();
        let folder = folder.map(|name| name.to_string_lossy().into_owned());
        let name = self.name.clone().or(folder);
        name.unwrap_or_else(|| "lora".into())
    }

    /// What the U-Net of a checkpoint predicts, if the config says it.
    pub(crate) fn stated_prediction(&self) -> Option<PredictionType> {
        self.prediction.map(|prediction| match prediction {
            Prediction::Epsilon => PredictionType::Epsilon,
            Prediction::V => PredictionType::V,
        })
    }

    fn check_factors(&self) -> Result<(), Fault> {
        let lora = &self.lora;
        need((1..=4096).contains(&lora.rank), "lora.rank", || {
            format!("is {}; it must be between 1 and 4096", lora.rank)
        })?;
        let alpha = lora.alpha();
        need(alpha.is_finite() && alpha > 0.0, "lora.alpha", || {
            "must be above 0; leave it out for the rank".into()
        })?;
        need(!lora.layers.is_empty(), "lora.layers", || {
            "is empty; name `attention`, `feed-forward`, `projections`, `convolutions`".into()
        })?;
        let text = self.text_encoder.as_ref();
        need(
            text.is_none_or(|text| text.learning_rate.is_finite() && text.learning_rate > 0.0),
            "text_encoder.learning_rate",
            || "must be above 0; leave the table out to keep the text encoder as it is".into(),
        )?;
        let has_text_layers = lora.has(LayerKind::Attention) || lora.has(LayerKind::FeedForward);
        need(text.is_none() || has_text_layers, "lora.layers", || {
            "names no layer that a text encoder has; add `attention` or `feed-forward`, or leave `[text_encoder]` out"
                .into()
        })
    }

    fn check_buckets(&self) -> Result<(), Fault> {
        let Buckets { step, min, max, .. } = self.buckets;
        let size = self.data.size;
        need(step > 0 && step <= size, "buckets.step", || {
            format!("is {step}; it must be between 1 and `data.size`, {size}")
        })?;
        need(
            min.is_none_or(|min| min >= step && min <= size),
            "buckets.min",
            || format!("must be between `buckets.step`, {step}, and `data.size`, {size}"),
        )?;
        need(max.is_none_or(|max| max >= size), "buckets.max", || {
            format!("must be at least `data.size`, {size}")
        })
    }

    fn check_distillation(&self) -> Result<(), Fault> {
        let Some(distillation) = &self.distillation else {
            return Ok(());
        };
        let Distillation {
            steps,
            teacher_steps,
            guidance,
            paths,
        } = *distillation;
        need(steps > 0, "distillation.steps", || {
            "must be at least 1".into()
        })?;
        need(
            teacher_steps > steps && teacher_steps.is_multiple_of(steps),
            "distillation.teacher_steps",
            || {
                format!(
                    "is {teacher_steps}; it must be a multiple of `distillation.steps`, {steps}"
                )
            },
        )?;
        need(
            guidance.is_finite() && guidance >= 1.0,
            "distillation.guidance",
            || "must be at least 1, which is no guidance".into(),
        )?;
        need(paths > 0, "distillation.paths", || {
            "must be at least 1".into()
        })?;
        let Self {
            buckets,
            caption_dropout,
            flip,
            loss,
            ..
        } = self;
        for (key, is_said) in [
            ("prior", self.prior.is_some()),
            ("buckets", *buckets != Buckets::default()),
            ("caption_dropout", *caption_dropout > 0.0),
            ("flip", *flip > 0.0),
            ("loss", *loss != LoraLoss::default()),
        ] {
            need(!is_said, key, || {
                "has no meaning beside `[distillation]`, which looks at no picture; leave it out"
                    .into()
            })?;
        }
        Ok(())
    }

    fn check_prior(&self) -> Result<(), Fault> {
        let Some(prior) = &self.prior else {
            return Ok(());
        };
        need(!prior.prompt.trim().is_empty(), "prior.prompt", || {
            "is empty; it says what the class is, as `a photo of a dog`".into()
        })?;
        need(
            prior.weight.is_finite() && prior.weight > 0.0,
            "prior.weight",
            || "must be above 0; leave `[prior]` out for none".into(),
        )?;
        need(prior.steps > 0, "prior.steps", || {
            "must be at least 1".into()
        })
    }
}

impl StageConfig for LoraConfig {
    fn run(&self) -> &Run {
        &self.run
    }

    fn check(&self) -> Result<(), Fault> {
        self.run.check()?;
        self.data.check()?;
        self.optimizer.check()?;
        self.check_factors()?;
        self.check_buckets()?;
        self.check_prior()?;
        self.check_distillation()?;
        for (key, odds) in [
            ("caption_dropout", self.caption_dropout),
            ("flip", self.flip),
        ] {
            need((0.0..=1.0).contains(&odds), key, || {
                "must lie between 0 and 1".into()
            })?;
        }
        let caption = self.caption.as_deref();
        need(
            caption.is_none_or(|caption| !caption.trim().is_empty()),
            "caption",
            || "is empty; leave it out, and each picture needs one of its own".into(),
        )?;
        let name = self.name.as_deref().unwrap_or("lora");
        let is_file =
            !name.is_empty() && !name.contains(['/', '\\', ':']) && !name.starts_with('.');
        need(is_file, "name", || {
            format!("is `{name}`; it becomes a file's name, so it needs letters and no slash")
        })?;
        let loss = &self.loss;
        need(
            loss.min_snr_gamma.is_none_or(|gamma| gamma > 0.0),
            "loss.min_snr_gamma",
            || "must be above 0; leave it out for the plain mean".into(),
        )?;
        need(
            (0.0..=1.0).contains(&loss.noise_offset),
            "loss.noise_offset",
            || "must lie between 0 and 1".into(),
        )?;
        need(self.samples.steps > 0, "samples.steps", || {
            "must be at least 1".into()
        })
    }
}

fn attention() -> Vec<LayerChoice> {
    vec![LayerChoice::Attention]
}

fn one() -> f64 {
    1.0
}

fn four() -> usize {
    4
}

fn twenty() -> usize {
    20
}

fn hundred() -> usize {
    100
}

fn sampler() -> String {
    "dpmpp_2m".into()
}

fn steps() -> usize {
    25
}

fn guidance() -> f32 {
    7.5
}
