//! The builder of the built-in model's training set: icons of nine styles, and scenes made of them.
//!
//! Everything is made from eight npm packages under free licences (see `NOTICE`) and the tables beside this crate;
//! the same settings give the same captions everywhere and the same pictures on every machine. It is an icon-and-scene
//! set: no photographs, no faces of people.
//!
//! ```no_run
//! use latent_data::icons::{self, BuildConfig, Profile};
//! use std::ops::ControlFlow;
//! # fn main() -> Result<(), latent_data::DataError> {
//! let config = BuildConfig { profile: Profile::Core, ..BuildConfig::default() };
//! let go_on = |_: icons::Progress<'_>| ControlFlow::Continue(());
//! let summary = icons::build(&config, "data/packages".as_ref(), "data/core".as_ref(), &go_on)?;
//! println!("{} pictures for training", summary.train);
//! # Ok(())
//! # }
//! ```
//!
//! `OUT/train` and `OUT/heldout` each hold WebDataset shards that [`DataSet::open`](crate::DataSet::open) reads;
//! `OUT/dataset.json` says what was built.

mod artist;
mod build;
mod config;
#[cfg(test)]
mod fixtures;
mod hash;
mod packages;
mod pixels;
mod recipe;
mod scenes;
mod singles;
mod split;
mod tables;
mod verify;
mod words;

use std::ops::ControlFlow;

use crate::DataError;

pub use build::{Summary, build};
pub use config::{BuildConfig, Profile, SCENES, SIZES, caption_checksum};
pub use packages::fetch;
pub use recipe::{Kind, Recipe};
pub use verify::{Deviation, Verification, verify};

/// What the builder is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress<'a> {
    /// A package is being fetched by `npm`.
    Fetching {
        /// As in `@iconify-json/noto@1.2.9`.
        package: &'a str,
        /// Its size in bytes.
        bytes: u64,
    },
    /// A package that is there is being checked and read.
    Reading {
        /// As in `@iconify-json/noto@1.2.9`.
        package: &'a str,
    },
    /// Pictures are being drawn, or compared.
    Drawing {
        /// How many are done; those of an earlier run are.
        done: usize,
        /// How many there are.
        total: usize,
    },
}

/// Is told what happens, from several threads; `Break` ends the work with [`DataError::Stopped`].
pub type Watcher<'a> = &'a (dyn Fn(Progress<'_>) -> ControlFlow<()> + Sync);

fn tell(watcher: Watcher<'_>, progress: Progress<'_>) -> Result<(), DataError> {
    match watcher(progress) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(DataError::Stopped),
    }
}
