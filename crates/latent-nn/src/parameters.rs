//! A model's parameters by path: `down_blocks.0.resnets.0.conv1.weight`.
//!
//! A path is the fields' names and the indices of `Vec`s, joined by dots; `Option` adds nothing. So a model whose
//! fields are named as in a checkpoint has the checkpoint's names.

use std::sync::Arc;

use burn::backend::tensor::FloatTensor;
use burn::backend::{DispatchDevice, Flex};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{AllocationProperty, Bytes, DType, Device, Shape, Tensor, TensorData};

use crate::ops::pack::on_packed;
use crate::to_host;

/// A parameter's name and shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Where in the model it is.
    pub path: String,
    /// As in the file.
    pub shape: Vec<usize>,
}

/// A parameter's (or an optimiser state's) name, shape and values.
#[derive(Clone, Debug, PartialEq)]
pub struct Exported {
    /// Where in the model it is.
    pub path: String,
    /// As in the file.
    pub shape: Vec<usize>,
    /// In row-major order.
    pub values: Vec<f32>,
}

/// The fields entered on the way to a parameter.
#[derive(Default)]
pub(crate) struct Path(Vec<String>);

impl Path {
    pub(crate) fn enter(&mut self, name: &str) {
        self.0.push(name.to_owned());
    }

    pub(crate) fn exit(&mut self) {
        self.0.pop();
    }

    pub(crate) fn join(&self) -> String {
        self.0.join(".")
    }
}

/// Names and shapes of all parameters, in the model's order.
pub fn named_parameters<M: Module>(module: &M) -> Vec<Named> {
    struct Visitor {
        path: Path,
        found: Vec<Named>,
    }
    impl ModuleVisitor for Visitor {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.enter(name);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.exit();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.found.push(Named {
                path: self.path.join(),
                shape: param.lazy_shape().to_vec(),
            });
        }
    }
    let mut visitor = Visitor {
        path: Path::default(),
        found: Vec::new(),
    };
    module.visit(&mut visitor);
    visitor.found
}

/// Number of values in all parameters.
pub fn parameter_count<M: Module>(module: &M) -> usize {
    module.num_params()
}

/// Calls `visit` with path, shape and values of each parameter, one at a time, in the model's order.
pub fn visit_parameters<M: Module>(module: &M, visit: impl FnMut(&str, &[usize], &[f32])) {
    struct Visitor<F> {
        path: Path,
        visit: F,
    }
    impl<F: FnMut(&str, &[usize], &[f32])> ModuleVisitor for Visitor<F> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.enter(name);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.exit();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let (values, shape) = to_host(param.val());
            (self.visit)(&self.path.join(), &shape, &values);
        }
    }
    module.visit(&mut Visitor {
        path: Path::default(),
        visit,
    });
}

/// Copies of all parameters, in the model's order.
pub fn export_parameters<M: Module>(module: &M) -> Vec<Exported> {
    let mut exported = Vec::new();
    visit_parameters(module, |path, shape, values| {
        exported.push(Exported {
            path: path.to_owned(),
            shape: shape.to_vec(),
            values: values.to_vec(),
        });
    });
    exported
}

/// Values that lie in a file in their own float type, and can be read again and again.
pub trait Stored: AsRef<[u8]> + Send + Sync {
    /// Their type, little-endian, at an address that fits it.
    fn dtype(&self) -> StoredType;

    /// All of them.
    fn to_f32(&self) -> Vec<f32>;

    /// Called when they are not needed for now: their memory may be given back.
    fn release(&self);
}

/// A float type of [`Stored`] values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredType {
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// The upper half of an IEEE single.
    Bf16,
}

/// Layers whose weights may keep the type of their file: two are packed before use, one is read row by row.
const STAYING: [&str; 3] = ["Struct:Conv2d", "Struct:Linear", "Struct:Embedding"];

/// What a parameter is filled with.
pub enum Values {
    /// Numbers in memory.
    Read(Vec<f32>),
    /// Numbers that are read from a file when they are needed. On the CPU the weights of convolutions and linear
    /// layers stay there: kernels pack them once, and then need the packed copy only. So do tables.
    Stored(Arc<dyn Stored>),
}

/// Replaces every parameter by what `read` returns for its path and shape.
///
/// `read` is asked once per parameter, in the model's order, and should check the shape against its file's.
///
/// # Errors
/// The first error of `read`.
///
/// # Panics
/// If `read` returns another number of values than the shape holds.
pub fn load_parameters<M: Module, E>(
    module: M,
    mut read: impl FnMut(&str, &[usize]) -> Result<Vec<f32>, E>,
) -> Result<M, E> {
    fill_parameters(module, |path, shape| read(path, shape).map(Values::Read))
}

