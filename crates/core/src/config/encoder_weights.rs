//! What an encoder's weights are called in its checkpoint.

use super::{Architecture, ModelConfig};

/// The names of an encoder's weights, without `.weight` and `.bias`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncoderNames {
    /// `[vocab_size, hidden_size]`
    pub words: String,
    /// `[first_position + max_context, hidden_size]`
    pub positions: Option<String>,
    /// `[n_token_types, hidden_size]`
    pub token_types: Option<String>,
    /// The norm of the sum of those.
    pub embedding_norm: String,
    /// `[relative_buckets, n_heads]`
    pub relative_bias: Option<String>,
    /// One for each layer.
    pub layers: Vec<EncoderLayerNames>,
    /// The norm of the last layer's output.
    pub final_norm: Option<String>,
    /// What norms call their weight and bias: `weight` and `bias`, or `gamma` and `beta` in checkpoints that TensorFlow wrote.
    pub norm_suffixes: [&'static str; 2],
}

/// The names of one layer's weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncoderLayerNames {
    /// Query, key and value, `[hidden_size, hidden_size]` each; or one that has all three.
    pub qkv: Vec<String>,
    /// `[hidden_size, hidden_size]`
    pub attention_out: String,
    /// The norm before attention, or of the sum with its residual; `None` in ModernBERT's first layer.
    pub attention_norm: Option<String>,
    /// `[intermediate_size, hidden_size]`, twice as many rows where the block is gated.
    pub up: String,
    /// `[hidden_size, intermediate_size]`
    pub down: String,
    /// The norm before the feed-forward block, or of the sum with its residual.
    pub mlp_norm: String,
}

impl ModelConfig {
    /// The names of an encoder's weights in the checkpoint that has what `contains` says: classes with a head put the name of their
    /// model before all others.
    pub fn encoder_names(&self, contains: impl Fn(&str) -> bool) -> EncoderNames {
        let (words, own_prefix) = match self.architecture {
            Architecture::ModernBert => ("embeddings.tok_embeddings", "model."),
            Architecture::Bert => ("embeddings.word_embeddings", "bert."),
            Architecture::Mpnet => ("embeddings.word_embeddings", "mpnet."),
            Architecture::DistilBert => ("embeddings.word_embeddings", "distilbert."),
            _ => ("embeddings.word_embeddings", "roberta."),
        };
        let has = |prefix: &&str| contains(&format!("{prefix}{words}.weight"));
        let prefix = [own_prefix, "model.", "auto_model."].into_iter().find(has).unwrap_or_default();
        let named = |name: &str| format!("{prefix}{name}");
        let is_modern = self.architecture == Architecture::ModernBert;
        let embedding_norm = named(if is_modern { "embeddings.norm" } else { "embeddings.LayerNorm" });
        let is_old = contains(&format!("{embedding_norm}.gamma"));
        let encoder = self.encoder.as_ref();
        let when = |present: bool, name: &str| present.then(|| named(name));
        EncoderNames {
            words: named(words),
            positions: when(encoder.is_some_and(|encoder| encoder.first_position.is_some()), "embeddings.position_embeddings"),
            token_types: when(encoder.is_some_and(|encoder| encoder.n_token_types > 0), "embeddings.token_type_embeddings"),
            embedding_norm,
            relative_bias: when(
                encoder.is_some_and(|encoder| encoder.relative_buckets.is_some()),
                "encoder.relative_attention_bias",
            ),
            layers: (0..self.n_layers).map(|layer| self.encoder_layer_names(prefix, layer)).collect(),
            final_norm: when(is_modern, "final_norm"),
            norm_suffixes: if is_old { ["gamma", "beta"] } else { ["weight", "bias"] },
        }
    }

    fn encoder_layer_names(&self, prefix: &str, layer: usize) -> EncoderLayerNames {
        let (path, qkv, [attention_out, attention_norm, up, down, mlp_norm]): (_, &[&str], _) = match self.architecture {
            Architecture::ModernBert => ("layers", &["attn.Wqkv"], ["attn.Wo", "attn_norm", "mlp.Wi", "mlp.Wo", "mlp_norm"]),
            Architecture::DistilBert => (
                "transformer.layer",
                &["attention.q_lin", "attention.k_lin", "attention.v_lin"],
                ["attention.out_lin", "sa_layer_norm", "ffn.lin1", "ffn.lin2", "output_layer_norm"],
            ),
            Architecture::Mpnet => (
                "encoder.layer",
                &["attention.attn.q", "attention.attn.k", "attention.attn.v"],
                ["attention.attn.o", "attention.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm"],
            ),
            _ => (
                "encoder.layer",
                &["attention.self.query", "attention.self.key", "attention.self.value"],
                [
                    "attention.output.dense",
                    "attention.output.LayerNorm",
                    "intermediate.dense",
                    "output.dense",
                    "output.LayerNorm",
                ],
            ),
        };
        let named = |name: &str| format!("{prefix}{path}.{layer}.{name}");
        let has_attention_norm = self.architecture != Architecture::ModernBert || layer > 0;
        EncoderLayerNames {
            qkv: qkv.iter().map(|name| named(name)).collect(),
            attention_out: named(attention_out),
            attention_norm: has_attention_norm.then(|| named(attention_norm)),
            up: named(up),
            down: named(down),
            mlp_norm: named(mlp_norm),
        }
    }
}
