//! The conformance suite on every golden checkpoint, and hidden states against those of transformers.

use std::num::NonZeroUsize;

use safetensors::SafeTensors;
use tandem_backend_candle::CandleBackend;
use tandem_core::backend::{KvDType, Numerics, TokenBatch};
use tandem_core::conformance;
use tandem_core::conformance::{Fixture, Golden};
use tandem_core::files::ModelFiles;
use tandem_core::{CancelToken, DType, Device, LoadOptions};

use crate::golden;

/// What keys and values in f16 change of a logit, relative to the largest: 3.1e-3 was measured.
const ROUNDED_CACHE: f32 = 6e-3;

/// How far another order of sums may lead where the last bit of some keys and values is rounded the other way: 4.5e-5 was measured, and
/// 1.3e-4 with an adapter beside the merged model.
const ROUNDED_ORDER: f32 = 3e-4;

const CHECKPOINTS: [&str; 14] = [
    "qwen2-tied",
    "qwen2-untied",
    "qwen3",
    "qwen3-head128",
    "llama3-rope",
    "llama-yarn",
    "llama-linear",
    "mistral",
    "mistral-window",
    "gemma2",
    "gemma2-window",
    "gemma3",
    "phi3",
    "phi3-window",
];

conformance!(qwen2_tied, || Ok(fixture("qwen2-tied", 2)));
conformance!(qwen2_untied, || Ok(fixture("qwen2-untied", 2)));
conformance!(qwen3, || Ok(fixture("qwen3", 2)));
conformance!(llama3_rope, || Ok(fixture("llama3-rope", 2)));
conformance!(llama_yarn, || Ok(fixture("llama-yarn", 2)));
conformance!(llama_linear, || Ok(fixture("llama-linear", 2)));
conformance!(mistral, || Ok(fixture("mistral", 2)));
conformance!(gemma2, || Ok(fixture("gemma2", 2)));
conformance!(gemma2_window, || Ok(fixture("gemma2-window", 2)));
conformance!(gemma3, || Ok(fixture("gemma3", 2)));
conformance!(phi3, || Ok(fixture("phi3", 2)));
conformance!(phi3_window, || Ok(fixture("phi3-window", 2)));
conformance!(mistral_window, || Ok(fixture("mistral-window", 2)));
conformance!(qwen3_head128, || Ok(fixture("qwen3-head128", 2)));
conformance!(bert, || Ok(encoder("bert-mean", DType::F32)));
conformance!(bert_bf16, || Ok(encoder("bert-mean", DType::Bf16)));
conformance!(bert_int8, || Ok(encoder("bert-mean", DType::Int8)));
conformance!(modernbert, || Ok(encoder("modernbert", DType::F32)));
conformance!(qwen2_both_ways, || Ok(encoder("qwen2-bidirectional", DType::F32)));
conformance!(qwen2_tied_int8, || Ok(quantized("qwen2-tied", DType::Int8, Numerics::Exact)));
conformance!(qwen3_int8, || Ok(quantized("qwen3", DType::Int8, Numerics::Exact)));
conformance!(qwen3_int8_fast, || Ok(quantized("qwen3", DType::Int8, Numerics::Fast)));
conformance!(qwen2_untied_int4, || Ok(quantized("qwen2-untied", DType::Int4, Numerics::Exact)));
conformance!(qwen2_untied_int4_fast, || Ok(quantized("qwen2-untied", DType::Int4, Numerics::Fast)));
conformance!(llama3_rope_int4, || Ok(quantized("llama3-rope", DType::Int4, Numerics::Exact)));
conformance!(mistral_int4, || Ok(quantized("mistral", DType::Int4, Numerics::Exact)));
conformance!(gemma2_int4, || Ok(quantized("gemma2", DType::Int4, Numerics::Exact)));
conformance!(gemma3_int4, || Ok(quantized("gemma3", DType::Int4, Numerics::Exact)));
conformance!(phi3_int4, || Ok(quantized("phi3", DType::Int4, Numerics::Exact)));
conformance!(mistral_int4_fast, || Ok(quantized("mistral", DType::Int4, Numerics::Fast)));
conformance!(qwen3_f16_cache, || Ok(held_in_f16("qwen3", DType::F32)));
conformance!(qwen3_head128_f16_cache, || Ok(held_in_f16("qwen3-head128", DType::F32)));
conformance!(gemma2_window_f16_cache, || Ok(held_in_f16("gemma2-window", DType::F32)));
conformance!(phi3_window_f16_cache, || Ok(held_in_f16("phi3-window", DType::F32)));
conformance!(qwen2_tied_int8_f16_cache, || Ok(held_in_f16("qwen2-tied", DType::Int8)));
conformance!(qwen2_untied_int4_f16_cache, || Ok(held_in_f16("qwen2-untied", DType::Int4)));
conformance!(qwen3_int8_fast_f32_cache, || Ok(held_in_f32(quantized("qwen3", DType::Int8, Numerics::Fast))));
conformance!(mistral_int4_fast_f32_cache, || Ok(held_in_f32(quantized("mistral", DType::Int4, Numerics::Fast))));
conformance!(one_thread, || Ok(fixture("qwen3", 1)));
conformance!(five_threads, || Ok(fixture("qwen2-untied", 5)));

