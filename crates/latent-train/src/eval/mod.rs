//! Measuring: what an autoencoder loses, and what a pipeline draws, as a judge sees it that was trained apart.

mod frechet;
mod generation;
mod judge;
mod naming;
mod reconstruction;
mod tally;
mod wording;

pub use frechet::{frechet_distance, kernel_distance};
pub use generation::{GenerationOptions, GenerationReport, evaluate_generation};
pub use judge::Judge;
pub(crate) use judge::write_preprocessor;
pub use reconstruction::{
    GroupScore, ReconstructionOptions, ReconstructionReport, evaluate_reconstruction,
};
pub use tally::{Hits, WordHits};

use latent_data::Example;
use serde_json::Value;

/// A word of an example's metadata, as `style` or `kind`; `-` where it has none.
fn word<'a>(example: &'a Example, key: &str) -> &'a str {
    example
        .attributes
        .get(key)
        .and_then(Value::as_str)
        .unwrap_or("-")
}

/// Ids of the concepts in a picture: `id` of each of `objects` in its metadata, else its class, else nothing.
fn concepts(example: &Example) -> Vec<&str> {
    let objects = example.attributes.get("objects").and_then(Value::as_array);
    match objects {
        Some(objects) => objects
            .iter()
            .filter_map(|object| object.get("id")?.as_str())
            .collect(),
        None => example.class.as_deref().into_iter().collect(),
    }
}

/// `count` of `all` places, evenly spread.
fn spread(all: usize, count: usize) -> impl Iterator<Item = usize> {
    let count = count.min(all);
    (0..count).map(move |index| index * all / count)
}
