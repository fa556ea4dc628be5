//! Embedding models against what sentence-transformers made of the same texts, and the same bits in every batch.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;
use safetensors::SafeTensors;
use serde_json::Value;
use tandem_backend_candle::CandleBackend;
use tandem_core::backend::{Capabilities, Capability, Numerics, TokenBatch};
use tandem_core::embedding::{EmbedOptions, Embedder, EmbeddingConfig, Normalize, Prompt, Role};
use tandem_core::files::ModelFiles;
use tandem_core::footprint::Workload;
use tandem_core::tokenizer::Tokenizer;
use tandem_core::{Backend, CancelToken, DType, Error, LoadOptions, Model, SessionOptions};

/// How far a value may be from the golden, in its largest value.
const TOLERANCE: f64 = 1e-4;

/// The golden directories, rerankers among them.
fn directories() -> Vec<PathBuf> {
    let all = std::fs::read_dir(crate::golden("embedders")).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<PathBuf> = all.filter(|path| path.join("expected.json").exists()).collect();
    all.sort();
    assert!(all.len() >= 20, "{all:?}");
    all
}

fn expected(directory: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(directory.join("expected.json")).unwrap()).unwrap()
}

fn files(directory: &Path) -> ModelFiles {
    ModelFiles::discover(directory, directory.file_name().unwrap().to_str().unwrap()).unwrap()
}

fn load(directory: &Path, options: &LoadOptions) -> Arc<dyn Model> {
    CandleBackend::new().load(&files(directory), options).unwrap()
}

fn embedder(directory: &Path, dtype: Option<DType>) -> Embedder {
    let (files, mut options) = (files(directory), LoadOptions::new());
    options.dtype = dtype;
    let model = load(directory, &options);
    let tokenizer = std::fs::read(directory.join("tokenizer.json")).unwrap();
    let tokenizer = Tokenizer::from_json(&tokenizer, "tokenizer.json").unwrap();
    let config = EmbeddingConfig::read(&files, &files.model_config().unwrap(), None).unwrap();
    Embedder::new(model, tokenizer, &files, config).unwrap()
}

fn options(case: &Value) -> EmbedOptions {
    let prompt = match (case["prompt"].as_str(), case["prompt_name"].as_str(), case["role"].as_str()) {
        (Some(text), ..) => Prompt::Text(text.into()),
        (None, Some(name), _) => Prompt::Named(name.into()),
        (None, None, Some("query")) => Prompt::Role(Role::Query),
        (None, None, Some(_)) => Prompt::Role(Role::Document),
        _ => Prompt::Default,
    };
    let normalize = if case["normalize"] == Value::Bool(true) { Normalize::Yes } else { Normalize::Auto };
    let dimensions = case["dimensions"].as_u64().map(|n| n as usize);
    EmbedOptions { prompt, dimensions, normalize, ..EmbedOptions::default() }
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// `None` where `own` is as near to `expected` as f32 may be.
fn difference(own: &[f32], expected: &[f32]) -> Option<String> {
    assert_eq!(own.len(), expected.len(), "the shapes are equal");
    let largest = expected.iter().fold(0.0_f64, |largest, value| largest.max(f64::from(value.abs())));
    let most = own.iter().zip(expected).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max) / largest;
    let cosine = cosine(own, expected);
    (most.is_nan() || most > TOLERANCE || cosine < 0.999_999).then(|| format!("cosine {cosine}, off by {most:e}"))
}

fn texts(case: &Value) -> Vec<String> {
    serde_json::from_value(case["texts"].clone()).unwrap()
}

fn vectors(case: &Value) -> Vec<Vec<f32>> {
    serde_json::from_value(case["embeddings"].clone()).unwrap()
}

/// Cases that the tokenizer of `embedder` can show: models that pool the last token get an end, which some goldens lack on purpose.
fn cases<'e>(embedder: &Embedder, expected: &'e Value) -> Vec<&'e Value> {
    let appends = embedder.config().remarks.iter().any(|remark| remark.contains("is appended to each text"));
    let cases = expected["cases"].as_array().unwrap().iter();
    cases.filter(|case| !appends || case["appended_token"].is_string()).collect()
}

