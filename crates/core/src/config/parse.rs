//! From the fields of `config.json` to a [`ModelConfig`], with the bounds that each number must keep.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::encoder::encoder_config;
use super::windows::layer_windows;
use super::{Architecture, Fields, GemmaConfig, ModelConfig, RopeConfig, RopeScaling};
use crate::error::{Error, Result};
use crate::primitives::{DType, TokenId};

// Far above every published model, and low enough that products of them fit 64 bits.
pub(super) const VOCAB: RangeInclusive<usize> = 1..=1 << 24;
pub(super) const WIDTH: RangeInclusive<usize> = 1..=1 << 20;
pub(super) const INNER_WIDTH: RangeInclusive<usize> = 1..=1 << 24;
pub(super) const LAYERS: RangeInclusive<usize> = 1..=1 << 12;
pub(super) const HEADS: RangeInclusive<usize> = 1..=1 << 16;
pub(super) const HEAD_DIM: RangeInclusive<usize> = 2..=1 << 12;
pub(super) const CONTEXT: RangeInclusive<usize> = 1..=1 << 30;

/// Attention's shape, whose fields depend on one another.
struct Heads {
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
}

/// What a file describes a model for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Describes {
    /// For its weights, so every size is needed.
    Weights,
    /// For a graph, which knows the sizes within its layers.
    Graph,
}

pub(super) fn model_config(file: &str, object: Map<String, Value>, describes: Describes) -> Result<ModelConfig> {
    let fields = Fields::root(file, &object);
    let architecture = Architecture::from_fields(&fields)?;
    if architecture.is_encoder() {
        return encoder_config(file, object, architecture);
    }
    check_form(&fields, architecture)?;
    let hidden_size = fields.required("hidden_size", WIDTH)?;
    let n_layers = fields.required("num_hidden_layers", LAYERS)?;
    let heads = heads(&fields, architecture, hidden_size)?;
    let max_context = fields.required("max_position_embeddings", CONTEXT)?;
    let attention_bias = fields.boolean("attention_bias")?.unwrap_or(false);
    let has_optional_bias =
        matches!(architecture, Architecture::Llama | Architecture::Qwen3 | Architecture::Gemma2 | Architecture::Gemma3);
    let (bos, eos) = default_tokens(architecture);
    let is_causal = is_causal(&fields, architecture)?;
    let config = ModelConfig {
        architecture,
        vocab_size: fields.required("vocab_size", VOCAB)?,
        hidden_size,
        intermediate_size: match describes {
            Describes::Weights => fields.required("intermediate_size", INNER_WIDTH)?,
            Describes::Graph => 0,
        },
        n_layers,
        n_heads: heads.n_heads,
        n_kv_heads: heads.n_kv_heads,
        max_context,
        norm_eps: rms_norm_eps(&fields, architecture)?,
        tie_word_embeddings: fields.boolean("tie_word_embeddings")?.unwrap_or(is_gemma(architecture)),
        qkv_bias: architecture == Architecture::Qwen2 || (has_optional_bias && attention_bias),
        attention_output_bias: has_optional_bias && attention_bias,
        mlp_bias: architecture == Architecture::Llama && fields.boolean("mlp_bias")?.unwrap_or(false),
        qk_norm: matches!(architecture, Architecture::Qwen3 | Architecture::Gemma3),
        rope: rope(&fields, architecture, max_context, heads.head_dim)?,
        gemma: GemmaConfig::from_fields(&fields, architecture)?,
        is_causal,
        encoder: None,
        layer_windows: layer_windows(&fields, architecture, n_layers, is_causal)?,
        bos_token_id: if fields.is_null("bos_token_id") { None } else { fields.token("bos_token_id")?.or(bos) },
        eos_token_ids: match fields.tokens("eos_token_id")? {
            ids if ids.is_empty() && fields.get("eos_token_id").is_none() && !fields.is_null("eos_token_id") => eos,
            ids => ids,
        },
        dtype: dtype(&fields)?,
        head_dim: heads.head_dim,
        raw: Value::Null,
    };
    Ok(ModelConfig { raw: Value::Object(object), ..config })
}

/// What every decoder of an architecture has in common.
fn check_form(fields: &Fields<'_>, architecture: Architecture) -> Result<()> {
    let (field, known) = match is_gemma(architecture) {
        // Beside it there may be a `hidden_act`, which transformers ignores.
        true => ("hidden_activation", ["gelu_pytorch_tanh"].as_slice()),
        // `swish` is transformers' other name for `silu`.
        false => ("hidden_act", ["silu", "swish"].as_slice()),
    };
    let activation = fields.string(field)?.unwrap_or(known[0]);
    if !known.contains(&activation) {
        return Err(Error::Unsupported {
            what: format!("the activation `{activation}` (`{field}`) of `{}`", fields.file()),
            reason: format!("decoders of the architecture `{architecture}` are known with `{}`", known[0]),
            hint: None,
        });
    }
    if fields.boolean("is_encoder_decoder")?.unwrap_or(false) {
        return Err(Error::Unsupported {
            what: format!("the encoder-decoder model of `{}`", fields.file()),
            reason: "only models that are a decoder are supported".into(),
            hint: None,
        });
    }
    Ok(())
}

