//! Models' parameters and files' tensors: names, shapes, reading, writing.
//!
//! Fields are named as in files, so there is little to translate: [`RENAMED`] lists what Rust cannot name, and
//! [`spellings`] what files spell in more than one way.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use burn::module::Module;
use latent_formats::{Dtype, FormatError, SafetensorsWriter, StoredTensor, Weights, write_json};
use latent_nn::{
    Named, Stored, StoredType, Values, export_parameters, fill_parameters, named_parameters,
};

use crate::config::{self, ModelConfig};
use crate::error::{ModelError, Result};
use crate::files::FileSource;

/// The names that a library gives its weights files.
#[derive(Clone, Copy)]
pub(crate) struct FileNames {
    /// The one to write.
    written: &'static str,
    /// What names of safetensors files begin with.
    safetensors: &'static str,
    /// The same of pickled ones.
    pickled: &'static str,
}

impl FileNames {
    /// The name that a file is written under.
    pub(crate) fn written(self) -> &'static str {
        self.written
    }

    /// The names to look for, best first: `variant` if one is asked for, then full precision, then what is published in
    /// its place.
    pub(crate) fn read(self, variant: Option<&str>) -> Vec<WeightsFile> {
        let file = |pickled: bool, cut: bool, variant: Option<&str>| WeightsFile {
            stem: if pickled {
                self.pickled
            } else {
                self.safetensors
            },
            ending: if pickled { "bin" } else { "safetensors" },
            variant: variant.map(str::to_owned),
            cut,
        };
        let both = |pickled, variant| [file(pickled, false, variant), file(pickled, true, variant)];
        let asked = variant
            .iter()
            .flat_map(|name| [false, true].map(|p| both(p, Some(name))));
        let usual = [false, true]
            .into_iter()
            .flat_map(|p| [both(p, None), both(p, Some(HALF))]);
        asked.chain(usual).flatten().collect()
    }
}

/// The variant that stands in where a model has no full precision.
const HALF: &str = "fp16";

/// One name of a file that may hold a network's weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WeightsFile {
    stem: &'static str,
    ending: &'static str,
    /// As `fp16`; none for the full precision.
    pub(crate) variant: Option<String>,
    /// It is the table of a file that was cut into several.
    pub(crate) cut: bool,
}

impl WeightsFile {
    /// Source: diffusers' and transformers' `_add_variant`.
    pub(crate) fn name(&self) -> String {
        let (stem, ending) = (self.stem, self.ending);
        match (&self.variant, self.cut) {
            (None, false) => format!("{stem}.{ending}"),
            (Some(variant), false) => format!("{stem}.{variant}.{ending}"),
            (None, true) => format!("{stem}.{ending}.index.json"),
            (Some(variant), true) => format!("{stem}.{ending}.index.{variant}.json"),
        }
    }

    /// How many pieces a file was cut into of which `name` is one; `None` if it is none.
    pub(crate) fn pieces(&self, name: &str) -> Option<usize> {
        let middle = name.strip_prefix(self.stem)?.strip_suffix(self.ending)?;
        let middle = middle.strip_suffix('.')?;
        // The variant stands before the number, or in older releases behind it.
        let number = match self.variant.as_ref().map(|variant| format!(".{variant}")) {
            Some(mark) => middle
                .strip_prefix(&*mark)
                .or(middle.strip_suffix(&*mark))?,
            None => middle,
        };
        let (piece, all) = number.strip_prefix('-')?.split_once("-of-")?;
        let _: usize = piece.parse().ok()?;
        all.parse().ok()
    }
}

/// diffusers' names.
pub(crate) const DIFFUSERS: FileNames = FileNames {
    written: "diffusion_pytorch_model.safetensors",
    safetensors: "diffusion_pytorch_model",
    pickled: "diffusion_pytorch_model",
};

/// transformers' names.
pub(crate) const TRANSFORMERS: FileNames = FileNames {
    written: "model.safetensors",
    safetensors: "model",
    pickled: "pytorch_model",
};

/// The names in the folder of part `name`: text encoders are transformers' models, all others diffusers'.
pub(crate) fn names_of(name: &str) -> FileNames {
    if name.starts_with("text_encoder") {
        TRANSFORMERS
    } else {
        DIFFUSERS
    }
}

/// Which of several published shapes a model's tensors have.
#[derive(Clone, Copy, Default)]
pub(crate) struct Layout {
    /// Transformers' `proj_in` and `proj_out` are stored as `[out, in]`, not as `[out, in, 1, 1]`.
    pub(crate) linear_projections: bool,
}

