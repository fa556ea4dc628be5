//! What encoding models are refused for, and graphs that give a row for each sequence.

use std::fs;
use std::num::NonZero;
use std::path::Path;

use safetensors::Dtype;
use serde_json::Value;
use tandem_backend_onnx::{OnnxBackend, library};
use tandem_core::backend::{Capability, Purpose, TokenBatch};
use tandem_core::conformance::{Golden, describe, with_fixture};
use tandem_core::embedding::EmbedOptions;
use tandem_core::files::ModelFiles;
use tandem_core::{Backend, CancelToken, DType, Error, LoadOptions, LogitsRequest, Model, OnnxOptions, SessionOptions};
use tempfile::TempDir;

use crate::embedders::{check_vector, embedder, floats};
use crate::export::checkpoints::{Checkpoint, Weight};
use crate::tiny_graph::{self, TinyGraph};

fn golden(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens").join(name)
}

fn with_library(case: impl FnOnce()) {
    with_fixture(|| library::find(None).map_err(|error| describe(&error)), |_| case());
}

fn load(directory: &Path, options: &LoadOptions) -> tandem_core::Result<std::sync::Arc<dyn Model>> {
    OnnxBackend::new(None).load(&ModelFiles::discover(directory, "model").unwrap(), options)
}

/// The configuration of `bert-mean` with a graph of one's own.
fn with_graph(graph: &TinyGraph) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::copy(golden("embedders/bert-mean/config.json"), directory.path().join("config.json")).unwrap();
    fs::write(directory.path().join("model.onnx"), tiny_graph::bytes(graph)).unwrap();
    directory
}

fn refused(directory: &Path, options: &LoadOptions) -> String {
    load(directory, options).err().map(|error| describe(&error)).unwrap()
}

fn encode(model: &dyn Model, sequences: &[&[u32]]) -> tandem_core::Result<Vec<f32>> {
    model.encode(&TokenBatch::new(sequences)?, &CancelToken::new()).map(|states| states.values)
}

#[test]
fn published_cross_encoder_gives_its_logits() {
    with_library(|| {
        let directory = golden("embedders/cross-bert");
        let options =
            LoadOptions::new().with_onnx(OnnxOptions::new().with_graph(Some(directory.join("onnx").join("model.onnx"))));
        let model = load(&directory, &options).unwrap();
        let info = model.info();
        assert_eq!(info.capabilities.iter().collect::<Vec<_>>(), [Capability::PooledOutput]);
        assert_eq!((info.pooled_output.as_ref().unwrap().name.as_str(), info.n_token_types), ("logits", 2));
        let expected: Value = serde_json::from_slice(&fs::read(directory.join("expected.json")).unwrap()).unwrap();
        for case in expected["cases"].as_array().unwrap() {
            let lists = |field: &str| -> Vec<Vec<u32>> { serde_json::from_value(case[field].clone()).unwrap() };
            let batch = TokenBatch::new(&lists("token_ids")).unwrap().with_types(lists("token_type_ids").concat());
            let rows = model.encode_pooled(&batch, &CancelToken::new()).unwrap();
            check_vector(&rows.values, &floats(&case["logits"]), "logits");
        }
    });
}

#[test]
fn graphs_that_do_not_encode_are_refused() {
    with_library(|| {
        let check = |graph: TinyGraph, expected: &str| {
            let error = refused(with_graph(&graph).path(), &LoadOptions::new());
            assert!(error.contains(expected), "{error}");
        };
        let zeros = TinyGraph::default();
        check(TinyGraph { output: "present", ..zeros }, "the graph does not encode: its outputs are `present`");
        check(TinyGraph { dims: &["batch", "tokens"], ..zeros }, "`last_hidden_state`");
        check(TinyGraph { ids: "tokens", ..zeros }, "field `input_ids`: the graph has no such input, only `tokens`");
        check(TinyGraph { other_input: Some("task_id"), ..zeros }, "field `task_id`: it is not known what this input");
    });
}

#[test]
fn runs_that_give_other_shapes_are_errors() {
    with_library(|| {
        // The places of what is not zero.
        let directory = with_graph(&TinyGraph { of_integers: &["NonZero"], ..TinyGraph::default() });
        let model = load(directory.path(), &LoadOptions::new()).unwrap();
        let error = encode(&*model, &[&[1, 2, 3]]).unwrap_err();
        assert!(matches!(&error, Error::BadField { field, .. } if field == "last_hidden_state"), "{error}");
        assert!(error.to_string().contains("a run returned the shape [2, 3, 1], and [1, 3, 1] was expected"), "{error}");
    });
}

