//! The weights that a decoder needs: compared with a checkpoint before work begins, and summed up for the space that a graph takes.

use std::collections::HashSet;

use tandem_core::checkpoint::Checkpoint;
use tandem_core::{DType, Error, Result};
use tandem_onnx_graph::{Blocks, BuildOptions, DecoderSpec, Outputs, WeightFormat};

/// Upper bounds on the bytes that a graph's file takes for the nodes and names of a layer, and for everything else.
const LAYER_BYTES: u64 = 16 << 10;
const GRAPH_BYTES: u64 = 64 << 10;

/// The alignment of large constants in the file of weights.
const PAGE: u64 = 4096;

/// A weight by its name in transformers.
struct Expected {
    name: String,
    shape: Vec<usize>,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Embedding,
    Head,
    Projection,
    /// A bias or the weight of a norm.
    Vector,
}

/// Checks that `checkpoint` has exactly the weights that `config` describes.
///
/// # Errors
/// [`Error::BadField`] with the weight as the field: one that is missing, has another shape or an unsupported type, or is not part of the
/// model and would be left out silently.
pub(super) fn check(spec: &DecoderSpec, outputs: Outputs, checkpoint: &Checkpoint, config: &str) -> Result<()> {
    let expected = expected(spec, outputs);
    for weight in &expected {
        let stored = checkpoint.tensor(&weight.name)?;
        if stored.shape != weight.shape {
            let problem = format!("has the shape {:?}, and `{config}` implies {:?}", stored.shape, weight.shape);
            return Err(disagree(checkpoint, &weight.name, problem));
        }
    }
    let known: HashSet<&str> = expected.iter().map(|weight| weight.name.as_str()).collect();
    let stray = checkpoint.names().filter(|name| !known.contains(name) && !is_ignored(name, spec, outputs)).min();
    stray.map_or(Ok(()), |name| Err(disagree(checkpoint, name, format!("is not part of the model that `{config}` describes"))))
}

/// Bytes of the weights as stored in the checkpoint.
pub(super) fn stored_bytes(spec: &DecoderSpec, outputs: Outputs, checkpoint: &Checkpoint) -> u64 {
    let n_bytes = |weight: &Expected| checkpoint.tensor(&weight.name).map_or(0, |stored| stored.bytes.len() as u64);
    expected(spec, outputs).iter().map(n_bytes).sum()
}

/// An upper bound on the bytes of the graph with its weights.
pub(super) fn graph_bytes(spec: &DecoderSpec, checkpoint: &Checkpoint, options: &BuildOptions) -> u64 {
    let BuildOptions { weights, head, blocks, outputs, .. } = *options;
    // What is not quantised is of the type that the graph computes in.
    let float = if weights == WeightFormat::F16 { 2 } else { 4 };
    let tables = float * (spec.rope.n_positions * spec.head_dim) as u64 + 2 * PAGE;
    let constants = expected(spec, outputs).into_iter().map(|weight| {
        let n_bytes = match weight.kind {
            Kind::Vector => float * weight.shape[0] as u64,
            Kind::Projection => matrix_bytes(&weight.shape, weights, blocks, float),
            Kind::Head => matrix_bytes(&weight.shape, head, blocks, float),
            Kind::Embedding => {
                let is_f32 = checkpoint.tensor(&weight.name).is_ok_and(|stored| stored.dtype == DType::F32);
                let is_kept = bits(weights).is_some() && !is_f32;
                match spec.tie_word_embeddings && outputs != Outputs::HiddenStates {
                    true => matrix_bytes(&weight.shape, head, blocks, float),
                    false => matrix_bytes(&weight.shape, WeightFormat::F32, blocks, if is_kept { 2 } else { float }),
                }
            }
        };
        // Codes and scales are aligned to pages.
        n_bytes + 2 * PAGE
    });
    constants.sum::<u64>() + tables + LAYER_BYTES * spec.n_layers as u64 + GRAPH_BYTES
}

