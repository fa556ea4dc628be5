//! Rotary frequencies against those that transformers computes (`data/config_rope.json`, which says by what it was made).

use serde_json::{Value, json};
use tandem_core::config::ModelConfig;

/// Distance in units of the last place; both are positive.
fn ulps(a: f32, b: f32) -> u32 {
    a.to_bits().abs_diff(b.to_bits())
}

fn config(case: &Value, transformers_4: bool) -> ModelConfig {
    let mut config = json!({
        "model_type": "llama", "vocab_size": 100, "hidden_size": 256, "intermediate_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 4, "head_dim": case["head_dim"], "max_position_embeddings": case["max_position_embeddings"],
    });
    let mut parameters = case["rope_parameters"].clone();
    if transformers_4 {
        let parameters = parameters.as_object_mut().unwrap();
        config["rope_theta"] = parameters.shift_remove("rope_theta").unwrap();
        let rope_type = parameters.shift_remove("rope_type").unwrap();
        parameters.insert("type".into(), rope_type);
    }
    config[if transformers_4 { "rope_scaling" } else { "rope_parameters" }] = parameters;
    ModelConfig::from_json("config.json", config.to_string().as_bytes()).unwrap()
}

#[test]
fn frequencies_are_those_of_transformers() {
    let recorded: Value = serde_json::from_str(include_str!("data/config_rope.json")).unwrap();
    let cases = recorded["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 10);
    for case in cases {
        for transformers_4 in [false, true] {
            let config = config(case, transformers_4);
            let name = case["name"].as_str().unwrap();
            assert_eq!(config.rope.attention_factor(), case["attention_scaling"].as_f64().unwrap() as f32, "{name}");
            let expected: Vec<f32> = case["inv_freq"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect();
            let computed = config.rope.inv_freq(config.head_dim());
            assert_eq!(computed.len(), expected.len(), "{name}");
            let worst = computed.iter().zip(&expected).map(|(a, b)| ulps(*a, *b)).max().unwrap();
            assert!(worst <= 2, "{name}: {worst} units in the last place");
        }
    }
}

#[test]
fn a_null_factor_is_the_ratio_of_the_contexts() {
    let with = |factor: Value| {
        let case = json!({
            "head_dim": 64, "max_position_embeddings": 16384,
            "rope_parameters": {
                "rope_type": "yarn", "rope_theta": 10000.0, "factor": factor, "original_max_position_embeddings": 4096,
            },
        });
        config(&case, false)
    };
    assert_eq!(with(Value::Null).rope, with(json!(4.0)).rope);
}
