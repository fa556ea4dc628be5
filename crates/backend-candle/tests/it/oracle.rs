//! candle-transformers as a test oracle: another implementation on the same tensors gives the same logits.
//!
//! It returns the logits of the last position only, cannot rewind, and supports few configurations (no `head_dim` for Qwen2 and Llama, no
//! window, of rope scalings only Llama 3's). Its configurations are built from ours, for checkpoints that it supports.

mod random;

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use candle_nn::{Activation, VarBuilder};
use candle_transformers::models::{llama, qwen2, qwen3};
use serde_json::json;
use tandem_core::config::{Architecture, ModelConfig, RopeScaling};
use tandem_core::files::ModelFiles;
use tandem_core::{LoadOptions, LogitsRequest, SessionOptions};

use crate::{golden, load};

/// The largest difference of logits relative to the largest logit: both add in f32, in different orders.
const TOLERANCE: f32 = 2e-5;

#[test]
fn goldens_match_candle_transformers() {
    // The others have a `head_dim` or a rope scaling that candle-transformers does not support.
    for name in ["qwen2-tied", "qwen3", "mistral"] {
        compare(name, &golden(name), &[1, 2, 9, 17, 100, 255]);
    }
}

#[test]
fn qwen2_with_untied_head_matches_candle_transformers() {
    let config = json!({
        "model_type": "qwen2", "vocab_size": 500, "hidden_size": 96, "intermediate_size": 160, "num_hidden_layers": 3,
        "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 1024, "rms_norm_eps": 1e-6,
        "rope_theta": 1e6, "tie_word_embeddings": false, "sliding_window": null,
    });
    compare("qwen2", random::checkpoint(&config, 1).path(), &[1, 3, 40, 700]);
}

#[test]
fn qwen3_with_attention_bias_matches_candle_transformers() {
    let config = json!({
        "model_type": "qwen3", "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
        "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 32, "attention_bias": true,
        "max_position_embeddings": 1024, "rms_norm_eps": 1e-6, "tie_word_embeddings": true,
        // As transformers 5 writes it, which candle-transformers cannot parse.
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    });
    compare("qwen3", random::checkpoint(&config, 2).path(), &[1, 8, 33, 600]);
}

