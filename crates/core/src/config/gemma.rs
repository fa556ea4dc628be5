//! What Gemma 2 and 3 have that other decoders have not.

use super::rope::theta;
use super::{Architecture, Fields};
use crate::error::Result;

/// Parameters of Gemma 2 and 3.
#[derive(Clone, Debug, PartialEq)]
pub struct GemmaConfig {
    /// Scores are divided by its square root, and not by that of `head_dim` (`query_pre_attn_scalar`).
    pub query_scale: f64,
    /// Scores become `cap * tanh(score / cap)` before softmax.
    pub attention_softcap: Option<f64>,
    /// The same of logits.
    pub logits_softcap: Option<f64>,
    /// The base of the rotary angles in layers with a window: Gemma 3's. Its other layers have that of `rope`.
    pub window_rope_theta: Option<f64>,
}

impl GemmaConfig {
    /// `None` for other architectures.
    pub(super) fn from_fields(fields: &Fields<'_>, architecture: Architecture) -> Result<Option<Self>> {
        let (attention_softcap, logits_softcap) = match architecture {
            Architecture::Gemma2 => (Some(50.0), Some(30.0)),
            Architecture::Gemma3 => (None, None),
            _ => return Ok(None),
        };
        let cap = |key, default: Option<f64>| match fields.is_null(key) {
            true => Ok(None),
            false => fields.number(key, 1e-3..=1e6).map(|given| given.or(default)),
        };
        Ok(Some(Self {
            query_scale: fields.number("query_pre_attn_scalar", 1e-3..=1e6)?.unwrap_or(256.0),
            attention_softcap: cap("attn_logit_softcapping", attention_softcap)?,
            logits_softcap: cap("final_logit_softcapping", logits_softcap)?,
            window_rope_theta: match architecture {
                Architecture::Gemma3 => Some(window_rope_theta(fields)?),
                _ => None,
            },
        }))
    }
}

/// In `rope_parameters.sliding_attention` (transformers 5) or `rope_local_base_freq` (4).
fn window_rope_theta(fields: &Fields<'_>) -> Result<f64> {
    let parameters = match fields.object("rope_parameters")? {
        Some(parameters) => parameters.object("sliding_attention")?,
        None => None,
    };
    if let Some(parameters) = parameters {
        match parameters.string("rope_type")? {
            None | Some("default") => {}
            Some(other) => {
                return Err(parameters.error("rope_type", format!("is `{other}`; layers with a window have `default`")));
            }
        }
        if let Some(theta) = theta(&parameters, "rope_theta")? {
            return Ok(theta);
        }
    }
    Ok(theta(fields, "rope_local_base_freq")?.unwrap_or(10_000.0))
}
