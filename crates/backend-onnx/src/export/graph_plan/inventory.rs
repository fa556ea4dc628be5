//! The weights that a decoder needs: compared with a checkpoint before work begins, and summed up for the space that a graph takes.

use std::collections::HashSet;

use tandem_core::checkpoint::Checkpoint;
use tandem_core::config::{ExpectedWeight, ModelConfig, WeightRole};
use tandem_core::{DType, Error, Result};
use tandem_onnx_graph::{Blocks, BuildOptions, DecoderSpec, Outputs, WeightFormat};

/// Upper bounds on the bytes that a graph's file takes for the nodes and names of a layer, and for everything else.
const LAYER_BYTES: u64 = 16 << 10;
const GRAPH_BYTES: u64 = 64 << 10;

/// The alignment of large constants in the file of weights.
const PAGE: u64 = 4096;

/// The weights that a graph of a decoder with `outputs` is built from; `prefix` begins the names in this checkpoint, where published ones
/// begin with `model.`.
pub(super) fn expected(config: &ModelConfig, prefix: &str, outputs: Outputs) -> Vec<ExpectedWeight> {
    let is_needed = |weight: &ExpectedWeight| weight.role != WeightRole::Head || outputs != Outputs::HiddenStates;
    let named = |mut weight: ExpectedWeight| {
        if let Some(name) = weight.name.strip_prefix("model.") {
            weight.name = format!("{prefix}{name}");
        }
        weight
    };
    config.expected_weights().filter(is_needed).map(named).collect()
}

/// Checks that `checkpoint` has exactly the weights that `config` describes.
///
/// # Errors
/// [`Error::BadField`] with the weight as the field: one that is missing, has another shape or an unsupported type, or is not part of the
/// model and would be left out silently.
pub(super) fn check(
    expected: &[ExpectedWeight],
    spec: &DecoderSpec,
    outputs: Outputs,
    checkpoint: &Checkpoint,
    config: &str,
) -> Result<()> {
    for weight in expected {
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

/// The type that all matrices of the checkpoint have, or the one that any other is widened to.
pub(super) fn matrix_dtype(expected: &[ExpectedWeight], checkpoint: &Checkpoint) -> DType {
    let matrices = expected.iter().filter(|weight| weight.shape.len() == 2);
    let mut dtypes = matrices.map(|weight| checkpoint.tensor(&weight.name).map_or(DType::F32, |stored| stored.dtype));
    let first = dtypes.next().unwrap_or(DType::F32);
    if dtypes.all(|dtype| dtype == first) { first } else { DType::F32 }
}

/// Bytes of the weights as stored in the checkpoint.
pub(super) fn stored_bytes(expected: &[ExpectedWeight], checkpoint: &Checkpoint) -> u64 {
    expected.iter().map(|weight| checkpoint.tensor(&weight.name).map_or(0, |stored| stored.bytes.len() as u64)).sum()
}

/// An upper bound on the bytes of the graph with its weights.
pub(super) fn graph_bytes(
    expected: &[ExpectedWeight],
    spec: &DecoderSpec,
    checkpoint: &Checkpoint,
    options: &BuildOptions,
) -> u64 {
    let BuildOptions { weights, head, blocks, outputs, .. } = *options;
    // What is not quantised is of the type that the graph computes in.
    let float = if weights == WeightFormat::F16 { 2 } else { 4 };
    let tables = float * (spec.rope.n_positions * spec.head_dim) as u64 + 2 * PAGE;
    let constants = expected.iter().map(|weight| {
        let n_bytes = match weight.role {
            WeightRole::Bias | WeightRole::Norm => float * weight.shape[0] as u64,
            WeightRole::Projection => matrix_bytes(&weight.shape, weights, blocks, float),
            WeightRole::Head => matrix_bytes(&weight.shape, head, blocks, float),
            WeightRole::Embedding => {
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

/// Weights in published checkpoints that are not used: a copy of a tied head, a head (a reranker's is `score`) when only hidden states are
/// exported, and the frequencies of rope, which are computed.
fn is_ignored(name: &str, spec: &DecoderSpec, outputs: Outputs) -> bool {
    let has_no_head = outputs == Outputs::HiddenStates;
    match name {
        "lm_head.weight" => spec.tie_word_embeddings || has_no_head,
        "score.weight" => has_no_head,
        _ => name.ends_with("rotary_emb.inv_freq"),
    }
}

fn disagree(checkpoint: &Checkpoint, weight: &str, problem: String) -> Error {
    Error::BadField {
        file: checkpoint.file_of(weight).unwrap_or_default().into(),
        field: weight.into(),
        problem,
        hint: Some("config.json and the weights do not match: obtain both from the same source".into()),
    }
}
