//! What an encoder takes: `encoder/packed` packs its matrices when they are loaded, and passes have memory that is kept.

use std::num::Saturating;

use tandem_core::DType;
use tandem_core::footprint::{Count, Decoding, Footprint, ModelShape, Part, Workload, weight_bytes};

use super::{EFFICIENCY, ENGINE, share};
use crate::encoder::MOST_TOKENS;
use crate::weights::READ_TOGETHER;

/// Values of a token in the width of the states: the states and their norm, queries, keys and values, context, and an input as packed.
const STATES: Count = Saturating(7);

/// And in that of the feed-forward block: its halves, their product, and that as packed.
const INNER: Count = Saturating(4);

/// What an encoder of `shape` takes in `dtype` with passes of `threads` threads at the same time.
pub(crate) fn footprint(shape: &ModelShape, dtype: DType, threads: usize, workload: &Workload) -> Footprint {
    let four = Saturating(4);
    let projections = match dtype {
        // A scale and a correction for each block of 32; queries, keys and values in 16 bits.
        DType::Int8 => {
            let queries = Saturating(3) * shape.n_layers * shape.hidden_size * shape.hidden_size;
            let rounded = shape.projections() - queries.min(shape.projections());
            Saturating(2) * queries + rounded + rounded / four
        }
        dtype => weight_bytes(dtype, shape.projections()),
    };
    // As published, in 16 bits too, unless it is quantised; positions and types are widened.
    let published = share(shape.stored_bytes, shape.embedding(), shape).min(four * shape.embedding());
    let words = if dtype == DType::Int8 { weight_bytes(dtype, shape.embedding()) } else { published };
    let positions = four * shape.max_context * shape.hidden_size;
    let weights = projections + words + positions;
    // The largest matrix as floats, beside the piece of the file that it is read from.
    let largest = (four * shape.hidden_size * (shape.hidden_size + shape.intermediate_size)).min(four * projections);
    // The longest text, and what threads compute beside it.
    let tokens = Saturating(workload.n_tokens as u64) + Saturating(MOST_TOKENS as u64) * Saturating(threads as u64);
    // Of the longest text keys and values of one head, for each thread.
    let packed = Saturating(2) * shape.head_dim * Saturating(workload.n_tokens as u64) * Saturating(threads as u64);
    let states = STATES * shape.hidden_size + INNER * shape.intermediate_size;
    Footprint {
        kept: vec![Part::own("weights", weights), shape.tokenizer(), Part::own("engine", ENGINE)],
        loading: vec![
            Part::file("checkpoint, a piece at a time", Saturating(READ_TOGETHER as u64).min(shape.stored_bytes)),
            Part::own("a matrix before it is packed", largest),
        ],
        running: vec![Part::own("activations", four * (tokens * states + packed))],
        decoding: Decoding { bytes_per_token: projections.0, efficiency: EFFICIENCY },
    }
}
