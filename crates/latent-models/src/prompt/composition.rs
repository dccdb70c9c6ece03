//! Several prompts in one text, joined by `AND`.

use super::standing_alone;

/// One of several prompts that a picture follows at once.
#[derive(Clone, Debug, PartialEq)]
pub struct SubPrompt {
    /// Its words.
    pub text: String,
    /// Its share in the sum of what the network finds.
    pub share: f64,
}

/// The prompts that `AND` joins. A number behind the last colon of each is its share, `a fox AND snow :0.7`; without one it
/// is 1. There is always one prompt.
///
/// Source: Liu et al. 2022 (arXiv:2206.01714), as AUTOMATIC1111 stable-diffusion-webui writes it.
pub fn split_prompts(text: &str) -> Vec<SubPrompt> {
    const AND: &str = "AND";
    let (mut prompts, mut from) = (Vec::new(), 0);
    for at in standing_alone(text, AND) {
        prompts.push(sub_prompt(&text[from..at]));
        from = at + AND.len();
    }
    prompts.push(sub_prompt(&text[from..]));
    prompts
}

fn sub_prompt(text: &str) -> SubPrompt {
    let whole = text.trim_end();
    let weighted = whole
        .rsplit_once(':')
        .and_then(|(words, number)| Some((words.trim_end(), share(number.trim_start())?)));
    let (words, share) = weighted.unwrap_or((whole, 1.0));
    SubPrompt {
        text: words.to_owned(),
        share,
    }
}

/// A number without an exponent: `1`, `1.`, `.5`, `-0.5`.
fn share(text: &str) -> Option<f64> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let plain = digits
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    let number: f64 = text.parse().ok()?;
    (plain && (number as f32).is_finite()).then_some(number)
}
