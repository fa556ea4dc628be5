//! The golden checkpoints as transformers wrote them: their configuration against their own weights, and every export of them.

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use tandem_core::DType;
use tandem_core::config::{Architecture, GenerationConfig};
use tandem_core::files::ModelFiles;

fn checkpoints() -> Vec<PathBuf> {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens");
    let paths = fs::read_dir(goldens).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.join("config.json").is_file()).collect()
}

#[test]
fn configurations_agree_with_weights() {
    let mut seen = Vec::new();
    for path in checkpoints() {
        let files = ModelFiles::discover(&path, "golden").unwrap();
        let config = files.model_config().unwrap();
        let (mut n_parameters, mut names) = (0, Vec::new());
        for file in &files.weights {
            let bytes = file.map().unwrap();
            for (name, tensor) in SafeTensors::deserialize(&bytes).unwrap().iter() {
                n_parameters += tensor.shape().iter().product::<usize>() as u64;
                names.push(name.to_owned());
            }
        }
        let has = |part: &str| names.iter().any(|name| name.contains(part));
        assert_eq!(config.n_parameters(), n_parameters, "{}", path.display());
        assert_eq!(config.tie_word_embeddings, !has("lm_head.weight"));
        assert_eq!(config.qk_norm, has("self_attn.q_norm.weight"));
        assert_eq!(config.qkv_bias, has("self_attn.q_proj.bias"));
        assert_eq!(config.attention_output_bias, has("self_attn.o_proj.bias"));
        assert_eq!(config.mlp_bias, has("mlp.gate_proj.bias"));
        let generation = GenerationConfig::from_file(files.generation_config.as_ref().unwrap()).unwrap();
        assert_eq!(generation.eos_token_ids, config.eos_token_ids);
        assert!(files.tokenizer.is_some());
        seen.push(config.architecture);
    }
    assert!(Architecture::DECODERS.iter().all(|architecture| seen.contains(architecture)), "{seen:?}");
}

#[test]
fn every_export_finds_its_checkpoint() {
    let mut n_exports = 0;
    for path in checkpoints().into_iter().filter(|path| path.join("onnx").is_dir()) {
        for export in fs::read_dir(path.join("onnx")).unwrap().map(|entry| entry.unwrap().path()) {
            // A directory for each export, or as onnx-community has them, a graph with its external data for each.
            let is_dir = export.is_dir();
            let graph = if is_dir { export.join("model.onnx") } else { export.clone() };
            if graph.extension().is_none_or(|extension| extension != "onnx") {
                continue;
            }
            for given in [&export, &graph] {
                let files = ModelFiles::discover(given, "golden").unwrap();
                assert_eq!(files.config.path(), Some(path.join("config.json").as_path()));
                assert_eq!(files.graph_for(None).unwrap().file.path(), Some(graph.as_path()));
                assert_eq!(files.genai_config.is_some(), export.join("genai_config.json").is_file());
            }
            n_exports += 1;
        }
    }
    assert!(n_exports >= 20, "{n_exports} exports");
}

#[test]
fn a_published_repository_offers_its_dtypes() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens/onnx-community");
    let files = ModelFiles::discover(&repository, "golden").unwrap();
    let graph = |dtype| files.graph_for(dtype).unwrap().file.file_name();
    assert_eq!((graph(None), graph(Some(DType::F32))), ("model.onnx", "model.onnx"));
    assert_eq!((graph(Some(DType::F16)), graph(Some(DType::Int8))), ("model_fp16.onnx", "model_int8.onnx"));
    assert_eq!(graph(Some(DType::Int4)), "model_q4.onnx");
    assert!(files.graph_for(Some(DType::Bf16)).is_err());
}
