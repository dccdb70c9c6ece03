//! How products fall into tasks. It does not depend on the threads.

use crate::product::PANEL;

/// Tasks to aim at.
const TASKS: usize = 32;
/// Fewest rows that pay for a task.
const ROWS: usize = 96;
/// The same with a heavy weight: every task reads it out of memory, which takes as long as the products of twenty rows
/// and more.
const ROWS_OF_HEAVY: usize = 256;
/// Units from which on a weight is heavy: 2 MiB, more than a core's own cache holds beside a task's rows.
pub(crate) const HEAVY: usize = 1 << 19;
/// Most units of packed rows in a task, so that they and a panel fit the second-level cache.
pub(crate) const TASK_UNITS: usize = 64 * 1024;
/// Most units of packed rows in a task with a heavy weight.
pub(crate) const MOST_UNITS: usize = 384 * 1024;

/// Rows that each task should have of so many, with a weight of `units`.
pub(crate) fn rows(of: usize, units: usize) -> usize {
    let fewest = if units < HEAVY { ROWS } else { ROWS_OF_HEAVY };
    of.div_ceil(TASKS).max(fewest)
}

/// Columns of a task, whole panels: all `n` of them, unless the rows alone make few tasks.
pub(crate) fn columns(n: usize, row_tasks: usize) -> usize {
    let parts = if row_tasks > 8 { 1 } else { 8 };
    n.div_ceil(parts).next_multiple_of(PANEL)
}
