//! candle passes the suite on every golden checkpoint, and its hidden states are those of transformers.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a failed test is a panic")]

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use tandem_backend_candle::CandleBackend;
use tandem_core::backend::{Numerics, TokenBatch};
use tandem_core::conformance;
use tandem_core::conformance::{Fixture, Golden};
use tandem_core::files::ModelFiles;
use tandem_core::{CancelToken, DType, LoadOptions};

/// Those that our own decoder runs.
const CHECKPOINTS: [&str; 7] = ["qwen2-tied", "qwen2-untied", "qwen3", "llama3-rope", "llama-yarn", "llama-linear", "mistral"];

conformance!(qwen2_tied, || Ok(fixture("qwen2-tied", 2)));
conformance!(qwen2_untied, || Ok(fixture("qwen2-untied", 2)));
conformance!(qwen3, || Ok(fixture("qwen3", 2)));
conformance!(llama3_rope, || Ok(fixture("llama3-rope", 2)));
conformance!(llama_yarn, || Ok(fixture("llama-yarn", 2)));
conformance!(llama_linear, || Ok(fixture("llama-linear", 2)));
conformance!(mistral, || Ok(fixture("mistral", 2)));
conformance!(gemma2, || Ok(fixture("gemma2", 2)));
conformance!(gemma3, || Ok(fixture("gemma3", 2)));
conformance!(phi3, || Ok(fixture("phi3", 2)));
conformance!(qwen2_tied_int8, || Ok(quantized("qwen2-tied", DType::Int8, Numerics::Exact)));
conformance!(qwen3_int8, || Ok(quantized("qwen3", DType::Int8, Numerics::Exact)));
conformance!(qwen3_int8_fast, || Ok(quantized("qwen3", DType::Int8, Numerics::Fast)));
conformance!(qwen2_untied_int4, || Ok(quantized("qwen2-untied", DType::Int4, Numerics::Exact)));
conformance!(qwen2_untied_int4_fast, || Ok(quantized("qwen2-untied", DType::Int4, Numerics::Fast)));
conformance!(llama3_rope_int4, || Ok(quantized("llama3-rope", DType::Int4, Numerics::Exact)));
conformance!(mistral_int4, || Ok(quantized("mistral", DType::Int4, Numerics::Exact)));
conformance!(mistral_int4_fast, || Ok(quantized("mistral", DType::Int4, Numerics::Fast)));
conformance!(one_thread, || Ok(fixture("qwen3", 1)));
conformance!(five_threads, || Ok(fixture("qwen2-untied", 5)));

#[test]
fn hidden_states_match_golden() {
    for name in CHECKPOINTS {
        let fixture = fixture(name, 2);
        let (golden, model) = (fixture.golden.as_ref().unwrap(), fixture.load());
        let tensors = std::fs::read(directory(name).join("golden.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&tensors).unwrap();
        let prompts: Vec<&[u32]> = golden.prompts.iter().map(|prompt| prompt.ids.as_slice()).collect();
        let together = model.encode(&TokenBatch::new(&prompts).unwrap(), &CancelToken::new()).unwrap();
        assert_eq!(together.lengths, prompts.iter().map(|prompt| prompt.len()).collect::<Vec<_>>());
        let mut start = 0;
        for (i, prompt) in golden.prompts.iter().enumerate() {
            let expected: Vec<f32> = tensors
                .tensor(&format!("hidden.{i}"))
                .unwrap()
                .data()
                .as_chunks()
                .0
                .iter()
                .copied()
                .map(f32::from_le_bytes)
                .collect();
            let (first, end) = prompt.stored_positions;
            let computed = &together.values[(start + first) * together.hidden_size..(start + end) * together.hidden_size];
            start += prompt.ids.len();
            assert_eq!(computed.len(), expected.len());
            let scale = expected.iter().fold(0.0_f32, |max, v| max.max(v.abs()));
            for (computed, expected) in computed.iter().zip(&expected) {
                let difference = (computed - expected).abs() / scale;
                assert!(difference <= golden.tolerance, "{name} `{}`: {difference:e}", prompt.name);
            }
        }
    }
}

/// The goldens' weights lie on a grid that 4 bits hold: int4 is held to the tolerance of f32 where activations are not rounded.
fn quantized(name: &str, dtype: DType, numerics: Numerics) -> Fixture {
    let mut fixture = fixture(name, 2);
    (fixture.options.dtype, fixture.options.numerics) = (Some(dtype), numerics);
    let mut golden = Golden::read(&directory(name), if dtype == DType::Int8 { "optimum_int8" } else { Golden::MADE });
    if numerics == Numerics::Fast && dtype == DType::Int4 {
        // As far as the graph whose activations are rounded as well is from it.
        golden.tolerance = Golden::read(&directory(name), "genai_int4").tolerance;
    }
    // Eight bits do not hold that grid in every block.
    golden.greedy_equal &= dtype == DType::Int4 && numerics == Numerics::Exact;
    if numerics == Numerics::Fast {
        // What differs in its last bit may be rounded the other way: two ways to the same logits may each be that far from the golden.
        fixture.tolerance = 2.0 * golden.tolerance;
    }
    fixture.golden = Some(golden);
    fixture
}

fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens").join(name)
}

/// The checkpoint `name`, computed with so many threads.
fn fixture(name: &str, threads: usize) -> Fixture {
    Fixture {
        backend: Box::new(CandleBackend::new()),
        files: ModelFiles::discover(&directory(name), name).unwrap(),
        options: LoadOptions::new().with_threads(NonZeroUsize::new(threads)),
        // Chunks of other lengths sum in another order.
        tolerance: 2e-5,
        golden: Some(Golden::read(&directory(name), Golden::MADE)),
    }
}
