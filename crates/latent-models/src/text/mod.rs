//! Text encoders, and the image tower that they are trained with.

mod clip;
mod config;
mod image_tower;

pub use clip::{ClipTextModel, TextStates};
pub use config::{ClipTextConfig, HiddenActivation, ImageTowerConfig};
pub use image_tower::ImageTower;
