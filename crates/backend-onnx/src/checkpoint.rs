//! From a checkpoint to a graph: how `tandem-onnx-graph` is told what to build.

use std::borrow::Cow;

use tandem_core::checkpoint::Checkpoint;
use tandem_core::config::ModelConfig;
use tandem_core::files::ModelFiles;
use tandem_core::{DType, Error, Result};
use tandem_onnx_graph::{
    BuildOptions, DecoderSpec, Outputs, RopeTable, SourceError, Weight, WeightFormat, WeightType, build_inline,
};

use crate::source::bad_graph;

/// Builds the graph of a checkpoint in memory, weights included: for a model that is small.
pub(crate) fn build(files: &ModelFiles, config: &ModelConfig, dtype: DType) -> Result<Vec<u8>> {
    let checkpoint = Checkpoint::open(files)?;
    let format = weight_format(dtype, &files.name)?;
    let options = BuildOptions { outputs: Outputs::Logits, weights: format, head: format, metadata: Vec::new() };
    build_inline(&spec(files, config, &checkpoint), &options, &mut |name| weight(&checkpoint, name)).map_err(bad_graph)
}

/// What the graph's builder calls a decoder.
pub(crate) fn spec(files: &ModelFiles, config: &ModelConfig, checkpoint: &Checkpoint) -> DecoderSpec {
    DecoderSpec {
        name: files.name.clone(),
        // Checkpoints of embedding models are published without it.
        prefix: if checkpoint.contains("model.embed_tokens.weight") { "model.".into() } else { String::new() },
        n_layers: config.n_layers,
        vocab_size: config.vocab_size,
        hidden_size: config.hidden_size,
        intermediate_size: config.intermediate_size,
        n_heads: config.n_heads,
        n_kv_heads: config.n_kv_heads,
        head_dim: config.head_dim(),
        rms_norm_eps: config.rms_norm_eps as f32,
        qkv_bias: config.qkv_bias,
        qk_norm: config.qk_norm,
        attention_output_bias: config.attention_output_bias,
        mlp_bias: config.mlp_bias,
        tie_word_embeddings: config.tie_word_embeddings,
        rope: RopeTable {
            inverse_frequencies: config.rope.inv_freq(config.head_dim()),
            attention_scaling: config.rope.attention_factor(),
            n_positions: config.max_context,
        },
        layer_windows: config.layer_windows.clone(),
    }
}

/// The weight called `name`, as the graph's builder takes it.
pub(crate) fn weight<'c>(checkpoint: &'c Checkpoint, name: &str) -> std::result::Result<Weight<'c>, SourceError> {
    let stored = checkpoint.tensor(name)?;
    let kind = match stored.dtype {
        DType::F16 => WeightType::F16,
        DType::Bf16 => WeightType::Bf16,
        _ => WeightType::F32,
    };
    Ok(Weight { kind, shape: stored.shape.to_vec(), bytes: Cow::Borrowed(stored.bytes) })
}

/// How weights of `dtype` are stored in a graph.
pub(crate) fn weight_format(dtype: DType, model: &str) -> Result<WeightFormat> {
    match dtype {
        DType::F32 => Ok(WeightFormat::F32),
        DType::Int8 => Ok(WeightFormat::Int8),
        DType::Int4 => Ok(WeightFormat::Int4),
        other => Err(Error::Unsupported {
            what: format!("dtype `{other}`"),
            reason: format!("ONNX Runtime computes with it slowly or not at all on a processor (`{model}`)"),
            hint: Some("use `--dtype f32`, `int8` or `int4`".into()),
        }),
    }
}
