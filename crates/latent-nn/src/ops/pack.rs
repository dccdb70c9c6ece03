//! Packed copies of weights, kept as long as the weight's storage lives unchanged.
//!
//! An entry is found by the address of the storage's reference count. It holds a weak reference, so the address is
//! not given to another storage while the entry lives; an update in place moves the storage into a new count
//! (`Arc::make_mut`) and thereby kills the entry, and so does dropping the weight.

use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;
use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;
use latent_kernels::{PackedConv, PackedMatrix, Precision};

use crate::parameters::Stored;
use crate::training::is_host;

/// What a weight was packed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum PackKind {
    /// `x @ w^T`.
    Linear(Bits),
    /// A convolution.
    Conv(Bits),
    /// A convolution of a picture that is doubled first.
    UpsampledConv(Bits),
}

/// [`Precision`] as part of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Bits {
    /// f32.
    Full,
    /// bf16.
    Half,
    /// Bytes.
    Quarter,
}

impl From<Precision> for Bits {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::Full,
            Precision::Bf16 => Self::Half,
            Precision::Int8 => Self::Quarter,
        }
    }
}

/// A packed weight.
#[derive(Clone)]
pub(crate) enum Packed {
    /// For linear layers.
    Matrix(Arc<PackedMatrix>),
    /// For convolutions.
    Conv(Arc<PackedConv>),
}

type Storage = dyn Any + Send + Sync;
/// The address of a weight's storage, where in it the weight begins, and what it is packed for.
pub(crate) type PackKey = (usize, usize, PackKind);

type Entries = HashMap<PackKey, (Weak<Storage>, Packed)>;

/// The one cache.
static CACHE: LazyLock<Mutex<Entries>> = LazyLock::new(Mutex::default);

/// The packed form of `weight`, made by `pack` unless an earlier one still fits.
///
/// `pack` runs outside the lock: it uses the thread pool, and a pool thread that waits for the lock could hold up
/// the very work it waits for.
pub(crate) fn cached(
    weight: &FloatTensor<Flex>,
    kind: PackKind,
    pack: impl FnOnce() -> Packed,
) -> Packed {
    let storage: Arc<Storage> = weight.data_arc();
    let key = key(weight, kind);
    if let Some(packed) = lookup(key) {
        return packed;
    }
    let packed = pack();
    release(key.0);
    let mut entries = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    // A dropped model's copies go as soon as the next model packs its first weight.
    entries.retain(|_, (storage, _)| storage.strong_count() > 0);
    entries.insert(key, (Arc::downgrade(&storage), packed.clone()));
    packed
}

/// Where the packed form of `weight` is kept.
pub(crate) fn key(weight: &FloatTensor<Flex>, kind: PackKind) -> PackKey {
    let storage: Arc<Storage> = weight.data_arc();
    let address = Arc::as_ptr(&storage).cast::<()>() as usize;
    (address, weight.layout().start_offset(), kind)
}

/// What weights that lie in files are told once they are packed, by their storage's address as in [`CACHE`].
static SOURCES: LazyLock<Mutex<Sources>> = LazyLock::new(Mutex::default);

type Sources = HashMap<usize, (Weak<Storage>, Arc<dyn Stored>)>;

/// Has `stored` release its memory whenever `weight`, whose values it holds, was packed.
pub(crate) fn on_packed(weight: &FloatTensor<Flex>, stored: Arc<dyn Stored>) {
    let storage: Arc<Storage> = weight.data_arc();
    let address = Arc::as_ptr(&storage).cast::<()>() as usize;
    let mut sources = SOURCES.lock().unwrap_or_else(PoisonError::into_inner);
    sources.retain(|_, (storage, _)| storage.strong_count() > 0);
    sources.insert(address, (Arc::downgrade(&storage), stored));
}

fn release(address: usize) {
    let sources = SOURCES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((storage, stored)) = sources.get(&address)
        && storage.strong_count() > 0
    {
        stored.release();
    }
}

/// Drops the packed copies of a module's weights; the next use packs them again.
pub fn forget_packed<M: Module>(module: &M) {
    struct Addresses(HashSet<usize>);
    impl ModuleVisitor for Addresses {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if is_host(&param.device())
                && let Ok(weight) = param.val().without_autodiff().try_into_primitive::<Flex>()
            {
                let storage: Arc<Storage> = weight.data_arc();
                self.0.insert(Arc::as_ptr(&storage).cast::<()>() as usize);
            }
        }
    }
    let mut addresses = Addresses(HashSet::new());
    module.visit(&mut addresses);
    super::record::forgotten(&addresses.0);
    let mut entries = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    entries.retain(|(address, ..), _| !addresses.0.contains(address));
}

fn lookup(key: PackKey) -> Option<Packed> {
    let entries = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    let (storage, packed) = entries.get(&key)?;
    (storage.strong_count() > 0).then(|| packed.clone())
}
