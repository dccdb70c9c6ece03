//! The ways of generating beyond words to a picture, as a request asks for them.

use std::path::PathBuf;

use latent_formats::{Filter, Picture};
use serde::{Deserialize, Serialize};

use crate::mask::{Mask, extended, surrounded, white};
use crate::request::LONGEST_SIDE;
use crate::{Error, Request};

/// Strength of image to image where none is asked for: that of diffusers' `StableDiffusionImg2ImgPipeline`.
const STRENGTH: f64 = 0.8;
/// The same of inpainting: that of diffusers' `StableDiffusionInpaintPipeline`.
const INPAINTING_STRENGTH: f64 = 1.0;
/// Pixels over which outpainting fades into the picture where no `mask_blur` is asked for.
const OUTPAINTING_BLUR: usize = 16;

/// A picture that a request starts from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PictureSource {
    /// A picture file, by its path; the one that can be written in JSON and TOML.
    File(PathBuf),
    /// Pixels in memory.
    #[serde(skip)]
    Pixels(Picture),
}

impl PictureSource {
    /// The pixels.
    ///
    /// # Errors
    /// [`Error::Format`] if the file is missing or broken.
    pub fn open(&self) -> Result<Picture, Error> {
        match self {
            Self::File(path) => Ok(Picture::open(path)?),
            Self::Pixels(picture) => Ok(picture.clone()),
        }
    }
}

impl From<Picture> for PictureSource {
    fn from(picture: Picture) -> Self {
        Self::Pixels(picture)
    }
}

impl From<PathBuf> for PictureSource {
    fn from(path: PathBuf) -> Self {
        Self::File(path)
    }
}

/// Another seed's noise mixed in: pictures near to that of the request's seed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variation {
    /// Seed of the noise to go towards; picture `k` of a count takes seed + `k`, and keeps the request's seed.
    pub seed: u64,
    /// How far, above 0 to 1.
    pub strength: f64,
}

/// A second pass at a larger size: the picture is drawn small, enlarged, and drawn over.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hires {
    /// Times that both sides grow, above 1 to 8.
    pub scale: f64,
    /// Steps that the second pass does; as many as the first where it is `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<usize>,
    /// Share of the schedule that the second pass does, above 0 to 1.
    #[serde(default = "Hires::usual_strength")]
    pub strength: f64,
    /// What enlarges.
    #[serde(default)]
    pub upscaler: Upscaler,
}

/// What enlarges the picture between the passes of [`Hires`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Upscaler {
    /// Latents, by straight lines between them; wants a strength of 0.5 or more.
    #[default]
    Latent,
    /// Pixels, by Lanczos' filter.
    Lanczos,
}

impl Hires {
    /// A second pass with the strength that A1111 begins with.
    #[must_use]
    pub fn new(scale: f64) -> Self {
        Self {
            scale,
            steps: None,
            strength: Self::usual_strength(),
            upscaler: Upscaler::default(),
        }
    }

    fn usual_strength() -> f64 {
        0.7
    }

    /// The larger size of a picture.
    pub(crate) fn size(&self, [width, height]: [usize; 2]) -> [usize; 2] {
        [width, height].map(|side| (side as f64 * self.scale).round() as usize)
    }

    fn validate(&self) -> Result<(), Error> {
        if !(self.scale > 1.0 && self.scale <= 8.0) {
            return Err(Error::Request(format!(
                "`hires.scale` is {}; it goes from above 1 to 8",
                self.scale
            )));
        }
        if let Some(steps) = self.steps.filter(|steps| !(1..=1000).contains(steps)) {
            return Err(Error::Request(format!(
                "`hires.steps` is {steps}; it goes from 1 to 1000"
            )));
        }
        in_unit("hires.strength", self.strength)
    }
}

/// The picture a request starts from at the size it is drawn at, and what of it is painted again.
pub(crate) struct Canvas {
    pub(crate) picture: Picture,
    pub(crate) mask: Option<Mask>,
    pub(crate) strength: f64,
    /// Whether what the mask leaves is put back, pixel by pixel.
    pub(crate) keep: bool,
}

impl Canvas {
    /// The finished picture: what the mask leaves is put back, if the request keeps it.
    pub(crate) fn finish(&self, painted: Picture) -> Result<Picture, Error> {
        match &self.mask {
            Some(mask) if self.keep => mask.over(&painted, &self.picture),
            _ => Ok(painted),
        }
    }
}

impl Request {
    /// Starts from a picture.
    #[must_use]
    pub fn init(mut self, picture: impl Into<PictureSource>) -> Self {
        self.init = Some(picture.into());
        self
    }

    /// Sets how much of the picture it starts from is drawn anew.
    #[must_use]
    pub fn strength(mut self, strength: f64) -> Self {
        self.strength = Some(strength);
        self
    }

