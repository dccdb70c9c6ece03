//! AUTOMATIC1111's weights: `(word)`, `(word:1.2)`, `[word]`.

use super::{Part, standing_alone};

/// What round brackets multiply a weight with; square ones divide by it.
const FACTOR: f64 = 1.1;

/// A run of a prompt between the marks that have a meaning.
#[derive(Clone, Copy)]
enum Mark<'a> {
    Plain(&'a str),
    /// What a `\` stands before, or a colon.
    Verbatim(&'a str),
    Open(Bracket),
    /// With its number, where `:1.2` stands before it, and as it is written.
    Close(Bracket, Option<f64>, &'a str),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Bracket {
    Round,
    Square,
}

/// The parts of a prompt: weights of nested brackets multiply, a bracket that is never closed goes on to the end, and one
/// that was never opened is text. Neighbours of one weight are one part.
///
/// Source: AUTOMATIC1111 stable-diffusion-webui, the documented cases of `parse_prompt_attention`. It differs in that a
/// `BREAK` inside of brackets counts, where that program reads the word.
pub(super) fn parts(text: &str) -> Vec<Part> {
    let marks = marks(text);
    let factors = factors(&marks);
    let mut parts = Parts::default();
    // Products of the round and of the square brackets that are open, outermost first. They may cross each other.
    let (mut round, mut square) = (vec![1.0], vec![1.0]);
    for (mark, factor) in marks.into_iter().zip(factors) {
        let weight = last(&round) * last(&square);
        match (mark, factor) {
            (Mark::Open(Bracket::Round), Some(factor)) => round.push(last(&round) * factor),
            (Mark::Open(Bracket::Square), Some(factor)) => square.push(last(&square) * factor),
            (Mark::Close(Bracket::Round, ..), Some(_)) => {
                round.pop();
            }
            (Mark::Close(Bracket::Square, ..), Some(_)) => {
                square.pop();
            }
            (Mark::Plain(text), _) => parts.plain(text, weight),
            (Mark::Verbatim(text) | Mark::Close(_, _, text), _) => parts.text(text, weight),
            (Mark::Open(_), None) => {}
        }
    }
    parts.finish()
}

fn last(products: &[f64]) -> f64 {
    products.last().copied().unwrap_or(1.0)
}

/// The factor of each opening bracket, and one for each closing bracket that has its partner.
fn factors(marks: &[Mark<'_>]) -> Vec<Option<f64>> {
    let mut factors = vec![None; marks.len()];
    let (mut round, mut square) = (Vec::new(), Vec::new());
    for (at, mark) in marks.iter().enumerate() {
        let (open, usual) = match mark {
            Mark::Open(Bracket::Round) | Mark::Close(Bracket::Round, ..) => (&mut round, FACTOR),
            Mark::Open(Bracket::Square) | Mark::Close(Bracket::Square, ..) => {
                (&mut square, 1.0 / FACTOR)
            }
            Mark::Plain(_) | Mark::Verbatim(_) => continue,
        };
        match mark {
            Mark::Close(_, number, _) => {
                if let Some(partner) = open.pop() {
                    factors[partner] = Some(number.unwrap_or(usual));
                    factors[at] = Some(1.0);
                }
            }
            _ => {
                factors[at] = Some(usual);
                open.push(at);
            }
        }
    }
    factors
}

fn marks(text: &str) -> Vec<Mark<'_>> {
    let mut marks = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (mark, length) = match rest.as_bytes()[0] {
            b'\\' => match rest.as_bytes().get(1) {
                Some(b'(' | b')' | b'[' | b']' | b'\\') => (Mark::Verbatim(&rest[1..2]), 2),
                // A `\` before anything else is dropped.
                _ => (Mark::Verbatim(""), 1),
            },
            b'(' => (Mark::Open(Bracket::Round), 1),
            b'[' => (Mark::Open(Bracket::Square), 1),
            b')' => (Mark::Close(Bracket::Round, None, &rest[..1]), 1),
            b']' => (Mark::Close(Bracket::Square, None, &rest[..1]), 1),
            b':' => match number_and_bracket(rest) {
                Some((number, length)) => {
                    let close = Mark::Close(Bracket::Round, Some(number), &rest[..length]);
                    (close, length)
                }
                None => (Mark::Verbatim(&rest[..1]), 1),
            },
            _ => {
                let end = rest.find(['\\', '(', ')', '[', ']', ':']);
                let end = end.unwrap_or(rest.len());
                (Mark::Plain(&rest[..end]), end)
            }
        };
        marks.push(mark);
        rest = &rest[length..];
    }
    marks
}

/// The number of `:1.2)` at the start of a text, and how long all of it is.
fn number_and_bracket(text: &str) -> Option<(f64, usize)> {
    let digits = text[1..].trim_start();
    let signed = digits.strip_prefix(['+', '-']).unwrap_or(digits);
    let behind = signed.trim_start_matches(|letter: char| letter.is_ascii_digit() || letter == '.');
    let number: f64 = digits[..digits.len() - behind.len()].parse().ok()?;
    let after = behind.trim_start().strip_prefix(')')?;
    // A number that no state can be multiplied with is text.
    (number as f32)
        .is_finite()
        .then_some((number, text.len() - after.len()))
}

/// Parts, neighbours of one weight joined.
#[derive(Default)]
struct Parts(Vec<Part>);

impl Parts {
    /// Words, in which `BREAK` counts.
    fn plain(&mut self, words: &str, weight: f64) {
        const BREAK: &str = "BREAK";
        let mut from = 0;
        for at in standing_alone(words, BREAK) {
            self.text(words[from..at].trim_end(), weight);
            self.0.push(Part::Break);
            let behind = &words[at + BREAK.len()..];
            from = words.len() - behind.trim_start().len();
        }
        self.text(&words[from..], weight);
    }

    fn text(&mut self, more: &str, now: f64) {
        if more.is_empty() {
            return;
        }
        match self.0.last_mut() {
            Some(Part::Text { text, weight }) if *weight == now => text.push_str(more),
            _ => self.0.push(Part::Text {
                text: more.to_owned(),
                weight: now,
            }),
        }
    }

    fn finish(mut self) -> Vec<Part> {
        if self.0.is_empty() {
            self.0.push(Part::Text {
                text: String::new(),
                weight: 1.0,
            });
        }
        self.0
    }
}
