//! Footprints by the sizes of published models, and peaks that were measured to hold them to.

use std::num::Saturating;

use crate::backend::{Backend, DType};
use crate::footprint::{ModelShape, Workload, weight_bytes};

/// A peak that was measured: model, dtype, tokens held, `--context`, and MB of `tandem run … --json` (`peak_rss_bytes`), each in a
/// process of its own, with the graph in the cache. Two threads, Linux; the tokenizers of the checkpoints of random weights have 2.7 MB.
pub type MeasuredPeak = (&'static str, DType, usize, usize, u64);

/// How far a sum may be from what was measured, as a share.
const TOLERANCE: f64 = 0.10;

/// Holds the footprints of `backend` to `measured` peaks, and to what is true of all: more of anything takes more. `kv_dtype` says in what
/// keys and values are held beside weights of a dtype.
pub fn check_footprints(backend: &dyn Backend, measured: &[MeasuredPeak], kv_dtype: impl Fn(DType) -> DType) {
    for &(name, dtype, n_tokens, context_length, peak) in measured {
        let workload = Workload { n_tokens, context_length };
        let planned = backend.footprint(&published_shape(name), dtype, &workload).sum() as f64 / 1e6;
        let off = planned / peak as f64 - 1.0;
        assert!(off.abs() < TOLERANCE, "{name} {dtype} {n_tokens}: {planned:.0} for {peak} MB, {:+.1} %", 100.0 * off);
    }
    let of = |shape: &ModelShape, dtype, n| backend.footprint(shape, dtype, &Workload { n_tokens: n, context_length: n });
    let shape = published_shape("qwen3-0.6b");
    let twice = ModelShape {
        n_layers: Saturating(2) * shape.n_layers,
        hidden_size: Saturating(2) * shape.hidden_size,
        stored_bytes: Saturating(4) * shape.stored_bytes,
        ..shape
    };
    let hostile = {
        let n = Saturating(u64::MAX);
        let (vocab_size, hidden_size, intermediate_size, n_layers, n_heads, n_kv_heads, head_dim) = (n, n, n, n, n, n, n);
        let attention =
            ModelShape { vocab_size, hidden_size, intermediate_size, n_layers, n_heads, n_kv_heads, head_dim, ..shape };
        ModelShape { tied: false, max_context: n, stored_bytes: n, tokenizer_bytes: n, ..attention }
    };
    for dtype in [DType::F32, DType::F16, DType::Bf16, DType::Int8, DType::Int4] {
        // Sizes that a damaged file states do not make a plan small.
        assert_eq!(of(&hostile, dtype, usize::MAX).sum(), u64::MAX, "{dtype}");
    }
    for dtype in [DType::F32, DType::Int8, DType::Int4] {
        let footprint = of(&shape, dtype, 512);
        let running = |n| of(&shape, dtype, n).running.iter().map(|part| part.bytes).sum::<u64>();
        // 28 layers of 8 heads of 128, keys and values.
        let kv_bytes = 28 * 8 * 128 * 2 * weight_bytes(kv_dtype(dtype), Saturating(1)).0;
        assert!(running(8192) - running(512) >= (8192 - 512) * kv_bytes, "{dtype}");
        assert!(of(&twice, dtype, 512).sum() > 2 * footprint.sum(), "{dtype}");
    }
    let [f32, int8, int4] = [DType::F32, DType::Int8, DType::Int4].map(|dtype| of(&shape, dtype, 512).sum());
    assert!(f32 > int8 && int8 > int4, "{f32} {int8} {int4}");
}

/// The sizes of `demo`, `qwen2.5-0.5b` or `qwen3-0.6b`, as published.
pub fn published_shape(name: &str) -> ModelShape {
    let qwen3 = ModelShape {
        vocab_size: Saturating(151_936),
        hidden_size: Saturating(1024),
        intermediate_size: Saturating(3072),
        n_mlp_matrices: Saturating(3),
        n_layers: Saturating(28),
        n_heads: Saturating(16),
        n_kv_heads: Saturating(8),
        head_dim: Saturating(128),
        tied: true,
        generates: true,
        max_context: Saturating(40_960),
        stored_bytes: Saturating(2 * 596_049_920),
        tokenizer_bytes: Saturating(2_712_316),
    };
    match name {
        "qwen3-0.6b" => qwen3,
        "qwen2.5-0.5b" => ModelShape {
            hidden_size: Saturating(896),
            intermediate_size: Saturating(4864),
            n_layers: Saturating(24),
            n_heads: Saturating(14),
            n_kv_heads: Saturating(2),
            head_dim: Saturating(64),
            max_context: Saturating(32_768),
            stored_bytes: Saturating(2 * 494_032_768),
            ..qwen3
        },
        "demo" => ModelShape {
            vocab_size: Saturating(1024),
            hidden_size: Saturating(128),
            intermediate_size: Saturating(384),
            n_layers: Saturating(6),
            n_heads: Saturating(4),
            n_kv_heads: Saturating(2),
            head_dim: Saturating(32),
            max_context: Saturating(1024),
            stored_bytes: Saturating(2_628_000),
            tokenizer_bytes: Saturating(54_791),
            ..qwen3
        },
        other => panic!("the sizes of `{other}` are not written down here"),
    }
}