    /// Paints only where `mask` is white.
    #[must_use]
    pub fn mask(mut self, mask: impl Into<PictureSource>) -> Self {
        self.mask = Some(mask.into());
        self
    }

    /// Paints `[left, top, right, bottom]` pixels around the picture.
    #[must_use]
    pub fn outpaint(mut self, sides: [usize; 4]) -> Self {
        self.outpaint = Some(sides);
        self
    }

    /// Goes towards another seed's noise by `strength`, above 0 to 1.
    #[must_use]
    pub fn variation(mut self, seed: u64, strength: f64) -> Self {
        self.variation = Some(Variation { seed, strength });
        self
    }

    /// Draws small, then over the enlarged picture.
    #[must_use]
    pub fn hires(mut self, hires: Hires) -> Self {
        self.hires = Some(hires);
        self
    }

    /// Reads the picture files it names, so that a missing one is known before any work.
    ///
    /// # Errors
    /// [`Error::Format`] if a file is missing or broken.
    pub fn read_pictures(&mut self) -> Result<(), Error> {
        for source in [&mut self.init, &mut self.mask].into_iter().flatten() {
            *source = PictureSource::Pixels(source.open()?);
        }
        Ok(())
    }

    /// How much is drawn anew, with the default of what is asked for.
    fn stated_strength(&self) -> f64 {
        let inpaints = self.mask.is_some() || self.outpaint.is_some();
        self.strength.unwrap_or(if inpaints {
            INPAINTING_STRENGTH
        } else {
            STRENGTH
        })
    }

    /// Pixels over which a mask fades.
    pub(crate) fn stated_blur(&self) -> usize {
        self.mask_blur.unwrap_or(match self.outpaint {
            Some(_) => OUTPAINTING_BLUR,
            None => 0,
        })
    }

    /// The picture it starts from, scaled to the size asked for or enlarged for outpainting, and its mask.
    pub(crate) fn canvas(&self) -> Result<Option<Canvas>, Error> {
        let Some(init) = &self.init else {
            return Ok(None);
        };
        let picture = init.open()?;
        let mask = self.mask.as_ref().map(PictureSource::open).transpose()?;
        if let Some(mask) = &mask
            && (mask.width(), mask.height()) != (picture.width(), picture.height())
        {
            return Err(Error::Request(format!(
                "the mask is {}x{}, and the picture it belongs to {}x{}; make them the same size",
                mask.width(),
                mask.height(),
                picture.width(),
                picture.height()
            )));
        }
        let (width, height) = (
            self.width.unwrap_or(picture.width()),
            self.height.unwrap_or(picture.height()),
        );
        let fitted = |picture: &Picture| picture.cover(width, height, Filter::Lanczos);
        let mut picture = fitted(&picture)?;
        let mut white = mask
            .map(|mask| Ok::<_, Error>(white(&fitted(&mask)?)))
            .transpose()?;
        if let Some(sides) = self.outpaint {
            let inside = white.unwrap_or_else(|| vec![false; width * height]);
            picture = extended(&picture, sides)?;
            white = Some(surrounded(&inside, width, sides));
        }
        if picture.width().max(picture.height()) > LONGEST_SIDE {
            return Err(Error::Request(format!(
                "the picture to draw is {}x{}; a side has at most {LONGEST_SIDE} pixels, so make it smaller with \
                 `width` and `height`",
                picture.width(),
                picture.height()
            )));
        }
        let (width, grow, blur) = (
            picture.width(),
            self.mask_grow.unwrap_or(0),
            self.stated_blur(),
        );
        let mask = white.map(|white| Mask::new(&white, width, grow, blur));
        Ok(Some(Canvas {
            picture,
            mask: mask.transpose()?,
            strength: self.stated_strength(),
            keep: self.keep_unmasked.unwrap_or(true),
        }))
    }

