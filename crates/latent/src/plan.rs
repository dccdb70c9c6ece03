//! What drawing will take of memory and time, found by a rehearsal: the request runs through the pipeline while no
//! operation computes anything.

use std::path::Path;
use std::{env, fs};

use latent_nn::ops::{OpCost, Part, PartRecord, rehearse};
use latent_nn::{Rates, is_cpu};

use crate::{Error, Pipeline, Request};

/// What a request will take.
#[derive(Clone, Debug)]
pub struct Plan {
    /// In the order in which they begin.
    pub stages: Vec<Stage>,
    /// Bytes at the worst moment of all.
    pub peak: usize,
}

/// What one network will take.
#[derive(Clone, Debug)]
pub struct Stage {
    /// Which.
    pub part: Part,
    /// Times that it runs.
    pub evaluations: usize,
    /// Floating-point operations of all evaluations; a multiplication with its addition counts two.
    pub flops: f64,
    /// Bytes of the whole program at its worst moment.
    pub peak: usize,
    record: PartRecord,
}

/// What the program itself takes, where the system does not tell: code and tokenizer.
const PROGRAM: usize = 48 << 20;
/// What each thread keeps for rows in the making.
const THREAD: usize = 4 << 20;

impl Pipeline {
    /// What `request` will take if it is drawn next, on the CPU. Nothing is computed, and no weight is read.
    ///
    /// # Errors
    /// As [`Pipeline::generate`]; [`Error::Request`] for a pipeline on a GPU.
    pub fn plan(&self, request: &Request) -> Result<Plan, Error> {
        self.plan_over(program_bytes(), request)
    }

    /// [`Pipeline::plan`] of a program that takes `program` bytes before it draws.
    ///
    /// # Errors
    /// As [`Pipeline::plan`].
    pub fn plan_over(&self, program: usize, request: &Request) -> Result<Plan, Error> {
        if !is_cpu(&self.compute().device) {
            return Err(Error::Request(format!(
                "plans are made for the CPU, and this is {}; take `--device cpu`",
                self.device_name()
            )));
        }
        let program = program + THREAD * crate::threads();
        let (generated, records) = rehearse(|| self.generate(request));
        generated?;
        let stages: Vec<Stage> = records
            .into_iter()
            .map(|record| Stage {
                part: record.part,
                evaluations: record.evaluations,
                flops: record.costs.iter().map(|cost| cost.flops).sum(),
                peak: program + record.peak,
                record,
            })
            .collect();
        let peaks = stages.iter().map(|stage| stage.peak);
        Ok(Plan {
            peak: peaks.max().unwrap_or(program),
            stages,
        })
    }
}

impl Plan {
    /// Seconds of everything.
    #[must_use]
    pub fn seconds(&self, rates: &Rates) -> f64 {
        self.stages.iter().map(|stage| stage.seconds(rates)).sum()
    }
}

impl Stage {
    /// Seconds of all its evaluations and of packing its weights.
    #[must_use]
    pub fn seconds(&self, rates: &Rates) -> f64 {
        rates.seconds_of(&self.record)
    }

    /// Seconds of one evaluation, its weights packed.
    #[must_use]
    pub fn seconds_each(&self, rates: &Rates) -> f64 {
        let all = self.seconds(rates) - rates.seconds_of_packing(&self.record);
        all / self.evaluations.max(1) as f64
    }

    /// Its operations by kind.
    #[must_use]
    pub fn costs(&self) -> &[OpCost] {
        &self.record.costs
    }
}

/// Bytes of memory that this program has now; where the system does not tell (it is Linux that does), about what it
/// has without a model.
#[must_use]
pub fn program_bytes() -> usize {
    resident_bytes().unwrap_or(PROGRAM)
}

/// Pages of mapped weights are left out: they are given back once the weights are packed.
fn resident_bytes() -> Option<usize> {
    let maps = fs::read_to_string("/proc/self/smaps").ok()?;
    let program = env::current_exe().ok()?;
    let (mut kib, mut counts) = (0, false);
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("Rss:") if counts => kib += words.next()?.parse::<usize>().ok()?,
            // A mapping begins with its addresses, and ends with its file where it has one.
            Some(first) if !first.ends_with(':') => {
                let file = words.nth(4).unwrap_or("[anonymous]");
                let library = file.contains(".so");
                counts = file.starts_with('[') || library || Path::new(file) == program;
            }
            _ => {}
        }
    }
    Some(kib << 10)
}
