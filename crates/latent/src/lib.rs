//! Latent diffusion: words to pictures, on a CPU or a GPU.
//!
//! ```no_run
//! use latent::{Pipeline, Request};
//!
//! # fn main() -> Result<(), latent::Error> {
//! let pipeline = Pipeline::builtin()?; // or Pipeline::from_pretrained("path/or/owner/name")?
//! let request = Request::new("a red apple, 3d style").seed(7).steps(20);
//! let pictures = pipeline.generate(&request)?;
//! pictures.save("apple.png")?;
//! # Ok(())
//! # }
//! ```
//!
//! [`Pipeline::generate_with`] reports every step, may preview and stop. [`Pipeline::encode`] and
//! [`Pipeline::decode`] give and take [`Latents`]. The networks themselves are in `latent-models`, the samplers in
//! [`sampling`], for those who build their own loop.

mod adapters;
mod briefing;
mod builtin;
mod compat;
mod defaults;
mod draw;
mod economy;
mod error;
mod export;
mod guiding;
mod hires;
mod image_prompts;
mod latents;
mod mask;
mod micro_conditioning;
mod modes;
mod named;
mod pipeline;
mod plan;
mod prompts;
mod reading;
mod recipe;
mod refine;
mod request;
mod sdxl;
mod settings;
mod start;
mod steering;
mod told;
mod view;
mod vocabulary;

pub use adapters::{Control, PARTS, loras_in_prompt};
pub use builtin::{builtin_folder, export_builtin, has_builtin};
pub use defaults::{Defaults, FILE as DEFAULTS_FILE, FewSteps};
pub use draw::{Generated, Progress};
pub use economy::Economy;
pub use error::Error;
pub use export::export_as;
pub use guiding::FeatureCache;
pub use image_prompts::ImagePrompt;
pub use latent_formats::{Dtype, Picture, PictureFormat};
#[cfg(feature = "hub")]
pub use latent_hub as hub;
pub use latent_models as models;
pub use latent_nn::{Compute, Precision};
pub use latent_sampling as sampling;
pub use latents::Latents;
pub use micro_conditioning::MicroConditioning;
pub use modes::{Hires, PictureSource, Upscaler, Variation};
pub use pipeline::{Builder, Parts, Pipeline, open_folder, open_folder_predicting};
pub use plan::{Plan, Stage, program_bytes};
pub use prompts::{PromptReport, ReadPrompt, ReadStage};
pub use recipe::{NamedLora, NamedModel, Recipe, Tool, Unmatched, bare_name};
pub use request::Request;
pub use settings::Settings;
pub use view::{Channel, Projection};
pub use vocabulary::{FILE as VOCABULARY_FILE, UnknownWord, Vocabulary, split_style};

/// Works with this many threads from now on; call it once, before the first model is opened.
///
/// # Errors
/// [`Error::Threads`] if work has begun already.
pub fn set_threads(threads: usize) -> Result<(), Error> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
    pool.build_global()
        .map_err(|error| Error::Threads(error.to_string()))
}

/// Threads that work: as many as [`set_threads`] said, else one a core.
pub fn threads() -> usize {
    rayon::current_num_threads()
}
