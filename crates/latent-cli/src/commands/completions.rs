//! `latent completions`: what a shell needs to complete our flags.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::args::Cli;
use crate::fault::Fault;
use crate::terminal::Terminal;

/// Print the completions of a shell.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  latent completions bash > ~/.local/share/bash-completion/completions/latent\n  \
                        latent completions fish > ~/.config/fish/completions/latent.fish"
)]
pub(crate) struct Completions {
    /// The shell to print for.
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(self, terminal: &Terminal) -> Result<(), Fault> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "latent", &mut script);
        terminal.data(String::from_utf8_lossy(&script).trim_end())
    }
}
