//! Memory of a rehearsal: results that hold nothing, and a book of what real ones would hold.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::tensor::{Tensor, TensorData};
use memmap2::{Mmap, MmapOptions};

use super::{Described, PackedWeight, RECORDER};
use crate::ops::buffers::{SHORTEST, Shelf, owned};
use crate::ops::pack::PackKey;

/// What activations and packed weights would take.
#[derive(Default)]
pub(super) struct Ledger {
    /// The very rules by which memory of real results is kept and given back.
    shelf: Arc<Mutex<Shelf<()>>>,
    packed: HashMap<PackKey, usize>,
    /// Zeros that all results share: pages that nobody writes take no memory.
    zeros: Option<Arc<Mmap>>,
}

impl Ledger {
    fn shelf(&self) -> MutexGuard<'_, Shelf<()>> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of everything.
    fn held(&self) -> usize {
        4 * self.shelf().held() + self.packed.values().sum::<usize>()
    }

    /// Packs a weight unless it is; the most that was held meanwhile, and its values.
    fn pack(&mut self, weight: &PackedWeight) -> Option<(usize, usize)> {
        if self.packed.contains_key(&weight.key) {
            return None;
        }
        // Values of another type are widened first; the pages of the file are there until it is packed.
        let widened = weight.widened.then(|| {
            let taken = self.shelf().take(weight.values);
            taken.map_or(weight.values, |(own, ())| own)
        });
        self.packed.insert(weight.key, weight.bytes);
        let most = self.held() + weight.stored;
        if let Some(own) = widened {
            self.shelf().put(own, ());
        }
        Some((most, weight.values))
    }

    /// Zeros of at least so many bytes; `None` if the system has no addresses for them.
    fn zeros(&mut self, bytes: usize) -> Option<Arc<Mmap>> {
        if self.zeros.as_ref().is_none_or(|zeros| zeros.len() < bytes) {
            let map = MmapOptions::new()
                .len(bytes.next_power_of_two())
                .no_reserve_swap()
                .map_anon();
            self.zeros = map
                .and_then(memmap2::MmapMut::make_read_only)
                .ok()
                .map(Arc::new);
        }
        self.zeros.clone()
    }
}

/// Memory of one result, given back to the shelf of its rehearsal when its last user drops it.
struct Held {
    zeros: Arc<Mmap>,
    len: usize,
    /// What the shelf gave for it.
    own: usize,
    shelf: Arc<Mutex<Shelf<()>>>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.zeros[..4 * self.len]
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.own >= SHORTEST {
            let mut shelf = self.shelf.lock().unwrap_or_else(PoisonError::into_inner);
            shelf.put(self.own, ());
        }
    }
}

/// The result of an operation that is not made; `None` outside of rehearsals.
pub(super) fn result<const D: usize>(op: &Described<D>) -> Option<Tensor<D>> {
    let data = RECORDER.with_borrow_mut(|recorder| {
        let recorder = recorder.as_mut()?;
        let ledger = recorder.rehearsal.as_mut()?;
        let packed = op.weight.as_ref().and_then(|weight| ledger.pack(weight));
        let data = hold(ledger, &op.shape);
        let held = ledger.held();
        if let Some((most, values)) = packed {
            recorder.note_peak(most);
            recorder.of_part().packed += values;
        }
        recorder.note_peak(held);
        Some(data)
    })?;
    Some(match data {
        Some(data) => Tensor::from_data(data, &op.device),
        None => Tensor::<D>::zeros([1; D], &op.device).expand(op.shape),
    })
}

/// Zeros of this shape that the ledger knows of; `None` if there are no addresses for them.
fn hold(ledger: &mut Ledger, shape: &[usize]) -> Option<TensorData> {
    let len: usize = shape.iter().product();
    let zeros = ledger.zeros((4 * len).max(4))?;
    let own = if len < SHORTEST {
        len
    } else {
        let taken = ledger.shelf().take(len);
        taken.map_or(len, |(own, ())| own)
    };
    let held = Held {
        zeros,
        len,
        own,
        shelf: Arc::clone(&ledger.shelf),
    };
    Some(owned(held, shape))
}

/// Told when packed copies of weights are dropped, by the addresses of the weights.
pub(crate) fn forgotten(addresses: &HashSet<usize>) {
    with_ledger(|ledger| ledger.packed.retain(|key, _| !addresses.contains(&key.0)));
}

/// Told when the memory of dropped results goes back to the system.
pub(crate) fn released() {
    with_ledger(|ledger| ledger.shelf().clear());
}

fn with_ledger(work: impl FnOnce(&mut Ledger)) {
    RECORDER.with_borrow_mut(|recorder| {
        if let Some(ledger) = recorder.as_mut().and_then(|r| r.rehearsal.as_mut()) {
            work(ledger);
        }
    });
}
