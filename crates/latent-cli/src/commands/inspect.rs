//! `latent inspect`: what is in a model folder, a checkpoint of one file, or a weights file.

use std::path::{Path, PathBuf};

use clap::Args;
use latent::models::{Conditioning, FileSource, ModelError, ModelFolder, recognise};
use latent_formats::Weights;
use serde::Serialize;

use crate::args::{PredictionFlag, Source};
use crate::commands::open;
use crate::fault::Fault;
use crate::terminal::{Terminal, thousands};

/// Show what is in a model folder, a checkpoint of one file, or a weights file, and what it is for.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  latent inspect                                 the built-in model
  latent inspect ./stable-diffusion-v1-5 --json
  latent inspect v1-5-pruned.safetensors         a checkpoint that holds a whole model
  latent inspect snow.safetensors                a LoRA, an embedding, a ControlNet, a part: what it is for
  latent inspect model.safetensors --tensors     every tensor")]
pub(crate) struct Inspect {
    /// A model folder in diffusers layout, a weights file, or `owner/name` of the hub [default: the built-in model].
    path: Option<PathBuf>,
    /// For a checkpoint of one file: a folder in diffusers layout that has its sizes, tokenizer and scheduler.
    #[arg(long, value_name = "DIR", requires = "path")]
    config: Option<PathBuf>,
    /// For a checkpoint of one file: what its network predicts, noise (epsilon) or velocity (v) [default: as the file says].
    #[arg(long, value_enum, value_name = "KIND", requires = "path")]
    prediction: Option<PredictionFlag>,
    #[command(flatten)]
    source: Source,
    /// List the tensors of a file; so is every file of a kind that is not known.
    #[arg(long, requires = "path")]
    tensors: bool,
}

/// What a folder holds.
#[derive(Serialize)]
struct Report {
    path: PathBuf,
    family: &'static str,
    pipeline: String,
    conditioning: String,
    /// Width and height it was trained on, in pixels.
    size: [usize; 2],
    /// Pixels per latent in each direction.
    downsampling: usize,
    latent_channels: usize,
    /// Tokens of the longest prompt, without start and end.
    prompt_tokens: Option<usize>,
    scheduler: serde_json::Value,
    parts: Vec<Part>,
}

/// One network of a folder.
#[derive(Serialize)]
struct Part {
    name: String,
    class: String,
    tensors: usize,
    parameters: usize,
    dtypes: Vec<&'static str>,
    bytes: usize,
}

impl Inspect {
    pub(crate) fn run(self, terminal: &Terminal) -> Result<(), Fault> {
        let found = match &self.path {
            Some(path) => Some(open::located(path, &self.source, terminal)?),
            None => None,
        };
        match &found {
            Some(path) if self.tensors => tensors(path, terminal),
            Some(path) if self.is_bare_weights(path) => {
                if kind(path, terminal)? {
                    Ok(())
                } else {
                    tensors(path, terminal)
                }
            }
            found => {
                let paths = (found.as_deref(), self.config.as_deref());
                let folder = open::folder(paths, self.prediction, &self.source, terminal)?;
                model(self.path.as_deref(), &folder, terminal)
            }
        }
    }

    /// Whether it is a weights file that is not a whole model.
    fn is_bare_weights(&self, path: &Path) -> bool {
        let (config, prediction) = (self.config.as_deref(), self.prediction.map(Into::into));
        path.is_file()
            && matches!(
                ModelFolder::open_file_predicting(path, config, prediction),
                Err(ModelError::SingleFile { .. })
            )
    }
}

fn model(path: Option<&Path>, folder: &ModelFolder, terminal: &Terminal) -> Result<(), Fault> {
    let tokenizer = folder.tokenizer()?.or(folder.tokenizer_2()?);
    let report = Report {
        path: path.unwrap_or(folder.files().path()).to_owned(),
        family: folder.family().name,
        pipeline: folder.index().class_name.clone(),
        conditioning: match folder.conditioning() {
            Conditioning::Text => "words".into(),
            Conditioning::Class { count } => format!("one of {count} classes"),
            Conditioning::None => "nothing".into(),
        },
        size: [folder.size()[1], folder.size()[0]],
        downsampling: folder.downsampling(),
        latent_channels: folder.unet_config().in_channels,
        prompt_tokens: tokenizer.map(|tokenizer| tokenizer.length() - 2),
        scheduler: folder.scheduler_config()?,
        parts: parts(folder)?,
    };
    terminal.result(&report, table(&report))
}

/// The files a network's weights may lie in, best first.
const WEIGHTS: &[&str] = &[
    "diffusion_pytorch_model.safetensors",
    "model.safetensors",
    "diffusion_pytorch_model.fp16.safetensors",
    "model.fp16.safetensors",
    "diffusion_pytorch_model.bin",
    "pytorch_model.bin",
];

