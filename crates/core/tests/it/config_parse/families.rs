//! Gemma 2, Gemma 3 and Phi-3: what their configurations have beyond the others'.

use serde_json::{Value, json};
use tandem_core::Error;
use tandem_core::config::{Architecture, GemmaConfig, RopeScaling};

use super::{changed, check_bad_field, parse};

/// Gemma-2-2b-it as published, transformers 4.
pub(crate) fn gemma2() -> Value {
    json!({
        "architectures": ["Gemma2ForCausalLM"], "attention_bias": false, "attn_logit_softcapping": 50.0, "bos_token_id": 2,
        "cache_implementation": "hybrid", "eos_token_id": [1, 107], "final_logit_softcapping": 30.0, "head_dim": 256,
        "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 2304,
        "intermediate_size": 9216, "max_position_embeddings": 8192, "model_type": "gemma2", "num_attention_heads": 8,
        "num_hidden_layers": 26, "num_key_value_heads": 4, "pad_token_id": 0, "query_pre_attn_scalar": 256,
        "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "sliding_window": 4096, "torch_dtype": "bfloat16", "vocab_size": 256000,
    })
}

/// Gemma-3-1b-it as published, transformers 4.
pub(crate) fn gemma3() -> Value {
    json!({
        "architectures": ["Gemma3ForCausalLM"], "attention_bias": false, "attn_logit_softcapping": null, "bos_token_id": 2,
        "cache_implementation": "hybrid", "eos_token_id": [1, 106], "final_logit_softcapping": null, "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 1152, "intermediate_size": 6912,
        "max_position_embeddings": 32768, "model_type": "gemma3_text", "num_attention_heads": 4, "num_hidden_layers": 26,
        "num_key_value_heads": 1, "pad_token_id": 0, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-6,
        "rope_local_base_freq": 10000, "rope_scaling": null, "rope_theta": 1000000, "sliding_window": 512,
        "sliding_window_pattern": 6, "torch_dtype": "bfloat16", "vocab_size": 262144,
    })
}

/// Phi-3-mini-4k-instruct as published, transformers 4.
pub(crate) fn phi3() -> Value {
    json!({
        "architectures": ["Phi3ForCausalLM"], "attention_bias": false, "bos_token_id": 1, "eos_token_id": 32000,
        "hidden_act": "silu", "hidden_size": 3072, "intermediate_size": 8192, "max_position_embeddings": 4096,
        "model_type": "phi3", "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32,
        "original_max_position_embeddings": 4096, "pad_token_id": 32000, "rms_norm_eps": 1e-5, "rope_scaling": null,
        "rope_theta": 10000.0, "sliding_window": 2047, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
        "vocab_size": 32064,
    })
}

#[test]
fn published_models_have_their_known_size() {
    let check = |config: Value, head_dim, parameters| {
        let config = parse(&config).unwrap();
        assert_eq!((config.head_dim(), config.n_parameters()), (head_dim, parameters));
        assert!(!config.architecture.has_llama_form());
    };
    check(gemma2(), 256, 2_614_341_888);
    check(gemma3(), 256, 999_885_952);
    check(phi3(), 96, 3_821_079_552);
}

#[test]
fn what_gemma_has() {
    let gemma = |config: Value| parse(&config).unwrap().gemma.unwrap();
    let expected =
        GemmaConfig { query_scale: 256.0, attention_softcap: Some(50.0), logits_softcap: Some(30.0), window_rope_theta: None };
    assert_eq!(gemma(gemma2()), expected);
    let without =
        json!({"attn_logit_softcapping": "absent", "final_logit_softcapping": "absent", "query_pre_attn_scalar": "absent"});
    assert_eq!(gemma(changed(&gemma2(), &without)), expected, "as transformers fills it in");
    let uncapped = changed(&gemma2(), &json!({"attn_logit_softcapping": null, "final_logit_softcapping": null}));
    assert_eq!((gemma(uncapped.clone()).attention_softcap, gemma(uncapped).logits_softcap), (None, None));
    let third = gemma(gemma3());
    assert_eq!((third.attention_softcap, third.logits_softcap, third.window_rope_theta), (None, None, Some(1e4)));
    assert_eq!(gemma(changed(&gemma3(), &json!({"query_pre_attn_scalar": 168}))).query_scale, 168.0);
    assert_eq!(parse(&phi3()).unwrap().gemma, None);
    assert!(parse(&gemma2()).unwrap().tie_word_embeddings, "where the file does not say");
    assert!(parse(&gemma3()).unwrap().qk_norm && !parse(&gemma2()).unwrap().qk_norm);
}

