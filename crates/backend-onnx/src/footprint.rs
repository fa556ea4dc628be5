//! How much memory a model takes on this engine: ONNX Runtime maps the graph's data and copies what products multiply by into an order
//! of its own ("prepacking"); what is copied is unmapped, what something else reads too stays. `cache` grows one tensor at a time.

mod encoding;
mod graph;

use std::num::Saturating;

use tandem_core::DType;
use tandem_core::backend::Kernels;
use tandem_core::cache::MADE_IN_MEMORY;
use tandem_core::footprint::{Count, Decoding, Footprint, ModelShape, Part, Workload, weight_bytes};
use tandem_core::kv_memory::resident_tokens;
use tandem_core::sequence::PREFILL_CHUNK;

pub(crate) use self::encoding::{Attention, encoder_footprint};
pub(crate) use self::graph::GraphFootprint;

/// The library with its tables, the program, and what allocators keep: the demo's peak without the demo, measured on Linux.
const ENGINE: Count = Saturating(47_000_000);

/// Values of a token between layers that are there at once, in hidden and feed-forward widths: a residual, its norm and a sum; gate, up
/// and their product, in the engine's tensors and in the packed form that products of matrices read.
const RESIDUALS: Count = Saturating(6);
const INNER: Count = Saturating(6);

/// Of the KV cache, in hundredths: itself, and the holes that outgrown buffers leave in the allocator's memory, where it is not in blocks.
/// Measured: 102 to 113.
const KV_WITH_HOLES: Count = Saturating(110);

/// Copies of quantised weights, in hundredths of codes and scales. To 4 bits, sums of blocks are added, as many as there are scales
/// (`MlasQNBitGemmPackQuantBData`). 8 bits were measured: 98 to 111.
const PACKED_4_BITS: Count = Saturating(120);
const PACKED_8_BITS: Count = Saturating(106);

const HUNDRED: Count = Saturating(100);

/// What a model of `shape` with `graph` takes.
pub(crate) fn footprint(shape: &ModelShape, graph: &GraphFootprint, dtype: DType, workload: &Workload) -> Footprint {
    let n_tokens = Saturating(workload.n_tokens as u64);
    let chunk = n_tokens.min(Saturating(PREFILL_CHUNK as u64));
    Footprint {
        kept: vec![
            Part::own("weights, packed for products", packed(graph, dtype)),
            Part::own("weights within the graph's file", graph.inline),
            Part::own("weights, moved into huge pages", moved(graph)),
            Part::file(mapped_name(graph), mapped(graph) - moved(graph)),
            shape.tokenizer(),
            Part::own("engine", ENGINE),
        ],
        // Each weight is unmapped when its copy is made.
        loading: Vec::new(),
        running: vec![
            Part::own(
                "KV cache",
                shape.kv_bytes(Saturating(resident_tokens(n_tokens.0)), graph.kv_value) * KV_WITH_HOLES / HUNDRED,
            ),
            Part::own("activations", Saturating(4) * chunk * between(shape) * copies(graph)),
            shape.logits(),
        ],
        decoding: Decoding { bytes_per_token: (graph.float_products + graph.block_products).0, efficiency: efficiency(dtype) },
    }
}

/// Of the memory's bandwidth. Measured with random weights in the shape of Qwen2.5-0.5B: 0.69 (AVX-512) and 0.94 (AVX2) in f32, 0.48 (AVX2) in
/// int4, each with the bandwidth of the same run; products of whole numbers unpack codes between loads. The figure of int8 lies between.
fn efficiency(dtype: DType) -> f64 {
    match dtype {
        DType::Int4 => 0.45,
        DType::Int8 => 0.55,
        _ => 0.80,
    }
}

/// Values between layers for one token.
fn between(shape: &ModelShape) -> Count {
    RESIDUALS * shape.hidden_size + shape.query_size() + Saturating(2) * shape.kv_size() + INNER * shape.intermediate_size
}

/// How often what lies between layers is there: Tandem's operators hold what is between the steps of a node beside the engine's tensors.
/// Measured: 1.1 to 1.2 for Qwen2.5-0.5B, and 3.8 for Qwen3-0.6B while its norms of queries and keys were nodes of their own.
fn copies(graph: &GraphFootprint) -> Count {
    Saturating(if graph.custom_products.0 > 0 { 2 } else { 1 })
}

/// Copies of what products multiply by: floats are as large in panels of 16 columns.
fn packed(graph: &GraphFootprint, dtype: DType) -> Count {
    let blocks = if dtype == DType::Int8 { PACKED_8_BITS } else { PACKED_4_BITS };
    graph.float_products + (graph.block_products - graph.custom_products) * blocks / HUNDRED
}

/// What stays in its file. What lies within the graph's own is copied out of it.
fn mapped(graph: &GraphFootprint) -> Count {
    graph.custom_products + graph.shared + graph.others - graph.inline
}

/// What of that does not stay there: whole huge pages are moved, which is nearly all.
fn moved(graph: &GraphFootprint) -> Count {
    if graph.moves { graph.custom_products.min(mapped(graph)) } else { Saturating(0) }
}

fn mapped_name(graph: &GraphFootprint) -> &'static str {
    let has_weights = graph.custom_products > moved(graph);
    if has_weights { "weights, embedding and tables" } else { "embedding and tables" }
}

/// Bytes of a weight as a checkpoint of `shape` has most of them.
fn stored_value(shape: &ModelShape) -> Count {
    let head = if shape.tied { Saturating(0) } else { shape.embedding() };
    let n = shape.projections() + shape.embedding() + head;
    Saturating(if shape.stored_bytes > Saturating(3) * n { 4 } else { 2 })
}

fn is_float(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F16 | DType::Bf16)
}

impl GraphFootprint {
    /// The graph that is made of a checkpoint (`tandem-onnx-graph`, `build`): a tied head shares the embedding, another embedding stays
    /// as the checkpoint has it.
    pub(crate) fn of_checkpoint(shape: &ModelShape, dtype: DType, kernels: Kernels) -> Self {
        let is_float = is_float(dtype);
        let is_own = kernels == Kernels::Tandem && (!is_float || dtype == DType::F32);
        let bytes = |n: Count| match is_own && is_float {
            true => stored_value(shape) * n,
            false => weight_bytes(dtype, n),
        };
        let head = bytes(shape.embedding());
        let products = bytes(shape.projections()) + head;
        let table_value = Saturating(if dtype == DType::F16 { 2 } else { 4 });
        let zero = Saturating(0);
        let others =
            table_value * shape.max_context * shape.head_dim + if shape.tied { zero } else { Saturating(2) * shape.embedding() };
        Self {
            float_products: if is_float && !is_own { products } else { zero },
            block_products: if is_float && !is_own { zero } else { products },
            custom_products: if is_own { products } else { zero },
            others,
            shared: if shape.tied && !is_own { head } else { zero },
            inline: if shape.stored_bytes.0 < MADE_IN_MEMORY { products + others } else { zero },
            kv_value: table_value,
            moves: false,
        }
    }

    /// The same where weights that are read in a file are moved into huge pages, if a load `asks` for these.
    pub(crate) fn with_huge_pages(self, asks: bool) -> Self {
        Self { moves: asks && cfg!(target_os = "linux"), ..self }
    }
}

#[cfg(test)]
mod tests;
