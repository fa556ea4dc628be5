//! From options to a loaded model.

use crate::words::clause;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use tandem::adapters::{AppliedAdapter, other_base};
use tandem::catalog::{Catalog, CatalogEntry};
use tandem::embedding::Pooling;
use tandem::{
    Admission, DType, Device, EmbeddingModel, ModelInfo, OpenedModel, ProgressEvent, RerankerModel, Resolved, Resolver,
    SessionOptions, Settings, TextModel,
};
use tandem_bench::peak_rss_bytes;

use crate::args::{DeviceChoice, EngineOptions};
use crate::download::with_progress;
use crate::figures::bytes;
use crate::interrupt::Interrupts;
use crate::output::Output;
use crate::resolve::{find, reference_settings, resolve, resolver};

/// A loaded model, and what tells how much memory it took.
pub(crate) struct Loaded {
    pub(crate) model: TextModel,
    pub(crate) resolver: Resolver,
    entry: Option<CatalogEntry>,
    /// Memory went into making something for the next load as well.
    has_exported: Arc<AtomicBool>,
}

/// An adapter that was applied, for `--json`.
#[derive(Serialize)]
pub(crate) struct AdapterRow {
    pub(crate) name: String,
    pub(crate) scale: f32,
    pub(crate) sha256: Option<String>,
    pub(crate) base_model: Option<String>,
}

impl AdapterRow {
    /// Each of them.
    pub(crate) fn all(adapters: &[AppliedAdapter]) -> Vec<Self> {
        let row = |adapter: &AppliedAdapter| {
            let AppliedAdapter { name, scale, sha256, base_model } = adapter.clone();
            Self { name, scale, sha256, base_model }
        };
        adapters.iter().map(row).collect()
    }
}

/// The dtype that was chosen, for `--json`.
#[derive(Serialize)]
pub(crate) struct DTypeReport {
    /// By the bytes that a token reads and the speed of this machine's memory.
    estimated_tokens_per_second: f64,
    /// What the most exact dtype would give.
    most_exact_tokens_per_second: f64,
    /// The mean KL divergence from the published weights, where the catalog knows it.
    kl_nats: Option<f64>,
}

impl Loaded {
    /// What is to be said of the dtype, when there was a choice.
    pub(crate) fn dtype_report(&self) -> Option<DTypeReport> {
        let choice = self.model.dtype_choice()?;
        Some(DTypeReport {
            estimated_tokens_per_second: choice.chosen().tokens_per_second,
            most_exact_tokens_per_second: choice.most_exact().tokens_per_second,
            kl_nats: self.entry.as_ref().and_then(|entry| entry.kl_nats(choice.chosen().dtype())),
        })
    }

