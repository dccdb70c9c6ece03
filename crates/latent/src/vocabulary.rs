//! The words that a model learned from: the file `latent-words.json` beside its `model_index.json`.
//!
//! Training writes it from the captions. Other programs do not read it, and without it nothing is said of words.

mod near;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use latent_formats::{parse_json, write_bytes};
use latent_models::ModelFolder;
use serde::{Deserialize, Serialize};

use crate::Error;
use near::Nearness;

/// Name of the file in a model's folder.
pub const FILE: &str = "latent-words.json";

/// Words that a list keeps, the most frequent first: those of a large data set would fill megabytes with rare ones.
const MOST_WORDS: usize = 30_000;
/// Things that a list keeps in each of the scripts, those of the most styles first.
const MOST_THINGS: usize = 2_000;
/// Near words that are told of an unknown one.
const MOST_NEAR: usize = 4;
/// What the last part of a caption ends in if it names a style.
const STYLE_ENDINGS: [&str; 2] = [" style", " 스타일"];

/// English words that nobody expects to see in a picture; the model may never have met them.
const SMALL_WORDS: &[&str] = &[
    "a", "an", "and", "are", "as", "at", "but", "by", "for", "from", "her", "his", "in", "into",
    "is", "it", "its", "my", "of", "on", "or", "our", "some", "that", "the", "their", "this", "to",
    "very", "with", "your",
];

/// What follows a Korean noun, longest first.
const PARTICLES: &[&str] = &[
    "에서", "으로", "이랑", "이나", "까지", "부터", "처럼", "은", "는", "이", "가", "을", "를",
    "의", "에", "와", "과", "도", "로", "랑", "들", "만",
];

/// The words of a model's captions, and the things and styles that they name.
///
/// ```
/// let captions = [vec!["a red apple, 3d style"], vec!["a dragonfly, 3d style", "잠자리, 3D 스타일"]];
/// let vocabulary = latent::Vocabulary::of_captions(captions);
/// let unknown = vocabulary.unknown("a green dragonfly-helicopter");
/// assert_eq!(unknown[0].word, "green");
/// assert_eq!(unknown[1].near, ["dragonfly"]);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Vocabulary {
    /// Every word, in lower case.
    words: BTreeSet<String>,
    /// Endings of captions that name a style, as in `3d style`.
    styles: Vec<String>,
    /// What captions are about, and the places in `styles` of the styles it was seen in.
    things: BTreeMap<String, Vec<usize>>,
}

/// A word that the captions have not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownWord {
    /// The word, in lower case.
    pub word: String,
    /// Words of the captions that look like it, the nearest first; empty if none does.
    pub near: Vec<String>,
}

impl UnknownWord {
    /// Whether it is written in Hangul.
    pub fn is_korean(&self) -> bool {
        is_korean(&self.word)
    }
}

impl Vocabulary {
    /// What the captions of all examples hold. The first caption of an example, in each script, says what it shows.
    pub fn of_captions<'a, E>(examples: impl IntoIterator<Item = E>) -> Self
    where
        E: IntoIterator<Item = &'a str>,
    {
        let mut counts: HashMap<String, u64> = HashMap::new();
        let mut seen: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for captions in examples {
            let mut first = [true; 2];
            for caption in captions {
                for word in words_of(caption) {
                    *counts.entry(word).or_default() += 1;
                }
                if std::mem::take(&mut first[usize::from(is_korean(caption))]) {
                    let (thing, style) = split_style(caption);
                    let styles = seen.entry(thing.to_string()).or_default();
                    styles.extend(style.map(str::to_string));
                }
            }
        }
        seen.remove("");
        Self::new(counts, seen)
    }

    fn new(counts: HashMap<String, u64>, seen: BTreeMap<String, BTreeSet<String>>) -> Self {
        let mut words: Vec<(String, u64)> = counts.into_iter().collect();
        words.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        words.truncate(MOST_WORDS);
        let [english, korean] = [false, true].map(|script| {
            let mut things: Vec<_> = seen.iter().collect();
            things.retain(|(thing, _)| is_korean(thing) == script);
            // A stable sort: things of as many styles stay in the order of their letters.
            things.sort_by_key(|(_, styles)| std::cmp::Reverse(styles.len()));
            things.truncate(MOST_THINGS);
            things
        });
        let kept: Vec<_> = english.into_iter().chain(korean).collect();
        let styles: BTreeSet<&String> = kept.iter().flat_map(|(_, styles)| *styles).collect();
        let styles: Vec<String> = styles.into_iter().cloned().collect();
        let places = |of: &BTreeSet<String>| {
            let places = styles.iter().enumerate();
            places
                .filter(|(_, style)| of.contains(*style))
                .map(|(place, _)| place)
                .collect()
        };
        let things = kept
            .iter()
            .map(|(thing, of)| ((*thing).clone(), places(of)));
        Self {
            words: words.into_iter().map(|(word, _)| word).collect(),
            things: things.collect(),
            styles,
        }
    }

