//! From options to a loaded model.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use tandem::{Device, LoadOptions, SessionOptions, Settings, TextModel};

use crate::args::{DeviceChoice, EngineOptions};
use crate::hub::find;
use crate::interrupt::Interrupts;
use crate::memory::Expected;
use crate::output::Output;

/// A loaded model, and what tells how much memory it took.
pub(crate) struct Loaded {
    pub(crate) model: TextModel,
    settings: Settings,
    context_length: Option<usize>,
    /// Memory went into making a graph as well.
    has_exported: Arc<AtomicBool>,
}

impl Loaded {
    /// Compares the memory that was used with the plan, for a session that held `n_tokens`.
    pub(crate) fn learn(&self, n_tokens: usize, output: &Output) {
        if !self.has_exported.load(Ordering::Relaxed) {
            let (files, settings, context_length) = (self.model.files(), &self.settings, self.context_length);
            Expected { files, settings, n_tokens, context_length }.learn(output);
        }
    }
}

/// Loads the model that `reference` names, exactly as `options` say, unless `n_tokens` in a session are more than a limit of memory
/// lets it hold.
pub(crate) fn load(reference: &str, options: &EngineOptions, n_tokens: usize, output: &Output) -> Result<Loaded> {
    let mut settings = settings(options, output)?;
    let context_length = options.context.map(usize::from);
    let files = find(reference, &settings, output)?;
    Expected { files: &files, settings: &settings, n_tokens, context_length }.check(options, output)?;
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
    let model = TextModel::load(files, &settings);
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
    Ok(Loaded { model, settings, context_length, has_exported })
}

/// What `options` ask for; what they leave out is the library's default.
pub(crate) fn settings(options: &EngineOptions, output: &Output) -> Result<Settings> {
    let device = match options.device {
        Some(DeviceChoice::Exactly(device)) => device,
        Some(DeviceChoice::Auto) => best_device(options, output)?,
        None => Device::default(),
    };
    let load = LoadOptions::new()
        .with_device(device)
        .with_dtype(options.weights.dtype)
        .with_threads(options.compute.threads)
        .with_numerics(options.compute.numerics.unwrap_or_default())
        .with_huge_pages(true)
        .with_onnx(options.onnx.options());
    Ok(Settings { backend: options.weights.backend, load })
}

/// How to open a session under `options`.
pub(crate) fn session_options(options: &EngineOptions) -> SessionOptions {
    SessionOptions::new().with_context_length(options.context.map(usize::from))
}

/// The best device that can be used: CUDA before CoreML before the processor. Where none can, the processor's error says why.
fn best_device(options: &EngineOptions, output: &Output) -> Result<Device> {
    let backend = tandem::backend(options.weights.backend, options.onnx.library.ort_library.clone())?;
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
