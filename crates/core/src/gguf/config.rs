//! From the metadata to a `config.json`, which is then checked like any other.
//!
//! The keys: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>, and `conversion/base.py` of llama.cpp, which writes them.

use serde_json::{Map, Value as Json, json};

use super::names::{EMBEDDING, ROPE_FACTORS};
use super::{Gguf, TensorType};
use crate::config::ModelConfig;
use crate::error::{Error, Result};

/// The architectures that are read. Mistral's files call themselves `llama`.
const ARCHITECTURES: [&str; 3] = ["qwen2", "qwen3", "llama"];

/// Fields of `config.json` and the keys that they come from, below the name of the architecture.
const KEYS: [(&str, &str); 11] = [
    ("hidden_size", "embedding_length"),
    ("intermediate_size", "feed_forward_length"),
    ("num_hidden_layers", "block_count"),
    ("num_attention_heads", "attention.head_count"),
    ("num_key_value_heads", "attention.head_count_kv"),
    ("head_dim", "attention.key_length"),
    ("max_position_embeddings", "context_length"),
    ("rms_norm_eps", "attention.layer_norm_rms_epsilon"),
    ("rope_theta", "rope.freq_base"),
    ("sliding_window", "attention.sliding_window"),
    ("original_max_position_embeddings", "rope.scaling.original_context_length"),
];

impl Gguf {
    /// The name of the architecture, `general.architecture`.
    ///
    /// # Errors
    /// [`Error::BadField`] when the file names none.
    pub fn architecture(&self) -> Result<&str> {
        const KEY: &str = "general.architecture";
        self.string(KEY)?.ok_or_else(|| self.missing(KEY))
    }

    /// The form of the decoder.
    ///
    /// # Errors
    /// [`Error::BadField`] with the key that cannot be, [`Error::Unsupported`] for an architecture that is none of those read.
    pub fn config(&self) -> Result<ModelConfig> {
        let json = self.config_json()?;
        ModelConfig::from_json(self.file(), json.to_string().as_bytes()).map_err(|error| self.in_words_of_the_file(error))
    }

