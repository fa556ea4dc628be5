//! The demo model and the goldens on both engines, in f32 and quantised.

use tandem_backend_onnx::OnnxBackend;
use tandem_bench::parity::{ParityOptions, Relation, Verdict};
use tandem_core::backend::Numerics;
use tandem_core::{Backend, BackendKind, DType, LoadOptions};

use crate::support::{Loaded, assert_passes, golden, quick, skips};

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
    assert_eq!((strict.verdict, strict.weights.measured.unwrap().relation), (Verdict::Same, Relation::Same));
    // What a trained model loses is judged on the whole corpus: the perplexity of a few beginnings is chance.
    let options = || match model {
        "demo" => ParityOptions { most_tokens: ParityOptions::default().most_tokens, ..quick() },
        _ => quick(),
    };
    for dtype in [DType::Int8, DType::Int4] {
        for backend in [BackendKind::Candle, BackendKind::Onnx] {
            for numerics in [Numerics::Exact, Numerics::Fast] {
                assert_passes(&reference, &load(backend, dtype, numerics), options());
            }
        }
    }
}

/// A test for each model that both engines run, and their names.
macro_rules! compared {
    ($($test:ident: $model:literal,)+) => {
        const COMPARED: &[&str] = &[$($model),+];

        $(
            #[test]
            fn $test() {
                check($model);
            }
        )+
    };
}

compared! {
    demo: "demo",
    qwen2_tied: "qwen2-tied",
    qwen2_untied: "qwen2-untied",
    qwen3: "qwen3",
    llama3_rope: "llama3-rope",
    llama_yarn: "llama-yarn",
    llama_linear: "llama-linear",
    mistral: "mistral",
    onnx_community: "onnx-community",
    llama_head24: "llama-head24",
    qwen3_head128: "qwen3-head128",
    mistral_window: "mistral-window",
}

/// Families of which ONNX Runtime makes no graph: candle is held against itself.
const OF_CANDLE_ALONE: [&str; 5] = ["gemma2", "gemma2-window", "gemma3", "phi3", "phi3-window"];

#[test]
fn families_of_candle_alone_agree_with_themselves_and_are_refused_by_onnx() {
    if skips() {
        return;
    }
    for name in OF_CANDLE_ALONE {
        let load = || Loaded::new(name, BackendKind::Candle, DType::F32, Numerics::Fast);
        let pair = assert_passes(&load(), &load(), quick());
        assert_eq!(pair.verdict, Verdict::Same, "{name}");
        let refused = OnnxBackend::new(None).load(&load().files, &LoadOptions::default());
        assert!(refused.is_err(), "ONNX Runtime runs `{name}` now: compare it");
    }
}

#[test]
fn every_golden_is_compared() {
    let entries = std::fs::read_dir(golden("")).unwrap().map(|entry| entry.unwrap());
    for entry in entries.filter(|entry| entry.path().join("config.json").is_file()) {
        let name = entry.file_name().into_string().unwrap();
        assert!(COMPARED.contains(&&*name) || OF_CANDLE_ALONE.contains(&&*name), "`{name}` is not compared");
    }
}
