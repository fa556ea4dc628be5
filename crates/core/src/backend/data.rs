//! The values that cross the contract.

use std::path::PathBuf;

use super::{BackendKind, DType, Device, TokenId};
use crate::error::{Error, Result};

/// Which positions' logits [`Session::append`](super::Session::append) returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogitsRequest {
    /// None: the tokens only enter the cache.
    None,
    /// Those of the last token: `[1, vocab_size]`.
    Last,
    /// Those of every token: `[n_tokens, vocab_size]`.
    All,
}

/// Scores before softmax, `[n, vocab_size]`, row-major.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Logits {
    values: Vec<f32>,
    vocab_size: usize,
}

impl Logits {
    /// Takes `values` of shape `[values.len() / vocab_size, vocab_size]`.
    ///
    /// # Panics
    /// When `values` is no whole number of rows: a backend's own mistake.
    pub fn new(values: Vec<f32>, vocab_size: usize) -> Self {
        assert!(vocab_size > 0 && values.len().is_multiple_of(vocab_size), "logits are whole rows");
        Self { values, vocab_size }
    }

    /// No rows.
    pub fn none() -> Self {
        Self::default()
    }

    /// The number of rows.
    pub fn n_rows(&self) -> usize {
        self.values.len().checked_div(self.vocab_size).unwrap_or(0)
    }

    /// Row `i`: `[vocab_size]`.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.values[i * self.vocab_size..(i + 1) * self.vocab_size]
    }

    /// The last row, if there is one.
    pub fn last(&self) -> Option<&[f32]> {
        self.n_rows().checked_sub(1).map(|i| self.row(i))
    }

    /// All values, row-major.
    pub fn values(&self) -> &[f32] {
        &self.values
    }
}

/// Several sequences without padding: `ids` is their concatenation, `lengths` says where each ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenBatch {
    ids: Vec<TokenId>,
    lengths: Vec<usize>,
}

impl TokenBatch {
    /// # Errors
    /// [`Error::EmptyPrompt`] when there is no sequence or one of them is empty.
    pub fn new<S: AsRef<[TokenId]>>(sequences: &[S]) -> Result<Self> {
        let lengths: Vec<usize> = sequences.iter().map(|s| s.as_ref().len()).collect();
        if lengths.is_empty() || lengths.contains(&0) {
            return Err(Error::EmptyPrompt);
        }
        Ok(Self { ids: sequences.iter().flat_map(|s| s.as_ref()).copied().collect(), lengths })
    }

    /// The ids of every sequence, one after the other: `[sum(lengths)]`.
    pub fn ids(&self) -> &[TokenId] {
        &self.ids
    }

    /// The number of tokens of each sequence.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
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

/// A low-rank adapter as published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoraAdapter {
    /// The directory or file.
    pub path: PathBuf,
}

/// Optional abilities. `Default` is none; a backend lists what a model has, and conformance tests both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// `append` can return [`LogitsRequest::All`].
    pub all_logits: bool,
    /// `rewind` to any length, not to zero only.
    pub rewind: bool,
    /// `encode` works.
    pub hidden_states: bool,
    /// `with_adapter` works.
    pub adapters: bool,
    /// `probe` works.
    pub probe: bool,
}

/// A file that weights came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightFile {
    /// Its name for people: a path, or the name inside the binary.
    pub name: String,
    /// Where it lies; `None` for one that is embedded.
    pub path: Option<PathBuf>,
    /// Its size in bytes.
    pub bytes: u64,
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

/// A loaded model, as resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelInfo {
    /// The reference that it was loaded by.
    pub name: String,
    /// The engine.
    pub backend: BackendKind,
    /// The engine's own version.
    pub engine_version: String,
    /// Where it runs. What each backend was ever run on is in README.md: candle on CUDA was not.
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
    /// Threads that the engine computes with.
    pub threads: usize,
    /// Bytes of KV cache for one token.
    pub kv_bytes_per_token: usize,
    /// What it can do beyond the last logits.
    pub capabilities: Capabilities,
    /// How the weights were stored and what they run as, for files of several types; empty where `dtype` says it all.
    pub weight_types: Vec<WeightType>,
    /// Where the weights came from.
    pub weight_files: Vec<WeightFile>,
    /// Which provider runs what; empty where an engine does not split a model.
    pub placement: Vec<Placement>,
    /// The share of its nodes, 0 to 1, that run on the device.
    pub device_share: f64,
}
