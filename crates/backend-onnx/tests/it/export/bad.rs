//! Checkpoints that are damaged or contradict themselves: the error names the file and the field, and nothing is left.

use std::fs;
use std::path::Path;

use safetensors::Dtype;
use tandem_core::{BackendKind, DType, Error, Remedy};

use super::checkpoints::{Checkpoint, Weight};
use super::{export_to, names};

const LAYER_WEIGHT: &str = "model.layers.1.mlp.up_proj.weight";

/// What the export of a golden checkpoint says after `damage` was done to it.
fn error_after(damage: impl FnOnce(&mut Checkpoint), then: impl FnOnce(&Path)) -> Error {
    let dir = tempfile::tempdir().unwrap();
    let directory = dir.path().join("checkpoint");
    let mut checkpoint = Checkpoint::of_golden("qwen2-untied");
    damage(&mut checkpoint);
    checkpoint.write(&directory);
    then(&directory);
    let error = export_to(&directory, &dir.path().join("graph"), DType::Int4).unwrap_err();
    assert_eq!(names(dir.path()), ["checkpoint"], "nothing is left after: {error}");
    error
}

#[track_caller]
fn says(error: &Error, file: &str, field: &str, problem: &str) {
    let Error::BadField { file: found_file, field: found_field, problem: found, hint } = error else { panic!("{error}") };
    assert!(found_file.ends_with(file) && found_field == field && found.contains(problem), "{error}");
    assert!(hint.is_some() || problem.contains("F32"), "{error} has a hint");
}

#[test]
fn unsupported_architecture_is_refused_with_a_hint() {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens");
    for name in ["gemma2", "gemma3", "phi3"] {
        let dir = tempfile::tempdir().unwrap();
        let error = export_to(&goldens.join(name), &dir.path().join("graph"), DType::F32).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }) && error.to_string().contains(name), "{error}");
        assert!(
            error.hint().is_some_and(|hint| hint.iter().any(|remedy| *remedy == Remedy::UseBackend(BackendKind::Candle))),
            "{error}"
        );
        assert!(names(dir.path()).is_empty(), "nothing is left after: {error}");
    }
}

#[test]
fn missing_weight_is_an_error() {
    let error = error_after(|checkpoint| drop(checkpoint.weights.remove(LAYER_WEIGHT)), |_| {});
    says(&error, "model.safetensors", LAYER_WEIGHT, "there is no such weight");
    let error = error_after(|checkpoint| drop(checkpoint.weights.remove("lm_head.weight")), |_| {});
    says(&error, "model.safetensors", "lm_head.weight", "there is no such weight");
}

#[test]
fn shape_mismatch_error_has_both_shapes() {
    let name = "model.embed_tokens.weight";
    let error = error_after(|checkpoint| checkpoint.weights.get_mut(name).unwrap().shape.reverse(), |_| {});
    says(&error, "model.safetensors", name, "has the shape [32, 288], and `");
    assert!(error.to_string().ends_with("config.json` implies [288, 32]"), "{error}");
}

#[test]
fn configuration_of_another_model_is_an_error() {
    let error = error_after(|checkpoint| checkpoint.config["intermediate_size"] = 96.into(), |_| {});
    says(&error, "model.safetensors", "model.layers.0.mlp.gate_proj.weight", "has the shape [");
    let error = error_after(|checkpoint| checkpoint.config["num_hidden_layers"] = 3.into(), |_| {});
    says(&error, "model.safetensors", "model.layers.2.input_layernorm.weight", "there is no such weight");
    let error = error_after(|checkpoint| checkpoint.config["num_hidden_layers"] = 1.into(), |_| {});
    says(&error, "model.safetensors", "model.layers.1.input_layernorm.weight", "is not part of the model");
}

