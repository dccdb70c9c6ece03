//! Picture files to pixels, with limits that a hostile file cannot pass.

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use super::pixels::pixel_count;
use super::{Picture, exif_text};
use crate::FormatError;

/// The largest file we read: 64 megapixels of four 16-bit channels, unpacked, take half of it.
const MAX_FILE: u64 = 1 << 30;

impl Picture {
    /// Reads a PNG, JPEG or WebP file, recognised by its content.
    ///
    /// Transparent parts are laid on white, 16 bits and grey become eight bits of colour, a camera's orientation is
    /// applied, of an animation the first picture is taken. Texts of a PNG that stand before its pixels are kept, and
    /// those that image tools put into Exif: A1111's settings as `parameters`, ComfyUI's graph as `prompt`.
    ///
    /// # Errors
    /// [`FormatError::Io`]; [`FormatError::Picture`] if the file is empty, cut, broken, of another format, or larger
    /// than 64 megapixels.
    pub fn open(path: &Path) -> Result<Self, FormatError> {
        let fail = |source| FormatError::io("read", path, source);
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(fail)?;
        file.take(MAX_FILE + 1)
            .read_to_end(&mut bytes)
            .map_err(fail)?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(FormatError::picture(path, "the file is larger than 1 GiB"));
        }
        Self::decode(&bytes, path)
    }

    /// [`Picture::open`] of bytes in memory; `name` stands for them in messages.
    ///
    /// # Errors
    /// [`FormatError::Picture`].
    pub fn decode(bytes: &[u8], name: &Path) -> Result<Self, FormatError> {
        let fail = |reason: String| FormatError::picture(name, reason);
        let format = recognise(bytes).map_err(fail)?;
        check_whole(bytes, format).map_err(fail)?;
        let (image, exif) = decode_image(bytes, format).map_err(fail)?;
        let (width, height) = (image.width() as usize, image.height() as usize);
        let mut picture =
            Self::new(width, height, flatten(image)).map_err(|e| fail(e.to_string()))?;
        if format == ImageFormat::Png {
            for (key, text) in png_text(bytes) {
                picture.set_text(key, text);
            }
        }
        for (key, text) in exif_text::read(exif.unwrap_or_default()) {
            if !picture.text().iter().any(|(known, _)| *known == key) {
                picture.set_text(key, text);
            }
        }
        Ok(picture)
    }

    /// Width and height that [`Picture::decode`] would give, of which only the file's beginning is looked at.
    ///
    /// # Errors
    /// [`FormatError::Picture`] if the beginning is broken, of another format, or promises more than 64 megapixels.
    pub fn measure(bytes: &[u8], name: &Path) -> Result<[usize; 2], FormatError> {
        let fail = |reason: String| FormatError::picture(name, reason);
        let format = recognise(bytes).map_err(fail)?;
        let mut decoder = decoder(bytes, format).map_err(fail)?;
        let (width, height) = decoder.dimensions();
        let (width, height) = (width as usize, height as usize);
        let turned = [
            Orientation::Rotate90,
            Orientation::Rotate270,
            Orientation::Rotate90FlipH,
            Orientation::Rotate270FlipH,
        ];
        let turned = decoder
            .orientation()
            .is_ok_and(|found| turned.contains(&found));
        Ok(if turned {
            [height, width]
        } else {
            [width, height]
        })
    }
}

