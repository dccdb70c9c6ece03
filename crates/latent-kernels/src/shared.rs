//! Buffers that threads keep, and outputs that they fill together.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};

/// An output that tasks write at places of their own.
#[derive(Clone, Copy)]
pub(crate) struct Output(*mut f32);

// SAFETY: whoever takes the pointer promises that no two tasks write the same place.
unsafe impl Send for Output {}
// SAFETY: as above.
unsafe impl Sync for Output {}

impl Output {
    pub(crate) fn new(values: &mut [f32]) -> Self {
        Self(values.as_mut_ptr())
    }

    /// The pointer itself; a method, so that closures capture the whole `Output`.
    pub(crate) fn pointer(self) -> *mut f32 {
        self.0
    }
}

/// 64 bytes: a line of the cache.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
struct Line<T>([T; LINE]);

/// Values of 32 bits in a line.
const LINE: usize = 16;

/// Whole lines of the cache: vectors and tiles whose rows cross lines take several times longer to load.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lines<T>(Vec<Line<T>>);

/// Units of products.
pub(crate) type Units = Lines<u32>;

impl<T: Copy + Default> Lines<T> {
    pub(crate) const EMPTY: Self = Self(Vec::new());
    const IS_32_BITS: () = assert!(size_of::<Line<T>>() == 64, "a line is 16 values of 32 bits");

    /// At least `len` zeros.
    pub(crate) fn zeros(len: usize) -> Self {
        Self(vec![Line::default(); len.div_ceil(LINE)])
    }

    /// Makes room for `len` values; what they hold is old.
    pub(crate) fn grow(&mut self, len: usize) {
        if self.0.len() * LINE < len {
            self.0.resize(len.div_ceil(LINE), Line::default());
        }
    }
}

impl<T: Copy + Default> Deref for Lines<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        let () = Self::IS_32_BITS;
        let (lines, len) = (self.0.as_ptr(), self.0.len());
        // SAFETY: a line is 16 values without padding.
        unsafe { std::slice::from_raw_parts(lines.cast(), len * LINE) }
    }
}

impl<T: Copy + Default> DerefMut for Lines<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        let () = Self::IS_32_BITS;
        let (lines, len) = (self.0.as_mut_ptr(), self.0.len());
        // SAFETY: a line is 16 values without padding.
        unsafe { std::slice::from_raw_parts_mut(lines.cast(), len * LINE) }
    }
}

/// What a task works in. Each field is grown on demand and holds old values.
#[derive(Default)]
pub(crate) struct Scratch {
    pub a: Units,
    pub b: Units,
    pub units: [Units; 3],
    pub values: Lines<f32>,
    pub more_values: Lines<f32>,
    pub rows: Vec<crate::product::Row>,
    pub parts: Vec<crate::product::Part>,
}

thread_local! {
    static SCRATCH: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
}

/// Lends this thread's scratch buffers.
pub(crate) fn with_scratch<T>(work: impl FnOnce(&mut Scratch) -> T) -> T {
    let mut scratch = SCRATCH.take().unwrap_or_default();
    let result = work(&mut scratch);
    SCRATCH.set(Some(scratch));
    result
}
