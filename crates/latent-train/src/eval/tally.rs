//! Counts of what was right.

use std::collections::BTreeMap;

use serde::Serialize;

use super::wording::Wording;

/// How many of how many were right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Hits {
    /// Right ones.
    pub right: usize,
    /// All.
    pub of: usize,
}

impl Hits {
    pub(super) fn add(&mut self, right: bool) {
        self.right += usize::from(right);
        self.of += 1;
    }

    /// Share of right ones, 0 of none.
    pub fn share(&self) -> f64 {
        self.right as f64 / self.of.max(1) as f64
    }
}

/// Hits of captions, also by what captions are told apart by.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) all: Hits,
    pub(super) by_kind: BTreeMap<String, Hits>,
    pub(super) by_language: BTreeMap<String, Hits>,
}

impl Tally {
    pub(super) fn add(&mut self, right: bool, kind: &str, language: &str) {
        self.all.add(right);
        let hits = self.by_kind.entry(kind.to_owned()).or_default();
        hits.add(right);
        let hits = self.by_language.entry(language.to_owned()).or_default();
        hits.add(right);
    }
}

/// How often the true caption scores better than all that have another word of a list in place of one of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct WordHits {
    /// By drawn pictures.
    pub drawn: Hits,
    /// By the captions' own pictures: how well the judge tells the words when they are drawn right.
    pub of_data: Hits,
    /// By the picture of another caption, the one before: what the words alone give away, or chance.
    pub of_others: Hits,
}

/// [`WordHits`] by list.
pub(super) type Worded = BTreeMap<String, WordHits>;

/// Counts the words of a caption, as the drawn picture, its own, and that of another caption show them.
pub(super) fn add_words(
    worded: &mut Worded,
    wording: &Wording,
    [drawn, own]: [&[f32]; 2],
    other: Option<&[f32]>,
) {
    let mut add = |picture: &[f32], of: fn(&mut WordHits) -> &mut Hits| {
        for (list, right) in wording.right(picture) {
            of(worded.entry(list.to_owned()).or_default()).add(right);
        }
    };
    add(drawn, |hits| &mut hits.drawn);
    add(own, |hits| &mut hits.of_data);
    if let Some(other) = other {
        add(other, |hits| &mut hits.of_others);
    }
}
