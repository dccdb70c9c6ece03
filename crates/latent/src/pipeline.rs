//! A model that is ready to draw: its parts on a device, and the ways in and out of it.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::tensor::Tensor;
use latent_formats::Picture;
use latent_models::{
    Autoencoder, ClipTextModel, ClipTokenizer, Conditioning, LoraReport, ModelFolder,
    PredictionType, UNet2dCondition,
};
use latent_nn::ops::{Part, evaluation, rehearsing};
use latent_nn::{Compute, Precision, select_device, to_host};
use latent_sampling::{GeneratorKind, Latents as Array, SchedulerConfig};
use serde_json::Value;

use crate::adapters::{Adapters, Extras, FEW_STEPS};
use crate::builtin::builtin_folder;
use crate::defaults::Defaults;
use crate::draw::{Generated, Progress, draw};
use crate::economy::Economy;
use crate::latents::Latents;
use crate::named::Names;
use crate::refine::refine;
use crate::sdxl::Sdxl;
use crate::vocabulary::Vocabulary;
use crate::{Error, Request};

/// Words to pictures: an autoencoder, a U-Net, and where the model reads words a text encoder and a tokenizer.
#[derive(Debug)]
pub struct Pipeline {
    pub(crate) autoencoder: Autoencoder,
    pub(crate) unet: UNet2dCondition,
    pub(crate) text: Option<Text>,
    /// What Stable Diffusion XL has beside.
    pub(crate) sdxl: Option<Sdxl>,
    /// The model that does the last part of the steps.
    pub(crate) refiner: Option<Box<Pipeline>>,
    pub(crate) scheduler: SchedulerConfig,
    pub(crate) defaults: Defaults,
    vocabulary: Option<Vocabulary>,
    pub(crate) compute: Compute,
    device_name: String,
    pub(crate) model_name: String,
    pub(crate) extras: Extras,
    pub(crate) economy: Economy,
}

/// What reads the words.
#[derive(Debug)]
pub(crate) struct Text {
    pub(crate) encoder: ClipTextModel,
    pub(crate) tokenizer: ClipTokenizer,
}

impl From<(ClipTextModel, ClipTokenizer)> for Text {
    fn from((encoder, tokenizer): (ClipTextModel, ClipTokenizer)) -> Self {
        Self { encoder, tokenizer }
    }
}

impl Text {
    /// The same tokenizer with another encoder, if one is given.
    pub(crate) fn with_encoder(&self, encoder: Option<ClipTextModel>) -> Self {
        Self {
            encoder: encoder.unwrap_or_else(|| self.encoder.clone()),
            tokenizer: self.tokenizer.clone(),
        }
    }

    /// The ids of `words`; notes what was cut.
    pub(crate) fn encode(&self, words: &str, warnings: &mut Vec<String>) -> Vec<u32> {
        let encoded = self.tokenizer.encode(words);
        if let Some(cut) = &encoded.cut {
            let room = encoded.ids.len().saturating_sub(2);
            let warning = format!(
                "the prompt is too long: this model reads {room} tokens at once, so this end was cut: \"{cut}\"; \
                 `--weights a1111` reads all of it"
            );
            // The encoders of one model mostly cut the same.
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
        }
        encoded.ids
    }
}

/// The parts of a pipeline that is put together by hand, all of them on one device.
#[derive(Debug)]
pub struct Parts {
    /// Pictures to latents and back.
    pub autoencoder: Autoencoder,
    /// Finds the noise.
    pub unet: UNet2dCondition,
    /// Reads the words, for models that are told words.
    pub text_encoder: Option<ClipTextModel>,
    /// Cuts the words for the text encoder.
    pub tokenizer: Option<ClipTokenizer>,
    /// A diffusers scheduler configuration.
    pub scheduler_config: Value,
    /// What open settings of a request become.
    pub defaults: Defaults,
}

/// Chooses device and precision of a pipeline before it is opened.
#[derive(Clone, Debug)]
pub struct Builder {
    device: String,
    precision: Option<Precision>,
    config: Option<PathBuf>,
    pub(crate) adapters: Adapters,
    prediction: Option<PredictionType>,
    names: Names,
}

