//! What a checkpoint says of itself: `config.json` and `generation_config.json`, checked before anything is built from them.
//!
//! Field names, defaults and the two forms of a file (transformers 4 and 5) follow transformers 5.23,
//! `models/{qwen2,qwen3,llama,mistral,gemma2,gemma3,phi3}/configuration_*.py` and `modeling_rope_utils.py`; encoders are in `encoder`.

mod architecture;
mod encoder;
mod encoder_weights;
mod fields;
mod gemma;
mod genai;
mod generation;
mod parse;
mod rope;
mod size;
mod weights;
mod windows;

use serde_json::Value;

pub use self::architecture::Architecture;
pub use self::encoder::{Activation, EncoderConfig, MAX_RELATIVE_DISTANCE};
pub use self::encoder_weights::{EncoderLayerNames, EncoderNames};
pub(crate) use self::fields::{Fields, parse_object};
pub use self::gemma::GemmaConfig;
pub use self::generation::GenerationConfig;
use self::parse::Describes;
pub use self::rope::{Llama3Rope, RopeConfig, RopeScaling, YarnRope};
pub use self::weights::{ExpectedWeight, WeightRole};
use crate::error::Result;
use crate::primitives::{DType, TokenId};

/// A model's shape, from `config.json`. Every number is within bounds that make arithmetic with them safe.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// The family, which decides names of weights and the form of a layer.
    pub architecture: Architecture,
    /// Rows of the embedding and of the logits.
    pub vocab_size: usize,
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Width inside the feed-forward block; 0 where only a `genai_config.json` describes the model, which leaves it to the graph.
    pub intermediate_size: usize,
    /// Layers.
    pub n_layers: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// The most tokens that the model was made for (`max_position_embeddings`, less the rows of learned positions that no token has).
    pub max_context: usize,
    /// The epsilon of every norm.
    pub norm_eps: f64,
    /// The head is the embedding: there is no `lm_head.weight`.
    pub tie_word_embeddings: bool,
    /// The query, key and value projections have a bias.
    pub qkv_bias: bool,
    /// The projection out of attention has a bias.
    pub attention_output_bias: bool,
    /// The three projections of the feed-forward block have a bias.
    pub mlp_bias: bool,
    /// Queries and keys pass an RMS norm of `head_dim` weights before rotation.
    pub qk_norm: bool,
    /// Rotary position embedding.
    pub rope: RopeConfig,
    /// What Gemma 2 and 3 have beyond the others.
    pub gemma: Option<GemmaConfig>,
    /// A token sees those before it only. Without that a model encodes and generates no text: encoders, and decoders that were trained
    /// further for embeddings.
    pub is_causal: bool,
    /// The form of an encoder; `None` for decoders.
    pub encoder: Option<EncoderConfig>,
    /// How many tokens back each layer sees, itself included, and as many forward where it is not causal; `None` sees all. One entry a
    /// layer.
    pub layer_windows: Vec<Option<usize>>,
    /// The token that begins a text.
    pub bos_token_id: Option<TokenId>,
    /// The tokens that end one; `generation_config.json` may name more.
    pub eos_token_ids: Vec<TokenId>,
    /// The dtype that the weights were published in; `None` when absent or none of ours. The weights' own headers decide.
    pub dtype: Option<DType>,
    head_dim: usize,
    raw: Value,
}

impl ModelConfig {
    /// Checks the content of a `config.json`, or of a `genai_config.json`, which says as much as a graph needs; `file` is its name in messages.
    ///
    /// # Errors
    /// [`Error::BadFile`](crate::Error::BadFile) when it is not a JSON object, [`Error::BadField`](crate::Error::BadField) for a value
    /// that cannot be, [`Error::Unsupported`](crate::Error::Unsupported) for an architecture, activation or rotary embedding that is
    /// none of those known.
    pub fn from_json(file: &str, json: &[u8]) -> Result<Self> {
        let object = parse_object(file, json)?;
        match genai::config(&object) {
            Some(fields) => parse::model_config(file, fields, Describes::Graph).map_err(genai::restore_field),
            None => parse::model_config(file, object, Describes::Weights),
        }
    }

    /// The width of one attention head; even.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// The whole file, for fields that are not here.
    pub fn raw(&self) -> &Value {
        &self.raw
    }

    /// The method that the weights are quantised by (`quantization_config.quant_method`, such as `gptq`), when they are.
    pub fn quantization_method(&self) -> Option<&str> {
        let quantization = self.raw.get("quantization_config").filter(|value| !value.is_null())?;
        Some(quantization.get("quant_method").and_then(Value::as_str).unwrap_or("unnamed"))
    }
}
