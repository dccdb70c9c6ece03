//! The command as a user runs it: every test starts the built program.

mod adapters;
mod encode;
mod generate;
mod modes;
mod prompts;
mod refusals;
mod sdxl;
mod support;
mod tables;
mod train;
