//! BERT and its descendants.

use serde_json::{Value, json};
use tandem_core::Error;
use tandem_core::config::{Activation, Architecture};

use super::{changed, check_bad_field, parse};

/// all-MiniLM-L6-v2 as published.
fn minilm() -> Value {
    json!({
        "architectures": ["BertModel"], "attention_probs_dropout_prob": 0.1, "gradient_checkpointing": false, "hidden_act": "gelu",
        "hidden_size": 384, "initializer_range": 0.02, "intermediate_size": 1536, "layer_norm_eps": 1e-12,
        "max_position_embeddings": 512, "model_type": "bert", "num_attention_heads": 12, "num_hidden_layers": 6,
        "pad_token_id": 0, "position_embedding_type": "absolute", "type_vocab_size": 2, "vocab_size": 30522,
    })
}

/// xlm-roberta-base.
fn xlm_roberta() -> Value {
    json!({
        "architectures": ["XLMRobertaModel"], "bos_token_id": 0, "eos_token_id": 2, "hidden_act": "gelu", "hidden_size": 768,
        "intermediate_size": 3072, "layer_norm_eps": 1e-5, "max_position_embeddings": 514, "model_type": "xlm-roberta",
        "num_attention_heads": 12, "num_hidden_layers": 12, "pad_token_id": 1, "type_vocab_size": 1, "vocab_size": 250002,
    })
}

/// all-mpnet-base-v2.
fn mpnet() -> Value {
    json!({
        "architectures": ["MPNetModel"], "bos_token_id": 0, "eos_token_id": 2, "hidden_act": "gelu", "hidden_size": 768,
        "intermediate_size": 3072, "layer_norm_eps": 1e-5, "max_position_embeddings": 514, "model_type": "mpnet",
        "num_attention_heads": 12, "num_hidden_layers": 12, "pad_token_id": 1, "relative_attention_num_buckets": 32,
        "vocab_size": 30527,
    })
}

/// distilbert-base-uncased.
fn distilbert() -> Value {
    json!({
        "activation": "gelu", "architectures": ["DistilBertModel"], "dim": 768, "hidden_dim": 3072,
        "max_position_embeddings": 512, "model_type": "distilbert", "n_heads": 12, "n_layers": 6, "pad_token_id": 0,
        "sinusoidal_pos_embds": false, "tie_weights_": true, "vocab_size": 30522,
    })
}

/// ModernBERT-base, transformers 4.
fn modernbert() -> Value {
    json!({
        "architectures": ["ModernBertModel"], "attention_bias": false, "global_attn_every_n_layers": 3,
        "global_rope_theta": 160000.0, "hidden_activation": "gelu", "hidden_size": 768, "intermediate_size": 1152,
        "local_attention": 128, "local_rope_theta": 10000.0, "max_position_embeddings": 8192, "mlp_bias": false,
        "model_type": "modernbert", "norm_bias": false, "norm_eps": 1e-5, "num_attention_heads": 12, "num_hidden_layers": 22,
        "pad_token_id": 50283, "vocab_size": 50368,
    })
}

#[test]
fn published_encoders_have_their_known_size() {
    // Those of their model classes, less the pooler.
    for (config, architecture, n_parameters, max_context) in [
        (minilm(), Architecture::Bert, 22_565_376, 512),
        (xlm_roberta(), Architecture::XlmRoberta, 277_453_056, 512),
        (mpnet(), Architecture::Mpnet, 108_895_872, 512),
        (distilbert(), Architecture::DistilBert, 66_362_880, 512),
        (modernbert(), Architecture::ModernBert, 149_014_272, 8192),
    ] {
        let parsed = parse(&config).unwrap();
        assert_eq!((parsed.architecture, parsed.n_parameters(), parsed.max_context), (architecture, n_parameters, max_context));
        assert!(!parsed.is_causal && parsed.encoder.is_some());
        if architecture != Architecture::Mpnet && architecture != Architecture::DistilBert {
            let unnamed = parse(&changed(&config, &json!({"model_type": "absent"}))).unwrap();
            assert_eq!(unnamed.architecture, architecture);
        }
    }
}

