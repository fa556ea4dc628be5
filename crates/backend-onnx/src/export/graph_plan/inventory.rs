//! The weights of a graph: compared with a checkpoint before work begins, and summed up for the space that the graph takes.

use std::collections::HashSet;

use tandem_core::checkpoint::Checkpoint;
use tandem_core::config::{ExpectedWeight, ModelConfig, WeightRole};
use tandem_core::{DType, Error, Result};
use tandem_onnx_graph::{BuildOptions, DecoderSpec, Outputs, WeightFormat};

/// Upper bounds on the bytes that a graph's file takes for the nodes and names of a layer, and for everything else.
const LAYER_BYTES: u64 = 16 << 10;
const GRAPH_BYTES: u64 = 64 << 10;

/// The alignment of large constants in the file of weights.
const PAGE: u64 = 4096;

/// The weights that a graph with `outputs` is built from, which are all that `checkpoint` has.
///
/// # Errors
/// [`Error::BadField`] with the weight as the field: one that is missing, has another shape or an unsupported type, or is not part of the
/// model and would be left out silently.
pub(super) fn check(
    config: &ModelConfig,
    prefix: &str,
    outputs: Outputs,
    checkpoint: &Checkpoint,
    config_name: &str,
) -> Result<Vec<ExpectedWeight>> {
    let mut weights = config.expected_weights(prefix);
    weights.retain(|weight| weight.role != WeightRole::Head || outputs != Outputs::HiddenStates);
    for weight in &weights {
        let stored = checkpoint.tensor(&weight.name)?;
        if stored.shape != weight.shape {
            let problem = format!("has the shape {:?}, and `{config_name}` implies {:?}", stored.shape, weight.shape);
            return Err(disagree(checkpoint, &weight.name, problem));
        }
    }
    let known: HashSet<&str> = weights.iter().map(|weight| weight.name.as_str()).collect();
    let unknown = checkpoint.names().filter(|name| !known.contains(name) && !is_unused(name)).min();
    unknown.map_or(Ok(()), |name| {
        Err(disagree(checkpoint, name, format!("is not part of the model that `{config_name}` describes")))
    })?;
    Ok(weights)
}

/// Bytes of the weights as stored in the checkpoint.
pub(super) fn stored_bytes(weights: &[ExpectedWeight], checkpoint: &Checkpoint) -> u64 {
    let n_bytes = |weight: &ExpectedWeight| checkpoint.tensor(&weight.name).map_or(0, |stored| stored.bytes.len() as u64);
    weights.iter().map(n_bytes).sum()
}

/// An upper bound on the bytes of the graph with its weights.
pub(super) fn graph_bytes(
    weights: &[ExpectedWeight],
    spec: &DecoderSpec,
    checkpoint: &Checkpoint,
    options: &BuildOptions,
) -> u64 {
    // What is not quantised is of the type that the graph computes in.
    let float = if options.weights == WeightFormat::F16 { 2 } else { 4 };
    let tables = float * (spec.rope.n_positions * spec.head_dim) as u64 + 2 * PAGE;
    let constants = weights.iter().map(|weight| {
        let n_bytes = match weight.role {
            WeightRole::Bias | WeightRole::Norm => float * weight.shape[0] as u64,
            WeightRole::Projection => matrix_bytes(&weight.shape, options.weights, options, float),
            WeightRole::Head => matrix_bytes(&weight.shape, options.head, options, float),
            WeightRole::Embedding if spec.tie_word_embeddings && options.outputs != Outputs::HiddenStates => {
                matrix_bytes(&weight.shape, options.head, options, float)
            }
            WeightRole::Embedding => {
                let is_f32 = checkpoint.tensor(&weight.name).is_ok_and(|stored| stored.dtype == DType::F32);
                let is_kept = bits(options.weights).is_some() && !is_f32;
                matrix_bytes(&weight.shape, WeightFormat::F32, options, if is_kept { 2 } else { float })
            }
        };
        // Codes and scales are aligned to pages.
        n_bytes + 2 * PAGE
    });
    constants.sum::<u64>() + tables + LAYER_BYTES * spec.n_layers as u64 + GRAPH_BYTES
}

fn matrix_bytes(shape: &[usize], format: WeightFormat, options: &BuildOptions, float: u64) -> u64 {
    let (n_outputs, n_inputs) = (shape[0] as u64, shape[1] as u64);
    match bits(format) {
        Some(bits) => {
            let (size, zero_point) = (options.blocks.size as u64, u64::from(!options.blocks.symmetric));
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

/// Weights in published checkpoints that may be left out: a copy of a tied head, a head when only hidden states are exported, and the
/// frequencies of rope, which are computed. A head that is needed is among the expected weights.
fn is_unused(name: &str) -> bool {
    name == "lm_head.weight" || name.ends_with("rotary_emb.inv_freq")
}

fn disagree(checkpoint: &Checkpoint, weight: &str, problem: String) -> Error {
    Error::BadField {
        file: checkpoint.file_of(weight).unwrap_or_default().into(),
        field: weight.into(),
        problem,
        hint: Some("config.json and the weights do not match: obtain both from the same source".into()),
    }
}
