//! Encoders of texts and of pictures, and the image tower that texts' are trained with.

mod clip;
mod clip_vision;
mod config;
mod image_tower;
mod layers;
mod vision_config;

pub use clip::{ClipTextModel, TextStates};
pub use clip_vision::{ClipVisionModel, ImageStates};
pub use config::{ClipTextConfig, HiddenActivation, ImageTowerConfig, TextArchitecture};
pub use image_tower::ImageTower;
pub use vision_config::ClipVisionConfig;
