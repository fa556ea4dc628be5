//! The models of candle-transformers, one for each family.

use std::sync::Mutex;

use candle_core::{DType, Device, Result as CandleResult, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{gemma2, gemma3, llama, phi3, qwen2, qwen3};
use tandem_core::checkpoint::Checkpoint;
use tandem_core::config::{Architecture, ModelConfig};
use tandem_core::{Result, TokenId};

use super::family_config::{self, FamilyConfig};
use super::weights::CheckpointBackend;
use crate::error::Doing;
use crate::session::MAX_CHUNK_TOKENS;

/// A model of candle-transformers with the KV cache of one sequence. Clones share the weights, and also a cache that is not empty.
#[derive(Clone)]
pub(crate) struct Family {
    decoder: Decoder,
    device: Device,
    max_context: usize,
    /// The number of tokens after which further ones must be appended one by one.
    window: Option<usize>,
    /// The most tokens of one forward pass.
    max_chunk: usize,
}

#[derive(Clone)]
enum Decoder {
    Gemma2(gemma2::Model),
    Gemma3(gemma3::Model),
    Phi3(phi3::Model),
    // Our decoder runs these; candle-transformers' models are the peer that benchmarks measure.
    Qwen2(qwen2::ModelForCausalLM),
    Qwen3(qwen3::ModelForCausalLM),
    Llama { model: Box<llama::Llama>, cache: Box<llama::Cache> },
}

impl Family {
    /// Reads the weights of the model that `config` describes from `checkpoint`, which messages call `file`.
    pub(crate) fn load(checkpoint: &Checkpoint, config: &ModelConfig, file: &str, device: &Device) -> Result<Self> {
        let family_config = FamilyConfig::new(config, file)?;
        let failed = Mutex::new(None);
        let weights = CheckpointBackend { checkpoint, file, change: family_config::weight_change(config), failed: &failed };
        let builder = VarBuilder::from_backend(Box::new(weights), DType::F32, device.clone());
        let decoder = match config.architecture {
            Architecture::Gemma2 => gemma2::Model::new(false, &family_config.gemma2(config), builder).map(Decoder::Gemma2),
            Architecture::Gemma3 => gemma3::Model::new(false, &family_config.gemma3(config), builder).map(Decoder::Gemma3),
            Architecture::Qwen2 => {
                qwen2::ModelForCausalLM::new(&family_config::read(config, file, serde_json::from_value)?, builder)
                    .map(Decoder::Qwen2)
            }
            Architecture::Qwen3 => {
                qwen3::ModelForCausalLM::new(&family_config::read(config, file, serde_json::from_value)?, builder)
                    .map(Decoder::Qwen3)
            }
            Architecture::Llama => llama(
                family_config::read(config, file, serde_json::from_value::<llama::LlamaConfig>)?.into_config(false),
                builder,
                device,
            ),
            _ => phi3::Model::new(&family_config.phi3(config), builder).map(Decoder::Phi3),
        };
        // An error about a weight, with its name.
        if let Some(error) = failed.into_inner().unwrap_or_default() {
            return Err(error);
        }
        let decoder = decoder.doing("to load the weights")?;
        // As its users do, the peer appends a whole prompt at once.
        let max_chunk = if config.architecture.has_llama_form() { usize::MAX } else { MAX_CHUNK_TOKENS };
        Ok(Self {
            decoder,
            device: device.clone(),
            max_context: family_config.max_context,
            window: family_config.ring,
            max_chunk,
        })
    }

    /// The longest context for which it is exact.
    pub(crate) fn max_context(&self) -> usize {
        self.max_context
    }

    /// The most tokens that may be appended at once after `held` others.
    pub(crate) fn max_chunk(&self, held: usize) -> usize {
        self.window.map_or(self.max_chunk, |window| window.saturating_sub(held).clamp(1, self.max_chunk))
    }

    /// Appends `tokens` to the `held` ones in the cache and returns the logits of the last: `[vocab_size]`.
    pub(crate) fn append(&mut self, tokens: &[TokenId], held: usize) -> CandleResult<Vec<f32>> {
        let tokens = Tensor::new(tokens, &self.device)?.unsqueeze(0)?;
        let logits = match &mut self.decoder {
            Decoder::Gemma2(model) => model.forward(&tokens, held),
            Decoder::Gemma3(model) => model.forward(&tokens, held),
            Decoder::Phi3(model) => model.forward(&tokens, held),
            Decoder::Qwen2(model) => model.forward(&tokens, held),
            Decoder::Qwen3(model) => model.forward(&tokens, held),
            Decoder::Llama { model, cache } => model.forward(&tokens, held, cache),
        };
        logits?.flatten_all()?.to_vec1()
    }
}

/// Llama, whose cache is a separate object.
fn llama(config: llama::Config, weights: VarBuilder<'_>, device: &Device) -> CandleResult<Decoder> {
    let model = Box::new(llama::Llama::load(weights, &config)?);
    let cache = Box::new(llama::Cache::new(true, DType::F32, &config, device)?);
    Ok(Decoder::Llama { model, cache })
}
