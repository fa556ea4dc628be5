//! Weights as adapters change them, in double precision from the factors alone: no engine, and nothing that engines share, has a part in it.
//!
//! `W + Σ scale * (W' - W)` with `W' = W + s B A`, whose rows have the lengths `m` where an adapter has magnitudes: equations 3 and 5 of the
//! papers that `tandem_core::adapter` names.

use tandem_core::adapter::{LowRankFactors, ScaledAdapter, canonical_module};
use tandem_core::backend::{ProbePoint, Stage};
use tandem_core::config::ModelConfig;
use tandem_core::{Error, Result};

/// A module that may hold the weight of a stage, by its canonical name, and the first of its rows that are the stage's.
struct Place {
    module: String,
    first_row: usize,
    /// Its other rows are those of other stages.
    is_packed: bool,
}

/// What one adapter has for a stage.
struct Part<'a> {
    factors: &'a LowRankFactors,
    scale: f64,
    first_row: usize,
}

/// The module whose product `point` shows, by its canonical name, where one of `adapters` changes it.
pub(super) fn module(point: ProbePoint, config: &ModelConfig, adapters: &[ScaledAdapter]) -> Option<String> {
    places(point, config).into_iter().map(|place| place.module).find(|module| {
        let changes = |factors: &LowRankFactors| canonical_module(&factors.module) == module;
        adapters.iter().any(|ScaledAdapter { adapter, scale }| *scale != 0.0 && adapter.factors().iter().any(changes))
    })
}

/// Applies `adapters` to `weight`, `[rows, columns]`, that of the product which `point` shows.
///
/// # Errors
/// [`Error::BadField`] for factors of another shape.
pub(super) fn apply(
    adapters: &[ScaledAdapter],
    point: ProbePoint,
    config: &ModelConfig,
    weight: &mut [f32],
    columns: usize,
) -> Result<()> {
    let rows = weight.len() / columns;
    let places = places(point, config);
    let mut parts = Vec::new();
    for ScaledAdapter { adapter, scale } in adapters.iter().filter(|adapter| adapter.scale != 0.0) {
        for factors in adapter.factors() {
            let Some(place) = places.iter().find(|place| place.module == canonical_module(&factors.module)) else { continue };
            let outputs = factors.outputs();
            let fits = if place.is_packed { place.first_row + rows <= outputs } else { rows == outputs };
            if !fits || factors.inputs() != columns {
                let problem =
                    format!("its factors are of {outputs} x {}, and the weight is {rows} x {columns}", factors.inputs());
                return Err(Error::bad_field(adapter.name(), factors.module.as_str(), problem));
            }
            parts.push(Part { factors, scale: f64::from(*scale), first_row: place.first_row });
        }
    }
    if parts.is_empty() {
        return Ok(());
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let share = rows.div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        for (i, weights) in weight.chunks_mut(share * columns).enumerate() {
            let parts = &parts;
            scope.spawn(move || {
                weights.chunks_exact_mut(columns).enumerate().for_each(|(row, weights)| change(weights, i * share + row, parts));
            });
        }
    });
    Ok(())
}

