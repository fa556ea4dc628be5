//! The values that cross the contract.

use super::{BackendKind, Capabilities, Capability, DType, Device, TokenId, WeightFile};
use crate::adapter::{AdapterOrigin, ScaledAdapter};
use crate::error::{Error, Result};

/// Several sequences without padding: `ids` is their concatenation, `lengths` says where each ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenBatch {
    ids: Vec<TokenId>,
    lengths: Vec<usize>,
    types: Option<Vec<u32>>,
}

impl TokenBatch {
    /// # Errors
    /// [`Error::EmptyPrompt`] when there is no sequence or one of them is empty.
    pub fn new<S: AsRef<[TokenId]>>(sequences: &[S]) -> Result<Self> {
        let lengths: Vec<usize> = sequences.iter().map(|s| s.as_ref().len()).collect();
        if lengths.is_empty() || lengths.contains(&0) {
            return Err(Error::EmptyPrompt);
        }
        Ok(Self { ids: sequences.iter().flat_map(|s| s.as_ref()).copied().collect(), lengths, types: None })
    }

    /// With the type of each token, `[sum(lengths)]`: of a pair of texts the tokens of the second have type 1. They are checked when
    /// the batch is encoded.
    #[must_use]
    pub fn with_types(self, types: Vec<u32>) -> Self {
        Self { types: Some(types), ..self }
    }

    /// The ids of every sequence, one after the other: `[sum(lengths)]`.
    pub fn ids(&self) -> &[TokenId] {
        &self.ids
    }

    /// The number of tokens of each sequence.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// The type of each token, in the order of [`ids`](Self::ids); `None` stands for type 0.
    pub fn types(&self) -> Option<&[u32]> {
        self.types.as_deref()
    }

    /// Each sequence in turn.
    pub fn sequences(&self) -> impl Iterator<Item = &[TokenId]> {
        let mut rest = self.ids.as_slice();
        self.lengths.iter().map(move |&n| {
            let (sequence, tail) = rest.split_at(n);
            rest = tail;
            sequence
        })
    }
}

/// Hidden states after the final norm, ragged like the [`TokenBatch`] they came from: `[sum(lengths), hidden_size]`.
#[derive(Clone, Debug, PartialEq)]
pub struct HiddenStates {
    /// Row-major values.
    pub values: Vec<f32>,
    /// The size of a row.
    pub hidden_size: usize,
    /// The number of tokens of each sequence.
    pub lengths: Vec<usize>,
}

/// One row for each sequence of a [`TokenBatch`], `[sequences, width]`: a graph's own embedding, or the logits of a classifier.
#[derive(Clone, Debug, PartialEq)]
pub struct PooledRows {
    /// Row-major values.
    pub values: Vec<f32>,
    /// The size of a row.
    pub width: usize,
}

impl PooledRows {
    /// Each row in turn.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.values.chunks_exact(self.width.max(1))
    }
}

/// What a graph gives for each sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PooledOutput {
    /// What the graph calls it: `sentence_embedding`, `pooler_output`, `logits`.
    pub name: String,
    /// The size of a row.
    pub width: usize,
}

/// What one execution provider was given of a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The engine's name for the provider, such as `CPUExecutionProvider`.
    pub provider: String,
    /// How many nodes it runs.
    pub n_nodes: usize,
    /// Operator types with the number of nodes, the most frequent first.
    pub operators: Vec<(String, usize)>,
}

/// Weights that were stored in one type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightType {
    /// The type in the file's own words, such as `Q4_K`.
    pub stored: String,
    /// What they run as, such as `int8`.
    pub runs_as: String,
    /// How many tensors there are of it.
    pub n_tensors: usize,
}

/// An adapter that is applied to a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AppliedAdapter {
    /// Its name.
    pub name: String,
    /// How much of it is applied; 1 is what it was trained for.
    pub scale: f32,
    /// The SHA-256 of its weights' file, in hexadecimal; `None` for one made in memory.
    pub sha256: Option<String>,
    /// The model that it was trained on, as its files name it.
    pub base_model: Option<String>,
}

