//! What is held out from training: a function of names alone, the same for any number of scenes.

use super::hash::hash_below;
use super::tables::{Color, Concept, Place};

/// The 84 things people try first; none of their styles is held out.
pub(super) const SHOWCASE: &[&str] = &[
    "1f34e", "1f34f", "1f431", "1f408", "1f436", "1f415", "1f697", "1f33b", "1f680", "1f3e0",
    "1f333", "1f409", "1f984", "1f355", "1f354", "1f370", "1f382", "1f600", "1f98b", "1f419",
    "1f427", "1f98a", "1f43c", "1f981", "1f42f", "1f418", "1f9f8", "1f916", "1f47b", "1f480",
    "1f383", "1f384", "26c4", "2603", "1f308", "2600", "1f31e", "1f319", "2b50", "1f6f8", "2708",
    "1f6b2", "1f682", "26f5", "1f3b8", "1f3bb", "1f4f7", "1f451", "1f48e", "1f339", "1f337",
    "1f335", "1f334", "1f344", "1f353", "1f34c", "1f347", "1f349", "1f352", "1f369", "2615",
    "1f377", "1f366", "1f41f", "1f420", "1f422", "1f438", "1f430", "1f434", "1f437", "1f989",
    "1f986", "1f433", "1f42c", "1f988", "1f41d", "1f41e", "1f577", "1f3b9", "1f941", "26bd",
    "1f3c0", "1f388", "1f381",
];

pub(super) fn is_showcase(concept: &Concept) -> bool {
    SHOWCASE.contains(&concept.id)
}

/// Whether a concept is never seen in a style in training.
pub(super) fn combination(concept: &Concept, style: &str) -> bool {
    let chosen = |style: &str| hash_below(&format!("combo:{}:{style}", concept.id), 20) == 0;
    !is_showcase(concept)
        && concept.styles.len() >= 3
        && chosen(style)
        && concept.styles.iter().filter(|style| !chosen(style)).count() >= 2
}

/// Whether a concept is never seen in a colour in training.
pub(super) fn color(concept: &Concept, color: &Color) -> bool {
    hash_below(&format!("color:{}:{}", concept.id, color.key), 10) == 0
}

/// Whether two concepts are never seen together in training, in any order.
pub(super) fn pair(a: &Concept, b: &Concept) -> bool {
    let (first, second) = (a.id.min(b.id), a.id.max(b.id));
    hash_below(&format!("pair:{first}:{second}"), 20) == 0
}

/// Whether a concept is never seen in a place in training.
pub(super) fn place(concept: &Concept, place: &Place) -> bool {
    hash_below(&format!("bg:{}:{}", concept.id, place.key), 20) == 0
}

/// Whether a number of a concept is never seen in training.
pub(super) fn count(concept: &Concept, count: usize) -> bool {
    hash_below(&format!("count:{}:{count}", concept.id), 10) == 0
}

/// Whether a concept is never seen inside a coloured shape in training.
pub(super) fn shape(concept: &Concept, color: &Color, shape: &str) -> bool {
    hash_below(&format!("shape:{}:{}:{shape}", concept.id, color.key), 20) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::icons::tables::tables;

    #[test]
    fn the_published_number_of_combinations_is_held_out() {
        let rows = tables().drawings.iter();
        let held = rows.filter(|row| combination(tables().concept(row.concept), row.style.key));
        // One for each held-out picture of one thing on a plain colour.
        assert_eq!(held.count(), 484);
    }

    #[test]
    fn no_picture_of_training_has_a_combination_that_is_held_out() {
        for recipe in crate::icons::recipe::all(5_000) {
            let style = recipe.style();
            let held = recipe
                .objects
                .iter()
                .any(|object| combination(object.concept, style));
            assert!(recipe.held_out || !held, "{}", recipe.key);
        }
    }

    #[test]
    fn every_showcase_thing_is_a_concept() {
        let known = |id: &&&str| tables().concepts.iter().any(|row| row.id == **id);
        assert_eq!(SHOWCASE.iter().filter(known).count(), SHOWCASE.len());
    }
}
