//! Talk on stderr, data on stdout: bars, notes, paths, JSON, and pictures inside terminals that can.

use std::env;
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::args::Global;
use crate::fault::Fault;

mod meter;
mod opening;

pub(crate) use meter::{Meter, duration, thousands};
pub(crate) use opening::Opening;

/// What may be said, and how.
#[derive(Clone, Debug)]
pub(crate) struct Terminal {
    quiet: bool,
    /// Whether results are JSON.
    pub(crate) json: bool,
}

impl Terminal {
    pub(crate) fn new(global: &Global) -> Self {
        Self {
            quiet: global.quiet,
            json: global.json,
        }
    }

    /// A line of talk on stderr.
    pub(crate) fn note(&self, text: impl std::fmt::Display) {
        if !self.quiet {
            // A closed stderr is no reason to stop.
            let _ = writeln!(io::stderr(), "{text}");
        }
    }

    /// A warning on stderr.
    pub(crate) fn warn(&self, text: impl std::fmt::Display) {
        self.note(format_args!("warning: {text}"));
    }

    /// A line of data on stdout.
    ///
    /// # Errors
    /// When stdout cannot be written (a full disk behind a redirection). A closed pipe is no error.
    pub(crate) fn data(&self, text: impl std::fmt::Display) -> Result<(), Fault> {
        let mut out = io::stdout().lock();
        match writeln!(out, "{text}").and_then(|()| out.flush()) {
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
                Err(Fault::output(format!("cannot write to stdout: {e}")))
            }
            _ => Ok(()),
        }
    }

    /// A result: `value` as one JSON line, or `text`.
    ///
    /// # Errors
    /// As [`Terminal::data`].
    pub(crate) fn result(
        &self,
        value: &impl Serialize,
        text: impl std::fmt::Display,
    ) -> Result<(), Fault> {
        if !self.json {
            return self.data(text);
        }
        let line = serde_json::to_string(value)
            .map_err(|e| Fault::output(format!("the result cannot be written as JSON: {e}")))?;
        self.data(line)
    }

    /// A written file: its path, or `{"path": …}`.
    ///
    /// # Errors
    /// As [`Terminal::data`].
    pub(crate) fn wrote(&self, path: &Path) -> Result<(), Fault> {
        self.result(&serde_json::json!({ "path": path }), path.display())
    }

    /// A bar over `total` units with the time left; hidden when quiet or when stderr is no terminal.
    pub(crate) fn bar(&self, total: u64, unit: &str) -> ProgressBar {
        let target = if self.quiet {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        let bar = ProgressBar::with_draw_target(Some(total), target);
        let template = format!(
            "{{prefix}}{{wide_bar:.cyan/blue}} {{pos}}/{{len}} {unit} · {{eta}} left {{msg}}"
        );
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style.progress_chars("━╸ "));
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    }

    /// A spinner beside `what`, for work whose end is not known.
    pub(crate) fn spinner(&self, what: &str) -> ProgressBar {
        let target = if self.quiet {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        let bar = ProgressBar::with_draw_target(None, target).with_message(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        bar
    }

    /// Shows a PNG inside the terminal, where stderr is one that can.
    pub(crate) fn show(&self, png: impl FnOnce() -> Vec<u8>) {
        if self.quiet || !io::stderr().is_terminal() {
            return;
        }
        if let Some(sequence) =
            Protocol::detect(|name| env::var(name).ok()).map(|p| p.encode(&png()))
        {
            let _ = io::stderr().write_all(sequence.as_bytes());
        }
    }

    /// A [`Meter`] that counts `unit`.
    pub(crate) fn meter(&self, unit: &'static str) -> Meter {
        Meter::new(self.clone(), unit)
    }
}

/// How a terminal takes pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    /// Source: <https://sw.kovidgoyal.net/kitty/graphics-protocol/>
    Kitty,
    /// Source: <https://iterm2.com/documentation-images.html>
    Iterm2,
}

/// Bytes of base64 in one escape of kitty's protocol; its documentation sets the limit.
const KITTY_CHUNK: usize = 4096;

impl Protocol {
    /// Goes by what the terminals themselves put into the environment; inside tmux and screen neither gets through.
    fn detect(var: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let is = |name: &str, values: &[&str]| {
            var(name).is_some_and(|v| values.iter().any(|w| v.contains(w)))
        };
        if var("TMUX").is_some() || is("TERM", &["screen", "tmux"]) {
            None
        } else if var("KITTY_WINDOW_ID").is_some() || is("TERM", &["kitty", "ghostty"]) {
            Some(Self::Kitty)
        } else if is("TERM_PROGRAM", &["iTerm", "WezTerm"]) || is("LC_TERMINAL", &["iTerm2"]) {
            Some(Self::Iterm2)
        } else {
            None
        }
    }

    fn encode(self, png: &[u8]) -> String {
        let data = base64(png);
        match self {
            Self::Iterm2 => format!(
                "\x1b]1337;File=inline=1;size={};preserveAspectRatio=1:{data}\x07\n",
                png.len()
            ),
            Self::Kitty => {
                let mut out = String::new();
                let mut rest = data.as_str();
                let mut first = "a=T,f=100,q=2,";
                while !rest.is_empty() {
                    let (chunk, later) = rest.split_at(rest.len().min(KITTY_CHUNK));
                    let more = u8::from(!later.is_empty());
                    // Writing into a String cannot fail.
                    let _ = write!(out, "\x1b_G{first}m={more};{chunk}\x1b\\");
                    (rest, first) = (later, "");
                }
                out.push('\n');
                out
            }
        }
    }
}

/// Source: RFC 4648, Section 4.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk
            .iter()
            .fold(0_u32, |word, byte| word << 8 | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for k in 0..4 {
            let letter = LETTERS[(word >> (18 - 6 * k)) as usize & 63];
            out.push(if k <= chunk.len() {
                char::from(letter)
            } else {
                '='
            });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_meets_the_vectors_of_its_standard() {
        let vectors = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (plain, encoded) in vectors {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }

    #[test]
    fn terminals_are_known_by_what_they_say_of_themselves() {
        let with = |pairs: &'static [(&str, &str)]| {
            Protocol::detect(move |name| {
                pairs
                    .iter()
                    .find(|(k, _)| *k == name)
                    .map(|(_, v)| (*v).to_owned())
            })
        };
        assert_eq!(with(&[("TERM", "xterm-kitty")]), Some(Protocol::Kitty));
        assert_eq!(
            with(&[("TERM_PROGRAM", "iTerm.app")]),
            Some(Protocol::Iterm2)
        );
        assert_eq!(with(&[("TERM_PROGRAM", "WezTerm"), ("TMUX", "1")]), None);
        assert_eq!(with(&[("TERM", "xterm-256color")]), None);
    }

    #[test]
    fn a_large_picture_reaches_kitty_in_chunks() {
        let sequence = Protocol::Kitty.encode(&[7; 4000]);
        let chunks: Vec<&str> = sequence.split("\x1b_G").skip(1).collect();
        assert_eq!(chunks.len(), 2);
        assert!(chunks[0].starts_with("a=T,f=100,q=2,m=1;"));
        assert!(chunks[1].starts_with("m=0;"));
    }
}