impl Builder {
    /// `auto` (the default), `cpu`, or `cuda`, `metal`, `vulkan` with an optional `:index`.
    #[must_use]
    pub fn device(mut self, device: impl Into<String>) -> Self {
        self.device = device.into();
        self
    }

    /// How products are computed; left open, bf16 where the hardware has it, else f32.
    #[must_use]
    pub fn precision(mut self, precision: Precision) -> Self {
        self.precision = Some(precision);
        self
    }

    /// For a checkpoint of one file: the folder in diffusers layout whose sizes, tokenizer and scheduler it has. Left
    /// open, those of its family.
    #[must_use]
    pub fn config(mut self, folder: impl Into<PathBuf>) -> Self {
        self.config = Some(folder.into());
        self
    }

    /// For a checkpoint of one file: what its network predicts. Left open, what the file says, or its config.
    #[must_use]
    pub fn prediction(mut self, prediction: PredictionType) -> Self {
        self.prediction = Some(prediction);
        self
    }

    /// Of several published precisions, the one to take of each part that has it, as `fp16`. Left open, the fullest.
    #[must_use]
    pub fn variant(mut self, variant: impl Into<String>) -> Self {
        self.names.variant = Some(variant.into());
        self
    }

    /// Never asks the network: a model of the hub is what the cache holds of it.
    #[cfg(feature = "hub")]
    #[must_use]
    pub fn offline(mut self) -> Self {
        self.names.hub.offline = true;
        self
    }

