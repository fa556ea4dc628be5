//! The families of candle-transformers, with the cache of one sequence.

use std::sync::Mutex;

use candle_core::{DType, Device, Result as CandleResult, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{gemma2, gemma3, llama, phi3, qwen2, qwen3};
use tandem_core::checkpoint::Checkpoint;
use tandem_core::config::{Architecture, ModelConfig};
use tandem_core::{Result, TokenId};

use super::form::{self, Form};
use super::weights::Weights;
use crate::error::Doing;
use crate::session::PASS;

/// A decoder of candle-transformers with the cache of one sequence. A clone shares the weights, and the cache unless nothing is in it.
#[derive(Clone)]
pub(crate) struct Family {
    decoder: Decoder,
    device: Device,
    max_context: usize,
    /// Tokens from which on they must go one by one.
    window: Option<usize>,
    /// The most tokens that it is given at once.
    pass: usize,
}

#[derive(Clone)]
enum Decoder {
    Gemma2(gemma2::Model),
    Gemma3(gemma3::Model),
    Phi3(phi3::Model),
    // Of these we have decoders of our own, and measure candle-transformers' beside them.
    Qwen2(qwen2::ModelForCausalLM),
    Qwen3(qwen3::ModelForCausalLM),
    Llama { model: Box<llama::Llama>, cache: Box<llama::Cache> },
}

impl Family {
    /// Reads the weights of a decoder of the form `config` from `checkpoint`, which messages call `file`.
    pub(crate) fn load(checkpoint: &Checkpoint, config: &ModelConfig, file: &str, device: &Device) -> Result<Self> {
        let form = Form::of(config, file)?;
        let failed = Mutex::new(None);
        let weights = Weights { checkpoint, file, change: form::change(config), failed: &failed };
        let builder = VarBuilder::from_backend(Box::new(weights), DType::F32, device.clone());
        let decoder = match config.architecture {
            Architecture::Gemma2 => gemma2::Model::new(false, &form.gemma2(config), builder).map(Decoder::Gemma2),
            Architecture::Gemma3 => gemma3::Model::new(false, &form.gemma3(config), builder).map(Decoder::Gemma3),
            Architecture::Qwen2 => {
                qwen2::ModelForCausalLM::new(&form::read(config, file, serde_json::from_value)?, builder).map(Decoder::Qwen2)
            }
            Architecture::Qwen3 => {
                qwen3::ModelForCausalLM::new(&form::read(config, file, serde_json::from_value)?, builder).map(Decoder::Qwen3)
            }
            Architecture::Llama => {
                llama(form::read(config, file, serde_json::from_value::<llama::LlamaConfig>)?.into_config(false), builder, device)
            }
            _ => phi3::Model::new(&form.phi3(config), builder).map(Decoder::Phi3),
        };
        // What went wrong with a weight, in words that name it.
        if let Some(error) = failed.into_inner().unwrap_or_default() {
            return Err(error);
        }
        let decoder = decoder.doing("to load the weights")?;
        // A user of candle-transformers gives it the whole prompt.
        let pass = if config.architecture.has_llama_form() { usize::MAX } else { PASS };
        Ok(Self { decoder, device: device.clone(), max_context: form.max_context, window: form.ring, pass })
    }

    /// The most tokens for which it is exact.
    pub(crate) fn max_context(&self) -> usize {
        self.max_context
    }

    /// The most tokens that may follow `held` ones in one go.
    pub(crate) fn pass(&self, held: usize) -> usize {
        self.window.map_or(self.pass, |window| window.saturating_sub(held).clamp(1, self.pass))
    }

    /// Appends `tokens` to the `held` ones in the cache and gives the logits of the last: `[vocab_size]`.
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

/// Llama's decoder, whose cache stands beside it.
fn llama(config: llama::Config, weights: VarBuilder<'_>, device: &Device) -> CandleResult<Decoder> {
    let model = Box::new(llama::Llama::load(weights, &config)?);
    let cache = Box::new(llama::Cache::new(true, DType::F32, &config, device)?);
    Ok(Decoder::Llama { model, cache })
}
