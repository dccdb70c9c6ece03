//! What changes a model without being one: LoRAs, embeddings, loose parts, and what a file is for.

mod delta;
mod embedding;
mod kind;
pub(crate) mod layers;
mod lora;
mod names;
mod parts;
mod train;

pub use embedding::Embedding;
pub(crate) use kind::family_of_width;
pub use kind::{FileKind, recognise};
pub use lora::{Lora, LoraReport, Strength};
pub use train::{LayerKind, LoraDialect, LoraFiles, LoraLayer};
