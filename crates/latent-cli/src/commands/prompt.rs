//! `latent prompt`: what the model reads of a prompt.

use clap::Args;
use serde_json::json;

use crate::args::Model;
use crate::commands::open;
use crate::fault::Fault;
use crate::terminal::Terminal;

/// Show how a prompt is read: its tokens, their numbers, and what is cut.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  latent prompt \"a red apple, 3d style\"\n  latent prompt \"빨간 사과\" --json"
)]
pub(crate) struct Prompt {
    /// The words.
    prompt: String,
    #[command(flatten)]
    model: Model,
}

impl Prompt {
    pub(crate) fn run(self, terminal: &Terminal) -> Result<(), Fault> {
        let tokens = open::tokenizer(&self.model, terminal)?.encode(&self.prompt);
        let mut lines: Vec<String> = tokens
            .pieces
            .iter()
            .zip(&tokens.ids[1..])
            .map(|(piece, id)| format!("{id:>6}  {piece}"))
            .collect();
        let (used, room) = (tokens.pieces.len(), tokens.ids.len() - 2);
        lines.push(format!("{used} of {room} tokens used"));
        if let Some(cut) = &tokens.cut {
            lines.push(format!("cut: {cut}"));
        }
        let line = json!({ "ids": tokens.ids, "tokens": tokens.pieces, "used": used, "room": room, "cut": tokens.cut });
        terminal.result(&line, lines.join("\n"))
    }
}
