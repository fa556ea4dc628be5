//! Adapters of Hugging Face's PEFT: `adapter_model.safetensors` with `adapter_config.json`.
//!
//! Names: `utils/save_and_load.py` of PEFT 0.21; scales: `tuners/lora/layer.py`, `update_layer`; which modules: `tuners/tuners_utils.py`,
//! `check_target_module_exists`. The tensors decide which modules there are, and the settings their ranks and scales; where they
//! contradict each other, PEFT would ignore a part of the adapter, and here that is an error.

mod config;
mod patterns;
mod write;

use std::collections::BTreeSet;

use self::config::{Bias, PeftConfig};
pub use self::write::write_peft;
use super::ReplacedTensor;
use super::found::{Found, Matrix, Role, values};
use super::read::Content;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};

/// What PEFT puts before the names of the base.
const PREFIX: &str = "base_model.model.";

/// What the name of a tensor says.
#[derive(Debug, PartialEq)]
enum Name<'n> {
    /// A factor of a module.
    Factor(&'n str, Role),
    /// The magnitudes of a module.
    Magnitude(&'n str),
    /// The base's own tensor of a module that has factors, by the base's name.
    OfBaseLayer(String),
    /// A tensor by the base's name, which the adapter brings whole.
    Whole(String),
    /// A part of an adapter that is not read, by the setting that asks for it.
    Refused(&'static str),
}

/// Reads the adapter in `weights`, the file `file`, with the settings `json` of `config_file`.
pub(super) fn read(weights: &Checkpoint, file: &str, json: &[u8], config_file: &str) -> Result<Content> {
    let config = PeftConfig::parse(json, config_file)?;
    let mut names: Vec<&str> = weights.names().collect();
    names.sort_unstable();
    let (mut found, mut replaced) = (Found::new(file), Vec::new());
    for name in names {
        match name.strip_prefix(PREFIX).and_then(parse_name) {
            Some(Name::Factor(module, role)) => {
                found.add(module, role, name, Matrix::read(file, name, &weights.tensor(name)?)?)?;
            }
            Some(Name::Magnitude(module)) => found.add_magnitude(module, name, &weights.tensor(name)?)?,
            // A copy of the base's own weight, which training leaves as it is; PEFT saves it where it has factors for a head.
            Some(Name::OfBaseLayer(own)) if own.ends_with(".weight") => {}
            Some(Name::OfBaseLayer(own) | Name::Whole(own)) if config.brings_whole(&own) => {
                let tensor = weights.tensor(name)?;
                replaced.push(ReplacedTensor { name: own, shape: tensor.shape.into(), values: values(file, name, &tensor)? });
            }
            Some(Name::Refused(setting)) => return Err(config::refused(setting, config_file)),
            _ => found.add_unknown(name),
        }
    }
    config.check_chosen(&found.modules().collect::<Vec<_>>(), file)?;
    let (ranks, alphas) = config.of_modules(&found.modules().collect::<Vec<_>>())?;
    let mut settings = ranks.into_iter().zip(alphas);
    let factors = found.finish(|module, rank| {
        let (expected, alpha) = settings.next().unwrap_or((config.rank, config.alpha));
        if expected != rank {
            let problem = format!("its factors have rank {rank}, and `{config_file}` says {expected}");
            return Err(Error::bad_field(file, module, problem)
                .with_hint("factor A is rank x inputs and B outputs x rank: settings and weights are of two adapters, or the factors transposed"));
        }
        let rank = rank as f64;
        Ok(alpha / if config.rank_stabilised { rank.sqrt() } else { rank })
    })?;
    if let Some(odd) = factors.iter().find(|factors| factors.magnitude.is_some() != config.dora) {
        let problem = match config.dora {
            true => format!("the magnitudes of this module are missing, and `{config_file}` has `use_dora`"),
            false => format!("has magnitudes, and `{config_file}` is without `use_dora`"),
        };
        return Err(Error::bad_field(file, &odd.module, problem));
    }
    Ok(Content { factors, replaced, base_model: config.base_model })
}

impl PeftConfig {
    /// Whether the tensor that the base calls `name` is one that these settings have trained whole.
    fn brings_whole(&self, name: &str) -> bool {
        let Some((module, kind)) = name.rsplit_once('.') else { return false };
        // PEFT compares the ends of names, without regard to dots, and saves everything below a module.
        let mut above: BTreeSet<&str> = name.match_indices('.').map(|(dot, _)| &name[..dot]).collect();
        above.insert(module);
        let is_saved = |module: &&str| self.saved.iter().any(|saved| module.ends_with(saved.as_str()));
        let is_bias = kind == "bias" && self.bias != Bias::None;
        // A vocabulary that grew, or an embedding beside its factors: both matrices come along.
        let is_embedding = kind == "weight" && matches!(module.rsplit('.').next(), Some("embed_tokens" | "lm_head"));
        is_bias || is_embedding || above.iter().any(is_saved)
    }
}

/// What `name`, without PEFT's prefix, says.
fn parse_name(name: &str) -> Option<Name<'_>> {
    let factor = |marker: &str| {
        let (module, rest) = name.rsplit_once(marker)?;
        Some((module, rest.strip_prefix('.')?))
    };
    // The adapter's name may stand before the tensor's.
    let last = |rest: &str| matches!(rest.split('.').collect::<Vec<_>>()[..], ["weight"] | [_, "weight"]);
    for (marker, role) in [(".lora_A", Role::A), (".lora_B", Role::B)] {
        if let Some((module, rest)) = factor(marker) {
            let is_bias = rest.ends_with("bias");
            return last(rest).then_some(Name::Factor(module, role)).or(is_bias.then_some(Name::Refused("lora_bias")));
        }
    }
    if let Some((module, rest)) = name.rsplit_once(".lora_magnitude_vector") {
        let is_whole = rest.is_empty() || rest.strip_prefix('.').is_some_and(|rest| !rest.contains('.') || last(rest));
        return is_whole.then_some(Name::Magnitude(module));
    }
    for (part, setting) in [
        (".lora_embedding_", "target_modules"),
        (".token_adapter.", "trainable_token_indices"),
        (".trainable_tokens_", "trainable_token_indices"),
    ] {
        if name.contains(part) {
            return Some(Name::Refused(setting));
        }
    }
    if let Some((module, kind)) = name.rsplit_once(".base_layer.") {
        return Some(Name::OfBaseLayer(format!("{module}.{kind}")));
    }
    match name.split_once(".modules_to_save.") {
        // The name of the adapter, where an older PEFT kept it.
        Some((module, rest)) => {
            let kind = rest.rsplit('.').next().unwrap_or(rest);
            Some(Name::Whole(format!("{module}.{kind}")))
        }
        None => (name.ends_with(".weight") || name.ends_with(".bias")).then(|| Name::Whole(name.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_tensors() {
        const Q: &str = "model.layers.0.self_attn.q_proj";
        let check = |rest: &str, expected: Option<Name<'_>>| assert_eq!(parse_name(&format!("{Q}{rest}")), expected, "{rest}");
        check(".lora_A.weight", Some(Name::Factor(Q, Role::A)));
        check(".lora_B.default.weight", Some(Name::Factor(Q, Role::B)));
        check(".lora_A.one.two.weight", None);
        check(".lora_A", None);
        check(".lora_B.bias", Some(Name::Refused("lora_bias")));
        for end in ["", ".default", ".weight", ".default.weight"] {
            check(&format!(".lora_magnitude_vector{end}"), Some(Name::Magnitude(Q)));
        }
        check(".lora_embedding_A", Some(Name::Refused("target_modules")));
        check(".token_adapter.trainable_tokens_delta", Some(Name::Refused("trainable_token_indices")));
        check(".base_layer.bias", Some(Name::OfBaseLayer(format!("{Q}.bias"))));
        check(".modules_to_save.default.weight", Some(Name::Whole(format!("{Q}.weight"))));
        check(".modules_to_save.weight", Some(Name::Whole(format!("{Q}.weight"))));
        check(".bias", Some(Name::Whole(format!("{Q}.bias"))));
        check(".oft_r", None);
    }
}
