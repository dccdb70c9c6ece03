//! Textual inversion: new words, each of one vector or several.

use std::path::Path;

use latent_formats::Weights;

use super::kind;
use crate::error::{ModelError, Result};

/// Where A1111's files keep their vectors: older pickles, and safetensors.
const NAMELESS: &[&str] = &["string_to_param.*", "emb_params"];
/// Files for models with two text encoders hold vectors of both.
const BY_ENCODER: &[&str] = &["clip_l", "clip_g"];

/// Vectors for a new word.
///
/// Source: Gal et al. 2022 (arXiv:2208.01618); containers of A1111 and of diffusers' `load_textual_inversion`.
#[derive(Clone, Debug)]
pub struct Embedding {
    token: String,
    /// For each text encoder: width and vectors.
    vectors: Vec<(usize, Vec<f32>)>,
    path: std::path::PathBuf,
}

impl Embedding {
    /// Opens a file; the word is `token`, else what the file calls it, else the file's name.
    ///
    /// # Errors
    /// [`ModelError::Format`]; [`ModelError::Adapter`] if it holds no vectors, or the word is empty.
    pub fn open(path: &Path, token: Option<&str>) -> Result<Self> {
        let weights = Weights::open(path)?;
        let refuse = |reason: String| ModelError::Adapter {
            path: path.to_path_buf(),
            reason,
        };
        let Some((names, stated)) = tensors_of(&weights) else {
            let found = kind::recognise(&weights).map_or_else(
                || "holds no vectors of a word".to_owned(),
                |kind| format!("is no embedding but {kind}; {}", kind.use_with()),
            );
            return Err(refuse(found));
        };
        let mut vectors = Vec::new();
        for name in names {
            let tensor = weights.tensor(name)?;
            let width = *tensor.shape.last().unwrap_or(&0);
            let values = tensor.to_f32();
            if width == 0 || values.is_empty() || !values.iter().all(|v| v.is_finite()) {
                return Err(refuse(format!(
                    "holds no vectors: `{name}` has shape {:?} or values that are not finite",
                    tensor.shape
                )));
            }
            vectors.push((width, values));
        }
        let stem = path.file_stem().map(|stem| stem.to_string_lossy());
        let token = token
            .or(stated)
            .map_or_else(|| stem.unwrap_or_default().into_owned(), str::to_owned);
        if token.trim().is_empty() {
            return Err(refuse(
                "has no word to be called by; name one as FILE:TOKEN".into(),
            ));
        }
        Ok(Self {
            token: token.trim().to_owned(),
            vectors,
            path: path.to_path_buf(),
        })
    }

    /// The word.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Vectors `[count, width]` for a text encoder of `width`, row after row.
    ///
    /// # Errors
    /// [`ModelError::Adapter`] if the file has none of that width.
    pub fn vectors(&self, width: usize) -> Result<&[f32]> {
        let found = self.vectors.iter().find(|(found, _)| *found == width);
        found.map(|(_, values)| values.as_slice()).ok_or_else(|| {
            let widths: Vec<String> = self.vectors.iter().map(|(w, _)| w.to_string()).collect();
            ModelError::Adapter {
                path: self.path.clone(),
                reason: format!(
                    "holds vectors of width {}, and this model's text encoder has width {width}; it was made for {}",
                    widths.join(" and "),
                    kind::family_of_width(self.vectors.first().map_or(0, |(width, _)| *width))
                ),
            }
        })
    }
}

/// The names of the tensors with vectors, and what the file calls the word; `None` if it is no embedding.
pub(super) fn tensors_of(weights: &Weights) -> Option<(Vec<&str>, Option<&str>)> {
    let has = |names: &[&'static str]| -> Vec<&'static str> {
        names
            .iter()
            .copied()
            .filter(|name| weights.contains(name))
            .collect()
    };
    let nameless = has(NAMELESS);
    if let Some(first) = nameless.first() {
        let stated = weights.metadata().get("name").map(String::as_str);
        return Some((vec![first], stated));
    }
    let by_encoder = has(BY_ENCODER);
    if !by_encoder.is_empty() {
        return Some((by_encoder, None));
    }
    // diffusers: one tensor, called as the word.
    let mut names = weights.names();
    let (Some(only), None) = (names.next(), names.next()) else {
        return None;
    };
    let (_, shape) = weights.describe(only)?;
    (shape.len() <= 2).then_some((vec![only], Some(only)))
}
