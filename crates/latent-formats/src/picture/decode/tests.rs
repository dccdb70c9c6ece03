use super::*;
use crate::PictureFormat;
use image::{ExtendedColorType, ImageEncoder};
use proptest::prelude::*;

fn decode(bytes: &[u8]) -> Result<Picture, FormatError> {
    Picture::decode(bytes, Path::new("a.png"))
}

fn fault(bytes: &[u8]) -> String {
    let message = decode(bytes).unwrap_err().to_string();
    assert!(
        message.starts_with("cannot read the picture `a.png`: "),
        "{message}"
    );
    message
}

/// A PNG of any kind of pixels.
fn png_of(bytes: &[u8], width: u32, height: u32, color: ExtendedColorType) -> Vec<u8> {
    let mut out = Vec::new();
    let encoder = image::codecs::png::PngEncoder::new(&mut out);
    encoder.write_image(bytes, width, height, color).unwrap();
    out
}

fn sample(format: PictureFormat) -> Vec<u8> {
    let rgb = (0..32 * 24 * 3).map(|i: usize| (i * i / 7 % 256) as u8);
    Picture::new(32, 24, rgb.collect())
        .unwrap()
        .encode(format)
        .unwrap()
}

const ALL: [PictureFormat; 3] = [
    PictureFormat::Png,
    PictureFormat::Jpeg { quality: 90 },
    PictureFormat::WebP,
];

#[test]
fn transparent_parts_are_laid_on_white() {
    let bytes = png_of(
        &[10, 20, 30, 0, 10, 20, 30, 255, 0, 100, 200, 128],
        3,
        1,
        ExtendedColorType::Rgba8,
    );
    let picture = decode(&bytes).unwrap();
    assert_eq!(picture.pixel(0, 0), [255; 3]);
    assert_eq!(picture.pixel(1, 0), [10, 20, 30]);
    // (0 * 128 + 255 * 127) / 255 and so on, rounded.
    assert_eq!(picture.pixel(2, 0), [127, 177, 227]);
}

#[test]
fn grey_and_sixteen_bits_become_eight_bits_of_colour() {
    let grey = decode(&png_of(&[7, 200], 2, 1, ExtendedColorType::L8)).unwrap();
    assert_eq!(grey.rgb(), [7, 7, 7, 200, 200, 200]);
    let wide: Vec<u8> = [0u16, 32896, 65535]
        .iter()
        .flat_map(|v| v.to_ne_bytes())
        .collect();
    let wide = decode(&png_of(&wide, 1, 1, ExtendedColorType::Rgb16)).unwrap();
    assert_eq!(wide.rgb(), [0, 128, 255]);
    let grey_alpha = decode(&png_of(&[0, 0, 90, 255], 2, 1, ExtendedColorType::La8)).unwrap();
    assert_eq!(grey_alpha.rgb(), [255, 255, 255, 90, 90, 90]);
}

/// A JPEG, black left and white right, with an orientation in its EXIF part.
fn turned_jpeg(orientation: u8) -> Vec<u8> {
    let rgb = (0..32 * 16).flat_map(|i| [if i % 32 < 16 { 0 } else { 255 }; 3]);
    let picture = Picture::new(32, 16, rgb.collect()).unwrap();
    let plain = picture.encode(PictureFormat::Jpeg { quality: 95 }).unwrap();
    let mut exif = b"Exif\0\0II\x2a\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
    exif.extend([orientation, 0, 0, 0, 0, 0, 0, 0]);
    let mut out = plain[..2].to_vec();
    out.extend([0xff, 0xe1, 0, exif.len() as u8 + 2]);
    out.extend(exif);
    out.extend(&plain[2..]);
    out
}

#[test]
fn a_cameras_orientation_is_applied() {
    let picture = decode(&turned_jpeg(6)).unwrap();
    // Turned clockwise by 90 degrees: left becomes top.
    assert_eq!((picture.width(), picture.height()), (16, 32));
    assert!(picture.pixel(8, 2)[0] < 20 && picture.pixel(8, 29)[0] > 235);
    let picture = decode(&turned_jpeg(3)).unwrap();
    assert!(picture.pixel(2, 8)[0] > 235 && picture.pixel(29, 8)[0] < 20);
}

