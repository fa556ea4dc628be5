//! How much memory an encoder takes: its weights as a decoder's, and what one run holds. There is no KV cache, and no head.

use std::num::Saturating;

use tandem_core::DType;
use tandem_core::backend::Kernels;
use tandem_core::cache::MADE_IN_MEMORY;
use tandem_core::config::ModelConfig;
use tandem_core::footprint::{Count, Decoding, Footprint, ModelShape, Part, Workload, weight_bytes};

use super::{ENGINE, GraphFootprint, HUNDRED, efficiency, is_float, mapped, mapped_name, moved, packed};
use crate::encoder::{TOKENS_OF_PART, TOKENS_OF_RUN};

/// The scores of two tokens that are there at once, in hundredths: as the product gives them, with what is added to them, and as shares.
/// Measured: 200 without a window, 300 with one.
const SCORES: Count = Saturating(250);

/// Values of a token that are there at once: in attention its hidden state, and queries, keys and values together, apart and by head; in
/// the feed-forward block two hidden states, and what goes into the activation and comes out of it, with a gate both halves twice.
const ATTENTION: Count = Saturating(10);
const RESIDUALS: Count = Saturating(2);
const INNER: Count = Saturating(2);
const GATED_INNER: Count = Saturating(6);

/// How attention is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attention {
    /// All scores of a text at once.
    Whole,
    /// Scores block by block, none of which are kept.
    Blocks,
    /// All scores of a part of a text, with the keys and values before it.
    Parts,
}

impl Attention {
    /// That of the graph of a model of `config`, which is `built` or published.
    pub(crate) fn of(config: &ModelConfig, is_built: bool) -> Self {
        let has_bias = config.encoder.as_ref().is_some_and(|encoder| encoder.relative_buckets.is_some());
        let is_plain = !has_bias && config.n_heads == config.n_kv_heads && config.layer_windows.iter().all(Option::is_none);
        match config.is_causal {
            // It is built without a KV cache.
            true if is_built && config.gemma.is_some() => Self::Whole,
            true => Self::Parts,
            false if is_built && is_plain => Self::Blocks,
            false => Self::Whole,
        }
    }
}

/// What an encoder of `shape` with `graph` takes for texts of as many tokens as `workload` says.
pub(crate) fn encoder_footprint(
    shape: &ModelShape,
    graph: &GraphFootprint,
    dtype: DType,
    attention: Attention,
    workload: &Workload,
) -> Footprint {
    let n_tokens = Saturating(workload.n_tokens.max(1) as u64);
    let together = n_tokens.max(Saturating(TOKENS_OF_RUN as u64));
    let (zero, float) = (Saturating(0), Saturating(4));
    let (of_run, seen, kept) = match attention {
        Attention::Whole => (together, n_tokens, zero),
        Attention::Blocks => (together, zero, zero),
        // Each of the texts of a run has a part in it. The keys and values before the part are kept, and with it.
        Attention::Parts => {
            let part = n_tokens.min(Saturating(TOKENS_OF_PART as u64));
            (together * part / n_tokens, n_tokens, Saturating(2) * together)
        }
    };
    Footprint {
        kept: vec![
            Part::own("weights, packed for products", packed(graph, dtype)),
            Part::own("weights within the graph's file", graph.inline),
            Part::own("weights, moved into huge pages", moved(graph)),
            Part::file(mapped_name(graph), mapped(graph) - moved(graph)),
            shape.tokenizer(),
            Part::own("engine", ENGINE),
        ],
        loading: Vec::new(),
        running: vec![
            Part::own("activations", float * of_run * between(shape)),
            Part::own("scores of attention", float * shape.n_heads * of_run * seen * SCORES / HUNDRED),
            // Beyond those of a run, which the activations hold.
            Part::own("hidden states of a text", float * shape.hidden_size * n_tokens),
            Part::own("keys and values", shape.kv_bytes(kept, graph.kv_value)),
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
    pub(crate) fn of_encoder(shape: &ModelShape, dtype: DType, attention: Attention, kernels: Kernels) -> Self {
        let (zero, float) = (Saturating(0), Saturating(4));
        // Queries, keys and values stay floats in 8 bits, but those of a causal decoder.
        let qkv = shape.n_layers * shape.hidden_size * (shape.query_size() + Saturating(2) * shape.kv_size());
        let floats = if dtype == DType::Int8 && attention != Attention::Parts { qkv } else { zero };
        let products = weight_bytes(dtype, shape.projections() - floats);
        let others = if dtype == DType::F16 { Saturating(2) } else { float } * shape.embedding();
        let is_float = is_float(dtype);
        Self {
            float_products: if is_float { products } else { float * floats },
            block_products: if is_float { zero } else { products },
            custom_products: if is_float || kernels == Kernels::Runtime { zero } else { products },
            others,
            shared: zero,
            inline: if shape.stored_bytes.0 < MADE_IN_MEMORY { products + float * floats + others } else { zero },
            kv_value: float,
            moves: false,
        }
    }
}
