//! The U-Net: `UNet2DConditionModel`.

mod blocks;
mod config;
mod model;
mod transformer;

pub use config::{
    AdditionEmbedType, DownBlockType, MidBlockType, UNet2dConditionConfig, UpBlockType,
};
pub use model::{Context, TextTime, UNet2dCondition, UNetCondition};
