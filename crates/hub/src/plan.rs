//! How much memory a run will take, before it starts: a sum of parts that can be read, each with where it comes from.
//!
//! Sizes come from the files' headers (`config.json`, safetensors, the graph) or from the catalog, which has the same facts. What an
//! engine does with them stands in `plan/onnx.rs` and `plan/candle.rs`, as constants with their reason. What cannot be known before
//! is measured after a run and kept ([`Measurements`]).

mod candle;
mod choose;
mod fit;
mod measured;
mod onnx;
mod subject;

use serde::Serialize;
use tandem_core::template::STACK_BYTES;
use tandem_core::{BackendKind, DType};

pub use self::choose::{Candidate, Choice, PLANNED_CONTEXT, choose};
pub use self::fit::{Limit, Verdict, judge};
pub use self::measured::{Measurement, Measurements};
pub use self::subject::{GraphWeights, Shape, Subject, Weights};

/// What a model is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// The engine.
    pub backend: BackendKind,
    /// The dtype that the weights have in memory.
    pub dtype: DType,
    /// Tokens that the session will hold when it is fullest.
    pub n_tokens: usize,
    /// Tokens that it may hold at most; room grows up to this.
    pub context_length: usize,
    /// Threads that the engine computes with.
    pub threads: usize,
}

/// What a run takes, in parts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// There from loading to the end.
    pub kept: Vec<Part>,
    /// There while the model is loaded only.
    pub loading: Vec<Part>,
    /// There while tokens are computed only.
    pub running: Vec<Part>,
    /// By how much runs like this one exceeded the sum when they were measured; less than 0 when they took less. `None` when none was
    /// measured.
    pub correction: Option<i64>,
}

/// One part of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Part {
    /// What it is, in words.
    pub name: &'static str,
    /// Its size.
    pub bytes: u64,
    /// It is the content of a file: the kernel can take it back and read it again, at the price of time.
    pub is_file: bool,
}

/// Of the address space, beyond what is in memory, for each thread: its stack, as musl, glibc and Rust take it at most, and the part of the
/// heap that the GNU C library reserves for it (`HEAP_MAX_SIZE` of its `malloc/arena.c`).
const OF_THREAD: u64 = (8 << 20) + (64 << 20);

/// Threads beside those that compute: the one that listens to Ctrl-C, and the one that gathers weights into huge pages or renders the
/// prompt.
const OTHER_THREADS: u64 = 2;

impl Plan {
    /// What `subject` takes under `workload`, by what was `measured` before.
    pub fn new(subject: &Subject, workload: &Workload, measured: &Measurements) -> Self {
        let mut plan = match workload.backend {
            BackendKind::Candle => candle::plan(subject, workload),
            _ => onnx::plan(subject, workload),
        };
        plan.correction = measured.correction(workload, plan.sum());
        plan
    }

    /// The most physical memory that is in use at once, as the process is charged for it (`VmHWM`).
    pub fn peak(&self) -> u64 {
        self.corrected(self.sum())
    }

    /// The sum of the parts at the worse of loading and running, before the correction.
    pub fn sum(&self) -> u64 {
        total(&self.kept) + self.phase().iter().map(|part| part.bytes).sum::<u64>()
    }

    /// That part of the peak that the kernel cannot take back: what a control group kills for. Runs that took less than planned may have
    /// left out files alone, and do not count.
    pub fn unreclaimable(&self) -> u64 {
        let own = |parts: &[Part]| parts.iter().filter(|part| !part.is_file).map(|part| part.bytes).sum::<u64>();
        let more = self.correction.map_or(0, |correction| u64::try_from(correction).unwrap_or(0));
        own(&self.kept) + own(&self.loading).max(own(&self.running)) + more
    }

    /// What it maps: what `ulimit -v` counts. With less the engine may run, and the prompt's template find no stack any more.
    pub fn address_space(&self, threads: usize) -> u64 {
        self.peak() + OF_THREAD * (threads as u64 + OTHER_THREADS) + STACK_BYTES as u64
    }

    /// The parts that are there at the peak.
    pub fn parts(&self) -> impl Iterator<Item = &Part> {
        self.kept.iter().chain(self.phase())
    }

    /// Loading or running, whichever takes more.
    fn phase(&self) -> &[Part] {
        if total(&self.loading) > total(&self.running) { &self.loading } else { &self.running }
    }

    fn corrected(&self, bytes: u64) -> u64 {
        bytes.saturating_add_signed(self.correction.unwrap_or(0))
    }
}

impl Part {
    fn own(name: &'static str, bytes: u64) -> Self {
        Self { name, bytes, is_file: false }
    }

    fn file(name: &'static str, bytes: u64) -> Self {
        Self { name, bytes, is_file: true }
    }
}

fn total(parts: &[Part]) -> u64 {
    parts.iter().map(|part| part.bytes).sum()
}

#[cfg(test)]
mod tests;