#[test]
fn gemma3_has_two_rotary_bases() {
    let bases = |changes: Value| {
        let config = parse(&changed(&gemma3(), &changes)).unwrap();
        (config.rope.theta, config.gemma.unwrap().window_rope_theta.unwrap())
    };
    let absent = json!({"rope_theta": "absent", "rope_local_base_freq": "absent"});
    assert_eq!(bases(json!({})), (1e6, 1e4));
    assert_eq!(bases(absent.clone()), (1e6, 1e4));
    assert_eq!(bases(json!({"rope_theta": 5e5, "rope_local_base_freq": 100.0})), (5e5, 100.0));
    let newer = json!({
        "rope_theta": "absent", "rope_local_base_freq": "absent", "rope_scaling": "absent",
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 3e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
        },
    });
    assert_eq!(bases(newer), (3e6, 2e4));
    let half = json!({"rope_theta": 7e5, "rope_parameters": {"sliding_attention": {"rope_theta": 2e4}}});
    assert_eq!(bases(half), (7e5, 2e4));
    let scaled = json!({"rope_scaling": {"rope_type": "linear", "factor": 8.0}});
    let config = parse(&changed(&gemma3(), &scaled)).unwrap();
    assert_eq!((config.rope.theta, config.rope.scaling), (1e6, RopeScaling::Linear { factor: 8.0 }));
    check_bad_field(
        &gemma3(),
        json!({"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}}),
        "rope_parameters.sliding_attention.rope_type",
        "linear",
    );
}

#[test]
fn windows() {
    let check = |config: Value, expected: &[(usize, Option<usize>)]| {
        let config = parse(&config).unwrap();
        assert_eq!(config.layer_windows.len(), config.n_layers);
        for &(layer, window) in expected {
            assert_eq!(config.layer_windows[layer], window, "layer {layer}");
        }
    };
    check(gemma2(), &[(0, Some(4096)), (1, None), (24, Some(4096)), (25, None)]);
    check(gemma3(), &[(0, Some(512)), (4, Some(512)), (5, None), (6, Some(512)), (23, None), (25, Some(512))]);
    check(
        changed(&gemma3(), &json!({"sliding_window_pattern": "absent", "sliding_window": "absent"})),
        &[(5, None), (4, Some(4096))],
    );
    check(changed(&gemma3(), &json!({"sliding_window_pattern": 2})), &[(0, Some(512)), (1, None)]);
    let types = vec!["full_attention"; 26];
    check(changed(&gemma3(), &json!({"layer_types": types, "sliding_window": null})), &[(0, None), (25, None)]);
    check(phi3(), &[(0, Some(2047)), (31, Some(2047))]);
    check(changed(&phi3(), &json!({"sliding_window": "absent"})), &[(0, None)]);
    check_bad_field(&gemma2(), json!({"sliding_window": null}), "sliding_window", "must have a value");
    check_bad_field(&gemma3(), json!({"sliding_window_pattern": 0}), "sliding_window_pattern", "`0`");
}

#[test]
fn names_of_classes() {
    for (config, architecture) in
        [(gemma2(), Architecture::Gemma2), (gemma3(), Architecture::Gemma3), (phi3(), Architecture::Phi3)]
    {
        assert_eq!(parse(&config).unwrap().architecture, architecture);
        assert_eq!(parse(&changed(&config, &json!({"model_type": "absent"}))).unwrap().architecture, architecture);
    }
    let with_images = parse(&json!({"model_type": "gemma3", "text_config": {}})).unwrap_err();
    assert!(matches!(with_images, Error::Unsupported { .. }) && with_images.to_string().contains("images"), "{with_images}");
}

#[test]
fn bidirectional_gemma_halves_its_window() {
    let config = parse(&changed(&gemma3(), &json!({"use_bidirectional_attention": true}))).unwrap();
    assert!(!config.is_causal && config.encoder.is_none());
    assert_eq!((config.layer_windows[0], config.layer_windows[5]), (Some(257), None));
    assert!(parse(&gemma3()).unwrap().is_causal);
}

#[test]
fn what_cannot_be() {
    check_bad_field(&gemma2(), json!({"query_pre_attn_scalar": 0}), "query_pre_attn_scalar", "`0`");
    check_bad_field(&gemma2(), json!({"final_logit_softcapping": -1}), "final_logit_softcapping", "`-1`");
    check_bad_field(&phi3(), json!({"partial_rotary_factor": 0.75}), "partial_rotary_factor", "0.75");
    for (config, change, part) in [
        (gemma2(), json!({"hidden_activation": "gelu"}), "`gelu` (`hidden_activation`)"),
        (phi3(), json!({"hidden_act": "gelu"}), "`gelu` (`hidden_act`)"),
        (phi3(), json!({"rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}}), "`longrope`"),
    ] {
        let error = parse(&changed(&config, &change)).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }) && error.to_string().contains(part), "{error}");
    }
}