#[test]
fn unexpected_weight_is_an_error() {
    let stray = |name: &'static str| {
        move |checkpoint: &mut Checkpoint| {
            let weight = Weight { dtype: Dtype::F32, shape: vec![1], bytes: vec![0; 4] };
            checkpoint.weights.insert(name.into(), weight);
        }
    };
    let name = "model.layers.0.mlp.experts.3.weight";
    says(&error_after(stray(name), |_| {}), "model.safetensors", name, "is not part of the model");
    // What old checkpoints keep beside the weights is computed.
    let dir = tempfile::tempdir().unwrap();
    let mut checkpoint = Checkpoint::of_golden("qwen2-untied");
    stray("model.layers.0.self_attn.rotary_emb.inv_freq")(&mut checkpoint);
    checkpoint.write(&dir.path().join("checkpoint"));
    export_to(&dir.path().join("checkpoint"), &dir.path().join("graph"), DType::F32).unwrap();
}

#[test]
fn unsupported_weight_type_is_an_error() {
    let to_f64 = |checkpoint: &mut Checkpoint| {
        let weight = checkpoint.weights.get_mut(LAYER_WEIGHT).unwrap();
        let n_values: usize = weight.shape.iter().product();
        (weight.dtype, weight.bytes) = (Dtype::F64, vec![0; 8 * n_values]);
    };
    says(&error_after(to_f64, |_| {}), "model.safetensors", LAYER_WEIGHT, "F64; F32, F16 or BF16");
}

#[test]
fn quantised_checkpoint_is_refused() {
    let error = error_after(
        |checkpoint| checkpoint.config["quantization_config"] = serde_json::json!({ "quant_method": "gptq", "bits": 4 }),
        |_| {},
    );
    assert!(matches!(error, Error::Unsupported { .. }) && error.to_string().contains("quantised by `gptq`"), "{error}");
}

#[test]
fn truncated_weights_are_an_error() {
    for percent in [0, 1, 50, 99] {
        let error = error_after(
            |_| {},
            |directory| {
                let path = directory.join("model.safetensors");
                let length = fs::metadata(&path).unwrap().len();
                fs::File::options().write(true).open(path).unwrap().set_len(length * percent / 100).unwrap();
            },
        );
        let Error::BadFile { file, problem, .. } = &error else { panic!("{error}") };
        assert!(file.ends_with("model.safetensors") && problem == "is not a complete safetensors file", "{error}");
    }
}

#[test]
fn missing_or_outside_shards_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let directory = dir.path().join("checkpoint");
    Checkpoint::of_golden("qwen3").write_sharded(&directory, 2);
    let export = || export_to(&directory, &dir.path().join("graph"), DType::Int4).unwrap_err();
    let index = directory.join("model.safetensors.index.json");
    let text = fs::read_to_string(&index).unwrap();

    fs::rename(directory.join("model-00002-of-00002.safetensors"), dir.path().join("aside")).unwrap();
    let error = export().to_string();
    assert!(error.contains("model-00002-of-00002.safetensors`: this shard, named by `"), "{error}");

    fs::write(&index, text.replacen("model-00001-of-00002", "../x", 1)).unwrap();
    let error = export();
    let Error::BadField { file, field, problem, .. } = &error else { panic!("{error}") };
    assert!(file.ends_with("model.safetensors.index.json") && field.starts_with("weight_map."), "{error}");
    assert!(problem.contains("names `../x.safetensors`"), "{error}");

    // A shard that lacks what the index says it has.
    fs::write(&index, text.replace("model-00002", "model-00001")).unwrap();
    let error = export();
    assert!(matches!(&error, Error::BadField { problem, .. } if problem == "there is no such weight"), "{error}");
}

#[test]
fn unsupported_dtype_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let golden = super::checkpoints::golden("qwen3");
    let error = export_to(&golden, &dir.path().join("graph"), DType::Bf16).unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }) && error.hint().unwrap().to_string().contains("int4"), "{error}");
    assert_eq!(names(dir.path()), Vec::<String>::new());
}

#[test]
fn model_without_weights_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let exported = export_to(&super::checkpoints::golden("qwen3"), &dir.path().join("one"), DType::Int4).unwrap();
    let error = export_to(&exported.directory, &dir.path().join("two"), DType::Int4).unwrap_err();
    assert!(error.to_string().contains("it has graphs but no safetensors weights"), "{error}");
}
