//! What things a picture shows, said by their names in its caption.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use latent_data::{Caption, DataSet, Example};

use super::judge::cosine;
use super::{Judge, concepts};
use crate::pictures::without_style;

/// Other things that are said in the place of each of a caption's, evenly spread over all.
const OTHERS: usize = 99;

/// The names of all things of a training set.
pub(super) struct Names {
    /// The place of each thing's name; things of one name share it.
    places: BTreeMap<String, usize>,
    /// Different ones, in order, without article.
    names: Vec<String>,
}

impl Names {
    pub(super) fn of(training: &DataSet) -> Self {
        let single = training.examples().iter().filter_map(single);
        let names: BTreeMap<&str, &str> = shortest(single)
            .into_iter()
            .map(|(thing, caption)| (thing, without_article(caption)))
            .collect();
        let different: BTreeSet<&str> = names.values().copied().collect();
        let different: Vec<String> = different.into_iter().map(str::to_owned).collect();
        let place = |(thing, name): (&&str, &&str)| {
            let place = different.binary_search_by(|other| other.as_str().cmp(name));
            Some(((*thing).to_owned(), place.ok()?))
        };
        Self {
            places: names.iter().filter_map(place).collect(),
            names: different,
        }
    }

    /// The caption of `example` in English, and for each thing of it the captions that name another in its place; `None` if
    /// the example shows nothing, or something whose name does not stand in the caption.
    fn captions<'a>(&self, example: &'a Example) -> Option<(&'a str, Vec<Vec<String>>)> {
        let caption = english(example)?;
        let things = concepts(example).into_iter();
        let places: Option<BTreeSet<usize>> = things
            .map(|thing| self.places.get(thing).copied())
            .collect();
        let places = places.filter(|places| !places.is_empty())?;
        let wrong: Option<Vec<Vec<String>>> = places
            .iter()
            .map(|&place| self.instead(caption, place, &places))
            .collect();
        Some((caption, wrong?))
    }

    /// `caption` with other names in the place of one, none of them of `shown`.
    fn instead(&self, caption: &str, place: usize, shown: &BTreeSet<usize>) -> Option<Vec<String>> {
        let (before, after, many) = around(caption, &self.names[place])?;
        let ending = if many { "s" } else { "" };
        let all = self.names.len();
        let others = OTHERS.min(all.saturating_sub(1));
        let others = (1..=others).map(|nth| (place + nth * all / (others + 1)) % all);
        let others = others.filter(|other| !shown.contains(other));
        let said = others.map(|other| said(before, &(self.names[other].clone() + ending), after));
        Some(said.collect())
    }
}

/// A caption as the judge reads it, with those that name other things.
pub(super) struct Naming {
    caption: Vec<f32>,
    wrong: Vec<Vec<f32>>,
}

impl Naming {
    /// Reads the captions; `None` where there are none, see [`Names`].
    pub(super) fn read(judge: &Judge, names: &Names, example: &Example) -> Option<Self> {
        let (caption, wrong) = names.captions(example)?;
        let wrong = wrong.iter().flatten().map(String::as_str);
        let texts: Vec<&str> = [caption].into_iter().chain(wrong).collect();
        let mut vectors = judge.read(&texts).into_iter();
        Some(Self {
            caption: vectors.next()?,
            wrong: vectors.collect(),
        })
    }

    /// Whether `picture` is nearer to the caption than to all that name another thing.
    pub(super) fn right(&self, picture: &[f32]) -> bool {
        let own = cosine(picture, &self.caption);
        self.wrong.iter().all(|wrong| own > cosine(picture, wrong))
    }
}

/// What stands before and behind `name` in `caption`, as a word or several, and whether it is many.
fn around<'a>(caption: &'a str, name: &str) -> Option<(&'a str, &'a str, bool)> {
    let ends = |rest: &str| !rest.starts_with(char::is_alphanumeric);
    caption.match_indices(name).find_map(|(at, _)| {
        let (before, after) = (&caption[..at], &caption[at + name.len()..]);
        if before.ends_with(char::is_alphanumeric) {
            return None;
        }
        let many = ["es", "s"].map(|ending| after.strip_prefix(ending));
        let many = many.into_iter().flatten().find(|rest| ends(rest));
        match many {
            Some(rest) => Some((before, rest, true)),
            None => ends(after).then_some((before, after, false)),
        }
    })
}

