//! Why a schedule or a run is refused. Each sentence says what to do next.

/// Every failure of this crate.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SamplingError {
    /// The text of a scheduler config is not JSON.
    #[error(
        "the scheduler config is not JSON: {0}; it should be the `scheduler_config.json` of a diffusers folder"
    )]
    NotJson(String),
    /// The config is JSON but not an object, or names no class.
    #[error(
        "the scheduler config has no `_class_name`; add the diffusers class, for example `DDIMScheduler`"
    )]
    NoClass,
    /// A class of diffusers without a row here.
    #[error("scheduler class `{found}` is unknown; known are {known}")]
    UnknownClass {
        /// What the config names.
        found: String,
        /// Every class this crate samples.
        known: String,
    },
    /// A key that no scheduler of diffusers has.
    #[error("key `{key}` of the scheduler config is unknown; correct or remove it")]
    UnknownKey {
        /// The key as written.
        key: String,
    },
    /// A value of the wrong kind or outside its choices.
    #[error("key `{key}` of the scheduler config is {found}, but must be {needed}")]
    Value {
        /// The key.
        key: String,
        /// The value as written.
        found: String,
        /// What would be accepted.
        needed: String,
    },
    /// Two keys, or a key and a request, that exclude each other.
    #[error("{0}")]
    Conflict(String),
    /// A sampler name that no row of the table has.
    #[error(
        "sampler `{found}` is unknown; the nearest names are {near}, and `latent samplers` lists all"
    )]
    UnknownSampler {
        /// What was asked for.
        found: String,
        /// The names nearest to it.
        near: String,
    },
    /// A schedule name that no row of the table has.
    #[error(
        "schedule `{found}` is unknown; the nearest names are {near}, and `latent samplers` lists all"
    )]
    UnknownSchedule {
        /// What was asked for.
        found: String,
        /// The names nearest to it.
        near: String,
    },
    /// A schedule that a sampler cannot walk on.
    #[error("sampler `{sampler}` cannot walk on schedule `{schedule}`; take one of {fitting}")]
    NoSuchSchedule {
        /// The sampler's name.
        sampler: &'static str,
        /// The schedule's name.
        schedule: &'static str,
        /// Schedules it can walk on.
        fitting: String,
    },
    /// A number of steps outside what the schedule can give.
    #[error("{found} sampling steps asked for, but this model takes 1 to {most}")]
    Steps {
        /// What was asked for.
        found: usize,
        /// The training timesteps of the model.
        most: usize,
    },
    /// A strength that makes a schedule longer than the model's, where all of the steps are done by the weaker part of it.
    #[error(
        "{asked} steps at a strength of {strength} are the last of a schedule of {whole}, but this model takes 1 to {most}; \
         raise the strength or lower the steps"
    )]
    StepsOfStrength {
        /// Steps that were asked for.
        asked: usize,
        /// The strength that was asked for.
        strength: f64,
        /// Steps of the schedule whose last ones they would be.
        whole: usize,
        /// The training timesteps of the model.
        most: usize,
    },
    /// A request's number outside its range.
    #[error("`{option}` is {found}, but must be {needed}")]
    Option {
        /// Name of the option.
        option: &'static str,
        /// What was asked for.
        found: String,
        /// What would be accepted.
        needed: &'static str,
    },
    /// An option that this sampler does not have.
    #[error("sampler `{sampler}` has no `{option}`; leave it out or take {instead}")]
    NoSuchOption {
        /// The sampler's name.
        sampler: &'static str,
        /// The option.
        option: &'static str,
        /// Samplers that have it.
        instead: &'static str,
    },
    /// The network or the noise source returned another shape.
    #[error("the {source_name} returned latents {found:?}, but the run holds {needed:?}")]
    Shape {
        /// Network or noise source.
        source_name: &'static str,
        /// What it returned.
        found: Vec<usize>,
        /// What the run holds.
        needed: Vec<usize>,
    },
    /// The denoiser asked to stop.
    #[error("sampling was stopped")]
    Stopped,
}
