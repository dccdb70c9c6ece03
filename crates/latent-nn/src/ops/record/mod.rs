//! What the operations of a piece of work cost: measured while they run, or counted while none of them runs.
//!
//! [`profile`] takes the time of each operation. [`rehearse`] runs the same code with operations that compute nothing:
//! their results have the right shapes and hold zeros, and what real ones would take of memory and of products is
//! written down. So a plan of a network needs no second description of it. Both watch the thread that calls them;
//! while neither does, an operation asks one thread-local flag.

mod costs;
mod rehearsal;

use std::cell::RefCell;
use std::time::Instant;

use burn::tensor::Tensor;
use latent_kernels::Precision;

pub(crate) use costs::{PackedWeight, described};
pub(crate) use rehearsal::{forgotten, released};

use rehearsal::Ledger;

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OpKind {
    /// A convolution with all that joins it.
    Convolution,
    /// A linear layer.
    Linear,
    /// Attention between its projections.
    Attention,
    /// Group norm and layer norm.
    Norm,
    /// Activations, GEGLU and sums.
    Pointwise,
    /// Joining of channels and resizing.
    Layout,
}

impl OpKind {
    /// What reports call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Convolution => "convolution",
            Self::Linear => "linear",
            Self::Attention => "attention",
            Self::Norm => "norm",
            Self::Pointwise => "pointwise",
            Self::Layout => "layout",
        }
    }
}

/// The network that an operation belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Reads the words.
    TextEncoder,
    /// Pictures to latents.
    Encoder,
    /// Adds to a U-Net's skips.
    ControlNet,
    /// Finds the noise.
    UNet,
    /// Latents to pictures.
    Decoder,
    /// None of them.
    Other,
}

impl Part {
    /// What reports call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::TextEncoder => "text encoder",
            Self::Encoder => "encoder",
            Self::ControlNet => "ControlNet",
            Self::UNet => "U-Net",
            Self::Decoder => "decoder",
            Self::Other => "other",
        }
    }
}

/// All operations of one kind and precision in one part.
#[derive(Clone, Debug, PartialEq)]
pub struct OpCost {
    /// What they do.
    pub kind: OpKind,
    /// How their products are computed.
    pub precision: Precision,
    /// How many there were.
    pub calls: usize,
    /// Floating-point operations by their definition; a multiplication with its addition counts two.
    pub flops: f64,
    /// Those that are made: fewer where a picture is doubled before a convolution.
    pub made: f64,
    /// Bytes that they read and write beside weights.
    pub bytes: f64,
    /// Time; zero in a rehearsal.
    pub seconds: f64,
}

/// What one part cost.
#[derive(Clone, Debug, PartialEq)]
pub struct PartRecord {
    /// Which.
    pub part: Part,
    /// Times that it ran.
    pub evaluations: usize,
    /// Time between its begin and its end; zero in a rehearsal.
    pub seconds: f64,
    /// Its operations by kind.
    pub costs: Vec<OpCost>,
    /// In a rehearsal, bytes of activations and packed weights at the worst moment.
    pub peak: usize,
    /// In a rehearsal, values of the weights that were packed for it.
    pub packed: usize,
}

impl PartRecord {
    fn new(part: Part) -> Self {
        Self {
            part,
            evaluations: 0,
            seconds: 0.0,
            costs: Vec::new(),
            peak: 0,
            packed: 0,
        }
    }

    fn cost(&mut self, kind: OpKind, precision: Precision) -> &mut OpCost {
        let known = |cost: &OpCost| cost.kind == kind && cost.precision == precision;
        let place = self.costs.iter().position(known).unwrap_or_else(|| {
            self.costs.push(OpCost {
                kind,
                precision,
                calls: 0,
                flops: 0.0,
                made: 0.0,
                bytes: 0.0,
                seconds: 0.0,
            });
            self.costs.len() - 1
        });
        &mut self.costs[place]
    }
}

/// The recorder of a thread.
struct Recorder {
    /// Where memory is counted, if nothing is computed.
    rehearsal: Option<Ledger>,
    part: Part,
    parts: Vec<PartRecord>,
}

impl Recorder {
    fn of_part(&mut self) -> &mut PartRecord {
        let part = self.part;
        let place = self.parts.iter().position(|record| record.part == part);
        let place = place.unwrap_or_else(|| {
            self.parts.push(PartRecord::new(part));
            self.parts.len() - 1
        });
        &mut self.parts[place]
    }

    fn note_peak(&mut self, held: usize) {
        let part = self.of_part();
        part.peak = part.peak.max(held);
    }
}

