//! What is laid over a model when it is opened: LoRAs, embeddings, other parts, ControlNets, pictures to look at.

use std::path::{Path, PathBuf};

use latent_formats::Picture;
use latent_models::{
    ClipTextModel, ClipTokenizer, ControlNet, Embedding, Lora, LoraReport, ModelFolder, Strength,
    TinyDecoder,
};
use latent_nn::Compute;

use crate::Error;
use crate::defaults::{Defaults, FewSteps};
use crate::image_prompts::{ImagePrompts, Shown};
use crate::named::Names;
use crate::pipeline::Builder;

/// The parts of a model that another file can stand in for.
pub const PARTS: [&str; 4] = ["unet", "vae", "text_encoder", "text_encoder_2"];

/// When the LoRA that a model has for few steps is laid over it.
#[derive(Clone, Copy, Debug, Default)]
enum FewStepsWhen {
    #[default]
    Never,
    /// Where the model's folder says that this is its default.
    Default,
    Always,
}

/// What the caller named.
#[derive(Clone, Debug, Default)]
pub(crate) struct Adapters {
    few_steps: FewStepsWhen,
    loras: Vec<(PathBuf, Strength)>,
    strict: bool,
    embeddings: Vec<(PathBuf, Option<String>)>,
    parts: Vec<(String, PathBuf)>,
    averaged: bool,
    tiny: Option<PathBuf>,
    controls: Vec<Control>,
    pub(crate) image_prompts: ImagePrompts,
}

/// A picture that steers through a ControlNet.
#[derive(Clone, Debug)]
pub struct Control {
    /// A folder of a `ControlNetModel`, or a file of one in diffusers' or its authors' layout.
    pub model: PathBuf,
    /// What the ControlNet looks at, such as edges; stretched to the size of the drawing.
    pub picture: Picture,
    /// Share of what it adds; 1 as it was trained.
    pub strength: f32,
    /// The share of the steps, 0 to 1, that is done before it begins.
    pub start: f64,
    /// The share of the steps that is done when it ends.
    pub end: f64,
    /// It leads without words: it sees the wanted half of guidance only, and coarse layers lead more than fine ones.
    ///
    /// Source: Zhang et al. 2023 (arXiv:2302.05543), "guess mode"; diffusers' `guess_mode`.
    pub guess: bool,
}

impl Control {
    /// Steers in full strength from the first step to the last.
    pub fn new(model: impl Into<PathBuf>, picture: Picture) -> Self {
        Self {
            model: model.into(),
            picture,
            strength: 1.0,
            start: 0.0,
            end: 1.0,
            guess: false,
        }
    }

    fn check(&self) -> Result<(), Error> {
        let refuse = |what: String| Err(Error::Request(what));
        if !self.strength.is_finite() {
            return refuse(format!(
                "the strength of a ControlNet is {}; it must be a number such as 0.8",
                self.strength
            ));
        }
        let (start, end) = (self.start, self.end);
        if !(0.0..=1.0).contains(&start) || !(0.0..=1.0).contains(&end) || start >= end {
            return refuse(format!(
                "a ControlNet steers from {start} to {end} of the steps; both go from 0 to 1, the start before the end"
            ));
        }
        Ok(())
    }
}

/// What a pipeline has beside its model.
#[derive(Debug, Default)]
pub(crate) struct Extras {
    pub(crate) tiny: Option<TinyDecoder>,
    /// The decoder is one that the caller named, so that it also decodes what a refiner finished.
    pub(crate) decodes: bool,
    pub(crate) controls: Vec<(ControlNet, Control)>,
    /// Pictures that are looked at beside the words.
    pub(crate) shown: Vec<Shown>,
    pub(crate) loras: Vec<LoraReport>,
    /// The names of all that was laid over the model, for a picture's settings.
    pub(crate) names: Vec<String>,
}