/// [`load_parameters`] that may leave values where they are stored.
///
/// # Errors
/// The first error of `read`.
///
/// # Panics
/// If `read` returns another number of values than the shape holds.
pub fn fill_parameters<M: Module, E>(
    module: M,
    read: impl FnMut(&str, &[usize]) -> Result<Values, E>,
) -> Result<M, E> {
    struct Mapper<F, E> {
        path: Path,
        /// The kind of layer that is entered.
        layer: String,
        read: F,
        failed: Option<E>,
    }
    impl<F: FnMut(&str, &[usize]) -> Result<Values, E>, E> ModuleMapper for Mapper<F, E> {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.path.enter(name);
            container.clone_into(&mut self.layer);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.exit();
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            if self.failed.is_some() {
                return param;
            }
            let stays = D > 1 && STAYING.contains(&self.layer.as_str());
            let (shape, device) = (param.lazy_shape(), param.lazy_device());
            match (self.read)(&self.path.join(), &shape) {
                Ok(Values::Stored(stored)) if stays && is_plain_host(&device) => {
                    with_value(param, |shape, _| stay(stored, shape))
                }
                Ok(values) => with_value(param, |shape, place| {
                    let values = match values {
                        Values::Read(values) => values,
                        Values::Stored(stored) => stored.to_f32(),
                    };
                    placed(values, shape, place)
                }),
                Err(error) => {
                    self.failed = Some(error);
                    param
                }
            }
        }
    }
    let mut mapper = Mapper {
        path: Path::default(),
        layer: String::new(),
        read,
        failed: None,
    };
    let module = module.map(&mut mapper);
    mapper.failed.map_or(Ok(module), Err)
}

/// The CPU without gradients: the only place whose kernels read other types than f32.
fn is_plain_host(device: &Device) -> bool {
    matches!(device.as_dispatch(), DispatchDevice::Flex(_))
}

/// A tensor over values that stay where they are.
fn stay<const D: usize>(stored: Arc<dyn Stored>, shape: [usize; D]) -> Tensor<D> {
    struct Owner(Arc<dyn Stored>);
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            (*self.0).as_ref()
        }
    }
    let dtype = match stored.dtype() {
        StoredType::F32 => DType::F32,
        StoredType::F16 => DType::F16,
        StoredType::Bf16 => DType::BF16,
    };
    let bytes = bytes::Bytes::from_owner(Owner(stored.clone()));
    let bytes = Bytes::from_shared(bytes, AllocationProperty::File);
    let data = TensorData::from_bytes(bytes, Shape::from(shape), dtype);
    let tensor = FloatTensor::<Flex>::from_data(data);
    on_packed(&tensor, stored);
    Tensor::from_primitive::<Flex>(tensor)
}

/// The device of a parameter, and whether it is trained.
type Place<'a> = (&'a Device, bool);

/// The parameter with another value of its shape; one that nobody made yet is not made now.
fn with_value<const D: usize>(
    param: Param<Tensor<D>>,
    value: impl FnOnce([usize; D], Place<'_>) -> Tensor<D>,
) -> Param<Tensor<D>> {
    if param.is_initialized() {
        return param.map(|tensor| {
            let (shape, tracked, device) =
                (tensor.dims(), tensor.is_require_grad(), tensor.device());
            drop(tensor);
            value(shape, (&device, tracked))
        });
    }
    let device = param.lazy_device();
    let value = value(param.lazy_shape().dims(), (&device, device.is_autodiff()));
    Param::initialized(param.id, value)
}

/// `values` in the place of `tensor`: same shape, device and gradient requirement.
pub(crate) fn replaced<const D: usize>(tensor: Tensor<D>, values: Vec<f32>) -> Tensor<D> {
    let (shape, tracked, device) = (tensor.dims(), tensor.is_require_grad(), tensor.device());
    drop(tensor);
    placed(values, shape, (&device, tracked))
}

fn placed<const D: usize>(
    values: Vec<f32>,
    shape: [usize; D],
    (device, tracked): Place<'_>,
) -> Tensor<D> {
    let tensor = Tensor::from_data(TensorData::new(values, shape), device);
    if tracked {
        tensor.require_grad()
    } else {
        tensor
    }
}
