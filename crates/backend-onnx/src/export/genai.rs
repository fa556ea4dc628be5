//! `genai_config.json`, with which onnxruntime-genai runs an exported directory.
//!
//! Fields as its builder writes them: `make_genai_config` in `onnxruntime_genai/models/builders/base.py`, release 0.18.

use serde_json::{Value, json};
use tandem_core::config::{GenerationConfig, ModelConfig};
use tandem_core::files::{MAX_JSON_BYTES, ModelFile, ModelFiles};
use tandem_core::template::TokenizerConfig;
use tandem_core::tokenizer::Tokenizer;
use tandem_core::{GraphOutputs, Result, TokenId};
use tandem_onnx_graph::GRAPH_FILE;

/// The file's name.
pub(super) const FILE: &str = "genai_config.json";

/// The largest published tokenizers have some 30 MB.
const MAX_TOKENIZER_BYTES: u64 = 64 << 20;

/// The file's content for the model of `files` with the configuration `config` and heads of `cached_head_dim` in the KV cache; `None` for a graph without logits, since
/// onnxruntime-genai only generates.
///
/// # Errors
/// As reading the generation configuration and the tokenizer.
pub(super) fn config(
    files: &ModelFiles,
    config: &ModelConfig,
    outputs: GraphOutputs,
    cached_head_dim: usize,
) -> Result<Option<String>> {
    if outputs == GraphOutputs::HiddenStates {
        return Ok(None);
    }
    let generation = files.generation_config.as_ref().map(GenerationConfig::from_file).transpose()?.unwrap_or_default();
    let named = NamedTokens::read(files)?;
    let end_tokens = end_tokens(config, &generation, named.end);
    let pad = config.raw().get("pad_token_id").and_then(Value::as_u64).or(named.pad.map(TokenId::into));
    let mut model = json!({
        "bos_token_id": config.bos_token_id.or(named.begin).or(end_tokens.first().copied()),
        "context_length": config.max_context,
        "decoder": decoder(config, cached_head_dim),
        "eos_token_id": match end_tokens.as_slice() {
            [one] => json!(one),
            several => json!(several),
        },
        "pad_token_id": pad.or(end_tokens.first().map(|&token| token.into())),
        "type": config.architecture.to_string(),
        "vocab_size": config.vocab_size,
    });
    // The checkpoint does not name these tokens.
    if let Some(fields) = model.as_object_mut() {
        fields.retain(|_, value| !value.is_null() && value.as_array().is_none_or(|tokens| !tokens.is_empty()));
    }
    let root = json!({ "model": model, "search": search(config, &generation) });
    Ok(Some(format!("{root:#}\n")))
}

/// The tokens that `tokenizer_config.json` names.
#[derive(Default)]
struct NamedTokens {
    begin: Option<TokenId>,
    end: Option<TokenId>,
    pad: Option<TokenId>,
}

impl NamedTokens {
    fn read(files: &ModelFiles) -> Result<Self> {
        let (Some(tokenizer), Some(config)) = (&files.tokenizer, &files.tokenizer_config) else { return Ok(Self::default()) };
        let parse = |file: &ModelFile| Tokenizer::from_json(&file.read(MAX_TOKENIZER_BYTES)?, &file.name());
        let tokenizer = parse(tokenizer)?;
        let names = TokenizerConfig::parse(&config.read(MAX_JSON_BYTES)?, &config.name())?;
        let id = |field: &str| names.tokens.get(field).and_then(|token| tokenizer.id(token));
        Ok(Self { begin: id("bos_token"), end: id("eos_token"), pad: id("pad_token") })
    }
}

fn decoder(config: &ModelConfig, cached_head_dim: usize) -> Value {
    json!({
        "session_options": { "log_id": "onnxruntime-genai", "provider_options": [] },
        "filename": GRAPH_FILE,
        "head_size": cached_head_dim,
        "hidden_size": config.hidden_size,
        "inputs": {
            "input_ids": "input_ids",
            "attention_mask": "attention_mask",
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
        "num_attention_heads": config.n_heads,
        "num_hidden_layers": config.n_layers,
        "num_key_value_heads": config.n_kv_heads,
    })
}

/// The publisher's sampling defaults; greedy where there are none.
fn search(config: &ModelConfig, generation: &GenerationConfig) -> Value {
    json!({
        "diversity_penalty": 0.0,
        "do_sample": generation.do_sample.unwrap_or(false),
        "early_stopping": true,
        "length_penalty": 1.0,
        "max_length": config.max_context,
        "min_length": 0,
        "no_repeat_ngram_size": 0,
        "num_beams": 1,
        "num_return_sequences": 1,
        // The cache is appended to in place.
        "past_present_share_buffer": true,
        "repetition_penalty": generation.repetition_penalty.unwrap_or(1.0),
        "temperature": generation.temperature.unwrap_or(1.0),
        "top_k": generation.top_k.unwrap_or(50),
        "top_p": generation.top_p.unwrap_or(1.0),
    })
}

/// The end tokens of `generation_config.json`, of `config.json` and of the tokenizer, each once: published models often leave some of
/// them out.
fn end_tokens(config: &ModelConfig, generation: &GenerationConfig, named: Option<TokenId>) -> Vec<TokenId> {
    let mut tokens: Vec<TokenId> = Vec::new();
    for token in generation.eos_token_ids.iter().chain(&config.eos_token_ids).copied().chain(named) {
        if !tokens.contains(&token) {
            tokens.push(token);
        }
    }
    tokens
}