    /// The list of a model's folder; `None` if it has none.
    ///
    /// # Errors
    /// [`Error::Format`] if the file is broken.
    pub fn read(folder: &ModelFolder) -> Result<Option<Self>, Error> {
        let files = folder.files();
        let Some(bytes) = files.read(FILE)? else {
            return Ok(None);
        };
        Ok(Some(parse_json(&bytes, &files.path().join(FILE))?))
    }

    /// Writes the list as `path`, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Format`] if the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        // In one line: indented, a list of thousands of words would be thousands of lines.
        let mut text = serde_json::to_string(self).map_err(|e| Error::Request(e.to_string()))?;
        text.push('\n');
        Ok(write_bytes(path, text.as_bytes())?)
    }

    /// Every word of the captions, in order.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        self.words.iter().map(String::as_str)
    }

    /// Everything that captions are about, in order.
    pub fn things(&self) -> impl Iterator<Item = &str> {
        self.things.keys().map(String::as_str)
    }

    /// The words of `text` that no caption has, each once, with known words near to them.
    ///
    /// Articles, other small words, numbers, and Korean particles behind a known noun are passed over.
    #[must_use]
    pub fn unknown(&self, text: &str) -> Vec<UnknownWord> {
        let mut told = BTreeSet::new();
        words_of(text)
            .filter(|word| !self.knows(word) && told.insert(word.clone()))
            .map(|word| UnknownWord {
                near: Nearness::of(&word).nearest(self.words(), MOST_NEAR),
                word,
            })
            .collect()
    }

    fn knows(&self, word: &str) -> bool {
        let noun = |particle: &&str| {
            let noun = word.strip_suffix(*particle);
            noun.is_some_and(|noun| self.words.contains(noun))
        };
        self.words.contains(word)
            || SMALL_WORDS.contains(&word)
            || (is_korean(word) && PARTICLES.iter().any(noun))
    }

    /// A caption that the model may have learned: one of its things, in one of the styles it was seen in. The same for
    /// the same number; `None` if there is nothing in that script.
    #[must_use]
    pub fn surprise(&self, number: u64, korean: bool) -> Option<String> {
        let things = self.things.iter();
        let things: Vec<_> = things
            .filter(|(thing, _)| is_korean(thing) == korean)
            .collect();
        let (thing, styles) = picked(&things, mixed(number))?;
        let style = picked(styles, mixed(!number)).and_then(|&place| self.styles.get(place));
        Some(match style {
            Some(style) => format!("{thing}, {style}"),
            None => (*thing).clone(),
        })
    }

    /// Some things that captions are about, in the script of `word`: the same for the same word.
    #[must_use]
    pub fn examples(&self, word: &str, count: usize) -> Vec<&str> {
        let korean = is_korean(word);
        let things: Vec<&str> = self
            .things()
            .filter(|thing| is_korean(thing) == korean)
            .collect();
        let start = word
            .bytes()
            .fold(0, |sum, byte| mixed(sum ^ u64::from(byte)));
        let mut chosen = Vec::new();
        for number in 0..8 * count as u64 {
            match picked(&things, mixed(start.wrapping_add(number))) {
                Some(thing) if chosen.len() < count && !chosen.contains(thing) => {
                    chosen.push(*thing)
                }
                _ => {}
            }
        }
        chosen
    }
}

/// The item that a number well mixed falls on.
fn picked<T>(items: &[T], number: u64) -> Option<&T> {
    let place = number.checked_rem(items.len() as u64)?;
    items.get(place as usize)
}

