//! The families of models that are known, and how a configuration names them.

use std::fmt;

use serde_json::Value;

use super::Fields;
use crate::error::{Error, Result};

/// A family of models: decoders, which generate text and encode it, and encoders, which encode it.
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
    /// Gemma 2: norms on both sides of each block, soft caps on logits, a window in every other layer.
    Gemma2,
    /// Gemma 3, text only: Gemma 2 with norms on query and key, and another rotary base where there is a window.
    Gemma3,
    /// Phi-3, Phi-3.5, Phi-4: Llama with its projections fused as published.
    Phi3,
    /// BERT, and the many embedding models of its form: MiniLM, BGE, E5, GTE, Arctic.
    Bert,
    /// RoBERTa: BERT with positions that begin behind the padding token's.
    Roberta,
    /// XLM-RoBERTa: RoBERTa for a hundred languages. BGE-M3, multilingual E5.
    XlmRoberta,
    /// CamemBERT: RoBERTa for French.
    Camembert,
    /// MPNet: BERT with a bias by the distance of two tokens.
    Mpnet,
    /// DistilBERT: BERT without token types, under other names.
    DistilBert,
    /// ModernBERT: rotary positions, norms first, windows, a gated feed-forward block.
    ModernBert,
}

/// `model_type` of encoders that are not known.
const UNKNOWN_ENCODERS: [&str; 8] = ["albert", "deberta", "deberta-v2", "electra", "gte", "new", "nomic_bert", "xlm-roberta-xl"];

/// What the names of classes in `architectures` end with.
const CLASS_SUFFIXES: [&str; 4] = ["ForCausalLM", "ForSequenceClassification", "ForMaskedLM", "Model"];

impl Architecture {
    /// Those that generate text.
    pub const DECODERS: [Self; 7] =
        [Self::Qwen2, Self::Qwen3, Self::Llama, Self::Mistral, Self::Gemma2, Self::Gemma3, Self::Phi3];

    /// Those that encode it only.
    pub const ENCODERS: [Self; 7] =
        [Self::Bert, Self::Roberta, Self::XlmRoberta, Self::Camembert, Self::Mpnet, Self::DistilBert, Self::ModernBert];

    /// Its `model_type`.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Gemma2 => "gemma2",
            Self::Gemma3 => "gemma3_text",
            Self::Phi3 => "phi3",
            Self::Bert => "bert",
            Self::Roberta => "roberta",
            Self::XlmRoberta => "xlm-roberta",
            Self::Camembert => "camembert",
            Self::Mpnet => "mpnet",
            Self::DistilBert => "distilbert",
            Self::ModernBert => "modernbert",
        }
    }

    /// Whether it is one of [`ENCODERS`](Self::ENCODERS).
    pub fn is_encoder(self) -> bool {
        Self::ENCODERS.contains(&self)
    }

    /// Whether its layers have the form of Llama's, which differ by what [`ModelConfig`](super::ModelConfig) says alone: a norm before
    /// attention, one before the feed-forward block, projections with a weight each, and `silu` as the gate. It is what every backend
    /// builds; other forms are an engine's own.
    pub fn has_llama_form(self) -> bool {
        matches!(self, Self::Qwen2 | Self::Qwen3 | Self::Llama | Self::Mistral)
    }

    /// From `model_type`, or from the first of `architectures` where that is absent.
    pub(super) fn from_fields(fields: &Fields<'_>) -> Result<Self> {
        let model_type = match fields.string("model_type")? {
            Some(model_type) => model_type.to_owned(),
            None => first_class(fields)?,
        };
        if model_type == "gemma3" {
            return Err(Error::Unsupported {
                what: format!("the architecture `gemma3` of `{}`, a model of text and images,", fields.file()),
                reason: "only models of text alone are known".into(),
                hint: Some("use a Gemma 3 whose `model_type` is `gemma3_text`, such as the ones of 270M and 1B".into()),
            });
        }
        if let Some(known) = Self::DECODERS.into_iter().chain(Self::ENCODERS).find(|known| known.model_type() == model_type) {
            return Ok(known);
        }
        let (kind, known) = match UNKNOWN_ENCODERS.contains(&model_type.as_str()) {
            true => ("encoder-only architecture", list(&Self::ENCODERS)),
            false => ("architecture", list(&Self::DECODERS) + ", " + &list(&Self::ENCODERS)),
        };
        Err(Error::Unsupported {
            what: format!("the {kind} `{model_type}` of `{}`", fields.file()),
            reason: "it is not known".into(),
            hint: Some(format!("known: {known}").into()),
        })
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.model_type())
    }
}

fn list(architectures: &[Architecture]) -> String {
    architectures.iter().map(|known| format!("`{known}`")).collect::<Vec<_>>().join(", ")
}

/// `Qwen2ForCausalLM` and `Qwen2Model` are `qwen2`; transformers gives Gemma 3 for text the class `Gemma3ForCausalLM`.
fn first_class(fields: &Fields<'_>) -> Result<String> {
    let Some(classes) = fields.get("architectures") else {
        return Err(fields.error("model_type", "is missing, and so is `architectures`; one of them names the architecture"));
    };
    let class = classes.get(0).and_then(Value::as_str);
    let class = class.ok_or_else(|| fields.wrong_type("architectures", "a list of class names"))?;
    let stem = CLASS_SUFFIXES.iter().find_map(|suffix| class.strip_suffix(suffix)).unwrap_or(class);
    Ok(match stem {
        "Gemma3" | "Gemma3Text" => Architecture::Gemma3.model_type().into(),
        "XLMRoberta" => Architecture::XlmRoberta.model_type().into(),
        _ => stem.to_lowercase(),
    })
}
