//! What a caller chooses: engine, device, dtype, threads.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::adapter::AdaptedModule;
use crate::cancel::CancelToken;
use crate::error::Error;
use crate::named::named;
use crate::primitives::{DType, Device, Kernels, KvDType, Numerics, Purpose};
use crate::progress::Progress;
use crate::remedy::Remedies;
use crate::setters::setters;

/// A device and whether it can be used.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct DeviceReport {
    /// The device.
    pub device: Device,
    /// What it is, in words: a processor's or a GPU's name, a provider.
    pub description: String,
    /// `None` when it can be used; otherwise why not, in the engine's words.
    pub unusable: Option<String>,
    /// What to do about it, when something can be done.
    pub hint: Option<Remedies>,
}

impl DeviceReport {
    /// A device that can be used.
    pub fn usable(device: Device, description: impl Into<String>) -> Self {
        Self { device, description: description.into(), unusable: None, hint: None }
    }

    /// A device that cannot be used because of `error`.
    pub fn unusable(device: Device, description: impl Into<String>, error: Error) -> Self {
        let hint = error.hint();
        let reason = match error {
            Error::DeviceUnavailable { reason, .. } => reason,
            other => other.to_string(),
        };
        Self { device, description: description.into(), unusable: Some(reason), hint }
    }
}

/// Which of Apple's units CoreML may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ComputeUnits {
    /// All of them.
    #[default]
    All,
    /// Processor and neural engine.
    CpuAndNeuralEngine,
    /// Processor and GPU.
    CpuAndGpu,
    /// The processor alone.
    CpuOnly,
}

named!(ComputeUnits, "coreml_units", {
    All: "all",
    CpuAndNeuralEngine: "cpu-and-neural-engine",
    CpuAndGpu: "cpu-and-gpu",
    CpuOnly: "cpu-only",
});

/// The format of the models that CoreML compiles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CoreMlFormat {
    /// The newer one.
    #[default]
    MlProgram,
    /// The older one.
    NeuralNetwork,
}

named!(CoreMlFormat, "coreml_format", { MlProgram: "mlprogram", NeuralNetwork: "neural-network" });

/// Settings of CoreML.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct CoreMlOptions {
    /// Which units may be used.
    pub compute_units: ComputeUnits,
    /// The format of compiled models.
    pub format: CoreMlFormat,
    /// Take only nodes whose shapes are fixed.
    pub static_shapes: bool,
    /// Take nodes inside control-flow subgraphs as well.
    pub subgraphs: bool,
    /// Where compiled models are kept.
    pub cache_dir: Option<PathBuf>,
}

setters!(CoreMlOptions {
    with_compute_units: compute_units: ComputeUnits,
    with_format: format: CoreMlFormat,
    with_static_shapes: static_shapes: bool,
    with_subgraphs: subgraphs: bool,
    with_cache_dir: cache_dir: Option<PathBuf>,
});

/// What concerns ONNX Runtime alone.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct OnnxOptions {
    /// Its library, in the place of the one that is found. A process keeps the first one that it loads.
    pub library: Option<PathBuf>,
    /// Exactly this graph file in the place of one chosen by dtype.
    pub graph: Option<PathBuf>,
    /// The least share, 0 to 1, of the graph's nodes that must run on the device.
    pub require_device: Option<f64>,
    /// Whether idle threads spin for the next operator: a little faster, at the price of a busy core between tokens.
    pub spin: bool,
    /// Whose kernels compute products and attention; `None` is [`Kernels::Tandem`] on a processor whose vector instructions they use, and
    /// [`Kernels::Runtime`] elsewhere. Requesting Tandem's for another device than the processor is an error.
    pub kernels: Option<Kernels>,
    /// The lengths to which the texts of an encoder are padded, each in a run of its own, so that runs have few shapes; a longer text is
    /// padded to a multiple of the largest. `None` pads to [`COREML_BUCKETS`](Self::COREML_BUCKETS) on CoreML, where the graph allows it,
    /// and not at all elsewhere. Never run on CoreML.
    pub buckets: Option<Vec<usize>>,
    /// Settings of CoreML, used with [`Device::CoreMl`].
    pub coreml: CoreMlOptions,
    /// Modules that adapters will change, as [`AdapterSum::modules`](crate::adapter::AdapterSum::modules) lists them: the graph gets inputs for
    /// them as it is loaded. Without it that takes a second load of the graph at the first adapter, and its weights are in memory twice.
    pub adapted_modules: Vec<AdaptedModule>,
}

