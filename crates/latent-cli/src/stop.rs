//! Ctrl-C: the first asks the running command to stop cleanly, the second ends the program.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

static ASKED: AtomicUsize = AtomicUsize::new(0);
static POLLED: AtomicBool = AtomicBool::new(false);
static WRITING: Mutex<()> = Mutex::new(());

/// Installs the handler. Call once, before any work.
///
/// # Errors
/// When the operating system refuses a signal handler.
#[expect(
    clippy::disallowed_methods,
    reason = "a signal handler has nobody to return an exit code to"
)]
pub(crate) fn install() -> Result<(), ctrlc::Error> {
    ctrlc::set_handler(|| {
        let earlier = ASKED.fetch_add(1, Ordering::SeqCst);
        // A command that polls `asked` ends by itself; the others stand idle between writes,
        // and a second Ctrl-C is an order, not a question.
        if earlier > 0 || !POLLED.load(Ordering::SeqCst) {
            let _whole_files = writing();
            std::process::exit(130);
        }
    })
}

/// Whether Ctrl-C was pressed. A command that calls this promises to keep calling it.
pub(crate) fn asked() -> bool {
    POLLED.store(true, Ordering::SeqCst);
    ASKED.load(Ordering::SeqCst) > 0
}

/// Held while a file is being written, so that Ctrl-C never ends the program in between.
pub(crate) fn writing() -> MutexGuard<'static, ()> {
    WRITING.lock().unwrap_or_else(PoisonError::into_inner)
}
