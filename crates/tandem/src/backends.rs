//! The backends of this build: which there are, what they need set up, what they keep, and what they say of themselves.
//!
//! Most programs need none of this: [`load`](crate::load) takes the default backend. This file is the only one that asks which features
//! the build has.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tandem_core::cache;
use tandem_core::files::ModelFiles;
use tandem_core::training::TrainableModel;
use tandem_core::{Backend, BackendKind, DType, Device, Error, ExportOptions, LoadOptions, Model, Remedy, Result};
use tandem_hub::FileSelector;

pub use tandem_core::DeviceReport;
pub use tandem_core::backend::{ComputeUnits, CoreMlFormat, CoreMlOptions, Placement, WeightFile, WeightType};
pub use tandem_core::export::{CachedInfo, CachedKind, Exported, GraphFormat, GraphOutputs, RemovedEntries};

/// Every backend that there is, in this build or in another, the default first.
pub const KNOWN_BACKENDS: [BackendKind; 2] = [BackendKind::Onnx, BackendKind::Candle];

/// What [`setup`] is to do.
#[derive(Clone, Debug, Default)]
pub struct SetupOptions {
    /// A wheel to take ONNX Runtime's library from, instead of a download.
    pub wheel: Option<PathBuf>,
    /// Obtain it even when it is there.
    pub force: bool,
}

/// What [`setup`] did.
#[derive(Clone, Debug)]
pub struct SetupReport {
    /// The library, absolute.
    pub library: PathBuf,
    /// The release of ONNX Runtime.
    pub version: String,
    /// Whether the right library was there before, and nothing was done.
    pub already_there: bool,
}

/// What was made of checkpoints and is kept for the next load: graphs for ONNX Runtime, quantised weights for candle.
#[derive(Clone, Debug)]
pub struct CachedEntries {
    /// Where they are.
    pub directory: PathBuf,
    /// How large they may be together before those used longest ago are removed.
    pub limit: u64,
    /// Each of them, those that were used longest ago first.
    pub entries: Vec<CachedInfo>,
}

/// The backends that this build has, the default first.
pub fn compiled() -> Vec<BackendKind> {
    let mut kinds = Vec::new();
    if cfg!(feature = "onnx") {
        kinds.push(BackendKind::Onnx);
    }
    if cfg!(feature = "candle") {
        kinds.push(BackendKind::Candle);
    }
    kinds
}

/// The backend that is used where none is asked for: the first of this build.
pub fn default_backend() -> BackendKind {
    compiled().first().copied().unwrap_or(KNOWN_BACKENDS[0])
}

/// The backend `kind`, or the default one. `ort_library` names ONNX Runtime's library in the place of the one that is found.
///
/// # Errors
/// [`Error::BackendNotCompiled`] when this build has none of that kind.
pub fn backend(kind: Option<BackendKind>, ort_library: Option<PathBuf>) -> Result<Box<dyn Backend>> {
    match kind.unwrap_or_else(default_backend) {
        #[cfg(feature = "onnx")]
        BackendKind::Onnx => Ok(Box::new(tandem_backend_onnx::OnnxBackend::new(ort_library))),
        #[cfg(feature = "candle")]
        BackendKind::Candle => Ok(Box::new(tandem_backend_candle::CandleBackend::new())),
        other => {
            let _ = ort_library;
            Err(not_compiled(other))
        }
    }
}

/// Chooses the files that the backend `kind` needs at `dtype`; candle's are known without it: the weights as published.
pub fn file_selector(kind: BackendKind, dtype: Option<DType>) -> FileSelector {
    match backend(Some(kind), None) {
        Ok(backend) => FileSelector::new(move |listing| backend.select_files(listing, dtype)),
        Err(_) if kind == BackendKind::Candle => FileSelector::new(move |listing| listing.weights(dtype)),
        Err(_) => FileSelector::new(move |_| Err(not_compiled(kind))),
    }
}

