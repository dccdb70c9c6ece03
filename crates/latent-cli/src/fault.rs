//! Errors as the user meets them: one sentence, a hint where there is one, an exit code.

mod sources;

use std::fmt;
use std::process::ExitCode;

/// What kind of thing went wrong; decides the exit code (listed in `latent --help`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The work failed on its way.
    Work = 1,
    /// A wrong flag, request or configuration value.
    Usage = 2,
    /// A missing, broken or unfitting input.
    Input = 3,
    /// An output that could not be written.
    Output = 4,
    /// Our own mistake.
    Bug = 70,
    /// Ctrl-C.
    Stopped = 130,
}

/// An error with its kind, for the exit code, and what to do about it.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    message: String,
    hint: Option<String>,
}

impl Fault {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            hint: None,
        }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    pub(crate) fn input(message: impl Into<String>) -> Self {
        Self::new(Kind::Input, message)
    }

    pub(crate) fn output(message: impl Into<String>) -> Self {
        Self::new(Kind::Output, message)
    }

    pub(crate) fn stopped() -> Self {
        Self::new(Kind::Stopped, "stopped; nothing half-written is left")
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Splits a library's sentence "what is wrong; what to do" into the sentence and its hint.
    ///
    /// The libraries' errors put what to do behind a semicolon (ARCHITECTURE.md, errors).
    pub(crate) fn from_sentence(kind: Kind, sentence: &str) -> Self {
        match sentence.rsplit_once("; ") {
            Some((what, todo)) if !todo.contains('\n') => Self::new(kind, what).hint(todo),
            _ => Self::new(kind, sentence),
        }
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.kind as u8)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let label = if self.kind == Kind::Stopped {
            ""
        } else {
            "error: "
        };
        write!(f, "{label}{}", self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Fault {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_do_becomes_the_hint() {
        let fault = Fault::from_sentence(Kind::Input, "`a.png` is cut short; copy it again");
        assert_eq!(
            fault.to_string(),
            "error: `a.png` is cut short\nhint: copy it again"
        );
    }

    #[test]
    fn a_sentence_without_advice_stays_whole() {
        let fault = Fault::from_sentence(Kind::Output, "disk full");
        assert_eq!(fault.to_string(), "error: disk full");
    }
}
