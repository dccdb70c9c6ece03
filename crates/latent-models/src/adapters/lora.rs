//! LoRAs and their kin: files of small factors whose products change a model's weights.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use latent_formats::{ChangedTensors, Weights};
use serde_json::{Map, Value};

use super::delta::Factors;
use super::kind;
use super::names::{LayerNames, Place};
use crate::error::{ModelError, Result};
use crate::folder::ModelFolder;

/// Endings of tensors' names, and what the tensor is.
///
/// Source: kohya's sd-scripts, LyCORIS, PEFT, and diffusers of several ages.
const ENDINGS: &[(&str, &str)] = &[
    (".lora_down.weight", "down"),
    (".lora_up.weight", "up"),
    (".lora_mid.weight", "mid"),
    (".lora_A.weight", "down"),
    (".lora_B.weight", "up"),
    (".lora_A.default.weight", "down"),
    (".lora_B.default.weight", "up"),
    (".lora.down.weight", "down"),
    (".lora.up.weight", "up"),
    (".lora_linear_layer.down.weight", "down"),
    (".lora_linear_layer.up.weight", "up"),
    ("_lora.down.weight", "down"),
    ("_lora.up.weight", "up"),
    (".alpha", "alpha"),
    (".dora_scale", "magnitude"),
    (".lora_magnitude_vector", "magnitude"),
    (".lora_magnitude_vector.weight", "magnitude"),
    (".lora_magnitude_vector.default.weight", "magnitude"),
    (".hada_w1_a", "hada_w1_a"),
    (".hada_w1_b", "hada_w1_b"),
    (".hada_w2_a", "hada_w2_a"),
    (".hada_w2_b", "hada_w2_b"),
    (".hada_t1", "hada_t1"),
    (".hada_t2", "hada_t2"),
    (".lokr_w1", "lokr_w1"),
    (".lokr_w1_a", "lokr_w1_a"),
    (".lokr_w1_b", "lokr_w1_b"),
    (".lokr_w2", "lokr_w2"),
    (".lokr_w2_a", "lokr_w2_a"),
    (".lokr_w2_b", "lokr_w2_b"),
    (".lokr_t2", "lokr_t2"),
    (".diff", "diff"),
    (".w_norm", "diff"),
    (".diff_b", "diff_b"),
    (".b_norm", "diff_b"),
];

/// What an adapter file says about its own alphas, by diffusers.
const METADATA: &str = "lora_adapter_metadata";
/// Names in a report at most.
const NAMED: usize = 5;

/// How strongly a LoRA changes the parts of a model; 1 as it was trained, 0 not at all.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Strength {
    /// Of the U-Net.
    pub unet: f32,
    /// Of the text encoders.
    pub text: f32,
}

impl Strength {
    /// The same everywhere.
    pub fn all(strength: f32) -> Self {
        Self {
            unet: strength,
            text: strength,
        }
    }

    fn of(self, part: &str) -> f32 {
        if part == "unet" { self.unet } else { self.text }
    }
}

/// A file of factors: LoRA, LoCon, LoHa, LoKr, DoRA or full differences.
///
/// Source: Hu et al. 2021 (arXiv:2106.09685); Yeh et al. 2023 (arXiv:2309.14859) for LoHa and LoKr; Liu et al. 2024
/// (arXiv:2402.09353) for DoRA.
#[derive(Debug)]
pub struct Lora {
    weights: Weights,
    /// Layer by its name in the file, with the names of its tensors.
    layers: BTreeMap<String, BTreeMap<&'static str, String>>,
    /// Tensors of no known ending.
    strangers: Vec<String>,
    /// Alphas that the header tells.
    metadata: Map<String, Value>,
}

/// How well a LoRA and a model fit.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraReport {
    /// The file.
    pub path: PathBuf,
    /// How strongly it was merged in.
    pub strength: Strength,
    /// Tensors of the file that have their place in the model.
    pub matched: usize,
    /// Tensors of the file.
    pub total: usize,
    /// Names of some that have none.
    pub unmatched: Vec<String>,
}

impl LoraReport {
    /// One sentence about what was left out; `None` if nothing was.
    pub fn warning(&self) -> Option<String> {
        let left = self.total - self.matched;
        (left > 0).then(|| {
            format!(
                "`{}`: {left} of {} tensors have no place in this model and were left out, as `{}`",
                self.path.display(),
                self.total,
                self.unmatched.join("`, `")
            )
        })
    }
}

impl Lora {
    /// Opens a file.
    ///
    /// # Errors
    /// [`ModelError::Format`]; [`ModelError::Adapter`] if it holds no factors.
    pub fn open(path: &Path) -> Result<Self> {
        Self::of(Weights::open(path)?)
    }

    /// Of a file that is open.
    ///
    /// # Errors
    /// [`ModelError::Adapter`] if it holds no factors.
    pub fn of(weights: Weights) -> Result<Self> {
        let mut layers: BTreeMap<String, BTreeMap<&'static str, String>> = BTreeMap::new();
        let mut strangers = Vec::new();
        for name in weights.names() {
            let split = ENDINGS
                .iter()
                .find_map(|(ending, what)| Some((name.strip_suffix(ending)?, *what)));
            match split {
                Some((layer, what)) => {
                    let layer = layers.entry(layer.to_owned()).or_default();
                    layer.insert(what, name.to_owned());
                }
                None => strangers.push(name.to_owned()),
            }
        }
        if layers.is_empty() {
            let found = kind::recognise(&weights).map_or_else(
                || "holds no factors of a LoRA".to_owned(),
                |kind| format!("is no LoRA but {kind}; {}", kind.use_with()),
            );
            return Err(ModelError::Adapter {
                path: weights.path().to_path_buf(),
                reason: found,
            });
        }
        let metadata = weights.metadata().get(METADATA);
        let metadata = metadata.and_then(|text| serde_json::from_str(text).ok());
        Ok(Self {
            weights,
            layers,
            strangers,
            metadata: metadata.unwrap_or_default(),
        })
    }

