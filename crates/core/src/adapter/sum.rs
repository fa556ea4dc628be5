//! Several adapters as one update for each module: `W + Σ scale * (W' - W)`, where `W'` is what an adapter makes of the module's weight.
//!
//! For an adapter without magnitudes that is `W + Σ scale * s * B A`. With magnitudes `m`, `W' = g ∘ (W + s B A)` with the gains
//! `g = m / ‖W + s B A‖` of the rows, so the sum is `(1 + Σ scale (g - 1)) ∘ W + Σ (scale * g ∘ s B) A`: a gain for each row of the base's
//! product, and a low-rank product beside it. Factors of several adapters stand side by side, with the sum of their ranks.

use std::collections::BTreeMap;

use super::{AdaptedModule, LowRankFactors, ScaledAdapter};
use crate::error::{Error, Result};

/// Reads the base weights of a module in f32, for adapters that need them: calls the function it is given with each row, `[inputs]`, from
/// the first to the last.
pub type BaseRows<'b> = dyn FnMut(&mut dyn FnMut(&[f32])) -> Result<()> + 'b;

/// What is added to the product of one module: `gain ∘ (W x) + B (A x)`, before the bias.
#[derive(Clone, Debug, PartialEq)]
pub struct ModuleUpdate {
    /// The sum of the ranks.
    pub rank: usize,
    /// `[rank, inputs]`, row-major.
    pub a: Vec<f32>,
    /// `[outputs, rank]`, row-major, with all scales.
    pub b: Vec<f32>,
    /// What the base's product is multiplied by, `[outputs]`; `None` for 1.
    pub gain: Option<Vec<f32>>,
}

/// Adapters that a model takes apart, module by module.
#[derive(Debug)]
pub struct AdapterSum<'a> {
    modules: BTreeMap<&'a str, Vec<Part<'a>>>,
}

/// What several adapters have for one module.
#[derive(Debug)]
pub struct ModuleParts<'a> {
    parts: Vec<Part<'a>>,
    shape: [usize; 2],
}

impl ModuleParts<'_> {
    /// Their update; `base` reads the module's weight, for magnitudes.
    ///
    /// # Errors
    /// Those of `base`.
    pub fn update(&self, base: &mut BaseRows<'_>) -> Result<ModuleUpdate> {
        combined(&self.parts, self.shape, base)
    }
}

/// One adapter's part of a module.
#[derive(Clone, Copy, Debug)]
struct Part<'a> {
    adapter: &'a str,
    factors: &'a LowRankFactors,
    scale: f32,
}

impl<'a> AdapterSum<'a> {
    /// The sum of `adapters`. What changes nothing (a scale of 0, factors of zeros without magnitudes) is left out, so that the base stays
    /// what it is to the bit.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for an adapter that replaces tensors of the base.
    pub fn new(adapters: &'a [ScaledAdapter]) -> Result<Self> {
        for ScaledAdapter { adapter, .. } in adapters {
            if let Some(replaced) = adapter.replaced().first() {
                return Err(Error::Unsupported {
                    what: format!("the adapter `{}` while running", adapter.name()),
                    reason: format!("it replaces whole tensors of its base, such as `{}`", replaced.name),
                    hint: Some("merge it into a checkpoint, and load that".into()),
                });
            }
        }
        Ok(Self::of_factors(adapters))
    }

    /// The sum of the factors of `adapters`, whatever else they bring.
    pub(super) fn of_factors(adapters: &'a [ScaledAdapter]) -> Self {
        let mut modules: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for ScaledAdapter { adapter, scale } in adapters {
            for factors in adapter.factors() {
                let changes =
                    factors.magnitude.is_some() || (factors.scale != 0.0 && factors.b.iter().any(|value| *value != 0.0));
                let parts = modules.entry(canonical_module(&factors.module)).or_default();
                if *scale != 0.0 && changes {
                    parts.push(Part { adapter: adapter.name(), factors, scale: *scale });
                }
            }
        }
        Self { modules }
    }

