//! A model written again: as a folder in diffusers' layout, or as a checkpoint of one file.

use std::borrow::Cow;
use std::path::Path;

use latent_formats::{
    Dtype, FormatError, PartClass, SafetensorsWriter, TensorView, Weights, parse_json, write_bytes,
    write_json,
};
use serde_json::{Map, Value};

use crate::error::{ModelError, Result};
use crate::folder::{Conditioning, ModelFolder};
use crate::single_file::{LdmNames, OPEN_CLIP_PROJECTION, SCALE_FACTOR, SingleFile, TextNames};
use crate::weights::{canonical_name, is_needless, names_of};

/// How a model lies on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// A folder with a folder for each part.
    Diffusers,
    /// One file in the layout in which Stable Diffusion was published.
    Single,
}

/// The parts with weights.
const PARTS: &[&str] = &["unet", "vae", "text_encoder", "text_encoder_2"];
/// One over the standard deviation of the latents of Stable Diffusion XL's autoencoder.
const SDXL_SCALING_FACTOR: f64 = 0.13025;
/// Files of a tokenizer.
const TOKENIZER: &[&str] = &[
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
];

/// Files without weights, by folder.
const FILES: &[(&str, &[&str])] = &[
    ("unet", &["config.json"]),
    ("vae", &["config.json"]),
    ("text_encoder", &["config.json"]),
    ("text_encoder_2", &["config.json"]),
    ("tokenizer", TOKENIZER),
    ("tokenizer_2", TOKENIZER),
    ("scheduler", &["scheduler_config.json"]),
];

/// A tensor on its way from one file to another.
struct Moved<'a> {
    name: String,
    shape: Vec<usize>,
    dtype: Dtype,
    bytes: Cow<'a, [u8]>,
}

/// A tensor's values, ready to be written.
enum Ready<'a> {
    AsStored(Cow<'a, [u8]>, Dtype),
    Rounded(Vec<f32>, Dtype),
}

impl ModelFolder {
    /// Writes the model in `layout`, its floating-point weights rounded to `dtype`, or as they are stored.
    ///
    /// # Errors
    /// [`ModelError`]: it is broken, the layout has no place for it, or a file cannot be written.
    pub fn convert(&self, to: &Path, layout: Layout, dtype: Option<Dtype>) -> Result<()> {
        match layout {
            Layout::Diffusers => self.write_folder(to, dtype),
            Layout::Single => self.write_single(to, dtype),
        }
    }

    fn write_folder(&self, to: &Path, dtype: Option<Dtype>) -> Result<()> {
        for part in PARTS {
            let Some(weights) = self.part_weights(part)? else {
                continue;
            };
            let tensors: Result<Vec<Moved<'_>>> = kept(&weights)
                .map(|name| {
                    let mut tensor = moved(&weights, name, canonical_name(part, name))?;
                    if *part == "vae" && tensor.name.contains(".attentions.") {
                        // Older code has 1x1 convolutions there.
                        tensor.shape = bare(&tensor.shape);
                    }
                    Ok(tensor)
                })
                .collect();
            make(&to.join(part))?;
            let file = to.join(part).join(names_of(part).written());
            write(tensors?, &file, dtype, &[("format", "pt".to_owned())])?;
        }
        for (part, names) in FILES {
            let files = self.files().below(part);
            for name in *names {
                let Some(bytes) = files.read(name)? else {
                    continue;
                };
                make(&to.join(part))?;
                let path = to.join(part).join(name);
                match files.single_file().and_then(SingleFile::scale_factor) {
                    Some(factor) if *part == "vae" => {
                        let mut config: Map<String, Value> = parse_json(&bytes, &path)?;
                        config.insert("scaling_factor".into(), shortest(factor).into());
                        write_json(&path, &config)?;
                    }
                    // What the checkpoint predicts may be said in its file alone, or by who opened it.
                    _ if *part == "scheduler" && !files.stated_schedule().is_empty() => {
                        write_json(&path, &self.scheduler_config()?)?
                    }
                    _ => write_bytes(&path, &bytes)?,
                }
            }
        }
        let defaults = self.files().read("latent.json")?;
        if let Some(bytes) = defaults {
            write_bytes(&to.join("latent.json"), &bytes)?;
        }
        // The index comes last, so that a folder with one is complete.
        let mut index = self.index().clone();
        for (name, class) in &mut index.parts {
            if !FILES.iter().any(|(part, _)| *part == name.as_str()) {
                *class = None::<PartClass>;
            }
        }
        Ok(index.write(to)?)
    }