/// Part of a field's path, and what files have in its place.
const RENAMED: &[(&str, &str)] = &[(".ff.proj.", ".ff.net.0.proj."), (".ff.out.", ".ff.net.2.")];

/// Older names of an autoencoder's attention. Source: diffusers' `_convert_deprecated_attention_blocks`.
const OLD_ATTENTION: &[(&str, &str)] = &[
    (".to_q.", ".query."),
    (".to_k.", ".key."),
    (".to_v.", ".value."),
    (".to_out.0.", ".proj_attn."),
];

/// Buffers that older releases stored and nobody needs.
const NEEDLESS: &[&str] = &["position_ids"];

/// The name that files we write give the parameter at `path` of one of this crate's models: diffusers' or transformers'.
pub fn written_name(path: &str) -> String {
    RENAMED
        .iter()
        .fold(path.to_owned(), |name, (ours, theirs)| {
            name.replace(ours, theirs)
        })
}

/// The names that a file may give the parameter at `path`, commonest first.
fn spellings(path: &str) -> Vec<String> {
    let name = written_name(path);
    let mut names = vec![name.clone()];
    if let Some(bare) = name.strip_prefix("text_model.") {
        // transformers 5 leaves the prefix out.
        names.push(bare.to_owned());
    }
    for (new, old) in OLD_ATTENTION {
        if name.contains(new) {
            names.push(name.replace(new, old));
        }
    }
    names
}

/// The name that files we write give the tensor that a file of part `name` calls `tensor`.
pub(crate) fn canonical_name(name: &str, tensor: &str) -> String {
    if name.starts_with("text_encoder") {
        let bare = ["embeddings.", "encoder.", "final_layer_norm."];
        if bare.iter().any(|start| tensor.starts_with(start)) {
            return format!("text_model.{tensor}");
        }
        return tensor.to_owned();
    }
    OLD_ATTENTION
        .iter()
        .fold(tensor.to_owned(), |name, (new, old)| name.replace(old, new))
}

/// Whether nobody needs the tensor.
pub(crate) fn is_needless(tensor: &str) -> bool {
    NEEDLESS.contains(&tensor.rsplit('.').next().unwrap_or(tensor))
}

/// Whether a tensor of shape `found` is one of shape `needed`: a 1x1 convolution and a linear layer are the same.
fn fits(found: &[usize], needed: &[usize]) -> bool {
    let bare = |shape: &[usize]| match shape {
        [out, width, 1, 1] => vec![*out, *width],
        _ => shape.to_vec(),
    };
    bare(found) == bare(needed)
}

/// Reads the parameter at `path` of one of this crate's models from a file in any published spelling.
///
/// # Errors
/// [`ModelError::Format`] if the file has no such tensor, or has it in another shape.
pub fn read_parameter(weights: &Weights, path: &str, shape: &[usize]) -> Result<Vec<f32>> {
    let name = name_in(weights, path);
    match weights.describe(&name) {
        Some((_, found)) if fits(found, shape) => Ok(weights.read_f32(&name)?),
        _ => Ok(weights.read_f32_shaped(&name, shape)?),
    }
}

/// The file's name of the parameter at `path`; the commonest where it has none.
fn name_in(weights: &Weights, path: &str) -> String {
    let mut names = spellings(path);
    let found = names.iter().position(|name| weights.contains(name));
    names.swap_remove(found.unwrap_or(0))
}

/// The parameter at `path` where it lies, or read if it cannot stay there.
fn parameter(weights: &Weights, path: &str, shape: &[usize]) -> Result<Values> {
    let name = name_in(weights, path);
    let fits = weights
        .describe(&name)
        .is_some_and(|(_, found)| fits(found, shape));
    match weights.stored(&name).and_then(InFile::new) {
        Some(stored) if fits => Ok(Values::Stored(Arc::new(stored))),
        _ => Ok(Values::Read(read_parameter(weights, path, shape)?)),
    }
}

/// A tensor of a file, as models take it.
struct InFile {
    tensor: StoredTensor,
    dtype: StoredType,
}

impl InFile {
    fn new(tensor: StoredTensor) -> Option<Self> {
        let dtype = match tensor.dtype() {
            Dtype::F32 => StoredType::F32,
            Dtype::F16 => StoredType::F16,
            Dtype::Bf16 => StoredType::Bf16,
            _ => return None,
        };
        Some(Self { tensor, dtype })
    }
}

impl AsRef<[u8]> for InFile {
    fn as_ref(&self) -> &[u8] {
        self.tensor.as_ref()
    }
}

impl Stored for InFile {
    fn dtype(&self) -> StoredType {
        self.dtype
    }

