//! The model of Qwen2 that candle-transformers publishes, in f32.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::qwen2::{Config, ModelForCausalLM};
use tandem_core::TokenId;
use tandem_core::files::ModelFiles;

use crate::runner::{Runner, Sequence, greatest};

/// `None` unless the checkpoint is a Qwen2.
pub(crate) fn runner(directory: &Path) -> Result<Option<Runner>> {
    let files = ModelFiles::discover(directory, &directory.to_string_lossy())?;
    let config = files.model_config()?;
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(directory.join("config.json"))?)?;
    if json["model_type"] != "qwen2" {
        return Ok(None);
    }
    // It must be a number there, which it is not in checkpoints without a window.
    if json["sliding_window"].is_null() {
        json["sliding_window"] = json["max_position_embeddings"].clone();
    }
    // The tables are made for all positions at once; these are enough.
    json["max_position_embeddings"] = 4096.into();
    let mut weights: HashMap<String, Tensor> = HashMap::new();
    for file in &files.weights {
        weights.extend(candle_core::safetensors::load(file.path().context("a file on disk")?, &Device::Cpu)?);
    }
    let weights = VarBuilder::from_tensors(weights, DType::F32, &Device::Cpu);
    let model = ModelForCausalLM::new(&serde_json::from_value::<Config>(json)?, weights)?;
    let sequence = Published { model, n_tokens: 0 };
    Ok(Some(Runner::new("candle-transformers f32".into(), Box::new(sequence), &config, 4.0)))
}

struct Published {
    model: ModelForCausalLM,
    n_tokens: usize,
}

impl Sequence for Published {
    fn append(&mut self, tokens: &[TokenId]) -> Result<TokenId> {
        let input = Tensor::new(tokens, &Device::Cpu)?.unsqueeze(0)?;
        let logits = self.model.forward(&input, self.n_tokens)?;
        self.n_tokens += tokens.len();
        Ok(greatest(&logits.flatten_all()?.to_vec1::<f32>()?))
    }

    fn clear(&mut self) -> Result<()> {
        self.model.clear_kv_cache();
        self.n_tokens = 0;
        Ok(())
    }
}
