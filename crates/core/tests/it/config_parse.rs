//! `config.json` of each architecture in both forms, and every field that can be wrong.

mod any;
mod encoders;
mod families;

use serde_json::{Value, json};
use tandem_core::config::{Architecture, GenerationConfig, Llama3Rope, ModelConfig, RopeScaling};
use tandem_core::{DType, Error, Result};

fn parse(config: &Value) -> Result<ModelConfig> {
    ModelConfig::from_json("config.json", config.to_string().as_bytes())
}

/// `base` with the fields of `changes`; `"absent"` removes a field.
fn changed(base: &Value, changes: &Value) -> Value {
    let mut config = base.clone();
    for (key, value) in changes.as_object().unwrap() {
        if value == "absent" {
            config.as_object_mut().unwrap().shift_remove(key);
        } else {
            config[key] = value.clone();
        }
    }
    config
}

/// Qwen2.5-0.5B-Instruct as published, transformers 4.
fn qwen2() -> Value {
    json!({
        "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151645,
        "hidden_act": "silu", "hidden_size": 896, "initializer_range": 0.02, "intermediate_size": 4864,
        "max_position_embeddings": 32768, "max_window_layers": 21, "model_type": "qwen2", "num_attention_heads": 14,
        "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
        "sliding_window": 32768, "tie_word_embeddings": true, "torch_dtype": "bfloat16", "transformers_version": "4.43.1",
        "use_cache": true, "use_sliding_window": false, "vocab_size": 151936,
    })
}

/// Qwen3-0.6B.
fn qwen3() -> Value {
    json!({
        "architectures": ["Qwen3ForCausalLM"], "attention_bias": false, "bos_token_id": 151643, "eos_token_id": 151645,
        "head_dim": 128, "hidden_act": "silu", "hidden_size": 1024, "intermediate_size": 3072,
        "max_position_embeddings": 40960, "max_window_layers": 28, "model_type": "qwen3", "num_attention_heads": 16,
        "num_hidden_layers": 28, "num_key_value_heads": 8, "rms_norm_eps": 1e-6, "rope_scaling": null,
        "rope_theta": 1000000, "sliding_window": null, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
        "use_sliding_window": false, "vocab_size": 151936,
    })
}

/// Llama-3.2-1B-Instruct.
fn llama() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "attention_bias": false, "bos_token_id": 128000,
        "eos_token_id": [128001, 128008, 128009], "head_dim": 64, "hidden_act": "silu", "hidden_size": 2048,
        "intermediate_size": 8192, "max_position_embeddings": 131072, "mlp_bias": false, "model_type": "llama",
        "num_attention_heads": 32, "num_hidden_layers": 16, "num_key_value_heads": 8, "rms_norm_eps": 1e-5,
        "rope_scaling": {
            "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0, "tie_word_embeddings": true, "torch_dtype": "bfloat16", "vocab_size": 128256,
    })
}

