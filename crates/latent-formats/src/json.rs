//! Strict reading of JSON: a fault is named by file, line, column and key.

use std::fmt;
use std::path::Path;

use serde::Serialize;
use serde::de::value::StringDeserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, IgnoredAny, IntoDeserializer, MapAccess,
    Visitor,
};

use crate::{Bytes, FormatError, write_atomic};

/// Reads a JSON file into `T`.
///
/// # Errors
/// [`FormatError::Io`], or [`FormatError::Json`] with the place and what is allowed there.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, FormatError> {
    parse_json(&Bytes::map(path)?, path)
}

/// [`read_json`] of bytes in memory; `name` stands for them in messages.
///
/// # Errors
/// [`FormatError::Json`].
pub fn parse_json<T: DeserializeOwned>(bytes: &[u8], name: &Path) -> Result<T, FormatError> {
    parse_config(bytes, name, &[])
}

/// Reads somebody else's config file into `T`, which refuses unknown keys (`deny_unknown_fields`), but for those at
/// the top level that are `ignored`: known, and without meaning for us.
///
/// # Errors
/// As [`read_json`].
pub fn read_config<T: DeserializeOwned>(path: &Path, ignored: &[&str]) -> Result<T, FormatError> {
    parse_config(&Bytes::map(path)?, path, ignored)
}

/// [`read_config`] of bytes in memory; `name` stands for them in messages.
///
/// # Errors
/// [`FormatError::Json`].
pub fn parse_config<T: DeserializeOwned>(
    bytes: &[u8],
    name: &Path,
    ignored: &[&str],
) -> Result<T, FormatError> {
    // Some editors put a byte-order mark in front, which JSON does not know.
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let filtered = Filtered {
        inner: &mut reader,
        ignored,
    };
    T::deserialize(filtered)
        .and_then(|value| reader.end().map(|()| value))
        .map_err(|error| explain(bytes, name, &error))
}

/// Writes `value` as indented JSON, whole or not at all.
///
/// # Errors
/// [`FormatError::Io`] as [`write_atomic`].
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), FormatError> {
    write_atomic(path, |writer| {
        serde_json::to_writer_pretty(&mut *writer, value)?;
        writer.write_all(b"\n")
    })
}

fn explain(bytes: &[u8], name: &Path, error: &serde_json::Error) -> FormatError {
    let place = format!(" at line {} column {}", error.line(), error.column());
    let reason = error.to_string();
    FormatError::Json {
        path: name.to_path_buf(),
        line: error.line(),
        column: error.column(),
        key: key_at(bytes, error.line(), error.column()),
        reason: reason.strip_suffix(&place).unwrap_or(&reason).to_string(),
    }
}

/// An open object with the key last met in it, or an open array with its position.
enum Open {
    Object(Option<String>),
    Array(usize),
}

/// The path of keys that lead to a place, as in `down_blocks[1].channels`.
fn key_at(bytes: &[u8], line: usize, column: usize) -> Option<String> {
    let before: usize = bytes
        .split_inclusive(|&b| b == b'\n')
        .take(line.saturating_sub(1))
        .map(<[u8]>::len)
        .sum();
    let bytes = &bytes[..bytes.len().min(before + column)];
    let mut open: Vec<Open> = Vec::new();
    let mut at = 0;
    let mut after_colon = false;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => {
                let end = end_of_string(bytes, at);
                if let (Some(Open::Object(key)), false) = (open.last_mut(), after_colon) {
                    let text = String::from_utf8_lossy(&bytes[at + 1..end]);
                    *key = Some(text.into_owned());
                }
                at = end;
            }
            b':' => after_colon = true,
            b',' => {
                after_colon = false;
                if let Some(Open::Array(index)) = open.last_mut() {
                    *index += 1;
                }
            }
            b'{' => (after_colon, _) = (false, open.push(Open::Object(None))),
            b'[' => open.push(Open::Array(0)),
            b'}' | b']' => (after_colon, _) = (true, open.pop()),
            _ => {}
        }
        at += 1;
    }
    path_of(&open)
}

/// Place of the closing quote, or the end of what is there.
fn end_of_string(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    at.min(bytes.len())
}

fn path_of(open: &[Open]) -> Option<String> {
    let mut path = String::new();
    for part in open {
        match part {
            Open::Object(Some(key)) if path.is_empty() => path.push_str(key),
            Open::Object(Some(key)) => path.extend([".", key]),
            Open::Object(None) => {}
            Open::Array(index) => path.push_str(&format!("[{index}]")),
        }
    }
    (!path.is_empty()).then_some(path)
}

/// Hands on a value; if it is an object, without the keys that are ignored.
struct Filtered<'a, D> {
    inner: D,
    ignored: &'a [&'a str],
}