#[test]
fn embeddings_match_golden() {
    let mut faults = Vec::new();
    for directory in directories() {
        let (name, expected) = (directory.file_name().unwrap().to_string_lossy().into_owned(), expected(&directory));
        if expected["pooling"].is_null() {
            continue;
        }
        let embedder = embedder(&directory, None);
        assert_eq!(embedder.config().max_tokens as u64, expected["max_seq_length"].as_u64().unwrap(), "{name}");
        let cases = cases(&embedder, &expected);
        assert!(!cases.is_empty(), "{name}");
        for (i, case) in cases.into_iter().enumerate() {
            let (texts, options) = (texts(case), options(case));
            let embeddings = embedder.embed(&texts, &options).unwrap();
            for (t, text) in texts.iter().enumerate() {
                let tokens = embedder.tokenize(text, &options).unwrap();
                let ids: Vec<u32> = serde_json::from_value(case["token_ids"][t].clone()).unwrap();
                if tokens.ids != ids || (tokens.n_cut > 0) != case["truncated"][t].as_bool().unwrap() {
                    faults.push(format!("{name} case {i} {text:?}: {tokens:?}, expected {ids:?}"));
                }
            }
            for ((own, expected), text) in embeddings.vectors().zip(vectors(case)).zip(&texts) {
                faults.extend(difference(own, &expected).map(|fault| format!("{name} case {i} {text:?}: {fault}")));
            }
            if let Some(states) = case["token_embeddings"].as_array() {
                let ids: Vec<Vec<u32>> = serde_json::from_value(case["token_ids"].clone()).unwrap();
                let own = embedder.model().encode(&TokenBatch::new(&ids).unwrap(), &CancelToken::new()).unwrap();
                let states: Vec<Vec<Vec<f32>>> = states.iter().map(|s| serde_json::from_value(s.clone()).unwrap()).collect();
                faults.extend(difference(&own.values, &states.concat().concat()).map(|fault| format!("{name} states: {fault}")));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// `pooler.dense` with tanh and `classifier` of what the first token became, for pairs whose tokens have types.
#[test]
fn pairs_have_the_logits_of_the_golden() {
    let directory = crate::golden("embedders/cross-bert");
    let model = load(&directory, &LoadOptions::new());
    let bytes = std::fs::read(directory.join("model.safetensors")).unwrap();
    let weights = SafeTensors::deserialize(&bytes).unwrap();
    let values = |name: &str| -> Vec<f32> {
        let tensor = weights.tensor(name).unwrap();
        tensor.data().as_chunks().0.iter().copied().map(f32::from_le_bytes).collect()
    };
    let linear = |name: &str, x: &[f32]| -> Vec<f32> {
        let (weights, bias) = (values(&format!("{name}.weight")), values(&format!("{name}.bias")));
        let rows = weights.chunks(x.len()).zip(bias);
        rows.map(|(row, bias)| row.iter().zip(x).map(|(weight, x)| weight * x).sum::<f32>() + bias).collect()
    };
    for case in expected(&directory)["cases"].as_array().unwrap() {
        let ids: Vec<Vec<u32>> = serde_json::from_value(case["token_ids"].clone()).unwrap();
        let types: Vec<Vec<u32>> = serde_json::from_value(case["token_type_ids"].clone()).unwrap();
        let logits: Vec<f32> = serde_json::from_value(case["logits"].clone()).unwrap();
        let batch = TokenBatch::new(&ids).unwrap().with_types(types.concat());
        let states = model.encode(&batch, &CancelToken::new()).unwrap();
        let mut start = 0;
        for (length, expected) in states.lengths.iter().zip(logits) {
            let first = &states.values[start * states.hidden_size..][..states.hidden_size];
            let pooled: Vec<f32> = linear("bert.pooler.dense", first).into_iter().map(f32::tanh).collect();
            let logit = linear("classifier", &pooled)[0];
            assert!((logit - expected).abs() < 1e-4, "{logit} {expected}");
            start += length;
        }
    }
}

#[test]
fn encoders_and_bidirectional_decoders_only_encode() {
    for (name, generates, adapts, n_types) in [
        ("bert-mean", false, false, 2),
        ("modernbert", false, false, 0),
        ("qwen2-bidirectional", false, true, 0),
        ("gemma3", false, true, 0),
        ("qwen3", true, true, 0),
    ] {
        let model = load(&crate::golden("embedders").join(name), &LoadOptions::new());
        let info = model.info();
        let encodes = Capabilities::of(&[Capability::HiddenStates]).with_if(adapts, Capability::Adapters);
        assert_eq!(info.capabilities == encodes, !generates, "{name}");
        assert_eq!(info.capabilities.has(Capability::Adapters), adapts, "{name}");
        assert_eq!((info.kv_bytes_per_token > 0, info.n_token_types), (generates, n_types), "{name}");
        let session = model.new_session(&SessionOptions::new());
        assert_eq!(matches!(session.err(), Some(Error::Unsupported { .. })), !generates, "{name}");
    }
}

#[test]
fn four_bits_are_refused_for_encoders() {
    let mut options = LoadOptions::new();
    options.dtype = Some(DType::Int4);
    let error = CandleBackend::new().open(&files(&crate::golden("embedders/bert-mean")), &options).err().unwrap();
    assert!(error.to_string().contains("int4"), "{error}");
    assert!(matches!(error, Error::Unsupported { .. }));
}

#[test]
fn rounded_models_are_near_the_golden() {
    for name in ["bert-mean", "roberta", "xlm-roberta", "mpnet", "distilbert", "bert-dense", "modernbert"] {
        // Rows of 48 weights are not whole blocks.
        for (dtype, least) in
            [(DType::Bf16, 0.9998), (DType::Int8, 0.999)].into_iter().take(if name == "modernbert" { 1 } else { 2 })
        {
            let directory = crate::golden("embedders").join(name);
            let (embedder, expected) = (embedder(&directory, Some(dtype)), expected(&directory));
            assert_eq!((embedder.info().dtype, embedder.info().memory_dtype), (dtype, dtype));
            let case = cases(&embedder, &expected)[0];
            let embeddings = embedder.embed(&texts(case), &options(case)).unwrap();
            for (own, expected) in embeddings.vectors().zip(vectors(case)) {
                assert!(cosine(own, &expected) >= least, "{name} {dtype}: {}", cosine(own, &expected));
            }
        }
    }
}

/// With exact numerics the inputs of quantised weights are not rounded.
#[test]
fn exact_numerics_are_nearer_to_the_golden() {
    let directory = crate::golden("embedders/bert-mean");
    let distance = |numerics| {
        let mut options = LoadOptions::new();
        (options.dtype, options.numerics) = (Some(DType::Int8), numerics);
        let encode = |options: &LoadOptions| {
            let model = load(&directory, options);
            model
                .encode(&TokenBatch::new(&[[2, 190, 111, 179, 126, 190, 184, 69, 3]]).unwrap(), &CancelToken::new())
                .unwrap()
                .values
        };
        let pairs = encode(&options).into_iter().zip(encode(&LoadOptions::new()));
        pairs.map(|(a, b)| (a - b).powi(2)).sum::<f32>()
    };
    let (exact, fast) = (distance(Numerics::Exact), distance(Numerics::Fast));
    assert!(exact > 0.0 && exact < fast, "{exact} {fast}");
}

#[test]
fn footprints_have_the_weights_in_their_dtype() {
    let files = files(&crate::golden("embedders/bert-mean"));
    let weights = |dtype| {
        let mut options = LoadOptions::new();
        options.dtype = Some(dtype);
        let opened = CandleBackend::new().open(&files, &options).unwrap();
        let footprint = opened.footprint().unwrap()(&Workload { n_tokens: 64, context_length: 64 });
        assert!(footprint.parts().all(|part| part.name != "KV cache"));
        footprint.kept.iter().find(|part| part.name == "weights").unwrap().bytes
    };
    let stored = files.weights[0].len().unwrap();
    assert!((0.8..1.0).contains(&(weights(DType::F32) as f64 / stored as f64)), "{} {stored}", weights(DType::F32));
    assert!(weights(DType::Int8) < weights(DType::Bf16) && weights(DType::Bf16) < weights(DType::F32));
}

/// Sequences of some tokens: their lengths cross the tiles and the parts that are computed together.
fn sequences(vocab_size: u32) -> impl Strategy<Value = Vec<Vec<u32>>> {
    let length = prop_oneof![1..=4_usize, 5..=40_usize, 41..=64_usize];
    let sequence = length.prop_flat_map(move |n| proptest::collection::vec(0..vocab_size, n));
    proptest::collection::vec(sequence, 1..=9)
}

/// Every model, in every dtype that it has for vectors.
fn models() -> Vec<(String, Arc<dyn Model>)> {
    let mut all = Vec::new();
    for directory in directories() {
        let name = directory.file_name().unwrap().to_string_lossy().into_owned();
        for dtype in CandleBackend::new().dtypes(&files(&directory)) {
            let mut options = LoadOptions::new().with_threads(NonZeroUsize::new(2));
            options.dtype = Some(dtype);
            match CandleBackend::new().load(&files(&directory), &options) {
                Ok(model) => all.push((format!("{name} {dtype}"), model)),
                // ModernBERT's golden has rows that are not whole blocks.
                Err(error) => assert!(matches!(error, Error::Unsupported { .. }), "{name}: {error}"),
            }
        }
    }
    all
}

/// A text has the same bits alone, in any batch, at any place, with any number of threads.
#[test]
fn a_text_has_the_same_bits_in_every_batch() {
    let models = models();
    assert!(models.len() > 40, "{}", models.len());
    let encode = |model: &dyn Model, batch: &[&Vec<u32>]| {
        let states = model.encode(&TokenBatch::new(batch).unwrap(), &CancelToken::new()).unwrap();
        let mut rest = states.values.as_slice();
        let own = states.lengths.iter().map(|n| rest.split_off(..n * states.hidden_size).unwrap());
        own.map(|values| values.iter().map(|value| value.to_bits()).collect()).collect::<Vec<Vec<u32>>>()
    };
    let config = ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(sequences in sequences(200), order in any::<u64>())| {
        let mut places: Vec<usize> = (0..sequences.len()).collect();
        places.sort_by_key(|place| (*place as u64 + 1).wrapping_mul(order | 1));
        for (name, model) in &models {
            let together = encode(&**model, &sequences.iter().collect::<Vec<_>>());
            let otherwise = encode(&**model, &places.iter().map(|place| &sequences[*place]).collect::<Vec<_>>());
            for (i, place) in places.iter().enumerate() {
                prop_assert_eq!(&otherwise[i], &together[*place], "{} in another order", name);
            }
            for (sequence, own) in sequences.iter().zip(&together) {
                prop_assert_eq!(&encode(&**model, &[sequence])[0], own, "{} alone", name);
            }
        }
    });
}