/// Changes row `row` of a weight.
fn change(weights: &mut [f32], row: usize, parts: &[Part<'_>]) {
    let base: Vec<f64> = weights.iter().map(|&weight| f64::from(weight)).collect();
    let mut sum = base.clone();
    for Part { factors, scale, first_row } in parts {
        let (row, rank) = (first_row + row, factors.rank);
        let mut adapted = base.clone();
        for (&b, a) in factors.b[row * rank..][..rank].iter().zip(factors.a.chunks_exact(base.len())) {
            let factor = f64::from(factors.scale) * f64::from(b);
            adapted.iter_mut().zip(a).for_each(|(value, &a)| *value += factor * f64::from(a));
        }
        if let Some(magnitudes) = &factors.magnitude {
            let length = adapted.iter().map(|value| value * value).sum::<f64>().sqrt();
            let gain = if length > 0.0 { f64::from(magnitudes[row]) / length } else { 0.0 };
            adapted.iter_mut().for_each(|value| *value *= gain);
        }
        sum.iter_mut().zip(adapted.iter().zip(&base)).for_each(|(sum, (adapted, base))| *sum += scale * (adapted - base));
    }
    weights.iter_mut().zip(sum).for_each(|(weight, sum)| *weight = sum as f32);
}

/// The modules that may hold the weight of the product which `point` shows.
fn places(point: ProbePoint, config: &ModelConfig) -> Vec<Place> {
    const QKV: &str = "self_attn.qkv_proj";
    const GATE_UP: &str = "mlp.gate_up_proj";
    let (queries, keys) = (config.n_heads * config.head_dim(), config.n_kv_heads * config.head_dim());
    let (own, packed) = match point.stage {
        Stage::Query => ("self_attn.q_proj", Some((QKV, 0))),
        Stage::Key => ("self_attn.k_proj", Some((QKV, queries))),
        Stage::Value => ("self_attn.v_proj", Some((QKV, queries + keys))),
        Stage::AttentionOutput => ("self_attn.o_proj", None),
        Stage::Gate => ("mlp.gate_proj", Some((GATE_UP, 0))),
        Stage::Up => ("mlp.up_proj", Some((GATE_UP, config.intermediate_size))),
        Stage::Down => ("mlp.down_proj", None),
        Stage::Logits => ("lm_head", None),
        _ => return Vec::new(),
    };
    let named = |name: &str| point.layer.map_or_else(|| name.into(), |layer| format!("layers.{layer}.{name}"));
    let own = Place { module: named(own), first_row: 0, is_packed: false };
    let packed = packed.map(|(name, first_row)| Place { module: named(name), first_row, is_packed: true });
    std::iter::once(own).chain(packed).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tandem_core::adapter::Adapter;

    use super::*;

    fn config() -> ModelConfig {
        let json = r#"{"model_type": "llama", "hidden_size": 4, "intermediate_size": 2, "num_hidden_layers": 1, "num_attention_heads": 2,
            "num_key_value_heads": 1, "vocab_size": 8, "rms_norm_eps": 1e-6, "max_position_embeddings": 16}"#;
        ModelConfig::from_json("config.json", json.as_bytes()).unwrap()
    }

    fn adapter(module: &str, outputs: usize, scale: f32, magnitude: Option<Vec<f32>>) -> ScaledAdapter {
        let (a, b) = (vec![1.0, 0.0, 2.0, 0.0], (0..outputs).map(|i| i as f32).collect());
        let factors = LowRankFactors { module: module.into(), a, b, rank: 1, scale: 0.5, magnitude };
        ScaledAdapter { adapter: Arc::new(Adapter::new("mine", vec![factors]).unwrap()), scale }
    }

    fn adapted(adapters: &[ScaledAdapter], stage: Stage, rows: usize) -> Result<Vec<f32>> {
        let mut weight = vec![1.0; rows * 4];
        apply(adapters, ProbePoint { layer: Some(0), stage }, &config(), &mut weight, 4)?;
        Ok(weight)
    }

    #[test]
    fn adapters_add_up_in_the_rows_of_their_module() {
        let adapters =
            [adapter("base.layers.0.self_attn.k_proj", 2, 2.0, None), adapter("layers.0.self_attn.qkv_proj", 8, 1.0, None)];
        assert_eq!(adapted(&adapters, Stage::AttentionOutput, 1).unwrap(), [1.0; 4]);
        // Row `i` has 2 * 0.5 * i from the first, and 0.5 * (4 + i) from the fifth row of the second on, times `A`.
        assert_eq!(adapted(&adapters, Stage::Key, 2).unwrap(), [3.0, 1.0, 5.0, 1.0, 4.5, 1.0, 8.0, 1.0]);
        let name = |stage, adapters: &[ScaledAdapter]| module(ProbePoint { layer: Some(0), stage }, &config(), adapters);
        assert_eq!(name(Stage::Key, &adapters).as_deref(), Some("layers.0.self_attn.k_proj"));
        assert_eq!(name(Stage::Key, &adapters[1..]).as_deref(), Some("layers.0.self_attn.qkv_proj"));
        assert_eq!(name(Stage::Down, &adapters), None);
        assert_eq!(name(Stage::Key, &[adapter("layers.0.self_attn.k_proj", 2, 0.0, None)]), None);
    }

    #[test]
    fn magnitudes_are_the_lengths_of_rows() {
        let adapters = [adapter("layers.0.self_attn.k_proj", 2, 1.0, Some(vec![2.0, 10.0]))];
        let rows = adapted(&adapters, Stage::Key, 2).unwrap();
        assert_eq!(rows[..4], [1.0; 4]);
        let length = |row: &[f32]| row.iter().map(|value| value * value).sum::<f32>().sqrt();
        assert!((length(&rows[4..]) - 10.0).abs() < 1e-5);
        assert!((rows[6] / rows[5] - 2.0).abs() < 1e-6);
    }

    #[test]
    fn factors_of_another_shape_are_an_error_with_the_module() {
        let check = |module: &str, outputs, stage| {
            let error = adapted(&[adapter(module, outputs, 1.0, None)], stage, 2).unwrap_err().to_string();
            assert!(error.contains("`mine`") && error.contains(module) && error.contains("2 x 4"), "{error}");
        };
        check("layers.0.self_attn.k_proj", 3, Stage::Key);
        check("layers.0.self_attn.qkv_proj", 7, Stage::Value);
    }
}