#[test]
fn llama3_rope_scaling_matches_candle_transformers() {
    let config = json!({
        "model_type": "llama", "vocab_size": 400, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": false,
        "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    });
    compare("llama", random::checkpoint(&config, 3).path(), &[1, 5, 64, 1100]);
}

/// Compares logits after prompts of `lengths`, after four more tokens one at a time, and after a second prompt.
fn compare(name: &str, directory: &Path, lengths: &[usize]) {
    let files = ModelFiles::discover(directory, name).unwrap();
    let config = files.model_config().unwrap();
    let model = load(directory, &LoadOptions::default()).unwrap();
    let mut oracle = Oracle::load(&config, directory.join("model.safetensors"));
    for &n in lengths {
        let n_further = 4.min(config.max_context - n);
        let tokens: Vec<u32> = (0..n + n_further).map(|i| (i * 37 + i * i / 7) as u32 % config.vocab_size as u32).collect();
        let mut session = model.new_session(&SessionOptions::default()).unwrap();
        oracle.reset();
        let mut held = 0;
        for part in std::iter::once(&tokens[..n]).chain(tokens[n..].chunks(1)) {
            let ours = session.append(part, LogitsRequest::Last(1)).unwrap();
            let theirs = oracle.append(part, held);
            held += part.len();
            close(ours.row(0), &theirs, &format!("{name}: prompt of {n}, {held} tokens"));
        }
        let second: Vec<u32> = tokens.iter().rev().copied().take(11.min(config.max_context - held)).collect();
        if !second.is_empty() {
            let ours = session.append(&second, LogitsRequest::Last(1)).unwrap();
            close(ours.row(0), &oracle.append(&second, held), &format!("{name}: a second prompt after {held} tokens"));
        }
    }
}

fn close(ours: &[f32], theirs: &[f32], what: &str) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    let scale = theirs.iter().fold(0.0_f32, |max, value| max.max(value.abs()));
    let difference = ours.iter().zip(theirs).fold(0.0_f32, |max, (a, b)| max.max((a - b).abs())) / scale;
    assert!(scale > 0.01 && difference <= TOLERANCE, "{what}: {difference:e} of {scale}");
}

/// A model of candle-transformers with the KV cache of one sequence.
enum Oracle {
    Qwen2(qwen2::ModelForCausalLM),
    Qwen3(qwen3::ModelForCausalLM),
    Llama(llama::Llama, llama::Cache, Box<llama::Config>),
}

impl Oracle {
    fn load(config: &ModelConfig, weights: PathBuf) -> Self {
        assert!(config.layer_windows.iter().all(Option::is_none), "the oracle does not support windows");
        let builder = VarBuilder::from_buffered_safetensors(std::fs::read(weights).unwrap(), DType::F32, &Device::Cpu).unwrap();
        match config.architecture {
            Architecture::Qwen2 => Self::Qwen2(qwen2::ModelForCausalLM::new(&qwen2_config(config), builder).unwrap()),
            Architecture::Qwen3 => Self::Qwen3(qwen3::ModelForCausalLM::new(&qwen3_config(config), builder).unwrap()),
            Architecture::Llama | Architecture::Mistral => {
                let config = llama_config(config);
                let cache = llama::Cache::new(true, DType::F32, &config, &Device::Cpu).unwrap();
                Self::Llama(llama::Llama::load(builder, &config).unwrap(), cache, Box::new(config))
            }
            other => panic!("{other} has no oracle here"),
        }
    }

    fn reset(&mut self) {
        match self {
            Self::Qwen2(model) => model.clear_kv_cache(),
            Self::Qwen3(model) => model.clear_kv_cache(),
            Self::Llama(_, cache, config) => *cache = llama::Cache::new(true, DType::F32, config, &Device::Cpu).unwrap(),
        }
    }

    /// The logits of the last of `tokens`, which follow `held` others.
    fn append(&mut self, tokens: &[u32], held: usize) -> Vec<f32> {
        let tokens = Tensor::new(tokens, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        let logits = match self {
            Self::Qwen2(model) => model.forward(&tokens, held),
            Self::Qwen3(model) => model.forward(&tokens, held),
            Self::Llama(model, cache, _) => model.forward(&tokens, held, cache),
        };
        logits.unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }
}

fn qwen2_config(config: &ModelConfig) -> qwen2::Config {
    assert_eq!(config.head_dim() * config.n_heads, config.hidden_size, "the oracle derives the head size");
    assert_eq!(config.rope.scaling, RopeScaling::Default);
    qwen2::Config {
        vocab_size: config.vocab_size,
        hidden_size: config.hidden_size,
        intermediate_size: config.intermediate_size,
        num_hidden_layers: config.n_layers,
        num_attention_heads: config.n_heads,
        num_key_value_heads: config.n_kv_heads,
        max_position_embeddings: config.max_context,
        // It is applied whether it is in use or not.
        sliding_window: config.max_context,
        max_window_layers: config.n_layers,
        tie_word_embeddings: config.tie_word_embeddings,
        rope_theta: config.rope.theta,
        rms_norm_eps: config.norm_eps,
        use_sliding_window: false,
        hidden_act: Activation::Silu,
    }
}

fn qwen3_config(config: &ModelConfig) -> qwen3::Config {
    assert_eq!(config.rope.scaling, RopeScaling::Default);
    qwen3::Config {
        vocab_size: config.vocab_size,
        hidden_size: config.hidden_size,
        intermediate_size: config.intermediate_size,
        num_hidden_layers: config.n_layers,
        num_attention_heads: config.n_heads,
        head_dim: config.head_dim(),
        attention_bias: config.qkv_bias,
        num_key_value_heads: config.n_kv_heads,
        max_position_embeddings: config.max_context,
        sliding_window: None,
        max_window_layers: config.n_layers,
        tie_word_embeddings: config.tie_word_embeddings,
        rope_theta: config.rope.theta,
        rms_norm_eps: config.norm_eps,
        use_sliding_window: false,
        hidden_act: Activation::Silu,
    }
}

fn llama_config(config: &ModelConfig) -> llama::Config {
    assert_eq!(config.head_dim() * config.n_heads, config.hidden_size, "the oracle derives the head size");
    assert!(!config.qkv_bias && !config.attention_output_bias && !config.mlp_bias, "the oracle has no biases");
    let rope_scaling = match &config.rope.scaling {
        RopeScaling::Default => None,
        RopeScaling::Llama3(scaling) => Some(llama::Llama3RopeConfig {
            factor: scaling.factor as f32,
            low_freq_factor: scaling.low_freq_factor as f32,
            high_freq_factor: scaling.high_freq_factor as f32,
            original_max_position_embeddings: scaling.original_max_position,
            rope_type: llama::Llama3RopeType::Llama3,
        }),
        other => panic!("the oracle does not support {other:?}"),
    };
    llama::Config {
        hidden_size: config.hidden_size,
        intermediate_size: config.intermediate_size,
        vocab_size: config.vocab_size,
        num_hidden_layers: config.n_layers,
        num_attention_heads: config.n_heads,
        num_key_value_heads: config.n_kv_heads,
        use_flash_attn: false,
        rms_norm_eps: config.norm_eps,
        rope_theta: config.rope.theta as f32,
        bos_token_id: None,
        eos_token_id: None,
        rope_scaling,
        max_position_embeddings: config.max_context,
        tie_word_embeddings: config.tie_word_embeddings,
    }
}
