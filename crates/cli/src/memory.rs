//! Whether a model fits the memory: planned before it is loaded, compared with what it took when the work is done.

use std::path::PathBuf;

use anyhow::Result;
use tandem::machine::Memory;
use tandem::plan::{Limit, Measurements, Plan, Verdict, choose, judge};
use tandem::{BackendKind, DType, Error, MemoryPlan, ModelFiles, Settings, catalog::Catalog, memory_plan};
use tandem_bench::peak_rss_bytes;

use crate::args::EngineOptions;
use crate::figures::bytes;
use crate::output::Output;
use crate::paths;

/// Sums below this are the program more than the model, and teach nothing.
const WORTH_LEARNING: u64 = 256_000_000;

/// A plan that is nearer than this, as a share of the peak, is right.
const RIGHT: f64 = 0.02;

/// What a model is expected to do, and the model it is.
pub(crate) struct Expected<'e> {
    pub(crate) files: &'e ModelFiles,
    pub(crate) settings: &'e Settings,
    /// Tokens that its session will hold at the least.
    pub(crate) n_tokens: usize,
    /// Tokens that it may hold at most, where a limit was given.
    pub(crate) context_length: Option<usize>,
}

impl Expected<'_> {
    /// The plan, by what was measured before.
    pub(crate) fn plan(&self) -> tandem::Result<MemoryPlan> {
        memory_plan(self.files, self.settings, Some(self.n_tokens), self.context_length, &measurements())
    }

    /// Refuses a model that a hard limit does not let load, and warns of one that is larger than what is free.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] with the sum.
    pub(crate) fn check(&self, options: &EngineOptions, output: &Output) -> Result<()> {
        if options.no_memory_check == Some(true) {
            return Ok(());
        }
        // What cannot be planned is not loaded either, and that says why.
        let Ok(MemoryPlan { workload, plan }) = self.plan() else { return Ok(()) };
        let memory = memory(options);
        let peak = bytes(plan.peak());
        match judge(&plan, &workload, &memory) {
            Verdict::Fits => output.detail(&format!("memory: {peak} will be used of {} that are free", bytes(memory.usable()))),
            Verdict::Tight { usable } => output.note(&format!(
                "warning: `{}` will use about {peak} of memory, and {} are free: {}",
                self.files.name,
                bytes(usable),
                self.what_fits(&memory)
            )),
            Verdict::Refused(Limit { name, left, needed }) => {
                let threads = match needed.saturating_sub(plan.peak()) {
                    0 => String::new(),
                    // It takes none of the memory.
                    more => format!(" + address space of threads {}", bytes(more)),
                };
                let hint = format!("the sum: {}{threads}; {}; `--no-memory-check` tries it", sum(&plan), self.what_fits(&memory));
                let (model, needed, left) = (self.files.name.clone(), bytes(needed), bytes(left));
                return Err(Error::OutOfMemory { model, needed, limit: name, left, hint: hint.into() }.into());
            }
        }
        Ok(())
    }

    /// Another dtype of the model, or another model of the catalog.
    pub(crate) fn what_fits(&self, memory: &Memory) -> String {
        for dtype in [DType::Int8, DType::Int4] {
            let mut settings = self.settings.clone();
            settings.load.dtype = Some(dtype);
            settings.load.onnx.graph = None;
            let smaller = Expected { settings: &settings, ..*self }.plan().ok();
            let smaller = smaller.filter(|smaller| judge(&smaller.plan, &smaller.workload, memory) == Verdict::Fits);
            if let Some(MemoryPlan { plan, .. }) = smaller {
                return format!("with `--dtype {dtype}` it takes {}, which fits", bytes(plan.peak()));
            }
        }
        let backend = self.settings.backend.or_else(|| tandem::compiled().first().copied()).unwrap_or(BackendKind::Onnx);
        let choice = choose(&Catalog::builtin(), memory, (backend, DType::Int4), Some(self.n_tokens), threads(), &measurements());
        match choice.taken() {
            Some(taken) => format!("`{}` with `--dtype int4` would fit: {}", taken.entry.name, bytes(taken.plan.peak())),
            None => "no model of the catalog fits, and none is smaller than `demo`".into(),
        }
    }

    /// Compares the plan with what was used, and remembers the difference.
    pub(crate) fn learn(&self, output: &Output) {
        let (Ok(MemoryPlan { workload, plan }), Some(peak)) = (self.plan(), peak_rss_bytes()) else { return };
        let off = plan.peak() as f64 / peak as f64 - 1.0;
        output.detail(&format!("memory: {} planned, {} used ({:+.1} %)", bytes(plan.peak()), bytes(peak), 100.0 * off));
        let (Some(file), true) = (file(), plan.sum() >= WORTH_LEARNING && off.abs() > RIGHT) else { return };
        let mut measured = Measurements::read(&file);
        measured.add(&workload, plan.sum(), peak);
        if let Err(error) = measured.write(&file) {
            output.detail(&format!("`{}` cannot be written, and the measurement is not kept: {error}", file.display()));
        }
    }
}

/// The machine's memory, or that of the one that was asked about: then its limits are those that the question leaves out.
pub(crate) fn memory(options: &EngineOptions) -> Memory {
    options.memory.map_or_else(Memory::read, |size| Memory::of_machine_with(size.0))
}

/// What was measured on this machine.
pub(crate) fn measurements() -> Measurements {
    file().map(|file| Measurements::read(&file)).unwrap_or_default()
}

/// The processors that this process may use.
pub(crate) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The parts of `plan` as one line: `weights 2.0 GB + KV cache 12 MB + …`.
pub(crate) fn sum(plan: &Plan) -> String {
    let mut parts: Vec<_> = plan.parts().filter(|part| part.bytes > 0).collect();
    parts.sort_by_key(|part| std::cmp::Reverse(part.bytes));
    let mut terms: Vec<String> = parts.iter().map(|part| format!("{} {}", part.name, bytes(part.bytes))).collect();
    if let Some(correction) = plan.correction.filter(|correction| *correction != 0) {
        let sign = if correction < 0 { "less" } else { "more" };
        terms.push(format!("{} {sign} as measured", bytes(correction.unsigned_abs())));
    }
    terms.join(" + ")
}

fn file() -> Option<PathBuf> {
    paths::state_dir().map(|dir| dir.join("memory.json"))
}
