//! What `tandem-backend-candle` takes: `weights.rs` reads a piece of the checkpoint at a time and gives it back, `cache.rs` doubles,
//! `session.rs` passes over the prompt in parts.

use tandem_core::sequence::PREFILL_CHUNK;

use super::subject::{Shape, Subject, Weights, bytes_of};
use super::{Part, Plan, Workload};

/// The program with its libraries and tables, and what allocators keep: the demo's peak without the demo, measured on Linux.
const ENGINE: u64 = 19_500_000;

/// Bytes of a checkpoint that are in memory at a time (`weights.rs`, `READ_TOGETHER`).
const READ_TOGETHER: u64 = 32 << 20;

/// Bytes that a tokenizer's tables take for each byte of `tokenizer.json`, measured with one of 151,646 tokens.
pub(super) const TOKENIZER_TABLES: u64 = 8;

/// Values of a token in the width of the states that are there at once: the states, their norm, what a product reads of them, what it
/// gives, and the sum.
const STATES: u64 = 5;

/// And in that of the feed-forward block: gate, up, their product, and its packed form, in room that is kept (`linear.rs`, `Rooms`).
const INNER: u64 = 4;

/// Copies of a row of logits: the product, the values taken out of it, and the sampler's candidates.
pub(super) const LOGITS_COPIES: u64 = 4;

/// Tokens that a cache has room for at first (`cache.rs`).
const FIRST_CAPACITY: u64 = 256;

pub(super) fn plan(subject: &Subject, workload: &Workload) -> Plan {
    let shape = &subject.shape;
    let head = if shape.tied { 0 } else { shape.embedding() };
    let of_dtype = bytes_of(workload.dtype, shape.projections() + shape.embedding() + head);
    let (weights, piece) = match &subject.weights {
        // Floats that are narrower stay so.
        Weights::Checkpoint { bytes } => (of_dtype.min(*bytes), READ_TOGETHER.min(*bytes)),
        // A matrix at a time, of which the embedding is the largest.
        Weights::Gguf { bytes, made } => {
            let all = shape.projections() + shape.embedding() + head;
            (*made, (u128::from(*bytes) * u128::from(shape.embedding()) / u128::from(all.max(1))) as u64)
        }
        Weights::Graph(graph) => (of_dtype, READ_TOGETHER.min(graph.float_products + graph.block_products + graph.others)),
    };
    let n_tokens = workload.n_tokens as u64;
    let pass = n_tokens.min(PREFILL_CHUNK as u64);
    Plan {
        kept: vec![
            Part::own("weights", weights),
            Part::own("tokenizer", TOKENIZER_TABLES * subject.tokenizer_bytes),
            Part::own("engine", ENGINE),
        ],
        loading: vec![Part::file("checkpoint, a piece at a time", piece)],
        running: vec![
            Part::own("KV cache", shape.kv_bytes(resident(n_tokens, workload.context_length as u64), 4)),
            Part::own("activations", 4 * (pass * between(shape) + of_positions(shape, n_tokens))),
            Part::own("logits", LOGITS_COPIES * 4 * shape.vocab_size),
        ],
        correction: None,
    }
}

/// Values between layers for one token: queries, keys and values are there as projected and as turned, and then what attention gives.
fn between(shape: &Shape) -> u64 {
    STATES * shape.hidden_size + INNER * shape.intermediate_size + 3 * shape.query_size() + 4 * shape.kv_size()
}

/// Values that grow with what is held: keys and values of one layer, packed for the prompt's tiles (`attention/prompt.rs`), and the
/// table of rotary angles, whose room doubles.
fn of_positions(shape: &Shape, n_tokens: u64) -> u64 {
    2 * shape.kv_size() * n_tokens + shape.head_dim * n_tokens.next_power_of_two()
}

/// Tokens for whose keys and values there is memory at the worst. Room that nothing was written to takes none; when it doubles, what is
/// held is there twice.
fn resident(n_tokens: u64, context_length: u64) -> u64 {
    let (mut before, mut capacity) = (0, FIRST_CAPACITY.min(context_length));
    while capacity < n_tokens {
        (before, capacity) = (capacity, (2 * capacity).min(context_length.max(n_tokens)));
    }
    n_tokens.max(2 * before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_that_doubles_has_what_it_holds_twice() {
        let check = |n: u64, max: u64, expected: u64| assert_eq!(resident(n, max), expected, "{n} of {max}");
        check(1, 32_768, 1);
        check(100, 100, 100);
        check(256, 32_768, 256);
        check(257, 32_768, 512);
        check(600, 32_768, 1024);
        check(600, 700, 1024);
        check(8192, 8192, 8192);
        check(8193, 32_768, 16_384);
    }
}
