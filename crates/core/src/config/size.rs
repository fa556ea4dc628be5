//! How much memory a configuration stands for.

use super::{EncoderConfig, ModelConfig};

impl ModelConfig {
    /// Bytes of KV cache for one token when a value takes `bytes_per_value`: keys and values of every layer.
    pub fn kv_bytes_per_token(&self, bytes_per_value: usize) -> usize {
        [self.n_layers, self.n_kv_heads, self.head_dim(), bytes_per_value].into_iter().fold(2, usize::saturating_mul)
    }

    /// The number of weights and biases; a tied head counts once.
    pub fn n_parameters(&self) -> u64 {
        let embedding = product(self.vocab_size, self.hidden_size);
        let head = if self.tie_word_embeddings { 0 } else { embedding };
        let layers = self.layer_parameters().saturating_mul(self.n_layers as u64);
        if let Some(encoder) = &self.encoder {
            return embedding.saturating_add(layers).saturating_add(self.beside_encoder_layers(encoder));
        }
        [embedding, head, layers, self.hidden_size as u64].into_iter().fold(0, u64::saturating_add)
    }

    fn layer_parameters(&self) -> u64 {
        let queries = self.n_heads.saturating_mul(self.head_dim());
        let keys_and_values = self.n_kv_heads.saturating_mul(self.head_dim()).saturating_mul(2);
        let qkv = queries.saturating_add(keys_and_values);
        let when = |present: bool, n: usize| if present { n as u64 } else { 0 };
        [
            product(self.hidden_size, qkv),
            product(queries, self.hidden_size),
            product(self.hidden_size, self.intermediate_size).saturating_mul(self.n_mlp_matrices() as u64),
            product(self.norms_of_layer(), self.hidden_size),
            when(self.qkv_bias, qkv),
            when(self.attention_output_bias, self.hidden_size),
            when(
                self.mlp_bias,
                self.intermediate_size.saturating_mul(self.n_mlp_matrices() - 1).saturating_add(self.hidden_size),
            ),
            when(self.qk_norm, self.head_dim().saturating_mul(2)),
        ]
        .into_iter()
        .fold(0, u64::saturating_add)
    }

    /// Matrices of a feed-forward block, `intermediate_size` by `hidden_size` each: two, and one more for a gate.
    pub fn n_mlp_matrices(&self) -> usize {
        if self.encoder.as_ref().is_some_and(|encoder| !encoder.is_gated) { 2 } else { 3 }
    }

    /// Weights and biases of a layer's norms, in hidden widths. Gemma has a norm on both sides of attention and of the feed-forward block.
    fn norms_of_layer(&self) -> usize {
        match &self.encoder {
            Some(encoder) if encoder.norm_bias => 4,
            _ if self.gemma.is_some() => 4,
            _ => 2,
        }
    }

    /// The tables beside the word embedding, the bias of distances, and the norm of the embedding; ModernBERT's first layer lacks the norm
    /// that the encoder has at its end.
    fn beside_encoder_layers(&self, encoder: &EncoderConfig) -> u64 {
        let rows = encoder
            .first_position
            .map_or(0, |first| first.saturating_add(self.max_context))
            .saturating_add(encoder.n_token_types);
        let norm = if encoder.norm_bias { 2 } else { 1 };
        let relative = product(encoder.relative_buckets.unwrap_or(0), self.n_heads);
        product(rows.saturating_add(norm), self.hidden_size).saturating_add(relative)
    }
}

fn product(a: usize, b: usize) -> u64 {
    (a as u64).saturating_mul(b as u64)
}
