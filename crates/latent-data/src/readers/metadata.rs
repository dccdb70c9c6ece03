//! What a line of `metadata.jsonl`, or the `.json` and `.txt` of a shard, says about a picture.

use serde_json::{Map, Value};

use super::Caption;

/// Keys whose captions are of one language.
const LANGUAGES: &[&str] = &["en", "ko"];

/// What is known about a picture besides its pixels.
#[derive(Debug)]
pub(super) struct Fields {
    /// The picture's file.
    pub(super) file: Option<String>,
    pub(super) key: Option<String>,
    pub(super) captions: Vec<Caption>,
    pub(super) class: Option<String>,
    pub(super) weight: f64,
    pub(super) flip: bool,
    pub(super) attributes: Map<String, Value>,
}

impl Default for Fields {
    fn default() -> Self {
        Self {
            file: None,
            key: None,
            captions: Vec::new(),
            class: None,
            weight: 1.0,
            flip: true,
            attributes: Map::new(),
        }
    }
}

impl Fields {
    /// Reads a JSON object; what has no meaning here is kept among the attributes.
    pub(super) fn parse(json: &[u8]) -> Result<Self, String> {
        let object: Map<String, Value> = serde_json::from_slice(json).map_err(|error| {
            let place = format!(" at line {} column {}", error.line(), error.column());
            let text = error.to_string();
            let text = text.strip_suffix(&place).unwrap_or(&text);
            format!("it is no JSON object (column {}): {text}", error.column())
        })?;
        let mut fields = Self::default();
        for (key, value) in object {
            let fault = |needed: &str| format!("`{key}` must be {needed}");
            match key.as_str() {
                "file_name" | "file" => {
                    let Value::String(name) = value else {
                        return Err(fault("a string"));
                    };
                    if fields.file.replace(name).is_some() {
                        return Err("it has both `file_name` and `file`".to_string());
                    }
                }
                "key" => fields.key = Some(word(&value).ok_or_else(|| fault("a string"))?),
                "class" | "label" => {
                    fields.class =
                        Some(word(&value).ok_or_else(|| fault("a string or a whole number"))?);
                }
                "weight" => {
                    let weight = value.as_f64().filter(|w| w.is_finite() && *w >= 0.0);
                    fields.weight = weight.ok_or_else(|| fault("a number that is not below 0"))?;
                }
                "flip" => {
                    fields.flip = value.as_bool().ok_or_else(|| fault("`true` or `false`"))?
                }
                _ => {
                    let captions = captions_of(&key, &value).map_err(|needed| fault(&needed))?;
                    match captions {
                        Some(captions) => fields.captions.extend(captions),
                        None => drop(fields.attributes.insert(key, value)),
                    }
                }
            }
        }
        Ok(fields)
    }
}

/// A name that may be written as a whole number.
fn word(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) if number.is_u64() => Some(number.to_string()),
        _ => None,
    }
}

/// The captions under a key; `None` if it is not one of captions.
fn captions_of(key: &str, value: &Value) -> Result<Option<Vec<Caption>>, String> {
    match (key, value) {
        ("captions", Value::Object(languages)) => {
            let mut captions = Vec::new();
            for (language, texts) in languages {
                captions.extend(texts_in(Some(language), texts)?);
            }
            Ok(Some(captions))
        }
        ("text" | "caption" | "captions", value) => texts_in(None, value).map(Some),
        (language, value) if LANGUAGES.contains(&language) => {
            texts_in(Some(language), value).map(Some)
        }
        _ => Ok(None),
    }
}

fn texts_in(language: Option<&str>, value: &Value) -> Result<Vec<Caption>, String> {
    let texts = match value {
        Value::Array(texts) => texts.iter().collect(),
        one => vec![one],
    };
    let caption = |text: &Value| {
        let text = text.as_str().ok_or("a string or a list of strings")?;
        Ok(Caption {
            language: language.map(str::to_string),
            text: text.trim().to_string(),
        })
    };
    texts.into_iter().map(caption).collect()
}

/// A fault in a text file.
#[derive(Debug)]
pub(super) struct TextFault {
    pub(super) line: usize,
    pub(super) text: String,
}

