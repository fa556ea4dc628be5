//! What an export of a checkpoint to a graph is to make, what it made, and what is kept of that.

use std::path::PathBuf;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::adapter::ScaledAdapter;
use crate::cancel::CancelToken;
use crate::named::named;
use crate::primitives::DType;
use crate::progress::Progress;

/// What an export is to make.
#[derive(Clone, Debug)]
pub struct ExportOptions {
    /// The directory to make.
    pub directory: PathBuf,
    /// The format of the graph in it.
    pub format: GraphFormat,
    /// Adapters whose sum is merged into the weights, so that the graph costs nothing more.
    pub adapters: Vec<ScaledAdapter>,
    /// Put it in the place of an earlier export.
    pub replace: bool,
    /// Who is told how far it is.
    pub progress: Progress,
    /// Ends it from another thread; nothing half made is left.
    pub cancel: CancelToken,
}

/// What was made of a checkpoint and is kept in the [cache](crate::cache) for the next load.
#[derive(Clone, Debug)]
pub struct CachedInfo {
    /// The directory.
    pub directory: PathBuf,
    /// What it is.
    pub kind: CachedKind,
    /// The checkpoint that it was made of, as far as it says.
    pub source: Option<String>,
    /// The dtype of its weights, as far as it says.
    pub dtype: Option<String>,
    /// What it takes on the disk.
    pub bytes: u64,
    /// When it was used last.
    pub used: SystemTime,
}

/// What is kept in the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CachedKind {
    /// A graph, for ONNX Runtime.
    Graph,
    /// Quantised weights, for candle.
    Weights,
}

/// What a removal of [entries of the cache](CachedInfo) did.
#[derive(Clone, Debug, Default)]
pub struct RemovedEntries {
    /// Those that are gone.
    pub removed: Vec<CachedInfo>,
    /// Those that a process uses, which stay.
    pub in_use: Vec<CachedInfo>,
}

/// How a graph holds its weights, and what it takes and gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GraphFormat {
    /// The dtype of the layers' projections: f32, f16, int8 or int4.
    pub dtype: DType,
    /// That of the head, and of the embedding where they are one.
    pub head_dtype: DType,
    /// Inputs of a quantised matrix that share a scale: 16, 32, 64 or 128.
    pub block_size: usize,
    /// Each block has a zero point besides its scale.
    pub zero_points: bool,
    /// What the graph computes.
    pub outputs: GraphOutputs,
    /// The projections have inputs for a low-rank adapter, of any rank; without one they compute what they would without the inputs.
    pub adapter_inputs: bool,
}

/// What a graph computes besides the KV cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum GraphOutputs {
    /// Logits, for generation.
    #[default]
    Logits,
    /// The hidden states after the last norm, for embeddings; the head is left out.
    HiddenStates,
    /// Both.
    Both,
}

named!(GraphOutputs, "outputs", { Logits: "logits", HiddenStates: "hidden-states", Both: "both" });

/// What an export made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// The directory.
    pub directory: PathBuf,
    /// The graph in it.
    pub graph: PathBuf,
    /// Every file in it with its size in bytes, by name.
    pub files: Vec<(String, u64)>,
}

impl ExportOptions {
    /// A new `directory` with weights of `dtype`.
    pub fn new(directory: impl Into<PathBuf>, dtype: DType) -> Self {
        Self {
            directory: directory.into(),
            format: GraphFormat::of(dtype),
            adapters: Vec::new(),
            replace: false,
            progress: Progress::default(),
            cancel: CancelToken::new(),
        }
    }
}

impl GraphFormat {
    /// Everything in `dtype`, quantised symmetrically in blocks of 32 inputs, with logits: what is made when nothing else is said.
    pub fn of(dtype: DType) -> Self {
        Self {
            dtype,
            head_dtype: dtype,
            block_size: 32,
            zero_points: false,
            outputs: GraphOutputs::Logits,
            adapter_inputs: false,
        }
    }
}
