//! The command as a user runs it: every test starts the built program.

mod adapters;
mod demo;
mod encode;
mod generate;
#[cfg(feature = "hub")]
mod hub;
mod image_prompts;
mod modes;
mod plan;
mod prompts;
mod refusals;
mod reproduce;
mod sdxl;
mod support;
mod tables;
mod train;
mod words;
