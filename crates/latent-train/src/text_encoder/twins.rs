//! Captions that differ in one word from right ones: what prompts turn on, and what a batch drawn at random rarely holds.

use crate::random::Draws;

/// Groups of words that exclude one another, such as colours, numbers, or left and right.
#[derive(Clone, Debug, Default)]
pub(crate) struct Opposites {
    groups: Vec<Vec<String>>,
}

/// Wrong versions of a caption: one of its words is exchanged for each of the others of its group.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Variants<'a> {
    /// The first word of the group.
    pub(crate) list: &'a str,
    pub(crate) texts: Vec<String>,
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
        let found = self.members(caption);
        // Two numbers each time, so that later captions do not depend on what this one holds.
        let [which, other] = [draws.uniform(), draws.uniform()];
        let pick = |number: f64, count: usize| ((number * count as f64) as usize).min(count - 1);
        if found.is_empty() {
            return None;
        }
        let (group, place) = found[pick(which, found.len())];
        let step = 1 + pick(other, group.len() - 1);
        let (from, to) = (&group[place], &group[(place + step) % group.len()]);
        Some(exchanged(caption, from, to))
    }

    /// The wrong versions of `caption` for each of its words that is in a group.
    ///
    /// As in [`Opposites::twin`] two words change places where both stand, so that sides told by two words give one
    /// version. The part that names the style is taken by itself, for a style may be called as a colour is.
    pub(crate) fn variants(&self, caption: &str) -> Vec<Variants<'_>> {
        let body = latent::split_style(caption).0;
        let ending = &caption[body.len()..];
        let styles = self.members(ending);
        let of_body = self.members(body).into_iter().map(|member| (member, true));
        // Of "black and white style" neither word can be exchanged: the two are one name.
        let alone =
            |group: &[String]| styles.iter().filter(|(other, _)| *other == group).count() == 1;
        let of_ending = styles.iter().filter(|(group, _)| alone(group));
        let members = of_body.chain(of_ending.map(|&member| (member, false)));
        let mut found: Vec<Variants<'_>> = Vec::new();
        for ((group, place), in_body) in members {
            let exchange = |to: &String| match in_body {
                true => exchanged(body, &group[place], to) + ending,
                false => body.to_owned() + &exchanged(ending, &group[place], to),
            };
            let others = group.iter().filter(|to| **to != group[place]);
            let texts: Vec<String> = others
                .map(|to| with_articles(&exchange(to), caption))
                .collect();
            if !texts.is_empty() && found.iter().all(|other| other.texts != texts) {
                let list = group[0].as_str();
                found.push(Variants { list, texts });
            }
        }
        found
    }

    /// Words of `text` that are in a group: the group and the word's place in it.
    fn members(&self, text: &str) -> Vec<(&[String], usize)> {
        let words = text.split(' ');
        words.filter_map(|word| self.place(bare(word))).collect()
    }

    fn place(&self, word: &str) -> Option<(&[String], usize)> {
        self.groups.iter().find_map(|group| {
            let place = group.iter().position(|member| member == word)?;
            Some((group.as_slice(), place))
        })
    }
}

/// `text` with every `from` exchanged for `to`, and every `to` for `from`.
fn exchanged(text: &str, from: &str, to: &str) -> String {
    let exchanged = |word: &str| {
        let plain = bare(word);
        let behind = &word[plain.len()..];
        match plain {
            plain if plain == from => format!("{to}{behind}"),
            plain if plain == to => format!("{from}{behind}"),
            _ => word.to_owned(),
        }
    };
    text.split(' ').map(exchanged).collect::<Vec<_>>().join(" ")
}

/// `text` with the `a` or `an` that fits each word which `caption` has not in that place: "an red apple" would be known as
/// wrong without a look at the picture.
fn with_articles(text: &str, caption: &str) -> String {
    let mut words: Vec<&str> = text.split(' ').collect();
    for (at, before) in caption.split(' ').enumerate().skip(1) {
        let Some(&word) = words.get(at) else { break };
        if word != before && matches!(words[at - 1], "a" | "an") {
            let vowel = word.starts_with(['a', 'e', 'i', 'o', 'u']);
            words[at - 1] = if vowel { "an" } else { "a" };
        }
    }
    words.join(" ")
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

    /// Each list's name with the texts, in the order found.
    fn variants(groups: &[&[&str]], caption: &str) -> Vec<(String, Vec<String>)> {
        let opposites = opposites(groups);
        let found = opposites.variants(caption).into_iter();
        found
            .map(|variants| (variants.list.to_owned(), variants.texts))
            .collect()
    }

    fn of(list: &str, texts: &[&str]) -> (String, Vec<String>) {
        let texts = texts.iter().map(|text| (*text).to_owned());
        (list.to_owned(), texts.collect())
    }

    #[test]
    fn variants_exchange_each_word_for_all_others_of_its_list() {
        let lists: &[&[&str]] = &[&["red", "blue", "orange"], &["left", "right"]];
        assert_eq!(
            variants(lists, "a blue cat to the left of a hat, 3d style"),
            [
                of(
                    "red",
                    &[
                        "a red cat to the left of a hat, 3d style",
                        "an orange cat to the left of a hat, 3d style"
                    ]
                ),
                of("left", &["a blue cat to the right of a hat, 3d style"]),
            ]
        );
        assert!(variants(lists, "a cat on a reddish hat").is_empty());
    }

    #[test]
    fn two_words_of_a_list_change_places_and_sides_told_twice_are_one_question() {
        let found = variants(&[&["red", "blue", "pink"]], "a red cat and a blue hat");
        assert_eq!(
            found,
            [
                of(
                    "red",
                    &["a blue cat and a red hat", "a pink cat and a blue hat"]
                ),
                of(
                    "red",
                    &["a blue cat and a red hat", "a red cat and a pink hat"]
                ),
            ]
        );
        let found = variants(&[&["왼쪽에", "오른쪽에"]], "왼쪽에 고양이, 오른쪽에 개");
        assert_eq!(found, [of("왼쪽에", &["오른쪽에 고양이, 왼쪽에 개"])]);
    }

    #[test]
    fn styles_called_as_colours_are_not_exchanged_and_colours_beside_them_are() {
        let lists: &[&[&str]] = &[&["black", "white", "red"], &["3d", "flat"]];
        assert!(variants(lists, "a cat, black and white style").is_empty());
        assert_eq!(
            variants(lists, "a white cat, black and white style"),
            [of(
                "black",
                &[
                    "a black cat, black and white style",
                    "a red cat, black and white style"
                ]
            )]
        );
        assert_eq!(
            variants(lists, "a flat shoe, 3d style"),
            [
                of("3d", &["a 3d shoe, 3d style"]),
                of("3d", &["a flat shoe, flat style"])
            ]
        );
    }
}
