//! Which of a published model's files are needed to draw with it. Repositories hold the same weights several times over:
//! in two formats, in two precisions, for other programs.

use std::path::Path;

use latent_formats::ModelIndex;

use crate::error::{ModelError, Result};
use crate::families::FAMILIES;
use crate::folder::check_pipeline;
use crate::weights::{DIFFUSERS, FileNames, TRANSFORMERS, WeightsFile, names_of};

/// Files beside the parts' folders: what a model is made of, and how it likes to be drawn with.
const AT_THE_TOP: [&str; 2] = ["model_index.json", "latent.json"];
/// Endings of a part's small files: configs, vocabularies, merges.
const SMALL: [&str; 3] = [".json", ".txt", ".model"];
/// No family has a network for it, but whoever samples reads its config.
const SCHEDULER: &str = "scheduler";

/// Files of a repository, by their paths with `/`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needed {
    /// Small ones, which say whether the model can be opened at all.
    pub configs: Vec<String>,
    /// The networks' weights.
    pub weights: Vec<String>,
}

/// The files of a model in diffusers' layout, of those that `place` lists. Of each network one precision in one format:
/// the `variant` asked for, else the full one, safetensors before pickled files.
///
/// # Errors
/// [`ModelError::Config`] if nothing here draws with such a pipeline, or no weights are of the variant;
/// [`ModelError::MissingFile`] if a network has none at all.
pub fn needed_files(
    index: &ModelIndex,
    listed: &[&str],
    variant: Option<&str>,
    place: &Path,
) -> Result<Needed> {
    check_pipeline(index, &place.join("model_index.json"))?;
    let mut needed = Needed::default();
    let top = AT_THE_TOP.iter().filter(|name| listed.contains(name));
    needed.configs.extend(top.map(|&name| name.to_owned()));
    let mut variants = Vec::new();
    for (part, class) in &index.parts {
        if class.is_none() || (is_without_meaning(part) && part != SCHEDULER) {
            continue;
        }
        variants.extend(needed.add(part, names_of(part), (listed, variant), place)?);
    }
    check_variant(variant, &variants, place)?;
    Ok(needed)
}

/// The files of one part of a model, such as an autoencoder or a ControlNet: of the folder `part`, or of a repository
/// that holds nothing else if it is empty.
///
/// # Errors
/// As [`needed_files`].
pub fn needed_part_files(
    part: &str,
    listed: &[&str],
    variant: Option<&str>,
    place: &Path,
) -> Result<Needed> {
    let mut needed = Needed::default();
    let has = |names: FileNames| {
        let mut files = names.read(variant).into_iter();
        files.any(|file| listed.contains(&&*within(part, &file.name())))
    };
    let names = if has(TRANSFORMERS) {
        TRANSFORMERS
    } else {
        DIFFUSERS
    };
    let variants = needed.add(part, names, (listed, variant), place)?;
    check_variant(variant, variants.as_slice(), place)?;
    Ok(needed)
}

/// A part whose files make no difference to a picture.
fn is_without_meaning(part: &str) -> bool {
    FAMILIES
        .iter()
        .all(|family| family.ignored_parts.contains(&part))
}

/// The path of a file in a part's folder.
fn within(part: &str, file: &str) -> String {
    if part.is_empty() {
        file.to_owned()
    } else {
        format!("{part}/{file}")
    }
}

fn check_variant(asked: Option<&str>, found: &[Option<String>], place: &Path) -> Result<()> {
    let Some(asked) = asked else { return Ok(()) };
    if found
        .iter()
        .any(|variant| variant.as_deref() == Some(asked))
    {
        return Ok(());
    }
    Err(ModelError::Config {
        place: format!("`{}`", place.display()),
        key: "variant".into(),
        reason: format!("is `{asked}`, and it has no weights of that name; leave it out"),
    })
}