impl AppliedAdapter {
    /// What is known of `adapter`.
    pub fn of(adapter: &ScaledAdapter) -> Self {
        let ScaledAdapter { adapter, scale } = adapter;
        let AdapterOrigin { sha256, base_model, .. } = adapter.origin().clone();
        Self { name: adapter.name().into(), scale: *scale, sha256, base_model }
    }
}

/// A loaded model, as resolved.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ModelInfo {
    /// The reference that it was loaded by.
    pub name: String,
    /// The engine.
    pub backend: BackendKind,
    /// The engine's own version.
    pub engine_version: String,
    /// Where it runs. What each backend was ever run on is in README.md.
    pub device: Device,
    /// The dtype of the weights.
    pub dtype: DType,
    /// In what most of them lie in memory: `dtype`, or a narrower float in which they were published and that is widened, exactly, as
    /// it is read.
    pub memory_dtype: DType,
    /// The `model_type` of the configuration, such as `qwen2`.
    pub architecture: String,
    /// Decoder layers.
    pub n_layers: usize,
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Rows of the logits.
    pub vocab_size: usize,
    /// The most tokens that it holds: those that it was made for, or fewer where the engine is exact for fewer.
    pub max_context: usize,
    /// Token types that it tells apart; 0 where it has none, and every token has type 0.
    pub n_token_types: usize,
    /// Threads that the engine computes with.
    pub threads: usize,
    /// In what keys and values are held; `None` for a model that does not generate.
    pub kv_dtype: Option<DType>,
    /// Bytes of KV cache for one token; 0 for a model that does not generate.
    pub kv_bytes_per_token: usize,
    /// What it can do beyond the last logits.
    pub capabilities: Capabilities,
    /// What [`Model::encode_pooled`](super::Model::encode_pooled) gives.
    pub pooled_output: Option<PooledOutput>,
    /// How the weights were stored and what they run as, for files of several types; empty where `dtype` says it all.
    pub weight_types: Vec<WeightType>,
    /// Where the weights came from.
    pub weight_files: Vec<WeightFile>,
    /// The adapters that are applied. The layer around every model fills it; a backend leaves it empty.
    pub adapters: Vec<AppliedAdapter>,
    /// Which provider runs what; empty where an engine does not split a model.
    pub placement: Vec<Placement>,
    /// The share of its nodes, 0 to 1, that run on the device.
    pub device_share: f64,
    /// Operators with much arithmetic that the processor runs although the device is another, with their numbers.
    pub left_to_processor: Vec<(String, usize)>,
}

impl ModelInfo {
    /// Of a model whose backend says the rest by its fields.
    pub fn new(name: impl Into<String>, backend: BackendKind, engine_version: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            backend,
            engine_version: engine_version.into(),
            device: Device::Cpu,
            dtype: DType::F32,
            memory_dtype: DType::F32,
            architecture: String::new(),
            n_layers: 0,
            hidden_size: 0,
            vocab_size: 0,
            max_context: 0,
            n_token_types: 0,
            threads: 1,
            kv_dtype: None,
            kv_bytes_per_token: 0,
            capabilities: Capabilities::default(),
            pooled_output: None,
            weight_types: Vec::new(),
            weight_files: Vec::new(),
            adapters: Vec::new(),
            placement: Vec::new(),
            device_share: 1.0,
            left_to_processor: Vec::new(),
        }
    }

    /// The error for something that this model cannot do.
    pub fn unsupported(&self, what: &str) -> Error {
        Error::Unsupported {
            what: what.into(),
            reason: format!("model `{}` on backend `{}` cannot do it", self.name, self.backend),
            hint: None,
        }
    }

    /// The error for a capability that this model does not have.
    pub(super) fn without(&self, capability: Capability) -> Error {
        self.unsupported(capability.description())
    }
}
