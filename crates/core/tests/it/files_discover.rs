//! Every layout in which a model is published, and those that are not a model.

use std::fs;
use std::path::Path;

use tandem_core::files::{ModelFile, ModelFiles};
use tandem_core::{DType, Error, Result};
use tempfile::TempDir;

/// A directory with these files; a name that ends in `/` is a directory. Contents do not matter to discovery.
fn dir(names: &[&str]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in names {
        write(dir.path(), name, "{}");
    }
    dir
}

fn write(dir: &Path, name: &str, content: &str) {
    let path = dir.join(name);
    if name.ends_with('/') {
        return fs::create_dir_all(path).unwrap();
    }
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn discover(dir: &TempDir) -> Result<ModelFiles> {
    ModelFiles::discover(dir.path(), "the model")
}

fn names<'a>(files: impl IntoIterator<Item = &'a ModelFile>) -> Vec<&'a str> {
    files.into_iter().map(ModelFile::file_name).collect()
}

fn graph_names(files: &ModelFiles) -> Vec<&str> {
    names(files.graphs.iter().map(|graph| &graph.file))
}

/// The error's message and hint in one text, without the directory.
fn told(dir: &TempDir, error: &Error) -> String {
    let text = format!("{error} | {}", error.hint().unwrap_or_default());
    text.replace(&dir.path().display().to_string(), "DIR")
}

#[track_caller]
fn check_refused(dir: &TempDir, path: &Path, parts: &[&str]) {
    let error = ModelFiles::discover(path, "the model").unwrap_err();
    let text = told(dir, &error);
    assert!(error.hint().is_some_and(|hint| !hint.to_string().is_empty()), "no hint: {text}");
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}

#[track_caller]
fn check_dir_refused(names: &[&str], parts: &[&str]) {
    let dir = dir(names);
    check_refused(&dir, dir.path(), parts);
}

#[test]
fn a_checkpoint_of_one_file() {
    let all = [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "model.safetensors",
        "README.md",
    ];
    let dir_ = dir(&all);
    let files = discover(&dir_).unwrap();
    assert_eq!(files.name, "the model");
    assert_eq!(files.config.path(), Some(dir_.path().join("config.json").as_path()));
    let optional = [&files.generation_config, &files.tokenizer, &files.tokenizer_config, &files.chat_template];
    assert_eq!(names(optional.into_iter().flatten()), all[1..5]);
    assert_eq!(names(&files.weights), ["model.safetensors"]);
    assert!(files.graphs.is_empty() && files.skipped.is_empty() && files.genai_config.is_none());

    let files = discover(&dir(&["config.json", "model.safetensors"])).unwrap();
    assert!(files.tokenizer.is_none() && files.generation_config.is_none());
}