impl OnnxOptions {
    /// Lengths to which texts are padded on CoreML, which compiles a model for each shape.
    pub const COREML_BUCKETS: [usize; 5] = [32, 64, 128, 256, 512];

    /// The lengths to which texts are padded on `device`.
    pub fn buckets_on(&self, device: Device) -> Option<&[usize]> {
        let by_default = (device == Device::CoreMl).then_some(&Self::COREML_BUCKETS[..]);
        self.buckets.as_deref().or(by_default)
    }
}

setters!(OnnxOptions {
    with_library: library: Option<PathBuf>,
    with_graph: graph: Option<PathBuf>,
    with_require_device: require_device: Option<f64>,
    with_spin: spin: bool,
    with_kernels: kernels: Option<Kernels>,
    with_buckets: buckets: Option<Vec<usize>>,
    with_coreml: coreml: CoreMlOptions,
    with_adapted_modules: adapted_modules: Vec<AdaptedModule>,
});

/// How to load a model.
///
/// ```
/// use tandem_core::{DType, LoadOptions};
///
/// let options = LoadOptions::new().with_dtype(DType::Int4);
/// assert_eq!(options.dtype, Some(DType::Int4));
/// ```
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct LoadOptions {
    /// Exactly this device, or an error.
    pub device: Device,
    /// Exactly this dtype, or an error; `None` takes the most precise that the model's files have.
    pub dtype: Option<DType>,
    /// What it is loaded for.
    pub purpose: Purpose,
    /// In what products with quantised weights are computed.
    pub numerics: Numerics,
    /// In what keys and values are held, or an error; `None` is [`KvDType::by_default`] on a processor whose kernels are ours, and elsewhere
    /// what the device or the graph has. A model that only encodes holds none.
    pub kv_dtype: Option<KvDType>,
    /// Threads to compute with; `None` is [`std::thread::available_parallelism`], which honours affinity and control groups.
    pub threads: Option<NonZeroUsize>,
    /// Collapses what the whole process maps during the load into huge pages, and moves weights that Tandem's operators read in a file there, which
    /// speeds up decoding: see [`huge_pages`](crate::huge_pages). It reads `/proc/self/maps`, and touches memory of other threads; weights that were
    /// moved are not shared with other processes. Without it they share quantised weights.
    pub huge_pages: bool,
    /// Where a backend keeps what it makes of a checkpoint, in the place of the user's cache.
    pub cache: Option<PathBuf>,
    /// What concerns ONNX Runtime alone.
    pub onnx: OnnxOptions,
    /// Who is told how far the work is when a backend must make something of a checkpoint first.
    #[serde(skip)]
    pub progress: Progress,
    /// Ends such work from another thread; nothing half made is left.
    #[serde(skip)]
    pub cancel: CancelToken,
}

setters!(LoadOptions {
    with_device: device: Device,
    with_dtype: dtype: Option<DType>,
    with_purpose: purpose: Purpose,
    with_numerics: numerics: Numerics,
    with_kv_dtype: kv_dtype: Option<KvDType>,
    with_threads: threads: Option<NonZeroUsize>,
    with_huge_pages: huge_pages: bool,
    with_cache: cache: Option<PathBuf>,
    with_onnx: onnx: OnnxOptions,
    with_progress: progress: Progress,
    with_cancel: cancel: CancelToken,
});

/// How to open a session.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct SessionOptions {
    /// The most tokens that it must hold; `None` is the model's own limit. Memory grows with use, not with this.
    pub context_length: Option<usize>,
    /// Ends a running `append` from another thread.
    pub cancel: CancelToken,
}

setters!(SessionOptions { with_context_length: context_length: Option<usize>, with_cancel: cancel: CancelToken });
