//! Exports of embedding models: for programs that pad, with everything that says how an embedding is made.

use std::path::{Path, PathBuf};

use ort::session::Session;
use ort::value::Tensor;
use tandem_backend_onnx::export::export;
use tandem_backend_onnx::graph_cache::cached_graph;
use tandem_backend_onnx::library;
use tandem_core::backend::Purpose;
use tandem_core::conformance::{describe, with_fixture};
use tandem_core::files::ModelFiles;
use tandem_core::{DType, Error, ExportOptions, Exported, GraphFormat, GraphOutputs, LoadOptions, Result};

use super::checkpoints::golden;
use super::names;
use crate::embedders::{check, directories, embedder, name};

fn export_encoding(checkpoint: &Path, directory: PathBuf, dtype: DType) -> Result<Exported> {
    let options = ExportOptions {
        format: GraphFormat { outputs: GraphOutputs::HiddenStates, ..GraphFormat::of(dtype) },
        ..ExportOptions::new(directory, dtype)
    };
    export(&ModelFiles::discover(checkpoint, "a checkpoint")?, &options)
}

#[test]
fn exported_embedders_embed_as_sentence_transformers() {
    with_fixture(
        || library::find(None).map_err(|error| describe(&error)),
        |_| {
            let dir = tempfile::tempdir().unwrap();
            for directory in directories() {
                let exported = export_encoding(&directory, dir.path().join(name(&directory)), DType::F32).unwrap();
                let embedder = embedder(&exported.directory, Some(exported.graph), LoadOptions::new());
                check(&embedder, &directory, "exported");
            }
        },
    );
}

#[test]
fn exported_embedder_is_self_contained() {
    let dir = tempfile::tempdir().unwrap();
    let exported = export_encoding(&golden("embedders/bert-dense"), dir.path().join("bert"), DType::Int8).unwrap();
    let expected = [
        "1_Pooling",
        "2_Dense",
        "3_Dense",
        "4_Normalize",
        "config.json",
        "config_sentence_transformers.json",
        "model.onnx",
        "model.onnx.data",
        "modules.json",
        "sentence_bert_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    assert_eq!(names(&exported.directory), expected);
    assert!(exported.files.iter().any(|(file, n_bytes)| file == "2_Dense/model.safetensors" && *n_bytes > 0));
}

/// A row with padding gets what it gets without.
#[test]
fn padding_is_masked_in_exported_graphs() {
    with_fixture(
        || library::find(None).map_err(|error| describe(&error)),
        |_| {
            let dir = tempfile::tempdir().unwrap();
            for model in ["bert-cls", "roberta", "mpnet", "modernbert", "gemma3", "qwen2-bidirectional"] {
                let checkpoint = golden(&format!("embedders/{model}"));
                let exported = export_encoding(&checkpoint, dir.path().join(model), DType::F32).unwrap();
                let environment = library::environment(None).unwrap();
                let mut session = Session::builder(&environment).unwrap().commit_from_file(&exported.graph).unwrap();
                let short = run(&mut session, [1, 3], &[5, 6, 7], &[1; 3]);
                let both = run(
                    &mut session,
                    [2, 9],
                    &[5, 6, 7, 1, 1, 1, 1, 1, 1, 4, 5, 6, 7, 8, 9, 4, 5, 6],
                    &[1, 1, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1],
                );
                let furthest = short.iter().zip(&both).fold(0_f32, |furthest, (a, b)| furthest.max((a - b).abs()));
                assert!(furthest < 1e-5, "{model}: {furthest}");
            }
        },
    );
}

fn run(session: &mut Session, shape: [usize; 2], ids: &[i64], mask: &[i64]) -> Vec<f32> {
    let tensor = |values: &[i64]| Tensor::from_array((shape, values.to_vec())).unwrap();
    let types = vec![0; ids.len()];
    let given = [("input_ids", tensor(ids)), ("attention_mask", tensor(mask)), ("token_type_ids", tensor(&types))];
    let known: Vec<String> = session.inputs().iter().map(|input| input.name().to_owned()).collect();
    assert!(known.iter().any(|name| name == "attention_mask"), "for who pads");
    let given: Vec<_> = given.into_iter().filter(|(name, _)| known.iter().any(|known| known == name)).collect();
    let outputs = session.run(given).unwrap();
    outputs["last_hidden_state"].try_extract_tensor::<f32>().unwrap().1.to_vec()
}

#[test]
fn logits_and_adapters_of_an_encoder_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let files = ModelFiles::discover(&golden("embedders/bert-cls"), "bert-cls").unwrap();
    let error = export(&files, &ExportOptions::new(dir.path().join("logits"), DType::F32)).unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    assert!(describe(&error).contains("export its hidden states"), "{}", describe(&error));
    let format = GraphFormat { outputs: GraphOutputs::HiddenStates, adapter_inputs: true, ..GraphFormat::of(DType::F32) };
    let options = ExportOptions { format, ..ExportOptions::new(dir.path().join("adapters"), DType::F32) };
    assert!(matches!(export(&files, &options), Err(Error::Unsupported { .. })));
    assert!(names(dir.path()).is_empty());
}

#[test]
fn graphs_to_generate_and_to_encode_with_are_different_entries_of_the_cache() {
    let dir = tempfile::tempdir().unwrap();
    let files = ModelFiles::discover(&golden("qwen3"), "qwen3").unwrap();
    let path = |purpose| {
        let options = LoadOptions::new().with_cache(dir.path().to_owned()).with_purpose(purpose);
        cached_graph(&files, DType::F32, &options).unwrap().path().to_owned()
    };
    let (generates, encodes) = (path(Purpose::Generate), path(Purpose::Encode));
    assert_ne!(generates, encodes);
    assert_eq!((path(Purpose::Generate), path(Purpose::Encode)), (generates, encodes));
}
