//! A model's folder: its parts, checked against one another.

use std::path::Path;

use latent_formats::{ModelIndex, Weights, parse_json};
use latent_nn::Compute;
use serde_json::{Map, Value};

use crate::autoencoder::{Autoencoder, AutoencoderConfig};
use crate::config;
use crate::error::{ModelError, Result};
use crate::families::{FAMILIES, Family};
use crate::files::FileSource;
use crate::single_file::{PredictionType, SingleFile};
use crate::text::{ClipTextConfig, ClipTextModel};
use crate::tokenizer::{ClipTokenizer, max_length};
use crate::unet::{UNet2dCondition, UNet2dConditionConfig};
use crate::weights;

/// A diffusers folder whose configs have been read; weights are read part by part, when asked for.
#[derive(Clone, Debug)]
pub struct ModelFolder {
    files: FileSource,
    index: ModelIndex,
    family: &'static Family,
    unet: UNet2dConditionConfig,
    autoencoder: AutoencoderConfig,
    text_encoder: Option<ClipTextConfig>,
    text_encoder_2: Option<ClipTextConfig>,
}

/// What a model is told of the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conditioning {
    /// Words.
    Text,
    /// One of `count` classes; training leaves the last one for "no class".
    Class {
        /// Number of class embeddings.
        count: usize,
    },
    /// Nothing.
    None,
}

impl ModelFolder {
    /// Opens a folder in diffusers' layout.
    ///
    /// # Errors
    /// [`ModelError`]: the folder or a file is missing or broken, a config asks for what is not built here, the parts
    /// do not fit together.
    pub fn open(path: &Path) -> Result<Self> {
        Self::from_source(FileSource::folder(path))
    }

    /// [`ModelFolder::open`] with the weights of a `variant` such as `fp16`, where the folder has it.
    ///
    /// # Errors
    /// As [`ModelFolder::open`].
    pub fn open_variant(path: &Path, variant: Option<&str>) -> Result<Self> {
        Self::from_source(FileSource::folder(path).preferring(variant))
    }

    /// Opens a checkpoint that holds a whole model in one file. Sizes, tokenizer and scheduler are those of `config`, a
    /// folder in diffusers' layout; without one, those of the checkpoint's family.
    ///
    /// # Errors
    /// As [`ModelFolder::open`], and [`ModelError::SingleFile`] if the checkpoint is of no kind that is opened.
    pub fn open_file(path: &Path, config: Option<&Path>) -> Result<Self> {
        Self::open_file_predicting(path, config, None)
    }

    /// [`ModelFolder::open_file`] of a checkpoint that is known to predict what `prediction` says; `None` leaves that to
    /// `config`, and without one to the file.
    ///
    /// # Errors
    /// As [`ModelFolder::open_file`].
    pub fn open_file_predicting(
        path: &Path,
        config: Option<&Path>,
        prediction: Option<PredictionType>,
    ) -> Result<Self> {
        let file = SingleFile::open(path)?;
        let (files, file) = match config {
            Some(folder) => (FileSource::folder(folder), file.predicting(prediction)),
            None => {
                let file = file.with_own_prediction(prediction);
                let files = file.files()?;
                (FileSource::memory(files, &path.to_string_lossy()), file)
            }
        };
        Self::from_source(files.with_weights(file))
    }

    /// [`ModelFolder::open`] of files in the program, by path with `/`.
    ///
    /// # Errors
    /// As [`ModelFolder::open`].
    pub fn from_memory(files: &'static [(&'static str, &'static [u8])]) -> Result<Self> {
        Self::from_source(FileSource::memory(files, "built-in"))
    }

