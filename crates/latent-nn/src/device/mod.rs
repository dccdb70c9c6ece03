//! Which device to compute on: asked for by name, proven before use, the CPU where nothing better is found.
//!
//! Nothing here panics and nothing picks a software renderer. Only devices that enumeration lists are touched:
//! opening another would poison every GPU of the process.

mod check;

use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::tensor::{Device, Tensor};

pub use check::{OpDifference, check_device};

use crate::Precision;
use crate::training::is_host;

/// A device found for a request.
#[derive(Clone, Debug)]
pub struct Selected {
    /// Where to compute.
    pub device: Device,
    /// What it is, for people: `cpu` or the card's own name.
    pub name: String,
}

impl Selected {
    /// bf16 where the hardware computes it faster than f32: on every GPU, and on CPUs that have it.
    pub fn best_precision(&self) -> Precision {
        if is_host(&self.device) {
            Precision::best()
        } else {
            Precision::Bf16
        }
    }
}

/// A device this build can use on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// What to ask [`select_device`] for: `cpu`, `vulkan:0`.
    pub request: String,
    /// What it is, for people.
    pub name: String,
}

/// Why a device could not be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// No such word.
    #[error(
        "`{request}` is no device; use `auto`, `cpu`, or one of `cuda`, `metal`, `vulkan` with an optional `:index`"
    )]
    Unknown {
        /// What was asked for.
        request: String,
    },
    /// The code is not in this binary.
    #[error(
        "this build has no `{kind}` support; build with `--features {kind}`, or use `--device cpu`"
    )]
    NotBuilt {
        /// The kind of device.
        kind: &'static str,
    },
    /// No card or no driver.
    #[error(
        "no usable `{kind}` device was found; is its driver installed? `latent devices` lists what there is, \
         `--device cpu` always works"
    )]
    NotFound {
        /// The kind of device.
        kind: &'static str,
    },
    /// Fewer cards than the index asks for.
    #[error("there is no `{kind}:{index}`, only {count} of that kind; `latent devices` lists them")]
    NoSuchIndex {
        /// The kind of device.
        kind: &'static str,
        /// What was asked for.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// The device is listed but does not compute.
    #[error(
        "`{device}` was found but failed while computing; update its driver or use `--device cpu`"
    )]
    Failed {
        /// The device's name.
        device: String,
    },
}

/// A kind of GPU.
struct Kind {
    name: &'static str,
    built: bool,
    list: fn() -> Vec<Device>,
}

/// Every kind of GPU, the preferred one first.
const KINDS: &[Kind] = &[
    Kind {
        name: "cuda",
        built: cfg!(feature = "cuda"),
        list: list_cuda,
    },
    Kind {
        name: "metal",
        built: cfg!(feature = "metal"),
        list: list_metal,
    },
    Kind {
        name: "vulkan",
        built: cfg!(feature = "vulkan"),
        list: list_vulkan,
    },
];

/// Declares how devices of a kind are listed; an empty list in builds without it.
macro_rules! list_kind {
    ($function:ident, $feature:literal, $variant:ident) => {
        #[cfg(feature = $feature)]
        fn $function() -> Vec<Device> {
            Device::enumerate(burn::tensor::DeviceType::$variant).into_vec()
        }

        #[cfg(not(feature = $feature))]
        fn $function() -> Vec<Device> {
            Vec::new()
        }
    };
}

list_kind!(list_cuda, "cuda", Cuda);
list_kind!(list_metal, "metal", Metal);
list_kind!(list_vulkan, "vulkan", Vulkan);

/// Finds the device `request` names: `auto`, `cpu`, or `cuda`, `metal`, `vulkan` with an optional `:index`.
///
/// `auto` takes the first real GPU that computes a probe rightly, else the CPU.
///
/// # Errors
/// [`DeviceError`] if the request is not understood or cannot be met; never for `auto` and `cpu`.
pub fn select_device(request: &str) -> Result<Selected, DeviceError> {
    match request {
        "cpu" => Ok(cpu()),
        "auto" => Ok(first_gpu().unwrap_or_else(cpu)),
        _ => select_gpu(request),
    }
}

