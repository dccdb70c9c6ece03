//! What the demo asks a model for.

use super::page::Language;
use super::studio::Studio;

/// The same wish in both languages, and the seed it is drawn with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    english: String,
    korean: String,
    pub(super) seed: u64,
}

impl Pair {
    pub(super) fn prompt(&self, language: Language) -> &str {
        match language {
            Language::English => &self.english,
            Language::Korean => &self.korean,
        }
    }
}

/// Wishes from easy to hard; a model that lists its words is asked only for what it may know.
const WISHES: &[(&str, &str)] = &[
    ("a red apple, 3d style", "빨간 사과, 3D 스타일"),
    ("a dog, flat style", "개, 플랫 스타일"),
    ("a cat, cartoon style", "고양이, 만화 스타일"),
    ("a car, sticker style", "자동차, 스티커 스타일"),
    ("a rocket, 3d style", "로켓, 3D 스타일"),
    ("a house, flat style", "집, 플랫 스타일"),
    ("an octopus, cartoon style", "문어, 만화 스타일"),
    ("a rose, 3d style", "장미꽃, 3D 스타일"),
    ("a mushroom, pixel art style", "버섯, 픽셀 아트 스타일"),
    (
        "a cat on a beach, cartoon style",
        "해변에 있는 고양이, 만화 스타일",
    ),
    ("two turtles, retro style", "거북이 두 마리, 레트로 스타일"),
    (
        "an owl on a purple background, sticker style",
        "보라색 배경의 부엉이, 스티커 스타일",
    ),
];

/// Wishes that a model of other things is asked for in their place.
const FEWEST: usize = 4;

/// The wishes of the gallery.
pub(super) fn pairs(studio: &Studio<'_>) -> Vec<Pair> {
    let known = WISHES
        .iter()
        .filter(|(english, korean)| studio.knows(english) && studio.knows(korean));
    let mut wishes: Vec<(String, String)> = known
        .map(|&(en, ko)| (en.to_owned(), ko.to_owned()))
        .collect();
    if wishes.len() < FEWEST {
        wishes = (0..2 * FEWEST as u64)
            .filter_map(|number| surprising(studio, number))
            .collect();
        wishes.dedup();
    }
    if wishes.is_empty() {
        wishes = WISHES
            .iter()
            .map(|&(en, ko)| (en.to_owned(), ko.to_owned()))
            .collect();
    }
    wishes.truncate(studio.few(2, wishes.len()));
    let pair = |(place, (english, korean))| Pair {
        english,
        korean,
        seed: place as u64 + 1,
    };
    wishes.into_iter().enumerate().map(pair).collect()
}

/// Something of the model's own list; one of the two where it knows one language only.
fn surprising(studio: &Studio<'_>, number: u64) -> Option<(String, String)> {
    let [english, korean] = [false, true].map(|korean| studio.surprise(number, korean));
    let one = english.clone().or_else(|| korean.clone())?;
    Some((
        english.unwrap_or_else(|| one.clone()),
        korean.unwrap_or(one),
    ))
}
