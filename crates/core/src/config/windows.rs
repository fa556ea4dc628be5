//! Which layers see a window of the text, and how wide it is.

use serde_json::Value;

use super::fields::shown;
use super::parse::CONTEXT;
use super::{Architecture, Fields};
use crate::error::Result;

/// For each layer how many tokens back it sees; `None` sees all. Qwen's window is off unless `use_sliding_window` says otherwise, whatever
/// number stands beside it; Mistral's and Phi-3's hold for all layers, Phi-3's where the file names one; Gemma's for some; Llama has none.
///
/// A window of Gemma's that is not causal is as wide as the file says in both directions together.
pub(super) fn layer_windows(
    fields: &Fields<'_>,
    architecture: Architecture,
    n_layers: usize,
    is_causal: bool,
) -> Result<Vec<Option<usize>>> {
    let window = |default| match fields.is_null("sliding_window") {
        true => Ok(None),
        false => fields.integer("sliding_window", CONTEXT).map(|given| given.or(Some(default))),
    };
    match architecture {
        Architecture::Mistral => Ok(vec![window(4096)?; n_layers]),
        Architecture::Phi3 => Ok(vec![fields.integer("sliding_window", CONTEXT)?; n_layers]),
        Architecture::Gemma2 | Architecture::Gemma3 => {
            let windowed = match layer_types(fields, n_layers)? {
                Some(windowed) => windowed,
                None => every_but_one_in(pattern(fields, architecture)?, n_layers),
            };
            let window = window(4096)?.map(|window| if is_causal { window } else { window / 2 + 1 });
            if window.is_none() && windowed.contains(&true) {
                return Err(fields.missing("sliding_window"));
            }
            Ok(windowed.into_iter().map(|windowed| window.filter(|_| windowed)).collect())
        }
        Architecture::Qwen2 | Architecture::Qwen3 => {
            let window = if fields.boolean("use_sliding_window")?.unwrap_or(false) { window(4096)? } else { None };
            if let Some(windowed) = layer_types(fields, n_layers)? {
                if window.is_none() && windowed.contains(&true) {
                    return Err(fields.error("layer_types", "has `sliding_attention`, but no `sliding_window` is in use"));
                }
                return Ok(windowed.into_iter().map(|windowed| window.filter(|_| windowed)).collect());
            }
            let first = fields.integer("max_window_layers", 0..=*CONTEXT.end())?.unwrap_or(28);
            Ok((0..n_layers).map(|layer| window.filter(|_| layer >= first)).collect())
        }
        _ => Ok(vec![None; n_layers]),
    }
}

/// For each layer whether its attention is a window; `None` when the file has no such list.
pub(super) fn layer_types(fields: &Fields<'_>, n_layers: usize) -> Result<Option<Vec<bool>>> {
    let Some(value) = fields.get("layer_types") else { return Ok(None) };
    let list = value.as_array().ok_or_else(|| fields.wrong_type("layer_types", "a list"))?;
    if list.len() != n_layers {
        let problem = format!("has {} entries for `num_hidden_layers` of `{n_layers}`", list.len());
        return Err(fields.error("layer_types", problem));
    }
    let windowed = |entry: &Value| match entry.as_str() {
        Some("full_attention" | "attention") => Ok(false),
        Some("sliding_attention") => Ok(true),
        _ => Err(fields
            .error("layer_types", format!("has `{}`, which is neither `full_attention` nor `sliding_attention`", shown(entry)))),
    };
    list.iter().map(windowed).collect::<Result<_>>().map(Some)
}

/// One layer in so many sees all: the last of them.
fn pattern(fields: &Fields<'_>, architecture: Architecture) -> Result<usize> {
    match architecture {
        Architecture::Gemma2 => Ok(2),
        _ => Ok(fields.integer("sliding_window_pattern", 1..=*CONTEXT.end())?.unwrap_or(6)),
    }
}

fn every_but_one_in(pattern: usize, n_layers: usize) -> Vec<bool> {
    (1..=n_layers).map(|number| !number.is_multiple_of(pattern)).collect()
}
