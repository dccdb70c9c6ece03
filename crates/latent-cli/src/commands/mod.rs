//! One file a command.

pub(crate) mod about;
pub(crate) mod adapters;
pub(crate) mod bench;
pub(crate) mod compat;
pub(crate) mod completions;
pub(crate) mod convert;
pub(crate) mod data;
pub(crate) mod decode;
pub(crate) mod demo;
pub(crate) mod devices;
pub(crate) mod encode;
pub(crate) mod eval;
pub(crate) mod export;
pub(crate) mod generate;
pub(crate) mod inspect;
pub(crate) mod memory;
pub(crate) mod modes;
pub(crate) mod open;
pub(crate) mod plan;
pub(crate) mod profile;
pub(crate) mod prompt;
pub(crate) mod reconstruct;
pub(crate) mod reproduce;
pub(crate) mod samplers;
pub(crate) mod sdxl;
pub(crate) mod train;
