//! Kind words about words that a model does not know, and about what it chose where nothing was said.

use latent::models::Grammar;
use latent::{Pipeline, Request, UnknownWord, Vocabulary};

use crate::terminal::Terminal;

/// Unknown words that are told of.
const MOST: usize = 3;
/// What joins prompts and chunks.
const MARKS: &[&str] = &["AND", "BREAK"];
/// Things that are named where no known word is near.
const EXAMPLES: usize = 3;

/// Says on stderr which words of the request the model never met, and what it knows that is near; nothing for models
/// without a list of words.
pub(crate) fn of_words(pipeline: &Pipeline, request: &Request, terminal: &Terminal) {
    let Some(vocabulary) = pipeline.vocabulary() else {
        return;
    };
    let words = format!("{}\n{}", request.prompt, request.negative_prompt);
    let unknown = vocabulary.unknown(&without_marks(request.grammar(), &words));
    for word in unknown.iter().take(MOST) {
        terminal.note(line(word, vocabulary));
    }
    if let Some(more) = unknown.len().checked_sub(MOST).filter(|more| *more > 0) {
        let (korean, s) = (unknown[MOST].is_korean(), if more == 1 { "" } else { "s" });
        terminal.note(if korean {
            format!("모르는 말이 {more}개 더 있습니다")
        } else {
            format!("and {more} more word{s}")
        });
    }
}

/// Says on stderr that the model took few steps of its own accord, and how to have all.
pub(crate) fn of_few_steps(pipeline: &Pipeline, asked: Option<bool>, terminal: &Terminal) {
    let defaults = pipeline.defaults();
    if asked.is_none() && defaults.likes_few_steps() {
        terminal.note(format_args!(
            "{} steps, as this model likes where nothing says how to draw; `--fast=false` takes all",
            defaults.steps
        ));
    }
}

/// A prompt without the capital words that its grammar reads as marks.
fn without_marks(grammar: Grammar, prompt: &str) -> String {
    if grammar != Grammar::A1111 {
        return prompt.to_owned();
    }
    let is_letter = |letter: char| letter.is_alphanumeric() || letter == '_';
    let pieces = prompt.split_inclusive(|letter| !is_letter(letter));
    let kept = pieces.map(|piece| {
        let word = piece.trim_end_matches(|letter| !is_letter(letter));
        match MARKS.contains(&word) {
            true => &piece[word.len()..],
            false => piece,
        }
    });
    kept.collect()
}

/// In the language of the word.
fn line(unknown: &UnknownWord, vocabulary: &Vocabulary) -> String {
    let UnknownWord { word, near } = unknown;
    let examples = || vocabulary.examples(word, EXAMPLES).join(", ");
    match (unknown.is_korean(), near.is_empty()) {
        (false, false) => format!(
            "the model does not know `{word}`; near: {}",
            near.join(", ")
        ),
        (false, true) => format!(
            "the model does not know `{word}`; it knows, say: {}",
            examples()
        ),
        (true, false) => format!("모델이 모르는 말: `{word}`; 비슷한 말: {}", near.join(", ")),
        (true, true) => format!(
            "모델이 모르는 말: `{word}`; 아는 것을 들자면: {}",
            examples()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_of_a_grammar_are_no_words_and_the_words_that_look_like_them_are() {
        let prompt = "a fox,BREAK snow AND a BREAKER\nANDES and BREAK";
        let read = without_marks(Grammar::A1111, prompt);
        assert_eq!(read, "a fox, snow  a BREAKER\nANDES and ");
        assert_eq!(without_marks(Grammar::Literal, prompt), prompt);
    }

    #[test]
    fn the_hint_speaks_the_language_of_the_word() {
        let vocabulary =
            Vocabulary::of_captions([vec!["a red apple, 3d style", "빨간 사과, 3D 스타일"]]);
        let lines: Vec<String> = vocabulary
            .unknown("a red appel, xylophone, 빨갠 사과, 우주선")
            .iter()
            .map(|word| line(word, &vocabulary))
            .collect();
        assert_eq!(
            lines,
            [
                "the model does not know `appel`; near: apple",
                "the model does not know `xylophone`; it knows, say: a red apple",
                "모델이 모르는 말: `빨갠`; 비슷한 말: 빨간",
                "모델이 모르는 말: `우주선`; 아는 것을 들자면: 빨간 사과",
            ]
        );
    }
}