    /// Whether something is left to be taken for `module`.
    pub(super) fn changes(&self, module: &str) -> bool {
        self.modules.get(canonical_module(module)).is_some_and(|parts| !parts.is_empty())
    }

    /// Whether nothing is left to be taken.
    pub fn is_empty(&self) -> bool {
        self.modules.values().all(Vec::is_empty)
    }

    /// The modules that change, in alphabetical order.
    pub fn modules(&self) -> Vec<AdaptedModule> {
        let changed = self.modules.iter().filter(|(_, parts)| !parts.is_empty());
        let has_magnitude = |parts: &[Part<'_>]| parts.iter().any(|part| part.factors.magnitude.is_some());
        changed.map(|(module, parts)| AdaptedModule { module: (*module).into(), has_magnitude: has_magnitude(parts) }).collect()
    }

    /// Takes what is added to `module`, whose weight is `[outputs, inputs]`; `None` where that is nothing.
    ///
    /// # Errors
    /// [`Error::BadField`] for factors of another shape, with the module and the sizes; those of `base`.
    pub fn take(&mut self, module: &str, shape: [usize; 2], base: &mut BaseRows<'_>) -> Result<Option<ModuleUpdate>> {
        self.take_parts(module, shape)?.map(|parts| parts.update(base)).transpose()
    }

    /// As [`take`](Self::take), and the update is computed later, such as on several threads.
    ///
    /// # Errors
    /// [`Error::BadField`] for factors of another shape, with the module and the sizes.
    pub fn take_parts(&mut self, module: &str, shape: [usize; 2]) -> Result<Option<ModuleParts<'a>>> {
        let [outputs, inputs] = shape;
        let parts = self.modules.remove(canonical_module(module)).unwrap_or_default();
        for part in &parts {
            let own = [part.factors.outputs(), part.factors.inputs()];
            if own != shape {
                let problem = format!(
                    "the adapter changes a weight of {} x {} (outputs x inputs), and this model's is {outputs} x {inputs}",
                    own[0], own[1]
                );
                return Err(Error::bad_field(part.adapter, part.factors.module.as_str(), problem));
            }
        }
        Ok(if parts.is_empty() { None } else { Some(ModuleParts { parts, shape }) })
    }

    /// Checks that every module was taken.
    ///
    /// # Errors
    /// [`Error::BadField`] with modules that the model lacks.
    pub fn finish(self) -> Result<()> {
        let Some((module, parts)) = self.modules.iter().find(|(_, parts)| !parts.is_empty()) else { return Ok(()) };
        let others = match self.modules.values().filter(|parts| !parts.is_empty()).count() - 1 {
            0 => String::new(),
            n => format!(", nor {n} others that it changes"),
        };
        Err(Error::bad_field(parts[0].adapter, *module, format!("the model lacks this module{others}")))
    }
}

/// A module's name without what wrappers put before it: from `layers.` on, or its last part outside the layers.
///
/// `base_model.model.model.layers.0.self_attn.q_proj` and `layers.0.self_attn.q_proj` are one module.
pub fn canonical_module(name: &str) -> &str {
    let start = match name.find("layers.") {
        Some(0) => 0,
        Some(start) if name[..start].ends_with('.') => start,
        _ => name.rfind('.').map_or(0, |dot| dot + 1),
    };
    &name[start..]
}