    /// Checks what is asked for beyond words to a picture.
    pub(crate) fn validate_modes(&self) -> Result<(), Error> {
        let refuse = |what: &str| Err(Error::Request(what.into()));
        let masked = self.mask.is_some() || self.outpaint.is_some();
        let needs_init = [
            ("strength", self.strength.is_some()),
            ("mask", self.mask.is_some()),
            ("outpaint", self.outpaint.is_some()),
        ];
        let needs_mask = [
            ("mask_grow", self.mask_grow.is_some()),
            ("mask_blur", self.mask_blur.is_some()),
            ("keep_unmasked", self.keep_unmasked.is_some()),
        ];
        if let Some((name, _)) = needs_init.iter().find(|(_, given)| *given)
            && self.init.is_none()
        {
            return refuse(&format!(
                "`{name}` is given without a picture to start from; name one with `init`"
            ));
        }
        if let Some((name, _)) = needs_mask.iter().find(|(_, given)| *given)
            && !masked
        {
            return refuse(&format!(
                "`{name}` is given without a mask; name one with `mask`, or ask for `outpaint`"
            ));
        }
        if self.outpaint == Some([0; 4]) {
            return refuse("`outpaint` adds no pixels; give left, top, right and bottom");
        }
        let most = LONGEST_SIDE;
        let widths = [self.mask_grow, self.mask_blur].into_iter().flatten();
        let sides = self.outpaint.into_iter().flatten();
        if let Some(found) = widths.chain(sides).find(|pixels| *pixels > most) {
            return refuse(&format!(
                "{found} pixels are asked for around a mask or picture; at most {most}"
            ));
        }
        if let Some(strength) = self.strength {
            in_unit("strength", strength)?;
        }
        if let Some(variation) = self.variation {
            in_unit("variation.strength", variation.strength)?;
        }
        match &self.hires {
            Some(_) if self.init.is_some() => refuse(
                "`hires` enlarges a picture that is drawn from words, and `init` starts from one; give one of them",
            ),
            Some(hires) => hires.validate(),
            None => Ok(()),
        }
    }
}

fn in_unit(name: &str, found: f64) -> Result<(), Error> {
    if found > 0.0 && found <= 1.0 {
        return Ok(());
    }
    Err(Error::Request(format!(
        "`{name}` is {found}; it goes from above 0 (nothing new) to 1 (all new)"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(width: usize, height: usize, grey: u8) -> Picture {
        Picture::filled(width, height, [grey; 3]).unwrap()
    }

    #[test]
    fn what_lacks_its_picture_or_mask_is_refused_by_name() {
        let base = || Request::new("x");
        let init = || base().init(picture(8, 8, 0));
        let cases = [
            (base().strength(0.5), "strength"),
            (base().mask(picture(8, 8, 255)), "`mask`"),
            (base().outpaint([8; 4]), "outpaint"),
            (init().outpaint([0; 4]), "outpaint"),
            (init().outpaint([9000, 0, 0, 0]), "9000"),
            (init().strength(0.0), "strength"),
            (init().strength(1.5), "strength"),
            (init().strength(f64::NAN), "strength"),
            (
                Request {
                    keep_unmasked: Some(false),
                    ..init()
                },
                "keep_unmasked",
            ),
            (
                Request {
                    mask_grow: Some(2),
                    ..init()
                },
                "mask_grow",
            ),
            (base().variation(1, 0.0), "variation.strength"),
            (base().variation(1, 2.0), "variation.strength"),
            (base().hires(Hires::new(1.0)), "hires.scale"),
            (init().hires(Hires::new(2.0)), "hires"),
        ];
        for (request, name) in cases {
            let error = request.validate().unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
        init().strength(1.0).validate().unwrap();
    }

    #[test]
    fn a_mask_of_another_size_is_refused_with_both_sizes() {
        let request = Request::new("x")
            .init(picture(16, 8, 0))
            .mask(picture(8, 8, 255));
        let error = request.canvas().err().unwrap().to_string();
        assert!(error.contains("8x8") && error.contains("16x8"), "{error}");
    }

    #[test]
    fn outpainting_enlarges_the_canvas_and_a_size_scales_the_picture() {
        let base = || Request::new("x").init(picture(16, 8, 7));
        let canvas = base().outpaint([8, 0, 0, 16]).canvas().unwrap().unwrap();
        assert_eq!((canvas.picture.width(), canvas.picture.height()), (24, 24));
        assert!(canvas.mask.is_some());
        let canvas = base().size(12, 20).canvas().unwrap().unwrap();
        assert_eq!((canvas.picture.width(), canvas.picture.height()), (12, 20));
        assert!(base().size(9000, 8).canvas().is_err());
    }

    #[test]
    fn a_request_with_all_of_it_is_read_from_json() {
        let text = r#"{"prompt": "x", "init": "a.png", "mask": "b.png", "strength": 0.5, "mask_blur": 4,
            "keep_unmasked": false, "outpaint": [0, 0, 8, 8], "variation": {"seed": 3, "strength": 0.1}}"#;
        let request = Request::from_json(text).unwrap();
        assert_eq!(request.init, Some(PathBuf::from("a.png").into()));
        let again = serde_json::to_string(&request).unwrap();
        assert_eq!(Request::from_json(&again).unwrap(), request);
        let hires = Request::from_json(r#"{"hires": {"scale": 2, "upscaler": "lanczos"}}"#);
        let expected = Hires {
            upscaler: Upscaler::Lanczos,
            ..Hires::new(2.0)
        };
        assert_eq!(hires.unwrap().hires, Some(expected));
        // Pixels have no place in JSON.
        assert!(serde_json::to_string(&Request::new("x").init(picture(1, 1, 0))).is_err());
    }
}
