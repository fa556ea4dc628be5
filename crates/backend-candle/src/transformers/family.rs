//! The models of candle-transformers, one for each family.

use std::sync::Mutex;

use candle_core::{DType, Device, Result as CandleResult, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{llama, qwen2, qwen3};
use serde_json::{Value, json};
use tandem_core::checkpoint::Checkpoint;
use tandem_core::config::{Architecture, ModelConfig};
use tandem_core::{Error, Result, TokenId};

use super::weights::CheckpointBackend;
use crate::error::Doing;

/// A model of candle-transformers with the KV cache of one sequence. Clones share the weights, and also a cache that is not empty.
#[derive(Clone)]
pub(super) enum Family {
    Qwen2(qwen2::ModelForCausalLM),
    Qwen3(qwen3::ModelForCausalLM),
    Llama { model: Box<llama::Llama>, cache: Box<llama::Cache> },
}

impl Family {
    /// Reads the weights of the model that `config` describes from `checkpoint`, which messages call `file`.
    pub(super) fn load(checkpoint: &Checkpoint, config: &ModelConfig, file: &str) -> Result<Self> {
        let failed = Mutex::new(None);
        let weights = CheckpointBackend { checkpoint, file, failed: &failed };
        let builder = VarBuilder::from_backend(Box::new(weights), DType::F32, Device::Cpu);
        let family = match config.architecture {
            Architecture::Qwen2 => {
                qwen2::ModelForCausalLM::new(&read(config, file, serde_json::from_value)?, builder).map(Self::Qwen2)
            }
            Architecture::Qwen3 => {
                qwen3::ModelForCausalLM::new(&read(config, file, serde_json::from_value)?, builder).map(Self::Qwen3)
            }
            _ => {
                let config = read::<llama::LlamaConfig>(config, file, serde_json::from_value)?.into_config(false);
                Self::llama(&config, builder)
            }
        };
        // An error about a weight, with its name.
        if let Some(error) = failed.into_inner().unwrap_or_default() {
            return Err(error);
        }
        Ok(family.doing("to load the weights")?)
    }

    /// Llama, whose cache is a separate object.
    fn llama(config: &llama::Config, weights: VarBuilder<'_>) -> CandleResult<Self> {
        let model = Box::new(llama::Llama::load(weights, config)?);
        let cache = Box::new(llama::Cache::new(true, DType::F32, config, &Device::Cpu)?);
        Ok(Self::Llama { model, cache })
    }

    /// Appends `tokens` to the `held` ones in the cache and returns the logits of the last: `[vocab_size]`.
    pub(super) fn append(&mut self, tokens: &[TokenId], held: usize) -> CandleResult<Vec<f32>> {
        let tokens = Tensor::new(tokens, &Device::Cpu)?.unsqueeze(0)?;
        let logits = match self {
            Self::Qwen2(model) => model.forward(&tokens, held),
            Self::Qwen3(model) => model.forward(&tokens, held),
            Self::Llama { model, cache } => model.forward(&tokens, held, cache),
        };
        logits?.flatten_all()?.to_vec1()
    }
}

/// The configuration as candle-transformers reads it from JSON with `parse`, with the fields that it requires and publishers omit.
///
/// # Errors
/// [`Error::BadFile`] if it cannot be read; `file` is the name of the model in messages.
fn read<C>(config: &ModelConfig, file: &str, parse: fn(Value) -> serde_json::Result<C>) -> Result<C> {
    let mut json = config.raw().clone();
    let defaults = json!({"max_window_layers": config.n_layers, "use_sliding_window": false, "attention_bias": config.qkv_bias});
    if let (Value::Object(fields), Value::Object(defaults)) = (&mut json, defaults) {
        for (name, value) in defaults {
            fields.entry(name).or_insert(value);
        }
        fields.insert("head_dim".into(), config.head_dim().into());
        fields.insert("rope_theta".into(), config.rope.theta.into());
        fields.insert("tie_word_embeddings".into(), config.tie_word_embeddings.into());
        // It is null without a window, but Qwen2's must be a number.
        if fields.get("sliding_window").is_none_or(Value::is_null) {
            fields.insert("sliding_window".into(), config.max_context.into());
        }
    }
    parse(json).map_err(|error| Error::bad_file(file, "has a configuration that candle-transformers cannot read", error))
}