impl Needed {
    /// Adds the files of a part; gives the variant of its weights, if it has a network.
    fn add(
        &mut self,
        part: &str,
        names: FileNames,
        (listed, variant): (&[&str], Option<&str>),
        place: &Path,
    ) -> Result<Option<Option<String>>> {
        let start = within(part, "");
        let files: Vec<&str> = listed
            .iter()
            .filter_map(|path| path.strip_prefix(&start))
            .filter(|name| !name.contains('/'))
            .collect();
        let is_small = |name: &&&str| {
            !name.contains(".index.") && SMALL.iter().any(|ending| name.ends_with(ending))
        };
        let small = files.iter().filter(is_small);
        self.configs.extend(small.map(|name| within(part, name)));
        if !files.contains(&"config.json") {
            return Ok(None);
        }
        let candidates = names.read(variant);
        let chosen = candidates
            .iter()
            .find_map(|file| Some((file, whole(file, &files)?)));
        let Some((file, weights)) = chosen else {
            return Err(ModelError::MissingFile {
                folder: place.join(part),
                what: "weights",
                looked_for: candidates.iter().map(WeightsFile::name).collect(),
            });
        };
        self.weights
            .extend(weights.iter().map(|name| within(part, name)));
        Ok(Some(file.variant.clone()))
    }
}

