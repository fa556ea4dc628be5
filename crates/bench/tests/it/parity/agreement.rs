//! The demo model and every golden on every engine that runs it, in each dtype that it runs.

use tandem_backend_onnx::OnnxBackend;
use tandem_bench::parity::{ParityOptions, Relation, Verdict};
use tandem_core::backend::Numerics;
use tandem_core::{Backend, BackendKind, DType, Error, LoadOptions};

use crate::support::{Loaded, assert_passes, golden, quick, skips};

const BOTH: &[BackendKind] = &[BackendKind::Candle, BackendKind::Onnx];

/// Families of which ONNX Runtime's backend makes no graph.
const CANDLE_ALONE: &[BackendKind] = &[BackendKind::Candle];

/// f32 on every engine at the strict gate, then every other candidate against f32 of the same weights.
fn check(model: &str, engines: &[BackendKind]) {
    if skips() {
        return;
    }
    let load = |backend, dtype, numerics| Loaded::new(model, backend, dtype, numerics);
    let reference = load(BackendKind::Candle, DType::F32, Numerics::Fast);
    for &engine in engines {
        let strict = assert_passes(&reference, &load(engine, DType::F32, Numerics::Fast), quick());
        let logits = strict.logits.measured.unwrap();
        assert!(logits.max_abs <= 5e-3 && logits.cosine_min >= 0.999_999, "the promise of the strict gate itself");
        assert!(logits.prompts.len() >= 32, "{} prompts", logits.prompts.len());
        assert_eq!((strict.verdict, strict.weights.measured.unwrap().relation), (Verdict::Same, Relation::Same));
    }
    // What a trained model loses is judged on the whole corpus: the perplexity of a few beginnings is chance.
    let options = || match model {
        "demo" => ParityOptions { most_tokens: ParityOptions::default().most_tokens, ..quick() },
        _ => quick(),
    };
    if engines.contains(&BackendKind::Onnx) {
        assert_passes(&reference, &load(BackendKind::Onnx, DType::F16, Numerics::Fast), options());
    }
    for dtype in [DType::Int8, DType::Int4] {
        for &engine in engines {
            for numerics in [Numerics::Exact, Numerics::Fast] {
                assert_passes(&reference, &load(engine, dtype, numerics), options());
            }
        }
    }
}

/// A test for each model, and the names of all.
macro_rules! compared {
    ($($test:ident: $model:literal on $engines:ident,)+) => {
        const COMPARED: &[(&str, &[BackendKind])] = &[$(($model, $engines)),+];

        $(
            #[test]
            fn $test() {
                check($model, $engines);
            }
        )+
    };
}

compared! {
    demo: "demo" on BOTH,
    qwen2_tied: "qwen2-tied" on BOTH,
    qwen2_untied: "qwen2-untied" on BOTH,
    qwen3: "qwen3" on BOTH,
    llama3_rope: "llama3-rope" on BOTH,
    llama_yarn: "llama-yarn" on BOTH,
    llama_linear: "llama-linear" on BOTH,
    mistral: "mistral" on BOTH,
    onnx_community: "onnx-community" on BOTH,
    llama_head24: "llama-head24" on BOTH,
    qwen3_head128: "qwen3-head128" on BOTH,
    mistral_window: "mistral-window" on BOTH,
    gemma2: "gemma2" on CANDLE_ALONE,
    gemma2_window: "gemma2-window" on CANDLE_ALONE,
    gemma3: "gemma3" on CANDLE_ALONE,
    phi3: "phi3" on CANDLE_ALONE,
    phi3_window: "phi3-window" on CANDLE_ALONE,
}

#[test]
fn families_of_candle_alone_are_refused_by_onnx() {
    if skips() {
        return;
    }
    for (name, _) in COMPARED.iter().filter(|(_, engines)| *engines == CANDLE_ALONE) {
        let files = Loaded::new(name, BackendKind::Candle, DType::F32, Numerics::Fast).files;
        let refused = OnnxBackend::new(None).load(&files, &LoadOptions::default()).map(|_| ());
        assert!(matches!(refused, Err(Error::Unsupported { .. })), "`{name}`: {refused:?}");
    }
}

#[test]
fn every_golden_is_compared() {
    let entries = std::fs::read_dir(golden("")).unwrap().map(|entry| entry.unwrap());
    for entry in entries.filter(|entry| entry.path().join("config.json").is_file()) {
        let name = entry.file_name().into_string().unwrap();
        assert!(COMPARED.iter().any(|(model, _)| *model == name), "`{name}` is not compared");
    }
}
