//! Footprints near what runs took.

use std::num::Saturating;

use tandem_core::DType;
use tandem_core::backend::{Kernels, KvDType, Numerics};
use tandem_core::conformance::{MeasuredPeak, check_footprints, published_shape};
use tandem_core::footprint::{ModelShape, Part, Workload};

use super::{Attention, GraphFootprint, encoder_footprint};

const MEASURED: [MeasuredPeak; 18] = [
    ("demo", DType::F32, 499, 512, 63),
    ("demo", DType::F32, 1008, 1024, 63),
    ("demo", DType::Int8, 499, 512, 56),
    ("demo", DType::Int8, 1008, 1024, 59),
    ("demo", DType::Int4, 499, 512, 54),
    ("demo", DType::Int4, 1008, 1024, 56),
    ("qwen2.5-0.5b", DType::F32, 498, 512, 1163),
    ("qwen2.5-0.5b", DType::F32, 7992, 8192, 1476),
    ("qwen2.5-0.5b", DType::Int8, 498, 512, 776),
    ("qwen2.5-0.5b", DType::Int8, 7992, 8192, 777),
    ("qwen2.5-0.5b", DType::Int4, 498, 512, 428),
    ("qwen2.5-0.5b", DType::Int4, 7992, 8192, 531),
    ("qwen3-0.6b", DType::F32, 498, 512, 1462),
    ("qwen3-0.6b", DType::F32, 7992, 8192, 3389),
    ("qwen3-0.6b", DType::Int8, 498, 512, 865),
    ("qwen3-0.6b", DType::Int8, 7989, 8192, 1854),
    ("qwen3-0.6b", DType::Int4, 498, 512, 558),
    ("qwen3-0.6b", DType::Int4, 7989, 8192, 1571),
];

#[test]
fn footprints_are_within_a_tenth_of_measured_peaks() {
    check_footprints(&crate::OnnxBackend::new(None), &MEASURED, |dtype| KvDType::by_default(dtype, Numerics::Fast).dtype());
}

/// Peaks of random weights in the shapes of all-MiniLM-L6-v2, MPNet (2 layers), ModernBERT (4) and EmbeddingGemma (6), of which the last three
/// have a vocabulary of 3,000; runs of 2,048 tokens in texts of so many.
#[test]
fn encoder_footprints_are_within_a_fifth_of_measured_peaks() {
    let minilm = ModelShape {
        vocab_size: Saturating(30_522),
        hidden_size: Saturating(384),
        intermediate_size: Saturating(1536),
        n_mlp_matrices: Saturating(2),
        n_layers: Saturating(6),
        n_heads: Saturating(12),
        n_kv_heads: Saturating(12),
        head_dim: Saturating(32),
        tied: true,
        generates: false,
        max_context: Saturating(512),
        stored_bytes: Saturating(90_000_000),
        tokenizer_bytes: Saturating(0),
    };
    let mpnet = ModelShape {
        vocab_size: Saturating(3000),
        hidden_size: Saturating(768),
        intermediate_size: Saturating(3072),
        n_layers: Saturating(2),
        head_dim: Saturating(64),
        ..minilm
    };
    let modernbert =
        ModelShape { intermediate_size: Saturating(1152), n_mlp_matrices: Saturating(3), n_layers: Saturating(4), ..mpnet };
    let gemma = ModelShape {
        n_layers: Saturating(6),
        n_heads: Saturating(3),
        n_kv_heads: Saturating(1),
        head_dim: Saturating(256),
        ..modernbert
    };
    for (shape, dtype, n_tokens, attention, measured) in [
        (minilm, DType::F32, 32, Attention::Blocks, 136),
        (minilm, DType::F32, 512, Attention::Blocks, 139),
        (minilm, DType::F32, 512, Attention::Whole, 246),
        (minilm, DType::Int8, 512, Attention::Blocks, 115),
        (mpnet, DType::F32, 512, Attention::Whole, 281),
        (modernbert, DType::F32, 512, Attention::Whole, 317),
        (modernbert, DType::F32, 2048, Attention::Whole, 670),
        (gemma, DType::F32, 2048, Attention::Whole, 381),
    ] {
        let graph = GraphFootprint::of_encoder(&shape, dtype, attention, Kernels::Runtime);
        let workload = Workload { n_tokens, context_length: n_tokens };
        let footprint = encoder_footprint(&shape, &graph, dtype, attention, &workload);
        // Rows of the table of words that no text has are not in memory.
        let is_table = |part: &&Part| part.is_file;
        let planned = footprint.sum() - footprint.parts().filter(is_table).map(|part| part.bytes).sum::<u64>() / 2;
        let ratio = planned as f64 / f64::from(measured) / 1e6;
        assert!((0.8..1.2).contains(&ratio), "{n_tokens} tokens at {dtype}: {planned}, and {measured} MB were measured");
    }
}

#[test]
fn weights_in_huge_pages_are_not_those_of_a_file() {
    let shape = published_shape("qwen2.5-0.5b");
    let of = |asks| {
        let graph = GraphFootprint::of_checkpoint(&shape, DType::Int4, Kernels::Tandem).with_huge_pages(asks);
        let footprint = super::footprint(&shape, &graph, DType::Int4, &Workload { n_tokens: 512, context_length: 512 });
        let of_files = footprint.parts().filter(|part| part.is_file).map(|part| part.bytes).sum::<u64>();
        (graph.custom_products.0, of_files, footprint.sum())
    };
    let ((products, mapped, sum), (_, left, moved)) = (of(false), of(true));
    assert_eq!(sum, moved, "the sum is the same");
    assert_eq!(mapped - left, if cfg!(target_os = "linux") { products } else { 0 });
}

#[test]
fn long_texts_in_parts_take_memory_in_proportion() {
    let shape = published_shape("qwen3-0.6b");
    let graph = GraphFootprint::of_encoder(&shape, DType::F32, Attention::Parts, Kernels::Tandem);
    let of = |n_tokens, attention| {
        encoder_footprint(&shape, &graph, DType::F32, attention, &Workload { n_tokens, context_length: n_tokens }).sum()
    };
    let grows = |attention| (of(16_384, attention) - of(8192, attention)) / (of(8192, attention) - of(4096, attention));
    assert_eq!([Attention::Parts, Attention::Blocks, Attention::Whole].map(grows), [2, 2, 3]);
}
