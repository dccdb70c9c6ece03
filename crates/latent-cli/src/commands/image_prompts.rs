//! The flags of pictures that are looked at beside the words: IP-Adapters.

use std::path::PathBuf;

use clap::Args;
use latent::{Builder, ImagePrompt, Picture};

use super::adapters::numbers_behind;
use crate::fault::Fault;

/// Pictures, and the adapters that make a U-Net look at them.
#[derive(Clone, Debug, Default, PartialEq, Args)]
#[command(next_help_heading = "Adapters and parts")]
pub(crate) struct ImagePrompts {
    /// An IP-Adapter, by which pictures count beside the words, with its strength; repeat it for several [default strength:
    /// 1].
    #[arg(long, value_name = "FILE[:STRENGTH]", requires = "ip_image")]
    ip_adapter: Vec<String>,
    /// A picture that an IP-Adapter looks at, one for each adapter in their order, or several for one.
    #[arg(long, value_name = "PICTURE", requires = "ip_adapter")]
    ip_image: Vec<PathBuf>,
    /// The encoder that IP-Adapters see with: a folder or file of a `CLIPVisionModelWithProjection` [default: the folder
    /// image_encoder beside the adapter].
    #[arg(long, value_name = "PATH", requires = "ip_adapter")]
    image_encoder: Option<PathBuf>,
    /// Share of the steps, 0 to 1, that is done before IP-Adapters begin to look [default: 0].
    #[arg(long, value_name = "X", requires = "ip_adapter")]
    ip_start: Option<f64>,
    /// Share of the steps that is done when they end [default: 1].
    #[arg(long, value_name = "X", requires = "ip_adapter")]
    ip_end: Option<f64>,
}

impl ImagePrompts {
    /// Lays them over the model to be opened.
    ///
    /// # Errors
    /// When adapters and pictures cannot be paired, or a picture cannot be read.
    pub(crate) fn onto(&self, mut builder: Builder) -> Result<Builder, Fault> {
        if let Some(path) = &self.image_encoder {
            builder = builder.image_encoder(path);
        }
        let (adapters, pictures) = (self.ip_adapter.len(), self.ip_image.len());
        if adapters > 1 && adapters != pictures {
            return Err(Fault::usage(format!(
                "there are {adapters} IP-Adapters and {pictures} pictures"
            ))
            .hint("give each `--ip-adapter` one `--ip-image`, in their order; several pictures go with a single adapter"));
        }
        let shared = adapters == 1;
        for (index, text) in self.ip_adapter.iter().enumerate() {
            let (adapter, strength) = numbers_behind(text, 1);
            let own = match shared {
                true => &self.ip_image[..],
                false => &self.ip_image[index..=index],
            };
            let pictures: Result<Vec<Picture>, _> = own.iter().map(|p| Picture::open(p)).collect();
            builder = builder.image_prompt(ImagePrompt {
                strength: strength.first().copied().unwrap_or(1.0),
                start: self.ip_start.unwrap_or(0.0),
                end: self.ip_end.unwrap_or(1.0),
                ..ImagePrompt::new(adapter, pictures?)
            });
        }
        Ok(builder)
    }
}
