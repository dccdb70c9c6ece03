//! Pixels to picture files.

use std::path::Path;

use image::ExtendedColorType;
use image::codecs::{jpeg::JpegEncoder, webp::WebPEncoder};

use super::Picture;
use super::exif_text::{self, SETTINGS};
use crate::{FormatError, write_bytes};

/// A kind of picture file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PictureFormat {
    /// Without loss, with the picture's texts.
    Png,
    /// With loss, with the text `parameters` in its Exif; `quality` 1 to 100.
    Jpeg {
        /// 95 is hard to tell from the original.
        quality: u8,
    },
    /// Without loss, smaller than PNG, with the text `parameters` in its Exif.
    WebP,
}

/// Endings of file names.
const ENDINGS: &[(&str, PictureFormat)] = &[
    ("png", PictureFormat::Png),
    ("jpg", PictureFormat::Jpeg { quality: 95 }),
    ("jpeg", PictureFormat::Jpeg { quality: 95 }),
    ("webp", PictureFormat::WebP),
];

impl PictureFormat {
    /// The format that a file name asks for by its ending.
    ///
    /// # Errors
    /// [`FormatError::Picture`] if it is none we write.
    pub fn of_path(path: &Path) -> Result<Self, FormatError> {
        let ending = path.extension().map(|ending| ending.to_string_lossy());
        let ending = ending.unwrap_or_default().to_lowercase();
        let found = ENDINGS.iter().find(|(known, _)| *known == ending);
        found.map(|(_, format)| *format).ok_or_else(|| {
            let known: Vec<_> = ENDINGS
                .iter()
                .map(|(known, _)| format!("`.{known}`"))
                .collect();
            FormatError::Config {
                path: path.to_path_buf(),
                reason: format!(
                    "a picture's file name must end in one of {}, this ends in `.{ending}`",
                    known.join(", ")
                ),
            }
        })
    }
}

impl Picture {
    /// Writes the picture as its file name's ending says (`.png`, `.jpg`, `.jpeg`, `.webp`), whole or not at all.
    ///
    /// # Errors
    /// [`FormatError::Config`] for another ending; [`FormatError::Encode`] if the format cannot hold the size or
    /// the texts; [`FormatError::Io`].
    pub fn save(&self, path: &Path) -> Result<(), FormatError> {
        write_bytes(path, &self.encode(PictureFormat::of_path(path)?)?)
    }

    /// The bytes of the picture's file.
    ///
    /// # Errors
    /// [`FormatError::Encode`].
    pub fn encode(&self, format: PictureFormat) -> Result<Vec<u8>, FormatError> {
        let mut bytes = Vec::new();
        let (name, done) = match format {
            PictureFormat::Png => ("PNG", self.encode_png(&mut bytes)),
            PictureFormat::Jpeg { quality } => {
                let encoder = JpegEncoder::new_with_quality(&mut bytes, quality.clamp(1, 100));
                ("JPEG", self.encode_with(encoder))
            }
            PictureFormat::WebP => {
                let encoder = WebPEncoder::new_lossless(&mut bytes);
                ("WebP", self.encode_with(encoder))
            }
        };
        done.map_err(|reason| FormatError::Encode {
            width: self.width(),
            height: self.height(),
            format: name,
            reason,
        })?;
        Ok(bytes)
    }

    fn encode_with(&self, mut encoder: impl image::ImageEncoder) -> Result<(), String> {
        let settings = self.text().iter().find(|(key, _)| key == SETTINGS);
        if let Some(exif) = settings.and_then(|(_, text)| exif_text::write(text)) {
            encoder
                .set_exif_metadata(exif)
                .map_err(|error| error.to_string())?;
        }
        // Sides are at most `MAX_PIXELS`, so they fit.
        let (width, height) = (self.width() as u32, self.height() as u32);
        encoder
            .write_image(self.rgb(), width, height, ExtendedColorType::Rgb8)
            .map_err(|error| error.to_string())
    }