#[test]
fn a_checkpoint_of_shards() {
    let (one, two) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
    let dir = dir(&["config.json", one, two]);
    let index =
        format!(r#"{{"metadata": {{}}, "weight_map": {{"lm_head.weight": "{two}", "a": "{one}", "b": "{one}", "c": "{two}"}}}}"#);
    write(dir.path(), "model.safetensors.index.json", &index);
    assert_eq!(names(&discover(&dir).unwrap().weights), [two, one]);

    fs::remove_file(dir.path().join(one)).unwrap();
    check_refused(&dir, dir.path(), &[&format!("`DIR/{one}`"), "index.json`, is not there", "download the missing shard"]);

    // A single file wins, as in transformers.
    write(dir.path(), "model.safetensors", "");
    assert_eq!(names(&discover(&dir).unwrap().weights), ["model.safetensors"]);
}

#[test]
fn an_index_that_is_wrong() {
    let check = |index: &str, parts: &[&str]| {
        let dir = dir(&["config.json", "inside.safetensors", "sub/x.safetensors"]);
        write(dir.path(), "model.safetensors.index.json", index);
        let error = discover(&dir).unwrap_err();
        let text = told(&dir, &error);
        assert!(text.contains("DIR/model.safetensors.index.json"), "{text}");
        for part in parts {
            assert!(text.contains(part), "`{part}` is not in: {text}");
        }
    };
    check("", &["truncated"]);
    check("[]", &["not a JSON object"]);
    check("{}", &["`weight_map`", "is missing"]);
    check(r#"{"weight_map": {}}"#, &["`weight_map`", "names no file"]);
    check(r#"{"weight_map": []}"#, &["`weight_map`", "not an object"]);
    check(r#"{"weight_map": {"w": 3}}"#, &["`weight_map.w`", "`3`, not a file name"]);
    check(r#"{"weight_map": {"w": null}}"#, &["`weight_map.w`", "`null`"]);
    let outside = [
        "../x.safetensors",
        "/etc/x.safetensors",
        "sub/x.safetensors",
        "sub\\\\x.safetensors",
        "C:x.safetensors",
        "..",
        ".",
        "",
        ".safetensors",
        "config.json",
        "weights.bin",
        "a\\u0000.safetensors",
        "a\\n.safetensors",
    ];
    for name in outside {
        check(
            &format!(r#"{{"weight_map": {{"ok": "inside.safetensors", "w": "{name}"}}}}"#),
            &["`weight_map.w`", "not a plain name"],
        );
    }
}

#[test]
fn a_repository_of_graphs() {
    let dir = dir(&[
        "config.json",
        "tokenizer.json",
        "onnx/model.onnx",
        "onnx/model.onnx_data",
        "onnx/model_fp16.onnx",
        "onnx/model_q4.onnx",
        "onnx/model_q4f16.onnx",
        "onnx/model_int8.onnx",
        "onnx/model_uint8.onnx",
        "onnx/model_quantized.onnx",
        "onnx/model_bnb4.onnx",
        "onnx/model_q2.onnx",
        "onnx/decoder_model_merged.onnx",
        "onnx/decoder_model_merged_q4.onnx",
        "onnx/decoder_with_past_model.onnx",
        "onnx/decoder_model.onnx",
        "onnx/vision_encoder.onnx",
        "onnx/model_dir.onnx/",
    ]);
    let files = discover(&dir).unwrap();
    let dtypes: Vec<_> = files.graphs.iter().map(|graph| (graph.file.file_name(), graph.dtype)).collect();
    assert_eq!(
        dtypes,
        [
            ("model.onnx", None),
            ("model_fp16.onnx", Some(DType::F16)),
            ("model_int8.onnx", Some(DType::Int8)),
            ("model_quantized.onnx", Some(DType::Int8)),
            ("model_uint8.onnx", Some(DType::Int8)),
            ("model_q4.onnx", Some(DType::Int4)),
            ("model_bnb4.onnx", Some(DType::Int4)),
            ("model_q4f16.onnx", Some(DType::Int4)),
        ]
    );
    let skipped: Vec<_> = files.skipped.iter().map(|file| (file.file.file_name(), file.reason.as_str())).collect();
    let expected = [
        ("decoder_model.onnx", "two files"),
        ("decoder_model_merged.onnx", "merges"),
        ("decoder_model_merged_q4.onnx", "merges"),
        ("decoder_with_past_model.onnx", "two files"),
        ("model_q2.onnx", "fewer than 4 bits"),
        ("vision_encoder.onnx", "declares neither"),
    ];
    assert_eq!(skipped.len(), expected.len());
    for ((name, reason), (expected_name, part)) in skipped.iter().zip(expected) {
        assert!(*name == expected_name && reason.contains(part), "{name}: {reason}");
    }
}

#[test]
fn graph_for_a_dtype() {
    let check = |names: &[&str], dtype: Option<DType>, expected: &str| {
        let dir = dir(&[names, &["config.json"]].concat());
        assert_eq!(discover(&dir).unwrap().graph_for(dtype).unwrap().file.file_name(), expected, "{names:?} {dtype:?}");
    };
    let all = ["onnx/model_q4f16.onnx", "onnx/model_q4.onnx", "onnx/model_fp16.onnx", "onnx/model.onnx", "onnx/model_uint8.onnx"];
    check(&all, None, "model.onnx");
    check(&all, Some(DType::F32), "model.onnx");
    check(&all, Some(DType::F16), "model_fp16.onnx");
    check(&all, Some(DType::Int8), "model_uint8.onnx");
    check(&all, Some(DType::Int4), "model_q4.onnx");
    check(&all[..1], Some(DType::Int4), "model_q4f16.onnx");
    check(&all[..3], None, "model_fp16.onnx");
    check(&["model_q4f16.onnx", "model_bnb4.onnx"], Some(DType::Int4), "model_bnb4.onnx");
    check(&["model_bf16.onnx", "model_int4.onnx"], None, "model_bf16.onnx");
    check(&["model_f32.onnx", "model_fp32.onnx"], Some(DType::F32), "model_f32.onnx");
}

#[test]
fn the_order_of_the_list_does_not_matter() {
    let mut files = discover(&dir(&["config.json", "model.onnx", "model_q4.onnx", "model_q4f16.onnx"])).unwrap();
    files.graphs.reverse();
    assert_eq!(files.graph_for(None).unwrap().file.file_name(), "model.onnx");
    assert_eq!(files.graph_for(Some(DType::Int4)).unwrap().file.file_name(), "model_q4.onnx");
}

#[test]
fn a_dtype_that_is_not_there() {
    let dir_ = dir(&["config.json", "model.onnx", "onnx/model_q4.onnx"]);
    let error = discover(&dir_).unwrap().graph_for(Some(DType::Bf16)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "dtype `bf16` of `the model` is not supported: the graphs there are: `model.onnx` (f32), `model_q4.onnx` (int4)"
    );
    assert_eq!(error.hint().unwrap().to_string(), "choose one of these dtypes, or leave the dtype out");

    let files = discover(&dir(&["config.json", "model.safetensors", "decoder_model.onnx"])).unwrap();
    let error = files.graph_for(None).unwrap_err();
    assert!(error.to_string().contains("no graph can be used; `decoder_model.onnx`"), "{error}");
    assert!(error.hint().unwrap().to_string().contains("export"));

    let files = discover(&dir(&["config.json", "model.safetensors"])).unwrap();
    assert!(files.graph_for(Some(DType::F32)).unwrap_err().to_string().contains("it has no ONNX graph"));
}

#[test]
fn the_root_comes_before_the_folder() {
    let dir = dir(&["config.json", "model.onnx", "onnx/model.onnx"]);
    let files = discover(&dir).unwrap();
    assert_eq!(files.graph_for(None).unwrap().file.path(), Some(dir.path().join("model.onnx").as_path()));
    assert_eq!(files.graphs.len(), 2);
}

#[test]
fn one_graph_by_its_path() {
    let dir = dir(&["repo/config.json", "repo/tokenizer.json", "repo/onnx/model_q4.onnx", "repo/onnx/model.onnx"]);
    let repo = dir.path().join("repo");
    let files = ModelFiles::discover(&repo.join("onnx/model_q4.onnx"), "the model").unwrap();
    assert_eq!(graph_names(&files), ["model_q4.onnx"]);
    assert_eq!(files.graphs[0].dtype, Some(DType::Int4));
    assert_eq!(files.config.path(), Some(repo.join("config.json").as_path()));
    assert_eq!(files.tokenizer.as_ref().and_then(ModelFile::path), Some(repo.join("tokenizer.json").as_path()));

    // What lies beside the graph wins.
    write(&repo, "onnx/config.json", "{}");
    let files = ModelFiles::discover(&repo.join("onnx/model_q4.onnx"), "the model").unwrap();
    assert_eq!(files.config.path(), Some(repo.join("onnx/config.json").as_path()));
    assert_eq!(files.tokenizer.as_ref().and_then(ModelFile::path), Some(repo.join("tokenizer.json").as_path()));

    // A name that declares nothing is not refused when it was requested by path, and its dtype is not guessed.
    write(&repo, "own.onnx", "");
    let files = ModelFiles::discover(&repo.join("own.onnx"), "the model").unwrap();
    assert_eq!((files.graphs[0].dtype, files.dtype_of(&files.graphs[0])), (None, None));
    assert_eq!(files.graph_for(None).unwrap().file.file_name(), "own.onnx");
    assert!(files.graph_for(Some(DType::F32)).unwrap_err().to_string().contains("`own.onnx` (dtype not declared)"));
}

#[test]
fn one_graph_that_cannot_be_used() {
    let dir =
        dir(&["config.json", "decoder_model_merged.onnx", "decoder_with_past_model.onnx", "a/b/model.onnx", "model_q2f16.onnx"]);
    let check = |name: &str, parts: &[&str]| check_refused(&dir, &dir.path().join(name), parts);
    check("decoder_model_merged.onnx", &["`DIR/decoder_model_merged.onnx`", "merges two graphs"]);
    check("decoder_with_past_model.onnx", &["two files"]);
    check("model_q2f16.onnx", &["fewer than 4 bits"]);
    check("a/b/model.onnx", &["`DIR/a/b/config.json`", "no such file", "one directory up"]);
}

#[test]
fn an_onnxruntime_genai_directory() {
    let dir = dir(&["config.json", "tokenizer.json", "phi-int4.onnx", "phi-int4.onnx.data", "embedding.onnx"]);
    write(dir.path(), "genai_config.json", r#"{"model": {"type": "qwen2", "decoder": {"filename": "phi-int4.onnx"}}}"#);
    let files = discover(&dir).unwrap();
    assert_eq!(graph_names(&files), ["phi-int4.onnx"]);
    assert_eq!(names(files.skipped.iter().map(|file| &file.file)), ["embedding.onnx"]);
    assert!(files.genai_config.is_some());

    // Here a bare `model.onnx` is of any dtype.
    write(dir.path(), "genai_config.json", r#"{"model": {"decoder": {"filename": "model.onnx"}}}"#);
    write(dir.path(), "model.onnx", "");
    let files = discover(&dir).unwrap();
    assert_eq!(files.dtype_of(&files.graphs[0]), None);
    assert!(files.graph_for(None).is_ok());
    assert!(files.graph_for(Some(DType::F32)).unwrap_err().to_string().contains("dtype not declared"));
    let files = ModelFiles::discover(&dir.path().join("model.onnx"), "the model").unwrap();
    assert!(files.genai_config.is_some() && files.dtype_of(&files.graphs[0]).is_none());
}

#[test]
fn genai_directory_needs_no_config() {
    let dir = dir(&["tokenizer.json", "decoder/model.onnx", "decoder/other.onnx"]);
    write(dir.path(), "genai_config.json", r#"{"model": {"decoder": {"filename": "decoder/model.onnx"}}}"#);
    let files = discover(&dir).unwrap();
    assert_eq!(files.graphs[0].file.path(), Some(dir.path().join("decoder/model.onnx").as_path()));
    let genai_config = files.genai_config.clone();
    assert!(genai_config.is_some());
    assert_eq!((Some(files.config), files.generation_config), (genai_config.clone(), genai_config));
    write(dir.path(), "config.json", "{}");
    write(dir.path(), "generation_config.json", "{}");
    let files = discover(&dir).unwrap();
    assert_eq!(
        (files.config.file_name(), files.generation_config.unwrap().file_name()),
        ("config.json", "generation_config.json")
    );
}

#[test]
fn a_genai_config_that_is_wrong() {
    let check = |content: &str, field: &str| {
        let dir = dir(&["config.json", "model.onnx"]);
        write(dir.path(), "genai_config.json", content);
        let text = told(&dir, &discover(&dir).unwrap_err());
        assert!(text.starts_with("`DIR/genai_config.json`: ") && text.contains(field), "{text}");
    };
    check("{", "truncated");
    check("{}", "`model`: is missing");
    check(r#"{"model": {}}"#, "`model.decoder`: is missing");
    check(r#"{"model": {"decoder": {}}}"#, "`model.decoder.filename`: is missing");
    check(r#"{"model": {"decoder": {"filename": 1}}}"#, "`model.decoder.filename`: is `1`, not a string");
    check(r#"{"model": {"decoder": {"filename": "gone.onnx"}}}"#, "`gone.onnx`, which is not there");
    for name in
        ["../model.onnx", "/model.onnx", "sub/../../model.onnx", "sub\\\\model.onnx", "model.so", "", ".onnx", "c:model.onnx"]
    {
        check(
            &format!(r#"{{"model": {{"decoder": {{"filename": "{name}"}}}}}}"#),
            "not the path of an ONNX file below the directory",
        );
    }
}

#[test]
fn directories_that_are_no_model() {
    check_dir_refused(&[], &["no model `the model`", "`DIR` is empty", "`demo`"]);
    check_dir_refused(&["notes.txt"], &["`DIR` holds no `config.json`"]);
    check_dir_refused(&["model.safetensors"], &["`DIR/config.json`", "there is no such file"]);
    check_dir_refused(&["genai_config.json", "model.onnx"], &["`DIR/genai_config.json`"]);
    check_dir_refused(&["tokenizer.json", "model.onnx"], &["`DIR/config.json`", "`genai_config.json`", "model.safetensors"]);
    check_dir_refused(&["config.json"], &["neither weights nor graphs", "`model.safetensors`"]);
    check_dir_refused(
        &["config.json", "pytorch_model.bin"],
        &["`pytorch_model.bin`", "pickle files are never opened", "safetensors"],
    );
    check_dir_refused(&["config.json", "model.pt"], &["`model.pt`", "never opened"]);
    check_dir_refused(
        &["config.json", "model-00001-of-00002.safetensors"],
        &["`model-00001-of-00002.safetensors`", "index.json"],
    );
    check_dir_refused(&["a.gguf", "b.gguf"], &["holds 2 GGUF files", "`DIR/a.gguf`"]);
    check_dir_refused(&["config.json", "b.gguf", "a.gguf"], &["holds 2 GGUF files", "`DIR/a.gguf`"]);
    check_dir_refused(&["config.json", "onnx/decoder_model_merged.onnx"], &["no graph can be used", "merges"]);
    check_dir_refused(&["config.json", "a_chunk_01.mlpackage/x"], &["`DIR/a_chunk_01.mlpackage`", "`coreml`"]);
    check_dir_refused(&["meta.yaml", "lm_head.mlmodelc/x"], &["CoreML package `DIR/lm_head.mlmodelc`"]);
    check_dir_refused(&["adapter_config.json", "adapter_model.safetensors"], &["LoRA adapter", "give the model"]);
    check_dir_refused(&["cpu/int4/config.json", "cpu/int4/model.onnx"], &["a model lies in `DIR/cpu/int4`"]);
    check_dir_refused(&["int4/config.json"], &["a model lies in `DIR/int4`"]);
    check_dir_refused(&["config.json/", "model.safetensors"], &["`DIR/config.json`"]);
}

#[test]
fn a_gguf_file_is_a_model() {
    let check = |names: &[&str], reference: &str, file: &str, tokenizer: &str| {
        let dir = dir(names);
        // A header of version 3 without tensors and metadata.
        let empty = [b"GGUF\x03\0\0\0".as_slice(), &[0; 16]].concat();
        names
            .iter()
            .filter(|name| name.to_lowercase().ends_with("gguf"))
            .for_each(|name| fs::write(dir.path().join(name), &empty).unwrap());
        let files = ModelFiles::discover(&dir.path().join(reference), "the model").unwrap();
        assert_eq!(files.gguf().unwrap().file(), dir.path().join(file).to_str().unwrap());
        assert_eq!(files.config.file_name(), file);
        assert_eq!(files.tokenizer.as_ref().map(ModelFile::file_name), Some(tokenizer));
        assert!(files.graphs.is_empty());
        let error = files.refuse_gguf().unwrap_err();
        assert!(error.hint().unwrap().to_string().contains("backend `candle`"), "{error}");
    };
    check(&["x.gguf"], "x.gguf", "x.gguf", "x.gguf");
    check(&["x.GGUF"], "x.GGUF", "x.GGUF", "x.GGUF");
    check(&["x.gguf", "tokenizer.json"], "x.gguf", "x.gguf", "tokenizer.json");
    check(&["x.gguf", "y.gguf"], "y.gguf", "y.gguf", "y.gguf");
    check(&["x.gguf", "README.md"], "", "x.gguf", "x.gguf");
    check(&["x.gguf", "mmproj-x.gguf"], "", "x.gguf", "x.gguf");
    check(&["x.gguf", "config.json"], "", "x.gguf", "x.gguf");
    let dir = dir(&["x.gguf", "config.json", "model.safetensors"]);
    assert_eq!(discover(&dir).unwrap().gguf(), None, "safetensors come first");
}

#[test]
fn files_that_are_no_model() {
    let dir = dir(&[
        "config.json",
        "model.safetensors",
        "pytorch_model.bin",
        "x.gguf/",
        "alone/readme.txt",
        "model.mlpackage/Manifest.json",
    ]);
    let check = |name: &str, parts: &[&str]| check_refused(&dir, &dir.path().join(name), parts);
    check("config.json", &["ends in `.onnx`", "give the directory, `DIR`"]);
    check("model.mlpackage", &["CoreML package `DIR/model.mlpackage`", "the checkpoint that it was made from"]);
    check("model.safetensors", &["give the directory, `DIR`"]);
    check("pytorch_model.bin", &["pickle files are never opened"]);
    check("x.gguf", &["`DIR/x.gguf` is empty"]);
    check("alone/readme.txt", &["`DIR/alone/readme.txt`", "`config.json`"]);
}

#[test]
fn paths_where_nothing_is() {
    let dir = dir(&["qwen2.5-0.5b/config.json", "qwen2.5-7b/config.json", "llama/config.json"]);
    let check = |name: &str, parts: &[&str]| check_refused(&dir, &dir.path().join(name), parts);
    check(
        "qwen2.5-0.5",
        &["no model `the model`", "no file or directory `DIR/qwen2.5-0.5`", "did you mean `qwen2.5-0.5b` or `qwen2.5-7b`?"],
    );
    check("lama", &["did you mean `llama`?"]);
    check("dmeo", &["did you mean `demo`?"]);
    check("something-else", &["give a directory"]);
    check("gone/deeper/model", &["give a directory"]);
    check_refused(&dir, Path::new(""), &["no file or directory ``"]);
    check_refused(&dir, Path::new("no-such-thing-here"), &["`no-such-thing-here`"]);
    check_refused(&dir, Path::new("demo"), &["did you mean `demo`?"]);
}

#[test]
fn small_files_beside_the_folder_of_graphs() {
    let dir = dir(&["config.json", "tokenizer.json", "onnx/model_q4.onnx", "onnx/int4/model.onnx", "onnx/int4/deep/model.onnx"]);
    write(dir.path(), "onnx/int4/genai_config.json", r#"{"model": {"decoder": {"filename": "model.onnx"}}}"#);
    let check = |path: &str, graph: &str, is_genai: bool| {
        let files = ModelFiles::discover(&dir.path().join(path), "the model").unwrap();
        assert_eq!(files.config.path(), Some(dir.path().join("config.json").as_path()), "{path}");
        assert_eq!(names(&files.tokenizer), ["tokenizer.json"]);
        assert_eq!(files.graphs[0].file.path(), Some(dir.path().join(graph).as_path()));
        assert_eq!((files.graphs.len(), files.genai_config.is_some()), (1, is_genai), "{path}");
    };
    check("onnx", "onnx/model_q4.onnx", false);
    check("onnx/model_q4.onnx", "onnx/model_q4.onnx", false);
    check("onnx/int4", "onnx/int4/model.onnx", true);
    check("onnx/int4/model.onnx", "onnx/int4/model.onnx", true);
    check_refused(&dir, &dir.path().join("onnx/int4/deep"), &["`DIR/onnx/int4/deep/config.json`"]);
    check_refused(&dir, &dir.path().join("onnx/int4/deep/model.onnx"), &["`DIR/onnx/int4/deep/config.json`"]);
}

/// `models--owner--name/{blobs, snapshots/<revision>}`, as huggingface_hub and hf-hub lay it out.
#[cfg(unix)]
#[test]
fn a_snapshot_of_links() {
    use std::os::unix::fs::symlink;
    let dir = dir(&["blobs/c0", "blobs/t0", "blobs/w0", "blobs/g0", "snapshots/abc/onnx/"]);
    let snapshot = dir.path().join("snapshots/abc");
    symlink("../../blobs/c0", snapshot.join("config.json")).unwrap();
    symlink("../../blobs/t0", snapshot.join("tokenizer.json")).unwrap();
    symlink("../../blobs/w0", snapshot.join("model.safetensors")).unwrap();
    symlink("../../../blobs/g0", snapshot.join("onnx/model_q4.onnx")).unwrap();
    let files = ModelFiles::discover(&snapshot, "owner/name").unwrap();
    assert_eq!(files.weights, [ModelFile::Path(snapshot.join("model.safetensors"))]);
    assert_eq!(graph_names(&files), ["model_q4.onnx"]);
    assert_eq!(&*files.config.read(100).unwrap(), b"{}");
    assert_eq!(&*files.weights[0].map().unwrap(), b"{}");
    assert!(files.tokenizer.is_some());

    let files = ModelFiles::discover(&snapshot.join("onnx/model_q4.onnx"), "owner/name").unwrap();
    assert_eq!(files.config.path(), Some(snapshot.join("config.json").as_path()));

    // The hint for one who gives the cache's own folder.
    check_refused(&dir, dir.path(), &["a model lies in `DIR/snapshots/abc`"]);

    // A shard whose blob was removed.
    fs::remove_file(snapshot.join("model.safetensors")).unwrap();
    symlink("../../blobs/gone", snapshot.join("model-1.safetensors")).unwrap();
    write(&snapshot, "model.safetensors.index.json", r#"{"weight_map": {"w": "model-1.safetensors"}}"#);
    check_refused(&dir, &snapshot, &["`DIR/snapshots/abc/model-1.safetensors`", "link to a file that is not there"]);
    symlink("nowhere", dir.path().join("dangling")).unwrap();
    check_refused(&dir, &dir.path().join("dangling"), &["a link to something that is not there"]);
}
