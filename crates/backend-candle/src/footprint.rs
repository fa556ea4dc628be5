//! How much memory a model takes on this engine: `weights` reads a piece of the checkpoint at a time and gives it back, `cache` doubles,
//! `session` passes over the prompt in chunks.

use tandem_core::DType;
use tandem_core::footprint::{Decoding, Footprint, ModelShape, Part, Workload, weight_bytes};
use tandem_core::gguf::Gguf;
use tandem_core::sequence::PREFILL_CHUNK;

use crate::cache::FIRST_CAPACITY;
use crate::weights::READ_TOGETHER;

/// The program with its libraries and tables, and what allocators keep: the demo's peak without the demo, measured on Linux.
const ENGINE: u64 = 19_500_000;

/// The share of the memory's bandwidth at which decoding reads weights, measured with random weights in the shapes of Qwen2.5-0.5B and
/// Qwen3-0.6B.
const EFFICIENCY: f64 = 0.70;

/// Values of a token in the width of the states that are there at once: the states, their norm, what a product reads of them, what it
/// gives, and the sum.
const STATES: u64 = 5;

/// And in that of the feed-forward block: gate, up, their product, and its packed form, in scratch memory that is kept (`linear`).
const INNER: u64 = 4;

/// The weights as they are in memory, and how much of a file is there while they are made.
#[derive(Clone, Copy)]
pub(crate) struct WeightBytes {
    made: u64,
    loading: u64,
    /// Those that decoding reads for a token.
    read: u64,
}

impl WeightBytes {
    /// Those of a checkpoint of `shape`; floats that are stored in fewer bytes stay so.
    pub(crate) fn of_checkpoint(shape: &ModelShape, dtype: DType) -> Self {
        let stored = shape.stored_bytes;
        let made = weight_bytes(dtype, values(shape)).min(stored);
        Self { made, loading: (READ_TOGETHER as u64).min(stored), read: share_read(made, shape) }
    }

    /// Those of a GGUF file, as stored or at `dtype`: a matrix at a time, of which the embedding is the largest.
    pub(crate) fn of_gguf(gguf: &Gguf, shape: &ModelShape, dtype: Option<DType>) -> Self {
        let made = gguf.tensors().map(|(name, kind)| {
            let n = gguf.tensor(name).map_or(0, |tensor| tensor.shape.iter().map(|&size| size as u64).product());
            // As stored, or floats of all of it where those are asked for; narrow floats stay so in either case.
            let kept = match (kind.dtype(), dtype) {
                (floats @ (DType::F32 | DType::F16 | DType::Bf16), None | Some(DType::F32)) => floats,
                (stored, dtype) => dtype.unwrap_or(stored),
            };
            weight_bytes(kept, n)
        });
        let largest = u128::from(shape.stored_bytes) * u128::from(shape.embedding()) / u128::from(values(shape).max(1));
        let made = made.sum();
        Self { made, loading: largest as u64, read: share_read(made, shape) }
    }
}

/// What a model of `shape` takes.
pub(crate) fn footprint(shape: &ModelShape, weights: WeightBytes, workload: &Workload) -> Footprint {
    let n_tokens = workload.n_tokens as u64;
    let chunk = n_tokens.min(PREFILL_CHUNK as u64);
    Footprint {
        kept: vec![Part::own("weights", weights.made), shape.tokenizer(), Part::own("engine", ENGINE)],
        loading: vec![Part::file("checkpoint, a piece at a time", weights.loading)],
        running: vec![
            Part::own("KV cache", shape.kv_bytes(resident(n_tokens, workload.context_length as u64), 4)),
            Part::own("activations", 4 * (chunk * between(shape) + of_positions(shape, n_tokens))),
            shape.logits(),
        ],
        decoding: Decoding { bytes_per_token: weights.read, efficiency: EFFICIENCY },
    }
}

/// Of `made` bytes of weights those that decoding reads for a token.
fn share_read(made: u64, shape: &ModelShape) -> u64 {
    (u128::from(made) * u128::from(shape.read_per_token()) / u128::from(values(shape).max(1))) as u64
}

/// Weights in matrices.
fn values(shape: &ModelShape) -> u64 {
    let head = if shape.tied { 0 } else { shape.embedding() };
    shape.projections() + shape.embedding() + head
}

/// Values between layers for one token: queries, keys and values are there as projected and as turned, and then what attention gives.
fn between(shape: &ModelShape) -> u64 {
    STATES * shape.hidden_size + INNER * shape.intermediate_size + 3 * shape.query_size() + 4 * shape.kv_size()
}

/// Values that grow with what is held: keys and values of one layer, packed for the prompt's tiles (`attention/prompt`), and the
/// table of rotary angles, whose capacity doubles.
fn of_positions(shape: &ModelShape, n_tokens: u64) -> u64 {
    2 * shape.kv_size() * n_tokens + shape.head_dim * n_tokens.next_power_of_two()
}

/// Tokens for whose keys and values there is memory at the worst. Capacity that nothing was written to takes none; when it doubles, what
/// is held is there twice.
fn resident(n_tokens: u64, context_length: u64) -> u64 {
    let (mut before, mut capacity) = (0, (FIRST_CAPACITY as u64).min(context_length));
    while capacity < n_tokens {
        (before, capacity) = (capacity, (2 * capacity).min(context_length.max(n_tokens)));
    }
    n_tokens.max(2 * before)
}

#[cfg(test)]
mod tests;
