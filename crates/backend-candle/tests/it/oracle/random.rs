//! Checkpoints with seeded random weights, for shapes that the goldens do not have.

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use serde_json::Value;
use tandem_core::config::ModelConfig;
use tempfile::TempDir;

/// A directory with `config` and weights for it.
pub(crate) fn checkpoint(config: &Value, seed: u64) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let json = config.to_string();
    std::fs::write(directory.path().join("config.json"), &json).unwrap();
    let mut tensors = HashMap::new();
    let mut state = seed;
    for (name, shape) in shapes(&ModelConfig::from_json("config.json", json.as_bytes()).unwrap()) {
        let n: usize = shape.iter().product();
        // Norms are about 1, and matrices preserve the magnitude of activations, so that every layer matters.
        let (middle, size) = match shape.as_slice() {
            [_, inputs] => (0.0, 3.0 / (*inputs as f32).sqrt()),
            _ if name.ends_with("norm.weight") => (1.0, 0.5),
            _ => (0.0, 0.5),
        };
        let values: Vec<f32> = (0..n).map(|_| middle + size * number(&mut state)).collect();
        tensors.insert(name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap());
    }
    candle_core::safetensors::save(&tensors, directory.path().join("model.safetensors")).unwrap();
    directory
}

/// Names and shapes of all weights, in a fixed order.
fn shapes(config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
    let (hidden, inner, head_dim) = (config.hidden_size, config.intermediate_size, config.head_dim());
    let (queries, keys) = (config.n_heads * head_dim, config.n_kv_heads * head_dim);
    let mut shapes = vec![
        ("model.embed_tokens.weight".to_owned(), vec![config.vocab_size, hidden]),
        ("model.norm.weight".to_owned(), vec![hidden]),
    ];
    if !config.tie_word_embeddings {
        shapes.push(("lm_head.weight".to_owned(), vec![config.vocab_size, hidden]));
    }
    for layer in 0..config.n_layers {
        let mut add = |name: &str, shape: &[usize]| shapes.push((format!("model.layers.{layer}.{name}"), shape.to_vec()));
        for (projection, outputs, inputs, biased) in [
            ("self_attn.q_proj", queries, hidden, config.qkv_bias),
            ("self_attn.k_proj", keys, hidden, config.qkv_bias),
            ("self_attn.v_proj", keys, hidden, config.qkv_bias),
            ("self_attn.o_proj", hidden, queries, config.attention_output_bias),
            ("mlp.gate_proj", inner, hidden, config.mlp_bias),
            ("mlp.up_proj", inner, hidden, config.mlp_bias),
            ("mlp.down_proj", hidden, inner, config.mlp_bias),
        ] {
            add(&format!("{projection}.weight"), &[outputs, inputs]);
            if biased {
                add(&format!("{projection}.bias"), &[outputs]);
            }
        }
        add("input_layernorm.weight", &[hidden]);
        add("post_attention_layernorm.weight", &[hidden]);
        if config.qk_norm {
            add("self_attn.q_norm.weight", &[head_dim]);
            add("self_attn.k_norm.weight", &[head_dim]);
        }
    }
    shapes
}

/// The next number between -1 and 1 of a linear congruential sequence (Knuth's MMIX).
fn number(state: &mut u64) -> f32 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 40) as f32 / (1 << 23) as f32 - 1.0
}
