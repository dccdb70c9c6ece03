//! Draws what the lesson shows, and keeps it until all is drawn.

use std::fmt::Write as _;
use std::ops::ControlFlow;

use latent::{Latents, Picture, PictureFormat, Pipeline, Precision, Request};

use super::page::{Both, Figure, Image};
use crate::args::{Model, PredictionFlag};
use crate::commands::open;
use crate::fault::Fault;
use crate::stop;
use crate::terminal::{Meter, Terminal};

/// Steps of a quick demo.
const QUICK_STEPS: usize = 4;
/// Longest side of a picture on the page, in pixels; a click of the browser shows the rest.
const LONGEST: usize = 256;
/// Side of a tile of latents on the page.
const TILE: usize = 96;

/// A pipeline that remembers what it drew.
pub(super) struct Studio<'a> {
    pub(super) pipeline: &'a Pipeline,
    /// Flags that name the model, for the commands.
    flags: String,
    quick: bool,
    meter: Meter,
    /// What is done, and how much there is to do.
    count: [u64; 2],
    files: Vec<(String, Vec<u8>)>,
}

/// A picture and the latents it was decoded from.
pub(super) struct Drawn {
    pub(super) picture: Picture,
    pub(super) latents: Latents,
    /// Every evaluation of the network.
    pub(super) moments: Vec<Moment>,
}

/// Where a run stood after an evaluation of the network.
pub(super) struct Moment {
    pub(super) timestep: f64,
    pub(super) latents: Latents,
    pub(super) denoised: Latents,
}

impl<'a> Studio<'a> {
    pub(super) fn new(
        pipeline: &'a Pipeline,
        model: &Model,
        quick: bool,
        terminal: &Terminal,
    ) -> Self {
        Self {
            pipeline,
            flags: flags(model),
            quick,
            meter: terminal.meter("parts"),
            count: [0, 1],
            files: Vec::new(),
        }
    }

    /// Says how much there is to do.
    pub(super) fn begin(&mut self, total: usize) {
        self.count = [0, total as u64];
        self.meter.at(0, total as u64);
    }

    /// Says that another part of it is done.
    pub(super) fn done(&mut self) {
        self.count[0] += 1;
        self.meter.at(self.count[0], self.count[1]);
    }

    /// How many: `few` in a quick demo, else `many`.
    pub(super) fn few(&self, few: usize, many: usize) -> usize {
        if self.quick { few.min(many) } else { many }
    }

    /// Whether the model may know every word, as far as it lists them.
    pub(super) fn knows(&self, prompt: &str) -> bool {
        let vocabulary = self.pipeline.vocabulary();
        vocabulary.is_none_or(|vocabulary| vocabulary.unknown(prompt).is_empty())
    }

    /// Something that the model lists.
    pub(super) fn surprise(&self, number: u64, korean: bool) -> Option<String> {
        self.pipeline.vocabulary()?.surprise(number, korean)
    }

    /// A request with the model's own settings, or a quick demo's.
    pub(super) fn request(&self, prompt: impl Into<String>, seed: u64) -> Request {
        Request {
            steps: self.quick.then_some(QUICK_STEPS),
            ..Request::new(prompt).seed(seed)
        }
    }