fn recognise(bytes: &[u8]) -> Result<ImageFormat, String> {
    let begins = |signature: &[u8]| bytes.starts_with(signature);
    match bytes {
        [] => Err("the file is empty".to_string()),
        _ if begins(b"\x89PNG\r\n\x1a\n") => Ok(ImageFormat::Png),
        _ if begins(b"\xff\xd8\xff") => Ok(ImageFormat::Jpeg),
        _ if begins(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") => Ok(ImageFormat::WebP),
        _ => Err("its content is none of PNG, JPEG or WebP".to_string()),
    }
}

/// Decoders fill what is missing of a cut JPEG with grey, so its end is looked for here.
fn check_whole(bytes: &[u8], format: ImageFormat) -> Result<(), String> {
    let cut = |what: &str| Err(format!("the file was cut: {what}"));
    match format {
        ImageFormat::Jpeg if !jpeg_ends(bytes) => cut("it has no end mark"),
        ImageFormat::WebP => {
            let size = bytes.get(4..8).and_then(|size| size.try_into().ok());
            let claimed = size.map_or(0, u32::from_le_bytes) as usize;
            let there = bytes.len() - 8;
            if claimed > there {
                return cut(&format!("it claims {claimed} bytes, {there} are there"));
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Whether an end mark follows the first scan. In the coded pixels a byte 0xff is always followed by 0 or a restart
/// mark, so 0xff 0xd9 is the end and nothing else; a thumbnail's own end lies before the first scan.
fn jpeg_ends(bytes: &[u8]) -> bool {
    let mut at = 2;
    while let Some(&[0xff, marker]) = bytes.get(at..at + 2) {
        match marker {
            0xda => return bytes[at..].windows(2).any(|pair| pair == [0xff, 0xd9]),
            // Fill bytes and marks without a length.
            0xff => at += 1,
            0x01 | 0xd0..=0xd8 => at += 2,
            _ => match bytes.get(at + 2..at + 4) {
                Some(length) => at += 2 + usize::from(length[0]) * 256 + usize::from(length[1]),
                None => return false,
            },
        }
    }
    // Not laid out as a JPEG should be: the decoder will say what is wrong.
    at < bytes.len()
}

/// What reads a picture that is not too large.
fn decoder(bytes: &[u8], format: ImageFormat) -> Result<impl ImageDecoder + '_, String> {
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_FILE);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(|e| reason(&e))?;
    let (width, height) = decoder.dimensions();
    pixel_count(width as usize, height as usize).map_err(|e| e.to_string())?;
    if format == ImageFormat::Png && !png_can_hold(bytes, [width, height]) {
        return Err(format!(
            "it was cut: {} bytes cannot hold {width}x{height} pixels",
            bytes.len()
        ));
    }
    Ok(decoder)
}

/// Bytes that deflate makes of one at most; from zlib's technical details.
const INFLATED: u64 = 1032;

/// Whether a PNG file is long enough for its pixels: else a few bytes would have the decoder ask for gigabytes.
fn png_can_hold(bytes: &[u8], [width, height]: [u32; 2]) -> bool {
    // Bit depth and colour type stand behind the sizes in the first chunk.
    let Some(&[depth, colour]) = bytes.get(24..26) else {
        return false;
    };
    let channels = match colour {
        2 => 3,
        4 => 2,
        6 => 4,
        _ => 1,
    };
    let bits = u64::from(width) * channels * u64::from(depth);
    u64::from(height) * bits.div_ceil(8) <= INFLATED * bytes.len() as u64
}

/// The pixels, and the file's Exif if it has any.
fn decode_image(
    bytes: &[u8],
    format: ImageFormat,
) -> Result<(DynamicImage, Option<Vec<u8>>), String> {
    let mut decoder = decoder(bytes, format)?;
    // An orientation that cannot be read is no reason to refuse the pixels.
    let orientation = decoder.orientation().ok();
    let exif = decoder.exif_metadata().ok().flatten();
    let mut image = DynamicImage::from_decoder(decoder).map_err(|e| reason(&e))?;
    if let Some(orientation) = orientation {
        image.apply_orientation(orientation);
    }
    Ok((image, exif))
}

fn reason(error: &image::ImageError) -> String {
    format!("it is broken or was cut: {error}")
}

/// Eight bits of red, green, blue; what is transparent shows white.
fn flatten(image: DynamicImage) -> Vec<u8> {
    if !image.color().has_alpha() {
        return image.into_rgb8().into_raw();
    }
    let over_white = |value: u8, alpha: u8| {
        let (value, alpha) = (u32::from(value), u32::from(alpha));
        ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8
    };
    image
        .into_rgba8()
        .pixels()
        .flat_map(|pixel| {
            let [r, g, b, alpha] = pixel.0;
            [r, g, b].map(|value| over_white(value, alpha))
        })
        .collect()
}

/// Texts before the pixels; a broken one is left out, for the picture itself is well.
fn png_text(bytes: &[u8]) -> Vec<(String, String)> {
    let Ok(reader) = png::Decoder::new(Cursor::new(bytes)).read_info() else {
        return Vec::new();
    };
    let info = reader.info();
    let plain = info.uncompressed_latin1_text.iter();
    let plain = plain.map(|chunk| (chunk.keyword.clone(), Some(chunk.text.clone())));
    let packed = info.compressed_latin1_text.iter();
    let packed = packed.map(|chunk| (chunk.keyword.clone(), chunk.get_text().ok()));
    let unicode = info.utf8_text.iter();
    let unicode = unicode.map(|chunk| (chunk.keyword.clone(), chunk.get_text().ok()));
    let all = plain.chain(packed).chain(unicode);
    all.filter_map(|(key, text)| Some((key, text?))).collect()
}

#[cfg(test)]
mod tests;
