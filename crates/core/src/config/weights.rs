//! Which weights a decoder of Llama's form has, by its configuration.

use super::ModelConfig;

/// A weight as transformers names it, with the shape that the configuration says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedWeight {
    /// Such as `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// The rows first.
    pub shape: Vec<usize>,
    /// What it is for.
    pub role: WeightRole,
}

/// What a weight is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightRole {
    /// The embedding, which may be the head as well.
    Embedding,
    /// A head of its own.
    Head,
    /// A matrix of a layer.
    Projection,
    /// The bias of one.
    Bias,
    /// The weight of a norm.
    Norm,
}

impl ModelConfig {
    /// The weights of a decoder of this form, one layer after the other: names and shapes as in
    /// `modeling_{llama,mistral,qwen2,qwen3}.py` of transformers. They are made as they are asked for: a configuration may claim thousands
    /// of layers.
    pub fn expected_weights(&self) -> impl Iterator<Item = ExpectedWeight> {
        let (vocab, hidden) = (self.vocab_size, self.hidden_size);
        let embedding = weight("model.embed_tokens.weight", &[vocab, hidden], WeightRole::Embedding);
        let norm = weight("model.norm.weight", &[hidden], WeightRole::Norm);
        let head = (!self.tie_word_embeddings).then(|| weight("lm_head.weight", &[vocab, hidden], WeightRole::Head));
        std::iter::once(embedding).chain((0..self.n_layers).flat_map(|layer| self.layer(layer))).chain([norm]).chain(head)
    }

    fn layer(&self, layer: usize) -> Vec<ExpectedWeight> {
        let (hidden, inner, head_dim) = (self.hidden_size, self.intermediate_size, self.head_dim());
        let (queries, keys) = (self.n_heads * head_dim, self.n_kv_heads * head_dim);
        let named =
            |name: &str, kind: &str, shape: &[usize], role| weight(&format!("model.layers.{layer}.{name}.{kind}"), shape, role);
        let norm = |name: &str, size: usize| named(name, "weight", &[size], WeightRole::Norm);
        let mut all = vec![norm("input_layernorm", hidden), norm("post_attention_layernorm", hidden)];
        for (name, rows, columns, has_bias) in [
            ("self_attn.q_proj", queries, hidden, self.qkv_bias),
            ("self_attn.k_proj", keys, hidden, self.qkv_bias),
            ("self_attn.v_proj", keys, hidden, self.qkv_bias),
            ("self_attn.o_proj", hidden, queries, self.attention_output_bias),
            ("mlp.gate_proj", inner, hidden, self.mlp_bias),
            ("mlp.up_proj", inner, hidden, self.mlp_bias),
            ("mlp.down_proj", hidden, inner, self.mlp_bias),
        ] {
            all.push(named(name, "weight", &[rows, columns], WeightRole::Projection));
            all.extend(has_bias.then(|| named(name, "bias", &[rows], WeightRole::Bias)));
        }
        if self.qk_norm {
            all.extend([norm("self_attn.q_norm", head_dim), norm("self_attn.k_norm", head_dim)]);
        }
        all
    }
}

fn weight(name: &str, shape: &[usize], role: WeightRole) -> ExpectedWeight {
    ExpectedWeight { name: name.into(), shape: shape.into(), role }
}