    fn encode_png(&self, bytes: &mut Vec<u8>) -> Result<(), String> {
        let mut encoder = png::Encoder::new(bytes, self.width() as u32, self.height() as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        for (key, text) in self.text() {
            // tEXt holds Latin-1 only; other texts go into iTXt, as everyone writes them.
            let added = if is_latin1(text) {
                encoder.add_text_chunk(key.clone(), text.clone())
            } else {
                encoder.add_itxt_chunk(key.clone(), text.clone())
            };
            added.map_err(|error| format!("text `{key}`: {error}"))?;
        }
        let explain = |error: png::EncodingError| error.to_string();
        let mut writer = encoder.write_header().map_err(explain)?;
        writer.write_image_data(self.rgb()).map_err(explain)?;
        writer.finish().map_err(explain)
    }
}

fn is_latin1(text: &str) -> bool {
    text.chars().all(|letter| u32::from(letter) < 256)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gradient() -> Picture {
        let rgb = (0..24 * 16).flat_map(|i| [(i % 24 * 10) as u8, (i / 24 * 15) as u8, 90]);
        Picture::new(24, 16, rgb.collect()).unwrap()
    }

    #[test]
    fn formats_without_loss_give_the_pixels_back() {
        for format in [PictureFormat::Png, PictureFormat::WebP] {
            let bytes = gradient().encode(format).unwrap();
            let back = Picture::decode(&bytes, Path::new("a")).unwrap();
            assert_eq!(back, gradient(), "{format:?}");
        }
    }

    #[test]
    fn a_jpeg_is_close_and_better_with_more_quality() {
        let loss = |quality| {
            let bytes = gradient().encode(PictureFormat::Jpeg { quality }).unwrap();
            let back = Picture::decode(&bytes, Path::new("a")).unwrap();
            crate::psnr(&back, &gradient()).unwrap()
        };
        assert!(loss(95) > 38.0 && loss(95) > loss(20));
    }

    #[test]
    fn png_texts_come_back_in_any_script() {
        let mut picture = gradient();
        picture.set_text("parameters", "a café\nSteps: 20");
        picture.set_text("prompt", "빨간 사과, 3D 스타일");
        let bytes = picture.encode(PictureFormat::Png).unwrap();
        let back = Picture::decode(&bytes, Path::new("a")).unwrap();
        assert_eq!(back.text(), picture.text());
        assert!(bytes.windows(4).any(|w| w == b"tEXt") && bytes.windows(4).any(|w| w == b"iTXt"));
    }

    #[test]
    fn jpeg_and_webp_carry_the_settings_in_any_script() {
        for format in [PictureFormat::Jpeg { quality: 95 }, PictureFormat::WebP] {
            let mut picture = gradient();
            let settings = "빨간 사과 🍎, a café\nSteps: 20, Sampler: Euler a";
            picture.set_text("parameters", settings);
            let bytes = picture.encode(format).unwrap();
            let back = Picture::decode(&bytes, Path::new("a")).unwrap();
            let expected = [("parameters".to_owned(), settings.to_owned())];
            assert_eq!(back.text(), expected, "{format:?}");
        }
    }

    #[test]
    fn settings_that_exif_cannot_hold_are_left_out_and_the_picture_is_whole() {
        let mut picture = gradient();
        picture.set_text("parameters", "x".repeat(40_000));
        let bytes = picture.encode(PictureFormat::Jpeg { quality: 95 }).unwrap();
        let back = Picture::decode(&bytes, Path::new("a")).unwrap();
        assert_eq!((back.text().len(), back.width()), (0, 24));
    }

    #[test]
    fn a_text_without_a_key_is_an_error() {
        let mut picture = gradient();
        picture.set_text("", "x");
        assert!(picture.encode(PictureFormat::Png).is_err());
    }

    #[test]
    fn the_ending_chooses_the_format_and_others_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        for (name, start) in [
            ("a.PNG", b"\x89P"),
            ("a.jpeg", b"\xff\xd8"),
            ("a.webp", b"RI"),
        ] {
            let path = folder.path().join(name);
            gradient().save(&path).unwrap();
            assert!(std::fs::read(&path).unwrap().starts_with(start), "{name}");
        }
        let message = gradient()
            .save(&folder.path().join("a.bmp"))
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("`.png`") && message.contains("`.bmp`"),
            "{message}"
        );
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
    }

    #[test]
    fn a_size_that_a_format_cannot_hold_is_an_error() {
        let long = Picture::filled(20000, 1, [0; 3]).unwrap();
        let message = long.encode(PictureFormat::WebP).unwrap_err().to_string();
        assert!(
            message.starts_with("cannot encode a picture of 20000x1 as WebP"),
            "{message}"
        );
    }
}