fn combined(parts: &[Part<'_>], [outputs, inputs]: [usize; 2], base: &mut BaseRows<'_>) -> Result<ModuleUpdate> {
    let rank: usize = parts.iter().map(|part| part.factors.rank).sum();
    let mut update = ModuleUpdate { rank, a: Vec::with_capacity(rank * inputs), b: vec![0.0; outputs * rank], gain: None };
    let mut first = 0;
    for Part { factors, scale, .. } in parts {
        update.a.extend_from_slice(&factors.a);
        let gains = match &factors.magnitude {
            Some(magnitude) => Some(gains(factors, magnitude, base)?),
            None => None,
        };
        for output in 0..outputs {
            let gain = gains.as_ref().map_or(1.0, |gains| gains[output]);
            let own = &factors.b[output * factors.rank..][..factors.rank];
            let to = &mut update.b[output * rank + first..][..factors.rank];
            to.iter_mut().zip(own).for_each(|(to, value)| *to = scale * gain * factors.scale * value);
        }
        if let Some(gains) = gains {
            let sums = update.gain.get_or_insert_with(|| vec![1.0; outputs]);
            sums.iter_mut().zip(gains).for_each(|(sum, gain)| *sum += scale * (gain - 1.0));
        }
        first += factors.rank;
    }
    Ok(update)
}

/// `m / ‖W + s B A‖` for each row.
fn gains(factors: &LowRankFactors, magnitude: &[f32], base: &mut BaseRows<'_>) -> Result<Vec<f32>> {
    let (inputs, rank) = (factors.inputs(), factors.rank);
    let mut gains = Vec::with_capacity(magnitude.len());
    let mut row = vec![0.0_f32; inputs];
    base(&mut |weights| {
        let Some(own) = factors.b.get(gains.len() * rank..(gains.len() + 1) * rank) else { return };
        row.fill(0.0);
        for (value, a) in own.iter().zip(factors.a.chunks_exact(inputs)) {
            row.iter_mut().zip(a).for_each(|(sum, a)| *sum += value * a);
        }
        let squares = weights.iter().zip(&row).map(|(weight, low)| f64::from(weight + factors.scale * low).powi(2));
        let length = squares.sum::<f64>().sqrt();
        gains.push(if length > 0.0 { (f64::from(magnitude[gains.len()]) / length) as f32 } else { 0.0 });
    })?;
    debug_assert_eq!(gains.len(), magnitude.len(), "the base gives every row");
    gains.resize(magnitude.len(), 1.0);
    Ok(gains)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{Adapter, ReplacedTensor};
    use super::*;

    const MODULE: &str = "model.layers.0.self_attn.q_proj";

    fn adapter(factors: LowRankFactors, scale: f32) -> ScaledAdapter {
        ScaledAdapter { adapter: Arc::new(Adapter::new("mine", vec![factors]).unwrap()), scale }
    }

    /// Rank 2, of a weight of 3 x 4.
    fn factors(seed: usize, magnitude: Option<Vec<f32>>) -> LowRankFactors {
        let values = |n: usize| (0..n).map(|i| ((i * 31 + seed * 17) % 11) as f32 / 5.0 - 1.0).collect();
        LowRankFactors { module: MODULE.into(), a: values(8), b: values(6), rank: 2, scale: 0.5, magnitude }
    }

    fn base() -> Vec<f32> {
        (0..12).map(|i| ((i * 7 % 13) as f32 - 6.0) / 4.0).collect()
    }

    fn take(adapters: &[ScaledAdapter]) -> Option<ModuleUpdate> {
        let mut sum = AdapterSum::new(adapters).unwrap();
        let base = base();
        let rows = &mut |each: &mut dyn FnMut(&[f32])| {
            base.chunks(4).for_each(each);
            Ok(())
        };
        let update = sum.take("layers.0.self_attn.q_proj", [3, 4], rows).unwrap();
        sum.finish().unwrap();
        update
    }

    /// `W + Σ scale (W' - W)` by the definition, in f64.
    fn expected(adapters: &[ScaledAdapter]) -> Vec<f64> {
        let mut weights: Vec<f64> = base().into_iter().map(f64::from).collect();
        for ScaledAdapter { adapter, scale } in adapters {
            let LowRankFactors { a, b, scale: own, magnitude, .. } = &adapter.factors()[0];
            for row in 0..3 {
                let low = |column: usize| (0..2).map(|r| f64::from(b[row * 2 + r]) * f64::from(a[r * 4 + column])).sum::<f64>();
                let base = &base()[row * 4..][..4];
                let mut changed: Vec<f64> =
                    (0..4).map(|column| f64::from(base[column]) + f64::from(*own) * low(column)).collect();
                if let Some(magnitude) = magnitude {
                    let length = changed.iter().map(|value| value * value).sum::<f64>().sqrt();
                    changed.iter_mut().for_each(|value| *value *= f64::from(magnitude[row]) / length);
                }
                for column in 0..4 {
                    weights[row * 4 + column] += f64::from(*scale) * (changed[column] - f64::from(base[column]));
                }
            }
        }
        weights
    }

    fn applied(update: &ModuleUpdate) -> Vec<f64> {
        let cell = |row: usize, column: usize| {
            let low = (0..update.rank).map(|r| f64::from(update.b[row * update.rank + r]) * f64::from(update.a[r * 4 + column]));
            let gain = update.gain.as_ref().map_or(1.0, |gain| gain[row]);
            f64::from(gain) * f64::from(base()[row * 4 + column]) + low.sum::<f64>()
        };
        (0..12).map(|i| cell(i / 4, i % 4)).collect()
    }

    #[test]
    fn sum_is_what_the_definition_says() {
        let magnitude = Some(vec![0.5, 2.0, 1.5]);
        let cases = [
            vec![adapter(factors(1, None), 1.0)],
            vec![adapter(factors(1, None), -0.5), adapter(factors(2, None), 2.0)],
            vec![adapter(factors(1, magnitude.clone()), 1.0)],
            vec![adapter(factors(1, magnitude), 0.25), adapter(factors(2, None), 1.0)],
        ];
        for adapters in cases {
            let update = take(&adapters).unwrap();
            for (value, expected) in applied(&update).iter().zip(expected(&adapters)) {
                assert!((value - expected).abs() < 1e-5, "{value} {expected}");
            }
        }
    }

    #[test]
    fn what_changes_nothing_is_left_out() {
        let zeros = LowRankFactors { b: vec![0.0; 6], ..factors(1, None) };
        let adapters = [adapter(zeros, 1.0), adapter(factors(1, None), 0.0), adapter(factors(1, Some(vec![2.0; 3])), 0.0)];
        assert_eq!(take(&adapters), None);
        assert!(AdapterSum::new(&adapters).unwrap().is_empty());
    }

    #[test]
    fn factors_that_do_not_fit_name_module_and_sizes() {
        let adapters = [adapter(factors(1, None), 1.0)];
        let mut sum = AdapterSum::new(&adapters).unwrap();
        let error = sum.take(MODULE, [3, 5], &mut |_| Ok(())).unwrap_err().to_string();
        assert!(error.contains("3 x 4") && error.contains("3 x 5") && error.contains("q_proj"), "{error}");
        let error = AdapterSum::new(&adapters).unwrap().finish().unwrap_err().to_string();
        assert!(error.contains("lacks this module") && error.contains("layers.0.self_attn.q_proj"), "{error}");
    }

    #[test]
    fn adapter_that_replaces_tensors_is_to_be_merged() {
        let tensor = ReplacedTensor { name: "model.norm.weight".into(), shape: vec![4], values: vec![1.0; 4] };
        let adapter = Adapter::new("mine", Vec::new()).unwrap().with_replaced(vec![tensor]).unwrap();
        let error = AdapterSum::new(&[ScaledAdapter::new(Arc::new(adapter))]).unwrap_err().to_string();
        assert!(error.contains("model.norm.weight"), "{error}");
    }

    #[test]
    fn names_are_compared_without_wrappers() {
        for name in ["base_model.model.model.layers.0.mlp.up_proj", "model.layers.0.mlp.up_proj", "layers.0.mlp.up_proj"] {
            assert_eq!(canonical_module(name), "layers.0.mlp.up_proj");
        }
        assert_eq!(canonical_module("base_model.model.lm_head"), "lm_head");
        assert_eq!(canonical_module("model.sublayers.0.up"), "up");
    }
}
