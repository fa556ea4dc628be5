//! The weights of a decoder whose layers are Llama's, by their names in transformers.
//!
//! Names and shapes: `modeling_{llama,mistral,qwen2,qwen3}.py`.

use super::ModelConfig;

/// A weight that a checkpoint must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedWeight {
    /// Its name, such as `model.layers.0.mlp.up_proj.weight`.
    pub name: String,
    /// Its shape: `[outputs, inputs]` of a matrix.
    pub shape: Vec<usize>,
    /// What it is for.
    pub role: WeightRole,
}

/// What a weight is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightRole {
    /// The embedding, and the head where they are tied.
    Embedding,
    /// The head.
    Head,
    /// The matrix of a projection.
    Projection,
    /// The bias of a projection.
    Bias,
    /// The weight of a norm.
    Norm,
}

impl ModelConfig {
    /// Every weight of the decoder, where names begin with `prefix`: `model.`, or nothing in checkpoints of embedding models.
    pub fn expected_weights(&self, prefix: &str) -> Vec<ExpectedWeight> {
        let (hidden, inner, head_dim) = (self.hidden_size, self.intermediate_size, self.head_dim());
        let (queries, keys) = (self.n_heads * head_dim, self.n_kv_heads * head_dim);
        let mut weights = Vec::new();
        let mut add = |name: String, shape: &[usize], role| weights.push(ExpectedWeight { name, shape: shape.to_vec(), role });
        add(format!("{prefix}embed_tokens.weight"), &[self.vocab_size, hidden], WeightRole::Embedding);
        for layer in 0..self.n_layers {
            let mut add = |name: &str, shape: &[usize], role| add(format!("{prefix}layers.{layer}.{name}"), shape, role);
            add("input_layernorm.weight", &[hidden], WeightRole::Norm);
            add("post_attention_layernorm.weight", &[hidden], WeightRole::Norm);
            for (name, outputs, inputs, has_bias) in [
                ("self_attn.q_proj", queries, hidden, self.qkv_bias),
                ("self_attn.k_proj", keys, hidden, self.qkv_bias),
                ("self_attn.v_proj", keys, hidden, self.qkv_bias),
                ("self_attn.o_proj", hidden, queries, self.attention_output_bias),
                ("mlp.gate_proj", inner, hidden, self.mlp_bias),
                ("mlp.up_proj", inner, hidden, self.mlp_bias),
                ("mlp.down_proj", hidden, inner, self.mlp_bias),
            ] {
                add(&format!("{name}.weight"), &[outputs, inputs], WeightRole::Projection);
                if has_bias {
                    add(&format!("{name}.bias"), &[outputs], WeightRole::Bias);
                }
            }
            if self.qk_norm {
                add("self_attn.q_norm.weight", &[head_dim], WeightRole::Norm);
                add("self_attn.k_norm.weight", &[head_dim], WeightRole::Norm);
            }
        }
        add(format!("{prefix}norm.weight"), &[hidden], WeightRole::Norm);
        if !self.tie_word_embeddings {
            add("lm_head.weight".into(), &[self.vocab_size, hidden], WeightRole::Head);
        }
        weights
    }
}
