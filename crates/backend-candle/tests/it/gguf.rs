//! GGUF files: golden checkpoints in that format match the goldens, and every quantised type matches candle's own dequantisation.

pub(crate) mod files;
mod types;

use candle_core::quantized::GgmlDType;
use tandem_backend_candle::CandleBackend;
use tandem_core::backend::{KvDType, Numerics};
use tandem_core::conformance;
use tandem_core::conformance::{Fixture, Golden, describe, greedy_tokens_match_golden, logits_match_golden};
use tandem_core::embedding::{EmbedOptions, Embedder, EmbeddingConfig, Similarity};
use tandem_core::files::ModelFiles;
use tandem_core::gguf::TensorType;
use tandem_core::tokenizer::{SpecialTokens, Tokenizer};
use tandem_core::{Backend, DType, Error, LoadOptions, LogitsRequest, Model, Result, SessionOptions};

use self::files::{golden_in, model_files};
use crate::golden;

conformance!(qwen2_untied_f32, || Ok(fixture("qwen2-untied", TensorType::F32)));
conformance!(llama3_rope_f16, || Ok(fixture("llama3-rope", TensorType::F16)));
conformance!(qwen3_q8_0, || Ok(Fixture { golden: None, ..fixture("qwen3", TensorType::Q8_0) }));
conformance!(llama_yarn_q4_1, || Ok(Fixture { golden: None, ..fixture("llama-yarn", TensorType::Q4_1) }));

/// The golden checkpoint `name` as a GGUF file with matrices of `kind`, held to the golden: weights lie on a grid that F16 holds.
fn fixture(name: &str, kind: TensorType) -> Fixture {
    Fixture {
        backend: Box::new(CandleBackend::new()),
        files: model_files(&golden_in(name, kind), &format!("{name}-{kind}")),
        // Rounded keys and activations amplify another order of sums; `conformance` has caches of f16.
        options: LoadOptions::new().with_kv_dtype(KvDType::F32),
        tolerance: 2e-5,
        golden: Some(Golden::read(&golden(name), Golden::MADE)),
    }
}

#[test]
fn float_types_match_goldens() {
    for name in ["qwen2-tied", "qwen2-untied", "qwen3", "llama3-rope", "llama-yarn", "llama-linear", "mistral"] {
        for kind in [TensorType::F32, TensorType::Bf16] {
            let fixture = fixture(name, kind);
            assert_eq!(fixture.load().info().dtype, DType::F32);
            logits_match_golden(&fixture);
            greedy_tokens_match_golden(&fixture);
        }
    }
}