    /// The `config.json` that says the same.
    pub(super) fn config_json(&self) -> Result<Json> {
        let architecture = self.architecture()?;
        if !ARCHITECTURES.contains(&architecture) {
            return Err(Error::Unsupported {
                what: format!("the architecture `{}` of `{}`", super::reader::shown(architecture.as_bytes()), self.file()),
                reason: "it cannot be read from GGUF".into(),
                hint: Some(format!("known: {}", ARCHITECTURES.map(|known| format!("`{known}`")).join(", ")).into()),
            });
        }
        self.refuse_other_forms()?;
        let mut config = Map::new();
        let window = self.integer(&self.key("attention.sliding_window")).map(|window| window.filter(|n| *n > 0))?;
        config.insert(
            "model_type".into(),
            if window.is_some() && architecture == "llama" { "mistral" } else { architecture }.into(),
        );
        config.insert("sliding_window".into(), json!(window));
        // A file of Qwen's has the key only where the window is in use.
        config.insert("use_sliding_window".into(), window.is_some().into());
        config.insert("max_window_layers".into(), 0.into());
        config.insert("vocab_size".into(), self.tensor(EMBEDDING)?.shape[0].into());
        for field in ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings"] {
            config.insert(field.into(), self.required(field)?);
        }
        let heads = self.integer(&self.key_of("num_attention_heads"))?;
        let keys = self.integer(&self.key_of("num_key_value_heads"))?.or(heads);
        config.insert("num_key_value_heads".into(), json!(keys));
        config.insert("head_dim".into(), json!(self.head_dim()?));
        let eps = self.key_of("rms_norm_eps");
        config.insert("rms_norm_eps".into(), json!(self.number(&eps)?.ok_or_else(|| self.missing(&eps))?));
        config.insert("rope_theta".into(), json!(self.number(&self.key_of("rope_theta"))?.unwrap_or(10_000.0)));
        config.insert("rope_scaling".into(), self.rope_scaling()?);
        config.insert("tie_word_embeddings".into(), (!self.contains(super::names::HEAD)).into());
        config.insert("attention_bias".into(), self.contains("blk.0.attn_q.bias").into());
        config.insert("mlp_bias".into(), self.contains("blk.0.ffn_gate.bias").into());
        config.insert("bos_token_id".into(), json!(self.integer("tokenizer.ggml.bos_token_id")?));
        config.insert("eos_token_id".into(), json!(self.end_tokens()?));
        Ok(config.into())
    }

    /// How the hidden states become a vector, which an embedding model says: the name of a [`Pool`](crate::embedding::Pool) for what
    /// llama.cpp's `llama.h` calls `llama_pooling_type`. `None` where the file does not say, or that they do not.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a reranker, [`Error::BadField`] for a number that is none of those.
    pub fn pooling(&self) -> Result<Option<&'static str>> {
        let key = self.pooling_key();
        match self.integer(&key)? {
            None | Some(0) => Ok(None),
            Some(1) => Ok(Some("mean")),
            Some(2) => Ok(Some("cls")),
            Some(3) => Ok(Some("lasttoken")),
            Some(4) => Err(Error::Unsupported {
                what: format!("the reranker `{}` (`{key}` is 4)", self.file()),
                reason: "scores of pairs are not read from GGUF".into(),
                hint: Some("use the checkpoint that it was converted from".into()),
            }),
            Some(other) => Err(self.bad(&key, format!("is {other}; known: 0 to 4"))),
        }
    }

    /// The key that says it.
    pub(crate) fn pooling_key(&self) -> String {
        self.key("pooling_type")
    }

    /// The width of a head. Heads that are turned in part, or whose values are of another width, are not known.
    fn head_dim(&self) -> Result<Option<u64>> {
        let given = self.integer(&self.key("attention.key_length"))?;
        let sizes = [self.integer(&self.key_of("hidden_size"))?, self.integer(&self.key_of("num_attention_heads"))?];
        let head_dim = given.or(match sizes {
            [Some(hidden), Some(heads)] if heads > 0 && hidden.is_multiple_of(heads) => Some(hidden / heads),
            _ => None,
        });
        for other in ["attention.value_length", "rope.dimension_count"] {
            let key = self.key(other);
            if let (Some(n), Some(head_dim)) = (self.integer(&key)?, head_dim)
                && n != head_dim
            {
                return Err(self.bad(&key, format!("is {n} for heads of {head_dim}, and heads of two widths are not known")));
            }
        }
        Ok(head_dim)
    }

    /// `rope_scaling`, or null. llama.cpp's converter writes YaRN's parameters as `config.json` has them, and Llama 3's scaling as a
    /// tensor of factors.
    fn rope_scaling(&self) -> Result<Json> {
        if let Some(factors) = self.rope_factors()? {
            return Ok(json!({"rope_type": "factors", "factors": factors}));
        }
        let of = |name: &str| self.number(&self.key(name));
        let kind = self.key("rope.scaling.type");
        let factor = match of("rope.scaling.factor")? {
            // The key of older files.
            None => of("rope.scale_linear")?,
            given => given,
        };
        match self.string(&kind)? {
            None | Some("none") if factor.is_none_or(|factor| factor == 1.0 || factor == 0.0) => Ok(Json::Null),
            None | Some("linear") => Ok(json!({"rope_type": "linear", "factor": factor})),
            Some("yarn") => self.yarn(factor),
            Some(other) => {
                Err(self.bad(&kind, format!("is `{}`; known: `none`, `linear`, `yarn`", super::reader::shown(other.as_bytes()))))
            }
        }
    }

    fn yarn(&self, factor: Option<f64>) -> Result<Json> {
        let of = |name: &str| self.number(&self.key(&format!("rope.scaling.{name}")));
        for (name, neutral) in [("yarn_ext_factor", 1.0), ("yarn_log_multiplier", 0.0), ("attn_factor", 1.0)] {
            if of(name)?.is_some_and(|given| given != neutral) {
                let key = self.key(&format!("rope.scaling.{name}"));
                return Err(self.bad(&key, format!("is not {neutral}, and other forms of YaRN are not known")));
            }
        }
        let original = self.integer(&self.key_of("original_max_position_embeddings"))?;
        let mut yarn = Map::new();
        yarn.insert("rope_type".into(), "yarn".into());
        yarn.insert("original_max_position_embeddings".into(), json!(original));
        for (field, number) in [
            ("factor", factor),
            ("attention_factor", of("yarn_attn_factor")?),
            ("beta_fast", of("yarn_beta_fast")?),
            ("beta_slow", of("yarn_beta_slow")?),
        ] {
            if let Some(number) = number {
                yarn.insert(field.into(), number.into());
            }
        }
        Ok(yarn.into())
    }

    /// The numbers of the tensor of factors, if there is one.
    fn rope_factors(&self) -> Result<Option<Vec<f32>>> {
        if !self.contains(ROPE_FACTORS) {
            return Ok(None);
        }
        let tensor = self.tensor(ROPE_FACTORS)?;
        let wanted = self.head_dim()?.map(|head_dim| head_dim / 2);
        if tensor.kind != TensorType::F32 || tensor.shape.len() != 1 || wanted != Some(tensor.shape[0] as u64) {
            let problem = format!(
                "the tensor is {:?} of {}, not {wanted:?} of F32, one for each pair of a head",
                tensor.shape, tensor.kind
            );
            return Err(self.bad(ROPE_FACTORS, problem));
        }
        Ok(Some(tensor.bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()))
    }

    fn refuse_other_forms(&self) -> Result<()> {
        let unsupported = |what: &str| Error::Unsupported {
            what: format!("{what} of `{}`", self.file()),
            reason: "only decoders with one feed-forward block in each layer are read".into(),
            hint: None,
        };
        if self.integer(&self.key("expert_count"))?.is_some_and(|n| n > 0) {
            return Err(unsupported("the mixture of experts"));
        }
        if self.boolean(&self.key("attention.causal"))? == Some(false) {
            return Err(unsupported("the encoder"));
        }
        Ok(())
    }

    /// The number that `field` needs.
    fn required(&self, field: &str) -> Result<Json> {
        let key = self.key_of(field);
        Ok(self.integer(&key)?.ok_or_else(|| self.missing(&key))?.into())
    }

    /// The key that `field` comes from.
    fn key_of(&self, field: &str) -> String {
        let name = KEYS.iter().find(|(known, _)| *known == field).map_or(field, |(_, name)| name);
        self.key(name)
    }

    /// A key of the architecture.
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture().unwrap_or_default())
    }

    /// The error with the key in the place of the field that was made of it.
    fn in_words_of_the_file(&self, error: Error) -> Error {
        match error {
            Error::BadField { file, field, problem, hint } => {
                let last = field.rsplit('.').next().unwrap_or_default();
                let field = match KEYS.iter().find(|(known, _)| *known == last) {
                    Some((_, name)) => self.key(name),
                    None if last == "vocab_size" => EMBEDDING.into(),
                    None => match field.strip_prefix("rope_scaling.") {
                        Some("factors") => ROPE_FACTORS.into(),
                        Some(rest) => self.key(&format!("rope.scaling.{rest}")),
                        None => field,
                    },
                };
                Error::BadField { file, field, problem, hint }
            }
            other => other,
        }
    }
}