/// The files of weights that go by this name: one, or a table with all its pieces.
fn whole(file: &WeightsFile, files: &[&str]) -> Option<Vec<String>> {
    let name = file.name();
    if !files.contains(&name.as_str()) {
        return None;
    }
    if !file.cut {
        return Some(vec![name]);
    }
    let pieces: Vec<(&str, usize)> = files
        .iter()
        .filter_map(|name| Some((*name, file.pieces(name)?)))
        .collect();
    let (_, all) = pieces.first()?;
    if pieces.len() != *all {
        return None;
    }
    let pieces = pieces.iter().map(|(name, _)| (*name).to_owned());
    Some([name].into_iter().chain(pieces).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const INDEX: &str = r#"{"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"], "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"], "scheduler": ["diffusers", "PNDMScheduler"],
        "safety_checker": ["x", "y"], "feature_extractor": ["x", "y"], "image_encoder": [null, null]}"#;

    /// What the repository of Stable Diffusion 1.5 holds.
    const LISTED: &[&str] = &[
        ".gitattributes",
        "README.md",
        "model_index.json",
        "v1-5-pruned.ckpt",
        "v1-5-pruned-emaonly.safetensors",
        "feature_extractor/preprocessor_config.json",
        "safety_checker/config.json",
        "safety_checker/model.safetensors",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.fp16.safetensors",
        "text_encoder/model.safetensors",
        "text_encoder/pytorch_model.bin",
        "text_encoder/flax_model.msgpack",
        "tokenizer/merges.txt",
        "tokenizer/special_tokens_map.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer/vocab.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.bin",
        "vae/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ];

    fn needed(listed: &[&str], variant: Option<&str>) -> Result<Needed> {
        let place = Path::new("owner/name");
        let index = ModelIndex::parse(INDEX.as_bytes(), place).unwrap();
        needed_files(&index, listed, variant, place)
    }

    /// The listing without the files of these names.
    fn without(gone: &[&str]) -> Vec<&'static str> {
        let stays = |path: &&&str| !gone.iter().any(|name| path.ends_with(name));
        LISTED.iter().filter(stays).copied().collect()
    }

    #[test]
    fn one_precision_in_one_format_is_needed_and_nothing_of_parts_without_meaning() {
        let needed = needed(LISTED, None).unwrap();
        let configs = [
            "model_index.json",
            "unet/config.json",
            "vae/config.json",
            "text_encoder/config.json",
            "tokenizer/merges.txt",
            "tokenizer/special_tokens_map.json",
            "tokenizer/tokenizer_config.json",
            "tokenizer/vocab.json",
            "scheduler/scheduler_config.json",
        ];
        assert_eq!(needed.configs, configs);
        let weights = [
            "unet/diffusion_pytorch_model.safetensors",
            "vae/diffusion_pytorch_model.safetensors",
            "text_encoder/model.safetensors",
        ];
        assert_eq!(needed.weights, weights);
    }

    #[test]
    fn half_precision_is_taken_if_asked_for_or_if_there_is_no_other() {
        let weights = [
            "unet/diffusion_pytorch_model.fp16.safetensors",
            "vae/diffusion_pytorch_model.fp16.safetensors",
            "text_encoder/model.fp16.safetensors",
        ];
        assert_eq!(needed(LISTED, Some("fp16")).unwrap().weights, weights);
        let full = ["diffusion_pytorch_model.safetensors", "model.safetensors"];
        assert_eq!(needed(&without(&full), None).unwrap().weights, weights);
        // A variant that one part has is asked of the others in vain.
        let mixed = needed(LISTED, Some("non_ema")).unwrap().weights;
        assert_eq!(mixed[0], "unet/diffusion_pytorch_model.non_ema.safetensors");
        assert_eq!(mixed[1], "vae/diffusion_pytorch_model.safetensors");
        let message = needed(LISTED, Some("fp8")).unwrap_err().to_string();
        assert!(
            message.contains("`owner/name`") && message.contains("`fp8`"),
            "{message}"
        );
    }

    #[test]
    fn pickled_weights_are_taken_if_there_are_no_others() {
        let weights = needed(&without(&[".safetensors"]), None).unwrap().weights;
        let expected = [
            "unet/diffusion_pytorch_model.bin",
            "vae/diffusion_pytorch_model.bin",
            "text_encoder/pytorch_model.bin",
        ];
        assert_eq!(weights, expected);
        let message = needed(
            &without(&["vae/diffusion_pytorch_model.bin", ".safetensors"]),
            None,
        );
        let message = message.unwrap_err().to_string();
        assert!(
            message.contains("`owner/name/vae` holds no weights"),
            "{message}"
        );
    }

    #[test]
    fn a_file_that_was_cut_comes_with_all_its_pieces() {
        let mut listed = without(&["unet/diffusion_pytorch_model.safetensors"]);
        let pieces = [
            "unet/diffusion_pytorch_model.safetensors.index.json",
            "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
            "unet/diffusion_pytorch_model-00002-of-00002.safetensors",
        ];
        let other = "unet/diffusion_pytorch_model.non_ema-00001-of-00002.safetensors";
        listed.extend(pieces);
        listed.push(other);
        assert_eq!(needed(&listed, None).unwrap().weights[..3], pieces);
        // Half of it is none of it.
        listed.retain(|name| *name != pieces[2]);
        let weights = needed(&listed, None).unwrap().weights;
        assert_eq!(weights[0], "unet/diffusion_pytorch_model.fp16.safetensors");
        for name in [
            "diffusion_pytorch_model.fp16-00001-of-00003.safetensors",
            "diffusion_pytorch_model-00001-of-00003.fp16.safetensors",
        ] {
            let files = DIFFUSERS.read(Some("fp16"));
            assert_eq!(files[1].pieces(name), Some(3), "{name}");
        }
    }

    #[test]
    fn a_repository_of_one_part_needs_its_config_and_its_weights() {
        let place = Path::new("owner/vae");
        let listed = [
            "README.md",
            "config.json",
            "diffusion_pytorch_model.bin",
            "diffusion_pytorch_model.safetensors",
        ];
        let needed = needed_part_files("", &listed, None, place).unwrap();
        assert_eq!(needed.configs, ["config.json"]);
        assert_eq!(needed.weights, ["diffusion_pytorch_model.safetensors"]);
        let needed = needed_part_files("text_encoder", LISTED, None, place).unwrap();
        assert_eq!(needed.weights, ["text_encoder/model.safetensors"]);
    }

    #[test]
    fn a_pipeline_that_nothing_here_draws_with_is_refused_before_its_weights_are_fetched() {
        let place = Path::new("owner/name");
        let index = INDEX.replace("StableDiffusionPipeline", "WordsToSmellPipeline");
        let index = ModelIndex::parse(index.as_bytes(), place).unwrap();
        let message = needed_files(&index, LISTED, None, place)
            .unwrap_err()
            .to_string();
        assert!(message.contains("WordsToSmellPipeline"), "{message}");
    }
}
