//! ComfyUI's weights: `(word)`, `(word:1.2)`.

use super::Part;

/// What brackets without a number multiply a weight with.
const FACTOR: f64 = 1.1;
/// Brackets within brackets that are looked into; what lies deeper is text.
const DEPTH: usize = 100;

/// The parts of a prompt: a number is the weight of all that its brackets hold, whatever stands around them; brackets
/// without one multiply.
///
/// Source: ComfyUI, the documented cases of `parse_parentheses` and `token_weights`.
pub(super) fn parts(text: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    gather(text, 1.0, DEPTH, &mut parts);
    parts
}

fn gather(text: &str, weight: f64, depth: usize, parts: &mut Vec<Part>) {
    for item in items(text) {
        match inside(item) {
            Some(inner) if depth > 0 => {
                let (inner, weight) = match numbered(inner) {
                    Some((inner, number)) => (inner, number),
                    None => (inner, weight * FACTOR),
                };
                gather(inner, weight, depth - 1, parts);
            }
            _ => parts.push(Part::Text {
                text: item.replace("\\)", ")").replace("\\(", "("),
                weight,
            }),
        }
    }
}

/// What the brackets around a whole item hold.
fn inside(item: &str) -> Option<&str> {
    let inner = item.strip_prefix('(')?.strip_suffix(')')?;
    (!inner.ends_with('\\')).then_some(inner)
}

/// The words and the number of `words:1.2`.
fn numbered(inner: &str) -> Option<(&str, f64)> {
    let (words, number) = inner.rsplit_once(':')?;
    let number: f64 = number.trim().parse().ok()?;
    (!words.is_empty() && (number as f32).is_finite()).then_some((words, number))
}

/// A text cut at its outermost brackets. A bracket that closes nothing makes the next one that opens text.
fn items(text: &str) -> Vec<&str> {
    let (mut items, mut start, mut level) = (Vec::new(), 0, 0_i64);
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        let counts = !std::mem::take(&mut escaped);
        match byte {
            b'(' if counts => {
                if level == 0 && start < at {
                    items.push(&text[start..at]);
                    start = at;
                }
                level += 1;
            }
            b')' if counts => {
                level -= 1;
                if level == 0 {
                    items.push(&text[start..=at]);
                    start = at + 1;
                }
            }
            b'\\' => escaped = true,
            _ => {}
        }
    }
    if start < text.len() {
        items.push(&text[start..]);
    }
    items
}