/// An embedding model as llama.cpp writes it: `pooling_type` 3 is the last token.
#[test]
fn gguf_of_an_embedding_model_embeds_as_sentence_transformers() {
    let embedder = |pooling: Option<u32>, kind, name: &str| {
        let mut writer = golden_in("embedders/qwen3", kind);
        pooling.into_iter().for_each(|pooling| writer.u32("qwen3.pooling_type", pooling));
        let files = model_files(&writer, name);
        let mut config = EmbeddingConfig::read(&files, &files.model_config()?, None)?;
        // `model_max_length` of the golden, of which a GGUF file says nothing.
        config.max_tokens = 64;
        let tokenizer = files.tokenizer.as_ref().unwrap().read(1 << 26)?;
        let model = CandleBackend::new().load(&files, &LoadOptions::default())?;
        Embedder::new(model, Tokenizer::from_json(&tokenizer, name)?, &files, config)
    };
    let expected = std::fs::read(golden("embedders/qwen3").join("expected.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_slice(&expected).unwrap();
    let case = &expected["cases"][0];
    let texts: Vec<String> = serde_json::from_value(case["texts"].clone()).unwrap();
    let vectors: Vec<Vec<f32>> = serde_json::from_value(case["embeddings"].clone()).unwrap();
    for (kind, least) in [(TensorType::F32, 0.999_999), (TensorType::Q8_0, 0.999)] {
        let embedder = embedder(Some(3), kind, &format!("embedder-{kind}")).unwrap();
        assert!(embedder.config().is_normalized() && embedder.config().pooling_name() == "lasttoken");
        let embeddings = embedder.embed(&texts, &EmbedOptions::default()).unwrap();
        for (i, (own, expected)) in embeddings.vectors().zip(&vectors).enumerate() {
            let ids = embedder.tokenize(&texts[i], &EmbedOptions::default()).unwrap().ids;
            assert_eq!(serde_json::json!(ids), case["token_ids"][i], "{:?}", texts[i]);
            let cosine = Similarity::Cosine.of(own, expected);
            assert!(cosine >= least, "{kind} {:?}: {cosine}", texts[i]);
        }
    }
    for (pooling, part) in
        [(None, "`qwen3.pooling_type`"), (Some(0), "generates text"), (Some(4), "reranker"), (Some(9), "known: 0 to 4")]
    {
        let error = embedder(pooling, TensorType::F32, "embedder-refused").unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn quantising_a_gguf_at_load_matches_quantising_the_checkpoint() {
    for dtype in [DType::Int8, DType::Int4] {
        let options = LoadOptions::new().with_dtype(dtype);
        let published = tandem_core::files::ModelFiles::discover(&golden("qwen3"), "qwen3").unwrap();
        let expected = logits(&*CandleBackend::new().load(&published, &options).unwrap());
        let model = load(&golden_in("qwen3", TensorType::F32), "qwen3-at-load", &options).unwrap();
        assert_eq!(model.info().dtype, dtype);
        assert_eq!(logits(&*model), expected);
    }
}

#[test]
fn info_reports_stored_types_and_what_they_run_as() {
    let types = |kind: TensorType, dtype: Option<DType>| {
        let options = LoadOptions::new().with_dtype(dtype);
        let model = load(&golden_in("qwen2-tied", kind), &format!("reported-{kind}"), &options).unwrap();
        let types = model.info().weight_types.iter().map(|t| format!("{}: {}", t.stored, t.runs_as)).collect::<Vec<_>>();
        (model.info().dtype, types.join("; "))
    };
    assert_eq!(types(TensorType::Q8_0, None), (DType::Int8, "F32: f32; Q8_0: int8".into()));
    assert_eq!(types(TensorType::Q4_1, None), (DType::Int4, "F32: f32; Q4_1: int4 with offsets".into()));
    assert_eq!(types(TensorType::Q4_0, Some(DType::F32)), (DType::F32, "F32: f32; Q4_0: f32".into()));
    assert_eq!(types(TensorType::F16, None), (DType::F32, "F32: f32; F16: f32".into()));
    assert_eq!(types(TensorType::F16, Some(DType::Int4)).0, DType::Int4);
}

#[test]
fn quantising_twice_is_refused() {
    for (kind, dtype, stored) in [
        (TensorType::Q8_0, DType::Int4, "`int8`"),
        (TensorType::Q4_0, DType::Int8, "`int4`"),
        (TensorType::F16, DType::F16, "dtype `f32`"),
    ] {
        let options = LoadOptions::new().with_dtype(dtype);
        let Err(error) = load(&golden_in("qwen2-tied", kind), &format!("twice-{kind}"), &options) else {
            panic!("{kind} as {dtype}")
        };
        assert!(matches!(error, Error::Unsupported { .. }), "{error:?}");
        let text = describe(&error);
        assert!(text.contains(stored) && text.contains("dtype `f32`"), "{text}");
    }
}

#[test]
fn mismatched_tensor_is_an_error_that_names_it() {
    let cases: [Case; 5] = [
        ("a missing norm", &|writer| writer.remove("output_norm.weight"), &["`output_norm.weight`", "no such tensor"]),
        ("a missing bias", &|writer| writer.remove("blk.1.attn_k.bias"), &["`blk.1.attn_k.bias`"]),
        (
            "another width",
            &|writer| writer.tensors.iter_mut().find(|t| t.name == "blk.0.ffn_up.weight").unwrap().dimensions.swap(0, 1),
            &["`blk.0.ffn_up.weight`", "metadata"],
        ),
        (
            "a layer too many",
            &|writer| {
                writer.remove("qwen2.block_count");
                writer.u32("qwen2.block_count", 3)
            },
            &["`blk.2."],
        ),
        (
            "a tensor of another model",
            &|writer| writer.tensor("blk.0.ffn_gate_inp.weight", &[1], TensorType::F32, vec![0; 4]),
            &["`blk.0.ffn_gate_inp.weight`", "no place"],
        ),
    ];
    for (what, change, parts) in cases {
        let mut writer = golden_in("qwen2-tied", TensorType::F32);
        change(&mut writer);
        let Err(error) = load(&writer, &what.replace(' ', "-"), &LoadOptions::default()) else { panic!("{what} is an error") };
        let text = describe(&error);
        assert!(parts.iter().all(|part| text.contains(part)), "{what}: {text}");
    }
}

/// A broken file: its description, the change that breaks it, and parts of the error.
type Case = (&'static str, &'static dyn Fn(&mut conformance::GgufWriter), &'static [&'static str]);

/// The logits of many tokens at once, and of one token after them.
fn logits(model: &dyn Model) -> Vec<f32> {
    let mut session = model.new_session(&SessionOptions::default()).unwrap();
    let n = model.info().vocab_size as u32;
    let tokens: Vec<u32> = (0..40).map(|i| i * 29 % n).collect();
    let many = session.append(&tokens, LogitsRequest::All).unwrap();
    let one = session.append(&[5], LogitsRequest::Last(1)).unwrap();
    [many.values(), one.values()].concat()
}

fn load(writer: &conformance::GgufWriter, name: &str, options: &LoadOptions) -> Result<std::sync::Arc<dyn Model>> {
    CandleBackend::new().load(&model_files(writer, name), options)
}

/// candle's name of a quantised type.
fn of_candle(kind: TensorType) -> Option<GgmlDType> {
    Some(match kind {
        TensorType::Q4_0 => GgmlDType::Q4_0,
        TensorType::Q4_1 => GgmlDType::Q4_1,
        TensorType::Q5_0 => GgmlDType::Q5_0,
        TensorType::Q5_1 => GgmlDType::Q5_1,
        TensorType::Q8_0 => GgmlDType::Q8_0,
        TensorType::Q4K => GgmlDType::Q4K,
        TensorType::Q5K => GgmlDType::Q5K,
        TensorType::Q6K => GgmlDType::Q6K,
        _ => return None,
    })
}

/// Files that llama.cpp's own converter wrote (`training/gguf/make.py`): the tokenizer, rows as published (Qwen2) and reordered, with a rope
/// scaling as a tensor (Llama), and blocks.
#[test]
fn files_of_llama_cpps_converter_match_goldens() {
    for (name, kind, dtype, tolerance) in [
        ("qwen2-tied", "f16", DType::F32, None),
        ("llama3-rope", "f16", DType::F32, None),
        ("llama3-rope", "q8_0", DType::Int8, Some(0.1)),
    ] {
        let files = ModelFiles::discover(&golden("gguf").join(format!("{name}-{kind}.gguf")), name).unwrap();
        let tokenizer = files.tokenizer.as_ref().unwrap().read(64 << 20).unwrap();
        let tokenizer = Tokenizer::from_json(&tokenizer, "tokenizer.json").unwrap();
        let mut answers = Golden::read(&golden(name), Golden::MADE);
        for prompt in &answers.prompts {
            assert_eq!(tokenizer.encode(&prompt.text, SpecialTokens::AsText).unwrap(), prompt.ids, "{name}, `{}`", prompt.name);
        }
        answers.greedy_equal &= tolerance.is_none();
        answers.tolerance = tolerance.unwrap_or(answers.tolerance);
        let options = LoadOptions::new().with_numerics(Numerics::Exact);
        let fixture = Fixture { backend: Box::new(CandleBackend::new()), files, options, tolerance: 2e-5, golden: Some(answers) };
        assert_eq!(fixture.load().info().dtype, dtype);
        logits_match_golden(&fixture);
        greedy_tokens_match_golden(&fixture);
    }
}