/// Numbers next to each other become numbers far apart.
///
/// Source: the finaliser of SplitMix64, Steele et al. 2014 (doi:10.1145/2714064.2660195), Figure 13.
fn mixed(number: u64) -> u64 {
    let z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Whether Hangul is in the text.
pub(crate) fn is_korean(text: &str) -> bool {
    text.chars()
        .any(|letter| matches!(letter, '\u{ac00}'..='\u{d7a3}' | '\u{3131}'..='\u{318e}'))
}

/// What a caption is about, and its last part if that names a style: `a red apple` and `3d style`.
#[must_use]
pub fn split_style(caption: &str) -> (&str, Option<&str>) {
    match caption.rsplit_once(", ") {
        Some((thing, style)) if STYLE_ENDINGS.iter().any(|end| style.ends_with(end)) => {
            (thing, Some(style))
        }
        _ => (caption, None),
    }
}

/// The words of a text in lower case, hyphens and apostrophes inside of them kept; numbers are none.
fn words_of(text: &str) -> impl Iterator<Item = String> {
    let inside = |letter: char| matches!(letter, '-' | '\'' | '’');
    let outside = move |letter: char| !(letter.is_alphanumeric() || inside(letter));
    text.split(outside)
        .map(move |word| word.trim_matches(inside).to_lowercase())
        .filter(|word| word.chars().any(char::is_alphabetic))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vocabulary() -> Vocabulary {
        Vocabulary::of_captions([
            vec![
                "a red apple, 3d style",
                "red apple, fruit, 3d style",
                "빨간 사과, 3D 스타일",
            ],
            vec!["a red apple, flat style", "빨간 사과, 플랫 스타일"],
            vec!["a dragonfly, flat style", "잠자리, 플랫 스타일"],
            vec!["a helicopter, 3d style", "헬리콥터, 3D 스타일"],
            vec!["a strawberry, 3d style", "딸기, 3D 스타일"],
        ])
    }

    fn near(text: &str) -> Vec<(String, Vec<String>)> {
        let unknown = vocabulary().unknown(text).into_iter();
        unknown.map(|found| (found.word, found.near)).collect()
    }

    #[test]
    fn words_of_a_compound_are_near_to_it() {
        let found = near("a dragonfly-helicopter, 3D style");
        assert_eq!(found[0].0, "dragonfly-helicopter");
        assert_eq!(found[0].1[..2], ["dragonfly", "helicopter"]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(near("잠자리헬리콥터")[0].1[..2], ["잠자리", "헬리콥터"]);
    }

    #[test]
    fn slips_and_beginnings_find_their_words() {
        for (text, word) in [
            ("helicoptr", "helicopter"),
            ("hleicopter", "helicopter"),
            ("apples", "apple"),
            ("straw", "strawberry"),
            ("헬리콥타", "헬리콥터"),
            ("딸끼", "딸기"),
        ] {
            assert_eq!(near(text)[0].1[0], word, "{text}");
        }
        assert_eq!(near("xylophone"), [("xylophone".to_string(), vec![])]);
    }

    #[test]
    fn what_is_known_or_small_is_passed_over() {
        for text in [
            "The red apple in 3D style, 2",
            "(red apple:1.3)",
            "빨간 사과와 잠자리를",
            "",
            "— 12 !",
        ] {
            assert_eq!(near(text), [], "{text}");
        }
        assert_eq!(near("cat, cat and CAT").len(), 1);
    }

    #[test]
    fn a_surprise_is_a_thing_in_a_style_it_was_seen_in() {
        let vocabulary = vocabulary();
        let all: BTreeSet<String> = (0..200)
            .filter_map(|n| vocabulary.surprise(n, false))
            .collect();
        let seen = [
            "a dragonfly, flat style",
            "a helicopter, 3d style",
            "a red apple, 3d style",
            "a red apple, flat style",
            "a strawberry, 3d style",
        ];
        assert!(all.iter().eq(seen), "{all:?}");
        assert_eq!(vocabulary.surprise(7, true), vocabulary.surprise(7, true));
        assert!((0..20).all(|n| is_korean(&vocabulary.surprise(n, true).expect("a thing"))));
        assert_eq!(Vocabulary::default().surprise(7, false), None);
    }

    #[test]
    fn captions_without_styles_are_things_too() {
        let vocabulary = Vocabulary::of_captions([["a quiet harbour at dawn"]]);
        assert_eq!(
            vocabulary.surprise(1, false).as_deref(),
            Some("a quiet harbour at dawn")
        );
        assert_eq!(vocabulary.examples("x", 3), ["a quiet harbour at dawn"]);
    }

    #[test]
    fn a_list_survives_its_file_and_a_place_beyond_the_styles_is_no_panic() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(FILE);
        vocabulary().write(&path).expect("written");
        let bytes = std::fs::read(&path).expect("read");
        let again: Vocabulary = parse_json(&bytes, &path).expect("parsed");
        assert_eq!(again, vocabulary());
        let broken: Vocabulary =
            parse_json(b"{\"things\": {\"a cat\": [9]}}", &path).expect("parsed");
        assert_eq!(broken.surprise(0, false).as_deref(), Some("a cat"));
    }

    #[test]
    fn a_large_data_set_gives_a_list_of_bounded_size() {
        let captions: Vec<String> = (0..50_000).map(|n| format!("word{n} thing")).collect();
        let vocabulary = Vocabulary::of_captions(captions.iter().map(|caption| [caption.as_str()]));
        assert_eq!(vocabulary.words().count(), MOST_WORDS);
        assert_eq!(vocabulary.things().count(), MOST_THINGS);
        assert!(
            vocabulary.words().any(|word| word == "thing"),
            "the most frequent word stays"
        );
    }
}