/// The checkpoint of `files` in candle-transformers' own model, as a peer to measure against; in f32, on the processor.
///
/// # Errors
/// [`Error::BackendNotCompiled`] in a build without candle, [`Error::Unsupported`] for what this peer is not measured with.
pub fn peer(files: &ModelFiles, options: &LoadOptions) -> Result<Arc<dyn Model>> {
    #[cfg(feature = "candle")]
    return tandem_backend_candle::load_transformers(files, options);
    #[cfg(not(feature = "candle"))]
    {
        let _ = (files, options);
        Err(not_compiled(BackendKind::Candle))
    }
}

/// The model of `files` to train adapters beside, on candle.
///
/// # Errors
/// [`Error::BackendNotCompiled`] in a build without candle, [`Error::Unsupported`] for what cannot be trained.
pub fn trainable(files: &ModelFiles, options: &LoadOptions) -> Result<Box<dyn TrainableModel>> {
    #[cfg(feature = "candle")]
    return tandem_backend_candle::trainable(files, options);
    #[cfg(not(feature = "candle"))]
    {
        let _ = (files, options);
        Err(not_compiled(BackendKind::Candle))
    }
}

/// Does what must be done while the process has one thread: ONNX Runtime's telemetry is switched off by a variable of the process.
///
/// Loading does it too while there is one thread. A program that has others by then calls this first thing in `main`, or has
/// `ORT_DISABLE_TELEMETRY=1` in its environment; else loading with ONNX Runtime is an error that says so.
///
/// # Safety
/// No other thread may read or write the variables of the process meanwhile, in Rust or in C.
#[expect(unsafe_code, reason = "a variable of the process is set")]
pub unsafe fn prepare_process() {
    #[cfg(feature = "onnx")]
    // SAFETY: the caller promises it.
    unsafe {
        tandem_backend_onnx::library::switch_telemetry_off();
    }
}

/// The library of ONNX Runtime that is used: `explicit`, or the one that is found.
///
/// # Errors
/// [`Error::BackendNotCompiled`] in a build without ONNX Runtime, [`Error::EngineLibrary`] when there is none that can be used.
pub fn ort_library(explicit: Option<&Path>) -> Result<PathBuf> {
    #[cfg(feature = "onnx")]
    return tandem_backend_onnx::library::find(explicit);
    #[cfg(not(feature = "onnx"))]
    {
        let _ = explicit;
        Err(not_compiled(BackendKind::Onnx))
    }
}

/// The release of ONNX Runtime that this process runs; `None` before it has started, and in a build without it.
pub fn ort_version() -> Option<String> {
    #[cfg(feature = "onnx")]
    return tandem_backend_onnx::library::runtime_version();
    #[cfg(not(feature = "onnx"))]
    None
}

/// What was made of checkpoints and is kept; `None` for a user without a home.
///
/// # Errors
/// [`Error::InvalidOption`] when `TANDEM_CACHE_SIZE` is not a size.
pub fn cached_entries() -> Result<Option<CachedEntries>> {
    let Some(directory) = cache::directory(None) else { return Ok(None) };
    Ok(Some(CachedEntries { limit: cache::limit()?, entries: cache::list(&directory), directory }))
}

/// Removes what is kept and no process uses. What is needed again is made again.
///
/// # Errors
/// [`Error::BadFile`] when it cannot be removed.
pub fn remove_cached_entries() -> Result<RemovedEntries> {
    cache::directory(None).map_or_else(|| Ok(RemovedEntries::default()), |directory| cache::clear(&directory))
}