    /// Compares the memory that was used with the plan, for a session that held `n_tokens`.
    pub(crate) fn learn(&self, n_tokens: usize, output: &Output) {
        let plan = self.resolver.plan(self.model.planner(), n_tokens);
        let (Ok(plan), Some(peak), false) = (plan, peak_rss_bytes(), self.has_exported.load(Ordering::Relaxed)) else { return };
        let off = 100.0 * (plan.peak() as f64 / peak as f64 - 1.0);
        output.detail(&format!("memory: {} planned, {} used ({off:+.1} %)", bytes(plan.peak()), bytes(peak)));
        if let Err(error) = self.resolver.learn(&plan, peak) {
            output.detail(&error.to_string());
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
    let settings = settings(options, output)?;
    let has_exported = Arc::new(AtomicBool::new(false));
    let resolver = resolver(catalog, options);
    let resolved = resolve(&resolver, reference, &reference_settings(options), output)?;
    let model = load_with(&resolver, &resolved, settings, &has_exported, n_tokens, output, OpenedModel::load)?;
    remark_on_load(&resolved, model.info(), model.load_time(), output);
    // It is needed until the process ends, and is gone with it at once; freeing its hundreds of thousands of strings takes 20 ms.
    std::mem::forget(model.tokenizer().clone());
    Ok(Loaded { model, resolver, entry: resolved.entry, has_exported })
}

/// Loads the embedding model that `reference` names, exactly as `options` say; `pooling` is used whatever its files say.
pub(crate) fn load_embedder(
    reference: &str,
    catalog: &Catalog,
    options: &EngineOptions,
    pooling: Option<Pooling>,
    output: &Output,
) -> Result<EmbeddingModel> {
    let settings = settings(options, output)?.for_embeddings();
    let resolver = resolver(catalog, options);
    let resolved = resolve(&resolver, reference, &reference_settings(options), output)?;
    let load = |opened: OpenedModel| opened.load_embedder(pooling);
    let model = load_with(&resolver, &resolved, settings, &Arc::default(), EMBEDDED_TOKENS, output, load)?;
    remark_on_load(&resolved, model.info(), model.load_time(), output);
    Ok(model)
}

/// Loads the reranker that `reference` names, exactly as `options` say.
pub(crate) fn load_reranker(
    reference: &str,
    catalog: &Catalog,
    options: &EngineOptions,
    output: &Output,
) -> Result<RerankerModel> {
    let settings = settings(options, output)?.for_embeddings();
    let resolver = resolver(catalog, options);
    let resolved = resolve(&resolver, reference, &reference_settings(options), output)?;
    let files = find(&resolver, &resolved, &settings, output)?;
    let settings = settings.for_reranking(&files)?;
    let load = OpenedModel::load_reranker;
    let model = load_with(&resolver, &resolved, settings, &Arc::default(), EMBEDDED_TOKENS, output, load)?;
    remark_on_load(&resolved, model.info(), model.load_time(), output);
    Ok(model)
}

/// Tokens for which the memory of an embedding model is planned: what it takes at once of long texts.
const EMBEDDED_TOKENS: usize = 512;

/// Finds the files of a resolved model, opens them and calls `load`; Ctrl-C stops it, and `has_exported` says whether something was made for it.
fn load_with<M>(
    resolver: &Resolver,
    resolved: &Resolved,
    mut settings: Settings,
    has_exported: &Arc<AtomicBool>,
    n_tokens: usize,
    output: &Output,
    load: impl FnOnce(OpenedModel) -> tandem::Result<M>,
) -> Result<M> {
    let files = find(resolver, resolved, &settings, output)?;
    settings = find_adapters(resolver, settings, output)?;
    let progress = output.progress(format!("loading {}", resolved.model));
    let interrupts = Interrupts::install(settings.load.cancel.clone()).context("Ctrl-C cannot be listened to")?;
    let remark = Arc::new(OnceLock::new());
    settings.load.progress = tandem::Progress::new({
        let (shown, interrupts, has_exported) = (progress.listener(), interrupts.clone(), Arc::clone(has_exported));
        let remark = Arc::clone(&remark);
        move |event| {
            if matches!(event, ProgressEvent::NotKept { .. }) {
                // One is enough, once nothing is drawn any more.
                let _ = remark.set(event.to_string());
                return;
            }
            has_exported.store(true, Ordering::Relaxed);
            // From here on something is left behind when the process ends at once.
            interrupts.arm();
            shown.tell(event);
        }
    });
    let model = resolver.open(files, &settings).and_then(|opened| {
        remark_on_dtype(&opened, resolved.entry.as_ref(), output);
        admit(&opened, resolver, n_tokens, output)?;
        load(opened)
    });
    interrupts.disarm();
    drop(progress);
    if let Some(remark) = remark.get() {
        output.note(&format!("warning: {remark}"));
    }
    let model = model?;
    if settings.load.cancel.is_cancelled() {
        return Err(tandem::Error::Cancelled.into());
    }
    Ok(model)
}

fn remark_on_load(resolved: &Resolved, info: &ModelInfo, time: Duration, output: &Output) {
    output.detail(&format!(
        "{}: {} {} on {}, {}, {} threads, loaded in {} ms",
        resolved.model,
        info.backend,
        info.engine_version,
        info.device,
        info.dtype,
        info.threads,
        time.as_millis()
    ));
    remark_on_adapters(&info.adapters, &info.name, output);
    remark_on_placement(info, output);
}

/// `settings` with their adapters on this machine; one of the hub is downloaded if need be.
pub(crate) fn find_adapters(resolver: &Resolver, settings: Settings, output: &Output) -> Result<Settings> {
    if settings.adapters.is_empty() {
        return Ok(settings);
    }
    with_progress("adapters", output, |progress, cancel| {
        let mut asked = settings.clone();
        (asked.load.progress, asked.load.cancel) = (progress, cancel);
        let adapters = resolver.find_adapters(&asked)?.adapters;
        Ok(Settings { adapters, ..settings })
    })
}

/// Says which adapters are applied, and warns of one that was trained on another model.
pub(crate) fn remark_on_adapters(adapters: &[AppliedAdapter], model: &str, output: &Output) {
    for adapter in adapters {
        let hash = adapter.sha256.as_deref().map_or(String::new(), |hash| format!(", SHA-256 {}…", &hash[..12.min(hash.len())]));
        output.detail(&format!("adapter `{}`, scale {}{hash}", adapter.name, adapter.scale));
        if let Some(base) = other_base(adapter, model) {
            let name = &adapter.name;
            output.note(&format!("warning: adapter `{name}` was trained on `{base}`, and this is `{model}`"));
        }
    }
}

/// Warns of products and attention that the engine left to the processor: ONNX Runtime's `GroupQueryAttention` runs on CUDA in 16-bit
/// floats only.
fn remark_on_placement(info: &ModelInfo, output: &Output) {
    if info.left_to_processor.is_empty() {
        return;
    }
    let operators: Vec<String> = info.left_to_processor.iter().map(|(operator, n)| format!("{n} `{operator}`")).collect();
    let advice = if info.dtype == DType::F16 { "`tandem show` lists them" } else { "try `--dtype f16`" };
    let (operators, device) = (operators.join(" and "), info.device);
    output.note(&format!("warning: {operators} nodes run on the processor instead of `{device}`: {advice}"));
}

/// Says which dtype was chosen, and why.
fn remark_on_dtype(opened: &OpenedModel, entry: Option<&CatalogEntry>, output: &Output) {
    let Some(choice) = opened.dtype_choice() else { return };
    let (estimate, exact) = (choice.chosen(), choice.most_exact());
    let chosen = format!("chose dtype `{}`: an estimated {:.0} tokens/s here", estimate.dtype(), estimate.tokens_per_second);
    if choice.chosen == 0 {
        return output.detail(&chosen);
    }
    let other = match exact.fits {
        true => format!("`{}` would give {:.0}", exact.dtype(), exact.tokens_per_second),
        false => format!("`{}` does not fit into memory", exact.dtype()),
    };
    let kl =
        entry.and_then(|entry| entry.kl_nats(estimate.dtype())).map_or(String::new(), |kl| format!("; KL divergence {kl} nats"));
    output.note(&format!("{chosen}, {other}{kl}"));
}

/// Refuses a model that a hard limit does not let load, and warns of one that is larger than what is free.
///
/// # Errors
/// As [`Resolver::admit`].
pub(crate) fn admit(opened: &OpenedModel, resolver: &Resolver, n_tokens: usize, output: &Output) -> tandem::Result<()> {
    if let Some(Admission { plan, usable, advice }) = resolver.admit(opened, n_tokens)? {
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
        .with_kv_dtype(options.kv.kv_dtype)
        .with_huge_pages(options.huge_pages.unwrap_or(true))
        .with_onnx(options.onnx.options());
    let adapters = options.adapter.clone();
    Ok(Settings { load, adapters, no_memory_check: options.no_memory_check == Some(true), ..settings })
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
