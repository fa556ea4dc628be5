//! What must be done for each family so that candle-transformers computes what was published.
//!
//! Read in candle-transformers 0.11.1, `models/{gemma2,gemma3,phi3}.rs`, against transformers 5.23:
//! - Gemma 2's mask has its window in all layers, one token too wide, and its decoding has none; Phi-3 has no window at all. A context
//!   that is no longer than the window needs none.
//! - Gemma 3 keeps what a window sees in a ring, which is right for one token at a time. Its mask for several is one too wide, and
//!   does not know the order of the ring: once the window is full, tokens go one by one.
//! - Gemma's scores are divided by the root of `head_dim`, not of `query_pre_attn_scalar`: weights of queries make up for it.
//! - No rope scaling is computed as published.

use candle_nn::Activation;
use candle_transformers::models::{gemma2, gemma3, phi3};
use serde_json::{Value, json};
use tandem_core::config::{Architecture, GemmaConfig, ModelConfig, RopeScaling};
use tandem_core::{Error, Result};

use super::weights::Change;

/// The longest context, since rotary tables are made for all of it at once.
const MAX_CONTEXT: usize = 32_768;
/// That of Gemma 3, which makes a table for each layer: 218 MB for the 26 of the model of 1B.
const MAX_CONTEXT_OF_GEMMA3: usize = 8192;

/// How a configuration is to be run.
pub(crate) struct Form {
    /// The most tokens for which the result is exact.
    pub(crate) max_context: usize,
    /// The width of a ring of keys and values: tokens beyond it go one by one.
    pub(crate) ring: Option<usize>,
    /// One layer in so many has no ring: the last of them.
    pattern: usize,
}

impl Form {
    /// # Errors
    /// [`Error::Unsupported`] for what cannot be run exactly; `file` is the model's name in messages.
    pub(crate) fn of(config: &ModelConfig, file: &str) -> Result<Self> {
        let refused = |what: String, reason: &str| {
            Err(Error::Unsupported {
                what: format!("{what} of `{file}` (`{}`)", config.architecture),
                reason: format!("candle-transformers, which runs this architecture, {reason}"),
                hint: Some("use a graph of this model, if one is published, with the backend `onnx`".into()),
            })
        };
        // What it is measured with only, beside decoders of our own, takes as long with any.
        if config.rope.scaling != RopeScaling::Default && !config.architecture.has_llama_form() {
            return refused("the rope scaling".into(), "computes none as it was published");
        }
        let shortest = config.layer_windows.iter().flatten().copied().min();
        let within = |limit: usize| config.max_context.min(limit).min(shortest.unwrap_or(limit));
        match config.architecture {
            Architecture::Phi3 if config.head_dim() * config.n_heads != config.hidden_size => {
                refused(format!("a `head_dim` of `{}`", config.head_dim()), "computes it from `hidden_size`")
            }
            Architecture::Phi3 => Ok(Self { max_context: within(MAX_CONTEXT), ring: None, pattern: 1 }),
            Architecture::Gemma2 | Architecture::Gemma3 if !config.tie_word_embeddings => {
                refused("a head that is not the embedding".into(), "knows none")
            }
            Architecture::Gemma2 => Ok(Self { max_context: within(MAX_CONTEXT), ring: None, pattern: 1 }),
            Architecture::Gemma3 => match pattern(&config.layer_windows) {
                Some(pattern) => {
                    let max_context = config.max_context.min(MAX_CONTEXT_OF_GEMMA3);
                    Ok(Self { max_context, ring: shortest, pattern })
                }
                None => refused("the order of layers with a window".into(), "knows one layer without a window in every so many"),
            },
            Architecture::Qwen2 | Architecture::Qwen3 | Architecture::Llama => {
                Ok(Self { max_context: config.max_context, ring: None, pattern: 1 })
            }
            _ => refused("the architecture".into(), "is not asked for it"),
        }
    }

    pub(crate) fn gemma2(&self, config: &ModelConfig) -> gemma2::Config {
        let gemma = config.gemma.as_ref();
        gemma2::Config {
            attention_bias: config.qkv_bias,
            head_dim: config.head_dim(),
            hidden_activation: Activation::GeluPytorchTanh,
            hidden_size: config.hidden_size,
            intermediate_size: config.intermediate_size,
            num_attention_heads: config.n_heads,
            num_hidden_layers: config.n_layers,
            num_key_value_heads: config.n_kv_heads,
            rms_norm_eps: config.rms_norm_eps,
            rope_theta: config.rope.theta,
            vocab_size: config.vocab_size,
            final_logit_softcapping: gemma.and_then(|gemma| gemma.logits_softcap),
            attn_logit_softcapping: gemma.and_then(|gemma| gemma.attention_softcap),
            // Read, and not used: see `change`.
            query_pre_attn_scalar: config.head_dim(),
            // The context ends where it would begin to matter.
            sliding_window: None,
            max_position_embeddings: self.max_context,
        }
    }

