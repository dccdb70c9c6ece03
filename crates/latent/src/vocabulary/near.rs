//! How alike two words are: pieces they share, and slips between them.

use strsim::{jaro_winkler, osa_distance};

/// Letters that a part of a word needs to be told of: shorter ones are in many words by chance.
const SHORTEST_LATIN: usize = 3;
const SHORTEST_HANGUL: usize = 2;

/// A word to which near ones are looked for.
pub(super) struct Nearness<'a> {
    word: &'a str,
    pieces: Vec<&'a str>,
    /// Hangul in its single letters.
    letters: String,
}

impl<'a> Nearness<'a> {
    pub(super) fn of(word: &'a str) -> Self {
        Self {
            pieces: word.split('-').filter(|piece| *piece != word).collect(),
            letters: letters(word),
            word,
        }
    }

    /// The nearest of the known words: those it is put together from in its order, then the rest by their distance.
    pub(super) fn nearest<'b>(
        &self,
        known: impl Iterator<Item = &'b str>,
        most: usize,
    ) -> Vec<String> {
        // Of words as far away, those come first that begin alike.
        let unlike = |known: &str| (1e6 * (1.0 - jaro_winkler(self.word, known))) as u32;
        let mut found: Vec<(usize, u32, &str)> = known
            .filter_map(|known| Some((self.distance(known)?, unlike(known), known)))
            .collect();
        found.sort_unstable();
        let found = found.into_iter().take(most);
        found.map(|(.., known)| known.to_string()).collect()
    }

    /// How far away a known word is; `None` if it is not near.
    fn distance(&self, known: &str) -> Option<usize> {
        // A word of a compound comes before all others, at its place in the compound.
        if let Some(place) = self.pieces.iter().position(|piece| *piece == known) {
            return Some(place);
        }
        if let Some(at) = self.contains(known) {
            return Some(100 + at);
        }
        let whole = slips(&self.letters, known).map(|slips| 200 + slips);
        let begins = known.starts_with(self.word) && long_enough(self.word);
        let begins = begins.then(|| 300 + known.chars().count());
        let pieces = self.pieces.iter().filter_map(|piece| {
            let slips = slips(&letters(piece), known)?;
            Some(400 + slips)
        });
        whole.into_iter().chain(begins).chain(pieces).min()
    }

    /// Where a known word lies in this one: at its beginning or end, in Hangul anywhere, since particles follow.
    fn contains(&self, known: &str) -> Option<usize> {
        let longer = self.word.len() > known.len() && long_enough(known);
        let at = self.word.rfind(known).filter(|_| longer)?;
        let outside = at == 0 || at + known.len() == self.word.len();
        (outside || super::is_korean(known)).then_some(at)
    }
}

fn long_enough(part: &str) -> bool {
    let shortest = if super::is_korean(part) {
        SHORTEST_HANGUL
    } else {
        SHORTEST_LATIN
    };
    part.chars().count() >= shortest
}

/// Letters to change, add, leave out or exchange, if they are few for the word's length.
fn slips(word: &str, known: &str) -> Option<usize> {
    let length = word.chars().count();
    let allowed = (length / 3).clamp(1, 3);
    let known = letters(known);
    if length < SHORTEST_LATIN || known.chars().count().abs_diff(length) > allowed {
        return None;
    }
    let slips = osa_distance(word, &known);
    (slips <= allowed).then_some(slips)
}

/// The word with each syllable of Hangul in its letters, so that one wrong letter is one slip.
///
/// Source: The Unicode Standard 16.0, Section 3.12, arithmetic decomposition.
fn letters(word: &str) -> String {
    const VOWELS: u32 = 21;
    const FINALS: u32 = 28;
    let mut out = String::new();
    let mut push = |code: u32| out.extend(char::from_u32(code));
    for letter in word.chars() {
        let code = u32::from(letter);
        let Some(syllable) = code
            .checked_sub(0xac00)
            .filter(|at| *at < 19 * VOWELS * FINALS)
        else {
            push(code);
            continue;
        };
        push(0x1100 + syllable / (VOWELS * FINALS));
        push(0x1161 + syllable % (VOWELS * FINALS) / FINALS);
        if !syllable.is_multiple_of(FINALS) {
            push(0x11a7 + syllable % FINALS);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syllables_fall_into_their_letters() {
        assert_eq!(
            letters("각a가"),
            "\u{1100}\u{1161}\u{11a8}a\u{1100}\u{1161}"
        );
        assert_eq!(letters("힣"), "\u{1112}\u{1175}\u{11c2}");
    }

    #[test]
    fn of_words_as_far_away_the_one_that_begins_alike_comes_first() {
        let near = Nearness::of("aple").nearest(["ape", "apple"].into_iter(), 2);
        assert_eq!(near, ["apple", "ape"]);
    }

    #[test]
    fn a_short_word_is_near_to_one_slip_only() {
        assert_eq!(slips("cat", "car"), Some(1));
        assert_eq!(slips("cat", "dog"), None);
        assert_eq!(slips("elephant", "elefant"), Some(2));
        assert_eq!(slips("ab", "ac"), None);
    }
}
