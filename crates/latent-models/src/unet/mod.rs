//! The U-Net, `UNet2DConditionModel`, and the networks that steer it, `ControlNetModel`.

mod blocks;
mod config;
mod controlnet;
mod controlnet_config;
mod layers;
mod model;
mod transformer;

pub use config::{
    AdditionEmbedType, DownBlockType, MidBlockType, UNet2dConditionConfig, UpBlockType,
};
pub use controlnet::{ControlNet, ControlNetContext, Residuals};
pub use controlnet_config::ControlNetConfig;
pub use layers::DeepFeatures;
pub use model::{Context, TextTime, UNet2dCondition, UNetCondition};
