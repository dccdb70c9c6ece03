//! What lets a U-Net look at pictures as it looks at words: IP-Adapters.

use std::path::Path;

use burn::module::Module;
use burn::tensor::Tensor;
use latent_formats::{Renamed, Weights};
use latent_nn::layers::Linear;
use latent_nn::{Compute, Init};

use super::config::UNet2dConditionConfig;
use super::image_projection::{ImageProjection, Reads, renamed};
use super::transformer::KeysValues;
use crate::adapters::{family_of_width, recognise};
use crate::error::{ModelError, Result};
use crate::text::{ClipVisionConfig, ClipVisionModel};
use crate::weights;

/// Tokens of pictures, and their keys and values in each layer of a U-Net that looks at text.
///
/// Source: Ye et al. 2023 (arXiv:2308.06721); the layout of files is that of its authors, which diffusers reads too.
#[derive(Module, Debug)]
pub struct IpAdapter {
    image_proj: ImageProjection,
    /// In the order of a U-Net's [`super::Context`].
    ip_adapter: Vec<Layer>,
    #[module(skip)]
    reads: Reads,
}

#[derive(Module, Debug)]
struct Layer {
    to_k_ip: Linear,
    to_v_ip: Linear,
}

/// Tensors that only adapters for a face recogniser's vectors have.
const OF_FACES: [&str; 3] = [
    "image_proj.perceiver_resampler.proj_in.weight",
    "image_proj.norm.weight",
    "ip_adapter.0.to_k_lora.down.weight",
];

impl IpAdapter {
    /// The adapter in a file, for the U-Net of a config.
    ///
    /// # Errors
    /// [`ModelError::Format`]; [`ModelError::Adapter`] if it is no IP-Adapter, or one for another U-Net.
    pub fn load(path: &Path, unet: &UNet2dConditionConfig, compute: &Compute) -> Result<Self> {
        let refuse = |reason: String| ModelError::Adapter {
            path: path.to_path_buf(),
            reason,
        };
        if path.is_dir() {
            return Err(refuse(
                "is a folder, and an IP-Adapter is one file, such as `ip-adapter_sd15.safetensors`; name the file".into(),
            ));
        }
        let file = Weights::open(path)?;
        check(&file, unet).map_err(refuse)?;
        let channels = unet.attention_channels();
        let mut init = Init::empty(compute);
        let width = unet.cross_attention_dim;
        let Some((image_proj, reads)) = ImageProjection::of_file(&file, width, &mut init) else {
            return Err(refuse(
                "is an IP-Adapter of a kind that Latent does not know; it reads plain ones, \"plus\" and \"full face\"".into(),
            ));
        };
        let layer = |&channels: &usize| Layer {
            to_k_ip: Linear::new([width, channels], &mut init).without_bias(),
            to_v_ip: Linear::new([width, channels], &mut init).without_bias(),
        };
        let model = Self {
            image_proj,
            ip_adapter: channels.iter().flatten().map(layer).collect(),
            reads,
        };
        let [down, mid, up] = channels.map(|layers| layers.len());
        weights::fill(
            model,
            file.renamed(|key| {
                if let Some(rest) = key.strip_prefix("image_proj.") {
                    let mut names = renamed(rest, &file);
                    for one in &mut names {
                        one.name.insert_str(0, "image_proj.");
                    }
                    return names;
                }
                let place = layer_of(key).map(|(index, rest)| {
                    // Files have the middle last.
                    let index = if index < down {
                        index
                    } else if index < down + up {
                        index + mid
                    } else {
                        index - up
                    };
                    format!("ip_adapter.{index}.{rest}")
                });
                vec![Renamed::whole(place.unwrap_or_else(|| key.to_owned()))]
            }),
        )
    }

    /// What it reads of a picture.
    pub fn reads(&self) -> Reads {
        self.reads
    }

    /// Why it cannot read what an encoder makes of pictures; `None` if it can.
    pub fn misfit(&self, encoder: &ClipVisionConfig) -> Option<String> {
        let (needed, found, what) = match self.reads {
            Reads::Embeds(width) => (width, encoder.projection_dim, "embeddings"),
            Reads::States(width) => (width, encoder.hidden_size, "states"),
        };
        (needed != found).then(|| {
            format!(
                "reads {what} of width {needed}, and the image encoder's have {found}; name the encoder that it was trained \
                 with: of published ones, ViT-H (1024, states of 1280) goes with adapters for Stable Diffusion 1.x and \
                 with `vit-h` in the name, ViT-bigG (1280) with the other ones for SDXL"
            )
        })
    }

