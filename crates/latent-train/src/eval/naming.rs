//! What things a picture shows, said by their names.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use latent_data::{Caption, DataSet, Example};

use super::judge::cosine;
use super::{Judge, concepts};
use crate::pictures::without_style;

/// The names of all things of a training set, as the judge reads them.
pub(super) struct Names {
    /// The place of each thing's name; things of one name share it.
    places: BTreeMap<String, usize>,
    vectors: Vec<Vec<f32>>,
}

impl Names {
    /// Reads each name once.
    pub(super) fn of(training: &DataSet, judge: &Judge) -> Self {
        let single = training.examples().iter().filter_map(single);
        let names = shortest(single);
        let different: BTreeSet<&str> = names.values().copied().collect();
        let different: Vec<&str> = different.into_iter().collect();
        let place = |(thing, name): (&&str, &&str)| {
            let place = different.binary_search(name).ok()?;
            Some(((*thing).to_owned(), place))
        };
        Self {
            places: names.iter().filter_map(place).collect(),
            vectors: judge.read(&different),
        }
    }

    /// Whether `picture` is nearer to the name of everything in `example` than to any other name; `None` if the example
    /// shows nothing, or something that has no name.
    pub(super) fn right(&self, picture: &[f32], example: &Example) -> Option<bool> {
        let wanted = concepts(example).into_iter();
        let wanted: Option<BTreeSet<usize>> = wanted
            .map(|thing| self.places.get(thing).copied())
            .collect();
        let wanted = wanted.filter(|wanted| !wanted.is_empty())?;
        let scores: Vec<f64> = self
            .vectors
            .iter()
            .map(|name| cosine(picture, name))
            .collect();
        Some(among_best(&scores, &wanted))
    }
}

/// The one thing that an example shows, and what its first English caption says of it.
fn single(example: &Example) -> Option<(&str, &str)> {
    let &[thing] = concepts(example).as_slice() else {
        return None;
    };
    let captions = &example.captions;
    let english = |caption: &&Caption| caption.language.as_deref() == Some("en");
    let caption = captions.iter().find(english).or(captions.first())?;
    Some((thing, without_style(&caption.text)))
}

/// The shortest caption of each thing: whatever else a picture shows, a colour or a place, makes its caption longer. Of
/// equally long ones the first in order of letters, so that the order of the pictures changes nothing.
fn shortest<'a>(captions: impl Iterator<Item = (&'a str, &'a str)>) -> BTreeMap<&'a str, &'a str> {
    let length = |caption: &'a str| (caption.chars().count(), caption);
    let mut names = BTreeMap::new();
    for (thing, caption) in captions.filter(|(_, caption)| !caption.is_empty()) {
        match names.entry(thing) {
            Entry::Vacant(entry) => {
                entry.insert(caption);
            }
            Entry::Occupied(mut entry) if length(caption) < length(entry.get()) => {
                entry.insert(caption);
            }
            Entry::Occupied(_) => {}
        }
    }
    names
}

/// Whether the `wanted` places, k of them, hold the k best scores. Who ties with another is not among the best.
fn among_best(scores: &[f64], wanted: &BTreeSet<usize>) -> bool {
    let others = scores
        .iter()
        .enumerate()
        .filter(|(place, _)| !wanted.contains(place));
    let best_other = others
        .map(|(_, &score)| score)
        .fold(f64::NEG_INFINITY, f64::max);
    wanted.iter().all(|&place| scores[place] > best_other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_is_right_if_its_name_is_the_best() {
        let scores = [0.1, 0.9, 0.3];
        let right = [0, 1, 2].map(|place| among_best(&scores, &[place].into()));
        assert_eq!(right, [false, true, false]);
    }

    #[test]
    fn two_things_are_right_if_theirs_are_the_best_two_names_in_any_order() {
        let scores = [0.8, 0.1, 0.9, 0.7];
        assert!(among_best(&scores, &[0, 2].into()));
        assert!(!among_best(&scores, &[2, 3].into()), "0 is better than 3");
        assert!(!among_best(&scores, &[0].into()), "one name, one place");
    }

    #[test]
    fn a_tie_or_a_score_that_is_no_number_is_not_right() {
        assert!(!among_best(&[0.5, 0.5], &[0].into()));
        assert!(!among_best(&[f64::NAN, 0.5], &[0].into()));
    }

    #[test]
    fn a_name_is_the_shortest_caption_whatever_their_order() {
        let captions = [
            ("1f32d", "a blue hot dog"),
            ("1f32d", "a hot dog"),
            ("1f34e", "an apple on a beach"),
            ("1f32d", "a hot dog in space"),
            ("1f34e", ""),
        ];
        let expected = BTreeMap::from([("1f32d", "a hot dog"), ("1f34e", "an apple on a beach")]);
        assert_eq!(shortest(captions.into_iter()), expected);
        assert_eq!(shortest(captions.into_iter().rev()), expected);
    }

    /// Names on the axes of a space: the picture's scores are its coordinates.
    fn axes(things: &[(&str, usize)]) -> Names {
        let places = things.iter().map(|(thing, at)| ((*thing).to_owned(), *at));
        let axis = |at| (0..3).map(move |other| f32::from(u8::from(other == at)));
        Names {
            places: places.collect(),
            vectors: (0..3).map(|at| axis(at).collect()).collect(),
        }
    }

    /// The only example of a folder whose metadata lists things.
    fn example(things: &[&str]) -> Example {
        let folder = tempfile::tempdir().unwrap();
        let picture = latent_formats::Picture::new(1, 1, vec![0; 3]).unwrap();
        picture.save(&folder.path().join("1.png")).unwrap();
        let objects: Vec<_> = things
            .iter()
            .map(|thing| serde_json::json!({ "id": thing }))
            .collect();
        let line = serde_json::json!({ "file_name": "1.png", "text": "a", "objects": objects });
        std::fs::write(folder.path().join("metadata.jsonl"), line.to_string()).unwrap();
        let set = DataSet::open(folder.path(), latent_data::Captions::Required).unwrap();
        set.examples()[0].clone()
    }

    #[test]
    fn a_picture_is_judged_by_the_different_names_of_what_it_shows() {
        // Two kinds of cow have one name.
        let names = axes(&[("cow", 0), ("cow face", 0), ("pig", 1), ("hen", 2)]);
        let right = |things: &[&str]| names.right(&[0.8, 0.5, 0.3], &example(things));
        assert_eq!(right(&["cow"]), Some(true));
        assert_eq!(right(&["cow", "cow", "cow"]), Some(true), "three cows");
        assert_eq!(right(&["cow", "cow face"]), Some(true));
        assert_eq!(right(&["pig", "cow"]), Some(true));
        assert_eq!(right(&["hen", "cow"]), Some(false));
        assert_eq!(right(&["pig"]), Some(false));
    }

    #[test]
    fn nothing_is_said_of_pictures_whose_things_are_unknown() {
        let names = axes(&[("cow", 0)]);
        let right = |things: &[&str]| names.right(&[1.0, 0.0, 0.0], &example(things));
        assert_eq!(right(&[]), None);
        assert_eq!(right(&["cow", "unicorn"]), None);
    }
}