fn matrix_bytes(shape: &[usize], format: WeightFormat, blocks: Blocks, float: u64) -> u64 {
    let (n_outputs, n_inputs) = (shape[0] as u64, shape[1] as u64);
    match bits(format) {
        Some(bits) => {
            let (size, zero_point) = (blocks.size as u64, u64::from(!blocks.symmetric));
            n_outputs * n_inputs.div_ceil(size) * (size * bits / 8 + float + zero_point)
        }
        None => n_outputs * n_inputs * float,
    }
}

fn bits(format: WeightFormat) -> Option<u64> {
    match format {
        WeightFormat::F32 | WeightFormat::F16 => None,
        WeightFormat::Int8 => Some(8),
        WeightFormat::Int4 => Some(4),
    }
}

/// Names and shapes as in `modeling_{llama,mistral,qwen2,qwen3}.py` of transformers.
fn expected(spec: &DecoderSpec, outputs: Outputs) -> Vec<Expected> {
    let hidden = spec.hidden_size;
    let mut all = vec![
        Expected::of(spec, Kind::Embedding, "embed_tokens.weight", &[spec.vocab_size, hidden]),
        Expected::of(spec, Kind::Vector, "norm.weight", &[hidden]),
    ];
    if !spec.tie_word_embeddings && outputs != Outputs::HiddenStates {
        all.push(Expected { name: "lm_head.weight".into(), shape: vec![spec.vocab_size, hidden], kind: Kind::Head });
    }
    for layer in 0..spec.n_layers {
        let vector =
            |name: &str, size: usize| Expected::of(spec, Kind::Vector, &format!("layers.{layer}.{name}.weight"), &[size]);
        all.extend([vector("input_layernorm", hidden), vector("post_attention_layernorm", hidden)]);
        if spec.qk_norm {
            all.extend([vector("self_attn.q_norm", spec.head_dim), vector("self_attn.k_norm", spec.head_dim)]);
        }
        let (queries, keys) = (spec.n_heads * spec.head_dim, spec.n_kv_heads * spec.head_dim);
        let inner = spec.intermediate_size;
        for (name, n_outputs, n_inputs, has_bias) in [
            ("self_attn.q_proj", queries, hidden, spec.qkv_bias),
            ("self_attn.k_proj", keys, hidden, spec.qkv_bias),
            ("self_attn.v_proj", keys, hidden, spec.qkv_bias),
            ("self_attn.o_proj", hidden, queries, spec.attention_output_bias),
            ("mlp.gate_proj", inner, hidden, spec.mlp_bias),
            ("mlp.up_proj", inner, hidden, spec.mlp_bias),
            ("mlp.down_proj", hidden, inner, spec.mlp_bias),
        ] {
            let name = |part: &str| format!("layers.{layer}.{name}.{part}");
            all.push(Expected::of(spec, Kind::Projection, &name("weight"), &[n_outputs, n_inputs]));
            if has_bias {
                all.push(Expected::of(spec, Kind::Vector, &name("bias"), &[n_outputs]));
            }
        }
    }
    all
}

impl Expected {
    fn of(spec: &DecoderSpec, kind: Kind, name: &str, shape: &[usize]) -> Self {
        Self { name: format!("{}{name}", spec.prefix), shape: shape.into(), kind }
    }
}

/// Weights in published checkpoints that are not used: a copy of a tied head, a head when only hidden states are exported, and the
/// frequencies of rope, which are computed.
fn is_ignored(name: &str, spec: &DecoderSpec, outputs: Outputs) -> bool {
    ((spec.tie_word_embeddings || outputs == Outputs::HiddenStates) && name == "lm_head.weight")
        || name.ends_with("rotary_emb.inv_freq")
}

fn disagree(checkpoint: &Checkpoint, weight: &str, problem: String) -> Error {
    Error::BadField {
        file: checkpoint.file_of(weight).unwrap_or_default().into(),
        field: weight.into(),
        problem,
        hint: Some("config.json and the weights do not match: obtain both from the same source".into()),
    }
}
