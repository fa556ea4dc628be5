//! What `tandem-backend-onnx` takes: ONNX Runtime maps the graph's data and copies what products multiply by into an order of its own
//! ("prepacking"); what is copied is unmapped, what something else reads too stays. `cache.rs` grows one tensor at a time.

use tandem_core::DType;
use tandem_core::sequence::PREFILL_CHUNK;

use super::candle::{LOGITS_COPIES, TOKENIZER_TABLES};
use super::subject::{GraphWeights, Shape, Subject, Weights, bytes_of};
use super::{Part, Plan, Workload};

/// The library with its tables, the program, and what allocators keep: the demo's peak without the demo, measured on Linux.
const ENGINE: u64 = 47_000_000;

/// Values of a token between layers that are there at once, in hidden and feed-forward widths: a residual, its norm and a sum; gate, up
/// and their product, in the engine's tensors and in the packed form that products of matrices read.
const RESIDUALS: u64 = 6;
const INNER: u64 = 6;

/// Of the KV cache, in hundredths: itself, and the holes that outgrown buffers leave in the allocator's memory. Measured: 102 to 113.
const KV_WITH_HOLES: u64 = 110;

/// Copies of quantised weights, in hundredths of codes and scales. To 4 bits, sums of blocks are added, as many as there are scales
/// (`MlasQNBitGemmPackQuantBData`). 8 bits were measured: 98 to 111.
const PACKED_4_BITS: u64 = 120;
const PACKED_8_BITS: u64 = 106;

/// The graph of a checkpoint with fewer bytes than this is made in memory, and lies there with its weights (`source.rs`).
const BUILT_IN_MEMORY: u64 = 32 << 20;

pub(super) fn plan(subject: &Subject, workload: &Workload) -> Plan {
    let shape = &subject.shape;
    let graph = match &subject.weights {
        Weights::Graph(graph) => *graph,
        Weights::Checkpoint { bytes } | Weights::Gguf { bytes, .. } => made(shape, workload.dtype, *bytes),
    };
    let n_tokens = workload.n_tokens as u64;
    let pass = n_tokens.min(PREFILL_CHUNK as u64);
    // What lies within the graph's file is copied out of it.
    let mapped = (graph.shared + graph.others).saturating_sub(graph.inline);
    Plan {
        kept: vec![
            Part::own("weights, packed for products", packed(&graph, workload.dtype)),
            Part::own("weights within the graph's file", graph.inline),
            Part::file("embedding and tables", mapped),
            Part::own("tokenizer", TOKENIZER_TABLES * subject.tokenizer_bytes),
            Part::own("engine", ENGINE),
        ],
        // Each weight is unmapped when its copy is made.
        loading: Vec::new(),
        running: vec![
            Part::own("KV cache", shape.kv_bytes(n_tokens, graph.kv_value) * KV_WITH_HOLES / 100),
            Part::own("activations", 4 * pass * between(shape)),
            Part::own("logits", LOGITS_COPIES * 4 * shape.vocab_size),
        ],
        correction: None,
    }
}

/// Values between layers for one token.
fn between(shape: &Shape) -> u64 {
    RESIDUALS * shape.hidden_size + shape.query_size() + 2 * shape.kv_size() + INNER * shape.intermediate_size
}

/// Copies of what products multiply by: floats are as large in panels of 16 columns.
fn packed(graph: &GraphWeights, dtype: DType) -> u64 {
    let blocks = if dtype == DType::Int8 { PACKED_8_BITS } else { PACKED_4_BITS };
    graph.float_products + graph.block_products * blocks / 100
}

/// The graph that is made of a checkpoint (`tandem-onnx-graph`, `build`): a tied head shares the embedding, another embedding stays
/// as the checkpoint has it.
fn made(shape: &Shape, dtype: DType, stored: u64) -> GraphWeights {
    let head = bytes_of(dtype, shape.embedding());
    let products = bytes_of(dtype, shape.projections()) + head;
    let is_float = matches!(dtype, DType::F32 | DType::F16 | DType::Bf16);
    let table_value = if dtype == DType::F16 { 2 } else { 4 };
    let others = table_value * shape.max_context * shape.head_dim + if shape.tied { 0 } else { 2 * shape.embedding() };
    GraphWeights {
        float_products: if is_float { products } else { 0 },
        block_products: if is_float { 0 } else { products },
        others,
        shared: if shape.tied { head } else { 0 },
        inline: if stored < BUILT_IN_MEMORY { products + others } else { 0 },
        kv_value: table_value,
        in_place: true,
    }
}
