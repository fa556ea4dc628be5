//! From the weights of a checkpoint to a graph for ONNX Runtime: of a decoder over a KV cache, or of an encoder.
//!
//! The graph of a decoder follows what onnxruntime-genai's builder writes for its CPU engine, because those operators take the KV cache in
//! place: `com.microsoft.GroupQueryAttention` with rotation inside it, `SkipSimplifiedLayerNormalization`, `MatMulNBits`. Unlike its
//! graphs, these compute only kept positions after the last attention, unless all hidden states are output.
//!
//! `num_logits_to_keep` has a default, an initializer of the input's name, so that programs that do not know the input
//! (onnxruntime-genai) omit it and get all logits. ONNX Runtime warns that such a graph cannot be constant-folded; there is nothing to
//! fold.
//!
//! | input | type and shape |
//! |---|---|
//! | `input_ids` | int64 `[batch, tokens]` |
//! | `attention_mask` | int64 `[batch, past + tokens]`, ones, and zeros after the end of a shorter row |
//! | `past_key_values.N.key`, `.value` | float `[batch, kv_heads, past or capacity, head_dim]`, whose width is a multiple of 8 |
//! | `num_logits_to_keep` | int64 `[]`, 0 for all tokens, `n` for the last `n`; only with logits; 0 by default |
//! | `MODULE.lora_A.weight` | float `[inputs, rank]`; only with adapter inputs; of rank 0 by default |
//! | `MODULE.lora_B.weight` | float `[rank, outputs]`, the adapter's scale in it; likewise |
//!
//! `MODULE` is the name in transformers, `model.layers.0.mlp.gate_proj`; queries, keys and values are one module, `qkv_proj`, whose
//! adapter has their factors side by side in `A` and in blocks of `B`. Each module may have a rank of its own.
//!
//! | output | type and shape |
//! |---|---|
//! | `logits` | float `[batch, kept tokens, vocab_size]` |
//! | `hidden_states` | float `[batch, tokens, hidden_size]`, after the last norm |
//! | `present.N.key`, `.value` | float `[batch, kv_heads, past + tokens or capacity, head_dim]` |
//!
//! The graph of an encoder runs sequences of one length. Like published ones it has
//!
//! | input | type and shape |
//! |---|---|
//! | `input_ids` | int64 `[batch, tokens]` |
//! | `attention_mask` | int64 `[batch, tokens]`, zeros for padding at the end; only with [`EncoderSpec::has_mask`] |
//! | `token_type_ids` | int64 `[batch, tokens]`; only with more types than one |
//!
//! and the output `last_hidden_state`, float `[batch, tokens, hidden_size]`.

mod decoder;
mod encoder;
mod network;
mod plan;
mod quantize;
mod sink;
mod smoke_test;
mod spec;
mod weights;

use std::path::{Path, PathBuf};

pub use self::encoder::{
    Activation, EmbeddingSpec, EncoderLayer, EncoderSpec, Linear, Norm, NormKind, Norms, RelativeBias, Table,
};
pub use self::plan::{Needs, Spec, needs};
pub use self::smoke_test::smoke_test_graph;
pub use self::spec::{Blocks, BuildOptions, DecoderSpec, Outputs, RopeTable, WeightFormat};
pub use self::weights::{Weight, WeightType};
use crate::error::{Error, Result};

/// Why a weight could not be read.
pub type SourceError = Box<dyn std::error::Error + Send + Sync>;

/// Returns the weight of this name, as the checkpoint has it. A weight may be requested more than once.
pub type WeightSource<'s, 'w> = dyn FnMut(&str) -> std::result::Result<Weight<'w>, SourceError> + 's;

/// Whether to stop with [`Error::Interrupted`]; called many times a second, by several threads.
pub type Interrupted<'i> = dyn Fn() -> bool + Sync + 'i;

/// The name of the graph in an exported directory.
pub const GRAPH_FILE: &str = "model.onnx";
/// The name of the weights in an exported directory, and in the graph of [`build`].
pub const DATA_FILE: &str = "model.onnx.data";

/// A graph and its weights in memory.
#[derive(Clone, Debug)]
pub struct Built {
    /// The ONNX file, whose weights are in an external file [`DATA_FILE`].
    pub graph: Vec<u8>,
    /// The content of that file.
    pub data: Vec<u8>,
}

/// Builds a graph in memory, with its weights in a separate file.
///
/// # Errors
/// When the specification is inconsistent, or a weight is missing or has another shape than the specification says.
pub fn build<'s>(spec: impl Into<Spec<'s>>, options: &BuildOptions, weights: &mut WeightSource<'_, '_>) -> Result<Built> {
    let mut sink = sink::External::new(DATA_FILE.into(), Vec::new());
    let graph = plan::run(spec.into(), options, weights, &mut sink, &|| false)?;
    Ok(Built { graph, data: sink.into_inner() })
}

/// Builds a graph in memory as one ONNX file, which must stay below 2 GiB.
///
/// # Errors
/// As [`build`], and when the file would have more than 2 GiB.
pub fn build_inline<'s>(
    spec: impl Into<Spec<'s>>,
    options: &BuildOptions,
    weights: &mut WeightSource<'_, '_>,
) -> Result<Vec<u8>> {
    let spec = spec.into();
    let graph = plan::run(spec, options, weights, &mut sink::Inline, &|| false)?;
    match graph.len() as u64 > crate::graph::MAX_PROTO_BYTES {
        true => Err(Error::bad_file(spec.name(), "the graph would have more than 2 GiB")
            .with_hint("keep the weights in a file of their own")),
        false => Ok(graph),
    }
}

/// Builds a graph into `directory`, as [`GRAPH_FILE`] and [`DATA_FILE`], and returns the path of the graph. The directory appears
/// complete or not at all; memory holds a few of the largest weights at a time.
///
/// # Errors
/// As [`build`], and when the directory exists already or cannot be written; [`Error::Interrupted`] soon after `interrupted`
/// returns true.
pub fn export<'s>(
    spec: impl Into<Spec<'s>>,
    options: &BuildOptions,
    weights: &mut WeightSource<'_, '_>,
    directory: &Path,
    interrupted: &Interrupted<'_>,
) -> Result<PathBuf> {
    sink::write_directory(directory, |data| {
        let mut sink = sink::External::new(directory.join(DATA_FILE).display().to_string(), data);
        plan::run(spec.into(), options, weights, &mut sink, interrupted)
    })?;
    Ok(directory.join(GRAPH_FILE))
}
