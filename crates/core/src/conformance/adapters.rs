//! Adapters for the cases: made of numbers that look random, for the modules that a model has, and merged into its checkpoint.

use std::path::Path;
use std::sync::Arc;

use half::{bf16, f16};
use safetensors::tensor::{Dtype, TensorView};

use super::Fixture;
use crate::adapter::{Adapter, LowRankFactors, ScaledAdapter, canonical_module};
use crate::backend::{Capability, DType, Model};
use crate::checkpoint::{Checkpoint, StoredTensor};
use crate::config::WeightRole;
use crate::files::ModelFiles;

/// A module by its name in the checkpoint, and the shape of its weight: outputs, inputs.
pub(super) type Module = (String, [usize; 2]);

/// What an adapter is made of.
pub(super) struct Lora {
    pub(super) seed: usize,
    /// Every how many modules have factors.
    pub(super) every: usize,
    pub(super) magnitudes: bool,
    /// Whether the factors `B` are zeros.
    pub(super) zeros: bool,
}

impl Default for Lora {
    fn default() -> Self {
        Self { seed: 1, every: 1, magnitudes: false, zeros: false }
    }
}

impl Lora {
    /// An adapter with ranks from 1 to 4.
    pub(super) fn adapter(&self, modules: &[Module]) -> Adapter {
        let factors = modules.iter().enumerate().filter(|(i, _)| i % self.every == 0).map(|(i, (module, shape))| {
            let ([n_outputs, n_inputs], rank) = (*shape, 1 + (i + self.seed) % 4);
            let seed = 1000 * self.seed + 3 * i;
            LowRankFactors {
                module: module.clone(),
                a: numbers(seed, rank * n_inputs, (1.0 / (n_inputs as f32)).sqrt()),
                b: numbers(seed + 1, rank * n_outputs, if self.zeros { 0.0 } else { 0.3 }),
                rank,
                scale: 0.75,
                magnitude: self.magnitudes.then(|| {
                    let mut lengths = numbers(seed + 2, n_outputs, 0.3);
                    lengths.iter_mut().for_each(|length| *length += 1.0);
                    lengths
                }),
            }
        });
        Adapter::new(format!("adapter {}", self.seed), factors.collect()).unwrap()
    }
}

/// `adapter` with a scale.
pub(super) fn scaled(adapter: &Adapter, scale: f32) -> ScaledAdapter {
    ScaledAdapter { adapter: Arc::new(adapter.clone()), scale }
}

/// One adapter with the factors of both, side by side. Those of one module have one scale.
pub(super) fn concatenated(first: &Adapter, second: &Adapter) -> Adapter {
    let both = first.factors().iter().map(|left| {
        let Some(right) = second.factors().iter().find(|right| right.module == left.module) else { return left.clone() };
        let rows = left.b.chunks(left.rank).zip(right.b.chunks(right.rank));
        LowRankFactors {
            a: [&left.a[..], &right.a].concat(),
            b: rows.flat_map(|(left, right)| [left, right].concat()).collect(),
            rank: left.rank + right.rank,
            ..left.clone()
        }
    });
    Adapter::new("both", both.collect()).unwrap()
}

/// The projections of the fixture's model, and its head where it has one of its own.
pub(super) fn modules(fixture: &Fixture, model: &dyn Model) -> Vec<Module> {
    let config = fixture.files.model_config().unwrap();
    let has_head = !config.tie_word_embeddings && model.info().capabilities.has(Capability::Generation);
    let module = |name: &str, shape: &[usize]| {
        let module = name.strip_suffix(".weight")?;
        let is_adapted = module.ends_with("_proj") || has_head && canonical_module(module) == "lm_head";
        Some((module.to_owned(), shape.try_into().ok().filter(|_| is_adapted)?))
    };
    let checkpoint = match &fixture.golden {
        Some(golden) => ModelFiles::discover(&golden.directory, "checkpoint"),
        None => Ok(fixture.files.clone()),
    };
    let mut modules: Vec<Module> = match checkpoint.and_then(|files| Checkpoint::open(&files)) {
        Ok(checkpoint) => checkpoint.names().filter_map(|name| module(name, checkpoint.tensor(name).unwrap().shape)).collect(),
        Err(_) => config
            .expected_weights()
            .filter(|weight| matches!(weight.role, WeightRole::Projection | WeightRole::Head))
            .filter_map(|weight| module(&weight.name, &weight.shape))
            .collect(),
    };
    modules.sort();
    modules
}

/// Writes the checkpoint in `base` with `adapter` merged, in f32, to `directory`.
pub(super) fn write_merged(base: &Path, adapter: &Adapter, directory: &Path) {
    let checkpoint = Checkpoint::open(&ModelFiles::discover(base, "base").unwrap()).unwrap();
    let tensors = checkpoint.names().map(|name| {
        let stored = checkpoint.tensor(name).unwrap();
        let mut values = widened(&stored);
        let module = name.strip_suffix(".weight");
        if let Some(factors) = adapter.factors().iter().find(|factors| Some(factors.module.as_str()) == module) {
            merge(&mut values, factors);
        }
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        (name.to_owned(), stored.shape.to_vec(), bytes)
    });
    let tensors: Vec<_> = tensors.collect();
    let views = tensors.iter().map(|(name, shape, bytes)| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    safetensors::serialize_to_file(views, None, &directory.join("model.safetensors")).unwrap();
    std::fs::copy(base.join("config.json"), directory.join("config.json")).unwrap();
}

/// `W + s B A` in double precision, and its rows scaled to the magnitudes where there are any.
fn merge(weight: &mut [f32], factors: &LowRankFactors) {
    let LowRankFactors { a, b, rank, scale, magnitude, .. } = factors;
    for (output, row) in weight.chunks_exact_mut(factors.inputs()).enumerate() {
        let low = |input: usize| -> f64 {
            (0..*rank).map(|r| f64::from(b[output * rank + r]) * f64::from(a[r * factors.inputs() + input])).sum()
        };
        let mut changed: Vec<f64> =
            row.iter().enumerate().map(|(i, weight)| f64::from(*weight) + f64::from(*scale) * low(i)).collect();
        if let Some(magnitude) = magnitude {
            let length = changed.iter().map(|value| value * value).sum::<f64>().sqrt();
            changed.iter_mut().for_each(|value| *value *= f64::from(magnitude[output]) / length);
        }
        row.iter_mut().zip(changed).for_each(|(row, value)| *row = value as f32);
    }
}

fn widened(stored: &StoredTensor<'_>) -> Vec<f32> {
    match stored.dtype {
        DType::F16 => stored.bytes.as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect(),
        DType::Bf16 => stored.bytes.as_chunks().0.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect(),
        _ => stored.bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
    }
}

/// `n` values between `-size` and `size`.
fn numbers(seed: usize, n: usize, size: f32) -> Vec<f32> {
    let mut state = seed as u64 * 0x9E37_79B9 + 1;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0) * size
    };
    (0..n).map(next).collect()
}