    fn write_single(&self, to: &Path, dtype: Option<Dtype>) -> Result<()> {
        let refuse = |reason: &str| ModelError::Adapter {
            path: self.files().path().to_path_buf(),
            reason: reason.to_owned(),
        };
        let class = self.index().part("vae").map(|part| part.class.as_str());
        if self.conditioning() != Conditioning::Text || class != Some("AutoencoderKL") {
            return Err(refuse(
                "has parts for which the layout of one file has no place: needed are a text encoder and an `AutoencoderKL`; \
                 write it as a folder with `--layout diffusers`",
            ));
        }
        let mut parts = Vec::new();
        for part in PARTS {
            parts.extend(self.part_weights(part)?.map(|weights| (*part, weights)));
        }
        let (unet, vae) = (names_in(&parts, "unet"), names_in(&parts, "vae"));
        let texts = TextNames::of_family(self.family().name);
        let names = LdmNames::of(
            unet.iter().map(String::as_str),
            vae.iter().map(String::as_str),
            texts,
        );
        let mut tensors = Vec::new();
        for (part, weights) in &parts {
            for name in kept(weights) {
                let ours = canonical_name(part, name);
                let Some(theirs) = names.of_tensor(part, &ours) else {
                    return Err(refuse(&format!(
                        "has a tensor `{part}/{name}` for which the layout of one file has no place"
                    )));
                };
                let mut tensor = moved(weights, name, theirs)?;
                if *part == "vae" && ours.contains(".attentions.") && tensor.shape.len() == 2 {
                    tensor.shape.extend([1, 1]);
                }
                if tensor.name.ends_with(&format!(".{OPEN_CLIP_PROJECTION}")) {
                    tensor = transposed(tensor);
                }
                tensors.push((ours, tensor));
            }
        }
        let mut tensors = joined(tensors);
        if texts == TextNames::OpenClip {
            tensors.extend(unread_layer(&tensors));
        }
        let xl = [TextNames::Both, TextNames::Second].contains(&texts);
        // Files of Stable Diffusion XL say it only where it is another than all have.
        let factor = self.scaling_factor()?;
        let factor = factor.filter(|factor| !xl || *factor != SDXL_SCALING_FACTOR);
        tensors.extend(factor.map(|factor| Moved {
            name: SCALE_FACTOR.to_owned(),
            shape: Vec::new(),
            dtype: Dtype::F32,
            bytes: Cow::Owned((factor as f32).to_le_bytes().to_vec()),
        }));
        write(tensors, to, dtype, &self.modelspec(to)?)
    }

    /// One over the standard deviation of the latents, as the checkpoint or the autoencoder's config says it.
    fn scaling_factor(&self) -> Result<Option<f64>> {
        let files = self.files().below("vae");
        if let Some(factor) = files.single_file().and_then(SingleFile::scale_factor) {
            return Ok(Some(factor));
        }
        let bytes = files.need("config.json", "config")?;
        let config: Map<String, Value> = parse_json(&bytes, &files.path().join("config.json"))?;
        Ok(config.get("scaling_factor").and_then(Value::as_f64))
    }

    /// Whether its network predicts velocity, and not noise.
    ///
    /// # Errors
    /// [`ModelError`]: the scheduler's config is missing or broken.
    pub fn predicts_velocity(&self) -> Result<bool> {
        let scheduler = self.scheduler_config()?;
        let stated = scheduler.get("prediction_type").and_then(Value::as_str);
        Ok(stated == Some("v_prediction"))
    }

    /// Its architecture, as files say it of themselves.
    ///
    /// Source: Stability AI's ModelSpec 1.0.0; names as kohya's sd-scripts write them.
    ///
    /// # Errors
    /// [`ModelError`]: the scheduler's config is missing or broken.
    pub fn architecture(&self) -> Result<&'static str> {
        Ok(match (self.family().name, self.predicts_velocity()?) {
            ("sd2" | "sd2-inpaint", true) => "stable-diffusion-v2-768-v",
            ("sd2" | "sd2-inpaint", false) => "stable-diffusion-v2-512",
            ("sdxl" | "sdxl-inpaint", _) => "stable-diffusion-xl-v1-base",
            ("sdxl-refiner", _) => "stable-diffusion-xl-v1-refiner",
            _ => "stable-diffusion-v1",
        })
    }

    /// What the file says about itself.
    ///
    /// Source: Stability AI's ModelSpec 1.0.0; names as kohya's sd-scripts write them.
    fn modelspec(&self, to: &Path) -> Result<Vec<(&'static str, String)>> {
        let velocity = self.predicts_velocity()?;
        let [height, width] = self.size();
        let title = to.file_stem().unwrap_or_default().to_string_lossy();
        Ok(vec![
            ("format", "pt".to_owned()),
            ("modelspec.sai_model_spec", "1.0.0".to_owned()),
            ("modelspec.architecture", self.architecture()?.to_owned()),
            (
                "modelspec.implementation",
                "https://github.com/Stability-AI/generative-models".to_owned(),
            ),
            ("modelspec.title", title.into_owned()),
            ("modelspec.resolution", format!("{width}x{height}")),
            (
                "modelspec.prediction_type",
                if velocity { "v" } else { "epsilon" }.to_owned(),
            ),
        ])
    }
}

/// The shortest decimal that is the same f32: checkpoints hold the factor as one.
fn shortest(factor: f64) -> f64 {
    (factor as f32).to_string().parse().unwrap_or(factor)
}

fn kept(weights: &Weights) -> impl Iterator<Item = &str> {
    weights.names().filter(|name| !is_needless(name))
}