/// A caption with `name` between its ends, and the article that it takes.
fn said(before: &str, name: &str, after: &str) -> String {
    let article = if name.starts_with(['a', 'e', 'i', 'o', 'u']) {
        "an "
    } else {
        "a "
    };
    let stem = before.strip_suffix("an ").or(before.strip_suffix("a "));
    let stem = stem.filter(|stem| stem.is_empty() || stem.ends_with(' '));
    match stem {
        Some(stem) => format!("{stem}{article}{name}{after}"),
        None => format!("{before}{name}{after}"),
    }
}

fn without_article(name: &str) -> &str {
    let rest = name.strip_prefix("an ").or(name.strip_prefix("a "));
    rest.unwrap_or(name)
}

/// The first English caption, or the first.
fn english(example: &Example) -> Option<&str> {
    let captions = &example.captions;
    let english = |caption: &&Caption| caption.language.as_deref() == Some("en");
    let caption = captions.iter().find(english).or(captions.first())?;
    Some(&caption.text)
}

/// The one thing that an example shows, and what its first English caption says of it.
fn single(example: &Example) -> Option<(&str, &str)> {
    let &[thing] = concepts(example).as_slice() else {
        return None;
    };
    Some((thing, without_style(english(example)?)))
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

#[cfg(test)]
mod tests {
    use super::*;

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

    fn names(things: &[(&str, &str)]) -> Names {
        let different: BTreeSet<&str> = things.iter().map(|(_, name)| *name).collect();
        let names: Vec<String> = different.into_iter().map(str::to_owned).collect();
        let place = |name: &str| names.iter().position(|other| other == name).unwrap();
        let places = things
            .iter()
            .map(|(thing, name)| ((*thing).to_owned(), place(name)));
        Names {
            places: places.collect(),
            names: names.clone(),
        }
    }

    /// The only example of a folder whose metadata lists things.
    fn example(caption: &str, things: &[&str]) -> Example {
        let folder = tempfile::tempdir().unwrap();
        let picture = latent_formats::Picture::new(1, 1, vec![0; 3]).unwrap();
        picture.save(&folder.path().join("1.png")).unwrap();
        let objects: Vec<_> = things
            .iter()
            .map(|thing| serde_json::json!({ "id": thing }))
            .collect();
        let line = serde_json::json!({ "file_name": "1.png", "text": caption, "objects": objects });
        std::fs::write(folder.path().join("metadata.jsonl"), line.to_string()).unwrap();
        let set = DataSet::open(folder.path(), latent_data::Captions::Required).unwrap();
        set.examples()[0].clone()
    }

    #[test]
    fn other_things_are_named_in_the_place_of_each() {
        let names = names(&[("1", "apple"), ("2", "cow"), ("3", "hot dog"), ("4", "cow")]);
        let wrong = |caption: &str, things: &[&str]| {
            let example = example(caption, things);
            names.captions(&example).map(|(_, wrong)| wrong)
        };
        assert_eq!(
            wrong("a cow on a beach, 3d style", &["2"]),
            Some(vec![vec![
                "a hot dog on a beach, 3d style".to_owned(),
                "an apple on a beach, 3d style".to_owned()
            ]])
        );
        // What is shown beside it is no wrong name for it, and two kinds of cow have one name.
        assert_eq!(
            wrong("a blue hot dog next to a cow", &["3", "4"]),
            Some(vec![
                vec!["a blue hot dog next to an apple".to_owned()],
                vec!["a blue apple next to a cow".to_owned()]
            ])
        );
        assert_eq!(
            wrong("three apples", &["1", "1", "1"]),
            Some(vec![vec![
                "three cows".to_owned(),
                "three hot dogs".to_owned()
            ]])
        );
    }

    #[test]
    fn nothing_is_asked_of_pictures_whose_things_are_unknown_or_not_named() {
        let names = names(&[("1", "cow"), ("2", "hen")]);
        for (caption, things) in [
            ("a cow", &[][..]),
            ("a cow", &["1", "9"]),
            ("a cowboy", &["1"]),
        ] {
            assert!(
                names.captions(&example(caption, things)).is_none(),
                "{caption}"
            );
        }
    }

    #[test]
    fn a_picture_must_be_nearer_to_its_caption_than_to_all_others() {
        let naming = Naming {
            caption: vec![1.0, 0.0],
            wrong: vec![vec![0.0, 1.0], vec![0.6, 0.8]],
        };
        assert!(naming.right(&[1.0, 0.2]));
        assert!(!naming.right(&[0.8, 0.6]));
        assert!(!naming.right(&[f32::NAN, 0.0]), "no number is no answer");
    }
}
