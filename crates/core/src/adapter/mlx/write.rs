//! Writes an adapter in the form of mlx-lm.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::json;

use super::super::files::{CONFIG, MLX_WEIGHTS};
use super::super::found::transposed;
use super::super::write::{self, Tensor};
use super::super::{Adapter, canonical_module, has_magnitudes, most_frequent, refuse_replaced};
use crate::error::{Error, Result};

/// Writes `adapter` to the directory `target`, which must not exist, as mlx-lm 0.28 saves one. `n_layers` is how many layers the base has;
/// without it mlx-lm is told to adapt all of them, and leaves those without factors as they are.
///
/// mlx-lm has one scale for all modules. Where an adapter has several, the most frequent one is written and the others are multiplied into
/// `B`, which is exact where their ratio is a power of two and is rounded to f32 elsewhere.
///
/// # Errors
/// [`Error::BadFile`] when it cannot be written, [`Error::Unsupported`] for an adapter that replaces tensors, changes a module outside the
/// layers or has magnitudes for a part of its modules.
pub fn write_mlx(adapter: &Adapter, target: &Path, n_layers: Option<usize>) -> Result<()> {
    refuse_replaced(adapter, "mlx-lm")?;
    let dora = has_magnitudes(adapter, "mlx-lm")?;
    let scale = most_frequent(adapter.factors().iter().map(|factors| factors.scale.to_bits())).map_or(1.0, f32::from_bits);
    // A scale of 0 divides nothing.
    let scale = if scale == 0.0 { 1.0 } else { scale };
    let (mut tensors, mut keys, mut first, mut rank) = (Vec::new(), BTreeSet::new(), usize::MAX, 1);
    for factors in adapter.factors() {
        let module = factors.module.as_str();
        let within = canonical_module(module).strip_prefix("layers.").and_then(|rest| rest.split_once('.'));
        let Some((Ok(layer), key)) = within.map(|(layer, key)| (layer.parse::<usize>(), key)) else {
            return Err(Error::Unsupported {
                what: format!("the adapter `{}` in the form of mlx-lm", adapter.name()),
                reason: format!("it changes `{module}`, and mlx-lm adapts modules of layers"),
                hint: Some("write it in the form of PEFT".into()),
            });
        };
        keys.insert(key);
        (first, rank) = (first.min(layer), rank.max(factors.rank));
        let ratio = f64::from(factors.scale) / f64::from(scale);
        let b: Vec<f32> = factors.b.iter().map(|value| (f64::from(*value) * ratio) as f32).collect();
        let mut add = |end: &str, shape: Vec<usize>, values: Vec<f32>| {
            tensors.push(Tensor { name: format!("{module}.{end}"), shape, values: values.into() });
        };
        let (inputs, outputs) = (factors.inputs(), factors.outputs());
        add("lora_a", vec![inputs, factors.rank], transposed(&factors.a, factors.rank, inputs));
        add("lora_b", vec![factors.rank, outputs], transposed(&b, outputs, factors.rank));
        if let Some(magnitude) = &factors.magnitude {
            add("m", vec![outputs], magnitude.clone());
        }
    }
    let num_layers = n_layers.and_then(|n| i64::try_from(n.saturating_sub(first)).ok()).filter(|n| *n > 0).unwrap_or(-1);
    let config = json!({
        "fine_tune_type": if dora { "dora" } else { "lora" },
        "lora_parameters": { "dropout": 0.0, "keys": keys, "rank": rank, "scale": scale },
        "model": adapter.origin().base_model,
        "num_layers": num_layers,
    });
    write::directory(target, |directory| {
        write::json(&directory.join(CONFIG), &config)?;
        write::safetensors(&directory.join(MLX_WEIGHTS), &tensors, "mlx")
    })
}