#[test]
fn positions_begin_where_the_architecture_says() {
    let first = |config: &Value| parse(config).unwrap().encoder.unwrap().first_position;
    assert_eq!(first(&minilm()), Some(0));
    // multilingual-e5-small: a BERT whose padding token is XLM-R's.
    assert_eq!(first(&changed(&minilm(), &json!({"pad_token_id": 1}))), Some(0));
    assert_eq!(first(&xlm_roberta()), Some(2));
    assert_eq!(first(&changed(&mpnet(), &json!({"pad_token_id": 0}))), Some(2));
    assert_eq!(first(&modernbert()), None);
    check_bad_field(&xlm_roberta(), json!({"pad_token_id": 600}), "max_position_embeddings", "601 rows");
}

#[test]
fn modernbert_is_read_in_both_forms() {
    let old = parse(&modernbert()).unwrap();
    let kinds: Vec<&str> = (0..22).map(|i| if i % 3 == 0 { "full_attention" } else { "sliding_attention" }).collect();
    let new = changed(
        &modernbert(),
        &json!({"global_rope_theta": "absent", "local_rope_theta": "absent", "global_attn_every_n_layers": "absent",
            "layer_types": kinds, "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 160000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}}),
    );
    let new = parse(&new).unwrap();
    for config in [&old, &new] {
        let encoder = config.encoder.as_ref().unwrap();
        assert_eq!((config.rope.theta, encoder.window_rope_theta), (160_000.0, Some(10_000.0)));
        assert_eq!(config.layer_windows[..4], [None, Some(65), Some(65), None]);
        assert!(encoder.is_gated && encoder.norm_first && !encoder.norm_bias && !config.qkv_bias);
    }
    assert_eq!((old.encoder, old.layer_windows), (new.encoder, new.layer_windows));
}

#[test]
fn names_of_weights_follow_prefix_and_age() {
    let config = parse(&minilm()).unwrap();
    let bare = config.encoder_names(|name| name == "embeddings.word_embeddings.weight");
    assert_eq!(bare.layers[5].qkv[1], "encoder.layer.5.attention.self.key");
    assert_eq!((bare.norm_suffixes, bare.final_norm), (["weight", "bias"], None));
    let old = ["bert.embeddings.word_embeddings.weight", "bert.embeddings.LayerNorm.gamma"];
    let old = config.encoder_names(|name| old.contains(&name));
    assert_eq!(old.token_types.as_deref(), Some("bert.embeddings.token_type_embeddings"));
    assert_eq!(old.norm_suffixes, ["gamma", "beta"]);
    let modern = parse(&modernbert()).unwrap().encoder_names(|name| name == "model.embeddings.tok_embeddings.weight");
    assert_eq!(modern.layers[0].attention_norm, None);
    assert_eq!(modern.layers[1].attention_norm.as_deref(), Some("model.layers.1.attn_norm"));
    assert_eq!((modern.positions, modern.final_norm.as_deref()), (None, Some("model.final_norm")));
}

#[test]
fn activations_go_by_their_names() {
    let of =
        |name: &str| parse(&changed(&minilm(), &json!({"hidden_act": name}))).map(|config| config.encoder.unwrap().activation);
    assert_eq!(of("gelu").unwrap(), Activation::Gelu);
    assert_eq!(of("gelu_new").unwrap(), Activation::GeluTanh);
    assert_eq!(of("relu").unwrap(), Activation::Relu);
    assert!(of("mish").unwrap_err().to_string().contains("`mish` (`hidden_act`)"));
}

#[test]
fn other_forms_are_refused() {
    let unsupported = |changes: Value, named: &str| match parse(&changed(&minilm(), &changes)) {
        Err(error @ Error::Unsupported { .. }) => assert!(error.to_string().contains(named), "{error}"),
        other => panic!("{changes}: {other:?}"),
    };
    unsupported(json!({"auto_map": {"AutoModel": "jinaai/jina-bert-v2--modeling_bert.JinaBertModel"}}), "modeling_bert");
    unsupported(json!({"position_embedding_type": "relative_key"}), "`relative_key`");
    check_bad_field(&minilm(), json!({"is_decoder": true}), "is_decoder", "encoder");
    check_bad_field(&minilm(), json!({"num_attention_heads": 7}), "hidden_size", "not a multiple");
    check_bad_field(&minilm(), json!({"num_hidden_layers": 1_000_000}), "num_hidden_layers", "outside");
    check_bad_field(&minilm(), json!({"layer_norm_eps": 0}), "layer_norm_eps", "exceed 0");
    check_bad_field(&modernbert(), json!({"layer_types": ["full_attention"]}), "layer_types", "1 entries");
    check_bad_field(&modernbert(), json!({"local_attention": -1}), "local_attention", "`-1`");
}
