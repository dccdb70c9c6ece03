//! Bytes on disk to plain data and back: weights, configs, pictures.
//!
//! Everything here reads files that strangers made, so nothing here panics on what a file holds: a
//! [`FormatError`] names the file, the key or the line, and what was found against what was needed.
//!
//! ```
//! use latent_formats::{Bytes, Dtype, SafetensorsWriter, Weights};
//! # fn main() -> Result<(), latent_formats::FormatError> {
//! let file = SafetensorsWriter::new().f32("scale", &[2], &[0.5, 2.0], Dtype::Bf16)?.to_bytes()?;
//! let weights = Weights::from_bytes("in memory", Bytes::from_vec(file))?;
//! assert_eq!(weights.read_f32("scale")?, [0.5, 2.0]);
//! # Ok(())
//! # }
//! ```

mod atomic;
mod dtype;
mod error;
mod json;
mod mapped;
mod model_index;
mod pickle;
mod picture;
mod plot;
mod safetensors;
mod text;
mod weights;

pub use atomic::{write_atomic, write_bytes};
pub use dtype::Dtype;
pub use error::FormatError;
pub use json::{parse_config, parse_json, read_config, read_json, write_json};
pub use mapped::Bytes;
pub use model_index::{ModelIndex, PartClass};
pub use picture::{Filter, Picture, PictureFormat, Sheet, psnr, ssim};
pub use plot::{Plot, Scale, Series};
pub use safetensors::SafetensorsWriter;
pub use weights::{
    ChangedTensors, FORMATS, Renamed, StoredTensor, TensorView, WeightFormat, Weights,
};