fn parts(folder: &ModelFolder) -> Result<Vec<Part>, Fault> {
    let mut parts = Vec::new();
    for (name, class) in &folder.index().parts {
        let Some(class) = class else { continue };
        if let Some(weights) = weights(&folder.files().below(name))? {
            parts.push(Part::new(name, &class.class, &weights));
        }
    }
    Ok(parts)
}

fn weights(files: &FileSource) -> Result<Option<Weights>, Fault> {
    if let Some(weights) = files.single_file_weights() {
        // Parts without a network, such as the tokenizer, have none.
        return Ok((!weights.is_empty()).then_some(weights));
    }
    let Some(name) = WEIGHTS.iter().find(|name| files.has(name)) else {
        return Ok(None);
    };
    match files.read(name)? {
        Some(bytes) => Ok(Some(Weights::from_bytes(
            &files.path().join(name).to_string_lossy(),
            bytes,
        )?)),
        None => Ok(None),
    }
}

impl Part {
    fn new(name: &str, class: &str, weights: &Weights) -> Self {
        let mut part = Self {
            name: name.to_owned(),
            class: class.to_owned(),
            tensors: weights.len(),
            parameters: 0,
            dtypes: Vec::new(),
            bytes: 0,
        };
        for (dtype, shape) in weights.names().filter_map(|name| weights.describe(name)) {
            let count: usize = shape.iter().product();
            part.parameters += count;
            part.bytes += count * dtype.size();
            if !part.dtypes.contains(&dtype.name()) {
                part.dtypes.push(dtype.name());
            }
        }
        part
    }
}

fn table(report: &Report) -> String {
    let [width, height] = report.size;
    let scheduler = |key: &str| {
        report
            .scheduler
            .get(key)
            .and_then(|value| value.as_str())
            .unwrap_or("-")
            .to_owned()
    };
    let mut lines = vec![
        format!(
            "model         {} ({}, {})",
            report.path.display(),
            report.family,
            report.pipeline
        ),
        format!("draws from    {}", report.conditioning),
        format!(
            "size          {width}x{height} pixels, {}x down-sampled",
            report.downsampling
        ),
        format!(
            "latents       {} x {} x {}",
            report.latent_channels,
            height / report.downsampling,
            width / report.downsampling
        ),
        format!(
            "scheduler     {}, predicts {}",
            scheduler("_class_name"),
            scheduler("prediction_type")
        ),
    ];
    if let Some(tokens) = report.prompt_tokens {
        lines.push(format!("prompts       up to {tokens} tokens"));
    }
    for part in &report.parts {
        lines.push(format!(
            "{:13} {}: {} parameters in {} tensors, {}, {:.1} MB",
            part.name,
            part.class,
            thousands(part.parameters),
            part.tensors,
            part.dtypes.join(" and "),
            part.bytes as f64 / 1e6
        ));
    }
    lines.join("\n")
}

/// Says what a file without a whole model is for; whether that is known.
fn kind(path: &Path, terminal: &Terminal) -> Result<bool, Fault> {
    let weights = Weights::open(path)?;
    let Some(kind) = recognise(&weights) else {
        return Ok(false);
    };
    let part = Part::new(kind.name(), "", &weights);
    let line = serde_json::json!({
        "path": path, "kind": kind.name(), "about": kind.to_string(), "use": kind.use_with(),
        "tensors": part.tensors, "parameters": part.parameters, "dtypes": part.dtypes, "bytes": part.bytes,
    });
    let text = format!(
        "{} is {kind}; {}\n{} parameters in {} tensors, {}, {:.1} MB",
        path.display(),
        kind.use_with(),
        thousands(part.parameters),
        part.tensors,
        part.dtypes.join(" and "),
        part.bytes as f64 / 1e6
    );
    terminal.result(&line, text)?;
    Ok(true)
}

/// Every tensor of a file, one a line.
fn tensors(path: &Path, terminal: &Terminal) -> Result<(), Fault> {
    let weights = Weights::open(path)?;
    for name in weights.names() {
        let Some((dtype, shape)) = weights.describe(name) else {
            continue;
        };
        let line = serde_json::json!({ "name": name, "dtype": dtype.name(), "shape": shape });
        terminal.result(&line, format_args!("{:5} {name} {shape:?}", dtype.name()))?;
    }
    let part = Part::new("", "", &weights);
    terminal.note(format_args!(
        "{} parameters in {} tensors",
        thousands(part.parameters),
        part.tensors
    ));
    Ok(())
}