    /// [`ModelFolder::open`] of files anywhere.
    ///
    /// # Errors
    /// As [`ModelFolder::open`].
    pub fn from_source(files: FileSource) -> Result<Self> {
        let path = files.path().join("model_index.json");
        let index = ModelIndex::parse(
            &files.need("model_index.json", "model in diffusers' layout")?,
            &path,
        )?;
        let fault = |key: &str, reason: String| ModelError::Config {
            place: format!("`{}`", path.display()),
            key: key.into(),
            reason,
        };
        for part in ["unet", "vae"] {
            if index.part(part).is_none() {
                return Err(fault(part, "is missing; a model needs it to draw".into()));
            }
        }
        check_pipeline(&index, &path)?;
        let unet: UNet2dConditionConfig = config::read(&files.below("unet"))?;
        let Some(family) = Family::of(&index, &unet) else {
            return Err(fault(
                "_class_name",
                "names a pipeline whose U-Net is of no family Latent knows".into(),
            ));
        };
        if let Some((part, class)) = family.stranger(&index) {
            let reason = format!(
                "is a `{class}`, for which the family `{}` has no place",
                family.name
            );
            return Err(fault(part, reason));
        }
        let text = |part: &str| match index.part(part) {
            Some(_) => config::read(&files.below(part)).map(Some),
            None => Ok(None),
        };
        let (text_encoder, text_encoder_2) = (text("text_encoder")?, text("text_encoder_2")?);
        let folder = Self {
            autoencoder: AutoencoderConfig::read(&files.below("vae"))?,
            files,
            index,
            family,
            unet,
            text_encoder,
            text_encoder_2,
        };
        folder.check_fit()?;
        Ok(folder)
    }

    /// Refuses parts of different models.
    fn check_fit(&self) -> Result<()> {
        let fault = |key: &str, reason: String| ModelError::Config {
            place: format!("`{}`", self.files.path().join("unet/config.json").display()),
            key: key.into(),
            reason,
        };
        let (channels, latents) = (self.unet.in_channels, self.autoencoder.latent_channels());
        // An inpainting U-Net also sees a mask of one channel and the masked picture's latents.
        if channels != latents && channels != 2 * latents + 1 {
            let reason =
                format!("is {channels}, and the latents of `vae/` have {latents} channels");
            return Err(fault("in_channels", reason));
        }
        let texts = [&self.text_encoder, &self.text_encoder_2];
        let widths = texts.into_iter().flatten().map(|text| text.hidden_size);
        let (width, hidden) = (self.unet.cross_attention_dim, widths.sum::<usize>());
        if hidden != 0 && width != hidden {
            let named: Vec<&str> = self.index.parts.iter().map(|(part, _)| &**part).collect();
            let named = named.iter().filter(|part| part.starts_with("text_encoder"));
            let named: Vec<String> = named.map(|part| format!("`{part}/`")).collect();
            let reason = format!(
                "is {width}, and the states of {} have width {hidden}",
                named.join(" and ")
            );
            return Err(fault("cross_attention_dim", reason));
        }
        self.check_added()
    }

    /// Refuses a U-Net whose added numbers are others than its pipeline adds.
    fn check_added(&self) -> Result<()> {
        if self.unet.addition_embed_type.is_none() {
            return Ok(());
        }
        let fault = |reason: String| ModelError::Config {
            place: format!("`{}`", self.files.path().join("unet/config.json").display()),
            key: "projection_class_embeddings_input_dim".into(),
            reason,
        };
        let Some(text) = &self.text_encoder_2 else {
            let reason =
                "asks for a pooled text, and the folder has no `text_encoder_2/`".to_owned();
            return Err(fault(reason));
        };
        let (pooled, needed) = (text.pooled_width(), self.added_numbers());
        if self.unet.added_numbers(pooled) == Some(needed) {
            return Ok(());
        }
        Err(fault(format!(
            "is {}, and a pooled text of width {pooled} with {needed} numbers of width {} is {}; `requires_aesthetics_score` \
             of `model_index.json` says whether there are 5 or 6 numbers",
            self.unet.projection_class_embeddings_input_dim.unwrap_or(0),
            self.unet.addition_time_embed_dim.unwrap_or(0),
            pooled + needed * self.unet.addition_time_embed_dim.unwrap_or(0)
        )))
    }

