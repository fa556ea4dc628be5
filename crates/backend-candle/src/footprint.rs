//! How much memory a model takes on this engine: `weights` reads a piece of the checkpoint at a time and gives it back, `cache` grows in
//! blocks, `session` passes over the prompt in chunks.

pub(crate) mod encoders;

use std::num::Saturating;

use tandem_core::DType;
use tandem_core::footprint::{Count, Decoding, Footprint, ModelShape, Part, Workload, weight_bytes};
use tandem_core::gguf::Gguf;
use tandem_core::kv_memory::resident_tokens;
use tandem_core::sequence::PREFILL_CHUNK;

use crate::weights::READ_TOGETHER;

/// The program with its libraries and tables, and what allocators keep: the demo's peak without the demo, measured on Linux.
const ENGINE: Count = Saturating(19_500_000);

/// The share of the memory's bandwidth at which decoding reads weights, measured with random weights in the shape of Qwen2.5-0.5B on two
/// processors, one with AVX-512 and one with AVX2: 0.72 and 0.74 in f32 that lies in bf16, 0.68 and 0.60 in int4, 0.68 on the former in int8.
const EFFICIENCY: f64 = 0.68;

/// Values of a token in the width of the states that are there at once: the states, their norm, what a product reads of them, what it
/// gives, and the sum.
const STATES: Count = Saturating(5);

/// And in that of the feed-forward block: gate, up, their product, and its packed form, in scratch memory that is kept (`linear`).
const INNER: Count = Saturating(4);

/// The weights as they are in memory, and how much of a file is there while they are made.
#[derive(Clone, Copy)]
pub(crate) struct WeightBytes {
    made: Count,
    loading: Count,
    /// Those that decoding reads for a token.
    read: Count,
}

impl WeightBytes {
    /// Those of a checkpoint of `shape`; floats that are stored in fewer bytes stay so.
    pub(crate) fn of_checkpoint(shape: &ModelShape, dtype: DType) -> Self {
        let stored = shape.stored_bytes;
        let made = weight_bytes(dtype, values(shape)).min(stored);
        Self { made, loading: Saturating(READ_TOGETHER as u64).min(stored), read: share(made, shape.read_per_token(), shape) }
    }

    /// Those of a GGUF file, as stored or at `dtype`: a matrix at a time, of which the embedding is the largest.
    pub(crate) fn of_gguf(gguf: &Gguf, shape: &ModelShape, dtype: Option<DType>) -> Self {
        let made = gguf.tensors().map(|(name, kind)| {
            let n = gguf
                .tensor(name)
                .map_or(Saturating(0), |tensor| tensor.shape.iter().fold(Saturating(1), |n, &size| n * Saturating(size as u64)));
            // As stored, or floats of all of it where those are asked for; narrow floats stay so in either case.
            let kept = match (kind.dtype(), dtype) {
                (floats @ (DType::F32 | DType::F16 | DType::Bf16), None | Some(DType::F32)) => floats,
                (stored, dtype) => dtype.unwrap_or(stored),
            };
            weight_bytes(kept, n)
        });
        let made = made.fold(Saturating(0), |sum, bytes| sum + bytes);
        Self {
            made,
            loading: share(shape.stored_bytes, shape.embedding(), shape),
            read: share(made, shape.read_per_token(), shape),
        }
    }
}

/// What a model of `shape` takes whose keys and values are `kv_dtype`.
pub(crate) fn footprint(shape: &ModelShape, weights: WeightBytes, kv_dtype: DType, workload: &Workload) -> Footprint {
    let n_tokens = workload.n_tokens as u64;
    let held = Saturating(resident_tokens(n_tokens));
    let chunk = Saturating(n_tokens.min(PREFILL_CHUNK as u64));
    Footprint {
        kept: vec![Part::own("weights", weights.made), shape.tokenizer(), Part::own("engine", ENGINE)],
        loading: vec![Part::file("checkpoint, a piece at a time", weights.loading)],
        running: vec![
            Part::own("KV cache", shape.kv_bytes(held, weight_bytes(kv_dtype, Saturating(1)))),
            Part::own("activations", Saturating(4) * (chunk * between(shape) + of_positions(shape, n_tokens))),
            shape.logits(),
        ],
        decoding: Decoding { bytes_per_token: weights.read.0, efficiency: EFFICIENCY },
    }
}

/// Of `bytes` of all weights those of `n` weights.
fn share(bytes: Count, n: Count, shape: &ModelShape) -> Count {
    let share = u128::from(bytes.0) * u128::from(n.0) / u128::from(values(shape).0.max(1));
    Saturating(u64::try_from(share).unwrap_or(u64::MAX))
}

/// Weights in matrices.
fn values(shape: &ModelShape) -> Count {
    let head = if shape.tied { Saturating(0) } else { shape.embedding() };
    shape.projections() + shape.embedding() + head
}

/// Values between layers for one token: queries, keys and values are there as projected and as turned, and then what attention gives.
fn between(shape: &ModelShape) -> Count {
    STATES * shape.hidden_size
        + INNER * shape.intermediate_size
        + Saturating(3) * shape.query_size()
        + Saturating(4) * shape.kv_size()
}

/// Values that grow with what is held: keys and values of one layer, packed for the prompt's tiles (`attention/prompt`), and the
/// table of rotary angles, whose capacity doubles.
fn of_positions(shape: &ModelShape, n_tokens: u64) -> Count {
    let angles = n_tokens.checked_next_power_of_two().unwrap_or(u64::MAX);
    Saturating(2) * shape.kv_size() * Saturating(n_tokens) + shape.head_dim * Saturating(angles)
}

#[cfg(test)]
mod tests;
