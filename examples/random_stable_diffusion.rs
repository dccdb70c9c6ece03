//! A folder of Stable Diffusion 1.5's exact sizes with drawn weights, 2.1 GB in f16: what times and memory are measured
//! with. Its pictures are noise.
//!
//! `cargo run --release -p latent-examples --example random_stable_diffusion -- FOLDER`

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

use latent::models::{
    AutoencoderKl, AutoencoderKlConfig, ClipTextConfig, ClipTextModel, Counts,
    DownEncoderBlockType, UNet2dCondition, UNet2dConditionConfig, UpDecoderBlockType,
};
use latent::{Compute, Dtype, Precision};
use latent_nn::Init;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = env::args().nth(1).ok_or("name a folder to write")?;
    let folder = PathBuf::from(folder);
    let init = &mut Init::seeded(&Compute::cpu(Precision::F32), 7);
    let unet = UNet2dConditionConfig {
        attention_head_dim: Counts::Same(8),
        cross_attention_dim: 768,
        ..UNet2dConditionConfig::default()
    };
    UNet2dCondition::new(&unet, init)?.save_as(&folder.join("unet"), Dtype::F16)?;
    let vae = AutoencoderKlConfig {
        down_block_types: vec![DownEncoderBlockType::Plain; 4],
        up_block_types: vec![UpDecoderBlockType::Plain; 4],
        block_out_channels: vec![128, 256, 512, 512],
        layers_per_block: 2,
        sample_size: 512,
        scaling_factor: Some(0.18215),
        ..AutoencoderKlConfig::default()
    };
    AutoencoderKl::new(&vae, init)?.save_as(&folder.join("vae"), Dtype::F16)?;
    let text = ClipTextConfig {
        hidden_size: 768,
        intermediate_size: 3072,
        projection_dim: 768,
        num_attention_heads: 12,
        ..ClipTextConfig::default()
    };
    ClipTextModel::new(&text, init)?.save_as(&folder.join("text_encoder"), Dtype::F16)?;
    // What has no weights is the family's own.
    let family = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/latent-models/assets/sd1");
    for part in ["scheduler", "tokenizer"] {
        fs::create_dir_all(folder.join(part))?;
        for file in fs::read_dir(family.join(part))? {
            let file = file?;
            fs::copy(file.path(), folder.join(part).join(file.file_name()))?;
        }
    }
    fs::copy(
        family.join("model_index.json"),
        folder.join("model_index.json"),
    )?;
    println!("{}", folder.display());
    Ok(())
}