/// Makes ONNX Runtime's library available to this user; `progress` is told every step as a line for people.
///
/// # Errors
/// [`Error::BackendNotCompiled`] in a build without ONNX Runtime; [`Error::EngineLibrary`] and [`Error::Unsupported`] say why it
/// cannot be had, and what else can be done.
#[cfg(feature = "onnx")]
pub fn setup(options: &SetupOptions, progress: &mut dyn FnMut(&str)) -> Result<SetupReport> {
    use tandem_backend_onnx::setup;
    let SetupOptions { wheel, force } = options.clone();
    let options = setup::SetupOptions { wheel, force, ..setup::SetupOptions::default() };
    let report = setup::run(&options, &mut |event| progress(&event.to_string()))?;
    Ok(SetupReport { library: report.library, version: report.version.into(), already_there: report.already_there })
}

/// Says that this build has no use for ONNX Runtime's library.
///
/// # Errors
/// [`Error::BackendNotCompiled`].
#[cfg(not(feature = "onnx"))]
pub fn setup(_options: &SetupOptions, _progress: &mut dyn FnMut(&str)) -> Result<SetupReport> {
    Err(not_compiled(BackendKind::Onnx))
}

/// Exports the checkpoint of `files` to a directory that ONNX Runtime, onnxruntime-genai and [`load`](crate::load) take as it is: graph,
/// weights, a `genai_config.json`, and copies of configuration and tokenizer. The directory appears whole or not at all; memory
/// holds a few of the largest weights.
///
/// ```no_run
/// use tandem::{DType, ExportOptions, export, find};
///
/// # fn main() -> tandem::Result<()> {
/// let exported = export(&find("./qwen3-0.6b")?, &ExportOptions::new("./qwen3-0.6b-int4", DType::Int4))?;
/// println!("{} files", exported.files.len());
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::BackendNotCompiled`] in a build without ONNX Runtime. [`Error::BadFile`] and [`Error::BadField`] name what is wrong with
/// the checkpoint, the directory or the room on the disk, [`Error::Unsupported`] a model or dtype that no graph can be made of, and
/// [`Error::Cancelled`] says that the token was set.
#[cfg(feature = "onnx")]
pub fn export(files: &ModelFiles, options: &ExportOptions) -> Result<Exported> {
    tandem_backend_onnx::export::export(files, options)
}

/// Says that this build makes no graphs.
///
/// # Errors
/// [`Error::BackendNotCompiled`].
#[cfg(not(feature = "onnx"))]
pub fn export(_files: &ModelFiles, _options: &ExportOptions) -> Result<Exported> {
    Err(not_compiled(BackendKind::Onnx))
}

/// Has `device` of the backend `kind` compute something small, and gives the name of what ran it: ONNX Runtime runs a graph of one node;
/// candle, which has no graphs, one token of the built-in model.
///
/// # Errors
/// The backend's own reason, which the list of its [devices](Backend::devices) need not know.
pub fn check_device(kind: BackendKind, ort_library: Option<&Path>, device: Device) -> Result<String> {
    match kind {
        #[cfg(feature = "onnx")]
        BackendKind::Onnx => Ok(tandem_backend_onnx::device_check::check_device(ort_library, device)?.provider),
        #[cfg(feature = "candle")]
        BackendKind::Candle => {
            let load = LoadOptions::new().with_device(device);
            let model = tandem_backend_candle::CandleBackend::new().load(&crate::demo::files()?, &load)?;
            let logits = model.new_session(&Default::default())?.append(&[0], tandem_core::LogitsRequest::Last(1))?;
            match logits.values().iter().all(|value| value.is_finite()) {
                true => Ok("candle".into()),
                false => Err(Error::BadLogits { token: 0, value: f32::NAN, n_tokens: 1 }),
            }
        }
        other => {
            let _ = (ort_library, device);
            Err(not_compiled(other))
        }
    }
}

fn not_compiled(backend: BackendKind) -> Error {
    let have = match compiled().as_slice() {
        [] => "this build has no backend at all".into(),
        kinds => format!("this build has: {}", kinds.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    };
    Error::BackendNotCompiled { backend, hint: [Remedy::EnableFeature(backend.to_string()), Remedy::Note(have)].into() }
}
