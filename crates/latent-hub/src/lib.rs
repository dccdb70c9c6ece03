//! Models by name: files of a hub, verified, in the cache folder that other programs share.
//!
//! ```no_run
//! use latent_hub::{Hub, HubName, Settings};
//! use std::ops::ControlFlow;
//!
//! let name = HubName::parse("owner/name@v1.0").expect("a name of the hub");
//! let mut repository = Hub::new(Settings::from_env()?).open(&name)?;
//! let folder = repository.fetch(&["model_index.json"], &mut |progress| {
//!     println!("{}: {} of {} bytes", progress.file, progress.done, progress.total);
//!     ControlFlow::Continue(())
//! })?;
//! # Ok::<(), latent_hub::HubError>(())
//! ```
//!
//! What a hub says decides nothing here that a path or a length depends on without being checked: names of files stay
//! inside their folder, sizes and checksums are those promised, a token goes to the hub alone.

mod cache;
mod checksum;
mod client;
mod error;
mod file;
mod name;
mod repository;
mod settings;
mod transfer;

pub use error::HubError;
pub use file::HubFile;
pub use name::{HubName, is_weights};
pub use repository::{Hub, Progress, Repository, Watch};
pub use settings::Settings;
