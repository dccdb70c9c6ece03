//! Memory of results on the CPU, used again.
//!
//! A pass makes and drops gigabytes of activations. Fresh memory costs twice before a kernel writes it: the system
//! clears its pages, and `vec![0.0; n]` fills it. A dropped result goes back here, and the next one that fits takes it
//! as it is. At most a quarter of what was ever in use at once lies here beside it.

use std::collections::{BTreeMap, VecDeque};
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;
use burn::tensor::{AllocationProperty, Bytes, DType, Shape, TensorData};

/// Shorter results come from the allocator, which is quick for them.
pub(super) const SHORTEST: usize = 4096;

static SHELF: Mutex<Option<Shelf<Vec<f32>>>> = Mutex::new(None);

/// Values of a result in the making.
pub(crate) struct Buffer {
    /// At least `len` values, and at most twice as many.
    values: Vec<f32>,
    len: usize,
}

impl Buffer {
    /// `len` values, whatever they are, for a kernel that writes every one.
    pub(crate) fn unset(len: usize) -> Self {
        let found = match len >= SHORTEST {
            true => on_shelf(|shelf| shelf.take(len)).map(|(_, values)| values),
            false => None,
        };
        let mut values = found.unwrap_or_else(|| vec![0.0; len]);
        if cfg!(test) {
            values.fill(f32::NAN);
        }
        Self { values, len }
    }

    /// `len` zeros, for a kernel that adds to them.
    pub(crate) fn zeros(len: usize) -> Self {
        let mut buffer = Self::unset(len);
        buffer.fill(0.0);
        buffer
    }

    /// The values as a tensor, not copied.
    pub(crate) fn into_tensor(self, shape: &[usize]) -> FloatTensor<Flex> {
        FloatTensor::<Flex>::from_data(self.into_data(shape))
    }

    /// The values as a tensor's data, not copied.
    pub(crate) fn into_data(mut self, shape: &[usize]) -> TensorData {
        if self.len() < SHORTEST {
            let values = std::mem::take(&mut self.values);
            return TensorData::new(values, shape.to_vec());
        }
        owned(self, shape)
    }
}

/// A tensor's data in memory that `owner` gives back when its last user is gone.
pub(super) fn owned(
    owner: impl AsRef<[u8]> + Send + Sync + 'static,
    shape: &[usize],
) -> TensorData {
    let bytes = bytes::Bytes::from_owner(owner);
    let bytes = Bytes::from_shared(bytes, AllocationProperty::Native);
    TensorData::from_bytes(bytes, Shape::from(shape.to_vec()), DType::F32)
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values[..self.len]
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(self)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.values.len() >= SHORTEST {
            let values = std::mem::take(&mut self.values);
            on_shelf(|shelf| shelf.put(values.len(), values));
        }
    }
}

/// Gives the memory of dropped results back to the system, before work of another kind begins.
pub fn release_buffers() {
    super::record::released();
    on_shelf(Shelf::clear);
}

fn on_shelf<R>(work: impl FnOnce(&mut Shelf<Vec<f32>>) -> R) -> R {
    let mut shelf = SHELF.lock().unwrap_or_else(PoisonError::into_inner);
    work(shelf.get_or_insert_with(Shelf::default))
}

/// Buffers that wait for a use, by their own length; all sizes are numbers of values.
pub(super) struct Shelf<B> {
    idle: BTreeMap<usize, Vec<(u64, B)>>,
    /// Numbers and lengths of the idle ones, oldest first; those that were taken meanwhile are skipped.
    ages: VecDeque<(u64, usize)>,
    next: u64,
    /// Sum of what waits, of what is in use, and the most that ever was.
    waiting: usize,
    in_use: usize,
    most: usize,
}

impl<B> Default for Shelf<B> {
    fn default() -> Self {
        Self {
            idle: BTreeMap::new(),
            ages: VecDeque::new(),
            next: 0,
            waiting: 0,
            in_use: 0,
            most: 0,
        }
    }
}