/// A caption a line; a file of blank lines only is one caption without words.
pub(super) fn captions_of_text(bytes: &[u8]) -> Result<Vec<Caption>, TextFault> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = std::str::from_utf8(bytes).map_err(|error| TextFault {
        line: bytes[..error.valid_up_to()].split(|&b| b == b'\n').count(),
        text: "it is not UTF-8; save it as UTF-8".to_string(),
    })?;
    let caption = |text: &str| Caption {
        language: None,
        text: text.to_string(),
    };
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let captions: Vec<Caption> = lines.map(caption).collect();
    Ok(if captions.is_empty() {
        vec![caption("")]
    } else {
        captions
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn texts(json: &str) -> Vec<(Option<String>, String)> {
        let fields = Fields::parse(json.as_bytes()).unwrap();
        fields
            .captions
            .into_iter()
            .map(|c| (c.language, c.text))
            .collect()
    }

    fn pair(language: &str, text: &str) -> (Option<String>, String) {
        (Some(language.to_string()), text.to_string())
    }

    #[test]
    fn captions_stand_under_several_keys_in_several_forms() {
        assert_eq!(
            texts(r#"{"text": "a cat "}"#),
            [(None, "a cat".to_string())]
        );
        assert_eq!(texts(r#"{"caption": ["a", "b"]}"#).len(), 2);
        assert_eq!(
            texts(r#"{"en": ["an apple"], "ko": "사과"}"#),
            [pair("en", "an apple"), pair("ko", "사과")]
        );
        assert_eq!(
            texts(r#"{"captions": {"fr": ["une pomme"]}}"#),
            [pair("fr", "une pomme")]
        );
        assert!(texts("{}").is_empty());
    }

    #[test]
    fn what_is_not_ours_is_kept() {
        let fields = Fields::parse(br#"{"kind": "white", "weight": 0.35, "label": 7, "flip": false, "objects": [{"id": "1f34e"}]}"#).unwrap();
        assert_eq!(fields.attributes["kind"], "white");
        assert_eq!(fields.attributes["objects"][0]["id"], "1f34e");
        assert_eq!(
            (fields.weight, fields.class.as_deref(), fields.flip),
            (0.35, Some("7"), false)
        );
        let absent = Fields::parse(b"{}").unwrap();
        assert_eq!((absent.weight, absent.flip), (1.0, true));
    }

    #[test]
    fn values_of_another_kind_are_refused_by_key() {
        for (json, expected) in [
            (
                r#"{"text": 3}"#,
                "`text` must be a string or a list of strings",
            ),
            (
                r#"{"en": [1]}"#,
                "`en` must be a string or a list of strings",
            ),
            (
                r#"{"weight": -1}"#,
                "`weight` must be a number that is not below 0",
            ),
            (
                r#"{"class": 1.5}"#,
                "`class` must be a string or a whole number",
            ),
            (r#"{"file_name": []}"#, "`file_name` must be a string"),
            (r#"{"flip": "no"}"#, "`flip` must be `true` or `false`"),
            (
                r#"{"file_name": "a", "file": "b"}"#,
                "both `file_name` and `file`",
            ),
            (r#"["a"]"#, "it is no JSON object"),
            (r#"{"text": "a"#, "it is no JSON object (column 11): EOF"),
        ] {
            let message = Fields::parse(json.as_bytes()).unwrap_err();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn a_caption_a_line() {
        let captions = captions_of_text("\u{feff}a cat\r\n\n 고양이 \n".as_bytes()).unwrap();
        let texts: Vec<_> = captions
            .iter()
            .map(|caption| caption.text.as_str())
            .collect();
        assert_eq!(texts, ["a cat", "고양이"]);
    }

    #[test]
    fn an_empty_file_is_a_caption_without_words() {
        assert_eq!(captions_of_text(b"\n").unwrap()[0].text, "");
    }

    #[test]
    fn a_text_that_is_not_utf8_is_named_by_its_line() {
        assert_eq!(captions_of_text(b"a\nb\n\xb0\xa1").unwrap_err().line, 3);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..60), json in "[\\[\\]{}\",:a0\\\\]{0,40}") {
            let _ = captions_of_text(&bytes);
            let _ = Fields::parse(&bytes);
            let _ = Fields::parse(json.as_bytes());
        }
    }
}
