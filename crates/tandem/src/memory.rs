//! How much memory a model will take, before it is loaded.

use std::num::NonZero;

use tandem_core::config::ModelConfig;
use tandem_core::files::ModelFiles;
use tandem_core::{BackendKind, Error, Result};
use tandem_hub::plan::{Measurements, Plan, Workload};

use crate::backends::{compiled, subject};
use crate::model::Settings;

/// What a run will take, and what it was planned for.
#[derive(Clone, Debug)]
pub struct MemoryPlan {
    /// The work.
    pub workload: Workload,
    /// Its parts.
    pub plan: Plan,
}

/// Plans the memory that a model of `files`, loaded as `settings` say, takes with `n_tokens` in its session, of `context_length` that it
/// may hold; `None` is what the model was made for. Only headers are read.
///
/// ```no_run
/// use tandem::{Settings, find, memory_plan, plan::Measurements};
///
/// # fn main() -> tandem::Result<()> {
/// let plan = memory_plan(&find("demo")?, &Settings::default(), None, None, &Measurements::default())?;
/// println!("{} bytes", plan.plan.peak());
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::BackendNotCompiled`]; as [`load`](crate::load) for files whose headers cannot be read; [`Error::Unsupported`] for a device
/// with memory of its own.
pub fn memory_plan(
    files: &ModelFiles,
    settings: &Settings,
    n_tokens: Option<usize>,
    context_length: Option<usize>,
    measured: &Measurements,
) -> Result<MemoryPlan> {
    let config = ModelConfig::from_file(&files.config)?;
    let backend = settings.backend.or_else(|| compiled().first().copied()).unwrap_or(BackendKind::Onnx);
    if settings.load.device != tandem_core::Device::Cpu {
        return Err(Error::Unsupported {
            what: format!("a plan of memory on `{}`", settings.load.device),
            reason: "it has memory of its own, whose use is not known before".into(),
            hint: None,
        });
    }
    let (dtype, subject) = subject(backend, files, &config, &settings.load)?;
    let context_length = context_length.unwrap_or(config.max_context).min(config.max_context);
    let threads = settings.load.threads.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZero::get);
    let workload =
        Workload { backend, dtype, n_tokens: n_tokens.unwrap_or(context_length).min(context_length), context_length, threads };
    let plan = Plan::new(&subject, &workload, measured);
    Ok(MemoryPlan { workload, plan })
}
