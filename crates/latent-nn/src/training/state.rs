//! An optimiser's state as plain named values, for files.

use crate::Exported;

/// Everything an optimiser remembers between steps.
#[derive(Clone, Debug, PartialEq)]
pub struct OptimizerState {
    /// Steps taken.
    pub step: u64,
    /// `m.<path>` and `v.<path>`, the gradients' running mean and mean square, and `ema.<path>`, the averaged weights; no `v.` where [`super::Muon`]
    /// moves the parameter.
    pub tensors: Vec<Exported>,
}

/// Why a saved state does not belong to a model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// A name that is none of ours.
    #[error(
        "the optimizer state holds `{name}`, which is no parameter of this model; \
         resume with the model the state was saved with"
    )]
    Unknown {
        /// The tensor's name.
        name: String,
    },
    /// A part of a parameter's state is gone.
    #[error(
        "the optimizer state lacks `{name}`; the checkpoint is incomplete, resume from an older one"
    )]
    Missing {
        /// The tensor's name.
        name: String,
    },
    /// A parameter of another size.
    #[error(
        "`{name}` of the optimizer state holds {found} values but the parameter has {expected}; \
         resume with the model the state was saved with"
    )]
    Length {
        /// The tensor's name.
        name: String,
        /// Values of the parameter.
        expected: usize,
        /// Values in the state.
        found: usize,
    },
}