    /// Told how far a download from the hub is, whenever some bytes came; may stop it.
    #[cfg(feature = "hub")]
    #[must_use]
    pub fn on_download(
        mut self,
        told: impl Fn(&latent_hub::Progress<'_>) -> ControlFlow<()> + Send + Sync + 'static,
    ) -> Self {
        self.names.hub.told = Some(std::sync::Arc::new(told));
        self
    }

    /// Opens a model folder in diffusers layout, or a checkpoint that holds a whole model in one file; what is not here
    /// and has the shape of `owner/name`, with `@revision` or `/file` behind it, is fetched from the hub, or found in
    /// its cache.
    ///
    /// # Errors
    /// [`Error::Model`] if it is missing, broken or of a kind that is not built here; [`Error::Request`] if
    /// [`Builder::config`] or [`Builder::prediction`] is given for a folder, which has its own; [`Error::Device`]; with
    /// the feature `hub` `Error::Hub`.
    pub fn open(self, model: impl AsRef<Path>) -> Result<Pipeline, Error> {
        let folder = self.open_folder(model.as_ref())?;
        self.build(&folder, Names::title(model.as_ref()))
    }

    /// The files of the model that [`Builder::open`] would open, without reading its networks.
    ///
    /// # Errors
    /// As [`Builder::open`].
    pub fn open_folder(&self, model: &Path) -> Result<ModelFolder, Error> {
        let path = self.locate(model)?;
        if path.is_file() {
            let config = self.config.as_deref();
            return Ok(ModelFolder::open_file_predicting(
                &path,
                config,
                self.prediction,
            )?);
        }
        let given = match (&self.config, self.prediction) {
            (Some(_), _) => "config folder",
            (None, Some(_)) => "prediction",
            (None, None) => {
                let variant = self.names.variant.as_deref();
                return Ok(ModelFolder::open_variant(&path, variant)?);
            }
        };
        Err(Error::Request(format!(
            "a {given} goes with a checkpoint of one file, and `{}` is none; leave it out",
            model.display()
        )))
    }

    /// Where the files of `model` are: where the name says, or, fetched if need be, in the hub's cache.
    ///
    /// # Errors
    /// As [`Builder::open`].
    pub fn locate(&self, model: &Path) -> Result<PathBuf, Error> {
        self.names.follow(model, None)
    }

    /// Opens the model inside the program.
    ///
    /// # Errors
    /// [`Error::NoBuiltin`] if this build carries none; [`Error::Device`].
    pub fn builtin(self) -> Result<Pipeline, Error> {
        self.build(&builtin_folder()?, "built-in".to_owned())
    }

    fn build(self, folder: &ModelFolder, model_name: String) -> Result<Pipeline, Error> {
        let selected = select_device(&self.device)?;
        let compute = Compute {
            precision: self.precision.unwrap_or_else(|| selected.best_precision()),
            device: selected.device,
        };
        if compute.precision == Precision::Int8 && !compute.is_cpu() {
            let reason = "products in 8 bits are made on a CPU only; take `--device cpu`, or another precision";
            return Err(Error::Request(reason.to_owned()));
        }
        let mut extras = Extras::default();
        let defaults = Defaults::read(folder)?;
        let folder = &self
            .adapters
            .over(folder.clone(), (&self.names, &defaults), &mut extras)?;
        let texts = [
            folder.text_encoder(&compute)?.zip(folder.tokenizer()?),
            folder.text_encoder_2(&compute)?.zip(folder.tokenizer_2()?),
        ];
        let [text, text_2] = self.adapters.words(texts, &self.names, &mut extras)?;
        self.adapters
            .networks(folder, (&compute, &self.names), &mut extras)?;
        Ok(Pipeline {
            autoencoder: folder.autoencoder(&compute)?,
            unet: folder.unet(&compute)?,
            text: text.map(Text::from),
            sdxl: text_2.map(|text| Sdxl::new(folder, text.into())),
            refiner: None,
            scheduler: scheduler(&folder.scheduler_config()?)?,
            defaults: if self.adapters.draws_in_few_steps(&defaults) {
                defaults.in_few_steps()
            } else {
                defaults
            },
            vocabulary: Vocabulary::read(folder)?,
            compute,
            device_name: selected.name,
            model_name,
            extras,
            economy: Economy::default(),
        })
    }
}

/// The files of a model: a folder, a checkpoint of one file with the configs of `config` or its family, or a model of the
/// hub.
///
/// # Errors
/// As [`Builder::open`].
pub fn open_folder(path: &Path, config: Option<&Path>) -> Result<ModelFolder, Error> {
    open_folder_predicting(path, config, None)
}

/// [`open_folder`] of a checkpoint of one file that is known to predict what `prediction` says.
///
/// # Errors
/// As [`Builder::open`].
pub fn open_folder_predicting(
    path: &Path,
    config: Option<&Path>,
    prediction: Option<PredictionType>,
) -> Result<ModelFolder, Error> {
    let builder = Builder {
        config: config.map(Path::to_path_buf),
        prediction,
        ..Pipeline::builder()
    };
    builder.open_folder(path)
}

/// Reads a scheduler configuration as diffusers' Stable Diffusion pipelines take it: latents are not bounded, so
/// `clip_sample` is off.
///
/// Source: diffusers' `StableDiffusionPipeline.__init__`.
pub(crate) fn scheduler(config: &Value) -> Result<SchedulerConfig, Error> {
    let mut config = SchedulerConfig::from_json(config)?;
    if config
        .stated("clip_sample")
        .is_some_and(|value| value == true)
    {
        config = config.with("clip_sample", false)?;
    }
    Ok(config)
}

impl Pipeline {
    /// Sets device and precision first.
    #[must_use]
    pub fn builder() -> Builder {
        Builder {
            device: "auto".to_owned(),
            precision: None,
            config: None,
            adapters: Adapters::default(),
            prediction: None,
            names: Names::default(),
        }
    }

    /// Opens the model inside the program, on the best device.
    ///
    /// # Errors
    /// As [`Builder::builtin`].
    pub fn builtin() -> Result<Self, Error> {
        Self::builder().builtin()
    }

    /// Opens a model folder in diffusers layout, a checkpoint of one file, or `owner/name` of the hub, on the best device.
    ///
    /// # Errors
    /// As [`Builder::open`].
    pub fn from_pretrained(model: impl AsRef<Path>) -> Result<Self, Error> {
        Self::builder().open(model)
    }

