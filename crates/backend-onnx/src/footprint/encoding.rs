//! How much memory an encoder takes: its weights as a decoder's, and what one run holds. There is no KV cache, and no head.

use std::num::Saturating;

use tandem_core::DType;
use tandem_core::footprint::{Count, Decoding, Footprint, ModelShape, Part, Workload, weight_bytes};

use super::{ENGINE, GraphFootprint, HUNDRED, efficiency, is_float, packed};
use crate::encoder::{TOKENS_OF_PART, TOKENS_OF_RUN};
use crate::source::BUILT_IN_MEMORY;

/// The scores of two tokens that are there at once, in hundredths: as the product gives them, with what is added to them, and as shares.
/// Measured: 200 without a window, 300 with one.
const SCORES: Count = Saturating(250);

/// Values of a token that are there at once: in attention its hidden state, and queries, keys and values together, apart and by head; in
/// the feed-forward block two hidden states, and what goes into the activation and comes out of it, with a gate both halves twice.
const ATTENTION: Count = Saturating(10);
const RESIDUALS: Count = Saturating(2);
const INNER: Count = Saturating(2);
const GATED_INNER: Count = Saturating(6);

/// What an encoder of `shape` with `graph` takes for texts of as many tokens as `workload` says; `in_parts` when long ones are run in parts.
pub(crate) fn encoder_footprint(
    shape: &ModelShape,
    graph: &GraphFootprint,
    dtype: DType,
    in_parts: bool,
    workload: &Workload,
) -> Footprint {
    let n_tokens = Saturating(workload.n_tokens.max(1) as u64);
    let n_texts = (Saturating(TOKENS_OF_RUN as u64) / n_tokens).max(Saturating(1));
    let of_text = if in_parts { n_tokens.min(Saturating(TOKENS_OF_PART as u64)) } else { n_tokens };
    let of_run = n_texts * of_text;
    let float = Saturating(4);
    // The keys and values before a part, and with it.
    let kv = if in_parts { Saturating(2) * shape.kv_bytes(n_texts * n_tokens, graph.kv_value) } else { Saturating(0) };
    Footprint {
        kept: vec![
            Part::own("weights, packed for products", packed(graph, dtype)),
            Part::own("weights within the graph's file", graph.inline),
            Part::file("embedding and tables", graph.shared + graph.others - graph.inline),
            shape.tokenizer(),
            Part::own("engine", ENGINE),
        ],
        loading: Vec::new(),
        running: vec![
            Part::own("activations", float * of_run * between(shape)),
            Part::own("scores of attention", float * shape.n_heads * of_run * n_tokens * SCORES / HUNDRED),
            Part::own("keys and values", kv),
        ],
        // A text of one token reads all weights once; more tokens share that.
        decoding: Decoding { bytes_per_token: (graph.float_products + graph.block_products).0, efficiency: efficiency(dtype) },
    }
}

/// Values of one token within a layer.
fn between(shape: &ModelShape) -> Count {
    let inner = if shape.n_mlp_matrices > Saturating(2) { GATED_INNER } else { INNER };
    (ATTENTION * shape.hidden_size).max(RESIDUALS * shape.hidden_size + inner * shape.intermediate_size)
}

impl GraphFootprint {
    /// The graph that is made of an encoder's checkpoint.
    pub(crate) fn of_encoder(shape: &ModelShape, dtype: DType) -> Self {
        let (zero, float) = (Saturating(0), Saturating(4));
        let products = weight_bytes(dtype, shape.projections());
        let others = if dtype == DType::F16 { Saturating(2) } else { float } * shape.embedding();
        let is_float = is_float(dtype);
        Self {
            float_products: if is_float { products } else { zero },
            block_products: if is_float { zero } else { products },
            others,
            shared: zero,
            inline: if shape.stored_bytes.0 < BUILT_IN_MEMORY { products + others } else { zero },
            kv_value: float,
        }
    }
}
