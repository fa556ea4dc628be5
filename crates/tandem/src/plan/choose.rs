//! Which dtype, and with `auto` which model: the most exact, and the largest, that fits the memory and answers fast enough.

use tandem_core::footprint::{ModelShape, Workload};
use tandem_core::{Backend, DType};

use super::{Engine, Measurements, MemoryPlan, Verdict};
use crate::catalog::CatalogEntry;
use crate::machine::Memory;

/// The context that is planned for where none is asked for, in tokens: a long conversation.
pub const PLANNED_CONTEXT: usize = 4096;

/// A dtype is fast enough from this speed on, in tokens per second: faster than people read.
pub const COMFORTABLE_SPEED: f64 = 15.0;

/// A model is fast enough for `auto` from this speed on, in tokens per second.
pub const MIN_SPEED: f64 = 10.0;

/// What there is for a model.
pub(crate) struct Resources {
    pub(crate) memory: Memory,
    pub(crate) measured: Measurements,
    /// In bytes per second.
    pub(crate) bandwidth: f64,
}

/// What a model takes in one dtype, and how fast it answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Estimate {
    /// The memory that it takes, and the dtype.
    pub plan: MemoryPlan,
    /// How fast it decodes, by the bytes that a token reads and the speed of this machine's memory.
    pub tokens_per_second: f64,
    /// Whether the plan fits the memory.
    pub fits: bool,
}

/// The dtypes that a model can run in, and the one that was chosen: the most exact that fits and has [`COMFORTABLE_SPEED`], else the
/// smallest.
#[derive(Clone, Debug, PartialEq)]
pub struct DTypeChoice {
    /// Each dtype, the most exact first.
    pub estimates: Vec<Estimate>,
    /// Which of them was chosen.
    pub chosen: usize,
}

/// What `auto` came to.
#[derive(Clone, Debug)]
pub struct Choice {
    /// Every [open](CatalogEntry::is_open) model that generates text, the largest first; of the same size, the catalog's order.
    pub candidates: Vec<Candidate>,
    /// Which of them was chosen: the largest that fits and has [`MIN_SPEED`], else the smallest that fits; `None` when none fits.
    pub chosen: Option<usize>,
    /// What there is to fit into, in bytes.
    pub usable: u64,
}

/// A model in the dtype that suits this machine.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The model.
    pub entry: CatalogEntry,
    /// What it would take, and how fast it would be.
    pub estimate: Estimate,
}

impl Resources {
    /// What a model of `shape` takes with `workload` in its session, and how fast it is.
    pub(crate) fn estimate(&self, backend: &dyn Backend, engine: Engine, shape: &ModelShape, workload: Workload) -> Estimate {
        let footprint = backend.footprint(shape, engine.dtype, &workload);
        let tokens_per_second = footprint.decoding.tokens_per_second(self.bandwidth);
        let plan = MemoryPlan::new(engine, workload, footprint, &self.measured);
        Estimate { fits: plan.judge(&self.memory) == Verdict::Fits, tokens_per_second, plan }
    }
}

impl Estimate {
    /// The dtype of the weights.
    pub fn dtype(&self) -> DType {
        self.plan.engine.dtype
    }
}

impl DTypeChoice {
    /// The choice among `estimates`, the most exact first; `None` where there are none.
    pub fn among(estimates: Vec<Estimate>) -> Option<Self> {
        let suits = |estimate: &Estimate| estimate.fits && estimate.tokens_per_second >= COMFORTABLE_SPEED;
        let chosen = estimates.iter().position(suits).or(estimates.len().checked_sub(1))?;
        Some(Self { estimates, chosen })
    }

    /// What was chosen.
    pub fn chosen(&self) -> &Estimate {
        &self.estimates[self.chosen]
    }

    /// The most exact dtype.
    pub fn most_exact(&self) -> &Estimate {
        &self.estimates[0]
    }
}

impl Choice {
    /// The choice among `candidates` for a machine on which `usable` bytes can be used.
    pub(crate) fn among(mut candidates: Vec<Candidate>, usable: u64) -> Self {
        candidates.sort_by_key(|candidate| std::cmp::Reverse(candidate.entry.parameters));
        let fits = |candidate: &Candidate| candidate.estimate.fits;
        let suits = |candidate: &Candidate| fits(candidate) && candidate.estimate.tokens_per_second >= MIN_SPEED;
        let chosen = candidates.iter().position(suits).or_else(|| candidates.iter().rposition(fits));
        Self { candidates, chosen, usable }
    }

    /// The model that was chosen.
    pub fn chosen(&self) -> Option<&Candidate> {
        self.chosen.map(|i| &self.candidates[i])
    }

    /// The smallest of all: the last resort.
    pub fn smallest(&self) -> Option<&Candidate> {
        self.candidates.last()
    }
}
