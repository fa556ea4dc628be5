//! Sessions that share runs of a graph get what each gets alone, to the bit.

use std::num::NonZeroUsize;
use std::sync::Arc;

use tandem_backend_onnx::{OnnxBackend, library};
use tandem_core::adapter::ScaledAdapter;
use tandem_core::backend::{Append, Backend, Capability, Kernels, KvDType, Numerics};
use tandem_core::conformance::{
    adapter_of_two_modules, batches_have_the_bits_of_each_alone, describe, parts_have_the_bits_of_whole_prompts, session_of,
    text, with_fixture,
};
use tandem_core::files::ModelFiles;
use tandem_core::named::Named;
use tandem_core::{DType, Error, LoadOptions, Logits, LogitsRequest, Model, OnnxOptions, Session, SessionOptions, TokenId};

use crate::export::checkpoints::{Checkpoint, golden};

fn options(dtype: DType, numerics: Numerics, threads: usize) -> LoadOptions {
    LoadOptions::new().with_dtype(dtype).with_numerics(numerics).with_threads(NonZeroUsize::new(threads).unwrap())
}

fn load(name: &str, options: &LoadOptions) -> Arc<dyn Model> {
    let files = ModelFiles::discover(&golden(name), name).unwrap();
    OnnxBackend::new(None).load(&files, options).unwrap_or_else(|error| panic!("{name}: {}", describe(&error)))
}

fn with_engine(test: fn()) {
    with_fixture(|| library::find(None).map_err(|error| describe(&error)), |_| test());
}

/// The engine's own products of floats give each row the same bits in any number of rows, or so they did on every processor that ran this.
const DTYPES: [(DType, Numerics); 4] =
    [(DType::F32, Numerics::Exact), (DType::Int8, Numerics::Fast), (DType::Int4, Numerics::Fast), (DType::Int4, Numerics::Exact)];

#[test]
fn batched_sessions_get_the_bits_of_each_alone() {
    with_engine(|| {
        for name in ["qwen2-tied", "qwen3", "llama3-rope", "mistral-window", "llama-head24"] {
            for ((dtype, numerics), threads) in DTYPES.into_iter().flat_map(|each| [(each, 1), (each, 2)]) {
                let model = load(name, &options(dtype, numerics, threads));
                batches_have_the_bits_of_each_alone(&*model, &format!("{name}, {dtype}, {numerics:?}, {threads} threads"));
            }
        }
    });
}

#[test]
fn batches_of_either_kv_dtype_and_of_the_engines_kernels_have_the_bits_of_each_alone() {
    with_engine(|| {
        for dtype in [DType::F32, DType::Int4] {
            for kv_dtype in KvDType::ALL {
                let options = options(dtype, Numerics::Fast, 2).with_kv_dtype(*kv_dtype);
                batches_have_the_bits_of_each_alone(
                    &*load("qwen2-tied", &options),
                    &format!("{dtype} with keys and values of {kv_dtype}"),
                );
            }
            let runtime = options(dtype, Numerics::Fast, 2).with_onnx(OnnxOptions::new().with_kernels(Kernels::Runtime));
            batches_have_the_bits_of_each_alone(&*load("qwen2-tied", &runtime), &format!("{dtype} with the engine's kernels"));
        }
    });
}

#[test]
fn batches_of_published_graphs_have_the_bits_of_each_alone() {
    with_engine(|| {
        for (name, graph) in [
            ("qwen2-untied", "genai_f32/model.onnx"),
            ("qwen3", "genai_int4/model.onnx"),
            ("mistral", "genai_int4/model.onnx"),
            ("qwen3", "optimum_f32/model.onnx"),
            ("llama3-rope", "optimum_int8/model.onnx"),
            ("onnx-community", "model.onnx"),
            ("onnx-community", "model_q4.onnx"),
            ("onnx-community", "model_q4f16.onnx"),
        ] {
            let path = golden(name).join("onnx").join(graph);
            batches_have_the_bits_of_each_alone(
                &*load(name, &LoadOptions::new().with_onnx(OnnxOptions::new().with_graph(path))),
                &format!("{name}, {graph}"),
            );
        }
    });
}

