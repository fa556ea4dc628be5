//! What a caller chooses: engine, device, dtype, threads.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

use crate::cancel::CancelToken;
use crate::error::{Error, Result};
use crate::progress::Progress;

/// An engine. Every kind is known in every build; one that is not compiled in is an error that names its feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BackendKind {
    /// ONNX Runtime.
    Onnx,
    /// candle.
    Candle,
    /// The reference implementation of the conformance suite; it cannot be asked for by name.
    Fake,
}

impl fmt::Display for BackendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Onnx => "onnx",
            Self::Candle => "candle",
            Self::Fake => "fake",
        })
    }
}

impl FromStr for BackendKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "onnx" => Ok(Self::Onnx),
            "candle" => Ok(Self::Candle),
            _ => Err(Error::invalid_option("backend", text, "is none of `onnx`, `candle`")),
        }
    }
}

/// Where a model runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Device {
    /// The processor.
    #[default]
    Cpu,
    /// An NVIDIA GPU by its index.
    Cuda(u32),
    /// Apple's CoreML.
    CoreMl,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
            Self::CoreMl => f.write_str("coreml"),
        }
    }
}

impl FromStr for Device {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let index = |digits: &str| digits.parse().ok().map(Self::Cuda);
        match text {
            "cpu" => Some(Self::Cpu),
            "coreml" => Some(Self::CoreMl),
            "cuda" => Some(Self::Cuda(0)),
            _ => text.strip_prefix("cuda:").and_then(index),
        }
        .ok_or_else(|| {
            let problem = match text {
                // candle has it, with faults in its attention that give wrong text and no error (candle #3388).
                "metal" => "is not supported: on Apple's machines `coreml` with the backend `onnx` takes its place",
                _ => "is none of `cpu`, `cuda`, `cuda:N`, `coreml`",
            };
            Error::invalid_option("device", text, problem)
        })
    }
}

/// The dtype of a model's weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit floating point.
    F32,
    /// 16-bit floating point, IEEE.
    F16,
    /// 16-bit floating point, brain.
    Bf16,
    /// 8-bit integers with scales.
    Int8,
    /// 4-bit integers with a scale for each block.
    Int4,
}

impl DType {
    /// Every dtype, the most precise first.
    pub const ALL: [Self; 5] = [Self::F32, Self::F16, Self::Bf16, Self::Int8, Self::Int4];
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        })
    }
}

impl FromStr for DType {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|dtype| dtype.to_string() == text)
            .ok_or_else(|| Error::invalid_option("dtype", text, "is none of `f32`, `f16`, `bf16`, `int8`, `int4`"))
    }
}

/// A device and whether it can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceReport {
    /// The device.
    pub device: Device,
    /// What it is, in words: a processor's or a GPU's name, a provider.
    pub description: String,
    /// `None` when it can be used; otherwise why not, in the engine's words.
    pub unusable: Option<String>,
    /// What to do about it, when something can be done.
    pub hint: Option<String>,
}

/// Threads that an engine computes with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThreadOptions {
    /// How many; `None` is [`std::thread::available_parallelism`], which honours affinity and control groups.
    pub count: Option<NonZeroUsize>,
    /// Whether idle threads spin for the next operator: a little faster, at the price of a busy core between tokens.
    pub spin: bool,
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

/// Settings of CoreML.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CoreMlOptions {
    /// Which units may be used.
    pub compute_units: ComputeUnits,
    /// Use the older NeuralNetwork format in place of MLProgram.
    pub neural_network_format: bool,
    /// Take only nodes whose shapes are fixed.
    pub static_shapes: bool,
    /// Take nodes inside control-flow subgraphs as well.
    pub subgraphs: bool,
    /// Where compiled models are kept.
    pub cache_dir: Option<PathBuf>,
}

/// In what the products with quantised weights are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Numerics {
    /// Activations are rounded to 8 bits where the model leaves it open: several times faster on a processor.
    #[default]
    Fast,
    /// Activations stay floats.
    Exact,
}

/// How to load a model.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// Exactly this device, or an error.
    pub device: Device,
    /// Exactly this dtype, or an error; `None` takes the most precise that the model's files have.
    pub dtype: Option<DType>,
    /// Exactly this graph file in the place of one chosen by dtype.
    pub graph: Option<PathBuf>,
    /// In what products with quantised weights are computed.
    pub numerics: Numerics,
    /// Threads.
    pub threads: ThreadOptions,
    /// The least share, 0 to 1, of the graph's nodes that must run on the device.
    pub require_device: Option<f64>,
    /// Settings of CoreML, used with [`Device::CoreMl`].
    pub coreml: CoreMlOptions,
    /// Leaves weights in pages of the usual size: see [`huge_pages`](crate::huge_pages).
    pub small_pages: bool,
    /// Where a backend keeps what it makes of a checkpoint, in the place of the user's cache.
    pub cache: Option<PathBuf>,
    /// Who is told how far the work is when a backend must make something of a checkpoint first.
    pub progress: Progress,
    /// Ends such work from another thread; nothing half made is left.
    pub cancel: CancelToken,
}

/// How to open a session.
#[derive(Clone, Debug, Default)]
pub struct SessionOptions {
    /// The most tokens that it must hold; `None` is the model's own limit. Memory grows with use, not with this.
    pub context_length: Option<usize>,
    /// Ends a running `append` from another thread.
    pub cancel: CancelToken,
}
