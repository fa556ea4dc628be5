//! How much memory a run will take and how fast it will decode, before it starts: a sum of parts, each with where it comes from.
//!
//! Sizes come from the files' headers or from the catalog, which has the same facts. What an engine does with them is the engine's own
//! [`Footprint`]. What cannot be known before is measured after a run and kept ([`Measurements`]).

mod choose;
mod judge;
mod measured;

use std::fmt;

use tandem_core::footprint::EstimateFootprint;
use tandem_core::size::Size;
use tandem_core::template::STACK_BYTES;
use tandem_core::{BackendKind, DType, Device, Error, Result};

pub(crate) use self::choose::Resources;
pub use self::choose::{COMFORTABLE_SPEED, Candidate, Choice, DTypeChoice, Estimate, MIN_SPEED, PLANNED_CONTEXT};
pub use self::judge::{Limit, Verdict};
pub use self::measured::{Bandwidth, Measurement, Measurements};
pub use tandem_core::footprint::{Decoding, Footprint, Part, Workload};

/// What runs a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Engine {
    /// The backend.
    pub backend: BackendKind,
    /// The dtype that the weights have in memory.
    pub dtype: DType,
    /// Threads that it computes with.
    pub threads: usize,
}

/// What a run takes, and what it was planned for.
#[derive(Clone, Debug, PartialEq)]
pub struct MemoryPlan {
    /// What runs the model.
    pub engine: Engine,
    /// How full its session gets.
    pub workload: Workload,
    /// Its parts.
    pub footprint: Footprint,
    /// By how much runs like this one exceeded the sum when they were measured; less than 0 when they took less. `None` when none was
    /// measured.
    pub correction: Option<i64>,
}

/// Plans the memory of one model under one choice of settings.
#[derive(Clone)]
pub struct Planner {
    /// What runs the model.
    pub engine: Engine,
    /// Where it runs.
    pub device: Device,
    /// The most tokens that a session may hold.
    pub context_length: usize,
    /// What the backend says it takes.
    pub footprint: EstimateFootprint,
}

/// Of the address space, beyond what is in memory, for each thread: its stack, as musl, glibc and Rust take it at most, and the part of the
/// heap that the GNU C library reserves for it (`HEAP_MAX_SIZE` of its `malloc/arena.c`).
const OF_THREAD: u64 = (8 << 20) + (64 << 20);

/// Threads beside those that compute: the one that listens to Ctrl-C, and the one that gathers weights into huge pages or renders the
/// prompt.
const OTHER_THREADS: u64 = 2;

impl Planner {
    /// The memory that the model takes with `n_tokens` in its session, by what was `measured` before.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a device with memory of its own.
    pub fn plan(&self, n_tokens: usize, measured: &Measurements) -> Result<MemoryPlan> {
        if self.device != Device::Cpu {
            return Err(Error::Unsupported {
                what: format!("a plan of memory on `{}`", self.device),
                reason: "it has memory of its own, whose use is not known before".into(),
                hint: None,
            });
        }
        let workload = Workload { n_tokens: n_tokens.min(self.context_length), context_length: self.context_length };
        Ok(MemoryPlan::new(self.engine, workload, (self.footprint)(&workload), measured))
    }
}

impl MemoryPlan {
    /// A plan of `footprint`, corrected by what was `measured` before.
    pub fn new(engine: Engine, workload: Workload, footprint: Footprint, measured: &Measurements) -> Self {
        let correction = measured.correction(&engine, footprint.sum());
        Self { engine, workload, footprint, correction }
    }

    /// The most physical memory that is in use at once, as the process is charged for it (`VmHWM`).
    pub fn peak(&self) -> u64 {
        self.footprint.sum().saturating_add_signed(self.correction.unwrap_or(0))
    }

    /// That part of the peak that the kernel cannot take back: what a control group kills for. Runs that took less than planned may have
    /// left out files alone, and do not count.
    pub fn unreclaimable(&self) -> u64 {
        let more = self.correction.map_or(0, |correction| u64::try_from(correction).unwrap_or(0));
        self.footprint.unreclaimable().saturating_add(more)
    }

    /// What it maps: what `ulimit -v` counts. With less the engine may run, and the prompt's template find no stack any more.
    pub fn address_space(&self) -> u64 {
        let threads = OF_THREAD.saturating_mul(self.engine.threads as u64 + OTHER_THREADS);
        self.peak().saturating_add(threads).saturating_add(STACK_BYTES as u64)
    }

    /// The parts that are there at the peak.
    pub fn parts(&self) -> impl Iterator<Item = &Part> {
        self.footprint.parts()
    }
}

/// The parts as one line, the largest first: `weights 2.0 GB + KV cache 12 MB`.
impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<_> = self.parts().filter(|part| part.bytes > 0).collect();
        parts.sort_by_key(|part| std::cmp::Reverse(part.bytes));
        let mut terms: Vec<String> = parts.iter().map(|part| format!("{} {}", part.name, Size(part.bytes))).collect();
        if let Some(correction) = self.correction.filter(|correction| *correction != 0) {
            let sign = if correction < 0 { "less" } else { "more" };
            terms.push(format!("{} {sign} as measured", Size(correction.unsigned_abs())));
        }
        f.write_str(&terms.join(" + "))
    }
}

#[cfg(test)]
mod tests;
