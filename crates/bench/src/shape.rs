//! Checkpoints of random weights in the shapes of published models, so that speed can be measured where no model can be had.
//!
//! Speed does not depend on what the weights say; what such a model generates is noise, and its losses are not a real model's.

mod embedder;
mod vocabulary;
mod weights;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tandem_core::config::{ExpectedWeight, ModelConfig};
use tandem_core::{CancelToken, Error, Result};

use self::embedder::Embedder;
use self::weights::write;
use crate::record::write_whole;

/// The version of what is written: an earlier one in the cache is made anew.
const VERSION: u32 = 1;

/// The field of `config.json` that says that weights are random.
const MARK: &str = "tandem_random_weights";

/// A shape that is known.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Its name, such as `qwen2.5-0.5b`.
    pub name: &'static str,
    config: Value,
    /// What makes vectors of its hidden states, for a model that embeds.
    embedder: Option<Embedder>,
}

/// What making one is going to take.
#[derive(Clone, Debug)]
pub struct ShapePlan {
    shape: Shape,
    tensors: Vec<ExpectedWeight>,
    /// Where it is to be.
    pub directory: PathBuf,
    /// Weights and biases.
    pub n_parameters: u64,
    /// Bytes on the disk.
    pub bytes: u64,
    /// Free bytes there, where the system tells.
    pub free_bytes: Option<u64>,
}

/// Every shape: `config.json` of the models as published.
pub fn shapes() -> Vec<Shape> {
    [generators(), embedder::shapes()].concat()
}

fn generators() -> Vec<Shape> {
    let qwen = |model_type: &str, architecture: &str| {
        json!({"architectures": [architecture], "model_type": model_type, "bos_token_id": 151_643, "eos_token_id": 151_645,
            "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 1_000_000.0, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
            "use_sliding_window": false, "vocab_size": 151_936})
    };
    let qwen2 = || qwen("qwen2", "Qwen2ForCausalLM");
    let qwen3 = || {
        with(
            qwen("qwen3", "Qwen3ForCausalLM"),
            &json!({"attention_bias": false, "head_dim": 128, "max_position_embeddings": 40960}),
        )
    };
    let llama = |specific: Value| {
        let common = json!({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": false, "mlp_bias": false,
            "hidden_act": "silu", "rms_norm_eps": 1e-5, "tie_word_embeddings": true, "torch_dtype": "bfloat16"});
        with(common, &specific)
    };
    let size = |hidden: u32, inner: u32, layers: u32, heads: u32, kv_heads: u32| {
        json!({"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads,
            "num_key_value_heads": kv_heads})
    };
    let context = |n: u32| json!({"max_position_embeddings": n});
    let shape = |name: &'static str, config: Value| Shape { name, config, embedder: None };
    let smollm = json!({"vocab_size": 49152, "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 8192,
        "rope_theta": 100_000.0});
    let llama_1b = json!({"vocab_size": 128_256, "bos_token_id": 128_000, "eos_token_id": 128_009, "head_dim": 64,
        "max_position_embeddings": 131_072, "rope_theta": 500_000.0, "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0,
        "low_freq_factor": 1.0, "original_max_position_embeddings": 8192, "rope_type": "llama3"}});
    vec![
        shape("smollm2-135m", llama(with(size(576, 1536, 30, 9, 3), &smollm))),
        shape("qwen2.5-0.5b", with(with(qwen2(), &size(896, 4864, 24, 14, 2)), &context(32768))),
        shape("qwen3-0.6b", with(qwen3(), &size(1024, 3072, 28, 16, 8))),
        shape("llama3.2-1b", llama(with(size(2048, 8192, 16, 32, 8), &llama_1b))),
        shape("qwen2.5-1.5b", with(with(qwen2(), &size(1536, 8960, 28, 12, 2)), &context(32768))),
        shape("qwen3-1.7b", with(qwen3(), &size(2048, 6144, 28, 16, 8))),
    ]
}

/// Plans the checkpoint of the shape `name` in the cache directory `cache`.
///
/// # Errors
/// [`Error::InvalidOption`] for an unknown name, listing the known ones.
pub fn plan_shape(name: &str, cache: &Path) -> Result<ShapePlan> {
    let known = shapes();
    let names = known.iter().map(|shape| format!("`{}`", shape.name)).collect::<Vec<_>>().join(", ");
    let shape = known.into_iter().find(|shape| shape.name == name);
    let shape = shape.ok_or_else(|| Error::invalid_option("shape", name, format!("is none of {names}")))?;
    let config = ModelConfig::from_json("config.json", shape.config.to_string().as_bytes())?;
    let tensors: Vec<_> = match config.encoder {
        Some(_) => embedder::expected_weights(&config),
        None => config.expected_weights().collect(),
    };
    let directory = cache.join("shapes").join(format!("{name}-v{VERSION}"));
    Ok(ShapePlan {
        bytes: tensors.iter().map(weights::bytes).sum(),
        n_parameters: config.n_parameters(),
        free_bytes: tandem_core::disk::free(&directory).ok(),
        shape,
        tensors,
        directory,
    })
}