    /// Draws a request of one picture.
    ///
    /// # Errors
    /// When the pipeline cannot, or Ctrl-C was pressed.
    pub(super) fn draw(&self, request: &Request) -> Result<Drawn, Fault> {
        let mut moments = Vec::new();
        let generated = self.pipeline.generate_with(request, |progress| {
            moments.push(Moment {
                timestep: progress.timestep,
                latents: progress.latents(),
                denoised: progress.denoised(),
            });
            if stop::asked() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        let generated = match generated {
            Err(latent::Error::Stopped) => return Err(Fault::stopped()),
            generated => generated?,
        };
        let picture = generated.pictures.into_iter().next();
        Ok(Drawn {
            picture: picture.ok_or_else(|| Fault::usage("there is no picture to draw"))?,
            latents: generated.latents,
            moments,
        })
    }

    /// Keeps a picture under `name`, without an ending, as it is shown on the page.
    ///
    /// # Errors
    /// When it cannot be written as PNG.
    pub(super) fn keep(
        &mut self,
        name: impl Into<String>,
        picture: &Picture,
    ) -> Result<Image, Fault> {
        let (width, height) = (picture.width(), picture.height());
        let scale = |side: usize| side * LONGEST / width.max(height).max(LONGEST);
        self.keep_as(name, picture, [scale(width), scale(height)], false)
    }

    /// [`Studio::keep`] of a picture of a pixel a latent, enlarged on the page.
    ///
    /// # Errors
    /// As [`Studio::keep`].
    pub(super) fn keep_tile(
        &mut self,
        name: impl Into<String>,
        tile: &Picture,
    ) -> Result<Image, Fault> {
        let longest = tile.width().max(tile.height());
        let shown = [tile.width(), tile.height()].map(|side| side * TILE / longest);
        self.keep_as(name, tile, shown, true)
    }

    /// [`Studio::keep`] at its full size.
    ///
    /// # Errors
    /// As [`Studio::keep`].
    pub(super) fn keep_whole(
        &mut self,
        name: impl Into<String>,
        picture: &Picture,
    ) -> Result<Image, Fault> {
        self.keep_as(name, picture, [picture.width(), picture.height()], false)
    }

    fn keep_as(
        &mut self,
        name: impl Into<String>,
        picture: &Picture,
        shown: [usize; 2],
        squares: bool,
    ) -> Result<Image, Fault> {
        let file = format!("{}.png", name.into());
        self.files
            .push((file.clone(), picture.encode(PictureFormat::Png)?));
        Ok(Image {
            file,
            shown,
            squares,
        })
    }

    /// Draws a request, keeps its picture under `name`, and tells the command.
    ///
    /// # Errors
    /// As [`Studio::draw`].
    pub(super) fn figure(
        &mut self,
        name: String,
        request: &Request,
        caption: Both,
    ) -> Result<Figure, Fault> {
        let drawn = self.draw(request)?;
        self.figure_of(name, &drawn, request, caption)
    }

    /// [`Studio::figure`] of what was drawn already.
    ///
    /// # Errors
    /// As [`Studio::keep`].
    pub(super) fn figure_of(
        &mut self,
        name: String,
        drawn: &Drawn,
        request: &Request,
        caption: Both,
    ) -> Result<Figure, Fault> {
        let image = self.keep(name, &drawn.picture)?;
        Ok(Figure {
            image: [image.clone(), image],
            caption,
            command: Some(self.command(request)),
        })
    }

    /// The command that draws the request.
    pub(super) fn command(&self, request: &Request) -> String {
        let mut line = format!(
            "latent generate {} --seed {}",
            quoted(&request.prompt),
            request.seeds()[0]
        );
        if request.is_open() && self.pipeline.defaults().likes_few_steps() {
            // Pages are drawn with all steps.
            line += " --fast=false";
        }
        let mut flag = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                // Writing into a String cannot fail.
                let _ = write!(line, " --{name} {value}");
            }
        };
        flag("steps", request.steps.map(|steps| steps.to_string()));
        flag(
            "guidance",
            request.guidance.map(|strength| strength.to_string()),
        );
        let negative = Some(&request.negative_prompt).filter(|words| !words.is_empty());
        flag("negative", negative.map(|words| quoted(words)));
        flag(
            "variation-seed",
            request.variation.map(|other| other.seed.to_string()),
        );
        flag(
            "variation-strength",
            request.variation.map(|other| other.strength.to_string()),
        );
        self.with_model(&line)
    }

    /// The command with the flags that name this model.
    pub(super) fn with_model(&self, command: &str) -> String {
        format!("{command}{}", self.flags)
    }

    /// Every picture that was kept, with the name of its file.
    pub(super) fn into_files(self) -> Vec<(String, Vec<u8>)> {
        self.files
    }
}

/// The flags of a model other than the built-in one, and those that change its pictures.
fn flags(model: &Model) -> String {
    let mut flags = Vec::new();
    if let Some(path) = &model.model {
        flags.push(("model", quoted(&path.to_string_lossy())));
    }
    if let Some(path) = &model.config {
        flags.push(("config", quoted(&path.to_string_lossy())));
    }
    let variant = model.source.variant.as_deref();
    flags.extend(variant.map(|name| ("variant", quoted(name))));
    if let Some(kind) = model.prediction {
        let name = match kind {
            PredictionFlag::Epsilon => "epsilon",
            PredictionFlag::V => "v",
        };
        flags.push(("prediction", name.to_owned()));
    }
    let precision = open::precision(model.compute.precision).map(Precision::name);
    flags.extend(precision.map(|name| ("precision", name.to_owned())));
    flags
        .iter()
        .map(|(name, value)| format!(" --{name} {value}"))
        .collect()
}

/// The text as one word of a shell.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for letter in text.chars() {
        if matches!(letter, '"' | '\\' | '$' | '`') {
            out.push('\\');
        }
        out.push(letter);
    }
    out + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_stay_one_word_of_a_shell() {
        assert_eq!(quoted("a red apple"), "\"a red apple\"");
        assert_eq!(quoted("a \"$x\" `y` \\"), "\"a \\\"\\$x\\\" \\`y\\` \\\\\"");
    }
}