fn heads(fields: &Fields<'_>, architecture: Architecture, hidden_size: usize) -> Result<Heads> {
    let n_heads = fields.required("num_attention_heads", HEADS)?;
    // `null` is as many as there are queries; an absent field is the default of the class in transformers.
    let default_kv_heads = match architecture {
        _ if fields.is_null("num_key_value_heads") => n_heads,
        Architecture::Gemma2 | Architecture::Gemma3 => 4,
        Architecture::Mistral => 8,
        Architecture::Qwen2 | Architecture::Qwen3 => 32,
        _ => n_heads,
    };
    let n_kv_heads = fields.integer("num_key_value_heads", HEADS)?.unwrap_or(default_kv_heads);
    if !n_heads.is_multiple_of(n_kv_heads) {
        let problem = format!("is `{n_kv_heads}`, which does not divide `num_attention_heads` of `{n_heads}`");
        return Err(fields.error("num_key_value_heads", problem));
    }
    let given = match architecture {
        Architecture::Qwen3 if !fields.is_null("head_dim") => Some(fields.integer("head_dim", HEAD_DIM)?.unwrap_or(128)),
        Architecture::Gemma2 | Architecture::Gemma3 => Some(fields.integer("head_dim", HEAD_DIM)?.unwrap_or(256)),
        _ => fields.integer("head_dim", HEAD_DIM)?,
    };
    if given.is_none() && !hidden_size.is_multiple_of(n_heads) {
        let problem =
            format!("is `{hidden_size}`, no multiple of `num_attention_heads` of `{n_heads}`, and `head_dim` is absent");
        return Err(fields.error("hidden_size", problem));
    }
    let head_dim = given.unwrap_or(hidden_size / n_heads);
    if !HEAD_DIM.contains(&head_dim) || !head_dim.is_multiple_of(2) {
        let problem = format!("is `{head_dim}`, and must be even and within {} to {}", HEAD_DIM.start(), HEAD_DIM.end());
        return Err(fields.error("head_dim", problem));
    }
    Ok(Heads { n_heads, n_kv_heads, head_dim })
}

fn rope(fields: &Fields<'_>, architecture: Architecture, max_context: usize, head_dim: usize) -> Result<RopeConfig> {
    let rope = RopeConfig::from_fields(fields, architecture, max_context)?;
    match &rope.scaling {
        RopeScaling::Factors(factors) if factors.len() != head_dim / 2 => {
            Err(fields.error("rope_scaling.factors", format!("has {} entries for heads of {head_dim}", factors.len())))
        }
        _ => Ok(rope),
    }
}

/// Embedding models made of decoders say that they are not: gte-Qwen2 by `is_causal`, EmbeddingGemma by its own field.
fn is_causal(fields: &Fields<'_>, architecture: Architecture) -> Result<bool> {
    let is_bidirectional = is_gemma(architecture) && fields.boolean("use_bidirectional_attention")?.unwrap_or(false);
    Ok(fields.boolean("is_causal")?.unwrap_or(true) && !is_bidirectional)
}

fn is_gemma(architecture: Architecture) -> bool {
    matches!(architecture, Architecture::Gemma2 | Architecture::Gemma3)
}

fn rms_norm_eps(fields: &Fields<'_>, architecture: Architecture) -> Result<f64> {
    let default = if architecture == Architecture::Phi3 { 1e-5 } else { 1e-6 };
    let eps = fields.number("rms_norm_eps", 0.0..=0.1)?.unwrap_or(default);
    // Norms are computed in f32: what is zero there divides by zero.
    if eps as f32 > 0.0 { Ok(eps) } else { Err(fields.error("rms_norm_eps", format!("is `{eps:?}`, and must exceed 0"))) }
}

/// The ids that an absent field stands for.
fn default_tokens(architecture: Architecture) -> (Option<TokenId>, Vec<TokenId>) {
    match architecture {
        Architecture::Llama | Architecture::Mistral => (Some(1), vec![2]),
        Architecture::Gemma2 | Architecture::Gemma3 => (Some(2), vec![1]),
        Architecture::Phi3 => (Some(1), vec![32_000]),
        _ => (None, Vec::new()),
    }
}

pub(super) fn dtype(fields: &Fields<'_>) -> Result<Option<DType>> {
    let name = match fields.string("dtype")? {
        Some(name) => Some(name),
        None => fields.string("torch_dtype")?,
    };
    Ok(match name.map(|name| name.trim_start_matches("torch.")) {
        Some("float32") => Some(DType::F32),
        Some("float16") => Some(DType::F16),
        Some("bfloat16") => Some(DType::Bf16),
        _ => None,
    })
}