    /// Numbers that its pipeline adds to the pooled text: the aesthetic score stands for the target size.
    fn added_numbers(&self) -> usize {
        if self.requires_aesthetics_score() {
            5
        } else {
            6
        }
    }

    /// Whether a missing negative prompt becomes zeros instead of the states of an empty text.
    pub fn force_zeros_for_empty_prompt(&self) -> bool {
        self.option("force_zeros_for_empty_prompt").unwrap_or(true)
    }

    /// Whether the U-Net is told how much people like the picture.
    pub fn requires_aesthetics_score(&self) -> bool {
        self.option("requires_aesthetics_score").unwrap_or(false)
    }

    /// One of the pipeline's own settings.
    fn option(&self, name: &str) -> Option<bool> {
        self.index.options.get(name)?.as_bool()
    }

    /// What `model_index.json` says.
    pub fn index(&self) -> &ModelIndex {
        &self.index
    }

    /// The files.
    pub fn files(&self) -> &FileSource {
        &self.files
    }

    /// Its family.
    pub fn family(&self) -> &'static Family {
        self.family
    }

    /// The U-Net's sizes.
    pub fn unet_config(&self) -> &UNet2dConditionConfig {
        &self.unet
    }

    /// The text encoder's sizes, if it has one.
    pub fn text_encoder_config(&self) -> Option<&ClipTextConfig> {
        self.text_encoder.as_ref()
    }

    /// What the model is told of the picture.
    pub fn conditioning(&self) -> Conditioning {
        let reads = self.text_encoder.is_some() || self.text_encoder_2.is_some();
        match (reads, self.unet.num_class_embeds) {
            (true, _) => Conditioning::Text,
            (false, Some(count)) => Conditioning::Class { count },
            (false, None) => Conditioning::None,
        }
    }

    /// Pixels per latent, in each direction.
    pub fn downsampling(&self) -> usize {
        self.autoencoder.downsampling()
    }

    /// Height and width of the pictures it was trained on.
    pub fn size(&self) -> [usize; 2] {
        [self.unet.sample_size * self.downsampling(); 2]
    }

    /// The weights of the part in folder `name`, where they lie; `None` if the model has no such part.
    ///
    /// # Errors
    /// [`ModelError`]: the file is missing or broken.
    pub fn part_weights(&self, name: &str) -> Result<Option<Weights>> {
        if self.index.part(name).is_none() {
            return Ok(None);
        }
        Ok(Some(weights::open(
            &self.files.below(name),
            weights::names_of(name),
        )?))
    }

    /// This model with other files for the parts named.
    ///
    /// # Errors
    /// [`ModelError`] as [`ModelFolder::open`]: the new parts may not fit the others.
    pub(crate) fn with_parts(self, parts: Vec<(String, FileSource)>) -> Result<Self> {
        let files = parts.into_iter().fold(self.files, |files, (name, part)| {
            files.with_part(&name, part)
        });
        Self::from_source(files)
    }

    /// Reads the U-Net.
    ///
    /// # Errors
    /// [`ModelError`]: a tensor is missing or does not fit.
    pub fn unet(&self, compute: &Compute) -> Result<UNet2dCondition> {
        UNet2dCondition::open(&self.files.below("unet"), compute)
    }

    /// Reads the autoencoder, whose products are never made of bytes.
    ///
    /// # Errors
    /// [`ModelError`]: a tensor is missing or does not fit.
    pub fn autoencoder(&self, compute: &Compute) -> Result<Autoencoder> {
        let files = self.files.below("vae");
        let autoencoder = Autoencoder::open(&files, &compute.floating())?;
        Ok(
            match files.single_file().and_then(SingleFile::scale_factor) {
                Some(factor) => autoencoder.with_scaling_factor(factor),
                None => autoencoder,
            },
        )
    }

    /// Reads the text encoder, if there is one; its products are never made of bytes.
    ///
    /// # Errors
    /// [`ModelError`]: a tensor is missing or does not fit.
    pub fn text_encoder(&self, compute: &Compute) -> Result<Option<ClipTextModel>> {
        self.text_model("text_encoder", self.text_encoder.as_ref(), compute)
    }

    /// Reads the second text encoder, if there is one, likewise.
    ///
    /// # Errors
    /// [`ModelError`]: a tensor is missing or does not fit.
    pub fn text_encoder_2(&self, compute: &Compute) -> Result<Option<ClipTextModel>> {
        self.text_model("text_encoder_2", self.text_encoder_2.as_ref(), compute)
    }

    fn text_model(
        &self,
        part: &str,
        config: Option<&ClipTextConfig>,
        compute: &Compute,
    ) -> Result<Option<ClipTextModel>> {
        let read = |_| ClipTextModel::open(&self.files.below(part), &compute.floating());
        config.map(read).transpose()
    }

    /// Reads the tokenizer, if there is a text encoder; its texts are as long as both allow.
    ///
    /// # Errors
    /// [`ModelError`]: a file is missing or broken.
    pub fn tokenizer(&self) -> Result<Option<ClipTokenizer>> {
        self.tokenizer_of("tokenizer", self.text_encoder.as_ref())
    }

    /// Reads the second text encoder's tokenizer, likewise.
    ///
    /// # Errors
    /// [`ModelError`]: a file is missing or broken.
    pub fn tokenizer_2(&self) -> Result<Option<ClipTokenizer>> {
        self.tokenizer_of("tokenizer_2", self.text_encoder_2.as_ref())
    }

    fn tokenizer_of(
        &self,
        part: &str,
        text: Option<&ClipTextConfig>,
    ) -> Result<Option<ClipTokenizer>> {
        let Some(text) = text else {
            return Ok(None);
        };
        let files = self.files.below(part);
        let longest = text.max_position_embeddings;
        let length = max_length(&files)?.map_or(longest, |length| length.min(longest));
        let tokenizer = ClipTokenizer::from_source(&files, length)?;
        if tokenizer.vocab_size() > text.vocab_size {
            return Err(ModelError::Tokenizer {
                path: files.path().to_path_buf(),
                reason: format!(
                    "has {} pieces, and the text encoder knows {}; they belong to different models",
                    tokenizer.vocab_size(),
                    text.vocab_size
                ),
            });
        }
        Ok(Some(tokenizer))
    }

    /// `scheduler/scheduler_config.json`, for whoever samples.
    ///
    /// # Errors
    /// [`ModelError`]: the file is missing or broken.
    pub fn scheduler_config(&self) -> Result<Value> {
        let files = self.files.below("scheduler");
        let bytes = files.need("scheduler_config.json", "scheduler config")?;
        let mut config: Map<String, Value> =
            parse_json(&bytes, &files.path().join("scheduler_config.json"))?;
        config.extend(self.files.stated_schedule());
        Ok(Value::Object(config))
    }
}

/// Refuses pipelines that no family has; `path` is that of the index.
pub(crate) fn check_pipeline(index: &ModelIndex, path: &Path) -> Result<()> {
    let known = FAMILIES.iter().flat_map(|family| family.pipelines);
    let known: Vec<&str> = known.copied().collect();
    if known.contains(&index.class_name.as_str()) {
        return Ok(());
    }
    Err(ModelError::Config {
        place: format!("`{}`", path.display()),
        key: "_class_name".into(),
        reason: format!("is `{}`; Latent opens {}", index.class_name, quoted(&known)),
    })
}

fn quoted(names: &[&str]) -> String {
    let mut names = names.to_vec();
    names.sort_unstable();
    names.dedup();
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    quoted.join(" or ")
}
