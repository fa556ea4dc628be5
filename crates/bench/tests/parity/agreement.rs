//! The demo model and the goldens on both engines, in f32 and quantised.

use tandem_bench::parity::Relation;
use tandem_core::backend::Numerics;
use tandem_core::{BackendKind, DType};

use crate::support::{Loaded, assert_passes, quick, skips};

/// f32 on both engines at the strict gate, then every quantised candidate against f32 of the same weights.
fn check(model: &str) {
    if skips() {
        return;
    }
    let load = |backend, dtype, numerics| Loaded::new(model, backend, dtype, numerics);
    let reference = load(BackendKind::Candle, DType::F32, Numerics::Fast);
    let strict = assert_passes(&reference, &load(BackendKind::Onnx, DType::F32, Numerics::Fast), quick());
    let logits = strict.logits.measured.unwrap();
    assert!(logits.max_abs <= 5e-3 && logits.cosine_min >= 0.999_999, "the promise of the strict gate itself");
    assert!(logits.prompts.len() >= 32, "{} prompts", logits.prompts.len());
    assert_eq!(strict.weights.measured.unwrap().relation, Relation::Same);
    for dtype in [DType::Int8, DType::Int4] {
        for backend in [BackendKind::Candle, BackendKind::Onnx] {
            for numerics in [Numerics::Exact, Numerics::Fast] {
                assert_passes(&reference, &load(backend, dtype, numerics), quick());
            }
        }
    }
}

#[test]
fn demo() {
    check("demo");
}

#[test]
fn qwen2_tied() {
    check("qwen2-tied");
}

#[test]
fn qwen2_untied() {
    check("qwen2-untied");
}

#[test]
fn qwen3() {
    check("qwen3");
}

#[test]
fn llama3_rope() {
    check("llama3-rope");
}

#[test]
fn llama_yarn() {
    check("llama-yarn");
}

#[test]
fn llama_linear() {
    check("llama-linear");
}

#[test]
fn mistral() {
    check("mistral");
}
