//! Shapes of models that embed: their configurations, their weights, and the files of sentence-transformers beside them, so that it
//! opens such a directory as well.
//!
//! Sources: `config.json`, `modules.json` and `1_Pooling/config.json` of sentence-transformers/all-MiniLM-L6-v2, BAAI/bge-base-en-v1.5 and
//! Qwen/Qwen3-Embedding-0.6B.

use serde_json::{Value, json};
use tandem_core::config::{ExpectedWeight, ModelConfig, WeightRole};

use super::vocabulary::Vocabulary;
use super::{Shape, with};

/// What makes vectors of hidden states.
#[derive(Clone, Debug)]
pub(super) struct Embedder {
    /// The way of pooling, as sentence-transformers names it.
    pooling: &'static str,
    /// The most tokens of a text.
    max_tokens: usize,
    vocabulary: Vocabulary,
}

/// Every shape of this kind.
pub(super) fn shapes() -> Vec<Shape> {
    let bert = |hidden: u32, inner: u32, layers: u32| {
        json!({"architectures": ["BertModel"], "model_type": "bert", "hidden_size": hidden, "intermediate_size": inner,
            "num_hidden_layers": layers, "num_attention_heads": 12, "vocab_size": 30522, "max_position_embeddings": 512,
            "type_vocab_size": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-12, "pad_token_id": 0,
            "position_embedding_type": "absolute", "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1})
    };
    let of = |pooling, max_tokens, vocabulary| Some(Embedder { pooling, max_tokens, vocabulary });
    let qwen = json!({"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 1024, "intermediate_size": 3072,
        "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "attention_bias": false,
        "vocab_size": 151_669, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 1_000_000.0,
        "tie_word_embeddings": true, "hidden_act": "silu", "bos_token_id": 151_643, "eos_token_id": 151_643,
        "torch_dtype": "bfloat16", "use_sliding_window": false});
    vec![
        Shape { name: "all-minilm-l6-v2", config: bert(384, 1536, 6), embedder: of("mean_tokens", 256, Vocabulary::WordPiece) },
        Shape { name: "bge-base-en-v1.5", config: bert(768, 3072, 12), embedder: of("cls_token", 512, Vocabulary::WordPiece) },
        Shape { name: "qwen3-embedding-0.6b", config: qwen, embedder: of("lasttoken", 32768, Vocabulary::Bytes) },
    ]
}

impl Embedder {
    /// The files beside `config.json` and the weights: where each is to be, and its content.
    pub(super) fn files(&self, config: &Value) -> Vec<(&'static str, Value)> {
        let class = |name: &str| format!("sentence_transformers.models.{name}");
        let modules = json!([
            {"idx": 0, "name": "0", "path": "", "type": class("Transformer")},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": class("Pooling")},
            {"idx": 2, "name": "2", "path": "2_Normalize", "type": class("Normalize")},
        ]);
        let modes = ["cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken"];
        let modes = modes.map(|mode| (format!("pooling_mode_{mode}"), Value::Bool(mode == self.pooling)));
        let width = json!({"word_embedding_dimension": config["hidden_size"]});
        let vocab_size = config["vocab_size"].as_u64().unwrap_or(0) as usize;
        let settings = json!({"model_max_length": self.max_tokens, "tokenizer_class": "PreTrainedTokenizerFast"});
        vec![
            ("modules.json", modules),
            ("1_Pooling/config.json", with(width, &Value::Object(modes.into_iter().collect()))),
            ("sentence_bert_config.json", json!({"max_seq_length": self.max_tokens, "do_lower_case": false})),
            ("tokenizer.json", self.vocabulary.tokenizer(vocab_size)),
            ("tokenizer_config.json", with(settings, &self.vocabulary.special_tokens())),
        ]
    }
}

/// The weights of an encoder of BERT's form: names and shapes as in `modeling_bert.py` of transformers, without the pooler.
pub(super) fn expected_weights(config: &ModelConfig) -> Vec<ExpectedWeight> {
    let names = config.encoder_names(|_| false);
    let (hidden, inner) = (config.hidden_size, config.intermediate_size);
    let n_positions = config.encoder.as_ref().and_then(|encoder| encoder.first_position).unwrap_or(0) + config.max_context;
    let n_types = config.encoder.as_ref().map_or(0, |encoder| encoder.n_token_types);
    let mut weights = Vec::new();
    let mut add = |name: &str, part: &str, shape: &[usize], role| {
        weights.push(ExpectedWeight { name: format!("{name}.{part}"), shape: shape.to_vec(), role });
    };
    add(&names.words, "weight", &[config.vocab_size, hidden], WeightRole::Embedding);
    for (table, rows) in [(&names.positions, n_positions), (&names.token_types, n_types)] {
        if let Some(name) = table {
            add(name, "weight", &[rows, hidden], WeightRole::Embedding);
        }
    }
    let mut norms = vec![names.embedding_norm];
    for layer in names.layers {
        let square = layer.qkv.iter().chain([&layer.attention_out]).map(|name| (name.clone(), hidden, hidden));
        for (name, rows, columns) in square.chain([(layer.up, inner, hidden), (layer.down, hidden, inner)]) {
            add(&name, "weight", &[rows, columns], WeightRole::Projection);
            add(&name, "bias", &[rows], WeightRole::Bias);
        }
        norms.extend(layer.attention_norm.into_iter().chain([layer.mlp_norm]));
    }
    for name in norms {
        add(&name, "weight", &[hidden], WeightRole::Norm);
        add(&name, "bias", &[hidden], WeightRole::Bias);
    }
    weights
}
