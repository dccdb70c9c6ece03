//! What is shown while a model is opened: that it is, and how far its files have come.

use std::sync::Arc;
#[cfg(feature = "hub")]
use std::{
    io::{self, IsTerminal as _},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use indicatif::ProgressBar;
#[cfg(feature = "hub")]
use indicatif::{DecimalBytes, ProgressStyle};

use super::Terminal;

/// Where stderr is no terminal, a line is written this often.
#[cfg(feature = "hub")]
const LINE_EVERY: Duration = Duration::from_secs(10);
/// Downloads of fewer bytes are over before a line about them is read.
#[cfg(feature = "hub")]
const WORTH_A_LINE: u64 = 1_000_000;

/// A spinner, which is a bar while files come from the hub.
pub(crate) struct Opening {
    bar: ProgressBar,
    #[cfg(feature = "hub")]
    terminal: Terminal,
    /// What the spinner says.
    #[cfg(feature = "hub")]
    what: &'static str,
    /// The last line, and of how many bytes it spoke.
    #[cfg(feature = "hub")]
    said: Mutex<Option<(Instant, u64)>>,
}

impl Opening {
    pub(crate) fn new(terminal: &Terminal, what: &'static str) -> Arc<Self> {
        Arc::new(Self {
            bar: terminal.spinner(what),
            #[cfg(feature = "hub")]
            terminal: terminal.clone(),
            #[cfg(feature = "hub")]
            what,
            #[cfg(feature = "hub")]
            said: Mutex::new(None),
        })
    }

    /// Shows how far a download is.
    #[cfg(feature = "hub")]
    pub(crate) fn at(&self, progress: &latent::hub::Progress<'_>) {
        let (done, total) = (progress.done, progress.total);
        let over = done >= total;
        let template = if over {
            "{spinner} {msg}"
        } else {
            "{msg} {wide_bar:.cyan/blue} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta} left"
        };
        if self.bar.length() != Some(total) || over {
            if let Ok(style) = ProgressStyle::with_template(template) {
                self.bar.set_style(style.progress_chars("━╸ "));
            }
            self.bar.set_length(total);
            self.bar.reset_eta();
        }
        self.bar.set_position(done);
        let message = if over {
            self.what.to_owned()
        } else {
            progress.file.to_owned()
        };
        self.bar.set_message(message);
        if !io::stderr().is_terminal() && total >= WORTH_A_LINE {
            self.line(progress);
        }
    }

    #[cfg(feature = "hub")]
    fn line(&self, progress: &latent::hub::Progress<'_>) {
        let (done, total) = (progress.done, progress.total);
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let recently = said.is_some_and(|(when, of)| of == total && when.elapsed() < LINE_EVERY);
        if recently && done < total {
            return;
        }
        *said = Some((Instant::now(), total));
        self.terminal.note(format_args!(
            "downloading {}: {} of {}",
            progress.repository,
            DecimalBytes(done),
            DecimalBytes(total)
        ));
    }

    /// Takes it away.
    pub(crate) fn end(&self) {
        self.bar.finish_and_clear();
    }
}
