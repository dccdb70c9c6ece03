//! The flags of `latent generate` beyond words to a picture.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use latent::{Hires, Picture, PictureSource, Request, Upscaler, Variation};

use crate::fault::Fault;

/// What a picture starts from, and how it is enlarged.
#[derive(Clone, Debug, Args)]
pub(crate) struct Modes {
    /// Start from this picture; its size is taken, or with --width and --height its middle.
    #[arg(long, value_name = "PICTURE", help_heading = "From a picture")]
    init: Option<PathBuf>,
    /// Share of the steps done from it, above 0 (as it is) to 1 (all new) [default: 0.8, with a mask 1].
    #[arg(
        long,
        value_name = "X",
        allow_negative_numbers = true,
        help_heading = "From a picture"
    )]
    strength: Option<f64>,
    /// Paint only where this picture of the same size is white.
    #[arg(long, value_name = "PICTURE", help_heading = "From a picture")]
    mask: Option<PathBuf>,
    /// Widen the mask by so many pixels first; thin lines need it [default: 0].
    #[arg(long, value_name = "PIXELS", help_heading = "From a picture")]
    mask_grow: Option<usize>,
    /// Let the new part fade into the picture over so many pixels around the mask [default: 0, with --outpaint 16].
    #[arg(long, value_name = "PIXELS", help_heading = "From a picture")]
    mask_blur: Option<usize>,
    /// Whether pixels outside the mask are put back exactly as they were [default: true].
    #[arg(long, value_name = "BOOL", help_heading = "From a picture")]
    keep_unmasked: Option<bool>,
    /// Paint so many pixels around the picture.
    #[arg(long, value_name = "LEFT,TOP,RIGHT,BOTTOM", value_parser = sides, help_heading = "From a picture")]
    outpaint: Option<[usize; 4]>,
    /// Go towards this seed's noise; with --count it counts, and --seed stays.
    #[arg(
        long,
        value_name = "SEED",
        requires = "variation_strength",
        help_heading = "Variations and size"
    )]
    variation_seed: Option<u64>,
    /// How far to go, above 0 to 1.
    #[arg(
        long,
        value_name = "X",
        requires = "variation_seed",
        allow_negative_numbers = true,
        help_heading = "Variations and size"
    )]
    variation_strength: Option<f64>,
    /// Draw at the asked size, enlarge both sides by this, and draw over it.
    #[arg(
        long,
        value_name = "X",
        allow_negative_numbers = true,
        help_heading = "Variations and size"
    )]
    hires_scale: Option<f64>,
    /// Steps the second pass does [default: as many as the first].
    #[arg(
        long,
        value_name = "N",
        requires = "hires_scale",
        help_heading = "Variations and size"
    )]
    hires_steps: Option<usize>,
    /// Share of the schedule the second pass does, above 0 to 1 [default: 0.7].
    #[arg(
        long,
        value_name = "X",
        requires = "hires_scale",
        allow_negative_numbers = true,
        help_heading = "Variations and size"
    )]
    hires_strength: Option<f64>,
    /// What enlarges: latents by straight lines, or pixels by Lanczos' filter [default: latent].
    #[arg(
        long,
        value_enum,
        value_name = "NAME",
        requires = "hires_scale",
        help_heading = "Variations and size"
    )]
    hires_upscaler: Option<UpscalerFlag>,
}

/// A choice of [`Upscaler`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum UpscalerFlag {
    /// Latents, by straight lines.
    Latent,
    /// Pixels, by Lanczos' filter.
    Lanczos,
}

/// Four numbers of pixels.
fn sides(text: &str) -> Result<[usize; 4], String> {
    let numbers: Result<Vec<usize>, _> = text.split(',').map(|side| side.trim().parse()).collect();
    let four = numbers.ok().and_then(|sides| sides.try_into().ok());
    four.ok_or_else(|| "give four numbers of pixels, as in 64,0,64,0".to_owned())
}

impl Modes {
    /// Lays the flags over a request, and reads the pictures it names.
    pub(crate) fn lay_over(&self, request: &mut Request) -> Result<(), Fault> {
        if let Some(path) = &self.init {
            request.init = Some(picture(path)?);
        }
        if let Some(path) = &self.mask {
            request.mask = Some(picture(path)?);
        }
        request.strength = self.strength.or(request.strength);
        request.mask_grow = self.mask_grow.or(request.mask_grow);
        request.mask_blur = self.mask_blur.or(request.mask_blur);
        request.keep_unmasked = self.keep_unmasked.or(request.keep_unmasked);
        request.outpaint = self.outpaint.or(request.outpaint);
        if let (Some(seed), Some(strength)) = (self.variation_seed, self.variation_strength) {
            request.variation = Some(Variation { seed, strength });
        }
        if let Some(scale) = self.hires_scale {
            let usual = Hires::new(scale);
            request.hires = Some(Hires {
                steps: self.hires_steps,
                strength: self.hires_strength.unwrap_or(usual.strength),
                upscaler: match self.hires_upscaler {
                    Some(UpscalerFlag::Lanczos) => Upscaler::Lanczos,
                    Some(UpscalerFlag::Latent) | None => Upscaler::Latent,
                },
                ..usual
            });
        }
        Ok(request.read_pictures()?)
    }
}

fn picture(path: &Path) -> Result<PictureSource, Fault> {
    Ok(Picture::open(path)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_four_numbers() {
        assert_eq!(sides("1, 2,3,4"), Ok([1, 2, 3, 4]));
        for wrong in ["", "1,2,3", "1,2,3,4,5", "1,2,3,-4", "a,b,c,d"] {
            assert!(sides(wrong).is_err(), "{wrong}");
        }
    }
}
