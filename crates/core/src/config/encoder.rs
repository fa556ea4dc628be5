//! What encoders have that decoders have not: BERT and its descendants.
//!
//! Defaults follow transformers 5.23, `models/{bert,roberta,xlm_roberta,camembert,mpnet,distilbert,modernbert}/configuration_*.py`.

use serde_json::{Map, Value};

use super::parse::{CONTEXT, HEAD_DIM, HEADS, INNER_WIDTH, LAYERS, VOCAB, WIDTH, dtype};
use super::rope::theta;
use super::windows::layer_types;
use super::{Architecture, Fields, ModelConfig, RopeConfig, RopeScaling};
use crate::error::{Error, Result};

/// The form of an encoder, where it differs from a decoder's.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderConfig {
    /// Rows of the table of learned positions that come before the first token's; `None` where positions are rotary. Token `i` of a
    /// sequence has row `first_position + i`, and the table has `first_position + max_context` rows.
    pub first_position: Option<usize>,
    /// Rows of the table of token types, of which tokens of a single text have the first; 0 where there is none.
    pub n_token_types: usize,
    /// Buckets of the distances between tokens whose bias all layers add to their scores (`relative_attention_num_buckets`): MPNet's.
    pub relative_buckets: Option<usize>,
    /// The activation of the feed-forward block.
    pub activation: Activation,
    /// The feed-forward block is `down(activation(a) * b)`, of two halves `a` and `b` of one projection: ModernBERT's.
    pub is_gated: bool,
    /// Norms stand before attention and the feed-forward block, and one at the end; elsewhere each follows the sum with its residual.
    pub norm_first: bool,
    /// Norms have a bias.
    pub norm_bias: bool,
    /// The base of the rotary angles in layers with a window; the other layers have that of `rope`.
    pub window_rope_theta: Option<f64>,
}

/// An activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x/2 * (1 + erf(x / √2))`. Hendrycks and Gimpel, <https://arxiv.org/abs/1606.08415>.
    Gelu,
    /// The approximation of it by a hyperbolic tangent.
    GeluTanh,
    /// `max(x, 0)`
    Relu,
    /// `x / (1 + exp(-x))`
    Silu,
}

/// Distances at which MPNet's buckets end.
pub const MAX_RELATIVE_DISTANCE: usize = 128;

/// How a family's configuration calls what all have.
struct FieldNames {
    hidden_size: &'static str,
    intermediate_size: &'static str,
    n_layers: &'static str,
    n_heads: &'static str,
    activation: &'static str,
}

const USUAL: FieldNames = FieldNames {
    hidden_size: "hidden_size",
    intermediate_size: "intermediate_size",
    n_layers: "num_hidden_layers",
    n_heads: "num_attention_heads",
    activation: "hidden_act",
};
const MODERNBERT: FieldNames = FieldNames { activation: "hidden_activation", ..USUAL };
const DISTILBERT: FieldNames = FieldNames {
    hidden_size: "dim",
    intermediate_size: "hidden_dim",
    n_layers: "n_layers",
    n_heads: "n_heads",
    activation: "activation",
};

/// The bases of ModernBERT's rotary angles where a file names none: without a window, and with one.
const MODERNBERT_THETAS: [f64; 2] = [160_000.0, 10_000.0];

impl Activation {
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name {
            "gelu" => Some(Self::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" => Some(Self::GeluTanh),
            "relu" => Some(Self::Relu),
            "silu" | "swish" => Some(Self::Silu),
            _ => None,
        }
    }
}

