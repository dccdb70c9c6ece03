//! Settings inside Exif, where JPEG and WebP files have them.

use std::io::Cursor;

use exif::experimental::Writer;
use exif::{Field, In, Reader, Tag, Value};

/// The text that Exif's user comment holds.
pub(super) const SETTINGS: &str = "parameters";
/// What a user comment in UTF-16 begins with. Source: Exif 2.32, section 4.6.5, "UserComment".
const UNICODE: &[u8; 8] = b"UNICODE\0";
/// The same in plain ASCII.
const ASCII: &[u8; 8] = b"ASCII\0\0\0";
/// The same where nobody said; it is UTF-8 mostly.
const UNDEFINED: &[u8; 8] = &[0; 8];
/// Bytes that a segment of a JPEG holds, less its length and the mark `Exif\0\0`.
const LONGEST: usize = 0xffff - 2 - 6;

/// Exif with a user comment as A1111 writes it, in UTF-16 with the high byte first; `None` if it is too long.
pub(super) fn write(text: &str) -> Option<Vec<u8>> {
    let mut comment = UNICODE.to_vec();
    comment.extend(text.encode_utf16().flat_map(u16::to_be_bytes));
    let field = Field {
        tag: Tag::UserComment,
        ifd_num: In::PRIMARY,
        value: Value::Undefined(comment, 0),
    };
    let mut writer = Writer::new();
    writer.push_field(&field);
    let mut bytes = Cursor::new(Vec::new());
    let written = writer.write(&mut bytes, false);
    let bytes = bytes.into_inner();
    if written.is_ok() && bytes.len() <= LONGEST {
        return Some(bytes);
    }
    tracing::warn!(
        "the settings are too long for the Exif of a JPEG or WebP, so it goes without them; a PNG holds them"
    );
    None
}

/// The texts of image tools in a file's Exif; what is broken is left out, for the picture itself is well.
pub(super) fn read(exif: Vec<u8>) -> Vec<(String, String)> {
    // Some programs put the mark of JPEG segments into WebP too.
    let exif = match exif.strip_prefix(b"Exif\0\0") {
        Some(rest) => rest.to_vec(),
        None => exif,
    };
    // A1111's library leaves out where the next directory is, which is no reason to read nothing.
    let read = Reader::new().continue_on_error(true).read_raw(exif);
    let Ok(exif) = read.or_else(|error| error.distill_partial_result(|_| {})) else {
        return Vec::new();
    };
    let comment = exif.get_field(Tag::UserComment, In::PRIMARY);
    let comment = comment.and_then(|field| match &field.value {
        Value::Undefined(bytes, _) => user_comment(bytes, exif.little_endian()),
        _ => None,
    });
    let mut texts = Vec::from_iter(comment.map(|text| (SETTINGS.to_owned(), text)));
    // ComfyUI writes `prompt:{…}` and `workflow:{…}` into fields of the camera.
    for tag in [Tag::Model, Tag::Make] {
        let field = exif.get_field(tag, In::PRIMARY);
        let Some(Value::Ascii(parts)) = field.map(|field| &field.value) else {
            continue;
        };
        let text = parts.iter().find_map(|part| std::str::from_utf8(part).ok());
        if let Some((key, json)) = text.and_then(|text| text.split_once(':'))
            && json.starts_with('{')
        {
            texts.push((key.to_owned(), json.to_owned()));
        }
    }
    texts
}

