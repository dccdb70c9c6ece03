//! The U-Net: `UNet2DConditionModel`.

mod blocks;
mod config;
mod model;
mod transformer;

pub use config::{DownBlockType, MidBlockType, UNet2dConditionConfig, UpBlockType};
pub use model::{Context, UNet2dCondition, UNetCondition};