impl<B> Shelf<B> {
    /// A buffer of this length or up to twice as long, with its length; `None` if it has to be made.
    pub(super) fn take(&mut self, len: usize) -> Option<(usize, B)> {
        let mut fitting = self.idle.range_mut(len..=2 * len);
        let found = fitting.find_map(|(&own, idle)| idle.pop().map(|(_, buffer)| (own, buffer)));
        let taken = found.as_ref().map_or(len, |(own, _)| *own);
        self.in_use += taken;
        self.most = self.most.max(self.in_use);
        match found {
            Some(_) => self.waiting -= taken,
            None => self.make_room(),
        }
        found
    }

    /// Takes a buffer of this length back.
    pub(super) fn put(&mut self, len: usize, buffer: B) {
        self.in_use -= len;
        self.waiting += len;
        self.ages.push_back((self.next, len));
        self.idle.entry(len).or_default().push((self.next, buffer));
        self.next += 1;
        // Numbers of taken buffers pile up in `ages`; now and then they are thrown out.
        if self.ages.len() > 4096 {
            let waits = |&(number, len): &(u64, usize)| {
                self.idle
                    .get(&len)
                    .is_some_and(|idle| idle.iter().any(|(known, _)| *known == number))
            };
            self.ages.retain(waits);
        }
        self.make_room();
    }

    /// Drops all that wait.
    pub(super) fn clear(&mut self) {
        self.idle.clear();
        self.ages.clear();
        self.waiting = 0;
        self.most = self.in_use;
    }

    /// Values in use, and in buffers that wait.
    pub(super) fn held(&self) -> usize {
        self.in_use + self.waiting
    }

    /// Drops the oldest until no more lies here than may.
    fn make_room(&mut self) {
        while self.in_use + self.waiting > self.most + self.most / 4 {
            let Some((number, old)) = self.ages.pop_front() else {
                return;
            };
            let Some(idle) = self.idle.get_mut(&old) else {
                continue;
            };
            if let Some(place) = idle.iter().position(|(known, _)| *known == number) {
                idle.remove(place);
                self.waiting -= old;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes a buffer, making it where there is none.
    fn taken(shelf: &mut Shelf<Vec<f32>>, len: usize) -> (bool, Vec<f32>) {
        let found = shelf.take(len).map(|(_, values)| values);
        (found.is_some(), found.unwrap_or_else(|| vec![0.0; len]))
    }

    #[test]
    fn a_buffer_that_came_back_serves_the_next_that_it_fits() {
        let mut shelf = Shelf {
            most: 1_000_000,
            ..Shelf::default()
        };
        let (found, first) = taken(&mut shelf, 9000);
        assert!(!found);
        shelf.put(first.len(), first);
        assert!(!taken(&mut shelf, 9001).0, "too short");
        assert!(!taken(&mut shelf, 4499).0, "more than twice as long");
        let (found, first) = taken(&mut shelf, 4500);
        assert!(found && first.len() == 9000);
        assert!(!taken(&mut shelf, 9000).0, "it is in use");
    }

    #[test]
    fn no_more_than_a_quarter_of_the_most_ever_in_use_lies_beside_it() {
        let mut shelf = Shelf::default();
        for len in (5000..50_000).step_by(1000) {
            let (_, values) = taken(&mut shelf, len);
            shelf.put(values.len(), values);
            assert!(shelf.in_use + shelf.waiting <= len + len / 4);
        }
        // The last one fits and still waits.
        assert!(taken(&mut shelf, 49_000).0);
    }

    #[test]
    fn numbers_of_buffers_that_were_taken_do_not_pile_up() {
        let mut shelf = Shelf::default();
        for _ in 0..20_000 {
            let (_, values) = taken(&mut shelf, 4096);
            shelf.put(values.len(), values);
        }
        assert!(shelf.ages.len() <= 4097);
    }

    #[test]
    fn a_tensor_gives_its_memory_back_when_its_last_owner_drops_it() {
        // Longer than what other tests use, who share the shelf.
        let len = 3_000_017;
        let mut buffer = Buffer::unset(len);
        buffer.fill(3.0);
        let tensor = buffer.into_tensor(&[len]);
        let second = tensor.clone();
        drop(tensor);
        let held = |shelf: &mut Shelf<Vec<f32>>| shelf.idle.get(&len).map_or(0, Vec::len);
        assert_eq!(on_shelf(held), 0);
        assert!(second.as_slice::<f32>().unwrap().iter().all(|&v| v == 3.0));
        drop(second);
        assert_eq!(on_shelf(held), 1);
    }
}
