//! Prompts as people write them: weights, breaks, words that come and go during a run, several prompts at once.
//!
//! Here text is read; [`ClipTokenizer::chunks`](crate::ClipTokenizer::chunks) makes tokens of it, and [`Weights`] says what
//! a token's weight does to its states. Everything is read in one pass over the text, whatever it holds.
//!
//! ```
//! use latent_models::{Clock, Grammar, Part, Schedule, split_prompts};
//!
//! let prompts = split_prompts("a (red:1.3) fox AND [rain:snow:0.5] :0.7");
//! assert_eq!((prompts.len(), prompts[1].share), (2, 0.7));
//! let weather = Schedule::read(&prompts[1].text);
//! let clock = Clock::of(20);
//! assert_eq!(weather.stages(&clock), [10, 20]);
//! assert_eq!(weather.text_at(20, &clock).trim(), "snow");
//! let parts = Grammar::A1111.parts(&prompts[0].text);
//! assert_eq!(parts[1], Part::Text { text: "red".into(), weight: 1.3 });
//! ```

mod arithmetic;
mod composition;
mod emphasis;
mod parentheses;
mod schedule;

pub use arithmetic::{ChunkStates, Weights};
pub use composition::{SubPrompt, split_prompts};
pub use schedule::{Clock, Schedule};

/// How the text of a prompt is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Grammar {
    /// Letter by letter, as diffusers does; what one chunk does not hold is cut.
    #[default]
    Literal,
    /// AUTOMATIC1111's: `(word)`, `(word:1.2)`, `[word]`, escapes with `\`, `BREAK`, chunks that end behind a comma. Its
    /// scheduling and `AND` are [`Schedule`] and [`split_prompts`].
    A1111,
    /// ComfyUI's: `(word)`, `(word:1.2)`, escapes with `\`, chunks that do not cut short words.
    ComfyUi,
}

/// A part of a prompt.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// Words of one weight; they are cut into tokens by themselves.
    Text {
        /// The words, escapes undone.
        text: String,
        /// 1 where nothing says otherwise.
        weight: f64,
    },
    /// The next words begin a chunk.
    Break,
}

impl Grammar {
    /// The parts of a prompt in which nothing is scheduled any more.
    pub fn parts(self, text: &str) -> Vec<Part> {
        match self {
            Self::Literal => vec![Part::Text {
                text: text.to_owned(),
                weight: 1.0,
            }],
            Self::A1111 => emphasis::parts(text),
            Self::ComfyUi => parentheses::parts(text),
        }
    }
}

/// Where `word` stands by itself in `text`: no letter, digit or `_` touches it.
fn standing_alone<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let of_word = |letter: char| letter.is_alphanumeric() || letter == '_';
    text.match_indices(word).filter_map(move |(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        (!before.is_some_and(of_word) && !after.is_some_and(of_word)).then_some(at)
    })
}

#[cfg(test)]
mod tests;
