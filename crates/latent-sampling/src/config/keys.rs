//! One row for every key of a scheduler config: its name and how its value is read.

use serde_json::Value;

use super::settings::{
    AlgorithmType, BetaSchedule, FinalSigmas, InterpolationType, Prediction, Settings,
    SigmaSchedule, SolverType, TimeShift, TimestepSpacing, TimestepType, VarianceType,
};
use crate::SamplingError;

/// A key and the field it fills.
pub(super) struct Key {
    name: &'static str,
    /// Writes the value into its field, or says what it must be.
    read: fn(&mut Settings, &Value) -> Result<(), String>,
}

impl Key {
    /// Writes a value into the settings.
    pub(super) fn set(&self, settings: &mut Settings, value: &Value) -> Result<(), SamplingError> {
        (self.read)(settings, value).map_err(|needed| SamplingError::Value {
            key: self.name.to_owned(),
            found: value.to_string(),
            needed,
        })
    }
}

/// The row of a key.
pub(super) fn find(name: &str) -> Result<&'static Key, SamplingError> {
    KEYS.iter()
        .find(|key| key.name == name)
        .ok_or_else(|| SamplingError::UnknownKey {
            key: name.to_owned(),
        })
}

macro_rules! keys {
    ($($field:ident),+ $(,)?) => {
        &[$(Key { name: stringify!($field), read: |settings, value| put(&mut settings.$field, value) }),+,
          Key { name: "solver_p", read: |_, value| only(value, &Value::Null) },
          Key { name: "tau_func", read: |_, value| only(value, &Value::Null) },
          // Old configs state the parameterization twice; only the form that means the default can be kept aside.
          Key { name: "predict_epsilon", read: |_, value| only(value, &Value::Bool(true)) },
        ]
    };
}

/// Every key that a scheduler of diffusers may state, whichever class reads it.
const KEYS: &[Key] = keys![
    num_train_timesteps,
    beta_start,
    beta_end,
    beta_schedule,
    trained_betas,
    prediction_type,
    timestep_spacing,
    steps_offset,
    clip_sample,
    clip_sample_range,
    thresholding,
    dynamic_thresholding_ratio,
    sample_max_value,
    set_alpha_to_one,
    rescale_betas_zero_snr,
    variance_type,
    skip_prk_steps,
    use_karras_sigmas,
    use_exponential_sigmas,
    use_beta_sigmas,
    use_lu_lambdas,
    use_flow_sigmas,
    flow_shift,
    interpolation_type,
    timestep_type,
    final_sigmas_type,
    sigma_min,
    sigma_max,
    solver_order,
    algorithm_type,
    solver_type,
    lower_order_final,
    euler_at_final,
    lambda_min_clipped,
    predict_x0,
    disable_corrector,
    original_inference_steps,
    timestep_scaling,
    sigma_data,
    sigma_schedule,
    rho,
    shift,
    shift_terminal,
    use_dynamic_shifting,
    base_shift,
    max_shift,
    base_image_seq_len,
    max_image_seq_len,
    time_shift_type,
    invert_sigmas,
    stochastic_sampling,
    predictor_order,
    corrector_order,
    noise_sampler_seed,
];

/// Accepts one value only.
fn only(value: &Value, allowed: &Value) -> Result<(), String> {
    if value == allowed {
        Ok(())
    } else {
        Err(format!("{allowed}, the one value that is supported"))
    }
}

fn put<T: Read>(field: &mut T, value: &Value) -> Result<(), String> {
    *field = T::read(value).ok_or_else(T::needed)?;
    Ok(())
}

/// A kind of value that a field can take.
trait Read: Sized {
    fn read(value: &Value) -> Option<Self>;
    fn needed() -> String;
}

impl Read for bool {
    fn read(value: &Value) -> Option<Self> {
        value.as_bool()
    }
    fn needed() -> String {
        "true or false".to_owned()
    }
}

impl Read for f64 {
    fn read(value: &Value) -> Option<Self> {
        match value.as_str() {
            Some("-Infinity") => Some(f64::NEG_INFINITY),
            Some("Infinity") => Some(f64::INFINITY),
            _ => value.as_f64(),
        }
    }
    fn needed() -> String {
        "a number".to_owned()
    }
}

impl Read for usize {
    fn read(value: &Value) -> Option<Self> {
        let number = value.as_u64().filter(|number| *number <= 1_000_000)?;
        usize::try_from(number).ok()
    }
    fn needed() -> String {
        "a whole number from 0 to 1000000".to_owned()
    }
}

impl Read for u64 {
    fn read(value: &Value) -> Option<Self> {
        value.as_u64()
    }
    fn needed() -> String {
        "a whole number from 0".to_owned()
    }
}

impl<T: Read> Read for Option<T> {
    fn read(value: &Value) -> Option<Self> {
        if value.is_null() {
            Some(None)
        } else {
            T::read(value).map(Some)
        }
    }
    fn needed() -> String {
        format!("{} or null", T::needed())
    }
}

impl<T: Read> Read for Vec<T> {
    fn read(value: &Value) -> Option<Self> {
        value.as_array()?.iter().map(T::read).collect()
    }
    fn needed() -> String {
        format!("a list, each entry {}", T::needed())
    }
}

macro_rules! read_choices {
    ($($name:ident),+) => {
        $(impl Read for $name {
            fn read(value: &Value) -> Option<Self> {
                let text = value.as_str()?;
                Self::ALL.iter().find(|(name, _)| *name == text).map(|(_, choice)| *choice)
            }
            fn needed() -> String {
                let names: Vec<String> = Self::ALL.iter().map(|(name, _)| format!("\"{name}\"")).collect();
                format!("one of {}", names.join(", "))
            }
        })+
    };
}

read_choices!(
    AlgorithmType,
    BetaSchedule,
    FinalSigmas,
    InterpolationType,
    Prediction,
    SigmaSchedule,
    SolverType,
    TimeShift,
    TimestepSpacing,
    TimestepType,
    VarianceType
);