    fn to_f32(&self) -> Vec<f32> {
        self.tensor.to_f32()
    }

    fn release(&self) {
        self.tensor.release();
    }
}

/// Opens the weights among a folder's files.
pub(crate) fn open(files: &FileSource, names: FileNames) -> Result<Weights> {
    if let Some(weights) = files.single_file_weights() {
        return Ok(weights);
    }
    let names: Vec<String> = names
        .read(files.variant())
        .iter()
        .map(WeightsFile::name)
        .collect();
    let Some(name) = names.iter().find(|name| files.has(name)) else {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        return Err(files.missing("weights", &names));
    };
    if let Some(folder) = files.on_disk() {
        return Ok(Weights::open(&folder.join(name))?);
    }
    let bytes = files.need(name, "weights")?;
    let name = files.path().join(name);
    Ok(Weights::from_bytes(&name.to_string_lossy(), bytes)?)
}

/// Fills `model` from the weights among a folder's files; every tensor must have its place, every place its tensor.
pub(crate) fn load<M: Module>(model: M, files: &FileSource, names: FileNames) -> Result<M> {
    fill(model, open(files, names)?)
}

/// [`load`] from weights that are open.
pub(crate) fn fill<M: Module>(model: M, weights: Weights) -> Result<M> {
    check_names(&named_parameters(&model), &weights)?;
    fill_parameters(model, |path, shape| parameter(&weights, path, shape))
}

/// Refuses files that lack a parameter, or hold a tensor without a place.
fn check_names(parameters: &[Named], weights: &Weights) -> Result<()> {
    let mut used = BTreeSet::new();
    let mut missing = Vec::new();
    for parameter in parameters {
        match spellings(&parameter.path)
            .into_iter()
            .find(|name| weights.contains(name))
        {
            Some(name) => drop(used.insert(name)),
            None => missing.push(parameter),
        }
    }
    if let Some(first) = missing.first() {
        return Err(ModelError::MissingTensors {
            path: weights.path().to_path_buf(),
            count: missing.len(),
            total: parameters.len(),
            first: written_name(&first.path),
            needed: first.shape.clone(),
        });
    }
    let mut unexpected = weights
        .names()
        .filter(|&name| !used.contains(name) && !is_needless(name));
    match unexpected.next() {
        Some(first) => Err(ModelError::UnexpectedTensors {
            path: weights.path().to_path_buf(),
            first: first.to_owned(),
            count: 1 + unexpected.count(),
        }),
        None => Ok(()),
    }
}

/// Writes `config.json` and the weights of `model` into `folder`, in the published names and shapes.
pub(crate) fn save<M: Module, C: ModelConfig>(
    model: &M,
    config: &C,
    folder: &Path,
    names: (FileNames, Layout),
    dtype: Dtype,
) -> Result<()> {
    save_renamed(model, config, folder, names, dtype, &|path| {
        Some(written_name(path))
    })
}

/// [`save`] with names that `rename` makes of paths; a path without one keeps itself.
pub(crate) fn save_renamed<M: Module, C: ModelConfig>(
    model: &M,
    config: &C,
    folder: &Path,
    (names, layout): (FileNames, Layout),
    dtype: Dtype,
    rename: &dyn Fn(&str) -> Option<String>,
) -> Result<()> {
    let parameters = export_parameters(model);
    let tensors: Vec<(String, Vec<usize>, &[f32])> = parameters
        .iter()
        .map(|parameter| {
            let name = rename(&parameter.path).unwrap_or_else(|| parameter.path.clone());
            let shape = written_shape(&name, &parameter.shape, layout);
            (name, shape, parameter.values.as_slice())
        })
        .collect();
    // transformers refuses files that do not say which library's tensors they hold.
    let mut writer = SafetensorsWriter::new().metadata("format", "pt");
    for (name, shape, values) in &tensors {
        writer = writer.f32(name, shape, values, dtype)?;
    }
    std::fs::create_dir_all(folder).map_err(|source| FormatError::Io {
        action: "create",
        path: folder.to_path_buf(),
        source,
    })?;
    writer.write(&folder.join(names.written))?;
    Ok(write_json(
        &folder.join("config.json"),
        &config::to_json(config),
    )?)
}

fn written_shape(name: &str, shape: &[usize], layout: Layout) -> Vec<usize> {
    let projection = [".proj_in.weight", ".proj_out.weight"]
        .iter()
        .any(|end| name.ends_with(end));
    match shape {
        [out, width, 1, 1] if projection && layout.linear_projections => vec![*out, *width],
        _ => shape.to_vec(),
    }
}