/// The configuration of an encoder from its `config.json`.
pub(super) fn encoder_config(file: &str, object: Map<String, Value>, architecture: Architecture) -> Result<ModelConfig> {
    let fields = Fields::root(file, &object);
    refuse_other_forms(&fields, architecture)?;
    let names = match architecture {
        Architecture::DistilBert => DISTILBERT,
        Architecture::ModernBert => MODERNBERT,
        _ => USUAL,
    };
    let is_modern = architecture == Architecture::ModernBert;
    let hidden_size = fields.required(names.hidden_size, WIDTH)?;
    let n_heads = fields.required(names.n_heads, HEADS)?;
    let n_layers = fields.required(names.n_layers, LAYERS)?;
    let head_dim = head_dim(&fields, &names, hidden_size, n_heads, is_modern)?;
    let first_position = first_position(&fields, architecture)?;
    let rows = fields.required("max_position_embeddings", CONTEXT)?;
    let Some(max_context) = rows.checked_sub(first_position.unwrap_or(0)).filter(|rows| *rows > 0) else {
        let problem = format!("is `{rows}`, and the first {} rows are of no token", first_position.unwrap_or(0));
        return Err(fields.error("max_position_embeddings", problem));
    };
    let bias = |field, default| fields.boolean(field).map(|given| if is_modern { given.unwrap_or(default) } else { true });
    let [theta, window_theta] = if is_modern { rotary_thetas(&fields)? } else { MODERNBERT_THETAS };
    let attention_bias = bias("attention_bias", false)?;
    let config = ModelConfig {
        architecture,
        vocab_size: fields.required("vocab_size", VOCAB)?,
        hidden_size,
        intermediate_size: fields.required(names.intermediate_size, INNER_WIDTH)?,
        n_layers,
        n_heads,
        n_kv_heads: n_heads,
        max_context,
        norm_eps: norm_eps(&fields, architecture)?,
        tie_word_embeddings: true,
        qkv_bias: attention_bias,
        attention_output_bias: attention_bias,
        mlp_bias: bias("mlp_bias", false)?,
        qk_norm: false,
        rope: RopeConfig { theta, scaling: RopeScaling::Default },
        gemma: None,
        is_causal: false,
        encoder: Some(EncoderConfig {
            first_position,
            n_token_types: n_token_types(&fields, architecture)?,
            relative_buckets: match architecture {
                Architecture::Mpnet => Some(fields.integer("relative_attention_num_buckets", 4..=1 << 16)?.unwrap_or(32)),
                _ => None,
            },
            activation: activation(&fields, names.activation)?,
            is_gated: is_modern,
            norm_first: is_modern,
            norm_bias: bias("norm_bias", false)?,
            window_rope_theta: is_modern.then_some(window_theta),
        }),
        layer_windows: if is_modern { windows(&fields, n_layers)? } else { vec![None; n_layers] },
        bos_token_id: None,
        eos_token_ids: Vec::new(),
        dtype: dtype(&fields)?,
        head_dim,
        raw: Value::Null,
    };
    Ok(ModelConfig { raw: Value::Object(object), ..config })
}

/// What would be computed wrongly without a word.
fn refuse_other_forms(fields: &Fields<'_>, architecture: Architecture) -> Result<()> {
    let unsupported = |what: String, reason: &str| {
        Err(Error::Unsupported { what: format!("{what} of `{}`", fields.file()), reason: reason.into(), hint: None })
    };
    if let Some(code) = fields.object("auto_map")?.and_then(|map| map.get("AutoModel").cloned()) {
        let name = code.as_str().unwrap_or("AutoModel").to_owned();
        return unsupported(
            format!("the code `{name}` (`auto_map`)"),
            "such a model computes with Python code from its repository, which is not run here",
        );
    }
    match fields.string("position_embedding_type")? {
        None | Some("absolute") => {}
        Some(other) => return unsupported(format!("the position embedding `{other}`"), "only `absolute` is known"),
    }
    for flag in ["is_decoder", "add_cross_attention", "is_encoder_decoder"] {
        if fields.boolean(flag)?.unwrap_or(false) {
            return Err(
                fields.error(flag, format!("is `true`: a model of the architecture `{architecture}` is known as an encoder"))
            );
        }
    }
    Ok(())
}

fn head_dim(fields: &Fields<'_>, names: &FieldNames, hidden_size: usize, n_heads: usize, is_rotary: bool) -> Result<usize> {
    if !hidden_size.is_multiple_of(n_heads) {
        let problem = format!("is `{hidden_size}`, which is not a multiple of `{}` of `{n_heads}`", names.n_heads);
        return Err(fields.error(names.hidden_size, problem));
    }
    let head_dim = hidden_size / n_heads;
    if HEAD_DIM.contains(&head_dim) && (head_dim.is_multiple_of(2) || !is_rotary) {
        return Ok(head_dim);
    }
    Err(fields.error(names.n_heads, format!("makes heads of `{head_dim}`; they must be even and within 2 to {}", HEAD_DIM.end())))
}

