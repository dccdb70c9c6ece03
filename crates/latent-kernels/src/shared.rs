//! Buffers that threads keep, and outputs that they fill together.

use std::cell::Cell;

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

/// What a task works in. Each field is grown on demand and holds old values.
#[derive(Default)]
pub(crate) struct Scratch {
    pub a: Vec<u32>,
    pub b: Vec<u32>,
    pub units: [Vec<u32>; 6],
    pub values: Vec<f32>,
    pub more_values: Vec<f32>,
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
