//! Data sets people have: folders, `metadata.jsonl`, WebDataset shards; and the order in which training sees them.

mod data_set;
mod folder;
mod metadata;
mod pattern;
mod sampler;
mod shards;

pub use data_set::{Caption, Captions, DataSet, Example};
pub use sampler::Sampler;
