//! Pictures that a U-Net looks at as it looks at words, through IP-Adapters.

use std::path::{Path, PathBuf};

use burn::tensor::Tensor;
use latent_formats::Picture;
use latent_models::{ClipVisionModel, Conditioning, Context, IpAdapter, ModelFolder};
use latent_nn::Compute;

use crate::Error;
use crate::adapters::stem;
use crate::named::Names;
use crate::pipeline::Builder;
use crate::steering::is_active;

/// Pictures to look at, and the IP-Adapter that makes a U-Net look.
#[derive(Clone, Debug)]
pub struct ImagePrompt {
    /// The adapter's file, in the layout of its authors.
    pub adapter: PathBuf,
    /// One or more pictures; of each the middle is seen.
    pub pictures: Vec<Picture>,
    /// Share of what is found in the pictures; 1 as much as in the words.
    pub strength: f32,
    /// The share of the steps, 0 to 1, that is done before they are looked at.
    pub start: f64,
    /// The share of the steps that is done when they no longer are.
    pub end: f64,
}

impl ImagePrompt {
    /// Looked at in full strength from the first step to the last.
    pub fn new(adapter: impl Into<PathBuf>, pictures: Vec<Picture>) -> Self {
        Self {
            adapter: adapter.into(),
            pictures,
            strength: 1.0,
            start: 0.0,
            end: 1.0,
        }
    }

    fn check(&self) -> Result<(), Error> {
        let refuse = |what: String| Err(Error::Request(what));
        if !self.strength.is_finite() {
            return refuse(format!(
                "the strength of an IP-Adapter is {}; it must be a number such as 0.6",
                self.strength
            ));
        }
        let (start, end) = (self.start, self.end);
        if !(0.0..=1.0).contains(&start) || !(0.0..=1.0).contains(&end) || start >= end {
            return refuse(format!(
                "an IP-Adapter looks from {start} to {end} of the steps; both go from 0 to 1, the start before the end"
            ));
        }
        if self.pictures.is_empty() {
            return refuse(format!(
                "the IP-Adapter `{}` has no picture to look at; give it one with `--ip-image`",
                self.adapter.display()
            ));
        }
        Ok(())
    }

    /// As a picture's settings name it; the window only where it is not the whole run.
    fn title(&self) -> String {
        let (start, end) = (self.start, self.end);
        let name = format!("ip-adapter {}:{}", stem(&self.adapter), self.strength);
        if start == 0.0 && end == 1.0 {
            name
        } else {
            format!("{name} from {start} to {end}")
        }
    }
}

impl Builder {
    /// Has the U-Net look at pictures beside the words; several add up.
    #[must_use]
    pub fn image_prompt(mut self, prompt: ImagePrompt) -> Self {
        self.adapters.image_prompts.prompts.push(prompt);
        self
    }

    /// The encoder that image prompts are seen with: a folder or file of a `CLIPVisionModelWithProjection`. Left open, the
    /// folder `image_encoder` beside the adapter.
    #[must_use]
    pub fn image_encoder(mut self, path: impl Into<PathBuf>) -> Self {
        self.adapters.image_prompts.encoder = Some(path.into());
        self
    }
}

/// What the caller named.
#[derive(Clone, Debug, Default)]
pub(crate) struct ImagePrompts {
    prompts: Vec<ImagePrompt>,
    encoder: Option<PathBuf>,
}

/// Pictures as a U-Net looks at them.
#[derive(Debug)]
pub(crate) struct Shown {
    adapter: IpAdapter,
    /// Those that are wanted, and those from which guidance moves away: `[1, t, c]`.
    tokens: [Tensor<3>; 2],
    strength: f32,
    window: [f64; 2],
}

impl ImagePrompts {
    /// The pictures of all prompts as the U-Net of `folder` looks at them, and how settings name them. Encoders are put
    /// away once they have seen them.
    pub(crate) fn shown(
        &self,
        folder: &ModelFolder,
        (compute, names): (&Compute, &Names),
    ) -> Result<Vec<(Shown, String)>, Error> {
        if self.prompts.is_empty() && self.encoder.is_some() {
            return Err(Error::Request(
                "an image encoder is named, and no IP-Adapter that reads it; name one with `--ip-adapter`, or leave it out".into(),
            ));
        }
        if !self.prompts.is_empty() && folder.conditioning() != Conditioning::Text {
            return Err(Error::Request(
                "this model reads no words, so an IP-Adapter has no place in it; leave it out"
                    .into(),
            ));
        }
        // Embeddings are not made of bytes, as texts' are not.
        let compute = &compute.floating();
        let mut open: Option<(PathBuf, ClipVisionModel)> = None;
        let mut shown = Vec::new();
        for prompt in &self.prompts {
            prompt.check()?;
            let file = names.follow(&prompt.adapter, None)?;
            let adapter = IpAdapter::load(&file, folder.unet_config(), compute)?;
            let place = self.encoder_of(&file, names)?;
            if open.as_ref().is_none_or(|(known, _)| *known != place) {
                open = Some((place.clone(), ClipVisionModel::load(&place, compute)?));
            }
            let Some((_, encoder)) = &open else { continue };
            if let Some(reason) = adapter.misfit(encoder.config()) {
                return Err(Error::Request(format!("`{}` {reason}", file.display())));
            }
            let pixels = prompt.pictures.iter();
            let pixels: Result<Vec<_>, _> =
                pixels.map(|one| encoder.pixels(one, compute)).collect();
            let shown_one = Shown {
                tokens: adapter.tokens(encoder, &pixels?),
                adapter,
                strength: prompt.strength,
                window: [prompt.start, prompt.end],
            };
            shown.push((shown_one, prompt.title()));
        }
        Ok(shown)
    }

    /// Where the encoder of an adapter's file is.
    fn encoder_of(&self, adapter: &Path, names: &Names) -> Result<PathBuf, Error> {
        if let Some(path) = &self.encoder {
            return names.follow(path, Some("image_encoder"));
        }
        let beside = adapter.with_file_name("image_encoder");
        if beside.is_dir() {
            return Ok(beside);
        }
        Err(Error::Request(format!(
            "the IP-Adapter `{}` reads what an image encoder makes of pictures, and none is named; name the folder or file of \
             the `CLIPVisionModelWithProjection` that it was trained with by `--image-encoder`, as \
             `h94/IP-Adapter/models/image_encoder/model.safetensors` of the hub, or put its folder `image_encoder` beside the \
             adapter",
            adapter.display()
        )))
    }
}

/// The context with all pictures in it, for so many unwanted rows and the wanted ones after them.
pub(crate) fn looking_at(
    shown: &[Shown],
    context: Context,
    [unwanted, wanted]: [usize; 2],
) -> Context {
    shown.iter().fold(context, |context, one| {
        let [seen, nothing] = &one.tokens;
        let rows = [(nothing, unwanted), (seen, wanted)];
        let rows = rows.into_iter().filter(|(_, count)| *count > 0);
        let tokens = rows.map(|(tokens, count)| tokens.clone().repeat(&[count, 1, 1]));
        context.with_picture(&one.adapter, &Tensor::cat(tokens.collect(), 0))
    })
}

/// How strongly each is looked at in the evaluation `call` of so many.
pub(crate) fn shares(shown: &[Shown], call: usize, calls: usize) -> Vec<f32> {
    let share = |one: &Shown| match is_active(one.window, call, calls) {
        true => one.strength,
        false => 0.0,
    };
    shown.iter().map(share).collect()
}