/// Every device [`select_device`] can give here, the preferred one first, the CPU last.
pub fn list_devices() -> Vec<DeviceInfo> {
    let mut found = Vec::new();
    for kind in KINDS {
        for (index, (_, name)) in cards(kind).into_iter().enumerate() {
            let request = format!("{}:{index}", kind.name);
            found.push(DeviceInfo { request, name });
        }
    }
    found.push(DeviceInfo {
        request: "cpu".to_owned(),
        name: cpu().name,
    });
    found
}

fn cpu() -> Selected {
    Selected {
        device: Device::flex(),
        name: format!("cpu ({})", latent_kernels::instruction_set()),
    }
}

fn first_gpu() -> Option<Selected> {
    let cards = KINDS.iter().flat_map(cards);
    cards
        .map(|(device, name)| Selected { device, name })
        .find(|selected| computes(&selected.device))
}

fn select_gpu(request: &str) -> Result<Selected, DeviceError> {
    let unknown = || DeviceError::Unknown {
        request: request.to_owned(),
    };
    let (name, index) = match request.split_once(':') {
        Some((name, index)) => (name, index.parse().map_err(|_| unknown())?),
        None => (request, 0),
    };
    let kind = KINDS
        .iter()
        .find(|kind| kind.name == name)
        .ok_or_else(unknown)?;
    if !kind.built {
        return Err(DeviceError::NotBuilt { kind: kind.name });
    }
    let cards = cards(kind);
    let count = cards.len();
    if count == 0 {
        return Err(DeviceError::NotFound { kind: kind.name });
    }
    let (device, name) = cards
        .into_iter()
        .nth(index)
        .ok_or(DeviceError::NoSuchIndex {
            kind: kind.name,
            index,
            count,
        })?;
    if computes(&device) {
        Ok(Selected { device, name })
    } else {
        Err(DeviceError::Failed { device: name })
    }
}

/// The real cards of a kind and their names.
fn cards(kind: &Kind) -> Vec<(Device, String)> {
    let devices = catch_unwind(kind.list).unwrap_or_default();
    let named = |device: Device| card_name(&device).map(|name| (device, name));
    devices.into_iter().filter_map(named).collect()
}

/// The card's name, or `None` for a software renderer.
#[cfg(feature = "gpu")]
fn card_name(device: &Device) -> Option<String> {
    let identity = catch_unwind(AssertUnwindSafe(|| device.identity())).ok()??;
    identity.physical.map(|_| identity.name)
}

#[cfg(not(feature = "gpu"))]
fn card_name(_: &Device) -> Option<String> {
    None
}

/// Whether the device adds rightly; a driver that cannot even do that panics or answers nonsense.
fn computes(device: &Device) -> bool {
    let sum = || {
        let ones = Tensor::<1>::ones([1000], device);
        (ones.clone() + ones).into_data().try_into_vec::<f32>()
    };
    match catch_unwind(AssertUnwindSafe(sum)) {
        Ok(Ok(values)) => values.len() == 1000 && values.iter().all(|&value| value == 2.0),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_is_always_there() {
        assert!(select_device("cpu").unwrap().name.starts_with("cpu"));
        assert_eq!(list_devices().last().unwrap().request, "cpu");
    }

    #[test]
    fn auto_never_fails() {
        assert!(computes(&select_device("auto").unwrap().device));
    }

    #[test]
    fn an_unknown_device_is_refused_and_named() {
        for request in [
            "gpu", "", "cpu:0", "vulkan:", "vulkan:x", "cuda:-1", "Vulkan",
        ] {
            let error = select_device(request).unwrap_err();
            let request = request.to_owned();
            assert_eq!(error, DeviceError::Unknown { request });
        }
    }

    #[test]
    fn a_kind_left_out_of_the_build_is_said_to_be_left_out() {
        for kind in KINDS.iter().filter(|kind| !kind.built) {
            let error = select_device(kind.name).unwrap_err();
            assert_eq!(error, DeviceError::NotBuilt { kind: kind.name });
        }
    }

    #[test]
    fn the_cpu_computes_the_probe() {
        assert!(computes(&Device::flex()));
    }
}