/// A user comment's text. Programs do not agree on the order of UTF-16's bytes; the one that gives letters is taken.
fn user_comment(bytes: &[u8], little_endian: bool) -> Option<String> {
    let (kind, rest) = bytes.split_first_chunk::<8>()?;
    let text = match kind {
        UNICODE => {
            let stated = utf16(rest, u16::from_be_bytes);
            let other = utf16(rest, u16::from_le_bytes);
            let zeros = |at: usize| rest.iter().skip(at).step_by(2).filter(|b| **b == 0).count();
            // Of letters below 256 the high byte is zero. A file without any is read as it says of itself.
            match zeros(0).cmp(&zeros(1)) {
                std::cmp::Ordering::Greater => stated.or(other),
                std::cmp::Ordering::Less => other.or(stated),
                std::cmp::Ordering::Equal if little_endian => other.or(stated),
                std::cmp::Ordering::Equal => stated.or(other),
            }
        }
        ASCII | UNDEFINED => String::from_utf8(rest.to_vec()).ok(),
        _ => String::from_utf8(bytes.to_vec()).ok(),
    }?;
    let text = text.trim_end_matches('\0');
    (!text.trim().is_empty()).then(|| text.to_owned())
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Option<String> {
    let units = bytes.chunks_exact(2).map(|pair| unit([pair[0], pair[1]]));
    let text = String::from_utf16(&units.collect::<Vec<u16>>()).ok()?;
    Some(text.trim_start_matches('\u{feff}').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `piexif.dump({"Exif": {piexif.ExifIFD.UserComment: piexif.helper.UserComment.dump("a 빨", "unicode")}})`
    /// gives, as A1111 calls it, less the mark of JPEG segments.
    const PIEXIF: &[u8] = b"MM\0*\0\0\0\x08\0\x01\x87\x69\0\x04\0\0\0\x01\0\0\0\x1a\0\0\0\0\0\x01\x92\x86\0\x07\0\0\0\x0e\0\0\0\x28UNICODE\0\0a\0 \xbe\x68";

    fn settings(text: &str) -> Vec<(String, String)> {
        vec![(SETTINGS.to_owned(), text.to_owned())]
    }

    #[test]
    fn what_a1111_writes_is_read_and_written_alike() {
        let mut marked = b"Exif\0\0".to_vec();
        marked.extend_from_slice(PIEXIF);
        assert_eq!(read(marked), settings("a 빨"));
        assert_eq!(read(PIEXIF.to_vec()), settings("a 빨"));
        let ours = write("a 빨").unwrap();
        assert_eq!(read(ours.clone()), settings("a 빨"));
        // The comment itself has the same bytes.
        assert!(ours.ends_with(&PIEXIF[PIEXIF.len() - 14..]));
    }

    #[test]
    fn a_comment_in_another_order_of_bytes_or_in_utf8_is_read() {
        let low: Vec<u8> = "a cat".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let comment = |start: &[u8], rest: &[u8]| user_comment(&[start, rest].concat(), false);
        assert_eq!(comment(UNICODE, &low).as_deref(), Some("a cat"));
        assert_eq!(comment(ASCII, b"a cat\0\0").as_deref(), Some("a cat"));
        assert_eq!(
            comment(UNDEFINED, "빨간".as_bytes()).as_deref(),
            Some("빨간")
        );
        assert_eq!(comment(UNICODE, b""), None);
        assert_eq!(user_comment(b"abc", false), None);
    }

    #[test]
    fn comfyui_keeps_its_graph_in_the_fields_of_the_camera() {
        let field = |tag, text: &str| Field {
            tag,
            ifd_num: In::PRIMARY,
            value: Value::Ascii(vec![text.as_bytes().to_vec()]),
        };
        let fields = [
            field(Tag::Make, "workflow:{\"a\": 1}"),
            field(Tag::Model, "prompt:{\"b\": 2}"),
        ];
        let mut writer = Writer::new();
        fields.iter().for_each(|field| writer.push_field(field));
        let mut bytes = Cursor::new(Vec::new());
        writer.write(&mut bytes, true).unwrap();
        let expected = [("prompt", "{\"b\": 2}"), ("workflow", "{\"a\": 1}")];
        let expected = expected.map(|(key, text)| (key.to_owned(), text.to_owned()));
        assert_eq!(read(bytes.into_inner()), expected);
    }

    #[test]
    fn broken_exif_is_no_text_and_no_panic() {
        for end in 0..PIEXIF.len() {
            read(PIEXIF[..end].to_vec());
        }
        for place in 0..PIEXIF.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bytes = PIEXIF.to_vec();
                bytes[place] = value;
                read(bytes);
            }
        }
    }
}
