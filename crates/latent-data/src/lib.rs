//! Pictures and captions: data sets people have, and the builder of the built-in model's own.

mod error;
pub mod icons;
mod readers;

pub use error::DataError;
pub use readers::{Caption, Captions, DataSet, Example, Sampler};
