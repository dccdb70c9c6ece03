//! Where and how exactly to compute, and host values in and out.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use latent_kernels::Precision;

use crate::training::is_host;

/// A device and the precision of products on it.
#[derive(Clone, Debug)]
pub struct Compute {
    /// Where tensors live.
    pub device: Device,
    /// How products (convolutions, linear layers, attention) are computed; everything else is f32.
    pub precision: Precision,
}

impl Compute {
    /// The CPU.
    pub fn cpu(precision: Precision) -> Self {
        Self {
            device: Device::flex(),
            precision,
        }
    }

    /// The same device with gradients: models made on it train.
    #[must_use]
    pub fn autodiff(&self) -> Self {
        Self {
            device: self.device.clone().autodiff(),
            precision: self.precision,
        }
    }

    /// The same device without gradients.
    #[must_use]
    pub fn inference(&self) -> Self {
        Self {
            device: self.device.clone().without_autodiff(),
            precision: self.precision,
        }
    }

    /// The same device for networks whose products are never made of bytes.
    #[must_use]
    pub fn floating(&self) -> Self {
        Self {
            device: self.device.clone(),
            precision: self.precision.floating(),
        }
    }

    /// Whether this is the CPU, whose threads are ours to share out.
    pub fn is_cpu(&self) -> bool {
        is_host(&self.device)
    }

    /// `values` as a tensor; on the CPU they are moved, not copied.
    ///
    /// # Panics
    /// If the number of values is not the shape's product.
    pub fn tensor<const D: usize>(&self, values: Vec<f32>, shape: [usize; D]) -> Tensor<D> {
        Tensor::from_data(TensorData::new(values, shape), &self.device)
    }

    /// `values` behind one another.
    pub fn flat(&self, values: Vec<f32>) -> Tensor<1> {
        let count = values.len();
        self.tensor(values, [count])
    }

    /// Token ids as a tensor.
    ///
    /// # Panics
    /// If the number of ids is not the shape's product.
    pub fn ids<const D: usize>(&self, ids: &[u32], shape: [usize; D]) -> Tensor<D, Int> {
        let ids: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
        Tensor::from_data(TensorData::new(ids, shape), &self.device)
    }
}

/// Whether a device is the CPU.
pub fn is_cpu(device: &Device) -> bool {
    is_host(device)
}

/// The tensor's values in row-major order, and its shape. Waits for the device.
///
/// # Panics
/// If the device failed; on the CPU it cannot.
pub fn to_host<const D: usize>(tensor: Tensor<D>) -> (Vec<f32>, [usize; D]) {
    let shape = tensor.dims();
    let data = tensor.without_autodiff().into_data();
    // Weights that stay in their file have its type.
    let data = match data.dtype() {
        DType::F32 => data,
        _ => data.convert::<f32>(),
    };
    match data.try_into_vec::<f32>() {
        Ok(values) => (values, shape),
        Err(error) => panic!("a tensor of ours is f32: {error:?}"),
    }
}