#[test]
fn batched_sessions_with_an_adapter_get_the_bits_of_each_alone() {
    with_engine(|| {
        for dtype in [DType::F32, DType::Int4] {
            let model = load("qwen2-untied", &options(dtype, Numerics::Fast, 2));
            let config = ModelFiles::discover(&golden("qwen2-untied"), "model").unwrap().model_config().unwrap();
            let adapter = adapter_of_two_modules(&config);
            let adapted = model.with_adapters(&[ScaledAdapter::new(adapter)]).unwrap();
            batches_have_the_bits_of_each_alone(&*adapted, &format!("adapted, {dtype}"));
            batches_have_the_bits_of_each_alone(&*model, &format!("beside an adapted one, {dtype}"));
        }
    });
}

#[test]
fn prompts_in_parts_have_the_bits_of_whole_ones() {
    with_engine(|| {
        for name in ["qwen2-tied", "qwen3", "llama3-rope", "mistral-window"] {
            for (dtype, numerics) in DTYPES {
                // In floats beyond the positions whose scores are there at a time.
                let n = if dtype == DType::F32 { 250 } else { 70 };
                let model = load(name, &options(dtype, numerics, 2));
                parts_have_the_bits_of_whole_prompts(&*model, n, &format!("{name}, {dtype}, {numerics:?}"));
            }
        }
        for kv_dtype in KvDType::ALL {
            let options = options(DType::Int4, Numerics::Fast, 1).with_kv_dtype(*kv_dtype);
            parts_have_the_bits_of_whole_prompts(&*load("qwen2-tied", &options), 250, &format!("keys and values of {kv_dtype}"));
        }
    });
}

#[test]
fn prompts_in_parts_of_published_graphs_have_the_bits_of_whole_ones() {
    with_engine(|| {
        for (name, graph) in
            [("qwen3", "genai_int4/model.onnx"), ("onnx-community", "model.onnx"), ("onnx-community", "model_q4.onnx")]
        {
            let path = golden(name).join("onnx").join(graph);
            let model = load(name, &LoadOptions::new().with_onnx(OnnxOptions::new().with_graph(path)));
            parts_have_the_bits_of_whole_prompts(&*model, 50, &format!("{name}, {graph}"));
        }
    });
}

#[test]
fn prompts_are_taken_in_parts_where_a_run_knows_of_sequences() {
    with_engine(|| {
        let takes_parts = |model: &dyn Model| model.info().capabilities.has(Capability::PromptParts);
        let plain = LoadOptions::new();
        assert!(!takes_parts(&*load("llama-head24", &plain)));
        let runtime = OnnxOptions::new().with_kernels(Kernels::Runtime);
        assert!(!takes_parts(&*load("qwen2-tied", &plain.clone().with_onnx(runtime))));
        let model = load("qwen2-untied", &plain);
        let config = ModelFiles::discover(&golden("qwen2-untied"), "model").unwrap().model_config().unwrap();
        let adapted = model.with_adapters(&[ScaledAdapter::new(adapter_of_two_modules(&config))]).unwrap();
        assert!(takes_parts(&*model));
        if takes_parts(&*adapted) {
            parts_have_the_bits_of_whole_prompts(&*adapted, 50, "adapted");
        }
    });
}

#[test]
fn forks_go_on_with_the_bits_of_the_session() {
    with_engine(|| {
        for kernels in [Kernels::Tandem, Kernels::Runtime] {
            for (name, graph) in [("qwen3", None), ("qwen3", Some("optimum_f32/model.onnx"))] {
                let graph = graph.map(|graph| golden(name).join("onnx").join(graph));
                let model = load(name, &LoadOptions::new().with_onnx(OnnxOptions::new().with_graph(graph).with_kernels(kernels)));
                let all = text(90, 1);
                let original = session_of(&*model, &all[..80]);
                for n in [0, 1, 33, 80] {
                    let mut fork = original.fork(n, &SessionOptions::new().with_context_length(100)).unwrap();
                    let mut fresh = session_of(&*model, &all[..80]);
                    fresh.rewind(n).unwrap();
                    let next = |session: &mut dyn Session| session.append(&all[n..], LogitsRequest::Last(1)).unwrap();
                    assert!(next(&mut *fork) == next(&mut *fresh), "{name}, {kernels}, {n} tokens");
                    // Room in whole blocks of 256 positions, or what is held.
                    assert!((90..=256).contains(&fork.reserved_tokens()));
                }
                assert_eq!(original.n_tokens(), 80);
            }
        }
    });
}