thread_local! {
    static RECORDER: RefCell<Option<Recorder>> = const { RefCell::new(None) };
}

/// Runs `work` and says what its operations cost, in the order in which parts began.
///
/// On a GPU operations are only handed over, so their times mean nothing there.
pub fn profile<R>(work: impl FnOnce() -> R) -> (R, Vec<PartRecord>) {
    record(None, work)
}

/// Runs `work` without computing anything in it: on the CPU's tensors, operations give zeros of the right shape.
pub fn rehearse<R>(work: impl FnOnce() -> R) -> (R, Vec<PartRecord>) {
    record(Some(Ledger::default()), work)
}

/// Whether this thread only rehearses: its numbers mean nothing.
pub fn rehearsing() -> bool {
    RECORDER.with_borrow(|recorder| recorder.as_ref().is_some_and(|r| r.rehearsal.is_some()))
}

fn record<R>(rehearsal: Option<Ledger>, work: impl FnOnce() -> R) -> (R, Vec<PartRecord>) {
    /// Puts the recorder before this one back, also when `work` panics.
    struct Before(Option<Recorder>);
    impl Drop for Before {
        fn drop(&mut self) {
            RECORDER.set(self.0.take());
        }
    }
    let recorder = Recorder {
        rehearsal,
        part: Part::Other,
        parts: Vec::new(),
    };
    let before = Before(RECORDER.replace(Some(recorder)));
    let result = work();
    let parts = RECORDER.take().map_or_else(Vec::new, |r| r.parts);
    drop(before);
    (result, parts)
}

/// Runs `work` as one evaluation of a part.
pub fn evaluation<R>(part: Part, work: impl FnOnce() -> R) -> R {
    in_part(part, 1, work)
}

/// Runs `work`, which belongs to a part but is no evaluation of it.
pub fn beside<R>(part: Part, work: impl FnOnce() -> R) -> R {
    in_part(part, 0, work)
}

fn in_part<R>(part: Part, evaluations: usize, work: impl FnOnce() -> R) -> R {
    let outer = RECORDER.with_borrow_mut(|recorder| {
        let recorder = recorder.as_mut()?;
        let outer = std::mem::replace(&mut recorder.part, part);
        // A part within itself is one evaluation.
        (outer != part).then(|| recorder.of_part().evaluations += evaluations);
        Some((outer, Instant::now()))
    });
    let result = work();
    if let Some((outer, began)) = outer {
        RECORDER.with_borrow_mut(|recorder| {
            let Some(recorder) = recorder.as_mut() else {
                return;
            };
            if recorder.rehearsal.is_none() && outer != part {
                recorder.of_part().seconds += began.elapsed().as_secs_f64();
            }
            recorder.part = outer;
        });
    }
    result
}

/// What an operation is going to do.
pub(crate) struct Described<const D: usize> {
    pub(crate) kind: OpKind,
    pub(crate) precision: Precision,
    pub(crate) flops: f64,
    pub(crate) made: f64,
    pub(crate) bytes: f64,
    /// Of the result.
    pub(crate) shape: [usize; D],
    pub(crate) device: burn::tensor::Device,
    pub(crate) weight: Option<PackedWeight>,
}

/// An operation under watch, or one that nobody watches.
pub(crate) struct Watch<const D: usize>(Option<Described<D>>);

/// Begins an operation; `describe` is called only if somebody watches.
pub(crate) fn watch<const D: usize>(describe: impl FnOnce() -> Described<D>) -> Watch<D> {
    let watched = RECORDER.with_borrow(Option::is_some);
    Watch(watched.then(describe))
}

impl<const D: usize> Watch<D> {
    /// The operation's result: that of `work`, or in a rehearsal zeros.
    pub(crate) fn around(self, work: impl FnOnce() -> Tensor<D>) -> Tensor<D> {
        let Some(op) = self.0 else { return work() };
        if let Some(zeros) = rehearsal::result(&op) {
            note(&op, 0.0);
            return zeros;
        }
        let began = Instant::now();
        let result = work();
        note(&op, began.elapsed().as_secs_f64());
        result
    }
}

fn note<const D: usize>(op: &Described<D>, seconds: f64) {
    RECORDER.with_borrow_mut(|recorder| {
        let Some(recorder) = recorder.as_mut() else {
            return;
        };
        let cost = recorder.of_part().cost(op.kind, op.precision);
        cost.calls += 1;
        cost.flops += op.flops;
        cost.made += op.made;
        cost.bytes += op.bytes;
        cost.seconds += seconds;
    });
}

#[cfg(test)]
mod tests;
