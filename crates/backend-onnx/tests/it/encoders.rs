//! What encoding models are refused for, and graphs that give a row for each sequence.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tandem_backend_onnx::{OnnxBackend, library};
use tandem_core::backend::{Capability, Purpose, TokenBatch};
use tandem_core::conformance::{describe, with_fixture};
use tandem_core::embedding::EmbedOptions;
use tandem_core::files::ModelFiles;
use tandem_core::{Backend, CancelToken, DType, Error, LoadOptions, Model, OnnxOptions};
use tempfile::TempDir;

use crate::embedders::{check_vector, embedder, floats};
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
        assert!(matches!(error, Error::BadEmbedding { index: 0, dimension: 0, .. }), "{error}");
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
            assert!(matches!(model.new_session(&tandem_core::SessionOptions::default()), Err(Error::Unsupported { .. })));
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