/// The backend returns what was computed; who makes a vector of it finds what is not a number.
#[test]
fn vectors_that_are_not_finite_are_errors() {
    with_library(|| {
        let directory = with_graph(&TinyGraph { of_floats: &["Neg", "Log"], ..TinyGraph::default() });
        fs::copy(golden("embedders/bert-mean/tokenizer.json"), directory.path().join("tokenizer.json")).unwrap();
        let graph = directory.path().join("model.onnx");
        let embedder = embedder(directory.path(), Some(graph), LoadOptions::new());
        let error = embedder.embed(&["river"], &EmbedOptions::default()).unwrap_err();
        let Error::BadText { index: 0, source } = error else { panic!("{error}") };
        assert!(matches!(*source, Error::BadEmbedding { dimension: 0, .. }), "{source}");
    });
}

#[test]
fn decoders_do_not_generate_when_they_are_loaded_to_encode() {
    with_library(|| {
        let options = LoadOptions::new().with_purpose(Purpose::Encode);
        for name in ["qwen2-tied", "onnx-community", "embedders/qwen2-bidirectional", "embedders/qwen3"] {
            let model = load(&golden(name), &options).unwrap();
            let info = model.info();
            assert_eq!(info.capabilities.iter().collect::<Vec<_>>(), [Capability::HiddenStates], "{name}");
            assert_eq!((info.kv_bytes_per_token, info.n_token_types), (0, 0), "{name}");
            assert!(matches!(model.new_session(&SessionOptions::default()), Err(Error::Unsupported { .. })));
        }
        // A graph that was asked for is not replaced.
        let graph = golden("qwen2-tied").join("onnx/optimum_f32/model.onnx");
        let error = refused(&golden("qwen2-tied"), &options.clone().with_onnx(OnnxOptions::new().with_graph(Some(graph))));
        assert!(error.contains("the graph does not encode"), "{error}");
        // Neither does a model that sees both ways, whatever it is loaded for.
        let model = load(&golden("embedders/qwen2-bidirectional"), &LoadOptions::new()).unwrap();
        assert!(!model.info().capabilities.has(Capability::Generation));
        let model = load(&golden("qwen2-tied"), &LoadOptions::new()).unwrap();
        assert!(!model.info().capabilities.has(Capability::HiddenStates), "to generate is what is not asked for otherwise");
    });
}

/// What a long text gets in parts is what the model that generates computes from it: its hidden states times the head are the logits.
#[test]
fn long_texts_are_run_in_parts() {
    with_library(|| {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path();
        let mut checkpoint = Checkpoint::of_golden("qwen2-tied");
        checkpoint.config["max_position_embeddings"] = 1024.into();
        checkpoint.write(directory);
        let tokens: Vec<u32> = (0..700).map(|i| (i * 37 + i / 9) % 300).collect();
        let encoder = load(directory, &LoadOptions::new().with_purpose(Purpose::Encode)).unwrap();
        let states = encode(&*encoder, &[&tokens[..3], &tokens, &tokens[..3]]).unwrap();
        let width = encoder.info().hidden_size;
        let weights = checkpoint.weights["model.embed_tokens.weight"].floats();
        let generator = load(directory, &LoadOptions::new()).unwrap();
        for n in [511, 512, 513, 700] {
            let mut session = generator.new_session(&SessionOptions::default()).unwrap();
            let logits = session.append(&tokens[..n], LogitsRequest::Last(1)).unwrap();
            let state = &states[(3 + n - 1) * width..(3 + n) * width];
            let product = |row: &[f32]| row.iter().zip(state).map(|(a, b)| a * b).sum::<f32>();
            let expected: Vec<f32> = weights.chunks_exact(width).map(product).collect();
            check_vector(logits.last().unwrap(), &expected, &format!("after {n} tokens"));
        }
        let alone = encode(&*encoder, &[&tokens]).unwrap();
        assert!(states[3 * width..703 * width] == alone);
    });
}

/// A causal Gemma 3 has windows on one side, and no cache: its hidden states times the head are the logits of transformers.
#[test]
fn causal_gemma_encodes() {
    with_library(|| {
        let directory = golden("gemma3");
        let weights = Checkpoint::of_golden("gemma3").weights["model.embed_tokens.weight"].floats();
        let model = load(&directory, &LoadOptions::new().with_purpose(Purpose::Encode)).unwrap();
        let (width, answers) = (model.info().hidden_size, Golden::read(&directory, Golden::MADE));
        assert!(answers.prompts.iter().any(|prompt| prompt.ids.len() > 24), "one is longer than a window");
        for prompt in &answers.prompts {
            let states = encode(&*model, &[&prompt.ids]).unwrap();
            let (from, to) = prompt.stored_positions;
            let of_row = |row: &[f32], state: &[f32]| row.iter().zip(state).map(|(a, b)| a * b).sum::<f32>();
            let own = states[from * width..to * width]
                .chunks_exact(width)
                .flat_map(|state| weights.chunks_exact(width).map(move |row| of_row(row, state)))
                .collect::<Vec<f32>>();
            let largest = prompt.logits.iter().fold(0_f32, |largest, value| largest.max(value.abs()));
            let furthest = own.iter().zip(&prompt.logits).fold(0_f32, |furthest, (a, b)| furthest.max((a - b).abs()));
            assert!(own.len() == prompt.logits.len() && furthest <= answers.tolerance * largest, "{}: {furthest}", prompt.name);
        }
        let error = refused(&directory, &LoadOptions::new());
        assert!(error.contains("building a graph of"), "to generate it needs a cache: {error}");
    });
}

