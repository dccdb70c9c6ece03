//! The U-Net, `UNet2DConditionModel`, and what leads it by pictures: `ControlNetModel` and IP-Adapters.

mod blocks;
mod condition;
mod config;
mod controlnet;
mod controlnet_config;
mod controlnet_file;
mod image_projection;
mod ip_adapter;
mod layers;
mod merging;
mod model;
mod transformer;

pub use condition::{TextTime, UNetCondition};
pub use config::{
    AdditionEmbedType, DownBlockType, MidBlockType, UNet2dConditionConfig, UpBlockType,
};
pub use controlnet::{ControlNet, ControlNetContext, Residuals};
pub use controlnet_config::ControlNetConfig;
pub use image_projection::Reads;
pub use ip_adapter::IpAdapter;
pub use layers::DeepFeatures;
pub use merging::TokenMerging;
pub use model::{Context, Leading, UNet2dCondition};
