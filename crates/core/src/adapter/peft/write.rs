//! Writes an adapter in the form of PEFT.

use std::borrow::Cow;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::super::files::{CONFIG, PEFT_WEIGHTS};
use super::super::write::{self, Tensor};
use super::super::{Adapter, LowRankFactors, has_magnitudes, most_frequent};
use super::PREFIX;
use crate::error::{Error, Result};

/// Writes `adapter` to the directory `target`, which must not exist, as PEFT 0.21 saves one: values in f32, each module by its whole name,
/// and an alpha of `scale * rank`, with which every scale comes back to the bit.
///
/// # Errors
/// [`Error::BadFile`] when it cannot be written, [`Error::Unsupported`] for an adapter with magnitudes for a part of its modules, or one
/// that replaces the weight of a module that it has factors for.
pub fn write_peft(adapter: &Adapter, target: &Path) -> Result<()> {
    let (config, tensors) = (config(adapter)?, tensors(adapter));
    write::directory(target, |directory| {
        write::json(&directory.join(CONFIG), &config)?;
        write::safetensors(&directory.join(PEFT_WEIGHTS), &tensors, "pt")
    })
}

fn config(adapter: &Adapter) -> Result<Value> {
    let factors = adapter.factors();
    let dora = has_magnitudes(adapter, "PEFT")?;
    let alpha = |factors: &LowRankFactors| f64::from(factors.scale) * factors.rank as f64;
    let rank = most_frequent(factors.iter().map(|factors| factors.rank)).unwrap_or(1);
    let usual_alpha = most_frequent(factors.iter().map(|factors| alpha(factors).to_bits())).map_or(1.0, f64::from_bits);
    let pattern = |value: &dyn Fn(&LowRankFactors) -> Option<Value>| -> Map<String, Value> {
        factors.iter().filter_map(|factors| Some((factors.module.clone(), value(factors)?))).collect()
    };
    let whole = wholes(adapter)?;
    let bias = match whole.iter().map(|(_, _, kind)| kind).max() {
        Some(Whole::Bias) => "all",
        Some(Whole::OwnBias) => "lora_only",
        _ => "none",
    };
    let saved: Vec<&str> = whole.iter().filter(|(_, _, kind)| *kind == Whole::Saved).map(|(module, ..)| *module).collect();
    Ok(json!({
        "base_model_name_or_path": adapter.origin().base_model,
        "bias": bias,
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "lora_alpha": number(usual_alpha),
        "lora_bias": false,
        "lora_dropout": 0.0,
        "modules_to_save": if saved.is_empty() { Value::Null } else { json!(saved) },
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": pattern(&|factors| (factors.rank != rank).then(|| factors.rank.into())),
        "alpha_pattern": pattern(&|factors| (alpha(factors) != usual_alpha).then(|| number(alpha(factors)))),
        "target_modules": factors.iter().map(|factors| factors.module.as_str()).collect::<Vec<_>>(),
        "task_type": "CAUSAL_LM",
        "use_dora": dora,
        "use_rslora": false,
    }))
}

fn tensors(adapter: &Adapter) -> Vec<Tensor<'_>> {
    let mut tensors = Vec::new();
    for factors in adapter.factors() {
        let mut add = |end: &str, shape: Vec<usize>, values| {
            tensors.push(Tensor { name: format!("{PREFIX}{}.{end}", factors.module), shape, values: Cow::Borrowed(values) });
        };
        add("lora_A.weight", vec![factors.rank, factors.inputs()], &factors.a[..]);
        add("lora_B.weight", vec![factors.outputs(), factors.rank], &factors.b[..]);
        if let Some(magnitude) = &factors.magnitude {
            add("lora_magnitude_vector", vec![magnitude.len()], magnitude);
        }
    }
    let has_factors = |module: &str| adapter.factors().iter().any(|factors| factors.module == module);
    tensors.extend(adapter.replaced().iter().map(|tensor| {
        let name = match tensor.name.rsplit_once('.') {
            Some((module, "bias")) if has_factors(module) => format!("{PREFIX}{module}.base_layer.bias"),
            _ => format!("{PREFIX}{}", tensor.name),
        };
        Tensor { name, shape: tensor.shape.clone(), values: Cow::Borrowed(&tensor.values) }
    }));
    tensors
}

/// How PEFT saves a tensor whole.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Whole {
    /// With its module, in `modules_to_save`.
    Saved,
    /// The bias of a module with factors.
    OwnBias,
    /// The bias of another.
    Bias,
}

/// The tensors that are brought whole: their modules, names and places.
fn wholes(adapter: &Adapter) -> Result<Vec<(&str, &str, Whole)>> {
    let place = |name| {
        let (module, kind) = str::rsplit_once(name, '.').unwrap_or((name, ""));
        let has_factors = adapter.factors().iter().any(|factors| factors.module == module);
        match (kind, has_factors) {
            ("bias", true) => Ok((module, name, Whole::OwnBias)),
            ("bias", false) => Ok((module, name, Whole::Bias)),
            (_, false) => Ok((module, name, Whole::Saved)),
            (_, true) => Err(Error::Unsupported {
                what: format!("the adapter `{}` in the form of PEFT", adapter.name()),
                reason: format!("it replaces `{name}`, and has factors for the same weight"),
                hint: Some("merge it into a checkpoint".into()),
            }),
        }
    };
    adapter.replaced().iter().map(|tensor| place(tensor.name.as_str())).collect()
}

/// A whole number as one: PEFT's type of alpha.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 { json!(value as i64) } else { json!(value) }
}
