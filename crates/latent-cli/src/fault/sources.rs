//! What the libraries say, turned into faults: whose fault an error is decides the exit code.

use std::io;

use latent_data::DataError;
use latent_formats::FormatError;
use latent_models::ModelError;
use latent_nn::DeviceError;
use latent_sampling::SamplingError;
use latent_train::TrainError;

use super::{Fault, Kind};

macro_rules! fault_from {
    ($($error:ty => $kind:expr),+ $(,)?) => {
        $(impl From<$error> for Fault {
            fn from(error: $error) -> Self {
                let kind: fn(&$error) -> Kind = $kind;
                Self::from_sentence(kind(&error), &error.to_string())
            }
        })+
    };
}

fault_from! {
    latent::Error => pipeline,
    DataError => data,
    DeviceError => device,
    FormatError => format,
    ModelError => model,
    SamplingError => sampling,
    TrainError => train,
    latent_kernels::UnknownInstructionSet => |_| Kind::Usage,
}

fn pipeline(error: &latent::Error) -> Kind {
    use latent::Error as E;
    match error {
        E::Stopped => Kind::Stopped,
        E::Model(error) => model(error),
        E::Format(error) => format(error),
        E::Sampling(error) => sampling(error),
        E::Device(error) => device(error),
        E::NotFinite { .. } => Kind::Work,
        E::Latents { .. } => Kind::Input,
        #[cfg(feature = "hub")]
        E::Hub(error) => hub(error),
        _ => Kind::Usage,
    }
}

/// A network that fails is nobody's wrong input.
#[cfg(feature = "hub")]
fn hub(error: &latent::hub::HubError) -> Kind {
    use latent::hub::HubError as E;
    match error {
        E::Unreachable { .. } | E::Dropped { .. } | E::Status { .. } => Kind::Work,
        E::Settings(_) => Kind::Usage,
        E::Io { action, source, .. } => tried(action, source),
        E::Stopped => Kind::Stopped,
        _ => Kind::Input,
    }
}

fn data(error: &DataError) -> Kind {
    match error {
        DataError::Io { action, source, .. } => tried(action, source),
        DataError::Format(error) => format(error),
        DataError::Choice { .. } | DataError::NothingToBuild { .. } => Kind::Usage,
        DataError::Stopped => Kind::Stopped,
        _ => Kind::Input,
    }
}

fn device(error: &DeviceError) -> Kind {
    match error {
        DeviceError::Failed { .. } => Kind::Work,
        _ => Kind::Usage,
    }
}

fn format(error: &FormatError) -> Kind {
    match error {
        FormatError::Io { action, source, .. } => tried(action, source),
        FormatError::TensorToWrite { .. } | FormatError::Encode { .. } => Kind::Output,
        _ => Kind::Input,
    }
}

fn model(error: &ModelError) -> Kind {
    match error {
        ModelError::Format(error) => format(error),
        _ => Kind::Input,
    }
}

/// What a run asks for is a flag's matter; a scheduler that does not hold together is a file's.
fn sampling(error: &SamplingError) -> Kind {
    use SamplingError as E;
    match error {
        E::Stopped => Kind::Stopped,
        E::UnknownSampler { .. }
        | E::UnknownSchedule { .. }
        | E::NoSuchSchedule { .. }
        | E::Steps { .. }
        | E::Option { .. }
        | E::NoSuchOption { .. }
        | E::Conflict(_) => Kind::Usage,
        E::Shape { .. } => Kind::Bug,
        _ => Kind::Input,
    }
}

fn train(error: &TrainError) -> Kind {
    match error {
        TrainError::Config { .. } => Kind::Usage,
        TrainError::Checkpoint { .. } => Kind::Input,
        // The run's folder is written into nearly always; what is read and not there is an input.
        TrainError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => Kind::Input,
        TrainError::Io { .. } => Kind::Output,
        TrainError::Data(error) => data(error),
        TrainError::Format(error) => format(error),
        TrainError::Model(error) => model(error),
        TrainError::Pipeline(error) => pipeline(error),
        TrainError::Sampling(error) => sampling(error),
        TrainError::Device(error) => device(error),
        // Parts of a config that do not fit together, or do not fit what they name.
        TrainError::Other(_) => Kind::Usage,
        _ => Kind::Work,
    }
}

/// Reading fails on an input, everything else on an output; a full disk is one whatever was tried.
fn tried(action: &str, source: &io::Error) -> Kind {
    if action == "read" && source.kind() != io::ErrorKind::StorageFull {
        Kind::Input
    } else {
        Kind::Output
    }
}