    /// Puts parts together that are on `compute`'s device already.
    ///
    /// # Errors
    /// [`Error::Sampling`] if the scheduler configuration is wrong; [`Error::Request`] for parts of Stable Diffusion XL.
    pub fn from_parts(parts: Parts, compute: Compute) -> Result<Self, Error> {
        let text = match (parts.text_encoder, parts.tokenizer) {
            (Some(encoder), Some(tokenizer)) => Some(Text { encoder, tokenizer }),
            _ => None,
        };
        if parts.unet.config().addition_embed_type.is_some() {
            return Err(Error::Request(
                "a U-Net of Stable Diffusion XL needs two text encoders; open its folder with `Pipeline::builder`".into(),
            ));
        }
        Ok(Self {
            autoencoder: parts.autoencoder,
            unet: parts.unet,
            text,
            sdxl: None,
            refiner: None,
            scheduler: scheduler(&parts.scheduler_config)?,
            defaults: parts.defaults,
            vocabulary: None,
            compute,
            device_name: "given".to_owned(),
            model_name: "parts".to_owned(),
            extras: Extras::default(),
            economy: Economy::default(),
        })
    }

    /// A pipeline like this one with other networks: this U-Net, and these text encoders where one is given. Refiner,
    /// ControlNets and the tiny decoder stay behind.
    ///
    /// Training draws with it what its weights make now.
    #[must_use]
    pub fn with_networks(
        &self,
        unet: UNet2dCondition,
        [text, text_2]: [Option<ClipTextModel>; 2],
    ) -> Self {
        Self {
            autoencoder: self.autoencoder.clone(),
            unet,
            text: self.text.as_ref().map(|own| own.with_encoder(text)),
            sdxl: self.sdxl.as_ref().map(|own| own.with_encoder(text_2)),
            refiner: None,
            scheduler: self.scheduler.clone(),
            defaults: self.defaults.clone(),
            vocabulary: None,
            compute: self.compute.clone(),
            device_name: self.device_name.clone(),
            model_name: self.model_name.clone(),
            extras: Extras::default(),
            economy: self.economy,
        }
    }

    /// This pipeline with another that does the last part of the steps, as Stable Diffusion XL's refiner;
    /// [`Request::denoising_end`] says from where on.
    ///
    /// # Errors
    /// [`Error::Request`] if the latents of the two differ in kind.
    pub fn with_refiner(self, refiner: Self) -> Result<Self, Error> {
        let kind = |pipeline: &Self| {
            let autoencoder = &pipeline.autoencoder;
            (autoencoder.latent_channels(), autoencoder.downsampling())
        };
        if kind(&self) != kind(&refiner) {
            let ((channels, factor), (found, other)) = (kind(&self), kind(&refiner));
            return Err(Error::Request(format!(
                "the refiner `{}` works on {found} channels down-sampled {other} times, and `{}` on {channels} \
                 down-sampled {factor} times; take the refiner of this model",
                refiner.model_name, self.model_name
            )));
        }
        let refiner = Some(Box::new(refiner));
        Ok(Self { refiner, ..self })
    }

