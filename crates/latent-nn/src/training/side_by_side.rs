//! Passes of an update beside each other, one a group of threads.
//!
//! Splitting every operation among the threads makes all of them wait for the slowest some hundred times a pass. Passes
//! need nothing of each other until their gradients are added, and a smaller pass stays in a core's cache.

use std::sync::{Mutex, PoisonError};

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};

use crate::Compute;

/// Groups of threads that passes run on.
///
/// Passes that share a model give it to each as [`super::with_own_leaves`] of it.
#[derive(Debug)]
pub struct SideBySide {
    /// None: everything runs in the caller's threads.
    pools: Vec<ThreadPool>,
}

impl SideBySide {
    /// Shares the CPU's threads out for updates of `passes`. A GPU takes one pass after the other.
    ///
    /// # Errors
    /// The system gives no more threads.
    pub fn new(passes: usize, compute: &Compute) -> Result<Self, ThreadPoolBuildError> {
        let threads = rayon::current_num_threads();
        let count = if compute.is_cpu() {
            passes.min(threads)
        } else {
            1
        };
        if count < 2 {
            return Ok(Self { pools: Vec::new() });
        }
        let pools = (0..count)
            .map(|index| threads / count + usize::from(index < threads % count))
            .map(|threads| ThreadPoolBuilder::new().num_threads(threads).build())
            .collect::<Result<_, _>>()?;
        Ok(Self { pools })
    }

    /// `work` on every item with its number; results in the items' order, whatever ran where.
    pub fn run<T: Send, R: Send>(
        &self,
        items: Vec<T>,
        work: impl Fn(usize, T) -> R + Sync,
    ) -> Vec<R> {
        if self.pools.is_empty() {
            return items
                .into_iter()
                .enumerate()
                .map(|(index, item)| work(index, item))
                .collect();
        }
        let count = items.len();
        let queue = Mutex::new(items.into_iter().enumerate());
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        let done = Mutex::new(Vec::with_capacity(count));
        std::thread::scope(|scope| {
            for pool in &self.pools {
                scope.spawn(|| {
                    while let Some((index, item)) = next() {
                        let result = pool.install(|| work(index, item));
                        done.lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push((index, result));
                    }
                });
            }
        });
        let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        done.sort_by_key(|(index, _)| *index);
        done.into_iter().map(|(_, result)| result).collect()
    }
}

#[cfg(test)]
mod tests {
    use latent_kernels::Precision;

    use super::*;

    #[test]
    fn results_come_in_the_order_of_their_items() {
        for passes in 1..5 {
            let workers = SideBySide::new(passes, &Compute::cpu(Precision::F32)).unwrap();
            let squares = workers.run((0..37u64).collect(), |index, item| {
                std::thread::sleep(std::time::Duration::from_micros(37 - item));
                (index as u64, item * item)
            });
            let expected: Vec<_> = (0..37).map(|item| (item, item * item)).collect();
            assert_eq!(squares, expected);
        }
    }

    #[test]
    fn one_pass_stays_in_the_callers_thread() {
        let here = std::thread::current().id();
        let workers = SideBySide::new(1, &Compute::cpu(Precision::F32)).unwrap();
        let threads = workers.run(vec![(); 4], |_, ()| std::thread::current().id());
        assert!(threads.into_iter().all(|thread| thread == here));
    }
}
