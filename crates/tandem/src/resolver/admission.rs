//! Whether a model fits the memory: planned before it is loaded, compared with what it took when the work is done.

use tandem_core::size::Size;
use tandem_core::{DType, Error, Remedy, Result};

use super::Resolver;
use crate::machine::Memory;
use crate::opened::OpenedModel;
use crate::plan::{Choice, Limit, MemoryPlan, Planner, Verdict};
use crate::settings::Settings;

/// Sums below this are the program more than the model, and teach nothing.
const WORTH_LEARNING: u64 = 256_000_000;

/// A plan that is nearer than this, as a share of the peak, is right.
const RIGHT: f64 = 0.02;

/// A model that may be loaded.
#[derive(Clone, Debug)]
pub struct Admission {
    /// What it takes.
    pub plan: MemoryPlan,
    /// What there is, in bytes.
    pub usable: u64,
    /// What would fit, where this takes more than is free: the machine would swap, or end some process.
    pub advice: Option<Remedy>,
}

impl Resolver {
    /// The memory that the model of `planner` takes with `n_tokens` in its session, by what was measured before.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a device with memory of its own.
    pub fn plan(&self, planner: &Planner, n_tokens: usize) -> Result<MemoryPlan> {
        planner.plan(n_tokens, &self.measurements())
    }

    /// Whether `opened` may be loaded for `n_tokens` in its session; `None` where that cannot be planned, and with
    /// [`Settings::no_memory_check`].
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] with the sum, when a limit that nothing can stretch is exceeded: the process would be killed.
    pub fn admit(&self, opened: &OpenedModel, n_tokens: usize) -> Result<Option<Admission>> {
        let Some(plan) = self.plan(opened.planner(), n_tokens).ok().filter(|_| !opened.settings().no_memory_check) else {
            return Ok(None);
        };
        let memory = self.memory();
        let usable = memory.usable();
        match plan.judge(&memory) {
            Verdict::Fits => Ok(Some(Admission { plan, usable, advice: None })),
            Verdict::Tight => Ok(Some(Admission { advice: Some(self.advice(opened, n_tokens, &memory)), plan, usable })),
            Verdict::Refused(Limit { name, left, needed }) => {
                let threads = match needed.saturating_sub(plan.peak()) {
                    0 => String::new(),
                    // It takes none of the memory.
                    more => format!(" + address space of threads {}", Size(more)),
                };
                let advice = self.advice(opened, n_tokens, &memory);
                Err(Error::OutOfMemory {
                    model: opened.files().name.clone(),
                    needed: Size(needed).to_string(),
                    limit: name,
                    left: Size(left).to_string(),
                    hint: [Remedy::Note(format!("the sum: {plan}{threads}")), advice, Remedy::SkipMemoryCheck].into(),
                })
            }
        }
    }

    /// What fits where `opened` does not: another dtype of the model, or another model of the catalog.
    pub fn advice(&self, opened: &OpenedModel, n_tokens: usize, memory: &Memory) -> Remedy {
        for dtype in [DType::Int8, DType::Int4] {
            let mut settings = opened.settings().clone();
            settings.load.dtype = Some(dtype);
            settings.load.onnx.graph = None;
            let smaller =
                OpenedModel::open(opened.files().clone(), &settings).and_then(|smaller| self.plan(smaller.planner(), n_tokens));
            if let Some(plan) = smaller.ok().filter(|plan| plan.judge(memory) == Verdict::Fits) {
                return Remedy::Fits { dtype, peak: Size(plan.peak()).to_string() };
            }
        }
        let mut settings = Settings { context_length: Some(n_tokens), ..opened.settings().clone() };
        settings.load.dtype = Some(DType::Int4);
        // A small model that is slow is better than none.
        match self
            .clone()
            .with_memory(memory.clone())
            .with_bandwidth(f64::INFINITY)
            .choose(&settings)
            .as_ref()
            .ok()
            .and_then(Choice::chosen)
        {
            Some(chosen) => Remedy::ModelFits {
                model: chosen.entry.name.clone(),
                dtype: DType::Int4,
                peak: Size(chosen.estimate.plan.peak()).to_string(),
            },
            None => Remedy::Note("no model of the catalog fits, and none is smaller than `demo`".into()),
        }
    }

    /// Compares `plan` with the `peak` that was used, and remembers a difference that teaches something.
    ///
    /// # Errors
    /// [`Error::BadFile`] when it cannot be kept.
    pub fn learn(&self, plan: &MemoryPlan, peak: u64) -> Result<()> {
        let off = plan.peak() as f64 / peak as f64 - 1.0;
        let Some(file) = self.measured.as_deref() else { return Ok(()) };
        if plan.footprint.sum() < WORTH_LEARNING || off.abs() <= RIGHT {
            return Ok(());
        }
        let mut measured = self.measurements();
        measured.add(&plan.engine, plan.footprint.sum(), peak);
        measured.write(file).map_err(|error| Error::bad_file(file.to_string_lossy(), "the measurement cannot be kept", error))
    }
}