    /// Goes on from latents `[n, c, h, w]`, one a seed, that another run left at [`Request::denoising_start`].
    ///
    /// # Errors
    /// As [`Pipeline::generate_with`], and [`Error::Request`] if the latents do not fit the model or the request.
    pub fn refine(
        &self,
        request: &Request,
        latents: &Latents,
        mut progress: impl FnMut(&Progress<'_>) -> ControlFlow<()>,
    ) -> Result<Generated, Error> {
        refine(self, request, latents, &mut progress)
    }

    /// Draws the pictures of `request`.
    ///
    /// On the CPU a picture depends on model, request, seed, precision and instruction set only: the same bytes with
    /// any number of threads, alone or among others.
    ///
    /// # Errors
    /// [`Error::Request`] if the request is out of range or does not fit the model; [`Error::Sampling`] likewise of its
    /// sampler; [`Error::NotFinite`] if the numbers run away.
    pub fn generate(&self, request: &Request) -> Result<Generated, Error> {
        self.generate_with(request, |_| ControlFlow::Continue(()))
    }

    /// [`Pipeline::generate`], calling `progress` after every evaluation of the network.
    ///
    /// # Errors
    /// As [`Pipeline::generate`], and [`Error::Stopped`] once `progress` says [`ControlFlow::Break`].
    pub fn generate_with(
        &self,
        request: &Request,
        mut progress: impl FnMut(&Progress<'_>) -> ControlFlow<()>,
    ) -> Result<Generated, Error> {
        draw(self, request, &mut progress)
    }

    /// A picture to the mean of its latents, scaled to the spread the U-Net works with.
    ///
    /// # Errors
    /// [`Error::Request`] if a side is no multiple of [`Pipeline::downsampling`]; [`Error::NotFinite`].
    pub fn encode(&self, picture: &Picture) -> Result<Latents, Error> {
        self.encode_with(picture, None)
    }

    /// [`Pipeline::encode`] with a draw from the encoder's distribution by torch's generator of `seed`.
    ///
    /// # Errors
    /// As [`Pipeline::encode`].
    pub fn encode_sampled(&self, picture: &Picture, seed: u64) -> Result<Latents, Error> {
        self.encode_with(picture, Some(seed))
    }

    fn encode_with(&self, picture: &Picture, seed: Option<u64>) -> Result<Latents, Error> {
        let (width, height, factor) = (picture.width(), picture.height(), self.downsampling());
        if width % factor != 0 || height % factor != 0 {
            return Err(Error::Request(format!(
                "the picture is {width}x{height}, and this autoencoder needs sides that are multiples of {factor}; crop it"
            )));
        }
        let moments = self.moments(picture.to_f32_nchw(), [height, width])?;
        let mut generator = seed.map(|seed| GeneratorKind::Torch.start(seed));
        Ok(self.latents_of(&moments, generator.as_mut())?.into())
    }

    /// Latents `[n, c, h, w]` to `n` pictures.
    ///
    /// # Errors
    /// [`Error::Request`] if the latents have other channels than this autoencoder; [`Error::NotFinite`].
    pub fn decode(&self, latents: &Latents) -> Result<Vec<Picture>, Error> {
        self.decode_array(latents.array())
    }

    /// Decodes one picture at a time, so that memory does not grow with their number.
    pub(crate) fn decode_array(&self, latents: &Array) -> Result<Vec<Picture>, Error> {
        let (_, channels, height, width) = latents.dim();
        self.check_channels(latents)?;
        let factor = self.downsampling();
        let decode = |one: ndarray::ArrayView3<'_, f32>| {
            let values = one.iter().copied().collect();
            let tensor = self.compute.tensor(values, [1, channels, height, width]);
            let (values, _) = to_host(self.decoded(tensor)?);
            finite(&values, "the decoder")?;
            Ok(Picture::from_f32_nchw(
                &values,
                width * factor,
                height * factor,
            )?)
        };
        latents.outer_iter().map(decode).collect()
    }

    /// Latents `[1, c, h, w]` to the values of a picture, by the decoder and in the way that were chosen.
    fn decoded(&self, latents: Tensor<4>) -> Result<Tensor<4>, Error> {
        if let Some(tiny) = &self.extras.tiny {
            return Ok(evaluation(Part::Decoder, || tiny.decode(latents)));
        }
        let latents = self.autoencoder.from_diffusion(latents);
        Ok(match self.economy.bands {
            Some(bands) => self.autoencoder.decode_by_bands(latents, bands)?,
            None => self.autoencoder.decode(latents),
        })
    }

    /// Latents `[n, c, h, w]` as the autoencoder has them, before they are scaled for the U-Net.
    ///
    /// # Errors
    /// [`Error::Request`] if the latents have other channels than this autoencoder.
    pub fn unscaled(&self, latents: &Latents) -> Result<Latents, Error> {
        self.check_channels(latents.array())?;
        let tensor = self
            .compute
            .tensor(latents.values().to_vec(), latents.shape());
        let (values, shape) = to_host(self.autoencoder.from_diffusion(tensor));
        let fault = || Error::Request("the autoencoder changed the latents' shape".to_owned());
        Latents::new(values, shape).ok_or_else(fault)
    }

    fn check_channels(&self, latents: &Array) -> Result<(), Error> {
        let (found, needed) = (latents.dim().1, self.autoencoder.latent_channels());
        if found == needed {
            return Ok(());
        }
        Err(Error::Request(format!(
            "the latents have {found} channels, and this autoencoder has {needed}; they belong to another model"
        )))
    }

    /// Pixels per latent, in each direction.
    #[must_use]
    pub fn downsampling(&self) -> usize {
        self.autoencoder.downsampling()
    }

    /// Height and width of the pictures the model was trained on.
    #[must_use]
    pub fn size(&self) -> [usize; 2] {
        [self.unet.config().sample_size * self.downsampling(); 2]
    }

    /// The device in words: `cpu` with its instruction set, or the card's name.
    #[must_use]
    pub fn device_name(&self) -> &str {
        &self.device_name
    }

    /// How products are computed.
    #[must_use]
    pub fn precision(&self) -> Precision {
        self.compute.precision
    }

    /// The folder's or file's name, or `built-in`.
    #[must_use]
    pub fn model_name(&self) -> &str {
        &self.model_name
    }

    /// What open settings of a request become.
    #[must_use]
    pub fn defaults(&self) -> &Defaults {
        &self.defaults
    }

    /// What the folder says of the noise that the model was trained on.
    #[must_use]
    pub fn scheduler(&self) -> &SchedulerConfig {
        &self.scheduler
    }

    /// The words that the model learned from; `None` if its folder has no list of them, or something was laid over the
    /// model that may have taught it others.
    #[must_use]
    pub fn vocabulary(&self) -> Option<&Vocabulary> {
        let own = self.extras.names.iter().all(|name| name == FEW_STEPS);
        self.vocabulary.as_ref().filter(|_| own)
    }

    /// What cuts the words, for models that are told words.
    #[must_use]
    pub fn tokenizer(&self) -> Option<&ClipTokenizer> {
        let second = self.sdxl.as_ref().map(|sdxl| &sdxl.text_2);
        self.text.as_ref().or(second).map(|text| &text.tokenizer)
    }

    /// The autoencoder.
    #[must_use]
    pub fn autoencoder(&self) -> &Autoencoder {
        &self.autoencoder
    }

    /// The U-Net.
    #[must_use]
    pub fn unet(&self) -> &UNet2dCondition {
        &self.unet
    }

    /// The second text encoder and its tokenizer, for Stable Diffusion XL; its refiner has no first one.
    #[must_use]
    pub fn second_text(&self) -> Option<(&ClipTextModel, &ClipTokenizer)> {
        let text = &self.sdxl.as_ref()?.text_2;
        Some((&text.encoder, &text.tokenizer))
    }

    /// The text encoders with their tokenizers, in the order in which their states lie side by side.
    #[must_use]
    pub fn texts(&self) -> Vec<(&ClipTextModel, &ClipTokenizer)> {
        let second = self.sdxl.iter().map(|sdxl| &sdxl.text_2);
        let all = self.text.iter().chain(second);
        all.map(|text| (&text.encoder, &text.tokenizer)).collect()
    }

    /// The text encoder, for models that are told words.
    #[must_use]
    pub fn text_encoder(&self) -> Option<&ClipTextModel> {
        self.text.as_ref().map(|text| &text.encoder)
    }

    /// How well the LoRAs that were merged in fit the model, in their order.
    #[must_use]
    pub fn lora_reports(&self) -> &[LoraReport] {
        &self.extras.loras
    }

    /// Where and how exactly it computes.
    #[must_use]
    pub fn compute(&self) -> &Compute {
        &self.compute
    }

    /// What the model is told of the picture.
    #[must_use]
    pub fn conditioning(&self) -> Conditioning {
        let reads = self.text.is_some() || self.sdxl.is_some();
        match (reads, self.unet.config().num_class_embeds) {
            (true, _) => Conditioning::Text,
            (false, Some(count)) => Conditioning::Class { count },
            (false, None) => Conditioning::None,
        }
    }
}

/// An error if a value is infinite or not a number.
pub(crate) fn finite(values: &[f32], what: &'static str) -> Result<(), Error> {
    // What a rehearsal gives means nothing.
    if rehearsing() || values.iter().all(|value| value.is_finite()) {
        Ok(())
    } else {
        Err(Error::NotFinite { what })
    }
}