/// A file's name without its ending.
pub(crate) fn stem(path: &Path) -> String {
    path.file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// How a picture's settings name the model's own LoRA for few steps.
pub(crate) const FEW_STEPS: &str = "few steps";

/// A LoRA as a picture's settings name it; the text encoder's strength only where it is another.
fn lora_title(path: &Path, strength: Strength) -> String {
    let Strength { unet, text } = strength;
    if unet.to_bits() == text.to_bits() {
        format!("lora {}:{unet}", stem(path))
    } else {
        format!("lora {}:{unet}:{text}", stem(path))
    }
}

impl Builder {
    /// Merges a LoRA, LoHa, LoKr or DoRA into the weights with `strength`; 1 is as it was trained. Several are merged
    /// in their order.
    #[must_use]
    pub fn lora(self, file: impl Into<PathBuf>, strength: f32) -> Self {
        self.lora_with(file, Strength::all(strength))
    }

    /// Draws in few steps without guidance: with the LoRA that the model's folder has for that, and the steps it needs. A
    /// request's own steps and guidance still count.
    #[must_use]
    pub fn few_steps(mut self) -> Self {
        self.adapters.few_steps = FewStepsWhen::Always;
        self
    }

    /// [`Builder::few_steps`] where the model's folder says that this is its default, as the built-in one's does.
    #[must_use]
    pub fn few_steps_by_default(mut self) -> Self {
        self.adapters.few_steps = FewStepsWhen::Default;
        self
    }

    /// [`Builder::lora`] with a strength of its own for the text encoder.
    #[must_use]
    pub fn lora_with(mut self, file: impl Into<PathBuf>, strength: Strength) -> Self {
        self.adapters.loras.push((file.into(), strength));
        self
    }

    /// Refuses LoRAs of which a tensor has no place in the model; else the rest is merged, and told of.
    #[must_use]
    pub fn strict(mut self) -> Self {
        self.adapters.strict = true;
        self
    }

    /// Adds the word of a textual inversion; `token` is what prompts call it, else what the file says, else the
    /// file's name.
    #[must_use]
    pub fn embedding(mut self, file: impl Into<PathBuf>, token: Option<String>) -> Self {
        self.adapters.embeddings.push((file.into(), token));
        self
    }

    /// Takes `part` (see [`PARTS`]) from another folder or file.
    #[must_use]
    pub fn part(mut self, part: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        self.adapters.parts.push((part.into(), path.into()));
        self
    }

    /// Takes the moving average of a checkpoint's U-Net in the place of its U-Net.
    #[must_use]
    pub fn averaged(mut self) -> Self {
        self.adapters.averaged = true;
        self
    }

    /// Decodes with a tiny autoencoder (TAESD): a folder of an `AutoencoderTiny`, or a file of its decoder.
    #[must_use]
    pub fn tiny_decoder(mut self, path: impl Into<PathBuf>) -> Self {
        self.adapters.tiny = Some(path.into());
        self
    }

    /// Steers by a picture; several add up.
    #[must_use]
    pub fn control(mut self, control: Control) -> Self {
        self.adapters.controls.push(control);
        self
    }
}

impl Adapters {
    /// The folder with other parts in it and LoRAs merged in; what else it finds goes into `extras`.
    pub(crate) fn over(
        &self,
        mut folder: ModelFolder,
        (names, defaults): (&Names, &Defaults),
        extras: &mut Extras,
    ) -> Result<ModelFolder, Error> {
        if self.averaged {
            folder = folder.with_averaged_unet()?;
            extras.names.push("moving average".to_owned());
        }
        for (part, path) in &self.parts {
            if !PARTS.contains(&part.as_str()) {
                return Err(Error::Request(format!(
                    "`{part}` is no part that can be replaced; {} can",
                    PARTS.join(", ")
                )));
            }
            folder = folder.with_part(part, &names.follow(path, Some(part))?)?;
            extras.decodes |= part == "vae";
            extras.names.push(format!("{part} {}", stem(path)));
        }
        let mut loras = Vec::new();
        if self.draws_in_few_steps(defaults) {
            loras.push((FewSteps::lora_of(&folder, defaults)?, Strength::all(1.0)));
            extras.names.push(FEW_STEPS.to_owned());
        }
        for (path, strength) in &self.loras {
            if !(strength.unet.is_finite() && strength.text.is_finite()) {
                return Err(Error::Request(format!(
                    "the strength of `{}` is no number; write one as 0.8",
                    path.display()
                )));
            }
            extras.names.push(lora_title(path, *strength));
            loras.push((Lora::open(&names.follow(path, None)?)?, *strength));
        }
        if loras.is_empty() {
            return Ok(folder);
        }
        let (folder, reports) = Lora::merge(&loras, folder)?;
        if let Some(warning) = reports.iter().find_map(LoraReport::warning)
            && self.strict
        {
            return Err(Error::Request(warning));
        }
        extras.loras = reports;
        Ok(folder)
    }

    /// Whether a model with such defaults is to draw in few steps.
    pub(crate) fn draws_in_few_steps(&self, defaults: &Defaults) -> bool {
        match self.few_steps {
            FewStepsWhen::Never => false,
            FewStepsWhen::Default => defaults.likes_few_steps(),
            FewStepsWhen::Always => true,
        }
    }

    /// Text encoders, each with its tokenizer, with the words of the embeddings.
    pub(crate) fn words(
        &self,
        texts: [Option<(ClipTextModel, ClipTokenizer)>; 2],
        names: &Names,
        extras: &mut Extras,
    ) -> Result<[Option<(ClipTextModel, ClipTokenizer)>; 2], Error> {
        if self.embeddings.is_empty() {
            return Ok(texts);
        }
        if texts.iter().all(Option::is_none) {
            return Err(Error::Request(
                "this model reads no words, so an embedding has no place in it; leave it out"
                    .into(),
            ));
        }
        let mut embeddings = Vec::new();
        for (path, token) in &self.embeddings {
            let file = names.follow(path, None)?;
            let embedding = Embedding::open(&file, token.as_deref())?;
            extras
                .names
                .push(format!("embedding {}", embedding.token()));
            embeddings.push(embedding);
        }
        let [first, second] = texts.map(|text| {
            let with = |text| with_words(text, &embeddings);
            text.map(with).transpose()
        });
        Ok([first?, second?])
    }

    /// The networks beside the model.
    pub(crate) fn networks(
        &self,
        folder: &ModelFolder,
        (compute, names): (&Compute, &Names),
        extras: &mut Extras,
    ) -> Result<(), Error> {
        if let Some(path) = &self.tiny {
            let decoder = TinyDecoder::load(&names.follow(path, None)?, compute)?;
            let config = decoder.config();
            let (found, needed) = (config.latent_channels, folder.unet_config().in_channels);
            if found != needed
                || 1 << (config.num_decoder_blocks.len() - 1) != folder.downsampling()
            {
                return Err(Error::Request(format!(
                    "`{}` decodes latents of {found} channels, and this model's have {needed}; it belongs to another \
                     kind of model",
                    path.display()
                )));
            }
            extras.names.push(format!("taesd {}", stem(path)));
            (extras.tiny, extras.decodes) = (Some(decoder), true);
        }
        for control in &self.controls {
            control.check()?;
            let model = names.follow(&control.model, None)?;
            let network = ControlNet::load(&model, folder.unet_config(), compute)?;
            if network.downsampling() != folder.downsampling() {
                return Err(Error::Request(format!(
                    "`{}` looks at pictures {} times the size of its latents, and this model's are {} times; it belongs \
                     to another kind of model",
                    control.model.display(),
                    network.downsampling(),
                    folder.downsampling()
                )));
            }
            extras.names.push(format!(
                "control {}:{}",
                stem(&control.model),
                control.strength
            ));
            extras.controls.push((network, control.clone()));
        }
        let shown = self.image_prompts.shown(folder, (compute, names))?;
        let (shown, titles): (Vec<_>, Vec<_>) = shown.into_iter().unzip();
        extras.shown = shown;
        extras.names.extend(titles);
        Ok(())
    }
}

/// A text encoder and its tokenizer with the words of `embeddings`.
fn with_words(
    (encoder, mut tokenizer): (ClipTextModel, ClipTokenizer),
    embeddings: &[Embedding],
) -> Result<(ClipTextModel, ClipTokenizer), Error> {
    let width = encoder.config().hidden_size;
    let mut all = Vec::new();
    for embedding in embeddings {
        let vectors = embedding.vectors(width)?;
        tokenizer = tokenizer.with_word(embedding.token(), vectors.len() / width)?;
        all.extend_from_slice(vectors);
    }
    // Ids of added words follow the tokenizer's, which may be fewer than the encoder's rows.
    let count = tokenizer.vocab_size();
    Ok((encoder.with_added_vectors(&all, count), tokenizer))
}

/// The LoRAs that a prompt names as A1111 does, `<lora:NAME>`, `<lora:NAME:STRENGTH>` or
/// `<lora:NAME:UNET:TEXT_ENCODER>`, and the prompt without them.
///
/// # Errors
/// [`Error::Request`] if a strength is no number.
pub fn loras_in_prompt(prompt: &str) -> Result<(String, Vec<(String, Strength)>), Error> {
    let (mut rest, mut words, mut found) = (prompt, String::new(), Vec::new());
    while let Some(start) = rest.find("<lora:") {
        let inside = &rest[start + "<lora:".len()..];
        let Some(end) = inside.find('>') else { break };
        let mut parts = inside[..end].split(':');
        let name = parts.next().unwrap_or_default().trim().to_owned();
        let numbers: Result<Vec<f32>, _> = parts.map(|part| part.trim().parse::<f32>()).collect();
        let strength = match numbers.as_deref() {
            Ok([]) => Strength::all(1.0),
            Ok([strength]) => Strength::all(*strength),
            Ok([unet, text]) => Strength {
                unet: *unet,
                text: *text,
            },
            _ => {
                return Err(Error::Request(format!(
                    "`<lora:{}>` is not understood; write it as <lora:NAME:0.8>",
                    &inside[..end]
                )));
            }
        };
        found.push((name, strength));
        words.push_str(&rest[..start]);
        rest = &inside[end + 1..];
    }
    words.push_str(rest);
    if found.is_empty() {
        return Ok((prompt.to_owned(), found));
    }
    let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
    Ok((words, found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loras_of_a_prompt_are_taken_out_with_their_strengths() {
        let (words, found) =
            loras_in_prompt("a fox <lora:snow:0.8> in the <lora:my style:1:0.5>snow<lora:x>")
                .unwrap();
        assert_eq!(words, "a fox in the snow");
        let expected = [
            ("snow".to_owned(), Strength::all(0.8)),
            (
                "my style".to_owned(),
                Strength {
                    unet: 1.0,
                    text: 0.5,
                },
            ),
            ("x".to_owned(), Strength::all(1.0)),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_prompt_without_loras_stays_as_it_is_and_a_strength_that_is_no_number_is_refused() {
        let (words, found) = loras_in_prompt("a  fox <lora").unwrap();
        assert_eq!((words.as_str(), found.len()), ("a  fox <lora", 0));
        let message = loras_in_prompt("<lora:a:b>").unwrap_err().to_string();
        assert!(message.contains("<lora:a:b>"), "{message}");
    }
}