/// At the sizes of real models the engine's kernels choose among more ways than at those of goldens.
#[test]
fn hidden_states_of_a_wide_model_do_not_depend_on_the_batch() {
    with_library(|| {
        let dir = tempfile::tempdir().unwrap();
        write_wide_bert(dir.path());
        for threads in [1, 2, 5] {
            let options = LoadOptions::new().with_threads(NonZero::new(threads));
            let model = load(dir.path(), &options).unwrap();
            for (length, n_texts) in [(1, 9), (2, 3), (3, 17), (16, 5), (17, 33), (31, 4), (64, 32), (129, 7), (200, 2)] {
                let text = |seed: u32| (0..length).map(|i| (seed * 31 + i * i + i) % 50).collect::<Vec<u32>>();
                let mut texts: Vec<Vec<u32>> = (0..n_texts).map(text).collect();
                // Of another length, which has to stay out of the run.
                texts.insert(1, vec![7; 5]);
                let batch: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
                let together = encode(&*model, &batch).unwrap();
                let mut start = 0;
                for text in batch {
                    let alone = encode(&*model, &[text]).unwrap();
                    assert!(together[start..start + alone.len()] == alone, "{n_texts} of {length} on {threads} threads");
                    start += alone.len();
                }
            }
        }
    });
}

/// A layer of all-MiniLM-L6-v2, with random weights.
fn write_wide_bert(directory: &Path) {
    let mut seed = 1_u32;
    let mut weight = |shape: &[usize]| {
        let next = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) as f32 / 8_388_608.0 - 1.0
        };
        let bytes = std::iter::repeat_with(next).take(shape.iter().product()).flat_map(|value| (value * 0.1).to_le_bytes());
        Weight { dtype: Dtype::F32, shape: shape.to_vec(), bytes: bytes.collect() }
    };
    let mut checkpoint = Checkpoint::of_golden("embedders/bert-cls");
    checkpoint.weights.clear();
    for (field, value) in [
        ("hidden_size", 384),
        ("intermediate_size", 1536),
        ("num_attention_heads", 12),
        ("num_hidden_layers", 1),
        ("vocab_size", 50),
        ("max_position_embeddings", 256),
    ] {
        checkpoint.config[field] = value.into();
    }
    let linear = [
        ("attention.self.query", [384, 384]),
        ("attention.self.key", [384, 384]),
        ("attention.self.value", [384, 384]),
        ("attention.output.dense", [384, 384]),
        ("intermediate.dense", [1536, 384]),
        ("output.dense", [384, 1536]),
    ];
    let norms = ["embeddings.LayerNorm", "encoder.layer.0.attention.output.LayerNorm", "encoder.layer.0.output.LayerNorm"];
    let tables = [("word_embeddings", 50), ("position_embeddings", 256), ("token_type_embeddings", 2)];
    let mut all = Vec::new();
    all.extend(tables.map(|(name, rows)| (format!("embeddings.{name}.weight"), vec![rows, 384])));
    all.extend(norms.iter().flat_map(|name| ["weight", "bias"].map(|kind| (format!("{name}.{kind}"), vec![384]))));
    for (name, shape) in linear {
        all.push((format!("encoder.layer.0.{name}.weight"), shape.to_vec()));
        all.push((format!("encoder.layer.0.{name}.bias"), vec![shape[0]]));
    }
    checkpoint.weights.extend(all.into_iter().map(|(name, shape)| (name, weight(&shape))));
    checkpoint.write(directory);
}

#[test]
fn encoders_are_not_built_in_four_bits() {
    with_library(|| {
        let int4 = LoadOptions::new().with_dtype(DType::Int4);
        let error = refused(&golden("embedders/bert-cls"), &int4);
        assert!(error.contains("dtype `int4` of the encoder `model`") && error.contains("int8"), "{error}");
        assert!(load(&golden("embedders/qwen2-bidirectional"), &int4).is_ok(), "a decoder bears them");
        let dtypes = |name: &str| OnnxBackend::new(None).dtypes(&ModelFiles::discover(&golden(name), "model").unwrap());
        assert_eq!(dtypes("embedders/bert-cls"), [DType::F32, DType::Int8]);
        assert_eq!(dtypes("embedders/qwen2"), [DType::F32, DType::Int8, DType::Int4]);
        let error = refused(&golden("embedders/gemma3"), &LoadOptions::new().with_dtype(DType::F16));
        assert!(error.contains("exceed what 16 bits hold"), "{error}");
    });
}