    /// Tokens `[1, t, cross_attention_dim]` of pictures `[1, 3, s, s]`, behind one another: those that are wanted, and
    /// those of as many without anything, from which guidance moves away.
    ///
    /// # Panics
    /// If the encoder is not one that it reads; see [`IpAdapter::misfit`].
    pub fn tokens(&self, encoder: &ClipVisionModel, pictures: &[Tensor<4>]) -> [Tensor<3>; 2] {
        let mut tokens = [Vec::new(), Vec::new()];
        for picture in pictures {
            let states = encoder.forward(picture.clone());
            let nothing = match self.reads {
                // Source: diffusers' `StableDiffusionPipeline.encode_image`.
                Reads::States(_) => encoder.forward(picture.zeros_like()),
                Reads::Embeds(_) => {
                    let mut nothing = states.clone();
                    nothing.embeds = nothing.embeds.zeros_like();
                    nothing
                }
            };
            for (tokens, states) in tokens.iter_mut().zip([states, nothing]) {
                tokens.push(self.image_proj.forward(&states));
            }
        }
        tokens.map(|tokens| Tensor::cat(tokens, 1))
    }

    /// Layers of the U-Net that look.
    pub(super) fn layers(&self) -> usize {
        self.ip_adapter.len()
    }

    /// Keys and values of tokens `[n, t, cross_attention_dim]`, one a layer.
    pub(super) fn keys_values(&self, tokens: &Tensor<3>) -> impl Iterator<Item = KeysValues> {
        self.ip_adapter.iter().map(|layer| {
            let (keys, values) = (&layer.to_k_ip, &layer.to_v_ip);
            KeysValues::new(keys.forward(tokens.clone()), values.forward(tokens.clone()))
        })
    }
}

/// The layer that a tensor of a file belongs to, counted as files do, and the tensor's name there: layers that look at the
/// picture itself count too, so that those that look at text have odd numbers.
fn layer_of(key: &str) -> Option<(usize, &str)> {
    let (number, rest) = key.strip_prefix("ip_adapter.")?.split_once('.')?;
    let number: usize = number.parse().ok()?;
    (number % 2 == 1).then_some((number / 2, rest))
}

/// Refuses what is no adapter, and adapters for other U-Nets.
fn check(file: &Weights, unet: &UNet2dConditionConfig) -> std::result::Result<(), String> {
    let has = |start: &str| file.names().any(|name| name.starts_with(start));
    if !has("image_proj.") && !has("ip_adapter.") {
        return Err(recognise(file).map_or_else(
            || "is no IP-Adapter; needed is a file with `image_proj.` and `ip_adapter.`, such as `ip-adapter_sd15.safetensors`".to_owned(),
            |kind| format!("is no IP-Adapter but {kind}; {}", kind.use_with()),
        ));
    }
    let plain = file.contains("image_proj.proj.weight");
    if !plain && OF_FACES.iter().any(|name| file.contains(name)) {
        return Err(
            "is an IP-Adapter for the vectors of a face recogniser (FaceID), which Latent does not have; take \
                    one that looks at the picture, such as `ip-adapter-plus-face_sd15.safetensors`"
                .to_owned(),
        );
    }
    let keys = |name: &&str| name.ends_with(".to_k_ip.weight");
    let width = file
        .names()
        .find(keys)
        .and_then(|name| file.describe(name)?.1.get(1).copied());
    let (found, needed) = (width.unwrap_or(0), unet.cross_attention_dim);
    if found != needed {
        return Err(format!(
            "is an IP-Adapter for {}, and this model is {}; name one made for this kind of model",
            family_of_width(found),
            family_of_width(needed)
        ));
    }
    let layers = file.names().filter(keys).count();
    let own = unet.attention_channels().iter().flatten().count();
    if layers != own {
        return Err(format!(
            "is an IP-Adapter for U-Nets with {layers} layers that look at text, and this model's has {own}; name one made for \
             this kind of model"
        ));
    }
    Ok(())
}