#[test]
fn hidden_states_match_golden() {
    for name in CHECKPOINTS {
        let fixture = fixture(name, 2);
        let (answers, model) = (fixture.golden.as_ref().unwrap(), fixture.load());
        let tensors = std::fs::read(golden(name).join("golden.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&tensors).unwrap();
        let prompts: Vec<&[u32]> = answers.prompts.iter().map(|prompt| prompt.ids.as_slice()).collect();
        let together = model.encode(&TokenBatch::new(&prompts).unwrap(), &CancelToken::new()).unwrap();
        assert_eq!(together.lengths, prompts.iter().map(|prompt| prompt.len()).collect::<Vec<_>>());
        let mut start = 0;
        for (i, prompt) in answers.prompts.iter().enumerate() {
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
                assert!(difference <= answers.tolerance, "{name} `{}`: {difference:e}", prompt.name);
            }
        }
    }
}

/// The checkpoint `name`, quantised. Weights of the goldens lie on a grid that 4 bits represent exactly, so int4 has the tolerance of f32
/// unless activations are quantised.
fn quantized(name: &str, dtype: DType, numerics: Numerics) -> Fixture {
    let mut fixture = fixture(name, 2);
    // Quantised weights are for the processor.
    fixture.options.device = Device::Cpu;
    (fixture.options.dtype, fixture.options.numerics) = (Some(dtype), numerics);
    let mut answers = Golden::read(&golden(name), if dtype == DType::Int8 { "optimum_int8" } else { Golden::MADE });
    if numerics == Numerics::Fast && dtype == DType::Int4 {
        // That of the graph whose activations are quantised as well.
        answers.tolerance = Golden::read(&golden(name), "genai_int4").tolerance;
    }
    // Eight bits do not represent that grid in every block.
    answers.greedy_equal &= dtype == DType::Int4 && numerics == Numerics::Exact;
    if numerics == Numerics::Fast {
        // Differences in the last bit may be rounded either way, so two computations may each be that far from the golden.
        fixture.tolerance = 2.0 * answers.tolerance;
    }
    fixture.golden = Some(answers);
    fixture
}

/// The checkpoint `name` in `dtype` with exact numerics, whose keys and values are rounded to f16: by that much its logits differ from those of
/// transformers.
fn held_in_f16(name: &str, dtype: DType) -> Fixture {
    let mut fixture = if dtype == DType::F32 { fixture(name, 2) } else { quantized(name, dtype, Numerics::Exact) };
    fixture.options.device = Device::Cpu;
    fixture.options.kv_dtype = Some(KvDType::F16);
    fixture.tolerance = fixture.tolerance.max(ROUNDED_ORDER);
    let answers = fixture.golden.as_mut().unwrap();
    answers.tolerance = answers.tolerance.max(ROUNDED_CACHE);
    fixture
}

fn held_in_f32(mut fixture: Fixture) -> Fixture {
    fixture.options.kv_dtype = Some(KvDType::F32);
    fixture
}

/// An embedder: the same bits in every batch. Its golden is of `embedders`.
fn encoder(name: &str, dtype: DType) -> Fixture {
    let directory = golden("embedders").join(name);
    let options = LoadOptions::new().with_device(Device::Cpu).with_threads(NonZeroUsize::new(2)).with_dtype(Some(dtype));
    Fixture {
        backend: Box::new(CandleBackend::new()),
        files: ModelFiles::discover(&directory, name).unwrap(),
        options,
        tolerance: 0.0,
        golden: None,
    }
}

/// The checkpoint `name`, computed with `threads` threads.
fn fixture(name: &str, threads: usize) -> Fixture {
    Fixture {
        backend: Box::new(CandleBackend::new()),
        files: ModelFiles::discover(&golden(name), name).unwrap(),
        options: LoadOptions::new().with_device(conformance::device_under_test()).with_threads(NonZeroUsize::new(threads)),
        // Chunks of different lengths add in a different order.
        tolerance: 2e-5,
        golden: Some(Golden::read(&golden(name), Golden::MADE)),
    }
}