#[test]
fn batches_at_the_same_time_have_the_bits_of_each_alone() {
    with_engine(|| {
        for threads in [1, 3] {
            let model = load("qwen3", &options(DType::Int4, Numerics::Fast, threads));
            let batch = |first: usize| {
                let texts: Vec<Vec<TokenId>> = (first..first + 4).map(|seed| text(5 + seed % 40, seed)).collect();
                let mut sessions: Vec<_> = texts.iter().map(|_| session_of(&*model, &[3])).collect();
                let mut logits = vec![Logits::default(); texts.len()];
                let rows = sessions.iter_mut().zip(&mut logits).zip(&texts);
                let request = LogitsRequest::Last(1);
                let mut appends: Vec<Append<'_>> =
                    rows.map(|((session, logits), tokens)| Append::new(&mut **session, tokens, request, logits)).collect();
                model.append_batch(&mut appends).into_iter().for_each(|result| result.unwrap());
                logits
            };
            let alone: Vec<Logits> = (0..40)
                .map(|seed| session_of(&*model, &[3]).append(&text(5 + seed % 40, seed), LogitsRequest::Last(1)).unwrap())
                .collect();
            std::thread::scope(|scope| {
                for thread in 0..4 {
                    let (batch, alone) = (&batch, &alone);
                    scope.spawn(move || {
                        for first in (0..36).map(|i| (i * 7 + thread * 5) % 36) {
                            assert!(batch(first) == alone[first..first + 4], "{threads} threads, from {first} on");
                        }
                    });
                }
            });
        }
    });
}

/// A checkpoint of which token `LARGE` alone has keys that f16 cannot hold.
pub(crate) fn large_keys() -> Checkpoint {
    let mut checkpoint = Checkpoint::of_golden("qwen2-untied");
    let mut change = |name: &str, change: &dyn Fn(usize, usize, f32) -> f32| {
        let weight = checkpoint.weights.get_mut(name).unwrap_or_else(|| panic!("{name}"));
        let (columns, floats) = (weight.shape[1], weight.floats());
        let changed = floats.iter().enumerate().map(|(i, value)| change(i / columns, i % columns, *value));
        weight.bytes = changed.flat_map(f32::to_le_bytes).collect();
        weight.dtype = safetensors::Dtype::F32;
    };
    change("model.embed_tokens.weight", &|token, column, value| match column {
        0 if token == LARGE as usize => 1.0,
        0 => 0.0,
        _ => value,
    });
    change("model.layers.0.self_attn.k_proj.weight", &|_, column, value| if column == 0 { 1e7 } else { value });
    checkpoint
}

pub(crate) const LARGE: TokenId = 77;

#[test]
fn keys_of_one_row_that_do_not_fit_leave_the_others() {
    with_engine(|| {
        let directory = tempfile::tempdir().unwrap();
        large_keys().write(directory.path());
        let files = ModelFiles::discover(directory.path(), "large").unwrap();
        let options = options(DType::F32, Numerics::Fast, 2).with_kv_dtype(KvDType::F16);
        let model = OnnxBackend::new(None).load(&files, &options).unwrap_or_else(|error| panic!("{}", describe(&error)));
        let texts = [vec![5, 6, 7], vec![8, LARGE, 9], vec![1; 20], vec![2]];
        let mut sessions: Vec<_> = texts.iter().map(|_| session_of(&*model, &[3, 4])).collect();
        let mut logits = vec![Logits::default(); texts.len()];
        let rows = sessions.iter_mut().zip(&mut logits).zip(&texts);
        let request = LogitsRequest::Last(1);
        let mut appends: Vec<Append<'_>> =
            rows.map(|((session, logits), tokens)| Append::new(&mut **session, tokens, request, logits)).collect();
        let results = model.append_batch(&mut appends);
        for (i, result) in results.iter().enumerate() {
            match i {
                1 => assert!(matches!(result, Err(Error::BadKv { dtype: KvDType::F16, .. })), "{result:?}"),
                _ => assert!(result.is_ok(), "{result:?}"),
            }
        }
        assert_eq!(sessions.iter().map(|session| session.n_tokens()).collect::<Vec<_>>(), [5, 2, 22, 3]);
        for (i, text) in texts.iter().enumerate().filter(|(i, _)| *i != 1) {
            assert!(logits[i] == session_of(&*model, &[3, 4]).append(text, request).unwrap(), "row {i}");
        }
        let after = sessions[1].append(&[8, 9], request).unwrap();
        assert!(after == session_of(&*model, &[3, 4]).append(&[8, 9], request).unwrap(), "the row that failed goes on");
    });
}