    /// Merges files into a model's weights, in their order, in f32; tells how well each fits.
    ///
    /// # Errors
    /// [`ModelError::Adapter`] if none of a file's tensors has a place in the model, or one has another shape;
    /// [`ModelError::Format`] if a file is broken, or there is no room for the merged weights.
    pub fn merge(
        loras: &[(Self, Strength)],
        folder: ModelFolder,
    ) -> Result<(ModelFolder, Vec<LoraReport>)> {
        let mut names = LayerNames::default();
        let mut parts = BTreeMap::new();
        for part in ["unet", "text_encoder", "text_encoder_2"] {
            if let Some(weights) = folder.part_weights(part)? {
                names.add(part, &weights);
                parts.insert(part.to_owned(), weights);
            }
        }
        let mut reports = Vec::new();
        // Of each layer the files that change it, and their names for it.
        let mut changes: BTreeMap<Place, Vec<(usize, &str)>> = BTreeMap::new();
        for (number, (lora, strength)) in loras.iter().enumerate() {
            let (report, places) = lora.places(&names, *strength)?;
            reports.push(report);
            for (layer, place) in places {
                changes.entry(place).or_default().push((number, layer));
            }
        }
        let mut merged = Vec::new();
        for (part, weights) in parts {
            let mut changed = ChangedTensors::new()?;
            for (place, layers) in changes.iter().filter(|(place, _)| place.part == part) {
                for (ending, is_bias) in [("weight", false), ("bias", true)] {
                    let name = format!("{}.{ending}", place.layer);
                    let Some((_, shape)) = weights.describe(&name) else {
                        continue;
                    };
                    let mut values = weights.read_f32(&name)?;
                    let mut touched = false;
                    for &(number, layer) in layers {
                        let (lora, strength) = &loras[number];
                        let strength = strength.of(&part);
                        let factors = lora.factors(layer, &part)?;
                        touched |= factors
                            .add_to(&mut values, shape, strength, is_bias)
                            .map_err(|reason| lora.misfit(layer, shape, &reason))?;
                    }
                    if touched {
                        changed.push(&name, shape, &values)?;
                    }
                }
            }
            let source = folder.files().below(&part);
            merged.push((part, source.with_own_weights(changed.over(&weights)?)));
        }
        Ok((folder.with_parts(merged)?, reports))
    }

    /// Where the layers belong, and how many tensors do.
    fn places(
        &self,
        names: &LayerNames,
        strength: Strength,
    ) -> Result<(LoraReport, Vec<(&str, Place)>)> {
        let mut report = LoraReport {
            path: self.weights.path().to_path_buf(),
            strength,
            matched: 0,
            total: self.weights.len(),
            unmatched: self.strangers.clone(),
        };
        let mut places = Vec::new();
        for (layer, tensors) in &self.layers {
            match names.find(layer) {
                Some(place) => {
                    report.matched += tensors.len();
                    places.push((layer.as_str(), place.clone()));
                }
                None => report.unmatched.extend(tensors.values().cloned()),
            }
        }
        if places.is_empty() {
            let first = self.layers.keys().next().map_or("", String::as_str);
            return Err(ModelError::Adapter {
                path: report.path,
                reason: format!(
                    "changes nothing in this model: none of its {} tensors has a place there, the first is for `{first}`; \
                     it looks made for {}",
                    report.total,
                    kind::made_for(&self.weights)
                ),
            });
        }
        report.unmatched.truncate(NAMED);
        Ok((report, places))
    }

    /// The factors of a layer, read.
    fn factors(&self, layer: &str, part: &str) -> Result<Factors> {
        let mut factors = Factors::default();
        for (what, name) in self.layers.get(layer).into_iter().flatten() {
            let tensor = self.weights.tensor(name)?;
            factors.insert(what, tensor.shape.to_vec(), tensor.to_f32());
        }
        if let Some(alpha) = self.stated_alpha(layer, part) {
            factors.default_alpha(alpha);
        }
        Ok(factors)
    }

    /// Alpha as the header tells it, where no tensor does. Source: PEFT's `LoraConfig`.
    fn stated_alpha(&self, layer: &str, part: &str) -> Option<f32> {
        let of = |key: &str| self.metadata.get(&format!("{part}.{key}"));
        let patterns = of("alpha_pattern").and_then(Value::as_object);
        let special = patterns.and_then(|patterns| {
            let (_, alpha) = patterns.iter().find(|(name, _)| layer.ends_with(*name))?;
            alpha.as_f64()
        });
        let alpha = special.or_else(|| of("lora_alpha")?.as_f64())?;
        let by_root = of("use_rslora").and_then(Value::as_bool) == Some(true);
        let rank = of("r").and_then(Value::as_f64).filter(|_| by_root);
        Some((alpha * rank.map_or(1.0, f64::sqrt)) as f32)
    }

    fn misfit(&self, layer: &str, shape: &[usize], reason: &str) -> ModelError {
        ModelError::Adapter {
            path: self.weights.path().to_path_buf(),
            reason: format!(
                "does not fit this model: {reason} for `{layer}`, where the model's weight has shape {shape:?}; it looks \
                 made for {}",
                kind::made_for(&self.weights)
            ),
        }
    }
}