/// Mistral-7B-v0.1.
fn mistral() -> Value {
    json!({
        "architectures": ["MistralForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
        "hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 32768, "model_type": "mistral",
        "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "sliding_window": 4096, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
        "vocab_size": 32000,
    })
}

/// The same configuration as transformers 5 writes it.
fn as_transformers_5(config: &Value) -> Value {
    let mut config = config.clone();
    let object = config.as_object_mut().unwrap();
    let theta = object.shift_remove("rope_theta").unwrap();
    let mut rope = match object.shift_remove("rope_scaling") {
        Some(scaling @ Value::Object(_)) => scaling,
        _ => json!({"rope_type": "default"}),
    };
    rope["rope_theta"] = theta;
    let dtype = object.shift_remove("torch_dtype").unwrap();
    object.insert("rope_parameters".into(), rope);
    object.insert("dtype".into(), dtype);
    config
}

#[test]
fn both_forms_of_every_architecture_say_the_same() {
    for base in [qwen2(), qwen3(), llama(), mistral()] {
        let (old, new) = (parse(&base).unwrap(), parse(&as_transformers_5(&base)).unwrap());
        assert_eq!(old.raw(), &base);
        // Equal but for the raw file, which `Debug` ends with.
        let shown = |config: &ModelConfig| format!("{config:?}").split(", raw:").next().unwrap().to_owned();
        assert_eq!(shown(&old), shown(&new));
        assert_eq!(new.dtype, Some(DType::Bf16));
    }
}

#[test]
fn published_models_have_their_known_size() {
    let check = |config: Value, head_dim, parameters, kv_bytes| {
        let config = parse(&config).unwrap();
        assert_eq!((config.head_dim(), config.n_parameters(), config.kv_bytes_per_token(2)), (head_dim, parameters, kv_bytes));
    };
    check(qwen2(), 64, 494_032_768, 12_288);
    check(qwen3(), 128, 596_049_920, 114_688);
    check(llama(), 64, 1_235_814_400, 32_768);
    check(mistral(), 128, 7_241_732_096, 131_072);
}

#[test]
fn architectures_differ_where_they_should() {
    let config = parse(&qwen2()).unwrap();
    assert_eq!(config.architecture, Architecture::Qwen2);
    assert!(config.qkv_bias && !config.attention_output_bias && !config.mlp_bias && !config.qk_norm);
    assert_eq!((config.bos_token_id, config.eos_token_ids), (Some(151_643), vec![151_645]));
    assert_eq!((config.rope.theta, config.rope.scaling), (1e6, RopeScaling::Default));

    let config = parse(&qwen3()).unwrap();
    assert!(!config.qkv_bias && config.qk_norm);
    let config = parse(&changed(&qwen3(), &json!({"attention_bias": true}))).unwrap();
    assert!(config.qkv_bias && config.attention_output_bias);

    let config = parse(&llama()).unwrap();
    assert_eq!(config.eos_token_ids, [128_001, 128_008, 128_009]);
    assert!(!config.qkv_bias && !config.qk_norm);
    let llama3 = Llama3Rope { factor: 32.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max_position: 8192 };
    assert_eq!(config.rope.scaling, RopeScaling::Llama3(llama3));
    let config = parse(&changed(&llama(), &json!({"attention_bias": true, "mlp_bias": true}))).unwrap();
    assert!(config.qkv_bias && config.attention_output_bias && config.mlp_bias);

    // Mistral has no biases, whatever the file says, as in transformers.
    let config = parse(&changed(&mistral(), &json!({"attention_bias": true}))).unwrap();
    assert!(!config.qkv_bias && !config.tie_word_embeddings);
}

#[test]
fn absent_fields_take_the_defaults_of_transformers() {
    let without = |base: Value, field: &str| parse(&changed(&base, &json!({field: "absent"}))).unwrap();
    let null = |base: Value, field: &str| parse(&changed(&base, &json!({field: null}))).unwrap();
    for base in [qwen2(), qwen3(), llama(), mistral()] {
        assert!(!without(base.clone(), "tie_word_embeddings").tie_word_embeddings);
        assert_eq!(without(base.clone(), "rms_norm_eps").norm_eps, 1e-6);
        assert_eq!(without(base.clone(), "rope_theta").rope.theta, 1e4);
        assert_eq!(without(base.clone(), "torch_dtype").dtype, None);
        assert_eq!(null(base.clone(), "bos_token_id").bos_token_id, None);
        assert!(null(base.clone(), "eos_token_id").eos_token_ids.is_empty());
        let config = null(base.clone(), "num_key_value_heads");
        assert_eq!(config.n_kv_heads, config.n_heads);
        let by_class = parse(&changed(&base, &json!({"model_type": "absent"}))).unwrap();
        assert_eq!(by_class.architecture.model_type(), base["model_type"]);
    }
    assert_eq!(without(llama(), "num_key_value_heads").n_kv_heads, 32);
    assert_eq!(without(mistral(), "num_key_value_heads").n_kv_heads, 8);
    assert_eq!((without(llama(), "bos_token_id").bos_token_id, without(qwen2(), "bos_token_id").bos_token_id), (Some(1), None));
    assert_eq!(without(llama(), "eos_token_id").eos_token_ids, [2]);
    assert!(without(qwen2(), "eos_token_id").eos_token_ids.is_empty());
    assert_eq!((without(qwen3(), "head_dim").head_dim(), null(qwen3(), "head_dim").head_dim()), (128, 64));
    assert_eq!((without(llama(), "head_dim").head_dim(), null(llama(), "head_dim").head_dim()), (64, 64));
}

#[test]
fn windows() {
    let check = |base: Value, changes: Value, expected: &[(usize, Option<usize>)]| {
        let config = parse(&changed(&base, &changes)).unwrap();
        assert_eq!(config.layer_windows.len(), config.n_layers);
        for &(layer, window) in expected {
            assert_eq!(config.layer_windows[layer], window, "layer {layer} with {changes}");
        }
    };
    check(qwen2(), json!({}), &[(0, None), (23, None)]);
    check(qwen2(), json!({"use_sliding_window": "absent"}), &[(23, None)]);
    check(qwen2(), json!({"use_sliding_window": true}), &[(20, None), (21, Some(32768)), (23, Some(32768))]);
    check(qwen2(), json!({"use_sliding_window": true, "sliding_window": null}), &[(23, None)]);
    check(qwen2(), json!({"use_sliding_window": true, "sliding_window": "absent"}), &[(23, Some(4096))]);
    check(qwen2(), json!({"use_sliding_window": true, "max_window_layers": "absent"}), &[(23, None)]);
    check(mistral(), json!({}), &[(0, Some(4096)), (31, Some(4096))]);
    check(mistral(), json!({"sliding_window": null}), &[(0, None)]);
    check(mistral(), json!({"sliding_window": "absent"}), &[(0, Some(4096))]);
    check(llama(), json!({"sliding_window": 4096}), &[(0, None)]);
    let types: Vec<_> = (0..28).map(|i| if i % 2 == 0 { "full_attention" } else { "sliding_attention" }).collect();
    let on = json!({"layer_types": types, "use_sliding_window": true, "sliding_window": 128});
    check(qwen3(), on, &[(0, None), (1, Some(128)), (26, None), (27, Some(128))]);
    check(qwen3(), json!({"layer_types": vec!["full_attention"; 28]}), &[(0, None), (27, None)]);
}

#[test]
fn rope_of_both_places() {
    let scaling = |changes: Value| parse(&changed(&llama(), &changes)).unwrap().rope;
    let linear = RopeScaling::Linear { factor: 4.0 };
    assert_eq!(scaling(json!({"rope_scaling": {"type": "linear", "factor": 4}})).scaling, linear);
    assert_eq!(scaling(json!({"rope_scaling": {"rope_type": "linear", "factor": 4.0}})).scaling, linear);
    assert_eq!(scaling(json!({"rope_scaling": {}})).scaling, RopeScaling::Default);
    assert_eq!(scaling(json!({"rope_scaling": {"rope_theta": 7e3}})).theta, 7e3);
    let both = json!({"rope_scaling": {"type": "linear", "factor": 4}, "rope_parameters": {"rope_type": "default"}});
    assert_eq!(scaling(both).scaling, linear);
    let outside = json!({"original_max_position_embeddings": 99});
    assert!(matches!(scaling(outside).scaling, RopeScaling::Llama3(rope) if rope.original_max_position == 99));
    let yarn = json!({"rope_scaling": {"type": "yarn", "factor": 4, "beta_fast": 0, "beta_slow": null}});
    let RopeScaling::Yarn(yarn) = scaling(yarn).scaling else { panic!("it is YaRN") };
    assert_eq!((yarn.beta_fast, yarn.beta_slow, yarn.truncate, yarn.original_max_position), (32.0, 1.0, true, 131_072));
}

#[test]
fn a_quantised_checkpoint_says_so() {
    let method = |quantization: Value| {
        let config = parse(&changed(&llama(), &json!({"quantization_config": quantization}))).unwrap();
        config.quantization_method().map(str::to_owned)
    };
    assert_eq!(method(json!({"quant_method": "gptq", "bits": 4})).as_deref(), Some("gptq"));
    assert_eq!(method(json!({"bits": 4})).as_deref(), Some("unnamed"));
    assert_eq!(method(json!(null)), None);
}

/// The error names the file, the field and the value.
#[track_caller]
fn check_bad_field(base: &Value, changes: Value, field: &str, part: &str) {
    match parse(&changed(base, &changes)) {
        Err(Error::BadField { file, field: named, problem, .. }) => {
            assert_eq!((file.as_str(), named.as_str()), ("config.json", field), "{changes}: {problem}");
            assert!(problem.contains(part), "{changes}: `{problem}` has no `{part}`");
        }
        other => panic!("{changes}: {other:?}"),
    }
}

#[test]
fn whole_numbers_that_cannot_be() {
    let fields = [
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "max_position_embeddings",
        "num_key_value_heads",
        "head_dim",
    ];
    for field in fields {
        for value in [json!(0), json!(-1), json!(1_000_000_000_000_u64), json!(u64::MAX), json!(i64::MIN)] {
            check_bad_field(&llama(), json!({field: value}), field, &format!("is `{value}`, outside"));
        }
        for value in [json!(1.5), json!(2.0), json!(1e30), json!("7"), json!(true), json!([1]), json!({"a": 1})] {
            check_bad_field(&llama(), json!({field: value}), field, "not a whole number");
        }
    }
    for field in &fields[..6] {
        check_bad_field(&llama(), json!({*field: "absent"}), field, "is missing");
        check_bad_field(&llama(), json!({*field: null}), field, "is `null`");
    }
}

#[test]
fn fields_that_contradict_one_another() {
    check_bad_field(&llama(), json!({"num_key_value_heads": 5}), "num_key_value_heads", "`5`, which does not divide");
    check_bad_field(&llama(), json!({"num_key_value_heads": 64}), "num_key_value_heads", "`num_attention_heads` of `32`");
    check_bad_field(&qwen2(), json!({"num_key_value_heads": "absent"}), "num_key_value_heads", "`32`");
    check_bad_field(&qwen2(), json!({"hidden_size": 897}), "hidden_size", "`897`, no multiple");
    check_bad_field(&qwen2(), json!({"hidden_size": 14 * 63}), "head_dim", "`63`, and must be even");
    check_bad_field(&llama(), json!({"head_dim": 63}), "head_dim", "even");
    check_bad_field(&llama(), json!({"head_dim": 1}), "head_dim", "outside 2 to 4096");
    check_bad_field(&mistral(), json!({"hidden_size": 32 * 8192}), "head_dim", "`8192`");
}

#[test]
fn other_fields_that_cannot_be() {
    for value in [json!(0), json!(0.0), json!(-1e-6), json!(1e-60), json!(1)] {
        check_bad_field(&llama(), json!({"rms_norm_eps": value}), "rms_norm_eps", "is `");
    }
    check_bad_field(&llama(), json!({"rms_norm_eps": "1e-6"}), "rms_norm_eps", "not a number");
    for field in ["tie_word_embeddings", "attention_bias", "mlp_bias", "is_encoder_decoder"] {
        check_bad_field(&llama(), json!({field: 1}), field, "is `1`, not a boolean");
    }
    check_bad_field(&qwen2(), json!({"use_sliding_window": "yes"}), "use_sliding_window", "\"yes\"");
    check_bad_field(&qwen2(), json!({"use_sliding_window": true, "sliding_window": 0}), "sliding_window", "`0`");
    check_bad_field(&qwen2(), json!({"use_sliding_window": true, "max_window_layers": -3}), "max_window_layers", "`-3`");
    check_bad_field(&mistral(), json!({"sliding_window": -1}), "sliding_window", "`-1`");
    for value in [json!(-1), json!(1.5), json!("2"), json!(1_u64 << 32), json!([2, -1]), json!([[2]]), json!(true)] {
        check_bad_field(&llama(), json!({"eos_token_id": value}), "eos_token_id", "which is not a token id");
    }
    check_bad_field(&llama(), json!({"bos_token_id": [1]}), "bos_token_id", "which is not a token id");
    check_bad_field(&llama(), json!({"torch_dtype": 16}), "torch_dtype", "not a string");
    check_bad_field(&llama(), json!({"model_type": 3}), "model_type", "not a string");
    check_bad_field(&llama(), json!({"model_type": "absent", "architectures": "absent"}), "model_type", "is missing");
    check_bad_field(&llama(), json!({"model_type": "absent", "architectures": []}), "architectures", "`[]`");
    check_bad_field(&llama(), json!({"hidden_act": 5}), "hidden_act", "not a string");
    check_bad_field(&qwen3(), json!({"layer_types": ["full_attention"]}), "layer_types", "has 1 entries");
    check_bad_field(&qwen3(), json!({"layer_types": "full"}), "layer_types", "not a list");
    check_bad_field(&qwen3(), json!({"layer_types": vec!["linear"; 28]}), "layer_types", "\"linear\"");
    check_bad_field(&qwen3(), json!({"layer_types": vec!["sliding_attention"; 28]}), "layer_types", "no `sliding_window`");
}

#[test]
fn rope_parameters_that_cannot_be() {
    let check = |rope: Value, field: &str, part: &str| {
        check_bad_field(&llama(), json!({"rope_scaling": rope}), &format!("rope_scaling.{field}"), part);
        let new = json!({"rope_scaling": "absent", "rope_parameters": rope});
        check_bad_field(&llama(), new, &format!("rope_parameters.{field}"), part);
    };
    check_bad_field(&llama(), json!({"rope_theta": 0}), "rope_theta", "`0`");
    check_bad_field(&llama(), json!({"rope_theta": 1.0}), "rope_theta", "`1.0`");
    check_bad_field(&llama(), json!({"rope_theta": -1e4}), "rope_theta", "`-10000.0`");
    check_bad_field(&llama(), json!({"rope_theta": "big"}), "rope_theta", "not a number");
    check_bad_field(&llama(), json!({"rope_scaling": 4}), "rope_scaling", "not an object");
    check_bad_field(&llama(), json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor", "`0.5`");
    check(json!({"rope_theta": null, "rope_type": 4}), "rope_type", "not a string");
    check(json!({"rope_type": "linear"}), "factor", "is missing");
    check(json!({"rope_type": "linear", "factor": 0.0}), "factor", "`0.0`");
    check(json!({"rope_type": "linear", "factor": null}), "factor", "is `null`");
    check(json!({"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4}), "high_freq_factor", "`4.0`");
    check(json!({"rope_type": "llama3", "factor": 8, "high_freq_factor": 4}), "low_freq_factor", "is missing");
    check(json!({"rope_type": "yarn"}), "factor", "is missing");
    check(json!({"rope_type": "yarn", "factor": 2, "beta_fast": 0.5}), "beta_fast", "`0.5`");
    check(json!({"rope_type": "yarn", "factor": 2, "truncate": 1}), "truncate", "not a boolean");
    check(json!({"rope_type": "yarn", "factor": 2, "attention_factor": -1}), "attention_factor", "`-1`");
    let zero = json!({"rope_type": "yarn", "factor": 2, "original_max_position_embeddings": 0});
    check(zero, "original_max_position_embeddings", "`0`");
    check(json!({"full_attention": {"rope_type": "default"}}), "full_attention", "differ by layer");
    check(json!({"rope_type": "default", "partial_rotary_factor": 0.25}), "partial_rotary_factor", "`0.25`");
}

#[test]
fn what_is_not_supported_is_named() {
    let check = |changes: Value, named: &str, hint: &str| match parse(&changed(&llama(), &changes)) {
        Err(error @ Error::Unsupported { .. }) => {
            assert!(error.to_string().contains(named), "{error}");
            assert!(error.to_string().contains("config.json"), "{error}");
            assert!(error.hint().unwrap_or_default().to_string().contains(hint), "{:?}", error.hint());
        }
        other => panic!("{changes}: {other:?}"),
    };
    check(json!({"model_type": "gpt2"}), "`gpt2`", "`qwen2`, `qwen3`, `llama`, `mistral`");
    check(json!({"model_type": "absent", "architectures": ["OlmoForCausalLM"]}), "`olmo`", "`llama`");
    check(json!({"model_type": "deberta-v2"}), "encoder-only architecture `deberta-v2`", "`bert`");
    check(json!({"model_type": "nomic_bert"}), "encoder-only", "`modernbert`");
    check(json!({"hidden_act": "gelu"}), "`gelu` (`hidden_act`)", "");
    check(json!({"is_encoder_decoder": true}), "encoder-decoder", "");
    check(json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}}), "`dynamic`", "`yarn`");
    check(json!({"rope_scaling": {"rope_type": "longrope"}}), "`longrope` (`rope_scaling.rope_type`)", "`llama3`");
}

#[test]
fn files_that_are_no_json_object() {
    let check = |json: &[u8], part: &str| match ModelConfig::from_json("x/config.json", json) {
        Err(error @ Error::BadFile { .. }) => {
            assert!(error.to_string().starts_with("`x/config.json`: ") && error.to_string().contains(part), "{error}");
            assert!(error.hint().is_some());
        }
        other => panic!("{other:?}"),
    };
    check(b"", "truncated");
    check(b"[]", "not a JSON object");
    check(b"null", "not a JSON object");
    check(b"<html>", "not valid JSON");
    check(b"{\"rms_norm_eps\": NaN}", "not valid JSON");
    check(b"{\"rope_theta\": Infinity}", "not valid JSON");
    check(b"{\"rope_theta\": 1e999}", "not valid JSON");
    check(b"{\"model_type\": \"\xff\"}", "not valid JSON");
    check("[".repeat(1_000_000).as_bytes(), "not valid JSON");
    check(format!("{{\"a\":{}", "[".repeat(1_000_000)).as_bytes(), "not valid JSON");
}

#[test]
fn long_values_are_shortened_in_messages() {
    let error = parse(&changed(&llama(), &json!({"vocab_size": "9".repeat(10_000)}))).unwrap_err();
    assert!(error.to_string().len() < 200, "{error}");
}

#[test]
fn every_prefix_is_an_error_and_no_panic() {
    for base in [qwen2(), as_transformers_5(&llama())] {
        let text = base.to_string();
        for n in 0..text.len() {
            assert!(matches!(ModelConfig::from_json("config.json", &text.as_bytes()[..n]), Err(Error::BadFile { .. })), "{n}");
        }
    }
}

#[test]
fn every_field_of_every_other_type_is_an_answer_and_no_panic() {
    let odd = [
        json!(null),
        json!(true),
        json!(-1),
        json!(0),
        json!(1e300),
        json!("x"),
        json!([]),
        json!({}),
        json!([{}]),
        json!(u64::MAX),
    ];
    use families::{gemma2, gemma3, phi3};
    for base in [qwen2(), qwen3(), llama(), mistral(), as_transformers_5(&llama()), gemma2(), gemma3(), phi3()] {
        for key in base.as_object().unwrap().keys() {
            for value in &odd {
                if let Ok(config) = parse(&changed(&base, &json!({key: value}))) {
                    check_sane(&config);
                }
            }
        }
    }
}

/// What is accepted can be computed with.
fn check_sane(config: &ModelConfig) {
    assert!(config.n_heads.is_multiple_of(config.n_kv_heads) && config.head_dim().is_multiple_of(2));
    assert!(config.n_parameters() > 0 && config.n_parameters() < u64::MAX && config.kv_bytes_per_token(8) < usize::MAX);
    let frequencies = config.rope.inv_freq(config.head_dim());
    assert_eq!(frequencies.len(), config.head_dim() / 2);
    assert!(frequencies.iter().all(|f| f.is_finite()) && config.rope.attention_factor().is_finite(), "{:?}", config.rope);
}

#[test]
fn the_largest_that_is_accepted_does_not_overflow() {
    let largest = json!({
        "vocab_size": 1 << 24, "hidden_size": 1 << 20, "intermediate_size": 1 << 24, "num_hidden_layers": 1 << 12,
        "num_attention_heads": 1 << 16, "num_key_value_heads": 1 << 16, "head_dim": 1 << 12,
        "max_position_embeddings": 1 << 30, "tie_word_embeddings": false, "attention_bias": true, "mlp_bias": true,
    });
    let config = parse(&changed(&llama(), &largest)).unwrap();
    assert!(config.n_parameters() > 1 << 58 && config.n_parameters() < u64::MAX);
    assert_eq!(config.kv_bytes_per_token(4), 1 << 43);
}

#[test]
fn generation_config() {
    let parse = |config: Value| GenerationConfig::from_json("generation_config.json", config.to_string().as_bytes());
    let config = parse(json!({
        "bos_token_id": 151643, "pad_token_id": -1, "do_sample": true, "eos_token_id": [151645, 151643], "min_p": 0.05,
        "repetition_penalty": 1.1, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "typical_p": 1, "max_new_tokens": 512,
        "transformers_version": "4.37.0", "anything": {"else": []},
    }));
    let expected = GenerationConfig {
        eos_token_ids: vec![151_645, 151_643],
        do_sample: Some(true),
        temperature: Some(0.7),
        top_k: Some(20),
        top_p: Some(0.8),
        min_p: Some(0.05),
        typical_p: Some(1.0),
        repetition_penalty: Some(1.1),
        max_new_tokens: Some(512),
    };
    assert_eq!(config.unwrap(), expected);
    assert_eq!(parse(json!({})).unwrap(), GenerationConfig::default());
    assert_eq!(parse(json!({"eos_token_id": 2, "temperature": null})).unwrap().eos_token_ids, [2]);
    let bad = [
        ("eos_token_id", json!("2")),
        ("eos_token_id", json!([2, "3"])),
        ("do_sample", json!("true")),
        ("do_sample", json!(1)),
        ("temperature", json!(-0.1)),
        ("temperature", json!([])),
        ("top_k", json!(-1)),
        ("top_k", json!(1.5)),
        ("top_p", json!(1.01)),
        ("min_p", json!(-1)),
        ("typical_p", json!(2)),
        ("repetition_penalty", json!(0)),
        ("max_new_tokens", json!("many")),
    ];
    for (field, value) in bad {
        let Err(Error::BadField { field: named, problem, .. }) = parse(json!({field: value})) else { panic!("{field}: {value}") };
        assert_eq!(named, field);
        assert!(problem.contains('`'), "{problem}");
    }
}
