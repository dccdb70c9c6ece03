//! Work of a GPU recorded once and run again by one launch.
//!
//! An update of a small model is thousands of kernels, each of which takes the host longer to ask for than the card to
//! run. What a recording repeats is the kernels with the memory they read and wrote, so whatever changes from run to run
//! comes in tensors that stay where they are, and what is remembered changes in place.

use std::thread::ThreadId;

use burn::backend::{Backend, BackendGraph, Dispatch};
use burn::tensor::{Device, Tensor};

use crate::ops::overwrite;
use crate::{Compute, to_host};

/// Recorded work with its inputs and outputs.
pub struct Recorded {
    device: Device,
    inputs: Vec<Tensor<1>>,
    outputs: Vec<Tensor<1>>,
    graph: BackendGraph<Dispatch>,
    /// Whose stream of work it belongs to.
    thread: ThreadId,
}

impl std::fmt::Debug for Recorded {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Recorded")
            .field("device", &self.device)
            .field("inputs", &self.inputs.len())
            .finish_non_exhaustive()
    }
}

/// What can be recorded.
pub trait Work {
    /// Does it on tensors that stay where they are, and gives what it found.
    ///
    /// It is called twice, the second time with the card only taking notes: it must launch the same kernels both times,
    /// wait for nothing, and keep what it changes in the same memory.
    fn run(&mut self, inputs: &[Tensor<1>]) -> Vec<Tensor<1>>;

    /// Called between the two: a recording that fails spoils what it would have changed, so a copy is needed to go on.
    fn keep(&mut self);
}

impl Recorded {
    /// Does `work` on `inputs`, gives what it found, and records it; the reason where that fails.
    pub fn new(
        inputs: Vec<Vec<f32>>,
        compute: &Compute,
        work: &mut impl Work,
    ) -> (Vec<Vec<f32>>, Result<Self, String>) {
        let compute = compute.inference();
        let inputs = inputs.into_iter().map(|values| compute.flat(values));
        let inputs: Vec<Tensor<1>> = inputs.collect();
        let device = compute.device.as_dispatch();
        let prepared = Dispatch::graph_prepare(device);
        let first = work.run(&inputs).into_iter();
        let first = first.map(|output| to_host(output).0).collect();
        work.keep();
        let recorded = prepared
            .and_then(|()| Dispatch::graph_start_capture(device))
            .map(|()| work.run(&inputs))
            .and_then(|outputs| Ok((outputs, Dispatch::graph_stop_capture(device)?)));
        let recorded = recorded.map(|(outputs, graph)| Self {
            device: compute.device.clone(),
            inputs,
            outputs,
            graph,
            thread: std::thread::current().id(),
        });
        (first, recorded.map_err(|error| error.to_string()))
    }

    /// The work on other `inputs` of the same lengths: its outputs, after waiting for the device.
    ///
    /// # Panics
    /// If it is another thread than the one that recorded, if a length differs, or if the device fails.
    #[allow(
        unsafe_code,
        reason = "what a card recorded is run again by memory addresses"
    )]
    pub fn run(&self, inputs: Vec<Vec<f32>>) -> Vec<Vec<f32>> {
        assert_eq!(
            self.thread,
            std::thread::current().id(),
            "recorded work belongs to the thread that recorded it"
        );
        let compute = Compute {
            device: self.device.clone(),
            precision: crate::Precision::F32,
        };
        for (place, values) in self.inputs.iter().zip(inputs) {
            assert_eq!(place.dims()[0], values.len(), "values of an input");
            let _ = overwrite(place.clone(), compute.flat(values));
        }
        // SAFETY: the kernels read and write the inputs and outputs, which live here, and what `work` reached, on pages
        // that the graph itself keeps from other use. Inputs are written and outputs read by this thread, so on the
        // stream that was recorded, in the order of these lines.
        let replayed = unsafe { Dispatch::graph_replay(self.device.as_dispatch(), &self.graph) };
        if let Err(error) = replayed {
            panic!("the device refused recorded work: {error}");
        }
        let outputs = self.outputs.iter().cloned();
        outputs.map(|output| to_host(output).0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Precision;

    /// Triples its input, and counts.
    struct Tripled {
        runs: usize,
        kept: usize,
    }

    impl Work for Tripled {
        fn run(&mut self, inputs: &[Tensor<1>]) -> Vec<Tensor<1>> {
            self.runs += 1;
            vec![inputs[0].clone() * 3.0]
        }

        fn keep(&mut self) {
            self.kept += 1;
        }
    }

    #[test]
    fn a_device_that_does_not_record_says_so_and_has_done_the_work_once() {
        let compute = Compute::cpu(Precision::F32);
        let mut work = Tripled { runs: 0, kept: 0 };
        let (first, recorded) = Recorded::new(vec![vec![1.0, 2.0]], &compute, &mut work);
        assert_eq!(first, vec![vec![3.0, 6.0]]);
        assert_eq!((work.runs, work.kept), (1, 1));
        assert!(recorded.is_err());
    }
}
