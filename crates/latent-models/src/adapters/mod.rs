//! What changes a model without being one: LoRAs, embeddings, loose parts, and what a file is for.

mod delta;
mod embedding;
mod kind;
mod lora;
mod names;
mod parts;

pub use embedding::Embedding;
pub(crate) use kind::family_of_width;
pub use kind::{FileKind, recognise};
pub use lora::{Lora, LoraReport, Strength};