/// Names of the tensors of one of several parts.
fn names_in(parts: &[(&str, Weights)], wanted: &str) -> Vec<String> {
    let found = parts.iter().find(|(part, _)| *part == wanted);
    let names = found.iter().flat_map(|(_, weights)| kept(weights));
    names.map(|name| canonical_name(wanted, name)).collect()
}

fn moved<'a>(weights: &'a Weights, name: &str, to: String) -> Result<Moved<'a>> {
    let tensor = weights.tensor(name)?;
    Ok(Moved {
        name: to,
        shape: tensor.shape.to_vec(),
        dtype: tensor.dtype,
        bytes: tensor.bytes,
    })
}

/// A 1x1 convolution's shape as a linear layer's.
fn bare(shape: &[usize]) -> Vec<usize> {
    match shape {
        [out, width, 1, 1] => vec![*out, *width],
        _ => shape.to_vec(),
    }
}

/// A matrix with its rows as columns.
fn transposed(tensor: Moved<'_>) -> Moved<'_> {
    let &[rows, columns] = &tensor.shape[..] else {
        return tensor;
    };
    let size = tensor.dtype.size();
    let mut bytes = Vec::with_capacity(tensor.bytes.len());
    for column in 0..columns {
        for row in 0..rows {
            let at = (row * columns + column) * size;
            bytes.extend_from_slice(&tensor.bytes[at..at + size]);
        }
    }
    Moved {
        shape: vec![columns, rows],
        bytes: Cow::Owned(bytes),
        ..tensor
    }
}

/// Queries, keys and values of one name behind one another, in that order; all else as it is.
fn joined(mut tensors: Vec<(String, Moved<'_>)>) -> Vec<Moved<'_>> {
    let rank = |name: &str| {
        ["q_proj", "k_proj", "v_proj"]
            .iter()
            .position(|part| name.contains(part))
    };
    tensors.sort_by_key(|(ours, tensor)| (tensor.name.clone(), rank(ours)));
    let mut all: Vec<Moved<'_>> = Vec::new();
    for (_, tensor) in tensors {
        match all.last_mut().filter(|last| last.name == tensor.name) {
            Some(last) => {
                last.shape[0] += tensor.shape[0];
                last.bytes.to_mut().extend_from_slice(&tensor.bytes);
            }
            None => all.push(tensor),
        }
    }
    all
}

/// OpenCLIP's files hold a last layer whose states Stable Diffusion 2 does not read, and programs count on it: a copy
/// of the one before.
fn unread_layer<'a>(tensors: &[Moved<'a>]) -> Vec<Moved<'a>> {
    let start = "cond_stage_model.model.transformer.resblocks.";
    let layer = |name: &str| {
        let (number, rest) = name.strip_prefix(start)?.split_once('.')?;
        Some((number.parse::<usize>().ok()?, rest.to_owned()))
    };
    let numbers = tensors.iter().filter_map(|tensor| layer(&tensor.name));
    let last = numbers.map(|(number, _)| number).max();
    let copies = tensors.iter().filter_map(|tensor| {
        let (number, rest) = layer(&tensor.name)?;
        (Some(number) == last).then(|| Moved {
            name: format!("{start}{}.{rest}", number + 1),
            shape: tensor.shape.clone(),
            dtype: tensor.dtype,
            bytes: tensor.bytes.clone(),
        })
    });
    copies.collect()
}

/// Writes one file; the factor of the latents is never rounded.
fn write(
    tensors: Vec<Moved<'_>>,
    to: &Path,
    dtype: Option<Dtype>,
    metadata: &[(&str, String)],
) -> Result<()> {
    let floats = [Dtype::F16, Dtype::Bf16, Dtype::F32, Dtype::F64];
    let ready: Vec<(String, Vec<usize>, Ready<'_>)> = tensors
        .into_iter()
        .map(|tensor| {
            let rounded = dtype.filter(|&dtype| {
                dtype != tensor.dtype
                    && floats.contains(&tensor.dtype)
                    && tensor.name != SCALE_FACTOR
            });
            let ready = match rounded {
                Some(dtype) => {
                    let view = TensorView {
                        name: &tensor.name,
                        dtype: tensor.dtype,
                        shape: &tensor.shape,
                        bytes: Cow::Borrowed(&tensor.bytes),
                    };
                    Ready::Rounded(view.to_f32(), dtype)
                }
                None => Ready::AsStored(tensor.bytes, tensor.dtype),
            };
            (tensor.name, tensor.shape, ready)
        })
        .collect();
    let mut file = SafetensorsWriter::new();
    for (key, value) in metadata {
        file = file.metadata(*key, value);
    }
    for (name, shape, ready) in &ready {
        file = match ready {
            Ready::AsStored(bytes, dtype) => file.raw(name, shape, bytes, *dtype)?,
            Ready::Rounded(values, dtype) => file.f32(name, shape, values, *dtype)?,
        };
    }
    Ok(file.write(to)?)
}

fn make(folder: &Path) -> Result<()> {
    Ok(
        std::fs::create_dir_all(folder).map_err(|source| FormatError::Io {
            action: "make the folder",
            path: folder.to_path_buf(),
            source,
        })?,
    )
}
