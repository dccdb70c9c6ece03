//! A prompt for those who give none.

use std::env;
use std::time::{SystemTime, UNIX_EPOCH};

use latent::{Request, Vocabulary};

use crate::args::Model;
use crate::commands::open;
use crate::fault::Fault;
use crate::terminal::Terminal;

/// Seeds that the clock gives lie below this: short enough to be typed again.
const SEEDS: u64 = 1_000_000;

/// Fills in a thing and a style that the model learned, in Korean where the terminal is: the same for the same seed,
/// others at another moment without one.
///
/// # Errors
/// For a model whose words are not known.
pub(crate) fn lay_over(
    request: &mut Request,
    model: &Model,
    terminal: &Terminal,
) -> Result<(), Fault> {
    let paths = (model.model.as_deref(), model.config.as_deref());
    let folder = open::folder(paths, model.prediction, &model.source, terminal)?;
    if request.seeds.is_empty() {
        request.seeds = vec![now() % SEEDS];
    }
    let korean = is_korean(|name| env::var(name).ok());
    let prompt =
        Vocabulary::read(&folder)?.and_then(|words| words.surprise(request.seeds[0], korean));
    request.prompt = prompt.ok_or_else(|| {
        let name = model
            .model
            .as_ref()
            .map_or("the built-in model".into(), |path| {
                format!("`{}`", path.display())
            });
        Fault::usage(format!("{name} needs a prompt"))
            .hint("say what the picture shows: `latent generate \"a red apple\" --model ...`")
    })?;
    Ok(())
}

/// Whether the terminal speaks Korean. Source: POSIX.1-2024, Base Definitions, Section 8.2 (which variable wins).
fn is_korean(var: impl Fn(&str) -> Option<String>) -> bool {
    let set = ["LC_ALL", "LC_MESSAGES", "LANG"]
        .into_iter()
        .filter_map(var);
    let mut set = set.filter(|value| !value.is_empty());
    set.next()
        .is_some_and(|value| value == "ko" || value.starts_with("ko_"))
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_micros() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_variable_that_is_set_says_the_language() {
        let korean = |set: &'static [(&str, &str)]| {
            is_korean(move |name| {
                set.iter()
                    .find(|(key, _)| *key == name)
                    .map(|(_, value)| (*value).to_owned())
            })
        };
        assert!(korean(&[("LANG", "ko_KR.UTF-8")]));
        assert!(korean(&[
            ("LC_ALL", ""),
            ("LC_MESSAGES", "ko_KR.UTF-8"),
            ("LANG", "C")
        ]));
        assert!(!korean(&[("LC_ALL", "C"), ("LANG", "ko_KR.UTF-8")]));
        assert!(!korean(&[("LANG", "kok_IN")]) && !korean(&[]));
    }
}
