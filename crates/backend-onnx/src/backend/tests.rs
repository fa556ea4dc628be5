//! Which files of a repository this engine needs.

use super::*;

const SMALL: [&str; 3] = ["config.json", "tokenizer.json", "tokenizer_config.json"];
const INDEX: &str = "model.safetensors.index.json";
const GENAI_CONFIG: &str = "genai_config.json";
const GRAPHS: [&str; 6] = [
    "onnx/model.onnx",
    "onnx/model.onnx_data",
    "onnx/model.onnx_data_1",
    "onnx/model_q4.onnx",
    "onnx/model_q4.onnx_data",
    "onnx/model_q4f16.onnx",
];

#[track_caller]
fn check(more: &[&str], dtype: Option<DType>, expected: &[&str]) {
    let read = |name: &str| match name {
        INDEX => Ok(br#"{"weight_map": {"a": "model-2.safetensors", "b": "model-1.safetensors"}}"#.to_vec()),
        GENAI_CONFIG => Ok(br#"{"model": {"decoder": {"filename": "model.onnx"}}}"#.to_vec()),
        other => panic!("{other} is read"),
    };
    let files = [&SMALL[..], &["README.md"], more].concat();
    let listing = Listing { name: "owner/name", files: &files, variant: None, read: &read };
    let selected = OnnxBackend::new(None).select_files(&listing, dtype);
    let selected = selected.map(|names| names[SMALL.len()..].to_vec()).map_err(|error| error.to_string());
    match expected {
        [error] if error.contains(' ') => assert!(selected.as_ref().unwrap_err().contains(error), "{selected:?}"),
        files => assert_eq!(selected.unwrap(), files),
    }
}

#[test]
fn only_files_needed_at_the_dtype_are_selected() {
    check(&["model.safetensors", "pytorch_model.bin"], None, &["model.safetensors"]);
    check(&[INDEX, "model-1.safetensors", "model-2.safetensors"], None, &[INDEX, "model-1.safetensors", "model-2.safetensors"]);
    check(&GRAPHS, Some(DType::Int4), &["onnx/model_q4.onnx", "onnx/model_q4.onnx_data"]);
    check(&GRAPHS, None, &["onnx/model.onnx", "onnx/model.onnx_data", "onnx/model.onnx_data_1"]);
    let both = [&GRAPHS[..], &["model.safetensors"]].concat();
    check(&both, Some(DType::Int8), &["model.safetensors"]);
    check(&both, None, &["onnx/model.onnx", "onnx/model.onnx_data", "onnx/model.onnx_data_1"]);
    let genai = [GENAI_CONFIG, "model.onnx", "model.onnx.data", "other.onnx"];
    check(&genai, Some(DType::Int4), &[GENAI_CONFIG, "model.onnx", "model.onnx.data"]);
}

#[test]
fn repositories_without_usable_files_are_refused() {
    check(&GRAPHS, Some(DType::Int8), &["`int8` of `owner/name`"]);
    check(&["model.q4.gguf"], None, &["has GGUF files"]);
    check(&["pytorch_model.bin"], None, &["pickle files are never opened"]);
    check(&[], None, &["neither safetensors nor ONNX graphs"]);
    check(&[GENAI_CONFIG], None, &["names `model.onnx`, which the repository does not hold"]);
}