/// Whether `config` is that of a checkpoint of random weights.
pub fn is_random(config: &ModelConfig) -> bool {
    config.raw().get(MARK).and_then(Value::as_bool) == Some(true)
}

impl ShapePlan {
    /// It was made before.
    pub fn is_there(&self) -> bool {
        self.directory.join("config.json").is_file()
    }

    /// Makes the checkpoint; `progress` is told how many bytes are written. It is whole or not there.
    ///
    /// # Errors
    /// [`Error::BadFile`] when there is no room, with both figures, or when a file cannot be written; [`Error::Cancelled`].
    pub fn make(&self, progress: &mut dyn FnMut(u64), cancel: &CancelToken) -> Result<()> {
        let name = self.directory.display().to_string();
        if let Some(free) = self.free_bytes.filter(|&free| free < self.bytes + self.bytes / 50) {
            return Err(Error::BadFile {
                file: name,
                problem: format!(
                    "there is not enough room: {} bytes are needed, and {free} are free",
                    self.bytes + self.bytes / 50
                ),
                hint: Some("make room, set `TANDEM_CACHE` to a directory on another disk, or choose a smaller shape".into()),
                source: None,
            });
        }
        let failed = |error: std::io::Error| Error::bad_file(&name, "cannot be written", error);
        let parent = self.directory.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(parent).map_err(failed)?;
        let staging = tempfile::Builder::new().prefix(".making-").tempdir_in(parent).map_err(failed)?;
        write(&self.tensors, &staging.path().join("model.safetensors"), progress, cancel)?;
        for (place, content) in self.shape.embedder.iter().flat_map(|embedder| embedder.files(&self.shape.config)) {
            write_whole(&staging.path().join(place), format!("{content:#}\n").as_bytes())?;
        }
        let config = with(self.shape.config.clone(), &json!({MARK: true}));
        write_whole(&staging.path().join("config.json"), format!("{config:#}\n").as_bytes())?;
        // Half a directory from before the configuration came last is in the way of the rename.
        let _ = std::fs::remove_dir_all(&self.directory);
        std::fs::rename(staging.path(), &self.directory).map_err(failed)
    }
}

/// `object` with the fields of `more`.
fn with(mut object: Value, more: &Value) -> Value {
    if let (Value::Object(fields), Value::Object(more)) = (&mut object, more) {
        fields.extend(more.clone());
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_is_a_model_of_its_published_size() {
        let millions = |name: &str| plan_shape(name, Path::new("x")).unwrap().n_parameters / 1_000_000;
        let published = [
            ("smollm2-135m", 134),
            ("qwen2.5-0.5b", 494),
            ("qwen3-0.6b", 596),
            ("llama3.2-1b", 1235),
            ("qwen2.5-1.5b", 1543),
            ("qwen3-1.7b", 1720),
            // Without the pooler of BERT's checkpoints, which nothing of sentence-transformers uses.
            ("all-minilm-l6-v2", 22),
            ("bge-base-en-v1.5", 108),
            ("qwen3-embedding-0.6b", 595),
        ];
        assert_eq!(shapes().len(), published.len());
        published.into_iter().for_each(|(name, n)| assert_eq!(millions(name), n, "{name}"));
    }

    #[test]
    fn plans_hold_every_weight() {
        for shape in shapes() {
            let plan = plan_shape(shape.name, Path::new("x")).unwrap();
            let values: u64 = plan.tensors.iter().map(|tensor| weights::bytes(tensor) / 2).sum();
            assert_eq!(values, plan.n_parameters, "{}", shape.name);
        }
    }

    #[test]
    fn unknown_shapes_list_the_known_ones() {
        let error = plan_shape("gpt-4", Path::new("x")).unwrap_err().to_string();
        assert!(error.contains("gpt-4") && error.contains("qwen2.5-0.5b"), "{error}");
    }

    #[test]
    fn shapes_check_free_space_before_writing() {
        let dir = tempfile::tempdir().unwrap();
        let plan = ShapePlan { free_bytes: Some(1000), ..plan_shape("smollm2-135m", dir.path()).unwrap() };
        let error = plan.make(&mut |_| {}, &CancelToken::new()).unwrap_err();
        assert!(error.to_string().contains("not enough room") && error.hint().is_some(), "{error}");
        assert!(!plan.is_there());
    }
}
