//! Our operations put into Burn, layers made of them, devices and precision.
//!
//! Activations are channels-last, `[n, h, w, c]` and `[n, l, c]`; `[n, c, h, w]` appears only at the borders
//! (latents, files). Convolution weights are `[co, ci, kh, kw]` and linear weights `[out, in]`, as in files.
//!
//! ```
//! use latent_nn::{Compute, Init, Precision, layers::Linear, to_host};
//!
//! let compute = Compute::cpu(Precision::F32);
//! let layer = Linear::new([3, 2], &mut Init::seeded(&compute, 7)).zeroed();
//! let y = layer.forward(compute.tensor(vec![1.0, 2.0, 3.0], [1, 3]));
//! assert_eq!(to_host(y), (vec![0.0, 0.0], [1, 2]));
//! ```

mod canvas;
mod compute;
mod device;
mod init;
pub mod layers;
pub mod ops;
mod parameters;
mod philox;
mod rates;
pub mod training;

pub use canvas::{Bands, Canvas, Scale};
pub use compute::{Compute, is_cpu, to_host};
pub use device::{
    DeviceError, DeviceInfo, OpDifference, Selected, check_device, list_devices, select_device,
};
pub use init::Init;
pub use latent_kernels::Precision;
pub use parameters::{
    Exported, Named, Stored, StoredType, Values, export_parameters, fill_parameters,
    load_parameters, named_parameters, parameter_count, visit_parameters,
};
pub use rates::Rates;