#[test]
fn a_cut_file_is_refused_wherever_it_was_cut() {
    for format in ALL {
        let whole = sample(format);
        assert!(decode(&whole).is_ok());
        // The last twelve bytes of a PNG are its end mark, which holds nothing.
        for len in (0..whole.len() - 13).step_by(7) {
            assert!(decode(&whole[..len]).is_err(), "{format:?} cut at {len}");
        }
    }
    let jpeg = sample(ALL[1]);
    assert!(fault(&jpeg[..jpeg.len() - 2]).contains("the file was cut"));
}

#[test]
fn a_claim_of_a_hundred_megapixels_is_refused_before_decoding() {
    let mut png = sample(PictureFormat::Png);
    png[16..20].copy_from_slice(&10_000u32.to_be_bytes());
    png[20..24].copy_from_slice(&10_000u32.to_be_bytes());
    let sum = crc32(&png[12..29]).to_be_bytes();
    png[29..33].copy_from_slice(&sum);
    assert!(
        fault(&png).contains("10000x10000 is too large"),
        "{}",
        fault(&png)
    );
}

#[test]
fn a_picture_of_no_size_is_refused() {
    let mut png = sample(PictureFormat::Png);
    png[16..20].copy_from_slice(&[0; 4]);
    let sum = crc32(&png[12..29]).to_be_bytes();
    png[29..33].copy_from_slice(&sum);
    fault(&png);
}

/// Source: PNG specification, annex D.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 * (crc & 1))
        })
    })
}

#[test]
fn other_files_are_refused_by_their_content() {
    assert!(fault(b"").contains("the file is empty"));
    assert!(fault(b"GIF89a").contains("none of PNG, JPEG or WebP"));
    assert!(fault(b"a caption").contains("none of PNG, JPEG or WebP"));
}

#[test]
fn a_missing_file_is_named() {
    let message = Picture::open(Path::new("no/such.png"))
        .unwrap_err()
        .to_string();
    assert!(
        message.starts_with("cannot read `no/such.png`"),
        "{message}"
    );
}

#[test]
fn the_content_counts_and_not_the_ending() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.png");
    std::fs::write(&path, sample(PictureFormat::WebP)).unwrap();
    assert_eq!(Picture::open(&path).unwrap().width(), 32);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(kind in 0usize..3, bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let start: &[u8] = [b"\x89PNG\r\n\x1a\n", &b"\xff\xd8\xff"[..], b"RIFF\x90\0\0\0WEBPVP8 "][kind];
        let _ = decode(&[start, &bytes].concat());
    }

    #[test]
    fn no_changed_byte_makes_it_panic(kind in 0usize..3, at: prop::sample::Index, value: u8) {
        let mut bytes = sample(ALL[kind]);
        let at = at.index(bytes.len());
        bytes[at] = value;
        let _ = decode(&bytes);
    }
}

#[test]
fn a_picture_s_size_is_told_by_its_beginning_turned_as_the_camera_was() {
    let measure = |bytes: &[u8]| Picture::measure(bytes, Path::new("a.png"));
    for format in ALL {
        let bytes = sample(format);
        assert_eq!(measure(&bytes).unwrap(), [32, 24]);
    }
    for orientation in 1..=8 {
        let bytes = turned_jpeg(orientation);
        let picture = decode(&bytes).unwrap();
        let size = [picture.width(), picture.height()];
        assert_eq!(measure(&bytes).unwrap(), size, "{orientation}");
    }
    assert!(measure(b"no picture").is_err());
}

/// The head of a PNG file of these sizes, 16 bits of three colours, and the beginning of its pixels.
fn head(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec();
    bytes.extend(width.to_be_bytes());
    bytes.extend(height.to_be_bytes());
    bytes.extend([16, 2, 0, 0, 0]);
    let sum = crc32(&bytes[12..]);
    bytes.extend(sum.to_be_bytes());
    bytes.extend(b"\0\0\0\x29IDATc5\xa0\xff\x9f");
    bytes
}

#[test]
fn a_few_bytes_of_a_vast_png_are_refused_before_memory_is_asked_for() {
    let message = fault(&head(1, 1 << 24));
    let expected = "46 bytes cannot hold 1x16777216 pixels";
    assert!(message.contains(expected), "{message}");
}

#[test]
fn a_large_picture_of_one_colour_is_read_however_short_its_file() {
    let picture = Picture::filled(4000, 3000, [7; 3]).unwrap();
    let bytes = picture.encode(PictureFormat::Png).unwrap();
    assert_eq!(decode(&bytes).unwrap().rgb(), picture.rgb());
}
