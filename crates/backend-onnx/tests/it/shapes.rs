//! Graphs that compute other shapes than their declaration and configuration say: errors, never panics.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tandem_backend_onnx::{OnnxBackend, library};
use tandem_core::conformance::{describe, with_fixture};
use tandem_core::files::ModelFiles;
use tandem_core::{Backend, Error, LoadOptions, LogitsRequest, SessionOptions};
use tempfile::TempDir;

/// A copy of the golden `name` with the graph of `export`, whose `vocab_size` is no longer declared, and another one in `config.json`.
fn with_symbolic_vocabulary(name: &str, export: &str, change: i64) -> TempDir {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens").join(name);
    let dir = tempfile::tempdir().unwrap();
    let mut config: Value = serde_json::from_slice(&fs::read(golden.join("config.json")).unwrap()).unwrap();
    let vocab_size = config["vocab_size"].as_i64().unwrap();
    config["vocab_size"] = (vocab_size + change).into();
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    for file in fs::read_dir(golden.join("onnx").join(export)).unwrap() {
        let path: PathBuf = file.unwrap().path();
        if !path.ends_with("genai_config.json") {
            fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    let path = dir.path().join("model.onnx");
    let bytes = fs::read(&path).unwrap();
    // A `Dimension` with this `dim_value`, and one with the `dim_param` `v`.
    let [low, high] = [(vocab_size & 0x7f | 0x80) as u8, (vocab_size >> 7) as u8];
    let (fixed, symbolic) = ([0x0a, 3, 0x08, low, high], [0x0a, 3, 0x12, 1, b'v']);
    let mut edited = bytes.clone();
    let positions: Vec<usize> = (0..bytes.len() - 4).filter(|&at| bytes[at..at + 5] == fixed).collect();
    assert!(!positions.is_empty());
    positions.iter().for_each(|&at| edited[at..at + 5].copy_from_slice(&symbolic));
    fs::write(&path, edited).unwrap();
    dir
}

/// The engine infers the size from the graph's weights, and what was inferred counts.
#[test]
fn rows_of_logits_are_the_graphs_whatever_the_configuration_says() {
    with_fixture(
        || library::find(None).map_err(|error| describe(&error)),
        |_| {
            for (export, change) in
                [("genai_f32", -1), ("genai_f32", 1), ("genai_int4", 1), ("optimum_f32", -1), ("optimum_f32", 1)]
            {
                let dir = with_symbolic_vocabulary("qwen2-tied", export, change);
                let files = ModelFiles::discover(dir.path(), "model").unwrap();
                let model = OnnxBackend::new(None).load(&files, &LoadOptions::default()).unwrap();
                for request in [LogitsRequest::All, LogitsRequest::Last(1)] {
                    let mut session = model.new_session(&SessionOptions::default()).unwrap();
                    let logits = session.append(&[1, 2, 3], request).unwrap();
                    assert_eq!((logits.vocab_size(), model.info().vocab_size), (320, 320), "{export} {request:?}");
                }
            }
        },
    );
}

#[test]
fn head_size_that_attention_does_not_accept_is_refused_at_load() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens/qwen2-untied");
    let dir = tempfile::tempdir().unwrap();
    for (from, name) in [("config.json", "config.json"), ("onnx/genai_f32/model.onnx", "model.onnx")] {
        fs::copy(golden.join(from), dir.path().join(name)).unwrap();
    }
    fs::copy(golden.join("onnx/genai_f32/model.onnx.data"), dir.path().join("model.onnx.data")).unwrap();
    let mut config: Value = serde_json::from_slice(&fs::read(dir.path().join("config.json")).unwrap()).unwrap();
    // The graph leaves it open.
    config["head_dim"] = 24.into();
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let files = ModelFiles::discover(dir.path(), "model").unwrap();
    let error = OnnxBackend::new(None).load(&files, &LoadOptions::default()).err().unwrap();
    assert!(matches!(error, Error::Unsupported { .. }) && error.to_string().contains("heads of 24"), "{error}");
    assert!(error.to_string().contains("multiples of 16"), "{error}");
}
