//! A folder of Stable Diffusion's exact sizes with drawn weights, in f16: what times and memory are measured with. Its
//! pictures are noise. 1.5 takes 2.1 GB, XL 6.9 GB; making either takes less than 2 GB of memory, for no network is built.
//!
//! `cargo run --release -p latent-examples --example random_stable_diffusion -- FOLDER [xl]`

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

use latent::models::{
    AutoencoderKl, AutoencoderKlConfig, ClipTextConfig, ClipTextModel, DownEncoderBlockType,
    FileSource, HiddenActivation, ModelFolder, TextArchitecture, UNet2dCondition,
    UpDecoderBlockType, written_name,
};
use latent::{Compute, Dtype, Precision};
use latent_formats::SafetensorsWriter;
use latent_nn::{Init, Named, named_parameters, to_host};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Where each part's small files come from, below `crates/latent-models/assets`.
const SD15: &[(&str, &str)] = &[
    ("unet", "sd1/unet"),
    ("vae", "sd1/vae"),
    ("text_encoder", "sd1/text_encoder"),
    ("scheduler", "sd1/scheduler"),
    ("tokenizer", "sd1/tokenizer"),
    ("", "sd1"),
];
const XL: &[(&str, &str)] = &[
    ("unet", "sdxl/unet"),
    ("vae", "sdxl/vae"),
    ("text_encoder", "sd1/text_encoder"),
    ("text_encoder_2", "sdxl/text_encoder_2"),
    ("scheduler", "sdxl/scheduler"),
    ("tokenizer", "sd1/tokenizer"),
    // The same words; only what fills short texts is another token.
    ("tokenizer_2", "sd1/tokenizer"),
    ("tokenizer_2", "sd2/tokenizer"),
    ("", "sdxl"),
];

fn main() -> Result<()> {
    let folder = PathBuf::from(env::args().nth(1).ok_or("name a folder to write")?);
    let xl = match env::args().nth(2).as_deref() {
        None => false,
        Some("xl") => true,
        Some(other) => {
            return Err(format!("`{other}` is no size; leave it out, or take `xl`").into());
        }
    };
    for (part, from) in if xl { XL } else { SD15 } {
        copy_files(from, &folder.join(part))?;
    }
    let model = ModelFolder::from_source(FileSource::folder(&folder))?;
    let text = model
        .text_encoder_config()
        .ok_or("the family reads words")?;
    // Names and shapes: an empty model has no weights in memory.
    let init = &mut Init::empty(&Compute::cpu(Precision::F32));
    let unet = named_parameters(&UNet2dCondition::new(model.unet_config(), init)?);
    let vae = named_parameters(&AutoencoderKl::new(&autoencoder(), init)?);
    let text = named_parameters(&ClipTextModel::new(text, init)?);
    write(
        &unet,
        &folder.join("unet/diffusion_pytorch_model.safetensors"),
    )?;
    write(
        &vae,
        &folder.join("vae/diffusion_pytorch_model.safetensors"),
    )?;
    write(&text, &folder.join("text_encoder/model.safetensors"))?;
    if xl {
        let second = named_parameters(&ClipTextModel::new(&second_text_encoder(), init)?);
        write(&second, &folder.join("text_encoder_2/model.safetensors"))?;
    }
    println!("{}", folder.display());
    Ok(())
}

/// Copies the files, not the folders, of an asset.
fn copy_files(asset: &str, to: &Path) -> Result<()> {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/latent-models/assets");
    fs::create_dir_all(to)?;
    for file in fs::read_dir(assets.join(asset))? {
        let file = file?;
        if file.file_type()?.is_file() {
            fs::copy(file.path(), to.join(file.file_name()))?;
        }
    }
    Ok(())
}

/// Of both families, but for the scale of latents, which no weight depends on.
fn autoencoder() -> AutoencoderKlConfig {
    AutoencoderKlConfig {
        down_block_types: vec![DownEncoderBlockType::Plain; 4],
        up_block_types: vec![UpDecoderBlockType::Plain; 4],
        block_out_channels: vec![128, 256, 512, 512],
        layers_per_block: 2,
        ..AutoencoderKlConfig::default()
    }
}

/// OpenCLIP's ViT-bigG.
fn second_text_encoder() -> ClipTextConfig {
    ClipTextConfig {
        hidden_size: 1280,
        intermediate_size: 5120,
        projection_dim: 1280,
        num_hidden_layers: 32,
        num_attention_heads: 20,
        hidden_act: HiddenActivation::Gelu,
        architectures: Some([TextArchitecture::WithProjection]),
        ..ClipTextConfig::default()
    }
}

/// Writes weights of the usual spread: uniform in one over the root of the values that a result is summed from, norms at
/// one, all else zero. Tensors of as wide a sum share their values, so that few are drawn.
fn write(parameters: &[Named], path: &Path) -> Result<()> {
    let mut widest: BTreeMap<usize, usize> = BTreeMap::new();
    for parameter in parameters {
        let most = widest.entry(fan_in(&parameter.shape)).or_default();
        *most = (*most).max(parameter.shape.iter().product());
    }
    let mut init = Init::seeded(&Compute::cpu(Precision::F32), 7);
    let drawn: BTreeMap<usize, Vec<f32>> = widest
        .into_iter()
        .map(|(fan_in, count)| {
            let bound = (fan_in as f32).sqrt().recip();
            (fan_in, to_host(init.uniform([count], bound).val()).0)
        })
        .collect();
    let plain = [0.0, 1.0].map(|value| vec![value; 1 << 16]);
    let mut writer = SafetensorsWriter::new().metadata("format", "pt");
    for Named { path, shape } in parameters {
        let values = match shape[..] {
            [_] => &plain[usize::from(path.ends_with("weight"))],
            _ => &drawn[&fan_in(shape)],
        };
        let values = &values[..shape.iter().product()];
        writer = writer.f32(&written_name(path), shape, values, Dtype::F16)?;
    }
    Ok(writer.write(path)?)
}

/// Values that a result is summed from.
fn fan_in(shape: &[usize]) -> usize {
    shape[1..].iter().product()
}
