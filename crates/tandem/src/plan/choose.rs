//! `auto`: the largest model of the catalog that fits.

use tandem_core::Backend;
use tandem_core::footprint::Workload;

use super::{Engine, Measurements, MemoryPlan, Verdict};
use crate::catalog::{Catalog, CatalogEntry, Kind};
use crate::machine::Memory;

/// The context that `auto` plans for where none is asked for, in tokens: a long conversation.
pub const PLANNED_CONTEXT: usize = 4096;

/// What `auto` came to.
#[derive(Clone, Debug)]
pub struct Choice {
    /// Every [open](CatalogEntry::is_open) model that generates text, the largest first; of the same size, the catalog's order.
    pub candidates: Vec<Candidate>,
    /// Which of them was taken; `None` when not even the smallest fits.
    pub taken: Option<usize>,
    /// What there is to fit into, in bytes.
    pub usable: u64,
}

/// A model with its plan.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The model.
    pub entry: CatalogEntry,
    /// What it would take.
    pub plan: MemoryPlan,
    /// Whether that fits.
    pub fits: bool,
}

impl Choice {
    /// The model that was taken, with its plan.
    pub fn taken(&self) -> Option<&Candidate> {
        self.taken.map(|i| &self.candidates[i])
    }

    /// The smallest of all: the last resort.
    pub fn smallest(&self) -> Option<&Candidate> {
        self.candidates.last()
    }
}

impl CatalogEntry {
    /// The memory that it takes on `backend` with `n_tokens`, by what the catalog says of it.
    pub fn plan(&self, backend: &dyn Backend, engine: Engine, n_tokens: usize, measured: &Measurements) -> MemoryPlan {
        let n_tokens = n_tokens.min(self.context);
        let workload = Workload { n_tokens, context_length: n_tokens };
        MemoryPlan::new(engine, workload, backend.footprint(&self.shape(), engine.dtype, &workload), measured)
    }
}

/// The largest model of `catalog` for conversation whose plan for `n_tokens` on `backend` fits `memory`.
pub fn choose(
    catalog: &Catalog,
    memory: &Memory,
    (backend, engine): (&dyn Backend, Engine),
    n_tokens: usize,
    measured: &Measurements,
) -> Choice {
    let candidate = |entry: &CatalogEntry| {
        let plan = entry.plan(backend, engine, n_tokens, measured);
        Candidate { entry: entry.clone(), fits: plan.judge(memory) == Verdict::Fits, plan }
    };
    let mut candidates: Vec<Candidate> =
        catalog.entries().iter().filter(|entry| entry.kind == Kind::Text && entry.is_open()).map(candidate).collect();
    candidates.sort_by_key(|candidate| std::cmp::Reverse(candidate.entry.parameters));
    let taken = candidates.iter().position(|candidate| candidate.fits);
    Choice { candidates, taken, usable: memory.usable() }
}
