//! The many spellings of a layer's name in adapters.

use std::collections::BTreeMap;

use latent_formats::Weights;

use crate::single_file::{LdmNames, TextNames};
use crate::weights::canonical_name;

/// A layer of a model.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// The part's folder.
    pub(super) part: String,
    /// The layer's name in that part's file, without its ending.
    pub(super) layer: String,
}

/// What begins the name of a layer: dotted names, and names whose dots are underscores.
struct Beginnings {
    part: &'static str,
    dotted: &'static [&'static str],
    underscored: &'static [&'static str],
}

/// Source: kohya's sd-scripts (`networks/lora.py`), diffusers' `lora_conversion_utils.py`, LyCORIS. Files for models
/// with one text encoder call it `te`, those for two `te1` and `te2`.
const BEGINNINGS: &[Beginnings] = &[
    Beginnings {
        part: "unet",
        dotted: &["unet.", ""],
        underscored: &["lora_unet_", "lycoris_unet_", "lycoris_"],
    },
    Beginnings {
        part: "text_encoder",
        dotted: &["text_encoder."],
        underscored: &["lora_te_", "lora_te1_", "lycoris_te_"],
    },
    Beginnings {
        part: "text_encoder_2",
        dotted: &["text_encoder_2."],
        underscored: &["lora_te2_"],
    },
];

/// Every name that an adapter may give a layer of a model.
#[derive(Default)]
pub(super) struct LayerNames(BTreeMap<String, Place>);

impl LayerNames {
    /// Adds the layers of a part.
    pub(super) fn add(&mut self, part: &str, weights: &Weights) {
        let Some(beginnings) = BEGINNINGS.iter().find(|row| row.part == part) else {
            return;
        };
        let ldm = LdmNames::of(weights.names(), [].into_iter(), TextNames::Transformers);
        for layer in weights
            .names()
            .filter_map(|name| name.strip_suffix(".weight"))
        {
            let place = Place {
                part: part.to_owned(),
                layer: layer.to_owned(),
            };
            let canonical = canonical_name(part, layer);
            let mut spellings = vec![canonical.clone()];
            if let Some(bare) = canonical.strip_prefix("text_model.") {
                spellings.push(bare.to_owned());
            }
            if part == "unet"
                && let Some(published) = ldm.unet(&canonical)
            {
                self.insert(format!("diffusion_model.{published}"), &place);
                self.insert(format!("model.diffusion_model.{published}"), &place);
                spellings.push(published);
            }
            for name in spellings {
                for beginning in beginnings.dotted {
                    self.insert(format!("{beginning}{name}"), &place);
                }
                let name = name.replace('.', "_");
                for beginning in beginnings.underscored {
                    self.insert(format!("{beginning}{name}"), &place);
                }
            }
        }
    }

    fn insert(&mut self, name: String, place: &Place) {
        self.0.entry(name).or_insert_with(|| place.clone());
    }

    /// The layer that an adapter calls `name`.
    pub(super) fn find(&self, name: &str) -> Option<&Place> {
        let name = name.strip_prefix("base_model.model.").unwrap_or(name);
        if let Some(place) = self.0.get(name) {
            return Some(place);
        }
        // diffusers before its 0.17 named a layer by what works in it.
        let plain = name
            .replace(".processor.to_out", ".to_out.0")
            .replace(".processor.", ".");
        self.0.get(&plain)
    }
}
