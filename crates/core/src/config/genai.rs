//! `genai_config.json`, which onnxruntime-genai's builder writes in place of `config.json` and `generation_config.json`: what it says,
//! as those files would say it.
//!
//! Source: `make_genai_config` in `onnxruntime_genai/models/builders/base.py`, release 0.18.

use serde_json::{Map, Value};

use crate::error::Error;

/// Fields of `config.json`, and where `genai_config.json` has them.
const CONFIG_FIELDS: [(&str, &str); 11] = [
    ("model_type", "model.type"),
    ("vocab_size", "model.vocab_size"),
    ("max_position_embeddings", "model.context_length"),
    ("bos_token_id", "model.bos_token_id"),
    ("eos_token_id", "model.eos_token_id"),
    ("pad_token_id", "model.pad_token_id"),
    ("hidden_size", "model.decoder.hidden_size"),
    ("num_hidden_layers", "model.decoder.num_hidden_layers"),
    ("num_attention_heads", "model.decoder.num_attention_heads"),
    ("num_key_value_heads", "model.decoder.num_key_value_heads"),
    ("head_dim", "model.decoder.head_size"),
];

/// Fields of `generation_config.json`, and where `genai_config.json` has them. Its `max_length` is the context, not the answer.
const GENERATION_FIELDS: [(&str, &str); 6] = [
    ("eos_token_id", "model.eos_token_id"),
    ("do_sample", "search.do_sample"),
    ("temperature", "search.temperature"),
    ("top_k", "search.top_k"),
    ("top_p", "search.top_p"),
    ("repetition_penalty", "search.repetition_penalty"),
];

/// The fields of `config.json`, if `root` is that of a `genai_config.json`.
pub(super) fn config(root: &Map<String, Value>) -> Option<Map<String, Value>> {
    is_genai_config(root).then(|| convert(root, &CONFIG_FIELDS))
}

/// The fields of `generation_config.json`, if `root` is that of a `genai_config.json`.
pub(super) fn generation_config(root: &Map<String, Value>) -> Option<Map<String, Value>> {
    is_genai_config(root).then(|| convert(root, &GENERATION_FIELDS))
}

/// An error about a converted field, as one about the field that it comes from.
pub(super) fn restore_field(error: Error) -> Error {
    match error {
        Error::BadField { file, field, problem, hint } => {
            let mut known = CONFIG_FIELDS.iter().chain(&GENERATION_FIELDS);
            let original = known.find(|(name, _)| *name == field).map(|(_, original)| (*original).to_owned());
            Error::BadField { file, field: original.unwrap_or(field), problem, hint }
        }
        other => other,
    }
}

fn is_genai_config(root: &Map<String, Value>) -> bool {
    root.get("model").is_some_and(|model| model.get("decoder").is_some_and(Value::is_object))
}

fn convert(root: &Map<String, Value>, fields: &[(&str, &str)]) -> Map<String, Value> {
    let get = |path: &str| {
        let mut parts = path.split('.');
        let first = root.get(parts.next()?)?;
        parts.try_fold(first, |value, part| value.get(part))
    };
    fields.iter().filter_map(|(name, path)| Some(((*name).to_owned(), get(path)?.clone()))).collect()
}

#[cfg(test)]
mod tests {
    use crate::config::{Architecture, GenerationConfig, ModelConfig};

    const FILE: &str = r#"{
        "model": {
            "bos_token_id": 1, "context_length": 256, "eos_token_id": [2, 7], "pad_token_id": 2, "type": "mistral", "vocab_size": 340,
            "decoder": {
                "session_options": {"log_id": "onnxruntime-genai"}, "filename": "model.onnx", "head_size": 16, "hidden_size": 48,
                "num_attention_heads": 2, "num_hidden_layers": 3, "num_key_value_heads": 1
            }
        },
        "search": {"do_sample": true, "max_length": 256, "repetition_penalty": 1.1, "temperature": 0.6, "top_k": 20, "top_p": 0.9}
    }"#;

    #[test]
    fn model_and_search_defaults_are_read() {
        let config = ModelConfig::from_json("genai_config.json", FILE.as_bytes()).unwrap();
        assert_eq!(config.architecture, Architecture::Mistral);
        assert_eq!((config.n_layers, config.n_heads, config.n_kv_heads, config.head_dim()), (3, 2, 1, 16));
        assert_eq!((config.hidden_size, config.vocab_size, config.max_context, config.intermediate_size), (48, 340, 256, 0));
        assert_eq!((config.bos_token_id, config.eos_token_ids), (Some(1), vec![2, 7]));
        let generation = GenerationConfig::from_json("genai_config.json", FILE.as_bytes()).unwrap();
        assert_eq!((generation.do_sample, generation.temperature, generation.top_k), (Some(true), Some(0.6), Some(20)));
        assert_eq!((generation.top_p, generation.repetition_penalty), (Some(0.9), Some(1.1)));
        assert_eq!((generation.eos_token_ids, generation.max_new_tokens), (vec![2, 7], None));
    }

    #[test]
    fn errors_name_the_fields_of_the_file() {
        let check = |from: &str, to: &str, field: &str| {
            let error = ModelConfig::from_json("genai_config.json", FILE.replace(from, to).as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with("`genai_config.json`: field `") && error.contains(field), "{error}");
        };
        check("\"num_hidden_layers\": 3", "\"num_hidden_layers\": 0", "`model.decoder.num_hidden_layers`");
        check("\"head_size\": 16", "\"head_size\": 15", "`model.decoder.head_size`");
        check("\"context_length\": 256, ", "", "`model.context_length`");
        let wrong = FILE.replace("\"temperature\": 0.6", "\"temperature\": -1");
        let error = GenerationConfig::from_json("genai_config.json", wrong.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("`search.temperature`"), "{error}");
    }
}