macro_rules! hand_on_filtered {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.inner.$method(FilteredVisitor { visitor, ignored: self.ignored })
        }
    )*};
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Filtered<'_, D> {
    type Error = D::Error;

    hand_on_filtered! {
        deserialize_any deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_f32 deserialize_f64
        deserialize_char deserialize_str deserialize_string deserialize_bytes deserialize_byte_buf
        deserialize_unit deserialize_seq deserialize_map deserialize_identifier deserialize_ignored_any
    }

    // These hand a deserializer of their own to the visitor, so nothing can be filtered; configs are objects.
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_option(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.inner.deserialize_newtype_struct(name, visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.inner.deserialize_enum(name, variants, visitor)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.inner.deserialize_unit_struct(name, visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.inner.deserialize_tuple(len, visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.inner.deserialize_tuple_struct(name, len, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let ignored = self.ignored;
        let visitor = FilteredVisitor { visitor, ignored };
        self.inner.deserialize_struct(name, fields, visitor)
    }
}

struct FilteredVisitor<'a, V> {
    visitor: V,
    ignored: &'a [&'a str],
}

macro_rules! visit_on {
    ($($method:ident($type:ty))*) => {$(
        fn $method<E: serde::de::Error>(self, value: $type) -> Result<V::Value, E> {
            self.visitor.$method(value)
        }
    )*};
}

impl<'de, V: Visitor<'de>> Visitor<'de> for FilteredVisitor<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    visit_on! {
        visit_bool(bool) visit_i64(i64) visit_u64(u64) visit_f64(f64)
        visit_str(&str) visit_borrowed_str(&'de str) visit_string(String)
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_unit()
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_seq(access)
    }

    fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        let ignored = self.ignored;
        self.visitor.visit_map(FilteredMap { access, ignored })
    }
}

struct FilteredMap<'a, A> {
    access: A,
    ignored: &'a [&'a str],
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for FilteredMap<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        while let Some(key) = self.access.next_key::<String>()? {
            if !self.ignored.contains(&key.as_str()) {
                let key: StringDeserializer<A::Error> = key.into_deserializer();
                return seed.deserialize(key).map(Some);
            }
            self.access.next_value::<IgnoredAny>()?;
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.access.next_value_seed(seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Config {
        channels: Vec<u32>,
        #[serde(default)]
        inner: Option<Inner>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        size: u32,
    }

    fn fault(text: &str) -> String {
        parse_config::<Config>(text.as_bytes(), Path::new("config.json"), &["_version"])
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn a_listed_key_is_passed_over() {
        let text = br#"{"_version": {"deep": [1]}, "channels": [4, 8]}"#;
        let config: Config = parse_config(text, Path::new("a"), &["_version"]).unwrap();
        assert_eq!(config.channels, [4, 8]);
    }

    #[test]
    fn a_misspelt_key_is_refused_and_named_with_its_line() {
        let message = fault("{\n  \"channels\": [4],\n  \"chanels\": [8]\n}");
        assert_eq!(
            message,
            "`config.json`, line 3, column 11, key `chanels`: unknown field `chanels`, expected `channels` or `inner`"
        );
    }

    #[test]
    fn a_missing_key_is_named() {
        let message = fault("{}");
        assert!(
            message.contains("line 1") && message.contains("missing field `channels`"),
            "{message}"
        );
    }

    #[test]
    fn a_value_of_another_kind_is_named_by_its_path() {
        let message = fault("{\"channels\": [4, 8, \"x\"]}");
        assert!(message.contains("key `channels[2]`"), "{message}");
        let message = fault("{\"channels\": [], \"inner\": {\"size\": -1}}");
        assert!(message.contains("key `inner.size`"), "{message}");
    }

    #[test]
    fn a_doubled_key_is_refused() {
        let message = fault("{\"channels\": [4], \"channels\": [8]}");
        assert!(message.contains("duplicate field `channels`"), "{message}");
    }

    #[test]
    fn text_after_the_value_is_refused() {
        assert!(fault("{\"channels\": []} x").contains("trailing characters"));
    }

    #[test]
    fn a_list_or_a_number_in_place_of_the_object_is_refused() {
        for text in ["3", "null", "[]", "\"x\"", ""] {
            assert!(fault(text).contains("line"), "{text}");
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        write_json(&path, &serde_json::json!({"b": 1, "a": [0.5]})).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.find("\"b\"") < text.find("\"a\"") && text.ends_with("}\n"));
        let back: serde_json::Value = read_json(&path).unwrap();
        assert_eq!(back["a"][0], 0.5);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[\\[\\]{}\",:\\\\ a0\n]{0,40}") {
            let _ = parse_config::<Config>(text.as_bytes(), Path::new("a"), &["a"]);
        }

        #[test]
        fn every_place_of_every_text_has_a_key_or_none(text in "[\\[\\]{}\",:\\\\ a0\n]{0,40}", line in 0usize..9, column in 0usize..40) {
            let _ = key_at(text.as_bytes(), line, column);
        }
    }
}
