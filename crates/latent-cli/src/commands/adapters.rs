//! The flags that lay something over a model: LoRAs, embeddings, other parts, ControlNets, IP-Adapters.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use latent::models::Strength;
use latent::{Builder, Control, Picture, Pipeline, Request};

use super::image_prompts::ImagePrompts;
use crate::fault::Fault;
use crate::terminal::Terminal;

/// Endings of the files that `--lora-dir` is searched for.
const ENDINGS: [&str; 4] = ["safetensors", "pt", "ckpt", "bin"];
/// Folders within folders that `--lora-dir` is searched to.
const DEPTH: usize = 4;
/// Thresholds of the edges where none are given; those of ControlNet's authors.
const CANNY: [f32; 2] = [100.0, 200.0];

/// What changes the model that is drawn with.
#[derive(Clone, Debug, Default, PartialEq, Args)]
#[command(next_help_heading = "Adapters and parts")]
pub(crate) struct Adapters {
    /// A LoRA, LoHa, LoKr or DoRA to merge in, with its strength and if need be another for the text encoder; repeat
    /// it for several [default strength: 1].
    #[arg(long, value_name = "FILE[:STRENGTH[:TEXT]]")]
    lora: Vec<String>,
    /// The folder of the LoRAs that the prompt names, as in `a fox <lora:snow:0.8>`.
    #[arg(long, value_name = "DIR")]
    lora_dir: Option<PathBuf>,
    /// Refuse a LoRA of which some tensors have no place in the model.
    #[arg(long)]
    strict: bool,
    /// A textual inversion, and what the prompt calls it; repeat it for several [default: the file's own word, else
    /// its name].
    #[arg(long, value_name = "FILE[:TOKEN]")]
    embedding: Vec<String>,
    /// Another autoencoder: a folder in diffusers layout, or a file.
    #[arg(long, value_name = "PATH")]
    vae: Option<PathBuf>,
    /// Another text encoder: a folder in diffusers layout, or a file.
    #[arg(long, value_name = "PATH")]
    text_encoder: Option<PathBuf>,
    /// Another second text encoder, of Stable Diffusion XL: a folder in diffusers layout, or a file.
    #[arg(long, value_name = "PATH")]
    text_encoder_2: Option<PathBuf>,
    /// Another U-Net: a folder in diffusers layout, or a file.
    #[arg(long, value_name = "PATH")]
    unet: Option<PathBuf>,
    /// Draw with the moving average that a checkpoint of one file holds beside its U-Net.
    #[arg(long)]
    ema: bool,
    /// Decode, previews too, with a tiny autoencoder (TAESD): a folder of an `AutoencoderTiny`, or its decoder's file.
    #[arg(long, value_name = "PATH")]
    taesd: Option<PathBuf>,
    /// A ControlNet and the picture it looks at; repeat it for several [default strength: 1].
    #[arg(long, value_name = "MODEL:PICTURE[:STRENGTH]")]
    control: Vec<String>,
    /// Share of the steps, 0 to 1, that is done before ControlNets begin to steer [default: 0].
    #[arg(long, value_name = "X", requires = "control")]
    control_start: Option<f64>,
    /// Share of the steps that is done when they end [default: 1].
    #[arg(long, value_name = "X", requires = "control")]
    control_end: Option<f64>,
    /// ControlNets lead without words ("guess mode"); a guidance of 3 to 5 and an empty prompt suit it.
    #[arg(long, requires = "control")]
    control_guess: bool,
    /// Make the ControlNets' pictures first: `canny` finds edges, between the two thresholds [default: 100,200].
    #[arg(long, value_name = "canny[:LOW,HIGH]", requires = "control", value_parser = preprocessor)]
    control_preprocess: Option<[f32; 2]>,
    #[command(flatten)]
    image_prompts: ImagePrompts,
}

impl Adapters {
    /// Whether nothing is laid over the model.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Takes the LoRAs out of the request's prompt and adds them to those of the flags.
    ///
    /// # Errors
    /// When the prompt names LoRAs and there is no folder to find them in, or none of that name in it.
    pub(crate) fn read_prompt(
        &self,
        request: &mut Request,
    ) -> Result<Vec<(PathBuf, Strength)>, Fault> {
        let (prompt, named) = latent::loras_in_prompt(&request.prompt)?;
        let mut found = Vec::new();
        for (name, strength) in named {
            let Some(folder) = &self.lora_dir else {
                return Err(
                    Fault::usage(format!("the prompt asks for the LoRA `{name}`"))
                        .hint("name the folder it lies in with `--lora-dir DIR`"),
                );
            };
            found.push((lora_file(folder, &name)?, strength));
        }
        request.prompt = prompt;
        Ok(found)
    }

    /// Lays everything over the model to be opened; `prompted` are the LoRAs of the prompt.
    ///
    /// # Errors
    /// When a flag is not understood, or a picture cannot be read.
    pub(crate) fn onto(
        &self,
        mut builder: Builder,
        prompted: &[(PathBuf, Strength)],
    ) -> Result<Builder, Fault> {
        for text in &self.lora {
            let (path, numbers) = numbers_behind(text, 2);
            let strength = match numbers[..] {
                [] => Strength::all(1.0),
                [strength] => Strength::all(strength),
                [unet, text, ..] => Strength { unet, text },
            };
            builder = builder.lora_with(path, strength);
        }
        for (path, strength) in prompted {
            builder = builder.lora_with(path, *strength);
        }
        for text in &self.embedding {
            builder = match text.rsplit_once(':') {
                Some((path, token)) if !Path::new(text).exists() => {
                    builder.embedding(path, Some(token.to_owned()))
                }
                _ => builder.embedding(text, None),
            };
        }
        let parts = [
            ("unet", &self.unet),
            ("vae", &self.vae),
            ("text_encoder", &self.text_encoder),
            ("text_encoder_2", &self.text_encoder_2),
        ];
        for (part, path) in parts {
            if let Some(path) = path {
                builder = builder.part(part, path);
            }
        }
        if self.ema {
            builder = builder.averaged();
        }
        if self.strict {
            builder = builder.strict();
        }
        if let Some(path) = &self.taesd {
            builder = builder.tiny_decoder(path);
        }
        for text in &self.control {
            builder = builder.control(self.control_of(text)?);
        }
        self.image_prompts.onto(builder)
    }

