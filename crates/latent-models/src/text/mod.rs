//! Text encoders, and the image tower that they are trained with.

mod clip;
mod config;
mod image_tower;

pub use clip::{ClipTextModel, TextStates};
pub use config::{ClipTextConfig, HiddenActivation, ImageTowerConfig, TextArchitecture};
pub use image_tower::ImageTower;