    pub(crate) fn gemma3(&self, config: &ModelConfig) -> gemma3::Config {
        let gemma = config.gemma.as_ref();
        gemma3::Config {
            attention_bias: config.qkv_bias,
            head_dim: config.head_dim(),
            hidden_activation: Activation::GeluPytorchTanh,
            hidden_size: config.hidden_size,
            intermediate_size: config.intermediate_size,
            num_attention_heads: config.n_heads,
            num_hidden_layers: config.n_layers,
            num_key_value_heads: config.n_kv_heads,
            rms_norm_eps: config.rms_norm_eps,
            rope_theta: config.rope.theta,
            rope_local_base_freq: gemma.and_then(|gemma| gemma.window_rope_theta).unwrap_or(config.rope.theta),
            vocab_size: config.vocab_size,
            final_logit_softcapping: gemma.and_then(|gemma| gemma.logits_softcap),
            attn_logit_softcapping: gemma.and_then(|gemma| gemma.attention_softcap),
            query_pre_attn_scalar: config.head_dim(),
            sliding_window: self.ring.unwrap_or(self.max_context),
            sliding_window_pattern: self.pattern,
            max_position_embeddings: self.max_context,
        }
    }

    pub(crate) fn phi3(&self, config: &ModelConfig) -> phi3::Config {
        phi3::Config {
            vocab_size: config.vocab_size,
            hidden_act: Activation::Silu,
            hidden_size: config.hidden_size,
            intermediate_size: config.intermediate_size,
            num_hidden_layers: config.n_layers,
            num_attention_heads: config.n_heads,
            num_key_value_heads: config.n_kv_heads,
            rms_norm_eps: config.rms_norm_eps,
            rope_theta: config.rope.theta,
            bos_token_id: None,
            eos_token_id: None,
            rope_scaling: None,
            max_position_embeddings: self.max_context,
            original_max_position_embeddings: None,
            partial_rotary_factor: None,
            tie_word_embeddings: config.tie_word_embeddings,
        }
    }
}

/// The configuration of a family whose own type is read from JSON by `parse`, with the fields that it requires and publishers leave out.
///
/// # Errors
/// [`Error::BadFile`] for one that it does not read; `file` is the model's name in messages.
pub(crate) fn read<C>(config: &ModelConfig, file: &str, parse: fn(Value) -> serde_json::Result<C>) -> Result<C> {
    let mut json = config.raw().clone();
    let defaults = json!({"max_window_layers": config.n_layers, "use_sliding_window": false, "attention_bias": config.qkv_bias});
    if let (Value::Object(fields), Value::Object(defaults)) = (&mut json, defaults) {
        for (name, value) in defaults {
            fields.entry(name).or_insert(value);
        }
        fields.insert("head_dim".into(), config.head_dim().into());
        fields.insert("rope_theta".into(), config.rope.theta.into());
        fields.insert("tie_word_embeddings".into(), config.tie_word_embeddings.into());
        // Without a window it is null, and Qwen2's must be a number.
        if fields.get("sliding_window").is_none_or(Value::is_null) {
            fields.insert("sliding_window".into(), config.max_context.into());
        }
    }
    parse(json).map_err(|error| Error::bad_file(file, "has a configuration that candle-transformers does not read", error))
}

/// Makes the scores of Gemma be divided by the root of `query_pre_attn_scalar`: candle-transformers divides them by that of `head_dim`.
pub(crate) fn change(config: &ModelConfig) -> Change {
    let factor = |gemma: &GemmaConfig| (config.head_dim() as f64 / gemma.query_scale).sqrt();
    let factor = config.gemma.as_ref().map_or(1.0, factor);
    let normed = config.qk_norm;
    Box::new(move |name, values| {
        if factor == 1.0 {
            return;
        }
        if normed && name.ends_with(".q_norm.weight") {
            // A norm multiplies by one more than its weight.
            values.iter_mut().for_each(|value| *value = ((1.0 + f64::from(*value)) * factor - 1.0) as f32);
        } else if !normed && (name.ends_with(".q_proj.weight") || name.ends_with(".q_proj.bias")) {
            values.iter_mut().for_each(|value| *value = (f64::from(*value) * factor) as f32);
        }
    })
}

/// The number of which one layer in so many has no window, the last of them.
fn pattern(windows: &[Option<usize>]) -> Option<usize> {
    (1..=windows.len() + 1)
        .find(|pattern| windows.iter().zip(1..).all(|(window, number)| window.is_some() == (number % pattern > 0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let check = |windows: &str, expected| {
            let windows: Vec<_> = windows.chars().map(|layer| (layer == 'w').then_some(8)).collect();
            assert_eq!(pattern(&windows), expected);
        };
        check("aaaa", Some(1));
        check("wawa", Some(2));
        check("wwwwwawwwwwaw", Some(6));
        check("www", Some(4));
        check("aw", None);
        check("wwaa", None);
    }
}