/// By the architecture, never by the tokenizer: multilingual-e5-small is a `bert` with the tokenizer of XLM-R.
fn first_position(fields: &Fields<'_>, architecture: Architecture) -> Result<Option<usize>> {
    match architecture {
        Architecture::ModernBert => Ok(None),
        // It counts from behind its own padding row, whatever the file says.
        Architecture::Mpnet => Ok(Some(2)),
        Architecture::Roberta | Architecture::XlmRoberta | Architecture::Camembert => {
            Ok(Some(fields.integer("pad_token_id", 0..=*VOCAB.end())?.unwrap_or(1) + 1))
        }
        _ => Ok(Some(0)),
    }
}

fn n_token_types(fields: &Fields<'_>, architecture: Architecture) -> Result<usize> {
    match architecture {
        Architecture::Mpnet | Architecture::DistilBert | Architecture::ModernBert => Ok(0),
        _ => Ok(fields.integer("type_vocab_size", 1..=1 << 16)?.unwrap_or(2)),
    }
}

fn activation(fields: &Fields<'_>, field: &str) -> Result<Activation> {
    let name = fields.string(field)?.unwrap_or("gelu");
    Activation::named(name).ok_or_else(|| Error::Unsupported {
        what: format!("the activation `{name}` (`{field}`) of `{}`", fields.file()),
        reason: "encoders are known with `gelu`, `gelu_new`, `gelu_pytorch_tanh`, `relu` and `silu`".into(),
        hint: None,
    })
}

fn norm_eps(fields: &Fields<'_>, architecture: Architecture) -> Result<f64> {
    let (field, default) = match architecture {
        // Its class has the number in its code.
        Architecture::DistilBert => return Ok(1e-12),
        Architecture::ModernBert => ("norm_eps", 1e-5),
        _ => ("layer_norm_eps", 1e-12),
    };
    let eps = fields.number(field, 0.0..=0.1)?.unwrap_or(default);
    if eps as f32 > 0.0 { Ok(eps) } else { Err(fields.error(field, format!("is `{eps:?}`, and must exceed 0"))) }
}

/// In `rope_parameters` (transformers 5) or in fields of their own (4): that of layers which see all, and that of layers with a window.
fn rotary_thetas(fields: &Fields<'_>) -> Result<[f64; 2]> {
    let parameters = fields.object("rope_parameters")?;
    let of = |kind: &str, field: &str, default: f64| -> Result<f64> {
        let own = match &parameters {
            Some(parameters) => parameters.object(kind)?,
            None => None,
        };
        if let Some(own) = own {
            match own.string("rope_type")? {
                None | Some("default") => {}
                Some(other) => return Err(own.error("rope_type", format!("is `{other}`; encoders are known with `default`"))),
            }
            if let Some(theta) = theta(&own, "rope_theta")? {
                return Ok(theta);
            }
        }
        Ok(theta(fields, field)?.unwrap_or(default))
    };
    Ok([
        of("full_attention", "global_rope_theta", MODERNBERT_THETAS[0])?,
        of("sliding_attention", "local_rope_theta", MODERNBERT_THETAS[1])?,
    ])
}

/// A window of `local_attention` tokens: half of them before each token, half behind.
fn windows(fields: &Fields<'_>, n_layers: usize) -> Result<Vec<Option<usize>>> {
    let window = fields.integer("local_attention", CONTEXT)?.unwrap_or(128) / 2 + 1;
    let windowed = match layer_types(fields, n_layers)? {
        Some(windowed) => windowed,
        None => {
            let every = fields.integer("global_attn_every_n_layers", 1..=*LAYERS.end())?.unwrap_or(3);
            (0..n_layers).map(|layer| !layer.is_multiple_of(every)).collect()
        }
    };
    Ok(windowed.into_iter().map(|windowed| windowed.then_some(window)).collect())
}
