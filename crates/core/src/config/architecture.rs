//! The families of decoders that are known, and how a configuration names them.

use std::fmt;

use serde_json::Value;

use super::Fields;
use crate::error::{Error, Result};

/// A family of decoders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Architecture {
    /// Qwen2, Qwen2.5, Qwen2.5-Coder: biases on query, key and value.
    Qwen2,
    /// Qwen3: no biases, norms on query and key.
    Qwen3,
    /// Llama 1 to 3, and the many checkpoints that use its form.
    Llama,
    /// Mistral: Llama with a sliding window.
    Mistral,
}

/// `model_type` of models that only encode.
const ENCODERS: [&str; 15] = [
    "albert",
    "bert",
    "camembert",
    "deberta",
    "deberta-v2",
    "distilbert",
    "electra",
    "gte",
    "modernbert",
    "mpnet",
    "new",
    "nomic_bert",
    "roberta",
    "xlm-roberta",
    "xlm-roberta-xl",
];

/// What the names of classes in `architectures` end with.
const CLASS_SUFFIXES: [&str; 2] = ["ForCausalLM", "Model"];

impl Architecture {
    /// Every architecture.
    pub const ALL: [Self; 4] = [Self::Qwen2, Self::Qwen3, Self::Llama, Self::Mistral];

    /// Its `model_type`.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Llama => "llama",
            Self::Mistral => "mistral",
        }
    }

    /// From `model_type`, or from the first of `architectures` where that is absent.
    pub(super) fn from_fields(fields: &Fields<'_>) -> Result<Self> {
        let model_type = match fields.string("model_type")? {
            Some(model_type) => model_type.to_owned(),
            None => first_class(fields)?,
        };
        if let Some(known) = Self::ALL.into_iter().find(|known| known.model_type() == model_type) {
            return Ok(known);
        }
        if ENCODERS.contains(&model_type.as_str()) {
            return Err(Error::Unsupported {
                what: format!("the encoder-only architecture `{model_type}` of `{}`", fields.file()),
                reason: "only decoders that generate text are supported".into(),
                hint: Some(format!("for embeddings use an embedding model that is a decoder; known: {}", known())),
            });
        }
        Err(Error::Unsupported {
            what: format!("the architecture `{model_type}` of `{}`", fields.file()),
            reason: "it is none of those known".into(),
            hint: Some(format!("known architectures: {}", known())),
        })
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.model_type())
    }
}

fn known() -> String {
    Architecture::ALL.map(|known| format!("`{known}`")).join(", ")
}

/// `Qwen2ForCausalLM` and `Qwen2Model` are `qwen2`.
fn first_class(fields: &Fields<'_>) -> Result<String> {
    let Some(classes) = fields.get("architectures") else {
        return Err(fields.error("model_type", "is missing, and so is `architectures`; one of them names the architecture"));
    };
    let class = classes.get(0).and_then(Value::as_str);
    let class = class.ok_or_else(|| fields.wrong_type("architectures", "a list of class names"))?;
    let stem = CLASS_SUFFIXES.iter().find_map(|suffix| class.strip_suffix(suffix)).unwrap_or(class);
    Ok(stem.to_lowercase())
}
