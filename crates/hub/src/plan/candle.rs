//! What `tandem-backend-candle` takes: `weights.rs` makes its own form of the weights while the checkpoint is mapped, `cache.rs` doubles,
//! `session.rs` passes over the prompt in parts.

use tandem_core::DType;
use tandem_core::sequence::PREFILL_CHUNK;

use super::subject::{Shape, Subject, Weights, bytes_of};
use super::{Part, Plan, Workload};

/// The program with its libraries and tables, and what allocators keep: the demo's peak without the demo, measured on Linux.
const ENGINE: u64 = 19_000_000;

/// Of the mapped checkpoint, in hundredths, what stays in memory until the last weight was read. All of it: its pages are given back
/// when the file is unmapped, after loading.
const CHECKPOINT_HELD: u64 = 100;

/// Bytes that a tokenizer's tables take for each byte of `tokenizer.json`, measured with one of 151,646 tokens.
pub(super) const TOKENIZER_TABLES: u64 = 8;

/// Values of a token between layers that are there at once, in hidden and feed-forward widths: a residual, its norm and a sum; gate, up
/// and their product, in the engine's tensors and in the packed form that products of matrices read.
pub(super) const RESIDUALS: u64 = 6;
pub(super) const INNER: u64 = 6;

/// Quantised weights that are floats at a time, for prompts (`linear.rs`, `DEQUANTIZED_TOGETHER`).
const DEQUANTIZED: u64 = 8 << 20;

/// Queries of one head that a thread scores together (`attention.rs`, `BLOCK`).
const SCORED_TOGETHER: u64 = 32;

/// Copies of a row of logits: the product, the values taken out of it, and the sampler's candidates.
pub(super) const LOGITS_COPIES: u64 = 4;

/// Tokens that a cache has room for at first (`cache.rs`).
const FIRST_CAPACITY: u64 = 256;

pub(super) fn plan(subject: &Subject, workload: &Workload) -> Plan {
    let shape = &subject.shape;
    let head = if shape.tied { 0 } else { shape.embedding() };
    let of_dtype = bytes_of(workload.dtype, shape.projections() + shape.embedding() + head);
    let (weights, stored) = match &subject.weights {
        Weights::Checkpoint { bytes } => (of_dtype, *bytes),
        Weights::Gguf { bytes, made } => (*made, *bytes),
        Weights::Graph(graph) => (of_dtype, graph.float_products + graph.block_products + graph.others),
    };
    let n_tokens = workload.n_tokens as u64;
    let pass = n_tokens.min(PREFILL_CHUNK as u64);
    let scores = workload.threads as u64 * SCORED_TOGETHER * n_tokens;
    let dequantized = match workload.dtype {
        DType::Int8 | DType::Int4 => DEQUANTIZED.min(4 * shape.hidden_size * 2 * shape.intermediate_size),
        _ => 0,
    };
    Plan {
        kept: vec![
            Part::own("weights", weights),
            Part::own("tokenizer", TOKENIZER_TABLES * subject.tokenizer_bytes),
            Part::own("engine", ENGINE),
        ],
        loading: vec![Part::file("checkpoint, while it is read", stored * CHECKPOINT_HELD / 100)],
        running: vec![
            Part::own("KV cache", shape.kv_bytes(resident(n_tokens, workload.max_tokens as u64), 4)),
            Part::own("activations", 4 * (pass * between(shape) + scores) + dequantized),
            Part::own("logits", LOGITS_COPIES * 4 * shape.vocab_size),
        ],
        correction: None,
    }
}

/// Values between layers for one token.
pub(super) fn between(shape: &Shape) -> u64 {
    RESIDUALS * shape.hidden_size + shape.query_size() + 2 * shape.kv_size() + INNER * shape.intermediate_size
}

/// Tokens for whose keys and values there is memory at the worst: when the cache doubles, the old one and the new are there, the new
/// one filled with zeros.
fn resident(n_tokens: u64, max_tokens: u64) -> u64 {
    let (mut before, mut capacity) = (0, FIRST_CAPACITY.min(max_tokens));
    while capacity < n_tokens {
        (before, capacity) = (capacity, (2 * capacity).min(max_tokens.max(n_tokens)));
    }
    before + capacity
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_that_doubles_is_there_twice() {
        let check = |n: u64, max: u64, expected: u64| assert_eq!(resident(n, max), expected, "{n} of {max}");
        check(1, 32_768, 256);
        check(1, 100, 100);
        check(256, 32_768, 256);
        check(257, 32_768, 256 + 512);
        check(600, 32_768, 512 + 1024);
        check(600, 700, 512 + 700);
        check(8192, 8192, 4096 + 8192);
    }
}
