//! Captions that differ in one word from right ones: what prompts turn on, and what a batch drawn at random rarely holds.

use crate::random::Draws;

/// Groups of words that exclude one another, such as colours, numbers, or left and right.
#[derive(Clone, Debug, Default)]
pub(crate) struct Opposites {
    groups: Vec<Vec<String>>,
}

/// A word without the punctuation behind it.
pub(crate) fn bare(word: &str) -> &str {
    word.trim_end_matches([',', '.', ';', '!', '?'])
}

impl Opposites {
    pub(crate) fn new(groups: Vec<Vec<String>>) -> Self {
        Self { groups }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// `caption` with one of its words exchanged for another of its group, wherever the two stand; `None` if it has no
    /// word of any group.
    pub(crate) fn twin(&self, caption: &str, draws: &mut Draws) -> Option<String> {
        let found: Vec<(&[String], usize)> = caption
            .split(' ')
            .filter_map(|word| self.place(bare(word)))
            .collect();
        // Two numbers each time, so that later captions do not depend on what this one holds.
        let [which, other] = [draws.uniform(), draws.uniform()];
        let pick = |number: f64, count: usize| ((number * count as f64) as usize).min(count - 1);
        if found.is_empty() {
            return None;
        }
        let (group, place) = found[pick(which, found.len())];
        let step = 1 + pick(other, group.len() - 1);
        let (from, to) = (&group[place], &group[(place + step) % group.len()]);
        let exchanged = |word: &str| {
            let plain = bare(word);
            let behind = &word[plain.len()..];
            match plain {
                plain if plain == from => format!("{to}{behind}"),
                plain if plain == to => format!("{from}{behind}"),
                _ => word.to_owned(),
            }
        };
        Some(
            caption
                .split(' ')
                .map(exchanged)
                .collect::<Vec<_>>()
                .join(" "),
        )
    }

    fn place(&self, word: &str) -> Option<(&[String], usize)> {
        self.groups.iter().find_map(|group| {
            let place = group.iter().position(|member| member == word)?;
            Some((group.as_slice(), place))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    fn opposites(groups: &[&[&str]]) -> Opposites {
        let owned = |group: &&[&str]| group.iter().map(|word| (*word).to_owned()).collect();
        Opposites::new(groups.iter().map(owned).collect())
    }

    fn twins(opposites: &Opposites, caption: &str) -> Vec<String> {
        let draw = |step| opposites.twin(caption, &mut Draws::new(1, Stream::Captions, step));
        (0..100).filter_map(draw).collect()
    }

    #[test]
    fn one_word_is_exchanged_and_the_rest_stays() {
        let colors = opposites(&[&["red", "blue", "green"]]);
        let mut found = twins(&colors, "a red apple, 3d style");
        assert_eq!(found.len(), 100);
        found.sort();
        found.dedup();
        assert_eq!(found, ["a blue apple, 3d style", "a green apple, 3d style"]);
    }

    #[test]
    fn sides_change_places_with_one_another() {
        let sides = opposites(&[&["왼쪽에", "오른쪽에"]]);
        let found = twins(&sides, "왼쪽에 고양이, 오른쪽에 개");
        assert!(
            found
                .iter()
                .all(|text| text == "오른쪽에 고양이, 왼쪽에 개")
        );
    }

    #[test]
    fn parts_of_words_are_left_alone() {
        let numbers = opposites(&[&["두", "세"], &["red", "blue"]]);
        assert!(twins(&numbers, "두부, 3D 스타일").is_empty());
        assert!(twins(&numbers, "a reddish thing").is_empty());
    }
}
