//! How a picture says it was made: the settings that image tools write into their pictures, as a request.
//!
//! A1111 and what grew from it write a text for people, ComfyUI the graph that it ran, InvokeAI its own JSON; Latent
//! writes A1111's text. What a request of ours has no word for is kept as a sentence, so that nothing is passed over.

mod a1111;
mod comfyui;
mod invokeai;

use std::fmt;
use std::path::Path;

use latent_formats::{FormatError, Picture};
use latent_sampling::Compat;

use crate::{Error, Request};

/// The program that wrote a picture's settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// This one.
    Latent,
    /// A1111, Forge and others that write its text.
    A1111,
    /// ComfyUI.
    ComfyUi,
    /// InvokeAI.
    InvokeAi,
}

impl Tool {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Latent => "Latent",
            Self::A1111 => "A1111",
            Self::ComfyUi => "ComfyUI",
            Self::InvokeAi => "InvokeAI",
        }
    }
}

/// A model as a picture names it, which is not where it lies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamedModel {
    /// The file's name, mostly without its ending.
    pub name: String,
    /// The first digits of the file's SHA-256, where the tool wrote them.
    pub hash: Option<String>,
}

/// A LoRA as a picture names it.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedLora {
    /// The file's name without its ending.
    pub name: String,
    /// Its strength in the U-Net.
    pub unet: f32,
    /// Its strength in the text encoder.
    pub text: f32,
}

/// Something of a picture's settings that the request does not say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmatched {
    /// What it is.
    pub what: String,
    /// The flag of `latent generate` that can say it.
    pub flag: Option<&'static str>,
}

impl fmt::Display for Unmatched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match self.flag {
            Some(flag) => write!(f, "; give it with `--{flag}`"),
            None => Ok(()),
        }
    }
}

/// What a picture says of how it was made.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// Who wrote it.
    pub tool: Tool,
    /// What can be asked for again.
    pub request: Request,
    /// The model that it was drawn with; the one inside the program is `built-in`.
    pub model: Option<NamedModel>,
    /// Whether it drew in few steps, with the LoRA that its folder has for that.
    pub few_steps: bool,
    /// What was merged into it.
    pub loras: Vec<NamedLora>,
    /// How products were computed, as `--precision` has it; Latent's pictures say it.
    pub precision: Option<String>,
    /// What the request does not say.
    pub unmatched: Vec<Unmatched>,
}

impl Recipe {
    /// Reads the settings of a picture; `name` stands for it in messages.
    ///
    /// # Errors
    /// [`Error::Format`] if it holds none that are understood.
    pub fn read(picture: &Picture, name: &Path) -> Result<Self, Error> {
        let text = |key: &str| {
            let found = picture.text().iter().find(|(known, _)| known == key);
            found.map(|(_, text)| text.as_str())
        };
        let refuse = |reason: &str| {
            Err(Error::Format(FormatError::Picture {
                path: name.to_path_buf(),
                reason: reason.to_owned(),
            }))
        };
        let (graph, parameters) = (text("prompt"), text("parameters"));
        // A graph says more than the text that some nodes write beside it, where it can be followed.
        let followed = match (text("invokeai_metadata"), graph) {
            (Some(json), _) => invokeai::read(json),
            (None, Some(json)) => comfyui::read(json),
            (None, None) => Err(String::new()),
        };
        let noted = |mut recipe: Self| {
            recipe.follow_the_tool();
            Ok(recipe)
        };
        match (followed, parameters) {
            (Ok(recipe), _) => noted(recipe),
            (Err(_), Some(text)) if a1111::is_text(text) => noted(a1111::read(text)),
            (Err(_), Some(text)) if text.trim_start().starts_with('{') => refuse(
                "it holds the settings of a tool that is not known here; A1111's, ComfyUI's, InvokeAI's and Latent's are",
            ),
            (Err(reason), _) if !reason.is_empty() => refuse(&reason),
            _ => refuse(
                "it holds no settings of A1111, ComfyUI, InvokeAI or Latent; services that pictures are sent through mostly \
                 remove them, so take the file as the tool wrote it",
            ),
        }
    }

    fn new(tool: Tool) -> Self {
        Self {
            tool,
            request: Request::default(),
            model: None,
            few_steps: false,
            loras: Vec::new(),
            precision: None,
            unmatched: Vec::new(),
        }
    }

    fn note(&mut self, what: impl Into<String>) {
        self.unmatched.push(Unmatched {
            what: what.into(),
            flag: None,
        });
    }

    fn wants(&mut self, what: impl Into<String>, flag: &'static str) {
        self.unmatched.push(Unmatched {
            what: what.into(),
            flag: Some(flag),
        });
    }

    /// Takes the LoRAs out of the prompt, as A1111 writes them.
    fn take_prompted_loras(&mut self) {
        match crate::loras_in_prompt(&self.request.prompt) {
            Ok((prompt, loras)) => {
                self.request.prompt = prompt;
                let named = loras.into_iter().map(|(name, strength)| NamedLora {
                    name,
                    unet: strength.unet,
                    text: strength.text,
                });
                self.loras.extend(named);
            }
            Err(error) => self.note(error.to_string()),
        }
    }
}

impl Recipe {
    /// Follows the tool where programs differ, and says which marks of its prompts are read as plain words here.
    fn follow_the_tool(&mut self) {
        match self.tool {
            Tool::A1111 => self.request.compat = Compat::A1111,
            Tool::ComfyUi => self.request.compat = Compat::ComfyUi,
            Tool::InvokeAi => {
                let words = [&self.request.prompt, &self.request.negative_prompt];
                if words.iter().any(|words| words.contains('+')) {
                    self.note("the weights of words in the prompt, whose marks are read as words");
                }
            }
            Tool::Latent => {}
        }
    }
}

/// A file's name without folders and the endings of weights, as tools of every system write it.
pub fn bare_name(path: &str) -> String {
    let path = path.trim_end_matches(['/', '\\']);
    let name = path.rsplit(['/', '\\']).next().unwrap_or(path);
    let known = ["safetensors", "ckpt", "pt", "pth", "bin"];
    match name.rsplit_once('.') {
        Some((stem, ending)) if known.contains(&ending) => stem.to_owned(),
        _ => name.to_owned(),
    }
}