    fn control_of(&self, text: &str) -> Result<Control, Fault> {
        let (rest, strength) = numbers_behind(text, 1);
        let Some((model, picture)) = rest.rsplit_once(':') else {
            return Err(Fault::usage(format!("`--control {text}` names no picture"))
                .hint("write it as MODEL:PICTURE or MODEL:PICTURE:STRENGTH"));
        };
        let mut picture = Picture::open(Path::new(picture))?;
        if let Some([low, high]) = self.control_preprocess {
            picture = picture.canny(low, high)?;
        }
        Ok(Control {
            strength: strength.first().copied().unwrap_or(1.0),
            start: self.control_start.unwrap_or(0.0),
            end: self.control_end.unwrap_or(1.0),
            guess: self.control_guess,
            ..Control::new(model, picture)
        })
    }
}

/// Says how well the LoRAs of an opened model fit.
pub(crate) fn report(pipeline: &Pipeline, terminal: &Terminal) {
    for lora in pipeline.lora_reports() {
        terminal.note(format_args!(
            "lora: {}: {} of {} tensors matched",
            lora.path.display(),
            lora.matched,
            lora.total
        ));
        if let Some(warning) = lora.warning() {
            terminal.warn(&warning);
        }
    }
}

/// The text before at most `most` numbers that stand behind colons, and the numbers.
pub(super) fn numbers_behind(text: &str, most: usize) -> (&str, Vec<f32>) {
    let (mut rest, mut numbers) = (text, Vec::new());
    while numbers.len() < most
        && let Some((before, number)) = rest.rsplit_once(':')
        && let Ok(number) = number.parse()
    {
        numbers.insert(0, number);
        rest = before;
    }
    (rest, numbers)
}

/// `canny` or `canny:LOW,HIGH`.
fn preprocessor(text: &str) -> Result<[f32; 2], String> {
    let wrong =
        || format!("`{text}` is no preprocessor; write canny or canny:LOW,HIGH, as canny:100,200");
    let (name, thresholds) = text
        .split_once(':')
        .map_or((text, None), |(n, t)| (n, Some(t)));
    if name != "canny" {
        return Err(wrong());
    }
    let Some(thresholds) = thresholds else {
        return Ok(CANNY);
    };
    let (low, high) = thresholds.split_once(',').ok_or_else(wrong)?;
    let number = |text: &str| text.trim().parse::<f32>().map_err(|_| wrong());
    let (low, high) = (number(low)?, number(high)?);
    if low.is_finite() && high.is_finite() && low <= high {
        Ok([low, high])
    } else {
        Err(format!(
            "`{text}` has its thresholds in the wrong order; the smaller comes first"
        ))
    }
}

/// The file of a LoRA by its name without an ending.
///
/// # Errors
/// When the folder cannot be read, or holds none of that name.
pub(super) fn lora_file(folder: &Path, name: &str) -> Result<PathBuf, Fault> {
    let mut known = Vec::new();
    gather(folder, DEPTH, &mut known).map_err(|e| {
        Fault::input(format!(
            "cannot read the folder `{}`: {e}",
            folder.display()
        ))
    })?;
    known.sort();
    let stem = |path: &PathBuf| {
        path.file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    if let Some(path) = known.iter().find(|path| stem(path) == name) {
        return Ok(path.clone());
    }
    let mut names: Vec<String> = known.iter().map(stem).collect();
    names.dedup();
    let fault = Fault::input(format!("`{}` holds no LoRA `{name}`", folder.display()));
    Err(if names.is_empty() {
        fault.hint(format!(
            "it holds no file that ends in .{}",
            ENDINGS.join(", .")
        ))
    } else {
        fault.hint(format!("it holds {}", names.join(", ")))
    })
}

fn gather(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() && depth > 0 {
            gather(&path, depth - 1, found)?;
        } else if path
            .extension()
            .is_some_and(|e| ENDINGS.iter().any(|known| e == *known))
        {
            found.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strengths_stand_behind_the_last_colons() {
        assert_eq!(
            numbers_behind("a.safetensors", 2),
            ("a.safetensors", vec![])
        );
        assert_eq!(numbers_behind("a:b.pt:0.5", 2), ("a:b.pt", vec![0.5]));
        assert_eq!(numbers_behind("a.pt:1:0", 2), ("a.pt", vec![1.0, 0.0]));
        assert_eq!(numbers_behind("m:p.png:0.5", 1), ("m:p.png", vec![0.5]));
    }

    #[test]
    fn a_preprocessor_is_canny_with_thresholds_in_their_order() {
        assert_eq!(preprocessor("canny"), Ok([100.0, 200.0]));
        assert_eq!(preprocessor("canny:50,80.5"), Ok([50.0, 80.5]));
        for wrong in ["depth", "canny:", "canny:a,b", "canny:200,100"] {
            assert!(preprocessor(wrong).is_err(), "{wrong}");
        }
    }
}
