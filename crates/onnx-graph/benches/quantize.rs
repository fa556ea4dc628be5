//! A decoder layer made into a graph: copied as f32, and quantised to 8 and 4 bits. The difference between them is the quantising, which is
//! most of what an export does.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench that cannot start is a panic, and criterion writes its own functions"
)]

use std::borrow::Cow;
use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tandem_onnx_graph::{
    Blocks, BuildOptions, DecoderSpec, Outputs, RopeTable, SourceError, Weight, WeightFormat, WeightType, build_inline,
};

const HIDDEN: usize = 512;
const INNER: usize = 1408;
const HEAD: usize = 64;
const N_HEADS: usize = 8;
const N_KV_HEADS: usize = 2;
const VOCABULARY: usize = 256;

fn spec() -> DecoderSpec {
    DecoderSpec {
        name: "bench".into(),
        prefix: "model.".into(),
        n_layers: 1,
        vocab_size: VOCABULARY,
        hidden_size: HIDDEN,
        intermediate_size: INNER,
        n_heads: N_HEADS,
        n_kv_heads: N_KV_HEADS,
        head_dim: HEAD,
        rms_norm_eps: 1e-6,
        qkv_bias: false,
        qk_norm: false,
        attention_output_bias: false,
        mlp_bias: false,
        tie_word_embeddings: true,
        rope: RopeTable { inverse_frequencies: vec![1.0; HEAD / 2], attention_scaling: 1.0, n_positions: 64 },
        layer_windows: vec![None],
    }
}

/// Noise in the shape that the name implies.
fn weight(name: &str) -> Result<Weight<'static>, SourceError> {
    let shape = match name.rsplit('.').nth(1).unwrap_or_default() {
        "embed_tokens" => vec![VOCABULARY, HIDDEN],
        "q_proj" => vec![N_HEADS * HEAD, HIDDEN],
        "k_proj" | "v_proj" => vec![N_KV_HEADS * HEAD, HIDDEN],
        "o_proj" => vec![HIDDEN, N_HEADS * HEAD],
        "gate_proj" | "up_proj" => vec![INNER, HIDDEN],
        "down_proj" => vec![HIDDEN, INNER],
        _ => vec![HIDDEN],
    };
    let n: usize = shape.iter().product();
    let mut state = 1_u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / (1 << 24) as f32 - 0.5) * 0.04
    };
    let bytes = (0..n).flat_map(|_| noise().to_le_bytes()).collect();
    Ok(Weight { kind: WeightType::F32, shape, bytes: Cow::Owned(bytes) })
}

fn quantise(criterion: &mut Criterion) {
    let spec = spec();
    let n_weights = 2 * HIDDEN * HEAD * (N_HEADS + N_KV_HEADS) + 3 * HIDDEN * INNER;
    let mut group = criterion.benchmark_group("a layer of weights");
    group.sample_size(20).throughput(Throughput::Elements(n_weights as u64));
    for (name, format) in [("as f32", WeightFormat::F32), ("to int8", WeightFormat::Int8), ("to int4", WeightFormat::Int4)] {
        let options = BuildOptions {
            outputs: Outputs::Logits,
            weights: format,
            head: format,
            blocks: Blocks::default(),
            rows: None,
            adapter_inputs: false,
            metadata: Vec::new(),
        };
        group.bench_function(name, |bencher| {
            bencher.iter(|| black_box(build_inline(&spec, &options, &mut weight).unwrap()).len());
        });
    }
    group.finish();
}

criterion_group!(benches, quantise);
criterion_main!(benches);
