//! `auto`: the largest model of the catalog that fits.

use tandem_core::{BackendKind, DType};

use super::{Measurements, Plan, Subject, Verdict, Workload, judge};
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
    pub plan: Plan,
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

/// The largest model of `catalog` for conversation whose plan fits `memory`; `asked` with the model's own context as its limit.
pub fn choose(
    catalog: &Catalog,
    memory: &Memory,
    (backend, dtype): (BackendKind, DType),
    context: Option<usize>,
    threads: usize,
    measured: &Measurements,
) -> Choice {
    let usable = memory.usable();
    let candidate = |entry: &CatalogEntry| {
        let n_tokens = context.unwrap_or(PLANNED_CONTEXT).min(entry.context);
        let workload = Workload { backend, dtype, n_tokens, context_length: n_tokens, threads };
        let plan = Plan::new(&Subject::of_entry(entry), &workload, measured);
        Candidate { entry: entry.clone(), fits: judge(&plan, &workload, memory) == Verdict::Fits, plan }
    };
    let mut candidates: Vec<Candidate> =
        catalog.entries().iter().filter(|entry| entry.kind == Kind::Text && entry.is_open()).map(candidate).collect();
    candidates.sort_by_key(|candidate| std::cmp::Reverse(candidate.entry.parameters));
    let taken = candidates.iter().position(|candidate| candidate.fits);
    Choice { candidates, taken, usable }
}
