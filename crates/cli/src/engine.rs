//! From options to a loaded model.

use crate::words::clause;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use tandem::catalog::Catalog;
use tandem::{Admission, Device, OpenedModel, Resolver, SessionOptions, Settings, TextModel};
use tandem_bench::peak_rss_bytes;

use crate::args::{DeviceChoice, EngineOptions};
use crate::figures::bytes;
use crate::interrupt::Interrupts;
use crate::output::Output;
use crate::resolve::{find, reference_settings, resolve, resolver};

/// A loaded model, and what tells how much memory it took.
pub(crate) struct Loaded {
    pub(crate) model: TextModel,
    resolver: Resolver,
    /// Memory went into making a graph as well.
    has_exported: Arc<AtomicBool>,
}

impl Loaded {
    /// Compares the memory that was used with the plan, for a session that held `n_tokens`.
    pub(crate) fn learn(&self, n_tokens: usize, output: &Output) {
        let plan = self.resolver.plan(self.model.planner(), n_tokens);
        let (Ok(plan), Some(peak), false) = (plan, peak_rss_bytes(), self.has_exported.load(Ordering::Relaxed)) else { return };
        let off = 100.0 * (plan.peak() as f64 / peak as f64 - 1.0);
        output.detail(&format!("memory: {} planned, {} used ({off:+.1} %)", bytes(plan.peak()), bytes(peak)));
        if let Some(problem) = self.resolver.learn(&plan, peak) {
            output.detail(&problem);
        }
    }
}

/// Loads the model that `reference` names, exactly as `options` say, unless `n_tokens` in a session are more than a limit of memory
/// lets it hold.
pub(crate) fn load(
    reference: &str,
    catalog: &Catalog,
    options: &EngineOptions,
    n_tokens: usize,
    output: &Output,
) -> Result<Loaded> {
    let resolver = resolver(catalog, options);
    let resolved = resolve(&resolver, reference, &reference_settings(options), output)?;
    let mut settings = settings(options, output)?;
    let files = find(&resolver, &resolved, &settings, output)?;
    let reference = &resolved.model;
    let has_exported = Arc::new(AtomicBool::new(false));
    let progress = output.progress(format!("loading {reference}"));
    let interrupts = Interrupts::install(settings.load.cancel.clone()).context("Ctrl-C cannot be listened to")?;
    settings.load.progress = tandem::Progress::new({
        let (shown, interrupts, has_exported) = (progress.listener(), interrupts.clone(), Arc::clone(&has_exported));
        move |event| {
            has_exported.store(true, Ordering::Relaxed);
            // From here on something is left behind when the process ends at once.
            interrupts.arm();
            shown.tell(event);
        }
    });
    let model = OpenedModel::open(files, &settings).and_then(|opened| {
        admit(&opened, &resolver, n_tokens, output)?;
        opened.load()
    });
    interrupts.disarm();
    drop(progress);
    let model = model?;
    if settings.load.cancel.is_cancelled() {
        return Err(tandem::Error::Cancelled.into());
    }
    let info = model.info();
    output.detail(&format!(
        "{reference}: {} {} on {}, {}, {} threads, loaded in {} ms",
        info.backend,
        info.engine_version,
        info.device,
        info.dtype,
        info.threads,
        model.load_time().as_millis()
    ));
    Ok(Loaded { model, resolver, has_exported })
}

/// Refuses a model that a hard limit does not let load, and warns of one that is larger than what is free.
///
/// # Errors
/// As [`Resolver::admit`].
pub(crate) fn admit(opened: &OpenedModel, resolver: &Resolver, n_tokens: usize, output: &Output) -> tandem::Result<()> {
    let admission = if opened.settings().no_memory_check { None } else { resolver.admit(opened, n_tokens)? };
    if let Some(Admission { plan, usable, advice }) = admission {
        let (name, peak, usable) = (&opened.files().name, bytes(plan.peak()), bytes(usable));
        match advice {
            None => output.detail(&format!("memory: {peak} will be used of {usable} that are free")),
            Some(advice) => {
                let advice = clause(&advice);
                output.note(&format!("warning: `{name}` will use about {peak} of memory, and {usable} are free: {advice}"));
            }
        }
    }
    Ok(())
}

/// What `options` ask for; what they leave out is the library's default.
pub(crate) fn settings(options: &EngineOptions, output: &Output) -> Result<Settings> {
    let device = match options.device {
        Some(DeviceChoice::Exactly(device)) => device,
        Some(DeviceChoice::Auto) => best_device(options, output)?,
        None => Device::default(),
    };
    let settings = reference_settings(options);
    let load = settings
        .load
        .with_device(device)
        .with_numerics(options.compute.numerics.unwrap_or_default())
        .with_huge_pages(true)
        .with_onnx(options.onnx.options());
    Ok(Settings { load, no_memory_check: options.no_memory_check == Some(true), ..settings })
}

/// How to open a session under `options`.
pub(crate) fn session_options(options: &EngineOptions) -> SessionOptions {
    SessionOptions::new().with_context_length(options.context.map(usize::from))
}

/// The best device that can be used: CUDA before CoreML before the processor. Where none can, the processor's error says why.
fn best_device(options: &EngineOptions, output: &Output) -> Result<Device> {
    let backend = tandem::backends::backend(options.weights.backend, options.onnx.library.ort_library.clone())?;
    let rank = |device: &Device| match device {
        Device::Cuda(_) => 0,
        Device::CoreMl => 1,
        _ => 2,
    };
    let usable = backend.devices().into_iter().filter(|report| report.unusable.is_none()).map(|report| report.device);
    let device = usable.min_by_key(rank).unwrap_or_default();
    output.detail(&format!("`auto` is `{device}`: the best device that backend `{}` can use here", backend.kind()));
    Ok(device)
}
