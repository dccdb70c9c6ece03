//! The flags of `latent generate` that Stable Diffusion XL adds.

use std::path::PathBuf;

use clap::Args;
use latent::Request;

/// For Stable Diffusion XL; other models say that these have no effect.
#[derive(Debug, Args)]
#[command(next_help_heading = "Stable Diffusion XL")]
pub(crate) struct SdxlFlags {
    /// What the second text encoder reads [default: the prompt].
    #[arg(long, value_name = "WORDS")]
    prompt_2: Option<String>,
    /// What the second text encoder reads of what should not be shown [default: `--negative`].
    #[arg(long, value_name = "WORDS")]
    negative_2: Option<String>,
    /// Size of the picture it should look as if it was made from [default: its own].
    #[arg(long, value_name = "WxH", value_parser = size)]
    original_size: Option<[usize; 2]>,
    /// Where that picture should look cut, left and top [default: 0,0].
    #[arg(long, value_name = "X,Y", value_parser = place)]
    crop: Option<[usize; 2]>,
    /// Size it should look scaled to [default: its own].
    #[arg(long, value_name = "WxH", value_parser = size)]
    target_size: Option<[usize; 2]>,
    /// How much people should like the picture, for the refiner [default: 6].
    #[arg(long, value_name = "X")]
    aesthetic_score: Option<f32>,
    /// A second model that does the last part of the steps: a folder, or a checkpoint of one file.
    #[arg(long, value_name = "PATH", requires = "model")]
    pub(crate) refiner: Option<PathBuf>,
    /// Share of the noise levels after which the refiner takes over, above 0 and below 1 [default: 0.8].
    #[arg(long, value_name = "SHARE", requires = "refiner")]
    refine_at: Option<f64>,
}

impl SdxlFlags {
    /// Lays these flags over `request`.
    pub(crate) fn lay_over(&self, request: &mut Request) {
        for (flag, words) in [
            (&self.prompt_2, &mut request.prompt_2),
            (&self.negative_2, &mut request.negative_prompt_2),
        ] {
            if let Some(flag) = flag {
                words.clone_from(flag);
            }
        }
        let sizes = &mut request.micro_conditioning;
        sizes.original_size = self.original_size.or(sizes.original_size);
        sizes.crop = self.crop.or(sizes.crop);
        sizes.target_size = self.target_size.or(sizes.target_size);
        sizes.aesthetic_score = self.aesthetic_score.or(sizes.aesthetic_score);
        request.denoising_end = self.refine_at.or(request.denoising_end);
    }
}

fn size(text: &str) -> Result<[usize; 2], String> {
    pair(text, 'x').ok_or_else(|| "width and height are needed, as in 1024x768".into())
}

fn place(text: &str) -> Result<[usize; 2], String> {
    pair(text, ',').ok_or_else(|| "left and top are needed, as in 0,128".into())
}

fn pair(text: &str, between: char) -> Option<[usize; 2]> {
    let (first, second) = text.split_once(between)?;
    Some([first.trim().parse().ok()?, second.trim().parse().ok()?])
}
