//! The command as a user runs it: every test starts the built program.

mod adapters;
mod demo;
mod encode;
mod generate;
mod modes;
mod refusals;
mod sdxl;
mod support;
mod tables;
mod train;
mod words;
