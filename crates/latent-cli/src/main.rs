//! The `latent` command: reads flags, calls the libraries, writes files and says what happened.

mod args;
mod commands;
mod fault;
mod hints;
mod names;
mod output;
mod stop;
mod surprise;
mod terminal;

use std::io::{self, IsTerminal as _, Write as _};
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use clap::Parser as _;

use crate::args::{Cli, Command, Global};
use crate::fault::{Fault, Kind};
use crate::terminal::Terminal;

/// Drawing and training free and take the same megabytes thousands of times.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Where the last panic happened and what it said.
static LAST_PANIC: Mutex<String> = Mutex::new(String::new());

fn main() -> ExitCode {
    // Probing a device may panic and be caught, so the hook only takes notes; what nobody caught ends below.
    panic::set_hook(Box::new(|info| {
        *LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner) = info.to_string();
    }));
    let cli = Cli::parse();
    log(cli.global.quiet);
    let terminal = Terminal::new(&cli.global);
    let work = || start(&cli.global).and_then(|()| run(cli.command, &terminal));
    match panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(bug())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            // A closed stderr leaves only the exit code to speak.
            let _ = writeln!(io::stderr(), "{fault}");
            fault.exit_code()
        }
    }
}

/// The note a user can act on, in place of the trace of a panic.
fn bug() -> Fault {
    let what = LAST_PANIC
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .replace('\n', " ");
    Fault::new(
        Kind::Bug,
        format!(
            "latent {} met a bug of its own: {what}",
            env!("CARGO_PKG_VERSION")
        ),
    )
    .hint(format!(
        "please report this line and the command at {}/issues",
        env!("CARGO_PKG_REPOSITORY")
    ))
}

/// Libraries speak through `tracing`; warnings are shown, `LATENT_LOG=debug` shows more.
fn log(quiet: bool) {
    let default = if quiet { "error" } else { "warn" };
    let filter = tracing_subscriber::EnvFilter::try_from_env("LATENT_LOG")
        .unwrap_or_else(|_| default.into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .without_time()
        .init();
}

fn start(global: &Global) -> Result<(), Fault> {
    stop::install().map_err(|e| Fault::new(Kind::Work, format!("cannot watch for Ctrl-C: {e}")))?;
    latent_kernels::check_instruction_set()?;
    match global.threads {
        Some(threads) => latent::set_threads(usize::from(threads)).map_err(Fault::from),
        None => Ok(()),
    }
}

fn run(command: Command, terminal: &Terminal) -> Result<(), Fault> {
    match command {
        Command::Generate(c) => c.run(terminal),
        Command::Plan(c) => c.run(terminal),
        Command::Reproduce(c) => c.run(terminal),
        Command::Encode(c) => c.run(terminal),
        Command::Decode(c) => c.run(terminal),
        Command::Reconstruct(c) => c.run(terminal),
        Command::Demo(c) => c.run(terminal),
        Command::Train(c) => c.run(terminal),
        Command::Data(c) => c.run(terminal),
        Command::Eval(c) => c.run(terminal),
        Command::Export(c) => c.run(terminal),
        Command::Convert(c) => c.run(terminal),
        Command::Inspect(c) => c.run(terminal),
        Command::Prompt(c) => c.run(terminal),
        Command::Samplers(c) => c.run(terminal),
        Command::Devices(c) => c.run(terminal),
        Command::Bench(c) => c.run(terminal),
        Command::Completions(c) => c.run(terminal),
        Command::About(c) => c.run(terminal),
    }
}
