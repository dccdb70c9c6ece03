//! Progress of long work, for people who watch and for files that are read later.

use std::io::{self, IsTerminal as _};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Terminal;

/// Where stderr is no terminal, a line is written this often.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// A bar on a terminal; elsewhere a line every ten seconds. May be told from several threads.
pub(crate) struct Meter {
    terminal: Terminal,
    unit: &'static str,
    bar: ProgressBar,
    /// Whether lines take the bar's place.
    plain: bool,
    pace: Mutex<Pace>,
}

/// When what was said.
struct Pace {
    /// The first report: when, and how much was done.
    first: Option<(Instant, u64)>,
    said: Option<Instant>,
}

impl Meter {
    pub(super) fn new(terminal: Terminal, unit: &'static str) -> Self {
        let plain = !io::stderr().is_terminal();
        let hidden = terminal.quiet || plain;
        let target = if hidden {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        let bar = ProgressBar::with_draw_target(Some(0), target);
        if let Ok(style) =
            ProgressStyle::with_template("{prefix}{wide_bar:.cyan/blue} {pos}/{len} {msg}")
        {
            bar.set_style(style.progress_chars("━╸ "));
        }
        Self {
            terminal,
            unit,
            bar,
            plain,
            pace: Mutex::new(Pace {
                first: None,
                said: None,
            }),
        }
    }

    /// `done` of `total`; the time left is judged by the pace since the first report.
    pub(crate) fn at(&self, done: u64, total: u64) {
        let left = {
            let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
            let (began, from) = *pace.first.get_or_insert((Instant::now(), done));
            let each = began.elapsed().as_secs_f64() / done.saturating_sub(from).max(1) as f64;
            (done > from).then(|| each * total.saturating_sub(done) as f64)
        };
        let words = left.map_or(String::new(), |left| format!(" · {} left", duration(left)));
        self.show(done, total, &format!("{}{words}", self.unit));
    }

    /// `done` of `total`, with words of the caller's own behind the numbers.
    pub(crate) fn show(&self, done: u64, total: u64, words: &str) {
        self.bar.set_length(total);
        self.bar.set_position(done);
        self.bar.set_message(words.to_owned());
        if !self.plain {
            return;
        }
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        if done >= total || pace.said.is_none_or(|said| said.elapsed() >= LINE_EVERY) {
            pace.said = Some(Instant::now());
            self.terminal.note(format_args!("{done}/{total} {words}"));
        }
    }

    /// A line of talk above the bar.
    pub(crate) fn note(&self, text: impl std::fmt::Display) {
        self.bar.suspend(|| self.terminal.note(text));
    }

    /// Takes the bar away, also when work ends with an error.
    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Seconds as people say them: `8 s`, `3 min`, `2 h 05 min`.
pub(crate) fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0).round() as u64;
    match seconds {
        0..100 => format!("{seconds} s"),
        100..6000 => format!("{} min", (seconds + 30) / 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// `1234567` as `1,234,567`.
pub(crate) fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_are_grouped() {
        assert_eq!(
            [7, 1234, 786_432, 1_000_000].map(thousands),
            ["7", "1,234", "786,432", "1,000,000"]
        );
    }

    #[test]
    fn durations_read_as_people_say_them() {
        let said = [8.4, 99.0, 100.0, 3600.0, 7500.0, -1.0].map(duration);
        assert_eq!(
            said,
            ["8 s", "99 s", "2 min", "60 min", "2 h 05 min", "0 s"]
        );
    }
}
