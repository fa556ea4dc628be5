//! Whatever stands in a configuration, the parser answers and does not panic.

use proptest::prelude::*;
use serde_json::Value;
use tandem_core::config::{GenerationConfig, ModelConfig};

use super::families::{gemma2, gemma3, phi3};
use super::{check_sane, llama, mistral, parse, qwen2, qwen3};

/// JSON of any shape, with numbers, names and texts that the parser looks for.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0_u64..200).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(vec!["qwen2", "llama", "bert", "yarn", "llama3", "linear", "silu", "sliding_attention", ""])
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((any_key(), inner), 0..6).prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

fn any_key() -> impl Strategy<Value = String> {
    let mut keys: Vec<String> =
        [llama(), qwen2(), gemma3()].iter().flat_map(|c| c.as_object().unwrap().keys().cloned().collect::<Vec<_>>()).collect();
    keys.extend(["rope_parameters", "factor", "rope_type", "layer_types", "beta_fast", "truncate", "mscale"].map(String::from));
    keys.extend(["full_attention", "sliding_attention", "original_max_position_embeddings"].map(String::from));
    prop::sample::select(keys)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_json_is_an_answer(value in any_json()) {
        let _ = parse(&value);
        let _ = GenerationConfig::from_json("generation_config.json", value.to_string().as_bytes());
    }

    #[test]
    fn any_change_of_a_good_file_is_an_answer(
        changes in prop::collection::vec((any_key(), any_json()), 1..4), which in 0_usize..7,
    ) {
        let mut config = [qwen2(), qwen3(), llama(), mistral(), gemma2(), gemma3(), phi3()][which].clone();
        for (key, value) in changes {
            config[key] = value;
        }
        if let Ok(config) = parse(&config) {
            check_sane(&config);
        }
    }

    #[test]
    fn any_bytes_are_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = ModelConfig::from_json("config.json", &bytes);
    }
}
